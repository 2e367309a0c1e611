//! Threads for what may wait, so that no connection's thread and no thread of the cache does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::Mutex;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs, in the order of coming, on a few threads; these end with the last handle, when all is done. How many jobs
/// wait is bounded by the requests that clients may have under way: each brings one, which may bring itself again.
#[derive(Clone)]
pub(super) struct Helpers {
    jobs: Sender<Job>,
}

impl Helpers {
    /// # Errors
    /// When the system has no thread for one.
    pub(super) fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let (jobs, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let waiting = waiting.clone();
            thread::Builder::new().name(name.into()).spawn(move || work(&waiting))?;
        }
        Ok(Self { jobs })
    }

    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads take jobs for as long as there is a handle.
        let _ = self.jobs.send(Box::new(job));
    }
}

fn work(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let Ok(job) = waiting.lock().recv() else { return };
        // A panic is one request's: dropping what it held answers the client, and others go on.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_takes_no_thread_with_it() {
        let helpers = Helpers::new("helper", 1).expect("a thread");
        let (done, answers) = channel();
        for number in 0..10 {
            let done = done.clone();
            helpers.run(move || {
                assert!(number % 2 == 1, "an even one");
                done.send(number).expect("the test waits");
            });
        }
        drop(done);
        assert_eq!(answers.iter().collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
    }
}

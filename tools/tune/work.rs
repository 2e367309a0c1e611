//! Work shared out over all processors, with a bar that tells honestly how long it still takes.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::progress::Progress;

/// How work is done and shown.
pub(super) struct Work {
    pub(super) is_shown: bool,
}

impl Work {
    /// The bar of a trace that is read.
    pub(super) fn reading(&self, what: &str, bytes: u64) -> Progress {
        if self.is_shown { Progress::new(what, bytes) } else { Progress::hidden() }
    }

    /// The answers of `run` for each of `tasks`, in their order. Tasks are taken in the order given, by as many threads
    /// as there are processors; `cost` says how long one takes, in any unit, so that the bar goes evenly. `run` may
    /// report parts of its cost as it goes along.
    pub(super) fn share<T: Sync, A: Send>(
        &self,
        what: &str,
        tasks: &[T],
        cost: impl Fn(&T) -> u64,
        run: impl Fn(&T, &dyn Fn(u64)) -> A + Sync,
    ) -> Vec<A> {
        let total = tasks.iter().map(cost).sum();
        let progress = if self.is_shown { Progress::counted(what, total) } else { Progress::hidden() };
        let next = AtomicUsize::new(0);
        let answers: Mutex<Vec<Option<A>>> = Mutex::new(tasks.iter().map(|_| None).collect());
        let take = || {
            while let Some((index, task)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                tasks.get(index).map(|task| (index, task))
            } {
                let answer = run(task, &|done| progress.advance(done));
                answers.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(answer);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(tasks.len().max(1));
        std::thread::scope(|scope| {
            (1..threads).for_each(|_| _ = scope.spawn(take));
            take();
        });
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.into_iter().map(|answer| answer.expect("every task was taken")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_tasks_whoever_did_them() {
        let tasks: Vec<u64> = (0..500).collect();
        let work = Work { is_shown: false };
        let squares = work.share("squaring", &tasks, |_| 1, |task, _| task * task);
        assert!(squares.into_iter().eq(tasks.iter().map(|task| task * task)));
        assert!(work.share("nothing", &[], |_: &u64| 1, |task, _| *task).is_empty());
    }
}

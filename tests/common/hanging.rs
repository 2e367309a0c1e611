//! A limit of time for what must end.

use std::sync::mpsc;
use std::time::Duration;

/// Runs `work` and fails when that does not end: a deadlock must not hold up the other tests.
pub(crate) fn without_hanging<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        // Nobody is left to tell when the limit has passed.
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(Duration::from_secs(120)) {
        Ok(answer) => answer,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it sends before it ends"),
        },
    }
}

//! The locks, waits, atomics, threads and moments of this package, in one place, so that a model checker can take
//! theirs: with `--cfg terrace_shuttle` they come from `model`, and `tests/schedules.rs` runs whole caches on them.

use std::time::Duration;

use atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(terrace_shuttle)]
mod model;

#[cfg(terrace_shuttle)]
pub(crate) use model::{Condvar, Instant, Mutex, MutexGuard, RwLock, atomic, thread, thread_local};

#[cfg(not(terrace_shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(terrace_shuttle))]
pub(crate) use std::{sync::atomic, thread, thread_local, time::Instant};

/// The number of this thread: they are numbered off from 0 on as they first ask.
pub(crate) fn thread_number() -> usize {
    /// No checker chooses what threads are called.
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    NUMBER.with(|&number| number)
}

/// What runs when something that was waited for may have come.
pub(crate) type Wake = Box<dyn FnOnce() + Send>;

/// Lets calls wait for a change without a lock around the condition: observe, look, and park only if nothing
/// changed since the observation.
#[derive(Default)]
pub(crate) struct Event {
    count: AtomicU64,
    has_parked: AtomicBool,
    parked: Mutex<Vec<(Ticket, Wake)>>,
    tickets: AtomicU64,
}

/// Names one who is parked.
pub(crate) type Ticket = u64;

/// A moment in the life of an [`Event`].
#[derive(Clone, Copy)]
pub(crate) struct Observed(u64);

impl Event {
    pub(crate) fn observe(&self) -> Observed {
        Observed(self.count.load(Ordering::SeqCst))
    }

    /// Runs `wake` at the first change after `observed`; at once, when that has come already. Whoever gives up gives
    /// the ticket to [`Self::unpark`].
    pub(crate) fn park(&self, observed: Observed, wake: Wake) -> Ticket {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut parked = self.parked.lock();
        // The flag goes up before the count is read, and `change` reads the flag after it raised the count: at
        // least one of the two sees the other.
        self.has_parked.store(true, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == observed.0 {
            parked.push((ticket, wake));
            return ticket;
        }
        drop(parked);
        wake();
        ticket
    }

    /// Takes out one who does not wait any more.
    pub(crate) fn unpark(&self, ticket: Ticket) {
        self.parked.lock().retain(|(other, _)| *other != ticket);
    }

    pub(crate) fn parked_count(&self) -> usize {
        self.parked.lock().len()
    }

    /// Says that something changed; whether anyone waits for that, who then gets it by [`Self::take_parked`].
    pub(crate) fn change(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.has_parked.load(Ordering::SeqCst)
    }

    /// What waited for a change; the caller runs it, holding no lock.
    #[must_use]
    pub(crate) fn take_parked(&self) -> Vec<Wake> {
        let mut parked = self.parked.lock();
        self.has_parked.store(false, Ordering::SeqCst);
        std::mem::take(&mut *parked).into_iter().map(|(_, wake)| wake).collect()
    }
}

/// Runs all of `wakes`.
pub(crate) fn wake_all(wakes: Vec<Wake>) {
    for wake in wakes {
        wake();
    }
}

/// Where a blocking call sleeps until its answer is there.
pub(crate) struct Blocker<T> {
    answer: Mutex<Option<T>>,
    arrived: Condvar,
}

impl<T> Default for Blocker<T> {
    fn default() -> Self {
        Self { answer: Mutex::new(None), arrived: Condvar::new() }
    }
}

impl<T> Blocker<T> {
    pub(crate) fn set(&self, answer: T) {
        *self.answer.lock() = Some(answer);
        self.arrived.notify_one();
    }

    pub(crate) fn wait(&self) -> T {
        let mut answer = self.answer.lock();
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            self.arrived.wait(&mut answer);
        }
    }

    /// As [`Self::wait`], but none once `limit` has passed.
    pub(crate) fn wait_for(&self, limit: Duration) -> Option<T> {
        let until = Instant::now() + limit;
        let mut answer = self.answer.lock();
        loop {
            if answer.is_some() || self.arrived.wait_until(&mut answer, until).timed_out() {
                return answer.take();
            }
        }
    }
}

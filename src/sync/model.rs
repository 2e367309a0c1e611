//! What `sync` gives out under `--cfg terrace_shuttle`: the primitives of a checker that chooses, at each call of theirs,
//! which thread goes on. One thread runs at a time, in an order that sequentially consistent atomics could show.
//!
//! Time does not pass by itself; [`Instant`] moves when a timed wait ends. A short one always ends by its limit, having
//! let others run. One of [`PATIENCE`] or more is there against hangs alone, and never ends by it: so a wake-up that is
//! lost shows as a deadlock.

use std::cell::Cell;
use std::ops::{Add, Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread_local;

pub(crate) mod thread {
    pub(crate) use shuttle::thread::{Builder, JoinHandle, current, spawn, yield_now};

    /// Lets others run, also those that a scheduler likes less.
    pub(crate) fn sleep(_: std::time::Duration) {
        yield_now();
    }
}

const PATIENCE: Duration = Duration::from_secs(1);

const HELD: &str = "only a wait gives the lock up, and takes it again";

#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// None only during a wait.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

#[derive(Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

/// Whether a wait ended by its limit.
pub(crate) struct TimedOut(bool);

impl TimedOut {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect(HELD);
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> TimedOut {
        if until.saturating_duration_since(Instant::now()) >= PATIENCE {
            self.wait(guard);
            return TimedOut(false);
        }
        guard.held = None;
        thread::yield_now();
        guard.held = guard.mutex.lock().held;
        NOW.set(NOW.get().max(until.0));
        TimedOut(true)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[derive(Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

std::thread_local! {
    /// Of all threads of an execution: the checker runs them on one of the system's.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

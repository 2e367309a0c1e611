//! Looking again for a moment before waiting.
//!
//! A client that asks for one thing after the other asks again within microseconds of an answer, sooner than a thread that
//! sleeps is awake again, which on a processor that went idle takes tens of them. So the thread of such a client looks for
//! the next request for a moment, and sleeps only then.
//!
//! Invariants, each with a test below:
//! 1. A thread looks only after [`SOON_MIN`] requests in a row that came soon. Each look in vain doubles that number, up to
//!    [`SOON_MAX`], and each that finds something halves it: whoever asks a little too late for it costs next to nothing, and
//!    whoever asks no more costs one moment.
//! 2. At most half of the processors look at a time, and none while there are more connections than processors: then
//!    others have work for them.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long it looks: as long as sleeping and waking cost.
const MOMENT: Duration = Duration::from_micros(30);
/// What came within this is worth looking for: a moment, and the time that waking took.
const SOON: Duration = Duration::from_micros(100);
const SOON_MIN: u32 = 8;
/// A moment among so many requests is not to be seen in any load.
const SOON_MAX: u32 = 1024;

static PROCESSORS: LazyLock<Processors> =
    LazyLock::new(|| Processors::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// What all connections of the process share.
struct Processors {
    count: usize,
    connections: AtomicUsize,
    /// Threads that look just now.
    looking: AtomicUsize,
}

impl Processors {
    const fn new(count: usize) -> Self {
        Self { count, connections: AtomicUsize::new(0), looking: AtomicUsize::new(0) }
    }

    /// None when no more threads should look.
    fn start_looking(&self) -> Option<Looking<'_>> {
        if self.connections.load(Ordering::Relaxed) > self.count {
            return None;
        }
        let one_more = |looking| (looking < self.count / 2).then_some(looking + 1);
        self.looking.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Looking(self))
    }
}

/// While it lives, a thread looks.
struct Looking<'a>(&'a Processors);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.looking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How one connection waits for its requests.
pub(crate) struct Patience<'a> {
    processors: &'a Processors,
    /// Requests in a row that came soon.
    soon: u32,
    /// From so many on it looks.
    soon_wanted: u32,
}

impl Patience<'static> {
    pub(crate) fn new() -> Self {
        Self::on(&PROCESSORS)
    }
}

impl<'a> Patience<'a> {
    fn on(processors: &'a Processors) -> Self {
        processors.connections.fetch_add(1, Ordering::Relaxed);
        Self { processors, soon: 0, soon_wanted: SOON_MIN }
    }

    /// What `receive` gives, which waits when it is told to, and else says `WouldBlock`.
    pub(crate) fn wait<T>(&mut self, receive: impl FnMut(bool) -> io::Result<T>) -> io::Result<T> {
        self.wait_by(Instant::now, receive)
    }

    fn wait_by<T>(
        &mut self,
        now: impl Fn() -> Instant,
        mut receive: impl FnMut(bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let began = now();
        if self.soon >= self.soon_wanted
            && let Some(looking) = self.processors.start_looking()
        {
            while now() - began < MOMENT {
                match receive(false) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => {
                        self.soon_wanted = (self.soon_wanted / 2).max(SOON_MIN);
                        return received;
                    }
                }
            }
            drop(looking);
            (self.soon, self.soon_wanted) = (0, (self.soon_wanted * 2).min(SOON_MAX));
        }
        let received = receive(true);
        self.soon = if now() - began < SOON { self.soon.saturating_add(1) } else { 0 };
        received
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.processors.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What a look in vain takes here.
    const LOOK: Duration = Duration::from_micros(1);
    const EARLY: Duration = Duration::from_micros(5);
    /// Soon, and not within a moment.
    const LATE: Duration = Duration::from_micros(60);

    /// Waits for a request that comes after `gap`, by a clock of the test's own; how often it looked in vain.
    fn looks(patience: &mut Patience<'_>, gap: Duration) -> u32 {
        let (start, clock, looks) = (Instant::now(), Cell::new(Duration::ZERO), Cell::new(0));
        let receive = |waits: bool| {
            if waits {
                clock.set(clock.get().max(gap));
            } else if clock.get() < gap {
                clock.set(clock.get() + LOOK);
                looks.set(looks.get() + 1);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        };
        patience.wait_by(|| start + clock.get(), receive).expect("it comes");
        looks.get()
    }

    #[test]
    fn a_client_that_asks_again_at_once_is_looked_for_and_one_that_is_idle_costs_one_moment() {
        let processors = Processors::new(2);
        let mut patience = Patience::on(&processors);
        assert!((0..SOON_MIN).all(|_| looks(&mut patience, EARLY) == 0), "nobody knows it yet");
        assert!((0..100).all(|_| looks(&mut patience, EARLY) == 5));
        let idle = Duration::from_secs(1);
        assert_eq!(looks(&mut patience, idle), 30, "a moment");
        assert!((0..100).all(|_| looks(&mut patience, idle) == 0));
        // Back from its rest, it is looked for again after twice as many as at first.
        assert!((0..2 * SOON_MIN).all(|_| looks(&mut patience, EARLY) == 0));
        assert_eq!(looks(&mut patience, EARLY), 5);
    }

    #[test]
    fn a_client_that_rests_after_a_few_requests_is_not_looked_for_however_often_it_comes_back() {
        let processors = Processors::new(2);
        let mut patience = Patience::on(&processors);
        for _ in 0..100 {
            assert!((1..SOON_MIN).all(|_| looks(&mut patience, EARLY) == 0), "too few of them");
            assert_eq!(looks(&mut patience, Duration::from_secs(1)), 0);
        }
    }

    #[test]
    fn a_client_that_always_comes_a_little_too_late_is_looked_for_ever_more_seldom() {
        let processors = Processors::new(2);
        let mut patience = Patience::on(&processors);
        let in_vain = |requests: u32, patience: &mut Patience<'_>| -> u32 {
            (0..requests).map(|_| looks(patience, LATE)).sum()
        };
        assert_eq!(in_vain(2 * SOON_MAX, &mut patience), 30 * 8, "after 8, 16, 32, ... 1024");
        in_vain(2 * SOON_MAX, &mut patience);
        assert!(in_vain(100 * SOON_MAX, &mut patience) <= 30 * 100);
        // Found twice, it is looked for again after a quarter of that.
        while looks(&mut patience, EARLY) == 0 {}
        assert_eq!(looks(&mut patience, EARLY), 5);
        assert_eq!(patience.soon_wanted, SOON_MAX / 4);
    }

    #[test]
    fn no_more_than_half_of_the_processors_look_at_a_time() {
        for (processors, most) in [(1, 0), (2, 1), (3, 1), (8, 4)] {
            let processors = Processors::new(processors);
            let looking: Vec<_> = std::iter::from_fn(|| processors.start_looking()).collect();
            assert_eq!(looking.len(), most);
            drop(looking);
            assert_eq!(processors.start_looking().is_some(), most > 0, "those who ended make room");
        }
    }

    #[test]
    fn nobody_looks_while_there_are_more_connections_than_processors() {
        let processors = Processors::new(2);
        let mut first = Patience::on(&processors);
        let others = [Patience::on(&processors), Patience::on(&processors)];
        assert!((0..100).all(|_| looks(&mut first, EARLY) == 0));
        drop(others);
        assert_eq!(looks(&mut first, EARLY), 5);
    }
}

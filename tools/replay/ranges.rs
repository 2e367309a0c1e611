//! Ranges of blocks that are being changed, and that nobody else may change meanwhile.
//!
//! 1. No two ranges that are held have a block in common, so at most one change of a block is under way. That is what
//!    [`super::checker`] builds on.
//! 2. A range is taken at once or not at all, and who waits holds none: nobody waits in a ring.
//! 3. Who waits for nothing else than a range goes on as soon as nobody holds any part of it.
//!
//! There are as many as requests under way, so that a walk through all of them is short.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct Ranges {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    held: Vec<Range<u64>>,
    waiting: usize,
}

/// A range that is held until this goes.
pub(super) struct Held<'a> {
    ranges: &'a Ranges,
    range: Range<u64>,
}

impl Ranges {
    /// Waits until nobody holds any part of `range`, which is not empty, and holds it.
    pub(super) fn hold(&self, range: Range<u64>) -> Held<'_> {
        let mut state = self.state();
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        while state.held.iter().any(overlaps) {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.held.push(range.clone());
        Held { ranges: self, range }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Poisoned: a worker panicked, and the run is ending anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.ranges.state();
        let at = state.held.iter().position(|held| *held == self.range).expect("it is held until here");
        state.held.swap_remove(at);
        if state.waiting > 0 {
            self.ranges.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn ranges_that_overlap_take_turns_and_all_come_through() {
        let seed = fastrand::u64(..);
        let (ranges, holders) = (Ranges::default(), [const { AtomicU32::new(0) }; 100]);
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let (ranges, holders) = (&ranges, &holders);
                let mut random = fastrand::Rng::with_seed(seed + worker);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let start = random.u64(..99);
                        let end = random.u64(start + 1..=100);
                        let held = ranges.hold(start..end);
                        for block in &holders[start as usize..end as usize] {
                            assert_eq!(block.fetch_add(1, Ordering::Relaxed), 0, "seed {seed}");
                        }
                        // So that others come while this range is held.
                        std::thread::yield_now();
                        for block in &holders[start as usize..end as usize] {
                            block.fetch_sub(1, Ordering::Relaxed);
                        }
                        drop(held);
                    }
                });
            }
        });
        assert!(ranges.state().held.is_empty());
    }

    #[test]
    fn neighbours_hold_their_ranges_at_once() {
        let ranges = Ranges::default();
        let _held = [ranges.hold(0..5), ranges.hold(10..11), ranges.hold(5..10)];
        assert_eq!(ranges.state().held.len(), 3);
    }
}

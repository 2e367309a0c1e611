//! W-TinyLFU: a small LRU window, and behind it a segmented LRU that a block enters only by being used more often than the
//! one that would leave for it.
//!
//! Source: Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", ACM Transactions on Storage
//! 2017.
//!
//! | list        | holds                                                              |
//! |-------------|--------------------------------------------------------------------|
//! | `WINDOW`    | what came lately, a hundredth of the capacity                      |
//! | `PROBATION` | admitted, not used since, a fifth of the rest when all is full     |
//! | `PROTECTED` | admitted and used, four fifths of the rest                         |
//!
//! Invariants: a block is in one of them at the most; together they hold at most the capacity, the last two at most their
//! share of it.
//!
//! Departures: uses are counted by id and not in a sketch, so no two blocks share a count; the window does not adapt. As in
//! the paper's reset all counts are halved after a sample of uses, here ten times the capacity.

use super::Policy;
use super::lists::Lists;

const WINDOW: u8 = 0;
const PROBATION: u8 = 1;
const PROTECTED: u8 = 2;

const COUNT_MAX: u8 = 15;
const SAMPLE_FACTOR: u64 = 10;

pub(super) struct WTinyLfu {
    lists: Lists,
    counts: Vec<u8>,
    uses: u64,
    uses_max: u64,
    window_max: u32,
    main_max: u32,
    protected_max: u32,
}

impl WTinyLfu {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        let window_max = (capacity / 100).max(1);
        let main_max = capacity - window_max;
        Self {
            lists: Lists::new(ids, 3),
            counts: vec![0; ids as usize],
            uses: 0,
            uses_max: SAMPLE_FACTOR * u64::from(capacity),
            window_max,
            main_max,
            protected_max: (u64::from(main_max) * 4 / 5) as u32,
        }
    }

    fn count(&mut self, block: u32) {
        let count = &mut self.counts[block as usize];
        *count = (*count + 1).min(COUNT_MAX);
        self.uses += 1;
        if self.uses >= self.uses_max {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.uses /= 2;
        }
    }

    fn hit(&mut self, block: u32, list: u8) {
        if list == WINDOW {
            self.lists.move_hot(block, WINDOW);
            return;
        }
        self.lists.move_hot(block, PROTECTED);
        if self.lists.len(PROTECTED) > self.protected_max
            && let Some(coldest) = self.lists.pop_coldest(PROTECTED)
        {
            self.lists.push_hot(coldest, PROBATION);
        }
    }

    /// The coldest of the window leaves it: for the main part, or the cache.
    fn leave_window(&mut self) {
        let Some(candidate) = self.lists.pop_coldest(WINDOW) else { return };
        if self.lists.len(PROBATION) + self.lists.len(PROTECTED) < self.main_max {
            self.lists.push_hot(candidate, PROBATION);
            return;
        }
        let victim = self.lists.coldest(PROBATION).or_else(|| self.lists.coldest(PROTECTED));
        if let Some(victim) = victim
            && self.counts[candidate as usize] > self.counts[victim as usize]
        {
            self.lists.remove(victim);
            self.lists.push_hot(candidate, PROBATION);
        }
    }
}

impl Policy for WTinyLfu {
    fn request(&mut self, block: u32) -> bool {
        self.count(block);
        let found = self.lists.list_of(block);
        match found {
            Some(list) => self.hit(block, list),
            None => {
                self.lists.push_hot(block, WINDOW);
                if self.lists.len(WINDOW) > self.window_max {
                    self.leave_window();
                }
            }
        }
        found.is_some()
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        [WINDOW, PROBATION, PROTECTED].iter().map(|&list| self.lists.len(list)).sum()
    }
}

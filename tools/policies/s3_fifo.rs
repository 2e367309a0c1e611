//! S3-FIFO: a small FIFO that most blocks pass through once, a main one for those that were used in it, and ghosts.
//!
//! Source: Yang, Zhang, Qiu, Yue and Vigfusson, "FIFO queues are all you need for cache eviction", SOSP 2023.
//!
//! | list    | paper | holds                                                       |
//! |---------|-------|-------------------------------------------------------------|
//! | `SMALL` | S     | what came lately, a tenth of the capacity                   |
//! | `MAIN`  | M     | what was used more than once in S, or met again as a ghost  |
//! | `GHOST` | G     | ids only, evicted from S, nine tenths of the capacity       |
//!
//! Invariants: a block is in one of them at the most; S and M together hold at most the capacity; uses are counted to 3 in
//! M's turns, as in the paper.
//!
//! Departure: as long as nothing was ever evicted and S is full, blocks go to M, as the authors' own simulator does now:
//! what came first is not to be the first to go.

use super::Policy;
use super::lists::Lists;

const SMALL: u8 = 0;
const MAIN: u8 = 1;
const GHOST: u8 = 2;

/// From so many uses on a block goes from S to M.
const USES_FOR_MAIN: u32 = 2;
const USES_MAX: u32 = 3;

pub(super) struct S3Fifo {
    lists: Lists,
    /// By block: uses since it came to where it is.
    uses: Vec<u32>,
    capacity: u32,
    small_max: u32,
    ghost_max: u32,
    has_evicted: bool,
}

impl S3Fifo {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self {
            lists: Lists::new(ids, 3),
            uses: vec![0; ids as usize],
            capacity,
            small_max: (capacity / 10).max(1),
            ghost_max: (f64::from(capacity) * 0.9) as u32,
            has_evicted: false,
        }
    }

    fn evict(&mut self) {
        self.has_evicted = true;
        let main_max = self.capacity - self.small_max;
        if self.lists.len(MAIN) > main_max || self.lists.len(SMALL) == 0 {
            self.evict_main();
        } else {
            self.evict_small();
        }
    }

    /// Until one leaves the cache; nothing when all of S moves on to M.
    fn evict_small(&mut self) {
        while let Some(block) = self.lists.pop_coldest(SMALL) {
            if self.uses[block as usize] >= USES_FOR_MAIN {
                self.uses[block as usize] = 0;
                self.lists.push_hot(block, MAIN);
            } else {
                self.remember(block);
                return;
            }
        }
    }

    /// Ends: every turn takes a use away.
    fn evict_main(&mut self) {
        while let Some(block) = self.lists.pop_coldest(MAIN) {
            let uses = &mut self.uses[block as usize];
            if *uses == 0 {
                return;
            }
            *uses = (*uses).min(USES_MAX) - 1;
            self.lists.push_hot(block, MAIN);
        }
    }

    fn remember(&mut self, block: u32) {
        if self.ghost_max == 0 {
            return;
        }
        if self.lists.len(GHOST) == self.ghost_max {
            self.lists.pop_coldest(GHOST);
        }
        self.lists.push_hot(block, GHOST);
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, block: u32) -> bool {
        let found = self.lists.list_of(block);
        if let Some(SMALL | MAIN) = found {
            self.uses[block as usize] += 1;
            return true;
        }
        if found.is_some() {
            self.lists.remove(block);
        }
        while self.lists.len(SMALL) + self.lists.len(MAIN) >= self.capacity {
            self.evict();
        }
        let fills_main = !self.has_evicted && self.lists.len(SMALL) >= self.small_max;
        self.uses[block as usize] = 0;
        self.lists.push_hot(block, if found.is_some() || fills_main { MAIN } else { SMALL });
        false
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lists.len(SMALL) + self.lists.len(MAIN)
    }
}

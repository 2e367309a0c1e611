//! 2Q: what comes in passes through a FIFO; what is met again after it left that is kept by LRU.
//!
//! Source: Johnson and Shasha, "2Q: a low overhead high performance buffer management replacement algorithm", VLDB 1994,
//! the full version.
//!
//! | list   | paper | holds                                                     |
//! |--------|-------|-----------------------------------------------------------|
//! | `IN`   | A1in  | what came lately, a quarter of the capacity when full     |
//! | `OUT`  | A1out | ids only, evicted from A1in, half the capacity            |
//! | `MAIN` | Am    | what was met again while in A1out, by LRU                 |
//!
//! Invariants: a block is in one of them at the most; A1in and Am together hold at most the capacity. A hit in A1in
//! changes nothing: uses close together are one use.

use super::Policy;
use super::lists::Lists;

const IN: u8 = 0;
const MAIN: u8 = 1;
const OUT: u8 = 2;

pub(super) struct TwoQ {
    lists: Lists,
    capacity: u32,
    in_max: u32,
    out_max: u32,
}

impl TwoQ {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self { lists: Lists::new(ids, 3), capacity, in_max: capacity / 4, out_max: capacity / 2 }
    }

    fn evict(&mut self) {
        if self.lists.len(IN) <= self.in_max && self.lists.pop_coldest(MAIN).is_some() {
            return;
        }
        let Some(block) = self.lists.pop_coldest(IN) else { return };
        if self.out_max > 0 {
            if self.lists.len(OUT) == self.out_max {
                self.lists.pop_coldest(OUT);
            }
            self.lists.push_hot(block, OUT);
        }
    }
}

impl Policy for TwoQ {
    fn request(&mut self, block: u32) -> bool {
        let found = self.lists.list_of(block);
        match found {
            Some(MAIN) => self.lists.move_hot(block, MAIN),
            Some(OUT) => self.lists.remove(block),
            _ => {}
        }
        if let Some(IN | MAIN) = found {
            return true;
        }
        if self.lists.len(IN) + self.lists.len(MAIN) == self.capacity {
            self.evict();
        }
        self.lists.push_hot(block, if found.is_some() { MAIN } else { IN });
        false
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lists.len(IN) + self.lists.len(MAIN)
    }
}

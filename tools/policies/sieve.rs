//! SIEVE: a FIFO whose blocks stay where they are; a hand goes from the cold end to the hot one and takes the first that
//! was not used since it came by.
//!
//! Source: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm for
//! web caches", NSDI 2024.
//!
//! Invariant: the hand is on a block that is there, or nowhere, which means the cold end.

use super::Policy;
use super::lists::Lists;

pub(super) struct Sieve {
    lists: Lists,
    was_used: Vec<bool>,
    hand: Option<u32>,
    capacity: u32,
}

impl Sieve {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self { lists: Lists::new(ids, 1), was_used: vec![false; ids as usize], hand: None, capacity }
    }

    /// Ends: a whole round clears every bit.
    fn evict(&mut self) {
        while let Some(block) = self.hand.or_else(|| self.lists.coldest(0)) {
            self.hand = self.lists.hotter_than(block);
            if !std::mem::take(&mut self.was_used[block as usize]) {
                self.lists.remove(block);
                return;
            }
        }
    }
}

impl Policy for Sieve {
    fn request(&mut self, block: u32) -> bool {
        if self.lists.contains(block) {
            self.was_used[block as usize] = true;
            return true;
        }
        if self.lists.len(0) == self.capacity {
            self.evict();
        }
        self.lists.push_hot(block, 0);
        false
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lists.len(0)
    }
}

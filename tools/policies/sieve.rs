//! SIEVE: a FIFO whose blocks stay where they are; a hand goes from the cold end to the hot one and takes the first that
//! was not used since it came by.
//!
//! Source: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm for
//! web caches", NSDI 2024.
//!
//! Invariant: the hand is on a block that is there, or nowhere, which means the cold end.

use super::lists::Lists;
use super::marked_queue::{Hand, MarkedQueue, Marks};

#[derive(Default)]
pub(super) struct Sieve {
    at: Option<u32>,
}

pub(super) fn new(capacity: u32, ids: u32) -> MarkedQueue<Sieve> {
    MarkedQueue::new(capacity, ids, Sieve::default())
}

impl Hand for Sieve {
    fn evict(&mut self, queue: &mut Lists, marks: &mut Marks) {
        while let Some(block) = self.at.or_else(|| queue.coldest(0)) {
            self.at = queue.hotter_than(block);
            if !marks.take(block) {
                queue.remove(block);
                return;
            }
        }
    }
}

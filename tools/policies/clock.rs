//! CLOCK: a FIFO in which a block that was used goes round once more, its bit cleared.
//!
//! Source: F. J. Corbató, "A paging experiment with the Multics system", MIT Project MAC, 1968. One bit, clear when a block
//! comes in.
//!
//! The hand that walks round and the queue whose coldest is looked at and put back are the same thing.

use super::Policy;
use super::lists::Lists;

pub(super) struct Clock {
    lists: Lists,
    was_used: Vec<bool>,
    capacity: u32,
}

impl Clock {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self { lists: Lists::new(ids, 1), was_used: vec![false; ids as usize], capacity }
    }

    /// Ends: every turn clears a bit.
    fn evict(&mut self) {
        while let Some(block) = self.lists.pop_coldest(0) {
            if !std::mem::take(&mut self.was_used[block as usize]) {
                return;
            }
            self.lists.push_hot(block, 0);
        }
    }
}

impl Policy for Clock {
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

//! First in, first out: a hit changes nothing.

use super::Policy;
use super::lists::Lists;

pub(super) struct Fifo {
    lists: Lists,
    capacity: u32,
}

impl Fifo {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self { lists: Lists::new(ids, 1), capacity }
    }
}

impl Policy for Fifo {
    fn request(&mut self, block: u32) -> bool {
        let is_hit = self.lists.contains(block);
        if !is_hit {
            if self.lists.len(0) == self.capacity {
                self.lists.pop_coldest(0);
            }
            self.lists.push_hot(block, 0);
        }
        is_hit
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lists.len(0)
    }
}

//! Least recently used: a hit takes a block to the hot end, the coldest leaves.

use super::Policy;
use super::lists::Lists;

pub(super) struct Lru {
    lists: Lists,
    capacity: u32,
}

impl Lru {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self { lists: Lists::new(ids, 1), capacity }
    }

    /// A use of `block` if it is there, and whether it is.
    #[inline]
    pub(super) fn touch(&mut self, block: u32) -> bool {
        let is_there = self.lists.contains(block);
        if is_there {
            self.lists.move_hot(block, 0);
        }
        is_there
    }

    /// Adds `block`, which is not there; the one that leaves for it.
    #[inline]
    pub(super) fn insert(&mut self, block: u32) -> Option<u32> {
        let evicted = if self.lists.len(0) == self.capacity { self.lists.pop_coldest(0) } else { None };
        self.lists.push_hot(block, 0);
        evicted
    }

    /// Takes `block`, which is there, out.
    #[cfg(test)]
    pub(super) fn remove(&mut self, block: u32) {
        self.lists.remove(block);
    }

    #[cfg(test)]
    pub(super) fn contains(&self, block: u32) -> bool {
        self.lists.contains(block)
    }
}

impl Policy for Lru {
    fn request(&mut self, block: u32) -> bool {
        let is_hit = self.touch(block);
        if !is_hit {
            self.insert(block);
        }
        is_hit
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lists.len(0)
    }
}

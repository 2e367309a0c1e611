//! Belady's optimum: the block whose next use is farthest away leaves. It needs the future, so it is a bound, not a policy.
//!
//! Source: L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 1966.
//!
//! A block that is referenced always comes in, as with the other policies: with the right to pass it by, a cache of one
//! block less would do as well.
//!
//! Invariant: `next_use` of a resident block is its next reference after now; the heap has an entry with just that, and
//! entries that say otherwise are old and passed over.

use std::collections::BinaryHeap;

use super::Policy;

pub(super) struct Belady {
    /// By reference: the next one to the same block; [`NEVER`].
    nexts: Vec<u32>,
    /// By block: [`ABSENT`], or the next reference to it.
    next_use: Vec<u32>,
    heap: BinaryHeap<(u32, u32)>,
    now: usize,
    len: u32,
    capacity: u32,
}

const NEVER: u32 = u32::MAX - 1;
const ABSENT: u32 = u32::MAX;

impl Belady {
    /// For just these `references`.
    ///
    /// # Panics
    /// When there are 2^32 - 2 of them or more.
    pub(super) fn new(capacity: u32, references: &[u32], ids: u32) -> Self {
        assert!(references.len() < NEVER as usize, "{} references are too many", references.len());
        let mut nexts = vec![NEVER; references.len()];
        let mut seen = vec![NEVER; ids as usize];
        for (moment, &block) in references.iter().enumerate().rev() {
            nexts[moment] = std::mem::replace(&mut seen[block as usize], moment as u32);
        }
        Self {
            nexts,
            next_use: vec![ABSENT; ids as usize],
            heap: BinaryHeap::new(),
            now: 0,
            len: 0,
            capacity,
        }
    }

    fn evict(&mut self) {
        while let Some((next, block)) = self.heap.pop() {
            if self.next_use[block as usize] == next {
                self.next_use[block as usize] = ABSENT;
                self.len -= 1;
                return;
            }
        }
    }
}

impl Policy for Belady {
    fn request(&mut self, block: u32) -> bool {
        let next = self.nexts[self.now];
        self.now += 1;
        let is_hit = self.next_use[block as usize] != ABSENT;
        if !is_hit {
            if self.len == self.capacity {
                self.evict();
            }
            self.len += 1;
        }
        self.next_use[block as usize] = next;
        self.heap.push((next, block));
        is_hit
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.len
    }
}

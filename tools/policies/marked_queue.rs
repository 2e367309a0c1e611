//! What CLOCK and SIEVE share: a queue of blocks with a bit each, which a hit sets and a hand that passes clears.
//!
//! Nothing moves on a hit. A block comes in at the hot end, its bit clear. Which block leaves is the [`Hand`]'s to say.
//!
//! Invariant, by [`MarkedQueue::request`]: the hand is asked only when the queue is full, and exactly one block leaves then.

use super::Policy;
use super::lists::Lists;

/// A way to choose who leaves.
pub(super) trait Hand {
    /// Takes one block out of `queue`, which has some. It ends: whoever is passed has its bit cleared.
    fn evict(&mut self, queue: &mut Lists, marks: &mut Marks);
}

/// By block: whether it was used since it came, or since a hand passed it.
pub(super) struct Marks(Vec<bool>);

impl Marks {
    /// Clears the bit of `block`; what it was.
    #[inline]
    pub(super) fn take(&mut self, block: u32) -> bool {
        std::mem::take(&mut self.0[block as usize])
    }
}

pub(super) struct MarkedQueue<H> {
    queue: Lists,
    marks: Marks,
    hand: H,
    capacity: u32,
}

impl<H: Hand> MarkedQueue<H> {
    pub(super) fn new(capacity: u32, ids: u32, hand: H) -> Self {
        Self { queue: Lists::new(ids, 1), marks: Marks(vec![false; ids as usize]), hand, capacity }
    }
}

impl<H: Hand> Policy for MarkedQueue<H> {
    fn request(&mut self, block: u32) -> bool {
        if self.queue.contains(block) {
            self.marks.0[block as usize] = true;
            return true;
        }
        if self.queue.len(0) == self.capacity {
            self.hand.evict(&mut self.queue, &mut self.marks);
        }
        self.queue.push_hot(block, 0);
        false
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.queue.len(0)
    }
}

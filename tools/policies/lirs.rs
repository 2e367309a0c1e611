//! LIRS: keeps the blocks whose last two uses lay close together, whatever the last one is.
//!
//! Source: Jiang and Zhang, "LIRS: an efficient low inter-reference recency set replacement policy to improve buffer cache
//! performance", SIGMETRICS 2002.
//!
//! | here      | paper                     | holds                                                      |
//! |-----------|---------------------------|------------------------------------------------------------|
//! | `stack`   | S                         | LIR blocks, and HIR blocks used after the coldest of them  |
//! | `RESIDENT`| Q                         | resident HIR blocks, at most a hundredth of the capacity   |
//! | `GHOST`   | non-resident HIR in S     | ids only, by when they left                                |
//!
//! Invariants: an LIR block is in S and in neither of the others; the coldest of S is an LIR block (*pruned*); a ghost is
//! in S. LIR blocks and Q together hold at most the capacity.
//!
//! Departure: S holds at most twice the capacity; beyond that the ghost that left first goes. The paper's S has no bound.

use super::Policy;
use super::lists::Lists;

const RESIDENT: u8 = 0;
const GHOST: u8 = 1;

pub(super) struct Lirs {
    /// Stack S.
    stack: Lists,
    /// Q, and the ghosts of S.
    queues: Lists,
    is_lir: Vec<bool>,
    lir_count: u32,
    lir_max: u32,
    resident_max: u32,
    stack_max: u32,
}

impl Lirs {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        let resident_max = (capacity / 100).max(1);
        Self {
            stack: Lists::new(ids, 1),
            queues: Lists::new(ids, 2),
            is_lir: vec![false; ids as usize],
            lir_count: 0,
            lir_max: capacity - resident_max.min(capacity),
            resident_max,
            stack_max: capacity.saturating_mul(2),
        }
    }

    /// To the hot end of S.
    fn use_in_stack(&mut self, block: u32) {
        if self.stack.contains(block) {
            self.stack.move_hot(block, 0);
        } else {
            self.stack.push_hot(block, 0);
        }
    }

    /// HIR blocks leave S until its coldest is an LIR block.
    fn prune(&mut self) {
        while let Some(block) = self.stack.coldest(0) {
            if self.is_lir[block as usize] {
                return;
            }
            self.stack.remove(block);
            if self.queues.list_of(block) == Some(GHOST) {
                self.queues.remove(block);
            }
        }
    }

    /// A block that was used while in S becomes LIR; the coldest LIR block makes room for it and goes to the end of Q.
    fn promote(&mut self, block: u32) {
        self.is_lir[block as usize] = true;
        self.lir_count += 1;
        if self.lir_count <= self.lir_max {
            return;
        }
        let Some(coldest) = self.stack.pop_coldest(0) else { return };
        self.is_lir[coldest as usize] = false;
        self.lir_count -= 1;
        self.queues.push_hot(coldest, RESIDENT);
        self.prune();
    }

    /// The coldest of Q leaves the cache; S remembers it if it is there.
    fn evict(&mut self) {
        let Some(block) = self.queues.pop_coldest(RESIDENT) else { return };
        if self.stack.contains(block) {
            self.queues.push_hot(block, GHOST);
        }
    }

    fn hit(&mut self, block: u32) {
        if self.is_lir[block as usize] {
            self.stack.move_hot(block, 0);
            self.prune();
        } else if self.stack.contains(block) {
            self.stack.move_hot(block, 0);
            self.queues.remove(block);
            self.promote(block);
        } else {
            self.stack.push_hot(block, 0);
            self.queues.move_hot(block, RESIDENT);
        }
    }

    fn miss(&mut self, block: u32) {
        let is_ghost = self.queues.list_of(block) == Some(GHOST);
        if is_ghost {
            self.queues.remove(block);
        }
        if self.lir_count < self.lir_max && !is_ghost {
            self.stack.push_hot(block, 0);
            self.is_lir[block as usize] = true;
            self.lir_count += 1;
            return;
        }
        while self.queues.len(RESIDENT) >= self.resident_max {
            self.evict();
        }
        self.use_in_stack(block);
        if is_ghost {
            self.promote(block);
        } else {
            self.queues.push_hot(block, RESIDENT);
        }
        // With no room for LIR blocks S has no bottom to prune to, and is not needed.
        if self.lir_max == 0 {
            self.prune();
        }
    }

    fn limit_stack(&mut self) {
        while self.stack.len(0) > self.stack_max
            && let Some(ghost) = self.queues.pop_coldest(GHOST)
        {
            self.stack.remove(ghost);
        }
    }
}

impl Policy for Lirs {
    fn request(&mut self, block: u32) -> bool {
        let is_hit = self.is_lir[block as usize] || self.queues.list_of(block) == Some(RESIDENT);
        if is_hit {
            self.hit(block);
        } else {
            self.miss(block);
        }
        self.limit_stack();
        is_hit
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.lir_count + self.queues.len(RESIDENT)
    }
}

//! CLOCK: a FIFO in which a block that was used goes round once more, its bit cleared.
//!
//! Source: F. J. Corbató, "A paging experiment with the Multics system", MIT Project MAC, 1968. One bit, clear when a block
//! comes in.
//!
//! The hand that walks round and the queue whose coldest is looked at and put back are the same thing.

use super::lists::Lists;
use super::marked_queue::{Hand, MarkedQueue, Marks};

pub(super) struct Clock;

pub(super) fn new(capacity: u32, ids: u32) -> MarkedQueue<Clock> {
    MarkedQueue::new(capacity, ids, Clock)
}

impl Hand for Clock {
    fn evict(&mut self, queue: &mut Lists, marks: &mut Marks) {
        while let Some(block) = queue.pop_coldest(0) {
            if !marks.take(block) {
                return;
            }
            queue.push_hot(block, 0);
        }
    }
}

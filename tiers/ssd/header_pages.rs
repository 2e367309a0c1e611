//! The memory in which headers of records are put together: what was cleared for one record serves the next.
//!
//! A small write that is flushed is a record of its own. Its header takes a hundred bytes, in a page that direct I/O can
//! take; to allocate and clear all of that each time would cost more than to write down what is in it.
//!
//! 1. From the end of a header to the end of its last page are zeros: nothing of a record is found in another one.
//! 2. A page has one owner: the plan of a record, from its planning until it is finished, and [`SparePages`] otherwise. So
//!    records that are written at the same time have a page each.
//! 3. No more than [`SPARES_MAX`] pages are kept. A plan that is dropped takes its page along.
//!
//! `ssd/tests/header_pages.rs` reads 1 and 2 off a device, with several records under way; 3 is tested below.

use crate::block::PAGE_BYTES;
use crate::device::PageBuf;

/// As many as there are threads that write a record at the same moment; more of them find none, and allocate.
const SPARES_MAX: usize = 16;

/// Memory for the header of one record.
pub(super) struct HeaderPages {
    memory: PageBuf,
    /// Bytes of the header that was begun last; after them are zeros.
    used: usize,
}

impl HeaderPages {
    /// For a header of up to `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { memory: PageBuf::zeroed(bytes.next_multiple_of(PAGE_BYTES)), used: 0 }
    }

    /// Forgets the header before, and gives `bytes` zeros for the next one.
    pub(super) fn begin(&mut self, bytes: usize) -> &mut [u8] {
        self.memory[..self.used].fill(0);
        self.used = bytes;
        &mut self.memory[..bytes]
    }

    /// The header as it is written: whole pages.
    pub(super) fn pages(&self) -> &[u8] {
        &self.memory[..self.used.next_multiple_of(PAGE_BYTES)]
    }
}

/// Memory that no record has now.
#[derive(Default)]
pub(super) struct SparePages(Vec<HeaderPages>);

impl SparePages {
    /// Memory for a header of `bytes` bytes, if there is any.
    pub(super) fn take(&mut self, bytes: usize) -> Option<HeaderPages> {
        if bytes <= PAGE_BYTES { self.0.pop() } else { None }
    }

    /// Keeps what is one page. A longer header is one of so many blocks that its memory costs next to nothing.
    pub(super) fn keep(&mut self, pages: Option<HeaderPages>) {
        let has_room = self.0.len() < SPARES_MAX;
        self.0.extend(pages.filter(|pages| has_room && pages.memory.len() == PAGE_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_pages_are_kept_up_to_the_bound_and_given_for_headers_that_fit_them() {
        let mut spares = SparePages::default();
        assert!(spares.take(96).is_none(), "there is none yet");
        spares.keep(None);
        spares.keep(Some(HeaderPages::new(PAGE_BYTES + 1)));
        assert!(spares.take(96).is_none(), "two pages are not kept");
        for _ in 0..SPARES_MAX + 5 {
            spares.keep(Some(HeaderPages::new(96)));
        }
        assert!(spares.take(PAGE_BYTES + 1).is_none(), "a page is too short for that");
        let taken = std::iter::from_fn(|| spares.take(PAGE_BYTES)).count();
        assert_eq!(taken, SPARES_MAX);
    }
}

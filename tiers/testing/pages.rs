//! The content of a simulated device: pages that were written, over a background that costs no memory.

use std::collections::HashMap;
use std::sync::Arc;

use super::Random;
use crate::block::PAGE_BYTES;

const PAGE: u64 = PAGE_BYTES as u64;

type Page = [u8; PAGE_BYTES];

/// Cheap to clone: pages are shared until one side changes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    written: HashMap<u64, Arc<Page>>,
    /// What was never written reads as bytes made from this seed and their place; none: zeros.
    pattern: Option<u64>,
}

impl Pages {
    pub(super) fn patterned(seed: u64) -> Self {
        Self { written: HashMap::new(), pattern: Some(seed) }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        for_each_page(offset, buffer.len() as u64, |page, start, range| {
            let target = &mut buffer[range];
            match self.written.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[start..][..target.len()]),
                None => target.copy_from_slice(&self.background(page)[start..][..target.len()]),
            }
        });
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for_each_page(offset, data.len() as u64, |page, start, range| {
            let source = &data[range];
            self.page_mut(page)[start..][..source.len()].copy_from_slice(source);
        });
    }

    pub(super) fn write_zeros(&mut self, offset: u64, bytes: u64) {
        for_each_page(offset, bytes, |page, start, range| {
            if range.len() < PAGE_BYTES {
                self.page_mut(page)[start..][..range.len()].fill(0);
            } else if self.pattern.is_none() {
                self.written.remove(&page);
            } else {
                self.written.insert(page, Arc::new([0; PAGE_BYTES]));
            }
        });
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u32) {
        self.page_mut(offset / PAGE)[(offset % PAGE) as usize] ^= 1 << bit;
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        if !self.written.contains_key(&page) {
            self.written.insert(page, Arc::new(self.background(page)));
        }
        Arc::make_mut(self.written.get_mut(&page).expect("put there right before"))
    }

    fn background(&self, page: u64) -> Page {
        let mut bytes = [0; PAGE_BYTES];
        if let Some(seed) = self.pattern {
            let mut random = Random(seed ^ page.wrapping_mul(0xd134_2543_de82_ef95));
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
        }
        bytes
    }
}

/// Calls `run` with the number of each page that a range touches, where in the page the range starts, and which bytes
/// of the range these are.
fn for_each_page(offset: u64, bytes: u64, mut run: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < bytes {
        let at = offset + done;
        let count = (PAGE - at % PAGE).min(bytes - done);
        run(at / PAGE, (at % PAGE) as usize, done as usize..(done + count) as usize);
        done += count;
    }
}

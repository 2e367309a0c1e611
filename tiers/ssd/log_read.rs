//! Reading a block from the log of dirty blocks: its copies, laid over one another.
//!
//! A block that was flushed piece by piece has many copies, each a page or a few. Of flushes that came one after the other
//! they lie close together, with a header between two: these are brought by one read, and what lies between them is
//! passed over.
//!
//! 1. A sector is that of the newest copy that has it, whichever read brings that: the copies are laid over one another from
//!    the oldest on, and one read brings those next to each other in this order that are so on the device too.
//! 2. A place that cannot be read spoils the copies that are there, and no other: what one read of several does not bring
//!    is read again copy by copy.
//! 3. A copy is verified by itself, however it came.
//!
//! `ssd/tests/log_reads.rs` has a test of each, and counts the reads.

use std::io::IoSliceMut;
use std::ops::Range;

use crate::block::{BlockId, BlockSize, PAGE_BYTES, SECTOR_BYTES, Version, mask};
use crate::device::{Device, PageBuf};
use crate::error::Result;

use super::format::block_crc_of;
use super::record::{SectorMask, page_bytes, page_count, page_runs};

/// Copies with so much between them come by one read: an SSD brings that in less time than a second read takes.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// One read brings several copies only up to so much.
const NEAR_BYTES_MAX: u64 = 512 << 10;

/// One copy: its place, and what it must look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LogPart {
    pub(super) version: Version,
    pub(super) mask: SectorMask,
    pub(super) generation: u32,
    /// On the device, in bytes.
    pub(super) offset: u64,
    pub(super) crc: u32,
}

/// Where the copies of a block in the log can be read, and which sectors of the block they have together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRead {
    pub block: BlockId,
    /// Of the newest copy.
    pub version: Version,
    pub mask: SectorMask,
    /// As in [`super::NewCopy`], of the newest copy.
    pub epoch: u64,
    /// The backing store does not have it.
    pub is_dirty: bool,
    /// What it lacks of the block is zeros, whatever the backing store has.
    pub is_on_zeros: bool,
    /// The newest first.
    pub(super) parts: Vec<LogPart>,
    pub(super) file_id: u64,
    pub(super) size: BlockSize,
}

impl LogRead {
    /// Whether the copies have every sector of the block.
    pub fn is_whole(&self) -> bool {
        mask::contains(&self.mask, 0..self.size.sectors())
    }

    /// How many copies it reads.
    pub fn copy_count(&self) -> usize {
        self.parts.len()
    }

    /// Reads the pages of the copies into their places in `block`, a whole block: only the sectors in `mask` mean
    /// something then, and the rest of their pages is overwritten. The version of a copy that is not what was written;
    /// none when all are.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, device: &dyn Device, block: &mut [u8]) -> Result<Option<Version>> {
        let mut scratch = PageBuf::zeroed(0);
        let mut left = &self.parts[..];
        while !left.is_empty() {
            let is_first = left.len() == self.parts.len();
            let (newer, near) = left.split_at(left.len() - self.count_near(left));
            let spoilt = match near {
                [part] if is_first || self.has_whole_pages(part) => {
                    self.read_in_place(part, device, block)?
                }
                _ => self.read_near(near, device, &mut scratch, block)?,
            };
            if spoilt.is_some() {
                return Ok(spoilt);
            }
            left = newer;
        }
        Ok(None)
    }

    /// How many of `parts`, from the oldest on, come by one read.
    fn count_near(&self, parts: &[LogPart]) -> usize {
        let mut oldest_first = parts.iter().rev();
        let Some(oldest) = oldest_first.next() else { return 0 };
        let mut end = self.end_of(oldest);
        let near = oldest_first.take_while(|part| {
            let follows = (end..=end + GAP_BYTES_MAX).contains(&part.offset);
            end = self.end_of(part);
            follows && end - oldest.offset <= NEAR_BYTES_MAX
        });
        1 + near.count()
    }

    /// Where a part ends on the device.
    fn end_of(&self, part: &LogPart) -> u64 {
        part.offset + self.bytes_of(part) as u64
    }

    fn bytes_of(&self, part: &LogPart) -> usize {
        page_count(&part.mask, self.size) as usize * PAGE_BYTES
    }

    /// Lays `parts`, which come by one read into `scratch`, over `block`; the version of the first that is not what was
    /// written.
    fn read_near(
        &self,
        parts: &[LogPart],
        device: &dyn Device,
        scratch: &mut PageBuf,
        block: &mut [u8],
    ) -> Result<Option<Version>> {
        let (Some(newest), Some(oldest)) = (parts.first(), parts.last()) else { return Ok(None) };
        let bytes = (self.end_of(newest) - oldest.offset) as usize;
        if scratch.len() < bytes {
            *scratch = PageBuf::zeroed(bytes);
        }
        match device.read(oldest.offset, &mut [IoSliceMut::new(&mut scratch[..bytes])]) {
            Err(error) if parts.len() == 1 => return Err(error),
            Err(_) => {
                for part in parts.rchunks(1) {
                    let spoilt = self.read_near(part, device, scratch, block)?;
                    if spoilt.is_some() {
                        return Ok(spoilt);
                    }
                }
                return Ok(None);
            }
            Ok(()) => {}
        }
        let spoilt = parts.iter().rev().find(|part| {
            let at = (part.offset - oldest.offset) as usize;
            !self.lay(part, &scratch[at..at + self.bytes_of(part)], block)
        });
        Ok(spoilt.map(|part| part.version))
    }

    /// Lays the sectors of a part over `block`, from its pages; false when these are not what was written.
    fn lay(&self, part: &LogPart, pages: &[u8], block: &mut [u8]) -> bool {
        if block_crc_of(self.file_id, self.block, part.generation, std::iter::once(pages)) != part.crc {
            return false;
        }
        let to_bytes = |run: Range<usize>| run.start * SECTOR_BYTES..run.end * SECTOR_BYTES;
        let mut runs = mask::runs(&part.mask, self.size.sectors()).map(to_bytes).peekable();
        let mut at = 0;
        for place in page_runs(&part.mask, self.size).map(|run| page_bytes(&run)) {
            while let Some(run) = runs.next_if(|run| run.start < place.end) {
                let from = at + run.start - place.start;
                block[run.clone()].copy_from_slice(&pages[from..from + run.len()]);
            }
            at += place.len();
        }
        true
    }

    /// Whether nothing else is in its pages, so that they may be read over older ones.
    fn has_whole_pages(&self, part: &LogPart) -> bool {
        let sectors: usize = part.mask.iter().map(|word| word.count_ones() as usize).sum();
        self.bytes_of(part) == sectors * SECTOR_BYTES
    }

    /// Reads a part straight into its pages of `block`; its version when that is not what was written.
    fn read_in_place(
        &self,
        part: &LogPart,
        device: &dyn Device,
        block: &mut [u8],
    ) -> Result<Option<Version>> {
        let (mut rest, mut at) = (&mut block[..], 0);
        let mut buffers = Vec::new();
        for run in page_runs(&part.mask, self.size).map(|run| page_bytes(&run)) {
            let (_, later) = std::mem::take(&mut rest).split_at_mut(run.start - at);
            let (now, later) = later.split_at_mut(run.len());
            buffers.push(IoSliceMut::new(now));
            (rest, at) = (later, run.end);
        }
        device.read(part.offset, &mut buffers)?;
        let pieces = page_runs(&part.mask, self.size).map(|run| &block[page_bytes(&run)]);
        let is_whole = block_crc_of(self.file_id, self.block, part.generation, pieces) == part.crc;
        Ok((!is_whole).then_some(part.version))
    }

    /// Bytes of the copies.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| self.bytes_of(part) as u64).sum()
    }
}

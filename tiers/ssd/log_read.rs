//! Reading a block from the log of dirty blocks: its copies, laid over one another.

use std::io::IoSliceMut;

use crate::block::{BlockId, BlockSize, PAGE_BYTES, SECTOR_BYTES, Version, mask};
use crate::device::{Device, PageBuf};
use crate::error::Result;

use super::format::block_crc_of;
use super::record::{SectorMask, page_bytes, page_count, page_runs};

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
        let mut scratch = None;
        // The newest last, over the others.
        for (index, part) in self.parts.iter().rev().enumerate() {
            let is_whole = if index == 0 || self.has_whole_pages(part) {
                self.read_part(part, device, block)?
            } else {
                let scratch = scratch.get_or_insert_with(|| PageBuf::zeroed(self.size.bytes()));
                let is_whole = self.read_part(part, device, scratch)?;
                for run in mask::runs(&part.mask, self.size.sectors()) {
                    let run = run.start * SECTOR_BYTES..run.end * SECTOR_BYTES;
                    block[run.clone()].copy_from_slice(&scratch[run]);
                }
                is_whole
            };
            if !is_whole {
                return Ok(Some(part.version));
            }
        }
        Ok(None)
    }

    /// Whether nothing else is in its pages, so that they may be read over older ones.
    fn has_whole_pages(&self, part: &LogPart) -> bool {
        let pages: usize = page_runs(&part.mask, self.size).map(|run| run.len()).sum();
        let sectors: usize = part.mask.iter().map(|word| word.count_ones() as usize).sum();
        pages * PAGE_BYTES == sectors * SECTOR_BYTES
    }

    /// Whether it is what was written.
    fn read_part(&self, part: &LogPart, device: &dyn Device, block: &mut [u8]) -> Result<bool> {
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
        Ok(block_crc_of(self.file_id, self.block, part.generation, pieces) == part.crc)
    }

    /// Bytes that it reads.
    pub fn bytes(&self) -> u64 {
        let pages: u32 = self.parts.iter().map(|part| page_count(&part.mask, self.size)).sum();
        u64::from(pages) * PAGE_BYTES as u64
    }
}

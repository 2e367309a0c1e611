//! The plans that [`super::Ssd`] hands out, and their `run`: the only I/O of this tier once it is open.

use std::io::{IoSlice, IoSliceMut};

use crate::block::{BlockId, Version};
use crate::device::Device;
use crate::error::{Error, Result};

use super::format::{Pages, Summary, block_crc};

/// Where one block is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPlan {
    pub block: BlockId,
    pub version: Version,
    pub segment: u32,
    pub generation: u32,
    pub slot: u32,
    /// On the device, in bytes.
    pub offset: u64,
    pub file_id: u64,
}

/// Where a block can be read, and what it must look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPlan {
    pub block: BlockId,
    pub segment: u32,
    pub generation: u32,
    pub slot: u32,
    /// On the device, in bytes.
    pub offset: u64,
    pub crc: u32,
    pub file_id: u64,
}

impl ReadPlan {
    /// Whether `data` is what was written there for this block.
    pub fn verify(&self, data: &[u8]) -> bool {
        block_crc(self.file_id, self.block, self.generation, data) == self.crc
    }
}

/// What a read turned out to be worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadVerdict {
    /// Install and serve it.
    Valid,
    /// The block went elsewhere or was voided meanwhile: ask again.
    Moved,
    /// The copy is bad: dropped and voided; a miss.
    Corrupt,
}

/// What becomes of a block that leaves RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demote {
    /// Write it there, then call `finish_append`.
    Append(SlotPlan),
    /// A copy is there already.
    Present,
    Refused(Refusal),
}

/// Why a block is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It has not earned the write, or there is no budget left for it.
    NotEarned,
    /// No segment is free to write to; reclaim is behind.
    NoSegment,
    /// Its part of the index is being filled with what was found in the file.
    Scanning,
}

/// One block in a segment's summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub block: BlockId,
    pub version: Version,
    pub crc: u32,
    pub slot: u32,
    /// Bits 0 and 1: how often it was hit when the segment was sealed.
    pub flags: u32,
}

/// A full segment waits for its summary.
pub struct SealPlan {
    pub segment: u32,
    pub generation: u32,
    pub(super) summary_offset: u64,
    /// None in a simulated tier.
    pub(super) summary: Option<Pages>,
}

impl SealPlan {
    /// Writes the summary. The data must be synced before, and the journal durable: the summary makes copies believed that
    /// are newer than what the journal voids.
    pub fn run(&self, device: &dyn Device) -> Result<()> {
        let Some(summary) = &self.summary else { return Ok(()) };
        device.write(self.summary_offset, &[IoSlice::new(summary)])
    }
}

/// A segment is to be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReclaimPlan {
    pub segment: u32,
    pub generation: u32,
    pub summary_offset: u64,
    pub summary_bytes: u64,
    pub(super) file_id: u64,
    pub(super) slots: u32,
}

impl ReclaimPlan {
    /// Reads and verifies the summary.
    ///
    /// # Errors
    /// Those of the device, and [`Error::Damaged`]; the segment can be emptied without its entries as well.
    pub fn run(&self, device: &dyn Device) -> Result<Vec<Entry>> {
        let mut pages = Pages::new(self.summary_bytes as usize);
        device.read(self.summary_offset, &mut [IoSliceMut::new(&mut pages)])?;
        match Summary::from_bytes(&pages, self.file_id, self.segment, self.slots) {
            Some(summary) if summary.generation == self.generation => Ok(summary.entries),
            _ => Err(Error::Damaged { what: format!("the summary of segment {}", self.segment) }),
        }
    }
}

/// A block that is kept when its segment is reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub from: ReadPlan,
    pub to: SlotPlan,
}

/// Writes `data` (one slice a plan, neighbours on the device) in one call, and gives the checksums.
pub fn append(device: &dyn Device, plans: &[SlotPlan], data: &[&[u8]]) -> Result<Vec<u32>> {
    assert_eq!(plans.len(), data.len(), "one slice a plan");
    let Some(first) = plans.first() else { return Ok(Vec::new()) };
    let mut offset = first.offset;
    let mut crcs = Vec::with_capacity(plans.len());
    let mut buffers = Vec::with_capacity(plans.len());
    for (plan, data) in plans.iter().zip(data) {
        assert_eq!(plan.offset, offset, "slots of one write are neighbours");
        offset += data.len() as u64;
        crcs.push(block_crc(plan.file_id, plan.block, plan.generation, data));
        buffers.push(IoSlice::new(data));
    }
    device.write(first.offset, &buffers)?;
    Ok(crcs)
}

//! Checkpoints: the segment table, the bits of its slots and the volumes, at one position of the journal.
//!
//! A checkpoint is a run of frames (see `format`) in one of two areas, which the superblock names together with its
//! number, its length and the count of its items. It may be trusted when every frame is whole and has that number,
//! and the frames are counted on from 0. The entries of segments are not in it; those come from the summaries.
//!
//! The order of its making is what makes it safe: all frames, sync, one superblock, sync, the other one, sync. Until the
//! last of these has returned the older checkpoint, in the other area, and the journal after it stay as they are. The
//! superblock that recovery believed is the last, because the other may be torn, or older and name the area that is
//! written to: were the good one torn too, none would be left.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::PAGE_BYTES;
use crate::device::Device;
use crate::error::{Error, Result};

use super::encoding::{CheckpointItem, Counters, Item};
use super::format::{CHECKPOINT_MAGIC, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, Pages, Superblock};
use super::journal::Seq;

/// Everything a checkpoint says, as it was when it was planned. One at a time is under way.
pub struct CheckpointPlan {
    pub(super) items: Vec<CheckpointItem>,
    /// The journal entries up to this one are in it.
    pub(super) absorbed: Seq,
    /// What the journal wants back when it fails.
    pub(super) superfluous_bytes: u64,
    /// Without the length and count of the checkpoint.
    pub(super) superblock: Superblock,
    /// The end of a log that gave records up is in it.
    pub(super) restarts_log: bool,
    /// All summaries are read.
    pub(super) ends_scan: bool,
    /// The copy of it that is written first.
    pub(super) superblock_first: usize,
    pub(super) bytes_written: AtomicU64,
}

impl CheckpointPlan {
    /// Writes the checkpoint and then each superblock, with a sync after each of the three.
    pub fn run(&self, device: &dyn Device) -> Result<()> {
        let mut superblock = self.superblock;
        superblock.checkpoint_items = self.items.len() as u32;
        superblock.checkpoint_bytes = self.write_items(device)?;
        device.sync()?;
        let page = superblock.to_page();
        for copy in [self.superblock_first, 1 - self.superblock_first] {
            self.write(device, (copy * PAGE_BYTES) as u64, &page)?;
            device.sync()?;
        }
        Ok(())
    }

    fn write_items(&self, device: &dyn Device) -> Result<u64> {
        let geometry = &self.superblock.geometry;
        let area = geometry.checkpoint_area_offset(self.superblock.checkpoint_area);
        let (mut at, mut chunk_index) = (0, 0);
        let mut items = self.items.iter().peekable();
        let (mut bytes, mut item) = (Vec::new(), Vec::new());
        while items.peek().is_some() {
            let mut count = 0;
            while let Some(next) = items.peek() {
                item.clear();
                next.put(&mut item);
                if bytes.len() + item.len() > FRAME_BYTES_MAX - FRAME_HEADER_BYTES {
                    break;
                }
                bytes.append(&mut item);
                count += 1;
                items.next();
            }
            let header = FrameHeader {
                magic: CHECKPOINT_MAGIC,
                file_id: self.superblock.file_id,
                number: self.superblock.checkpoint_number,
                first: chunk_index,
                items: count,
                item_bytes: bytes.len() as u32,
            };
            let frame = header.frame(&bytes);
            assert!(at + frame.len() as u64 <= geometry.checkpoint_bytes, "an area is laid out for the most");
            self.write(device, area + at, &frame)?;
            at += frame.len() as u64;
            chunk_index += 1;
            bytes.clear();
        }
        Ok(at)
    }

    fn write(&self, device: &dyn Device, offset: u64, bytes: &[u8]) -> Result<()> {
        device.write(offset, &[IoSlice::new(bytes)])?;
        self.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The checkpoint that `superblock` names: its counters and its other items.
///
/// # Errors
/// Those of the device; [`Error::Damaged`] when it is not whole.
pub(super) fn load(device: &dyn Device, superblock: &Superblock) -> Result<(Counters, Vec<CheckpointItem>)> {
    let geometry = &superblock.geometry;
    let damaged = |part: &str| Error::Damaged {
        what: format!("the checkpoint in area {}: {part}", superblock.checkpoint_area),
    };
    if superblock.checkpoint_area > 1 || superblock.checkpoint_bytes > geometry.checkpoint_bytes {
        return Err(damaged("its place"));
    }
    let area = geometry.checkpoint_area_offset(superblock.checkpoint_area);
    let mut items: Vec<CheckpointItem> = Vec::new();
    let mut window = Pages::new(FRAME_BYTES_MAX.min(superblock.checkpoint_bytes as usize));
    let (mut at, mut chunk_index) = (0, 0);
    while at < superblock.checkpoint_bytes {
        let len = window.len().min((superblock.checkpoint_bytes - at) as usize);
        device.read(area + at, &mut [IoSliceMut::new(&mut window[..len])])?;
        let header = FrameHeader::from_bytes(&window[..len], CHECKPOINT_MAGIC, superblock.file_id)
            .filter(|header| header.number == superblock.checkpoint_number && header.first == chunk_index)
            .ok_or_else(|| damaged(&format!("the header of chunk {chunk_index}")))?;
        let more = header.items(&window[..len]).ok_or_else(|| damaged(&format!("chunk {chunk_index}")))?;
        items.extend(more);
        at += header.frame_bytes() as u64;
        chunk_index += 1;
    }
    if items.len() != superblock.checkpoint_items as usize {
        return Err(damaged("the count of its items"));
    }
    match items.first() {
        Some(CheckpointItem::Counters(counters)) => {
            let counters = *counters;
            items.remove(0);
            Ok((counters, items))
        }
        _ => Err(damaged("it does not begin with the counters")),
    }
}

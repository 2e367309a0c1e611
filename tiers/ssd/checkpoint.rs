//! Checkpoints: the segment table, the bits of its slots and the volumes, at one position of the journal.
//!
//! A checkpoint is a run of frames (see `format`) in one of two areas, which the superblock names together with its
//! number, its length and the count of its items. It may be trusted when every frame is whole and has that number,
//! and the frames are counted on from 0. The entries of segments are not in it; those come from the summaries.
//!
//! At its end may be frames of ghosts alone ([`GhostFrames`]): 2 bytes for each block of the file, so that nobody waits for
//! them. They are read with the summaries, and one that is not whole, or was overwritten by then, costs hits and no more.
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

use super::encoding::{CheckpointItem, Counters, GhostEntry, Item, begins_with_ghosts};
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

/// What a checkpoint says.
pub(super) struct Checkpoint {
    pub(super) counters: Counters,
    /// The others, but for those of `ghosts`.
    pub(super) items: Vec<CheckpointItem>,
    pub(super) ghosts: Option<GhostFrames>,
}

/// The checkpoint that `superblock` names.
///
/// # Errors
/// Those of the device; [`Error::Damaged`] when it is not whole.
pub(super) fn load(device: &dyn Device, superblock: &Superblock) -> Result<Checkpoint> {
    let geometry = &superblock.geometry;
    let damaged = |part: &str| Error::Damaged {
        what: format!("the checkpoint in area {}: {part}", superblock.checkpoint_area),
    };
    if superblock.checkpoint_area > 1 || superblock.checkpoint_bytes > geometry.checkpoint_bytes {
        return Err(damaged("its place"));
    }
    let area = geometry.checkpoint_area_offset(superblock.checkpoint_area);
    let mut next = NextFrame {
        file_id: superblock.file_id,
        number: superblock.checkpoint_number,
        chunk_index: 0,
        at: area,
        end: area + superblock.checkpoint_bytes,
    };
    let mut items: Vec<CheckpointItem> = Vec::new();
    let mut window = next.window();
    let mut ghosts = None;
    while next.at < next.end {
        let header = next.read(device, &mut window)?;
        let header = header.ok_or_else(|| damaged(&format!("the header of chunk {}", next.chunk_index)))?;
        if header.first > 0 && begins_with_ghosts(&window[FRAME_HEADER_BYTES..]) {
            ghosts = Some(GhostFrames(next));
            break;
        }
        let more = header.items(&window);
        items.extend(more.ok_or_else(|| damaged(&format!("chunk {}", next.chunk_index)))?);
        next = next.after(&header);
    }
    let (count, all) = (items.len(), superblock.checkpoint_items as usize);
    if count > all || ghosts.is_none() && count < all {
        return Err(damaged("the count of its items"));
    }
    match items.first() {
        Some(CheckpointItem::Counters(counters)) => {
            let counters = *counters;
            items.remove(0);
            Ok(Checkpoint { counters, items, ghosts })
        }
        _ => Err(damaged("it does not begin with the counters")),
    }
}

/// Where the next frame of a checkpoint is, and what it must say.
#[derive(Clone, Copy)]
struct NextFrame {
    file_id: u64,
    number: u64,
    chunk_index: u64,
    at: u64,
    /// Of the checkpoint.
    end: u64,
}

impl NextFrame {
    /// Memory for any frame of the checkpoint.
    fn window(&self) -> Pages {
        Pages::new(FRAME_BYTES_MAX.min((self.end - self.at) as usize))
    }

    /// Reads the frame to the start of `window`: its header, if it is the one.
    fn read(&self, device: &dyn Device, window: &mut Pages) -> Result<Option<FrameHeader>> {
        let length = window.len().min((self.end - self.at) as usize);
        device.read(self.at, &mut [IoSliceMut::new(&mut window[..length])])?;
        let header = FrameHeader::from_bytes(&window[..length], CHECKPOINT_MAGIC, self.file_id);
        let is_it = |header: &FrameHeader| (header.number, header.first) == (self.number, self.chunk_index);
        Ok(header.filter(is_it).filter(|header| header.frame_bytes() <= length))
    }

    fn after(self, header: &FrameHeader) -> Self {
        Self { at: self.at + header.frame_bytes() as u64, chunk_index: self.chunk_index + 1, ..self }
    }
}

/// The frames from the first on that has ghosts alone, one of which is read at a time.
#[derive(Clone, Copy)]
pub(super) struct GhostFrames(NextFrame);

impl GhostFrames {
    /// The ghosts of the next frame, and the frames after it; none when it is not whole, or cannot be read.
    pub(super) fn read(self, device: &dyn Device) -> Option<(Vec<GhostEntry>, Option<Self>)> {
        let mut window = self.0.window();
        let header = self.0.read(device, &mut window).ok()??;
        let items: Vec<CheckpointItem> = header.items(&window)?;
        let ghosts = items.into_iter().map(|item| match item {
            CheckpointItem::Ghosts(entry) => Some(entry),
            _ => None,
        });
        let next = self.0.after(&header);
        Some((ghosts.collect::<Option<_>>()?, (next.at < next.end).then_some(Self(next))))
    }

    /// The number of the next frame.
    pub(super) fn chunk_index(self) -> u64 {
        self.0.chunk_index
    }
}

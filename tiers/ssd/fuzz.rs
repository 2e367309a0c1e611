//! Any bytes in place of a cache file's: one entry for each kind of structure, for fuzzing.
//!
//! An entry takes any bytes and returns whether they were believed. It may not panic, not run on, and not take memory
//! beyond the bounds that the file's sizes give. A checksum would keep nearly all bytes from the code behind it, so an
//! entry runs twice: on the bytes as they are, and with every checksum in them made right.
//!
//! What bounds the memory: nothing is allocated for a size that the bytes claim before it was compared with the layout
//! that the caller asked for, or with the bytes that are there.

use std::io::{IoSlice, IoSliceMut};

use crate::block::{BlockId, BlockSize, PAGE_BYTES, Version, VolumeId};
use crate::device::Device;
use crate::testing::MemoryDevice;

use super::encoding::{CheckpointItem, Counters, Item, JournalEntry, VolumeEntry};
use super::format::{
    CHECKPOINT_MAGIC, FRAME_HEADER_BYTES, FrameHeader, JOURNAL_MAGIC, Pages, Summary, Superblock, repair_crc,
};
use super::header_pages::HeaderPages;
use super::record::{RECORD_MAGIC, RecordHeader, RecordPlace, header_bytes};
use super::recover::Believed;
use super::recover_log::recover_log;
use super::{FileAtRest, Finding, Geometry, Ssd, SsdPolicy, VoidMark, Watcher, verify};

mod user;

use user::User;

/// An entry; whether the bytes were believed.
pub type Target = fn(&[u8]) -> bool;

/// Every entry and its name.
pub const TARGETS: [(&str, Target); 8] = [
    ("superblock", superblock),
    ("frame", frame),
    ("summary", summary),
    ("checkpoint", checkpoint),
    ("journal", journal),
    ("record", record),
    ("log", log),
    ("image", image),
];

const NO_FAULTS: &str = "a device in RAM does not fail";

/// The layout of every file here: the smallest that goes round.
pub fn geometry() -> Geometry {
    Geometry::for_blocks(block_size(), 16).expect("it fits")
}

fn block_size() -> BlockSize {
    BlockSize::new(PAGE_BYTES as u64).expect("a power of two")
}

/// Runs `target` on `bytes`, padded to whole pages, as they are and with the checksums made right.
fn both_ways(bytes: &[u8], target: impl Fn(&[u8]) -> bool) -> bool {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(PAGE_BYTES).max(PAGE_BYTES), 0);
    let is_believed = target(&padded);
    (0..padded.len()).step_by(PAGE_BYTES).for_each(|at| repair_crc(&mut padded[at..], block_size()));
    target(&padded) || is_believed
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A page as a superblock.
pub fn superblock(bytes: &[u8]) -> bool {
    both_ways(bytes, |bytes| {
        let Ok(superblock) = Superblock::from_page(&bytes[..PAGE_BYTES]) else { return false };
        assert_eq!(Superblock::from_page(&superblock.to_page()), Ok(superblock));
        true
    })
}

/// Pages as a frame, of the journal or of a checkpoint.
pub fn frame(bytes: &[u8]) -> bool {
    both_ways(bytes, |bytes| {
        frame_of::<JournalEntry>(bytes, JOURNAL_MAGIC) || frame_of::<CheckpointItem>(bytes, CHECKPOINT_MAGIC)
    })
}

fn frame_of<T: Item>(bytes: &[u8], magic: [u8; 8]) -> bool {
    let Some(header) = FrameHeader::from_bytes(bytes, magic, word(bytes, 8)) else { return false };
    let Some(items) = header.items::<T>(bytes) else { return false };
    let mut again = Vec::new();
    items.iter().for_each(|item| item.put(&mut again));
    let frame = header.frame(&again);
    assert_eq!(
        frame[FRAME_HEADER_BYTES..][..again.len()],
        bytes[FRAME_HEADER_BYTES..][..again.len()],
        "items have one encoding"
    );
    true
}

/// Pages as the summary of a segment of any size.
pub fn summary(bytes: &[u8]) -> bool {
    both_ways(bytes, |bytes| {
        let (file_id, segment) = (word(bytes, 8), word(bytes, 16) as u32);
        let Some(summary) = Summary::from_bytes(bytes, file_id, segment, u32::MAX) else { return false };
        let again = Summary::from_bytes(&summary.to_pages(), file_id, segment, u32::MAX);
        assert_eq!(again, Some(summary));
        true
    })
}

/// Pages as a checkpoint area, as the superblock names it that fits the first chunk best.
pub fn checkpoint(bytes: &[u8]) -> bool {
    both_ways(bytes, |bytes| {
        let geometry = geometry();
        let (file_id, checkpoint_number) = (word(bytes, 8), word(bytes, 16));
        let header = |at: usize| FrameHeader::from_bytes(&bytes[at..], CHECKPOINT_MAGIC, file_id);
        let (mut at, mut items) = (0, 0u32);
        while let Some(header) = (at < bytes.len()).then(|| header(at)).flatten() {
            at += header.frame_bytes();
            items = items.saturating_add(header.items);
        }
        let superblock = Superblock {
            file_id,
            sequence: 1,
            geometry,
            opening: 1,
            is_clean: false,
            checkpoint_area: 0,
            checkpoint_items: items,
            checkpoint_number,
            checkpoint_bytes: at as u64,
        };
        let device = MemoryDevice::new(geometry.file_bytes());
        let area = &bytes[..bytes.len().min(geometry.checkpoint_bytes as usize)];
        device.write(geometry.checkpoint_area_offset(0), &[IoSlice::new(area)]).expect(NO_FAULTS);
        let Ok(checkpoint) = super::checkpoint::load(&device, &superblock) else { return false };
        let mut ghosts = checkpoint.ghosts;
        while let Some(frames) = ghosts {
            ghosts = frames.read(&device).and_then(|(_, more)| more);
        }
        true
    })
}

/// Pages as the journal, after a checkpoint made right before the first frame.
pub fn journal(bytes: &[u8]) -> bool {
    both_ways(bytes, |bytes| {
        let geometry = geometry();
        let (file_id, generation, first) = (word(bytes, 8), word(bytes, 16), word(bytes, 24));
        let device = MemoryDevice::new(geometry.file_bytes());
        let area = &bytes[..bytes.len().min(geometry.journal_bytes as usize)];
        device.write(geometry.journal_offset, &[IoSlice::new(area)]).expect(NO_FAULTS);
        let absorbed = first.saturating_sub(1);
        let apply = |_| Ok(());
        let replayed = super::journal::replay(&device, &geometry, file_id, absorbed, generation, apply);
        replayed.is_ok_and(|replayed| replayed.count > 0)
    })
}

/// Pages as the header of a record, in a segment of any size.
pub fn record(bytes: &[u8]) -> bool {
    both_ways(bytes, |bytes| {
        let (file_id, segment) = (word(bytes, 8), word(bytes, 16) as u32);
        let place = RecordPlace { file_id, segment, generation: None, pages_left: u32::MAX };
        let Some(header) = RecordHeader::from_bytes(bytes, place, block_size()) else { return false };
        let mut memory = HeaderPages::new(header_bytes(header.entries.len(), block_size()));
        let pages = header.write_to(&mut memory, block_size());
        let again = RecordHeader::from_bytes(pages, place, block_size());
        assert_eq!(again, Some(header));
        true
    })
}

/// The segments of a file as those of a log after which nothing was checkpointed; as in [`image`].
pub fn log(bytes: &[u8]) -> bool {
    both_ways(&file_of(bytes), |file| {
        let segments = &file[geometry().segments_offset as usize..];
        let mut pages = segments.chunks_exact(PAGE_BYTES);
        let Some(first) = pages.find(|page| page.starts_with(&RECORD_MAGIC)) else { return false };
        let (superblock, counters) = before_any_record(word(first, 8));
        let volume = VolumeEntry::new(VolumeId::new(0), "disk".into(), None, Version::ZERO);
        let items = vec![CheckpointItem::Volume(volume)];
        let mut believed = Believed::new(&superblock, &counters, items).expect("a possible file");
        believed.settle(&counters, 0).expect("a possible file");
        let device = device_of(file);
        recover_log(&device, &believed, &counters).is_ok_and(|log| log.dirty_count() > 0)
    })
}

/// What a file says that was not used yet.
fn before_any_record(file_id: u64) -> (Superblock, Counters) {
    let superblock = Superblock {
        file_id,
        sequence: 1,
        geometry: geometry(),
        opening: 1,
        is_clean: false,
        checkpoint_area: 0,
        checkpoint_items: 0,
        checkpoint_number: 1,
        checkpoint_bytes: 0,
    };
    (superblock, Counters { next_generation: 1, believed_from: 1, next_record: 1, ..Counters::default() })
}

/// A device that holds `file`.
fn device_of(file: &[u8]) -> MemoryDevice {
    let device = MemoryDevice::new(geometry().file_bytes());
    for (number, page) in file.chunks_exact(PAGE_BYTES).enumerate() {
        if page.iter().any(|&byte| byte != 0) {
            device.write((number * PAGE_BYTES) as u64, &[IoSlice::new(page)]).expect(NO_FAULTS);
        }
    }
    device
}

/// A whole cache file, of which only some bytes are not zero: runs of a page number (4 bytes), a length (2 bytes) and
/// that many bytes from the start of that page on. It is inspected; what opens is used, closed and opened again.
pub fn image(bytes: &[u8]) -> bool {
    both_ways(&file_of(bytes), |file| {
        let device = device_of(file);
        inspect(&device);
        let Ok(ssd) = Ssd::open(&device, geometry(), SsdPolicy::default()) else { return false };
        let mut user = User::new(ssd, &device);
        user.use_all();
        user.close();
        // Only counters that are used up may keep it from opening again.
        let _ = Ssd::open(&device, geometry(), SsdPolicy::default());
        true
    })
}

/// Everything that can be asked of a file at rest.
fn inspect(device: &MemoryDevice) {
    struct Nobody;
    impl Watcher for Nobody {
        fn at(&mut self, _: u64) {}
        fn found(&mut self, _: Finding) {}
    }
    let _ = verify(device, &mut Nobody);
    let Ok(file) = FileAtRest::open(device) else { return };
    let info = file.info().expect(NO_FAULTS);
    for volume in info.volumes {
        (0..4).for_each(|number| {
            file.explain(BlockId::new(volume.id, number)).expect(NO_FAULTS);
        });
    }
}

const RUN_HEADER_BYTES: usize = 6;

/// The file that [`image`] takes `bytes` for.
fn file_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0; geometry().file_bytes() as usize];
    let page_count = file.len() / PAGE_BYTES;
    while let Some((header, rest)) = bytes.split_first_chunk::<RUN_HEADER_BYTES>() {
        let number = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize % page_count;
        let length = usize::from(u16::from_le_bytes([header[4], header[5]])).min(PAGE_BYTES).min(rest.len());
        file[number * PAGE_BYTES..][..length].copy_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    file
}

/// The bytes that [`image`] takes for `file` from the offset `first` on, without the content of slots.
fn image_of(file: &[u8], first: u64) -> Vec<u8> {
    let geometry = geometry();
    let is_slot = |at: u64| {
        let Some(inside) = at.checked_sub(geometry.segments_offset) else { return false };
        let segment = at - inside % geometry.segment_bytes;
        !file[segment as usize..].starts_with(&RECORD_MAGIC)
            && inside % geometry.segment_bytes < geometry.segment_bytes - geometry.summary_bytes()
    };
    let mut bytes = Vec::new();
    for (number, page) in file.chunks_exact(PAGE_BYTES).enumerate() {
        let page = without_last_zeros(page);
        let at = (number * PAGE_BYTES) as u64;
        if !page.is_empty() && at >= first && !is_slot(at) {
            bytes.extend((number as u32).to_le_bytes());
            bytes.extend((page.len() as u16).to_le_bytes());
            bytes.extend(page);
        }
    }
    bytes
}

fn without_last_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// A valid input of a target.
pub struct Valid {
    pub target: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// Valid inputs of every target: files in several states of their life, and the pieces of them.
pub fn valid() -> Vec<Valid> {
    let geometry = geometry();
    let mut found = Vec::new();
    for (name, file) in files() {
        let mut add = |target, bytes: &[u8]| {
            let bytes = without_last_zeros(bytes).to_vec();
            if !bytes.is_empty() {
                found.push(Valid { target, name, bytes });
            }
        };
        let part = |offset: u64, bytes: u64| &file[offset as usize..][..bytes as usize];
        add("superblock", part(0, PAGE_BYTES as u64));
        for half in 0..2 {
            let (offset, bytes) = (geometry.journal_half_offset(half), geometry.journal_half_bytes());
            add("journal", part(offset, bytes));
            add("frame", part(offset, bytes));
        }
        for area in 0..2 {
            let offset = geometry.checkpoint_area_offset(area);
            add("checkpoint", part(offset, geometry.checkpoint_bytes));
            add("frame", part(offset, geometry.checkpoint_bytes));
        }
        for segment in 0..3 {
            add("summary", part(geometry.summary_offset(segment), geometry.summary_bytes()));
        }
        let segments = part(geometry.segments_offset, file.len() as u64 - geometry.segments_offset);
        let records = segments.chunks_exact(PAGE_BYTES).filter(|page| page.starts_with(&RECORD_MAGIC));
        records.take(2).for_each(|page| add("record", page));
        let bytes = image_of(&file, geometry.segments_offset);
        if log(&bytes) {
            found.push(Valid { target: "log", name, bytes });
        }
        found.push(Valid { target: "image", name, bytes: image_of(&file, 0) });
    }
    found
}

/// Cache files as they are after some use, and what happened to each.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut found = Vec::new();
    let device = MemoryDevice::new(geometry().file_bytes());
    let content = || {
        let mut file = Pages::new(geometry().file_bytes() as usize);
        device.read(0, &mut [IoSliceMut::new(&mut file)]).expect(NO_FAULTS);
        file.to_vec()
    };
    let mut user = User::create(&device);
    found.push(("new", content()));
    user.demote(0..20);
    user.void(3..6, VoidMark::Exact);
    user.void(8..9, VoidMark::Region);
    user.log(20..23, 1);
    user.log(22..24, 2);
    user.bury(20..21, 2);
    found.push(("in-use", content()));
    found.push(("dense-journal", with_dense_journal(content())));
    user.close();
    found.push(("closed", content()));
    let ssd = Ssd::open(&device, geometry(), SsdPolicy::default()).expect(NO_FAULTS);
    let mut user = User::new(ssd, &device);
    user.use_all();
    found.push(("wrapped", content()));
    user.demote(0..30);
    user.close();
    found.push(("wrapped-and-closed", content()));
    found
}

/// `file` with the first half of the journal full of the smallest entries: what takes the most memory for its bytes.
fn with_dense_journal(mut file: Vec<u8>) -> Vec<u8> {
    let geometry = geometry();
    let half = &mut file[geometry.journal_offset as usize..][..geometry.journal_half_bytes() as usize];
    let header = FrameHeader::from_bytes(half, JOURNAL_MAGIC, word(half, 8)).expect("a journal in use");
    let mut bytes = Vec::new();
    let mut items = 0;
    while bytes.len() + FRAME_HEADER_BYTES + 8 <= half.len() {
        JournalEntry::VolumeUsed { volume: 1 }.put(&mut bytes);
        items += 1;
    }
    let frame = FrameHeader { items, item_bytes: bytes.len() as u32, ..header }.frame(&bytes);
    half.copy_from_slice(&frame);
    file
}

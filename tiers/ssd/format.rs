//! The bytes of a cache file that have a fixed place: superblock, frame, summary. All integers little-endian.
//!
//! **Superblock**, 4096 bytes at 0 and again at 4096:
//!
//! | at  | bytes | what                                    | at  | bytes | what                              |
//! |-----|-------|-----------------------------------------|-----|-------|-----------------------------------|
//! | 0   | 8     | magic `TERRACE1`                        | 80  | 8     | checkpoint bytes (of one area)    |
//! | 8   | 8     | file id                                 | 88  | 8     | segments offset                   |
//! | 16  | 8     | sequence, one more with every write     | 96  | 4     | opening, from 1                   |
//! | 24  | 8     | block bytes                             | 100 | 4     | 1 when closed in order            |
//! | 32  | 8     | segment bytes                           | 104 | 4     | checkpoint area, 0 or 1           |
//! | 40  | 4     | slots per segment                       | 108 | 4     | items in the checkpoint           |
//! | 44  | 4     | segment count                           | 112 | 8     | number of the checkpoint          |
//! | 48  | 4     | capacity segments                       | 120 | 8     | bytes of the checkpoint           |
//! | 52  | 4     | formats of journal, checkpoint, summary, record | 128 | 3964 | zero                       |
//! | 56  | 24    | journal offset, journal bytes, checkpoint offset | 4092 | 4 | CRC32C of the 4092 before |
//!
//! Trusted when magic and checksum hold; the copy with the higher sequence first, the other when the checkpoint it
//! names is whole and the first one's is not. Both copies are rewritten one after the other with a sync after each,
//! so after a finished write no older one is left to fall back to. Breaking it loses the cache, not data.
//!
//! The format of a structure is the last letter of its magic. A file with any other than those that are read here is
//! refused whole, so that nothing of another release is ever taken for something torn. What is written is of the last
//! format: an opening says so in both superblocks before it writes anything else.
//!
//! **Frame**, a number of items in whole pages: a record of the journal, a chunk of a checkpoint.
//!
//! | at | bytes | what                                                 | at | bytes | what                         |
//! |----|-------|------------------------------------------------------|----|-------|------------------------------|
//! | 0  | 8     | magic `TERRJRN1` or `TERRCKP1`                       | 32 | 4     | items                        |
//! | 8  | 8     | file id                                              | 36 | 4     | bytes of the items           |
//! | 16 | 8     | generation of the journal half, or checkpoint number | 40 | 4     | CRC32C of all, this as zero  |
//! | 24 | 8     | sequence of the first item, or index of the chunk    | 44 | 20    | zero, then the items         |
//!
//! Trusted when everything in the header is what the reader expects *and* the checksum holds; `journal` and
//! `recover` say which generation and which sequence those are. Breaking that brings overwritten blocks back.
//!
//! **Summary**, the end of a sealed segment:
//!
//! | at | bytes | what           | at | bytes | what                           | an entry, from 64 on              |
//! |----|-------|----------------|----|-------|--------------------------------|-----------------------------------|
//! | 0  | 8     | magic `TERRSEG1` | 32 | 4   | stream: 0 clean, 1 reinserted  | 8 block id, 8 version, 4 CRC32C,  |
//! | 8  | 8     | file id        | 36 | 4     | slots used                     | 4 slot, 4 flags (bits 0 and 1:    |
//! | 16 | 4     | segment        | 40 | 4     | entries                        | how often it was hit), 4 zero;    |
//! | 20 | 4     | generation     | 44 | 4     | CRC32C of all, this as zero    | slots ascending                   |
//! | 24 | 8     | sequence       | 48 | 16    | zero                           |                                   |
//!
//! Trusted when the checksum holds and the generation is one that `recover` expects there. It is written after a
//! sync of the segment's data, so a trusted summary never names torn blocks; they are verified when read anyway.

use crc_fast::{CrcAlgorithm, Digest};

use crate::block::{BlockId, BlockSize, PAGE_BYTES, Version};

use super::encoding::Item;
use super::geometry::Geometry;
use super::plan::Entry;
use super::record::RECORD_MAGIC;
#[cfg(feature = "fuzz")]
use super::record::header_bytes;
use super::segment::Stream;

const SUPERBLOCK_MAGIC: [u8; 8] = *b"TERRACE1";
pub(super) const JOURNAL_MAGIC: [u8; 8] = *b"TERRJRN1";
pub(super) const CHECKPOINT_MAGIC: [u8; 8] = *b"TERRCKP1";
const SUMMARY_MAGIC: [u8; 8] = *b"TERRSEG1";

/// The structures whose formats stand in the superblock, from this byte on, each with the first format that is read.
const PARTS: [(&str, [u8; 8], u8); 4] = [
    ("format of the journal", JOURNAL_MAGIC, b'1'),
    ("format of the checkpoint", CHECKPOINT_MAGIC, b'1'),
    ("format of summaries", SUMMARY_MAGIC, b'1'),
    ("format of records", RECORD_MAGIC, b'1'),
];
const PART_FORMATS_AT: usize = 52;

/// The version of the format, as a number.
pub(super) const FORMAT: u32 = (SUPERBLOCK_MAGIC[7] - b'0') as u32;

pub(super) const FRAME_HEADER_BYTES: usize = 64;
/// No frame is longer.
pub(super) const FRAME_BYTES_MAX: usize = 1 << 20;
pub(super) const SUMMARY_HEADER_BYTES: usize = 64;
pub(super) const SUMMARY_ENTRY_BYTES: usize = 32;

/// The checksum of `parts`, one after the other.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// The checksum of a block's data, which also says whose it is and when it was put there.
pub(super) fn block_crc(file_id: u64, block: BlockId, generation: u32, data: &[u8]) -> u32 {
    crc32c(&[&block_seed(file_id, block, generation), data])
}

/// The same of data in several pieces.
pub(super) fn block_crc_of<'a>(
    file_id: u64,
    block: BlockId,
    generation: u32,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&block_seed(file_id, block, generation));
    pieces.for_each(|piece| digest.update(piece));
    digest.finalize() as u32
}

fn block_seed(file_id: u64, block: BlockId, generation: u32) -> [u8; 20] {
    let mut seed = [0; 20];
    put(&mut seed, 0, &file_id.to_le_bytes());
    put(&mut seed, 8, &block.as_u64().to_le_bytes());
    put(&mut seed, 16, &generation.to_le_bytes());
    seed
}

/// Zeroed bytes that start at a multiple of 4096, as direct I/O wants them.
pub(super) struct Pages {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Pages {
    /// At least `len` bytes, in whole pages.
    pub(super) fn new(len: usize) -> Self {
        let len = len.next_multiple_of(PAGE_BYTES);
        let bytes = vec![0; len + PAGE_BYTES];
        let start = bytes.as_ptr().align_offset(PAGE_BYTES);
        assert!(start < PAGE_BYTES, "an address of bytes can be aligned");
        Self { bytes, start, len }
    }
}

impl std::ops::Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Superblock {
    pub(super) file_id: u64,
    pub(super) sequence: u64,
    pub(super) geometry: Geometry,
    pub(super) opening: u32,
    pub(super) is_clean: bool,
    pub(super) checkpoint_area: u32,
    pub(super) checkpoint_items: u32,
    pub(super) checkpoint_number: u64,
    pub(super) checkpoint_bytes: u64,
}

impl Superblock {
    pub(super) fn to_page(self) -> Pages {
        let geometry = &self.geometry;
        let mut page = Pages::new(PAGE_BYTES);
        put(&mut page, 0, &SUPERBLOCK_MAGIC);
        let block_bytes = geometry.block_size.bytes() as u64;
        for (at, value) in [
            (8, self.file_id),
            (16, self.sequence),
            (24, block_bytes),
            (32, geometry.segment_bytes),
            (56, geometry.journal_offset),
            (64, geometry.journal_bytes),
            (72, geometry.checkpoint_offset),
            (80, geometry.checkpoint_bytes),
            (88, geometry.segments_offset),
            (112, self.checkpoint_number),
            (120, self.checkpoint_bytes),
        ] {
            put(&mut page, at, &value.to_le_bytes());
        }
        for (at, value) in [
            (40, geometry.slots_per_segment),
            (44, geometry.segment_count),
            (48, geometry.capacity_segments),
            (96, self.opening),
            (100, u32::from(self.is_clean)),
            (104, self.checkpoint_area),
            (108, self.checkpoint_items),
        ] {
            put(&mut page, at, &value.to_le_bytes());
        }
        put(&mut page, PART_FORMATS_AT, &PARTS.map(|(_, magic, _)| magic[7]));
        let crc = crc32c(&[&page[..PAGE_BYTES - 4]]);
        put(&mut page, PAGE_BYTES - 4, &crc.to_le_bytes());
        page
    }

    /// What `page` says, or what is wrong with it. The geometry is as found: whoever reads compares it.
    pub(super) fn from_page(page: &[u8]) -> Result<Self, SuperblockFault> {
        if page[..7] != SUPERBLOCK_MAGIC[..7] {
            return Err(SuperblockFault::Foreign);
        }
        if page[7] != SUPERBLOCK_MAGIC[7] {
            let (field, wanted) = ("format", SUPERBLOCK_MAGIC[7]);
            return Err(SuperblockFault::OtherFormat { field, in_file: page[7], wanted });
        }
        if crc32c(&[&page[..PAGE_BYTES - 4]]) != get_u32(page, PAGE_BYTES - 4) {
            return Err(SuperblockFault::Checksum);
        }
        for ((field, magic, first), &in_file) in PARTS.iter().zip(&page[PART_FORMATS_AT..]) {
            if !(*first..=magic[7]).contains(&in_file) {
                return Err(SuperblockFault::OtherFormat { field, in_file, wanted: magic[7] });
            }
        }
        let geometry = Geometry {
            block_size: BlockSize::new(get_u64(page, 24)).map_err(|_| SuperblockFault::Checksum)?,
            segment_bytes: get_u64(page, 32),
            slots_per_segment: get_u32(page, 40),
            segment_count: get_u32(page, 44),
            capacity_segments: get_u32(page, 48),
            journal_offset: get_u64(page, 56),
            journal_bytes: get_u64(page, 64),
            checkpoint_offset: get_u64(page, 72),
            checkpoint_bytes: get_u64(page, 80),
            segments_offset: get_u64(page, 88),
        };
        Ok(Self {
            file_id: get_u64(page, 8),
            sequence: get_u64(page, 16),
            geometry,
            opening: get_u32(page, 96),
            is_clean: get_u32(page, 100) == 1,
            checkpoint_area: get_u32(page, 104),
            checkpoint_items: get_u32(page, 108),
            checkpoint_number: get_u64(page, 112),
            checkpoint_bytes: get_u64(page, 120),
        })
    }
}

/// Why a page is no superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SuperblockFault {
    Foreign,
    /// Which structure is of another release, and what stands in the place of its format.
    OtherFormat {
        field: &'static str,
        in_file: u8,
        wanted: u8,
    },
    Checksum,
}

/// What the header of a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    pub(super) magic: [u8; 8],
    pub(super) file_id: u64,
    pub(super) number: u64,
    pub(super) first: u64,
    pub(super) items: u32,
    pub(super) item_bytes: u32,
}

impl FrameHeader {
    /// The header at the start of `bytes` if it has this magic and file id and a possible length.
    pub(super) fn from_bytes(bytes: &[u8], magic: [u8; 8], file_id: u64) -> Option<Self> {
        if bytes.len() < FRAME_HEADER_BYTES || bytes[..8] != magic || get_u64(bytes, 8) != file_id {
            return None;
        }
        let header = Self {
            magic,
            file_id,
            number: get_u64(bytes, 16),
            first: get_u64(bytes, 24),
            items: get_u32(bytes, 32),
            item_bytes: get_u32(bytes, 36),
        };
        (header.item_bytes as usize <= FRAME_BYTES_MAX - FRAME_HEADER_BYTES).then_some(header)
    }

    /// The length of the frame in whole pages.
    pub(super) fn frame_bytes(&self) -> usize {
        (FRAME_HEADER_BYTES + self.item_bytes as usize).next_multiple_of(PAGE_BYTES)
    }

    /// The frame of these items, which are encoded already.
    pub(super) fn frame(&self, items: &[u8]) -> Pages {
        debug_assert_eq!(items.len(), self.item_bytes as usize);
        let mut pages = Pages::new(self.frame_bytes());
        put(&mut pages, 0, &self.magic);
        put(&mut pages, 8, &self.file_id.to_le_bytes());
        put(&mut pages, 16, &self.number.to_le_bytes());
        put(&mut pages, 24, &self.first.to_le_bytes());
        put(&mut pages, 32, &self.items.to_le_bytes());
        put(&mut pages, 36, &self.item_bytes.to_le_bytes());
        put(&mut pages, FRAME_HEADER_BYTES, items);
        let crc = crc32c(&[&pages[..FRAME_HEADER_BYTES + items.len()]]);
        put(&mut pages, 40, &crc.to_le_bytes());
        pages
    }

    /// The items of the frame at the start of `bytes`, which begins with this header; none when it is not whole.
    pub(super) fn items<T: Item>(&self, bytes: &[u8]) -> Option<Vec<T>> {
        let end = FRAME_HEADER_BYTES + self.item_bytes as usize;
        if bytes.len() < end || crc_around(&bytes[..end], 40) != get_u32(bytes, 40) {
            return None;
        }
        let mut rest = &bytes[FRAME_HEADER_BYTES..end];
        let mut items = Vec::new();
        for _ in 0..self.items {
            let (item, taken) = T::take(rest)?;
            rest = &rest[taken..];
            items.push(item);
        }
        rest.is_empty().then_some(items)
    }
}

/// What a sealed segment says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Summary {
    pub(super) file_id: u64,
    pub(super) segment: u32,
    pub(super) generation: u32,
    pub(super) sequence: u64,
    pub(super) stream: Stream,
    pub(super) slots_used: u32,
    /// In ascending order of slots.
    pub(super) entries: Vec<Entry>,
}

impl Summary {
    pub(super) fn to_pages(&self) -> Pages {
        let mut pages = Pages::new(SUMMARY_HEADER_BYTES + self.entries.len() * SUMMARY_ENTRY_BYTES);
        put(&mut pages, 0, &SUMMARY_MAGIC);
        put(&mut pages, 8, &self.file_id.to_le_bytes());
        put(&mut pages, 16, &self.segment.to_le_bytes());
        put(&mut pages, 20, &self.generation.to_le_bytes());
        put(&mut pages, 24, &self.sequence.to_le_bytes());
        put(&mut pages, 32, &(self.stream as u32).to_le_bytes());
        put(&mut pages, 36, &self.slots_used.to_le_bytes());
        put(&mut pages, 40, &(self.entries.len() as u32).to_le_bytes());
        for (index, entry) in self.entries.iter().enumerate() {
            let at = SUMMARY_HEADER_BYTES + index * SUMMARY_ENTRY_BYTES;
            put(&mut pages, at, &entry.block.as_u64().to_le_bytes());
            put(&mut pages, at + 8, &entry.version.as_u64().to_le_bytes());
            put(&mut pages, at + 16, &entry.crc.to_le_bytes());
            put(&mut pages, at + 20, &entry.slot.to_le_bytes());
            put(&mut pages, at + 24, &entry.flags.to_le_bytes());
        }
        let end = SUMMARY_HEADER_BYTES + self.entries.len() * SUMMARY_ENTRY_BYTES;
        let crc = crc32c(&[&pages[..end]]);
        put(&mut pages, 44, &crc.to_le_bytes());
        pages
    }

    /// The generation in the header in `bytes`, unverified, if it is a header of this segment at all.
    pub(super) fn peek_generation(bytes: &[u8], file_id: u64, segment: u32) -> Option<u32> {
        let fits = bytes.len() >= SUMMARY_HEADER_BYTES
            && bytes[..8] == SUMMARY_MAGIC
            && get_u64(bytes, 8) == file_id
            && get_u32(bytes, 16) == segment;
        fits.then(|| get_u32(bytes, 20))
    }

    /// The summary in `bytes` if it is whole and of this segment.
    pub(super) fn from_bytes(bytes: &[u8], file_id: u64, segment: u32, slots: u32) -> Option<Self> {
        let generation = Self::peek_generation(bytes, file_id, segment)?;
        let (slots_used, count) = (get_u32(bytes, 36), get_u32(bytes, 40));
        let stream = Stream::from_number(get_u32(bytes, 32))?;
        if count > slots || slots_used > slots {
            return None;
        }
        let end = SUMMARY_HEADER_BYTES + count as usize * SUMMARY_ENTRY_BYTES;
        if bytes.len() < end || crc_around(&bytes[..end], 44) != get_u32(bytes, 44) {
            return None;
        }
        let entries: Vec<Entry> = bytes[SUMMARY_HEADER_BYTES..end]
            .chunks_exact(SUMMARY_ENTRY_BYTES)
            .map(|bytes| Entry {
                block: BlockId::from_u64(get_u64(bytes, 0)),
                version: Version::from_u64(get_u64(bytes, 8)),
                crc: get_u32(bytes, 16),
                slot: get_u32(bytes, 20),
                flags: get_u32(bytes, 24),
            })
            .collect();
        let slots_fit = entries.is_sorted_by(|a, b| a.slot < b.slot)
            && entries.last().is_none_or(|entry| entry.slot < slots_used);
        let sequence = get_u64(bytes, 24);
        slots_fit.then_some(Self { file_id, segment, generation, sequence, stream, slots_used, entries })
    }
}

/// The checksum of `bytes` with the four from `at` on as zeros.
pub(super) fn crc_around(bytes: &[u8], at: usize) -> u32 {
    crc32c(&[&bytes[..at], &[0; 4], &bytes[at + 4..]])
}

/// Makes the checksum right of whatever structure `bytes` begin with, if they are long enough for what it claims, in a
/// file with blocks of this size.
#[cfg(feature = "fuzz")]
pub(super) fn repair_crc(bytes: &mut [u8], size: BlockSize) {
    let Some(magic) = bytes.first_chunk::<8>() else { return };
    let (end, at) = match *magic {
        SUPERBLOCK_MAGIC => (PAGE_BYTES - 4, PAGE_BYTES - 4),
        JOURNAL_MAGIC | CHECKPOINT_MAGIC => (FRAME_HEADER_BYTES + get_u32(bytes, 36) as usize, 40),
        SUMMARY_MAGIC => (SUMMARY_HEADER_BYTES + get_u32(bytes, 40) as usize * SUMMARY_ENTRY_BYTES, 44),
        RECORD_MAGIC => (header_bytes(get_u32(bytes, 40) as usize, size), 48),
        _ => return,
    };
    if end <= bytes.len() {
        let crc = if at < end { crc_around(&bytes[..end], at) } else { crc32c(&[&bytes[..end]]) };
        put(bytes, at, &crc.to_le_bytes());
    }
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

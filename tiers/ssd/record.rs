//! Records: how blocks newer than the backing store lie in the log.
//!
//! A segment of the dirty stream is a chain of records from its first page on; whole pages, little-endian:
//!
//! ```text
//! | header, entries | pages of entry 0 | pages of entry 1 | header, entries | ...
//! ```
//!
//! | at | bytes | what                                     | at | bytes | what                                      |
//! |----|-------|------------------------------------------|----|-------|-------------------------------------------|
//! | 0  | 8     | magic `TERRREC2`                         | 40 | 4     | entries, at least 1                       |
//! | 8  | 8     | file id                                  | 44 | 4     | pages of the whole record                 |
//! | 16 | 4     | segment                                  | 48 | 4     | CRC32C of header and entries, this as zero|
//! | 20 | 4     | generation                               | 52 | 8     | epoch of its volume, or zero              |
//! | 24 | 8     | sequence, counted on over all segments   | 60 | 4     | seconds of the cache's clock when it was planned |
//! | 32 | 8     | every record up to this sequence was synced before this one was made | | |                          |
//!
//! An entry is 8 bytes block id, 8 version, 4 CRC32C of its pages (seeded like that of any block), 4 count of its pages,
//! then the mask of its sectors, 8 bytes for 64 of them. Its pages are those of the block that have a sector in the
//! mask; what else is in them means nothing.
//!
//! The newest copy of a block that has a sector says what is in it. In format 1 no copy was narrower than the one that it
//! superseded, and whoever knows that format alone takes the newest for all there is: hence the other magic. Records of
//! format 1 mean the same here.
//!
//! Trusted when the header's checksum holds and it names the place it is in: `recover_log` says which sequences those
//! are, and whether the data must be read as well. Breaking that loses or invents data.

use std::io::IoSlice;
use std::ops::Range;

use crate::block::{BlockId, BlockSize, PAGE_BYTES, SECTOR_BYTES, Version, mask};
use crate::device::Device;
use crate::error::Result;

use super::dirty_log::LogTicket;
use super::format::{block_crc_of, crc_around, get_u32, get_u64, put};
use super::header_pages::HeaderPages;

pub(super) const RECORD_MAGIC: [u8; 8] = *b"TERRREC2";
const RECORD_MAGIC_1: [u8; 8] = *b"TERRREC1";
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 24;
const SECTORS_A_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;

/// Which sectors of a block a copy has, one bit each.
pub type SectorMask = Box<[u64]>;

/// The pages of a block that have a sector in `mask`, as runs of pages.
pub(super) fn page_runs(mask: &[u64], size: BlockSize) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut runs = mask::runs(mask, size.sectors())
        .map(|run| run.start / SECTORS_A_PAGE..run.end.div_ceil(SECTORS_A_PAGE))
        .peekable();
    std::iter::from_fn(move || {
        let mut run = runs.next()?;
        while let Some(next) = runs.next_if(|next| next.start <= run.end) {
            run.end = next.end;
        }
        Some(run)
    })
}

/// How many these are.
// Not by `page_runs`: recovery asks this a few times for each copy in the log.
pub(super) fn page_count(mask: &[u64], size: BlockSize) -> u32 {
    const { assert!(SECTORS_A_PAGE == u8::BITS as usize, "the sectors of a page are a byte of the mask") };
    let inside = u64::MAX >> (u64::BITS as usize - size.sectors().min(u64::BITS as usize));
    mask.iter().map(|word| count_bytes(word & inside)).sum()
}

/// How many bytes of `word` are not zero.
fn count_bytes(word: u64) -> u32 {
    const LOWEST_BITS: u64 = u64::MAX / 0xff;
    let folded = word | word >> 4;
    let folded = folded | folded >> 2;
    ((folded | folded >> 1) & LOWEST_BITS).count_ones()
}

/// The bytes that header and entries of a record take.
pub(super) fn header_bytes(entries: usize, size: BlockSize) -> usize {
    HEADER_BYTES + entries * entry_bytes(size)
}

/// The pages that they take.
pub(super) fn header_pages(entries: usize, size: BlockSize) -> u32 {
    header_bytes(entries, size).div_ceil(PAGE_BYTES) as u32
}

fn entry_bytes(size: BlockSize) -> usize {
    ENTRY_BYTES + 8 * size.mask_words()
}

/// One block in a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RecordEntry {
    pub(super) block: BlockId,
    pub(super) version: Version,
    pub(super) crc: u32,
    pub(super) mask: SectorMask,
}

/// A record without its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RecordHeader {
    pub(super) file_id: u64,
    pub(super) segment: u32,
    pub(super) generation: u32,
    pub(super) sequence: u64,
    pub(super) synced_through: u64,
    /// Of the volume that its blocks are of, if that is destaged epoch by epoch, and else 0.
    pub(super) epoch: u64,
    /// When it was planned, in seconds by the clock of whoever planned it.
    pub(super) written_s: u32,
    pub(super) entries: Vec<RecordEntry>,
}

impl RecordHeader {
    /// The pages of the whole record.
    pub(super) fn pages(&self, size: BlockSize) -> u32 {
        let data: u32 = self.entries.iter().map(|entry| page_count(&entry.mask, size)).sum();
        header_pages(self.entries.len(), size) + data
    }

    /// Puts it together in `memory`, which is long enough: the pages to be written.
    pub(super) fn write_to<'a>(&self, memory: &'a mut HeaderPages, size: BlockSize) -> &'a [u8] {
        let header = memory.begin(header_bytes(self.entries.len(), size));
        put(header, 0, &RECORD_MAGIC);
        put(header, 8, &self.file_id.to_le_bytes());
        put(header, 16, &self.segment.to_le_bytes());
        put(header, 20, &self.generation.to_le_bytes());
        put(header, 24, &self.sequence.to_le_bytes());
        put(header, 32, &self.synced_through.to_le_bytes());
        put(header, 40, &(self.entries.len() as u32).to_le_bytes());
        put(header, 44, &self.pages(size).to_le_bytes());
        put(header, 52, &self.epoch.to_le_bytes());
        put(header, 60, &self.written_s.to_le_bytes());
        for (entry, bytes) in
            self.entries.iter().zip(header[HEADER_BYTES..].chunks_exact_mut(entry_bytes(size)))
        {
            put(bytes, 0, &entry.block.as_u64().to_le_bytes());
            put(bytes, 8, &entry.version.as_u64().to_le_bytes());
            put(bytes, 16, &entry.crc.to_le_bytes());
            put(bytes, 20, &page_count(&entry.mask, size).to_le_bytes());
            for (index, word) in entry.mask.iter().enumerate() {
                put(bytes, ENTRY_BYTES + 8 * index, &word.to_le_bytes());
            }
        }
        let crc = crc_around(header, 48);
        put(header, 48, &crc.to_le_bytes());
        memory.pages()
    }

    /// How many pages the header at the start of `page` takes, if it may be one of this place; unverified.
    pub(super) fn peek_pages(page: &[u8], place: RecordPlace, size: BlockSize) -> Option<u32> {
        let is_here = [RECORD_MAGIC, RECORD_MAGIC_1].iter().any(|magic| page[..8] == magic[..])
            && get_u64(page, 8) == place.file_id
            && get_u32(page, 16) == place.segment
            && place.generation.is_none_or(|generation| generation == get_u32(page, 20));
        let entries = get_u32(page, 40);
        let fits =
            is_here && (1..=get_u32(page, 44)).contains(&entries) && get_u32(page, 44) <= place.pages_left;
        fits.then(|| header_pages(entries as usize, size))
    }

    /// The header and entries in `bytes`, as long as [`Self::peek_pages`] said, when they are whole and possible.
    pub(super) fn from_bytes(bytes: &[u8], place: RecordPlace, size: BlockSize) -> Option<Self> {
        Self::peek_pages(bytes, place, size)?;
        let count = get_u32(bytes, 40) as usize;
        let end = header_bytes(count, size);
        if bytes.len() < end || crc_around(&bytes[..end], 48) != get_u32(bytes, 48) {
            return None;
        }
        let entries: Vec<RecordEntry> = bytes[HEADER_BYTES..end]
            .chunks_exact(entry_bytes(size))
            .map(|bytes| RecordEntry {
                block: BlockId::from_u64(get_u64(bytes, 0)),
                version: Version::from_u64(get_u64(bytes, 8)),
                crc: get_u32(bytes, 16),
                mask: (0..size.mask_words()).map(|index| get_u64(bytes, ENTRY_BYTES + 8 * index)).collect(),
            })
            .collect();
        let header = Self {
            file_id: place.file_id,
            segment: place.segment,
            generation: get_u32(bytes, 20),
            sequence: get_u64(bytes, 24),
            synced_through: get_u64(bytes, 32),
            epoch: get_u64(bytes, 52),
            written_s: get_u32(bytes, 60),
            entries,
        };
        let is_possible = header.entries.iter().all(|entry| page_count(&entry.mask, size) > 0)
            && header.pages(size) == get_u32(bytes, 44)
            && header.synced_through < header.sequence;
        is_possible.then_some(header)
    }
}

/// Bytes that a record of so many blocks takes on the device, of which so many pages go there.
pub fn record_bytes(blocks: usize, pages: u64, size: BlockSize) -> u64 {
    (u64::from(header_pages(blocks, size)) + pages) * PAGE_BYTES as u64
}

/// What a header must say to be one of the place it is found in.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordPlace {
    pub(super) file_id: u64,
    pub(super) segment: u32,
    /// None for the first of a segment whose generation is not known.
    pub(super) generation: Option<u32>,
    /// Pages from here to the end of the segment.
    pub(super) pages_left: u32,
}

/// Where one record is to be written, and what it says.
pub struct RecordPlan {
    pub(super) ticket: LogTicket,
    pub(super) header: RecordHeader,
    /// Of a record before; none before there is a use for it.
    pub(super) pages: Option<HeaderPages>,
    pub(super) offset: u64,
    pub(super) size: BlockSize,
}

impl RecordPlan {
    /// The blocks that found room, in the order in which they were given: the first so many.
    pub fn block_count(&self) -> usize {
        self.header.entries.len()
    }

    /// To ask what becomes of it.
    pub fn ticket(&self) -> LogTicket {
        self.ticket
    }

    /// Bytes that it takes on the device.
    pub fn bytes(&self) -> u64 {
        u64::from(self.header.pages(self.size)) * PAGE_BYTES as u64
    }

    /// Writes the record: `blocks` are the whole blocks, one an entry, of which it takes the pages that it needs.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, device: &dyn Device, blocks: &[&[u8]]) -> Result<()> {
        assert_eq!(blocks.len(), self.header.entries.len(), "one slice an entry");
        let (file_id, generation, size) = (self.header.file_id, self.header.generation, self.size);
        for (entry, block) in self.header.entries.iter_mut().zip(blocks) {
            entry.crc = copy_crc(file_id, generation, entry.block, &entry.mask, size, block);
        }
        let new_pages = || HeaderPages::new(header_bytes(blocks.len(), size));
        let header = self.header.write_to(self.pages.get_or_insert_with(new_pages), size);
        let mut buffers = Vec::with_capacity(1 + blocks.len());
        buffers.push(IoSlice::new(header));
        for (entry, block) in self.header.entries.iter().zip(blocks) {
            buffers.extend(page_runs(&entry.mask, size).map(|run| IoSlice::new(&block[page_bytes(&run)])));
        }
        device.write(self.offset, &buffers)
    }
}

/// The checksum of the pages of a whole block that a copy with this mask has.
fn copy_crc(
    file_id: u64,
    generation: u32,
    block: BlockId,
    mask: &[u64],
    size: BlockSize,
    bytes: &[u8],
) -> u32 {
    block_crc_of(file_id, block, generation, page_runs(mask, size).map(|run| &bytes[page_bytes(&run)]))
}

pub(super) fn page_bytes(pages: &Range<usize>) -> Range<usize> {
    pages.start * PAGE_BYTES..pages.end * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_mask_are_counted_as_they_are_listed() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for block_bytes in [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 1 << 20] {
            let size = BlockSize::new(block_bytes).expect("a power of two");
            for round in 0..1000 {
                // Few bits, most, and also beyond the end of a block, where a file that is damaged may have some.
                let word = |random: &mut fastrand::Rng| match round % 3 {
                    0 => random.u64(..),
                    1 => random.u64(..) & random.u64(..) & random.u64(..) & random.u64(..),
                    _ => random.u64(..) | random.u64(..) | random.u64(..),
                };
                let mask: Vec<u64> = (0..size.mask_words()).map(|_| word(&mut random)).collect();
                let listed: usize = page_runs(&mask, size).map(|run| run.len()).sum();
                assert_eq!(page_count(&mask, size), listed as u32, "seed {seed}: {block_bytes}, {mask:x?}");
            }
        }
    }
}

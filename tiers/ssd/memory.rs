//! The RAM that the books of a cache file take at the most, by its layout.
//!
//! Clean copies have a table that is sized with the file: 20 bytes for each block that fits it, with all that is beside it.
//! Twenty are out of reach for copies in the log: a slot of a chain is 48 (version, checksum and mask of a copy are only
//! here, since no summary has them and several together make a block), its number in the table of chains 6 to 12, and in
//! the list of its segment 5; a copy without neighbours takes up to 36 in the order of destage, one with them nearly none.
//! So their number has a bound: when there are as many as may be, the log is as good as full, and takes more once some are
//! destaged.
//!
//! `bench/tests/dirty_memory.rs` holds the figures against what is allocated.

use super::geometry::Geometry;

/// For each block that fits the file.
const BYTES_PER_BLOCK: u64 = 20;

/// For each copy in the log.
const BYTES_PER_LOG_COPY: u64 = 104;

/// And for each word of its mask beyond one, with what those take together where they are kept beside.
const BYTES_PER_MASK_WORD: u64 = 8;
const BYTES_PER_MASK: u64 = 64;

/// Copies in the log may take so much, or a byte for each of these, whichever is more: of 16 KiB blocks a seventh may be
/// dirty, of smaller ones fewer, and of larger ones there is room for several copies of each.
const LOG_BYTES_PER_BLOCK: u64 = 10;
const FILE_BYTES_PER_LOG_BYTE: u64 = 1024;

/// So many copies there may be in the log of the smallest file.
const LOG_COPIES_MIN: u64 = 4096;

impl Geometry {
    /// Bytes of RAM that the tier's books take at the most, with as many blocks in the log as there may be.
    pub fn index_bytes_max(&self) -> u64 {
        self.index_bytes_without_log() + self.log_copies_max() * self.log_copy_bytes_max()
    }

    /// The same without any block in the log.
    pub fn index_bytes_without_log(&self) -> u64 {
        self.capacity_blocks() * BYTES_PER_BLOCK
    }

    /// How many copies of blocks the log may have: at least a dirty block each.
    pub fn log_copies_max(&self) -> u64 {
        let file_bytes = u64::from(self.capacity_segments) * self.segment_bytes;
        let bytes = (self.capacity_blocks() * LOG_BYTES_PER_BLOCK).max(file_bytes / FILE_BYTES_PER_LOG_BYTE);
        (bytes / self.log_copy_bytes_max()).max(LOG_COPIES_MIN)
    }

    /// Bytes of RAM that a copy in the log takes at the most.
    pub fn log_copy_bytes_max(&self) -> u64 {
        match self.block_size.mask_words() as u64 {
            1 => BYTES_PER_LOG_COPY,
            words => BYTES_PER_LOG_COPY + BYTES_PER_MASK + words * BYTES_PER_MASK_WORD,
        }
    }
}

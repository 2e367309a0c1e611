//! What a read gives back: references to frames, and where they came from.

use std::ops::Deref;

use smallvec::SmallVec;
use terrace_tiers::ram::frames::FrameRef;

/// Where the blocks of one call came from, counted in blocks.
///
/// Of a read, `ram + ssd + disk` is what it touched. Of a write, `ram` counts the blocks that were resident.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Answer {
    pub ram_blocks: u32,
    pub ssd_blocks: u32,
    pub disk_blocks: u32,
}

impl Answer {
    /// Both together.
    pub fn add(&mut self, other: Answer) {
        self.ram_blocks += other.ram_blocks;
        self.ssd_blocks += other.ssd_blocks;
        self.disk_blocks += other.disk_blocks;
    }
}

/// Bytes of one block, lent by the cache without a copy.
///
/// They do not change while the reference lives: a write to the block meanwhile goes to another frame. The frame is
/// not free for other blocks until then, so hold few references and not for long.
#[derive(Clone)]
pub struct BlockRef {
    frame: FrameRef,
    start: u32,
    end: u32,
}

impl BlockRef {
    pub(super) fn new(frame: FrameRef, start: usize, end: usize) -> Self {
        Self { frame, start: start as u32, end: end as u32 }
    }
}

impl Deref for BlockRef {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.frame[self.start as usize..self.end as usize]
    }
}

/// The bytes of one read, in order: the part of each block that was asked for.
#[derive(Clone)]
pub struct Blocks {
    pub(super) parts: SmallVec<[BlockRef; 2]>,
    pub(super) answer: Answer,
}

impl Blocks {
    /// One reference a block, in the order of addresses.
    pub fn parts(&self) -> &[BlockRef] {
        &self.parts
    }

    /// Where the blocks came from.
    pub fn answer(&self) -> Answer {
        self.answer
    }

    pub fn len_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Copies all bytes into `buffer`.
    ///
    /// # Panics
    /// When `buffer` is not exactly [`Self::len_bytes`] long.
    pub fn copy_to(&self, buffer: &mut [u8]) {
        let mut rest = buffer;
        for part in &self.parts {
            let (now, later) = rest.split_at_mut(part.len());
            now.copy_from_slice(part);
            rest = later;
        }
        assert!(rest.is_empty(), "the buffer is {} bytes longer than the answer", rest.len());
    }
}

//! What RAM knows of one block: the table at the head of `index.rs` has its states.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};
use terrace_tiers::block::{BlockSize, Version, mask};
use terrace_tiers::ram::frames::FrameRef;

/// Which sectors of a block are valid, dirty (newer than below) and unsynced (written below, no sync since).
#[derive(Clone, Debug)]
pub(super) struct Sectors {
    words: usize,
    bits: SmallVec<[u64; 3]>,
}

impl Sectors {
    /// Of a block whose sectors are all valid, or all not.
    pub(super) fn new(size: BlockSize, all_valid: bool) -> Self {
        let words = size.mask_words();
        let mut sectors = Self { words, bits: smallvec![0; words * 3] };
        if all_valid {
            mask::set(sectors.valid_mut(), 0..size.sectors());
        }
        sectors
    }

    pub(super) fn valid(&self) -> &[u64] {
        &self.bits[..self.words]
    }

    pub(super) fn valid_mut(&mut self) -> &mut [u64] {
        &mut self.bits[..self.words]
    }

    pub(super) fn dirty(&self) -> &[u64] {
        &self.bits[self.words..2 * self.words]
    }

    pub(super) fn dirty_mut(&mut self) -> &mut [u64] {
        &mut self.bits[self.words..2 * self.words]
    }

    pub(super) fn unsynced_mut(&mut self) -> &mut [u64] {
        &mut self.bits[2 * self.words..]
    }

    pub(super) fn unsynced(&self) -> &[u64] {
        &self.bits[2 * self.words..]
    }
}

/// What a shard knows of the block in one slot.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) frame: Option<FrameRef>,
    /// Of the last write, or the volume's when the block was read from below.
    pub(super) version: Version,
    pub(super) sectors: Option<Box<Sectors>>,
    /// The flush epoch in which the block became dirty; meaningful while it is.
    pub(super) dirty_epoch: u64,
    /// The sync that will cover what was written below; meaningful while `unsynced` is set.
    pub(super) covered_by: u64,
    pub(super) filling: bool,
    pub(super) dirty: bool,
    /// A write below is under way.
    pub(super) writing: bool,
    pub(super) unsynced: bool,
    /// Written by an `around` write: it leaves RAM as soon as it may, and goes nowhere.
    pub(super) passes: bool,
    /// The block was discarded since the write below began that is under way: its end changes nothing.
    pub(super) is_void_write: bool,
    /// The block was forgotten: it goes when the fill and the write below end that are under way.
    pub(super) is_forgotten: bool,
}

impl Entry {
    /// Whether written sectors keep the block here.
    pub(super) fn is_pinned(&self) -> bool {
        self.dirty || self.writing || self.unsynced
    }

    pub(super) fn may_leave(&self) -> bool {
        let is_filled_around = self.filling && self.frame.is_some();
        !self.is_pinned() && !is_filled_around
    }

    /// Whether every sector of `range` may be read.
    #[inline]
    pub(super) fn has(&self, range: Range<usize>) -> bool {
        self.frame.is_some()
            && self.sectors.as_ref().is_none_or(|sectors| mask::contains(sectors.valid(), range))
    }

    pub(super) fn sectors_mut(&mut self, size: BlockSize) -> &mut Sectors {
        let all_valid = self.frame.is_some();
        self.sectors.get_or_insert_with(|| Box::new(Sectors::new(size, all_valid)))
    }
}

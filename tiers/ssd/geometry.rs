//! Where things lie in a cache file.
//!
//! ```text
//! 0        4096     8192              journal_offset + journal_bytes
//! | super A | super B | journal: 2 halves | checkpoint A | checkpoint B | segment 0 | segment 1 | ...
//!
//! a segment: | slot 0 | slot 1 | ... | summary |      a slot: one block, nothing else
//! ```
//!
//! A file that was resized has more or fewer segments of the same size, and where more of them need larger checkpoint areas
//! these are behind the last one.
//!
//! All offsets and lengths are multiples of 4096. A summary is 64 bytes and 32 a slot, rounded up to a page, so that
//! segments of 128 k - 2 slots waste nothing: 1022 blocks of 16 KiB and 32 KiB of summary are 16 MiB exactly.
//!
//! Everything that is not a slot costs at most 0.6 % of a file of 256 MiB or more with blocks of 16 KiB (a test holds
//! it). The spare segments come on top: they are slots that stay free, so that there is always one to write to.

use std::ops::Range;

use crate::block::{BlockSize, PAGE_BYTES};
use crate::error::{Error, Result};

use super::format::{SUMMARY_ENTRY_BYTES, SUMMARY_HEADER_BYTES};
use super::table::{PLACE_LIMIT, Place};
use super::tombstones::PIECES_MAX;

const PAGE: u64 = PAGE_BYTES as u64;

/// A segment with its summary is at most this long.
// 16 MiB: a reclaim reads and moves what a fast SSD writes in 10 ms, and the summary fills its pages exactly.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// Fewer slots would make the summaries' pages weigh too much.
const SLOTS_MIN: u64 = 8;
/// A smaller cache is cut into about this many segments: half a segment is free on average, 0.4 % of the cache.
const SEGMENTS_WANTED: u64 = 128;
const JOURNAL_HALF_BYTES_MAX: u64 = 64 << 20;
/// How many blocks may be demoted before anything is reclaimed.
const BURST_BLOCKS: u64 = 1024;
/// Two open streams, two full segments that wait for the sync of their summaries, one being emptied, and one emptied
/// whose retirement waits for the same sync: with fewer, appends at the speed of the device find none free.
const PIPELINE_SEGMENTS: u64 = 6;

/// How a cache file is laid out. All offsets and lengths are multiples of 4096.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub block_size: BlockSize,
    pub segment_bytes: u64,
    pub slots_per_segment: u32,
    pub segment_count: u32,
    /// Segments that may hold cached blocks for long; the rest are spare, so that there is always one to write to.
    pub capacity_segments: u32,
    pub journal_offset: u64,
    /// Of both halves together.
    pub journal_bytes: u64,
    pub checkpoint_offset: u64,
    /// Of one of the two checkpoint areas.
    pub checkpoint_bytes: u64,
    pub segments_offset: u64,
}

impl Geometry {
    /// The best layout in a file of at most `file_bytes`.
    ///
    /// # Errors
    /// [`Error::Size`] when not even one segment and its spares fit, or places would not fit 31 bits.
    pub fn for_bytes(block_size: BlockSize, file_bytes: u64) -> Result<Self> {
        let slots = slots_wanted(block_size, file_bytes >> block_size.shift());
        // Whole pages of summary where there is more than one.
        let slots = if slots >= 126 { (slots + 2) / 128 * 128 - 2 } else { slots };
        let mut count = file_bytes / segment_bytes(block_size, slots);
        loop {
            let mut capacity = count;
            while capacity > 0 && capacity + spare_segments(slots, capacity) > count {
                capacity -= 1;
            }
            if capacity == 0 {
                let needed = Self::layout(block_size, SLOTS_MIN, 1)?.file_bytes();
                let remedy = format!("give it at least {needed} bytes");
                return Err(Error::Size { what: "a cache file", bytes: file_bytes, remedy });
            }
            let mut geometry = Self::layout(block_size, slots, capacity)?;
            geometry.segment_count = geometry.segment_count.max(count as u32);
            if geometry.file_bytes() <= file_bytes {
                return Ok(geometry);
            }
            count -= 1;
        }
    }

    /// A layout that caches exactly `blocks` blocks (the file is larger by the spare segments), or where no segment
    /// of a good size divides them, within half a segment of it, less than 1 % from 1024 blocks on.
    ///
    /// # Errors
    /// [`Error::Size`] when `blocks` is zero or places would not fit 31 bits.
    pub fn for_blocks(block_size: BlockSize, blocks: u64) -> Result<Self> {
        if blocks == 0 {
            let remedy = "give it at least one block".to_owned();
            return Err(Error::Size { what: "a cache file", bytes: 0, remedy });
        }
        let wanted = slots_wanted(block_size, blocks);
        let good = SLOTS_MIN.max(wanted / 2)..=(wanted * 2).min(slots_max(block_size));
        let slots = good
            .filter(|slots| blocks.is_multiple_of(*slots))
            .min_by_key(|slots| slots.abs_diff(wanted))
            .unwrap_or(wanted);
        Self::layout(block_size, slots, ((blocks + slots / 2) / slots).max(1))
    }

    fn layout(block_size: BlockSize, slots: u64, capacity: u64) -> Result<Self> {
        let count = capacity.saturating_add(spare_segments(slots, capacity));
        if count.saturating_mul(slots) >= u64::from(PLACE_LIMIT) {
            let bytes = count.saturating_mul(slots).saturating_mul(block_size.bytes() as u64);
            let remedy = "use larger blocks: at most 2^31 of them fit one cache file".to_owned();
            return Err(Error::Size { what: "a cache file", bytes, remedy });
        }
        let segment_bytes = segment_bytes(block_size, slots);
        let slot_bytes_total = count * segment_bytes;
        let journal_half = round_up(slot_bytes_total / 2048).clamp(32 << 10, JOURNAL_HALF_BYTES_MAX);
        let mut geometry = Self {
            block_size,
            segment_bytes,
            slots_per_segment: slots as u32,
            segment_count: count as u32,
            capacity_segments: capacity as u32,
            journal_offset: 2 * PAGE,
            journal_bytes: 2 * journal_half,
            checkpoint_offset: 2 * PAGE + 2 * journal_half,
            checkpoint_bytes: 0,
            segments_offset: 0,
        };
        geometry.checkpoint_bytes = geometry.checkpoint_bytes_needed();
        geometry.segments_offset = geometry.checkpoint_offset + 2 * geometry.checkpoint_bytes;
        Ok(geometry)
    }

    /// What a checkpoint takes at the most.
    fn checkpoint_bytes_needed(&self) -> u64 {
        let bits = (self.live_words() + self.hit_words()).max(self.copy_words()) as u64;
        // What the items weigh, and headers and padding of chunks of half a MiB at least.
        let items = self.volume_table_bytes()
            + u64::from(self.segment_count) * (64 + 8 * bits)
            // The list of ids lately refused or evicted: 2 bytes each, and heads of its stretches.
            + self.capacity_blocks() * 2 + (self.capacity_blocks() / 1024 + 1) * 32
            // A tombstone is 36 bytes.
            + PIECES_MAX as u64 * 36
            + 256;
        round_up(items + (items / (512 << 10) + 1) * (64 + PAGE))
    }

    /// This layout with as many segments as `file_bytes` have room for. Segments and journal are where they were; the
    /// checkpoint areas are between them as long as they fit there, and else behind the last segment, but never over
    /// the present ones.
    ///
    /// # Errors
    /// [`Error::Size`] when not even one segment and its spares fit.
    pub(super) fn resized(&self, file_bytes: u64) -> Result<Self> {
        let most = file_bytes.saturating_sub(self.segments_offset) / self.segment_bytes;
        let most = most.min(u64::from(PLACE_LIMIT - 1) / u64::from(self.slots_per_segment)) as u32;
        let mut fitting = (1..=most).rev().filter_map(|count| self.with_segments(count));
        fitting.find(|geometry| geometry.file_bytes() <= file_bytes).ok_or_else(|| {
            let smallest = (1..=self.segment_count).find_map(|count| self.with_segments(count));
            let remedy = format!("give it at least {} bytes", smallest.unwrap_or(*self).file_bytes());
            Error::Size { what: "a cache file", bytes: file_bytes, remedy }
        })
    }

    /// None when so few are too few, or the checkpoint areas find no place.
    fn with_segments(&self, count: u32) -> Option<Self> {
        if count == self.segment_count {
            return Some(*self);
        }
        let (slots, wanted) = (u64::from(self.slots_per_segment), u64::from(count));
        let capacity =
            (1..wanted).rev().find(|&capacity| capacity + spare_segments(slots, capacity) <= wanted)?;
        let mut geometry = Self { segment_count: count, capacity_segments: capacity as u32, ..*self };
        let needed = geometry.checkpoint_bytes_needed();
        let front = self.journal_offset + self.journal_bytes;
        let room_in_front = (self.segments_offset - front) / 2 / PAGE * PAGE;
        (geometry.checkpoint_offset, geometry.checkpoint_bytes) =
            if needed <= room_in_front { (front, room_in_front) } else { (geometry.segments_end(), needed) };
        let (old, new) = (self.checkpoint_areas(), geometry.checkpoint_areas());
        (old == new || old.end <= new.start || new.end <= old.start).then_some(geometry)
    }

    /// Whether a file can be laid out so: for numbers that nobody has checked.
    pub(super) fn is_possible(&self) -> bool {
        let (count, slots) = (u64::from(self.segment_count), u64::from(self.slots_per_segment));
        let has_segments = (SLOTS_MIN..=slots_max(self.block_size)).contains(&slots)
            && self.segment_bytes == segment_bytes(self.block_size, slots)
            && (1..count).contains(&u64::from(self.capacity_segments))
            && count * slots < u64::from(PLACE_LIMIT);
        let offsets =
            [self.journal_bytes / 2, self.checkpoint_offset, self.checkpoint_bytes, self.segments_offset];
        let has_offsets =
            offsets.iter().all(|&offset| offset.is_multiple_of(PAGE) && (PAGE..1 << 60).contains(&offset))
                && self.journal_offset == 2 * PAGE
                && self.journal_bytes <= 2 * JOURNAL_HALF_BYTES_MAX;
        if !has_segments || !has_offsets {
            return false;
        }
        let areas = self.checkpoint_areas();
        let journal_end = self.journal_offset + self.journal_bytes;
        let is_in_front = journal_end <= areas.start && areas.end <= self.segments_offset;
        is_in_front || journal_end <= self.segments_offset && self.segments_end() <= areas.start
    }

    pub fn file_bytes(&self) -> u64 {
        self.segments_end().max(self.checkpoint_areas().end)
    }

    fn segments_end(&self) -> u64 {
        self.segments_offset + u64::from(self.segment_count) * self.segment_bytes
    }

    fn checkpoint_areas(&self) -> Range<u64> {
        self.checkpoint_offset..self.checkpoint_offset + 2 * self.checkpoint_bytes
    }

    pub fn capacity_blocks(&self) -> u64 {
        u64::from(self.capacity_segments) * u64::from(self.slots_per_segment)
    }

    /// How many blocks there is room for at any moment, spare segments included.
    pub(super) fn slot_count(&self) -> usize {
        self.segment_count as usize * self.slots_per_segment as usize
    }

    pub(super) fn place(&self, segment: u32, slot: u32) -> Place {
        segment * self.slots_per_segment + slot
    }

    pub(super) fn summary_bytes(&self) -> u64 {
        self.segment_bytes - (u64::from(self.slots_per_segment) << self.block_size.shift())
    }

    pub(super) fn segment_offset(&self, segment: u32) -> u64 {
        self.segments_offset + u64::from(segment) * self.segment_bytes
    }

    pub(super) fn slot_offset(&self, segment: u32, slot: u32) -> u64 {
        self.segment_offset(segment) + (u64::from(slot) << self.block_size.shift())
    }

    pub(super) fn summary_offset(&self, segment: u32) -> u64 {
        self.slot_offset(segment, self.slots_per_segment)
    }

    /// Where half 0 or 1 of the journal starts.
    pub(super) fn journal_half_offset(&self, half: usize) -> u64 {
        self.journal_offset + half as u64 * self.journal_half_bytes()
    }

    pub(super) fn journal_half_bytes(&self) -> u64 {
        self.journal_bytes / 2
    }

    pub(super) fn checkpoint_area_offset(&self, area: u32) -> u64 {
        self.checkpoint_offset + u64::from(area) * self.checkpoint_bytes
    }

    /// What the records of all volumes together may take in a checkpoint; like the journal it stays in a resize.
    pub(super) fn volume_table_bytes(&self) -> u64 {
        (self.journal_half_bytes() / 4).clamp(32 << 10, 4 << 20)
    }

    /// The words of a segment's live bits, one a slot.
    pub(super) fn live_words(&self) -> usize {
        (self.slots_per_segment as usize).div_ceil(64)
    }

    /// The words of a bit for each copy that fits a segment of the dirty stream.
    pub(super) fn copy_words(&self) -> usize {
        // A page a copy, and one of a header with each 32 of the largest entries: more than half are copies.
        (self.segment_bytes as usize / PAGE_BYTES).div_ceil(64)
    }

    /// The words of a segment's hit bits, two a slot.
    pub(super) fn hit_words(&self) -> usize {
        (self.slots_per_segment as usize).div_ceil(32)
    }
}

fn round_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}

fn segment_bytes(block_size: BlockSize, slots: u64) -> u64 {
    (slots << block_size.shift()) + round_up(SUMMARY_HEADER_BYTES as u64 + slots * SUMMARY_ENTRY_BYTES as u64)
}

fn slots_max(block_size: BlockSize) -> u64 {
    let slot_bytes = block_size.bytes() as u64 + SUMMARY_ENTRY_BYTES as u64;
    ((SEGMENT_BYTES_MAX - SUMMARY_HEADER_BYTES as u64) / slot_bytes).max(SLOTS_MIN)
}

fn slots_wanted(block_size: BlockSize, blocks: u64) -> u64 {
    (blocks / SEGMENTS_WANTED).clamp(SLOTS_MIN, slots_max(block_size))
}

/// Segments beyond `capacity`: a burst (a quarter of a tiny cache), and what is on its way through reclaim.
fn spare_segments(slots: u64, capacity: u64) -> u64 {
    let burst = BURST_BLOCKS.min(slots.saturating_mul(capacity) / 4);
    burst.div_ceil(slots).max(2) + PIPELINE_SEGMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_not_a_slot_costs_at_most_6_per_mille_from_256_mib_on() {
        for mib in [256u64, 300, 512, 1000, 1 << 10, 4 << 10, 100 << 10, 1 << 20, 8 << 20] {
            let geometry = Geometry::for_bytes(BlockSize::DEFAULT, mib << 20).expect("fits");
            let slots = (geometry.slot_count() as u64) << geometry.block_size.shift();
            let waste = (mib << 20) - slots;
            let slack = (mib << 20) - geometry.file_bytes();
            // What is left over is less than a segment.
            assert!(slack < geometry.segment_bytes, "{mib} MiB");
            let overhead = (waste - slack) as f64 / (mib << 20) as f64;
            assert!(overhead <= 0.006, "{mib} MiB: {overhead}");
            if mib >= 32 << 10 {
                let cached = geometry.capacity_blocks() << geometry.block_size.shift();
                assert!(cached as f64 >= 0.994 * (mib << 20) as f64, "{mib} MiB with spares and slack");
            }
        }
    }

    #[test]
    fn a_layout_for_so_many_blocks_holds_them_within_one_percent() {
        for blocks in
            [8u64, 9, 100, 1000, 4000, 8192, 10_000, 10_007, 20_000, 32_768, 99_991, 262_144, 5_000_000]
        {
            let geometry = Geometry::for_blocks(BlockSize::DEFAULT, blocks).expect("fits");
            let error = geometry.capacity_blocks().abs_diff(blocks);
            assert!(error * 100 <= blocks || blocks < 1024, "{blocks}: {geometry:?}");
            assert!(geometry.segment_bytes <= SEGMENT_BYTES_MAX);
        }
        for blocks in [1000, 4000, 8192, 10_000, 20_000, 32_768, 131_072, 262_144] {
            let geometry = Geometry::for_blocks(BlockSize::DEFAULT, blocks).expect("fits");
            assert_eq!(geometry.capacity_blocks(), blocks, "the sizes of the reference figures are exact");
        }
    }

    #[test]
    fn a_file_too_small_or_too_large_is_refused_with_a_size_that_works() {
        for block_bytes in [4 << 10, 16 << 10, 1 << 20] {
            let block_size = BlockSize::new(block_bytes).expect("a power of two");
            for bytes in [0, 4096, 100_000] {
                assert!(matches!(Geometry::for_bytes(block_size, bytes), Err(Error::Size { .. })));
            }
            let smallest = Geometry::layout(block_size, SLOTS_MIN, 1).expect("fits").file_bytes();
            assert!(Geometry::for_bytes(block_size, smallest).expect("fits").file_bytes() <= smallest);
        }
        let smallest_blocks = BlockSize::new(4096).expect("a power of two");
        assert!(matches!(Geometry::for_bytes(smallest_blocks, u64::MAX / 2), Err(Error::Size { .. })));
        assert!(matches!(Geometry::for_blocks(smallest_blocks, u64::MAX / 2), Err(Error::Size { .. })));
    }

    #[test]
    fn a_resized_layout_fits_keeps_its_segments_and_never_lies_over_the_checkpoints_it_replaces() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let block_size = BlockSize::new(4096 << random.u32(..5)).expect("a size");
            let mut before = Geometry::for_blocks(block_size, random.u64(8..20_000)).expect("fits");
            let first = before;
            for _ in 0..8 {
                let bytes = before.file_bytes() * random.u64(20..400) / 100;
                let Ok(after) = before.resized(bytes) else {
                    assert!(bytes < first.file_bytes(), "seed {seed}");
                    continue;
                };
                assert!(after.is_possible() && after.file_bytes() <= bytes, "seed {seed}: {after:?}");
                assert_eq!(
                    (after.segments_offset, after.segment_bytes),
                    (first.segments_offset, first.segment_bytes)
                );
                assert_eq!(
                    (after.journal_offset, after.journal_bytes),
                    (first.journal_offset, first.journal_bytes)
                );
                let (old, new) = (before.checkpoint_areas(), after.checkpoint_areas());
                assert!(old == new || old.end <= new.start || new.end <= old.start, "seed {seed}");
                let room = u64::from(after.segment_count) * after.segment_bytes;
                let lost = 3 * after.segment_bytes + 8 * after.checkpoint_bytes + after.segments_offset;
                assert!(bytes <= room + lost, "seed {seed}: {bytes} bytes have room for more than {after:?}");
                assert_eq!(after.resized(after.file_bytes()).expect("it fits"), after, "seed {seed}");
                before = after;
            }
        }
    }

    #[test]
    fn offsets_are_page_aligned_and_nothing_overlaps() {
        for (block_bytes, blocks) in [(4096, 1000), (16384, 10_000), (1 << 20, 500)] {
            let geometry =
                Geometry::for_blocks(BlockSize::new(block_bytes).expect("a size"), blocks).expect("fits");
            let marks = [
                2 * PAGE,
                geometry.journal_half_offset(1),
                geometry.checkpoint_area_offset(0),
                geometry.checkpoint_area_offset(1),
                geometry.segments_offset,
                geometry.summary_offset(0),
                geometry.segment_offset(1),
                geometry.file_bytes(),
            ];
            assert!(marks.is_sorted_by(|a, b| a < b), "{marks:?}");
            assert!(marks.iter().all(|mark| mark.is_multiple_of(PAGE)), "{marks:?}");
            assert_eq!(geometry.summary_offset(0) + geometry.summary_bytes(), geometry.segment_offset(1));
        }
    }
}

//! What a trace is like, found in one pass and bounded memory.
//!
//! Which blocks were touched is kept exactly up to [`EXACT_BLOCKS`]; beyond that of a sample of blocks, chosen by the hash
//! of their number, that is halved whenever it grows too large. What the sample says of all is then an estimate, with
//! a standard error of `1 / sqrt(sample)`, at most 0.2 %: source, Flajolet, "On adaptive sampling", Computing 43, 1990.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::{Kind, Lost, Request, Span, TraceReader};
use crate::failure::Result;

/// 18 MiB of table. Many a published trace is below it.
const EXACT_BLOCKS: usize = 1 << 20;
const SECTOR_BYTES: u64 = 512;
/// The blocks that alignment is told for.
pub(crate) const PAGE_BYTES: u64 = 4096;
const PAGE_SECTORS: usize = (PAGE_BYTES / SECTOR_BYTES) as usize;
/// Different sizes that are counted each by itself; all further ones together.
const SIZES_MAX: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    pub(crate) requests: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) discards: u64,
    pub(crate) skipped_commands: u64,
    pub(crate) lost: Lost,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) discarded_bytes: u64,
    /// The earliest and the latest time.
    pub(crate) times_ns: Option<(u64, u64)>,
    /// Requests that are stamped before the one ahead of them.
    pub(crate) out_of_order: u64,
    pub(crate) volumes: Vec<Volume>,
    /// Requests by length, and how many were not counted so because there are too many lengths.
    pub(crate) sizes: BTreeMap<u64, u64>,
    pub(crate) other_sizes: u64,
    pub(crate) alignment: Alignment,
    pub(crate) touched: Touched,
    /// References to blocks, by reads and writes.
    pub(crate) references: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) requests: u64,
    /// Where the last of its bytes, or ids, ends.
    pub(crate) end: u64,
}

impl Profile {
    /// Reads `reader` to its end; blocks are of `block_bytes`, a power of two. `progress` is called now and then.
    pub(crate) fn of(
        reader: &mut dyn TraceReader,
        block_bytes: u64,
        mut progress: impl FnMut(),
    ) -> Result<Self> {
        let mut profile = Self::default();
        let mut last_ns = 0;
        while let Some(request) = reader.next_request()? {
            if profile.requests.is_multiple_of(4096) {
                progress();
            }
            profile.add(&request, block_bytes.trailing_zeros());
            if let Some(time) = request.time_ns {
                profile.out_of_order += u64::from(time < last_ns);
                last_ns = time;
            }
        }
        profile.skipped_commands = reader.skipped_commands();
        profile.lost = reader.lost();
        for (volume, name) in profile.volumes.iter_mut().zip(reader.volume_names()) {
            volume.name.clone_from(name);
        }
        Ok(profile)
    }

    pub(crate) fn duration_ns(&self) -> Option<u64> {
        self.times_ns.map(|(earliest, latest)| latest - earliest)
    }

    /// Lengths of requests so that as many as `share` of them are not longer.
    pub(crate) fn size_below(&self, share: f64) -> u64 {
        let counted: u64 = self.sizes.values().sum();
        let mut seen = 0;
        let reached = |&(_, &count): &(&u64, &u64)| {
            seen += count;
            seen as f64 >= share * counted as f64
        };
        self.sizes.iter().find(reached).map_or(0, |(&size, _)| size)
    }

    fn add(&mut self, request: &Request, block_shift: u32) {
        self.requests += 1;
        if let Some(time) = request.time_ns {
            let (earliest, latest) = self.times_ns.unwrap_or((time, time));
            self.times_ns = Some((earliest.min(time), latest.max(time)));
        }
        let (start, length) = request.span.parts();
        let volume = request.volume as usize;
        if volume >= self.volumes.len() {
            self.volumes.resize_with(volume + 1, Volume::default);
        }
        self.volumes[volume].requests += 1;
        self.volumes[volume].end = self.volumes[volume].end.max(start.saturating_add(length));
        let bytes = if matches!(request.span, Span::Bytes { .. }) { length } else { 0 };
        let (count, total) = match request.kind {
            Kind::Read => (&mut self.reads, Some(&mut self.read_bytes)),
            Kind::Write => (&mut self.writes, Some(&mut self.written_bytes)),
            Kind::Flush => (&mut self.flushes, None),
            Kind::Discard => (&mut self.discards, Some(&mut self.discarded_bytes)),
        };
        *count += 1;
        if let Some(total) = total {
            *total = total.saturating_add(bytes);
        }
        if matches!(request.kind, Kind::Read | Kind::Write) {
            self.count_size(length);
            self.touch(request, block_shift);
        }
    }

    fn count_size(&mut self, length: u64) {
        if let Some(count) = self.sizes.get_mut(&length) {
            *count += 1;
        } else if self.sizes.len() < SIZES_MAX {
            self.sizes.insert(length, 1);
        } else {
            self.other_sizes += 1;
        }
    }

    fn touch(&mut self, request: &Request, block_shift: u32) {
        let (first, last) = match request.span {
            Span::Ids { first, count } => (first, first.saturating_add(count.max(1) - 1)),
            Span::Bytes { offset, bytes } => {
                self.alignment.add(offset);
                (offset >> block_shift, (offset.saturating_add(bytes.max(1) - 1)) >> block_shift)
            }
        };
        for block in first..=last {
            self.touched.add(request.volume, block);
        }
        self.references += last - first + 1;
    }
}

/// Where requests begin within a page.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alignment {
    /// By the sector of the page.
    pub(crate) by_sector: [u64; PAGE_SECTORS],
    /// Not on a sector at all.
    pub(crate) inside_sector: u64,
}

impl Alignment {
    pub(crate) fn add(&mut self, offset: u64) {
        if offset.is_multiple_of(SECTOR_BYTES) {
            self.by_sector[(offset / SECTOR_BYTES) as usize % PAGE_SECTORS] += 1;
        } else {
            self.inside_sector += 1;
        }
    }

    /// How much to move all requests by so that most begin on a page, and the share of those that would then; none when
    /// that is no more than half, or when most do already.
    pub(crate) fn shift(&self) -> Option<(u64, f64)> {
        let all: u64 = self.by_sector.iter().sum::<u64>() + self.inside_sector;
        let (sector, &most) = self.by_sector.iter().enumerate().max_by_key(|&(_, count)| count)?;
        let shift = (PAGE_SECTORS - sector) as u64 * SECTOR_BYTES;
        (sector != 0 && most * 2 > all).then(|| (shift, most as f64 / all as f64))
    }
}

/// Which blocks were touched: all of them, or a sample of those whose hash is small.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    blocks: HashSet<u64, BuildHasherDefault<AsItIs>>,
    /// A block is in the sample if so many upper bits of its hash are zero.
    halvings: u32,
}

impl Touched {
    fn add(&mut self, volume: u32, block: u64) {
        let hash = mix(mix(u64::from(volume)) ^ block);
        if self.halvings > 0 && hash >> (64 - self.halvings) != 0 {
            return;
        }
        self.blocks.insert(hash);
        if self.blocks.len() > EXACT_BLOCKS {
            self.halvings += 1;
            let shift = 64 - self.halvings;
            self.blocks.retain(|hash| hash >> shift == 0);
        }
    }

    /// How many blocks were touched.
    pub(crate) fn count(&self) -> u64 {
        (self.blocks.len() as u64) << self.halvings
    }

    /// The standard error of [`Self::count`] as a share of it; 0 when it is exact.
    pub(crate) fn error(&self) -> f64 {
        if self.halvings == 0 { 0.0 } else { 1.0 / (self.blocks.len() as f64).sqrt() }
    }
}

/// The finalizer of splitmix64: a bijection, so that different blocks stay different.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// A hash of what is a hash already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        // The table looks at the upper bits, which a sample has in common.
        self.0.rotate_left(32)
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of 64 bits are hashed")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(profile: &mut Profile, kind: Kind, volume: u32, offset: u64, bytes: u64, time: u64) {
        let span = Span::Bytes { offset, bytes };
        profile.add(&Request { volume, kind, span, time_ns: Some(time) }, 12);
    }

    #[test]
    fn everything_is_counted_by_kind_volume_and_block() {
        let mut profile = Profile::default();
        add(&mut profile, Kind::Read, 0, 0, 8192, 50);
        add(&mut profile, Kind::Read, 0, 4096, 4096, 40);
        add(&mut profile, Kind::Write, 2, 4095, 2, 90);
        add(&mut profile, Kind::Discard, 0, 0, 1 << 40, 60);
        profile.add(&Request { volume: 0, kind: Kind::Flush, span: Span::NOTHING, time_ns: None }, 12);
        assert_eq!((profile.requests, profile.reads, profile.writes), (5, 2, 1));
        assert_eq!((profile.discards, profile.flushes), (1, 1));
        assert_eq!((profile.read_bytes, profile.written_bytes, profile.discarded_bytes), (12288, 2, 1 << 40));
        // Blocks 0 and 1, then 1; of another volume 0 and 1.
        assert_eq!((profile.references, profile.touched.count()), (5, 4));
        assert_eq!((profile.times_ns, profile.duration_ns()), (Some((40, 90)), Some(50)));
        assert_eq!(profile.volumes.iter().map(|volume| volume.requests).collect::<Vec<_>>(), [4, 0, 1]);
        assert_eq!((profile.size_below(0.5), profile.size_below(1.0)), (4096, 8192));
    }

    #[test]
    fn beyond_what_is_kept_exactly_the_count_is_right_within_four_standard_errors() {
        let mut touched = Touched::default();
        (0..EXACT_BLOCKS as u64).for_each(|block| touched.add(0, block));
        assert_eq!((touched.count(), touched.error()), (EXACT_BLOCKS as u64, 0.0));
        let all = 5 * EXACT_BLOCKS as u64;
        (0..all).for_each(|block| touched.add(0, block));
        let off = (touched.count() as f64 - all as f64).abs() / all as f64;
        assert!(touched.error() > 0.0 && off <= 4.0 * touched.error(), "{off}, {}", touched.error());
    }

    #[test]
    fn a_partition_that_starts_at_sector_63_is_seen_and_a_shift_of_one_sector_offered() {
        let mut alignment = Alignment::default();
        (0..100).for_each(|page| alignment.add((page * 8 + 63) * 512));
        (0..20).for_each(|page| alignment.add(page * 4096));
        assert_eq!(alignment.shift().map(|(shift, _)| shift), Some(512));
        (0..100).for_each(|page| alignment.add(page * 4096));
        assert_eq!(alignment.shift(), None, "most are aligned as they are");
        let mut anywhere = Alignment::default();
        (0..100).for_each(|sector| anywhere.add(sector * 512));
        assert_eq!(anywhere.shift(), None);
    }
}

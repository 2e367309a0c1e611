//! A trace in memory, as the blocks that its requests touch: the one place where `tune` meets the readers.
//!
//! A trace that is too large to be kept whole ([`Limits`]) is thinned while it is read, by blocks, so that memory is bounded
//! whatever its length; `rate` then says by how much, and everything after scales sizes by it. What is thinned is thinned
//! to what samples need and not to what would just fit: more would cost memory and tell no more.

use std::ops::Range;

use terrace::simulate::{DenseTrace, Sample};
use terrace::tiers::block::{PAGE_BYTES, SECTOR_BYTES};
use terrace::tiers::ssd::record_bytes;
use terrace::{BlockId, BlockSize};

use super::work::Work;
use crate::failure::{Failure, Result};
use crate::replay::{Addressing, Scan, block_id};
use crate::trace::{Alignment, Kind, Request, Source, Span, Touched, Window};

/// How much of a trace is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// What a trace that is kept whole may take.
    pub(super) whole_bytes: u64,
    /// What is kept of a larger one.
    pub(super) references: u64,
    pub(super) blocks: u64,
}

impl Limits {
    /// A thinned trace, samples of it and their simulation take some 140 MiB.
    pub(super) const BOUNDED: Self = Self { whole_bytes: 192 << 20, references: 3 << 19, blocks: 1 << 18 };
    pub(super) const NONE: Self = Self { whole_bytes: u64::MAX, references: u64::MAX, blocks: u64::MAX };

    /// The share of the blocks to keep.
    fn rate(&self, survey: &Survey) -> f64 {
        let blocks = survey.touched.count();
        // A request as it is kept, a reference's number, and the wider of what follows: blocks as they are numbered and
        // as LRU stacks them, or the runs of ARC on two processors.
        let passes = (blocks * 32).max(survey.references / 2);
        let whole = survey.requests * size_of::<Touch>() as u64 + survey.references * 4 + passes;
        if whole <= self.whole_bytes {
            return 1.0;
        }
        let share = |limit: u64, all: u64| limit as f64 / all.max(1) as f64;
        share(self.references, survey.references).min(share(self.blocks, blocks)).min(1.0)
    }
}

/// What a request touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Touch {
    pub(super) first: BlockId,
    pub(super) count: u32,
    pub(super) is_write: bool,
    /// Pages of the first block before what is written, and of the last behind it.
    pub(super) skipped_pages: [u8; 2],
    pub(super) time_us: u64,
}

impl Touch {
    /// What it touches in blocks of this size, from the start of the first on.
    pub(super) fn sectors(&self, block_size: BlockSize) -> Range<u64> {
        let [before, behind] = self.skipped_pages.map(|pages| u64::from(pages) * SECTORS_A_PAGE);
        before..u64::from(self.count) * block_size.sectors() as u64 - behind
    }

    /// The same of block number `index` of it alone.
    fn one(&self, index: u32) -> Self {
        let [before, behind] = self.skipped_pages;
        let is_last = index + 1 == self.count;
        Self {
            first: BlockId::from_u64(self.first.as_u64() + u64::from(index)),
            count: 1,
            skipped_pages: [if index == 0 { before } else { 0 }, if is_last { behind } else { 0 }],
            ..*self
        }
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + use<> {
        let first = self.first.as_u64();
        (first..first + u64::from(self.count)).map(BlockId::from_u64)
    }
}

/// How requests become blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) addressing: Addressing,
    /// Added to every address.
    pub(super) shift_bytes: u64,
}

impl Grid {
    pub(super) fn with_block_size(mut self, block_size: BlockSize) -> Self {
        self.addressing.block_size = block_size;
        self
    }

    fn blocks(&self, request: &Request) -> (u64, u64) {
        self.addressing.blocks(self.place(request.span))
    }

    fn is_write(&self, request: &Request) -> bool {
        request.kind == Kind::Write && !self.addressing.writes_as_reads
    }

    /// Pages of the first block before what `request` is about, and of the last behind it.
    fn skipped_pages(&self, request: &Request) -> [u8; 2] {
        match self.place(request.span) {
            Span::Bytes { offset, bytes } if !self.addressing.one_block_each => {
                let block_bytes = self.addressing.block_size.bytes() as u64;
                let end = offset + bytes.max(1);
                let skipped = [offset % block_bytes, end.next_multiple_of(block_bytes) - end];
                // A block has 256 at the most.
                skipped.map(|bytes| (bytes / PAGE_BYTES as u64) as u8)
            }
            _ => [0, 0],
        }
    }

    fn place(&self, span: Span) -> Span {
        match span {
            Span::Bytes { offset, bytes } => Span::Bytes { offset: offset + self.shift_bytes, bytes },
            ids @ Span::Ids { .. } => ids,
        }
    }
}

/// A trace as it is simulated.
pub(super) struct Recording {
    pub(super) touches: Vec<Touch>,
    /// The share of all blocks that is in it.
    pub(super) rate: f64,
    pub(super) block_size: BlockSize,
    /// Of the whole trace.
    pub(super) logged: Logged,
}

/// What a whole trace is, counted while it was read first.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) requests: u64,
    /// Those that the trace knows to be missing.
    pub(super) lost_requests: u64,
    pub(super) references: u64,
    /// From the first request to the last; none where the trace has no times.
    pub(super) time_us: Option<u64>,
    /// Where in a page requests begin, where the trace has addresses.
    pub(super) alignment: Alignment,
    /// Requests and bytes by the power of two that holds them, reads and writes.
    pub(super) sizes: [[u64; SIZES]; 2],
    pub(super) bytes: [u64; 2],
    pub(super) logged: Logged,
    pub(super) renumbers: bool,
    /// The different blocks, as many as could be counted.
    touched: Touched,
}

/// What a log takes of a whole trace, where each write goes there at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Logged {
    /// The pages that are written.
    pub(super) page_bytes: u64,
    /// Those in their records.
    pub(super) record_bytes: u64,
}

impl Logged {
    /// A write to so many blocks, but for these pages of the first and the last.
    fn add(&mut self, count: u64, skipped_pages: [u8; 2], block_size: BlockSize) {
        let skipped = skipped_pages.map(u64::from).iter().sum::<u64>();
        let pages = count * (block_size.bytes() / PAGE_BYTES) as u64 - skipped;
        let run = (RUN_BYTES / block_size.bytes()) as u64;
        let headers = |blocks: u64| record_bytes(blocks as usize, 0, block_size);
        self.page_bytes += pages * PAGE_BYTES as u64;
        self.record_bytes += pages * PAGE_BYTES as u64 + count / run * headers(run);
        self.record_bytes += if count.is_multiple_of(run) { 0 } else { headers(count % run) };
    }
}

/// What goes to the log in one record, about.
const RUN_BYTES: usize = 1 << 20;
const SECTORS_A_PAGE: u64 = (PAGE_BYTES / SECTOR_BYTES) as u64;

/// Powers of two from 512 bytes to a GiB.
pub(super) const SIZES: usize = 22;

impl Survey {
    /// Reads `source` to its end.
    pub(super) fn of(source: &Source, grid: &Grid, work: &Work) -> Result<Self> {
        let progress = work.reading("surveying", source.file_bytes());
        let mut survey = Self::default();
        let scan = Scan::with(source, &Window::default(), &grid.addressing, &progress, |request| {
            survey.count(request, grid);
        })?;
        Ok(Self {
            renumbers: scan.renumbers,
            time_us: scan.duration_ns().map(|ns| ns / 1000).filter(|&us| us > 0),
            alignment: scan.alignment,
            lost_requests: scan.lost_requests,
            ..survey
        })
    }

    fn count(&mut self, request: &Request, grid: &Grid) {
        if !matches!(request.kind, Kind::Read | Kind::Write) {
            return;
        }
        self.requests += 1;
        let (first, count) = grid.blocks(request);
        self.references += count;
        if grid.is_write(request) {
            self.logged.add(count, grid.skipped_pages(request), grid.addressing.block_size);
        }
        (0..count).for_each(|at| self.touched.add(request.volume, first + at));
        let bytes = match request.span {
            Span::Bytes { bytes, .. } => bytes,
            Span::Ids { .. } => count << grid.addressing.block_size.shift(),
        };
        let kind = usize::from(request.kind == Kind::Write);
        self.sizes[kind][size_class(bytes)] += 1;
        self.bytes[kind] += bytes;
    }
}

fn size_class(bytes: u64) -> usize {
    let sectors = bytes.div_ceil(512).max(1);
    ((64 - (sectors - 1).leading_zeros()) as usize).min(SIZES - 1)
}

impl Recording {
    /// Reads `source`, of which `survey` was made, as much of it as `limits` let.
    pub(super) fn load(
        source: &Source,
        grid: &Grid,
        survey: &Survey,
        limits: Limits,
        work: &Work,
    ) -> Result<Self> {
        let rate = limits.rate(survey);
        let (block_size, logged) = (grid.addressing.block_size, survey.logged);
        let mut recording = Self { touches: Vec::new(), rate, block_size, logged };
        let sample = (rate < 1.0).then(|| Sample::new(rate, 0));
        let progress = work.reading("reading", source.file_bytes());
        let (mut reader, position) = source.reader()?;
        let mut numbers = survey.renumbers.then(DenseTrace::default);
        let mut requests = 0u64;
        while let Some(request) = reader.next_request()? {
            if requests.is_multiple_of(4096) {
                progress.show(&position);
            }
            requests += 1;
            if matches!(request.kind, Kind::Read | Kind::Write) {
                recording.add(&request, grid, sample.as_ref(), numbers.as_mut());
            }
        }
        if recording.touches.is_empty() {
            return Err(Failure::input("nothing of the trace is left").remedy("name a longer one"));
        }
        Ok(recording)
    }

    /// Adds what a read or a write touches, of `sample` if there is one. Ids beyond every block number are counted off
    /// in `numbers`, in order of appearance, and no longer neighbours.
    fn add(
        &mut self,
        request: &Request,
        grid: &Grid,
        sample: Option<&Sample>,
        numbers: Option<&mut DenseTrace>,
    ) {
        let (first, count) = grid.blocks(request);
        let touch = |first| Touch {
            first,
            count: count as u32,
            is_write: grid.is_write(request),
            skipped_pages: grid.skipped_pages(request),
            time_us: request.time_us().unwrap_or(0),
        };
        let Some(numbers) = numbers else {
            return self.push(touch(block_id(request.volume, first)), sample);
        };
        for index in 0..count {
            let id = BlockId::from_u64((first + index) ^ u64::from(request.volume) << 56);
            // Before it gets a number: those of blocks that are left out would fill the memory.
            if sample.is_none_or(|sample| sample.takes(id)) {
                let one = touch(id).one(index as u32);
                self.touches.push(Touch { first: BlockId::from_u64(numbers.number(id).into()), ..one });
            }
        }
    }

    fn push(&mut self, touch: Touch, sample: Option<&Sample>) {
        match sample {
            None => self.touches.push(touch),
            Some(sample) => {
                let ones = (0..touch.count).map(|index| touch.one(index));
                self.touches.extend(ones.filter(|one| sample.takes(one.first)));
            }
        }
    }

    /// The share `rate` of its blocks, told by `salt`.
    pub(super) fn sampled(&self, rate: f64, salt: u64) -> Self {
        let mut sampled = Self { touches: Vec::new(), rate: self.rate * rate, ..*self };
        let sample = Sample::new(rate, salt);
        self.touches.iter().for_each(|&touch| sampled.push(touch, Some(&sample)));
        sampled
    }

    /// Blocks touched, one after another.
    pub(super) fn dense(&self) -> DenseTrace {
        let trace: DenseTrace = self.touches.iter().flat_map(Touch::blocks).collect();
        trace.finished()
    }

    pub(super) fn references(&self) -> u64 {
        self.touches.iter().map(|touch| u64::from(touch.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_power_of_two_that_holds_them() {
        let classes = [0, 1, 512, 513, 1024, 4096, 4097, 1 << 30, 1 << 40].map(size_class);
        assert_eq!(classes, [0, 0, 0, 1, 1, 3, 4, 21, 21]);
    }

    #[test]
    fn a_sample_has_all_references_to_a_block_or_none_and_keeps_their_order_and_kind() {
        let block_size = BlockSize::new(4096).expect("a good size");
        let touch = |step: u64| Touch {
            first: BlockId::from_u64(step * 7 % 1000),
            count: 3,
            is_write: step.is_multiple_of(3),
            skipped_pages: [0, 0],
            time_us: step,
        };
        let whole = Recording {
            touches: (0..5000).map(touch).collect(),
            rate: 1.0,
            block_size,
            logged: Logged::default(),
        };
        let sampled = whole.sampled(0.2, 4);
        let taken = Sample::new(0.2, 4);
        let wanted: Vec<(BlockId, bool, u64)> = whole
            .touches
            .iter()
            .flat_map(|touch| touch.blocks().map(|block| (block, touch.is_write, touch.time_us)))
            .filter(|one| taken.takes(one.0))
            .collect();
        let found = sampled.touches.iter().map(|touch| (touch.first, touch.is_write, touch.time_us));
        assert!(found.eq(wanted.iter().copied()));
        assert_eq!((sampled.references(), sampled.rate), (wanted.len() as u64, 0.2));
    }
}

//! A trace in memory, as the blocks that its requests touch: the one place where `tune` meets the readers.
//!
//! A trace that is too large to be kept whole ([`Limits`]) is counted while it is read, see `stream`; what is kept of it is
//! one chunk at a time.

use std::ops::Range;

use terrace::simulate::{DenseTrace, Sample};
use terrace::tiers::block::{PAGE_BYTES, SECTOR_BYTES};
use terrace::tiers::ssd::record_bytes;
use terrace::{BlockId, BlockSize};

use super::work::Work;
use crate::failure::Result;
use crate::replay::{Addressing, Scan, block_id};
use crate::trace::{Alignment, Kind, Request, Source, Span, Touched, Window};

/// What a trace that is kept whole may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) whole_bytes: u64,
}

impl Limits {
    pub(super) const BOUNDED: Self = Self { whole_bytes: 192 << 20 };
    pub(super) const NONE: Self = Self { whole_bytes: u64::MAX };

    /// Whether a trace like this is kept whole.
    pub(super) fn keep(self, survey: &Survey) -> bool {
        // A request as it is kept, a reference's number, and the wider of what follows: blocks as they are numbered and
        // as LRU stacks them, or the runs of ARC on two processors.
        let passes = (survey.blocks * 32).max(survey.references / 2);
        survey.requests * size_of::<Touch>() as u64 + survey.references * 4 + passes <= self.whole_bytes
    }
}

/// Samples of a trace, of a share of its blocks each, and none in two of them: so what their mean misses is what each of them
/// misses by chance, and how far they lie apart tells how much that is.
pub(super) struct Parts {
    /// The part with this number, and those before.
    up_to: Vec<Sample>,
}

impl Parts {
    /// So many parts of a share `rate` each, at most 1 in all; `salt` tells which.
    pub(super) fn new(count: u64, rate: f64, salt: u64) -> Self {
        Self { up_to: (1..=count).map(|parts| Sample::new(rate * parts as f64, salt)).collect() }
    }

    /// The part that has `block`; none: it is left out.
    pub(super) fn part_of(&self, block: BlockId) -> Option<usize> {
        self.up_to.iter().position(|sample| sample.takes(block))
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

    /// The same of each of its blocks alone.
    fn ones(self) -> impl Iterator<Item = Self> {
        let [before, behind] = self.skipped_pages;
        (0..self.count).map(move |index| {
            let is_last = index + 1 == self.count;
            let skipped_pages = [if index == 0 { before } else { 0 }, if is_last { behind } else { 0 }];
            let first = BlockId::from_u64(self.first.as_u64() + u64::from(index));
            Self { first, count: 1, skipped_pages, ..self }
        })
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

    /// The first block that `request` touches, and how many.
    pub(super) fn blocks(&self, request: &Request) -> (u64, u64) {
        self.addressing.blocks(self.place(request.span))
    }

    fn is_write(&self, request: &Request) -> bool {
        self.addressing.kind(request.kind) == Some(Kind::Write)
    }

    /// Pages of the first block before what `request` is about, and of the last behind it.
    fn skipped_pages(&self, request: &Request) -> [u8; 2] {
        match self.place(request.span) {
            Span::Bytes { offset, bytes } if !self.addressing.one_block_each => {
                let block_bytes = self.addressing.block_size.bytes() as u64;
                let before = offset % block_bytes;
                let behind = (block_bytes - (before + bytes.max(1)) % block_bytes) % block_bytes;
                // A block has 256 at the most.
                [before, behind].map(|bytes| (bytes / PAGE_BYTES as u64) as u8)
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

/// A trace as it is simulated, or a sample or a chunk of it.
pub(super) struct Recording {
    pub(super) touches: Vec<Touch>,
    /// The share of all blocks that is in it.
    pub(super) rate: f64,
    pub(super) block_size: BlockSize,
}

/// What a whole trace is, counted while it was read first.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) requests: u64,
    /// Those that the trace knows to be missing.
    pub(super) lost_requests: u64,
    pub(super) references: u64,
    /// Those of requests that are simulated as reads.
    pub(super) read_references: u64,
    /// Different blocks; estimated beyond a million.
    pub(super) blocks: u64,
    pub(super) volumes: usize,
    /// Of the first request and of the last; none where the trace has no times, or all are the same.
    pub(super) times_us: Option<(u64, u64)>,
    /// Where in a page requests begin, where the trace has addresses.
    pub(super) alignment: Alignment,
    /// Requests and bytes by the power of two that holds them, reads and writes.
    pub(super) sizes: [[u64; SIZES]; 2],
    pub(super) bytes: [u64; 2],
    pub(super) logged: Logged,
    pub(super) renumbers: bool,
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
    pub(super) fn of(recording: &Recording) -> Self {
        let mut logged = Self::default();
        for touch in recording.touches.iter().filter(|touch| touch.is_write) {
            logged.add(touch.count.into(), touch.skipped_pages, recording.block_size);
        }
        logged
    }

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
    /// Reads `source` to its end, once for all of `grids`.
    pub(super) fn of<const N: usize>(source: &Source, grids: &[Grid; N], work: &Work) -> Result<[Self; N]> {
        let all = Self::of_all(source, grids, work)?;
        Ok(all.try_into().unwrap_or_else(|_| unreachable!("one for each grid")))
    }

    /// The same of as many as there are, one at the least.
    pub(super) fn of_all(source: &Source, grids: &[Grid], work: &Work) -> Result<Vec<Self>> {
        let progress = work.reading("surveying", source.file_bytes());
        let mut surveys = vec![(Self::default(), Touched::default()); grids.len()];
        let scan = Scan::with(source, &Window::default(), &grids[0].addressing, &progress, |request| {
            for ((survey, touched), grid) in surveys.iter_mut().zip(grids) {
                survey.count(request, grid, touched);
            }
        })?;
        let us = |(first, last): (u64, u64)| (first / 1000, last / 1000);
        let finished = |((survey, touched), grid): ((Self, Touched), &Grid)| Self {
            blocks: touched.count(),
            volumes: scan.volumes(),
            renumbers: scan.renumbers_for(grid.addressing.block_size),
            times_us: scan.times_ns.map(us).filter(|(first, last)| first < last),
            alignment: scan.alignment,
            lost_requests: scan.lost_requests,
            ..survey
        };
        Ok(surveys.into_iter().zip(grids).map(finished).collect())
    }

    /// From the first request to the last; none where the trace has no times.
    pub(super) fn time_us(&self) -> Option<u64> {
        self.times_us.map(|(first, last)| last - first)
    }

    fn count(&mut self, request: &Request, grid: &Grid, touched: &mut Touched) {
        if !matches!(request.kind, Kind::Read | Kind::Write) {
            return;
        }
        self.requests += 1;
        let (first, count) = grid.blocks(request);
        self.references += count;
        if grid.is_write(request) {
            self.logged.add(count, grid.skipped_pages(request), grid.addressing.block_size);
        } else {
            self.read_references += count;
        }
        (0..count).for_each(|at| touched.add(request.volume, first + at));
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

/// Calls `visit` with each read and write of `source`.
pub(super) fn read(
    source: &Source,
    what: &str,
    work: &Work,
    mut visit: impl FnMut(&Request) -> Result<()>,
) -> Result<()> {
    let progress = work.reading(what, source.file_bytes());
    let (mut reader, position) = source.reader()?;
    let mut requests = 0u64;
    while let Some(request) = reader.next_request()? {
        if requests.is_multiple_of(4096) {
            progress.show(&position);
        }
        requests += 1;
        if matches!(request.kind, Kind::Read | Kind::Write) {
            visit(&request)?;
        }
    }
    Ok(())
}

impl Recording {
    pub(super) fn empty(block_size: BlockSize, rate: f64) -> Self {
        Self { touches: Vec::new(), rate, block_size }
    }

    /// Reads `source`, of which `survey` was made, and keeps all of it.
    pub(super) fn load(source: &Source, grid: &Grid, survey: &Survey, work: &Work) -> Result<Self> {
        let mut recording = Self::empty(grid.addressing.block_size, 1.0);
        let mut numbers = survey.renumbers.then(DenseTrace::default);
        read(source, "reading", work, |request| {
            recording.add(request, grid, None, numbers.as_mut());
            Ok(())
        })?;
        Ok(recording)
    }

    /// Adds what a read or a write touches, of `sample` if there is one. Ids beyond every block number are counted off
    /// in `numbers`, in order of appearance, and no longer neighbours.
    pub(super) fn add(
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
        for (at, one) in (0..count).zip(touch(BlockId::from_u64(0)).ones()) {
            let id = BlockId::from_u64((first + at) ^ u64::from(request.volume) << 56);
            // Before it gets a number: those of blocks that are left out would fill the memory.
            if sample.is_none_or(|sample| sample.takes(id)) {
                self.touches.push(Touch { first: BlockId::from_u64(numbers.number(id).into()), ..one });
            }
        }
    }

    fn push(&mut self, touch: Touch, sample: Option<&Sample>) {
        match sample {
            None => self.touches.push(touch),
            Some(sample) => self.touches.extend(touch.ones().filter(|one| sample.takes(one.first))),
        }
    }

    /// So many samples, each of the share `rate` of its blocks.
    pub(super) fn sampled(&self, count: u64, rate: f64) -> Vec<Self> {
        let parts = Parts::new(count, rate, 1);
        let sample = || Self::empty(self.block_size, self.rate * rate);
        let mut samples: Vec<Self> = (0..count).map(|_| sample()).collect();
        for touch in &self.touches {
            for one in touch.ones() {
                if let Some(part) = parts.part_of(one.first) {
                    samples[part].touches.push(one);
                }
            }
        }
        samples
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
        let whole = Recording { touches: (0..5000).map(touch).collect(), rate: 1.0, block_size };
        let parts = Parts::new(3, 0.2, 1);
        let samples = whole.sampled(3, 0.2);
        for (number, sampled) in samples.iter().enumerate() {
            let wanted: Vec<(BlockId, bool, u64)> = whole
                .touches
                .iter()
                .flat_map(|touch| touch.blocks().map(|block| (block, touch.is_write, touch.time_us)))
                .filter(|one| parts.part_of(one.0) == Some(number))
                .collect();
            let found = sampled.touches.iter().map(|touch| (touch.first, touch.is_write, touch.time_us));
            assert!(found.eq(wanted.iter().copied()));
            assert_eq!((sampled.references(), sampled.rate), (wanted.len() as u64, 0.2));
            let blocks = u64::from(sampled.dense().unique());
            assert!((150..250).contains(&blocks), "{blocks} of 1000 in part {number}");
        }
    }
}

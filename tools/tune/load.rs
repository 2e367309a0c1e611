//! A trace in memory, as the blocks that its requests touch: the one place where `tune` meets the readers.
//!
//! A trace of more references than [`REFERENCES_MAX`] is thinned while it is read, by blocks, so that memory is bounded
//! whatever its length; `rate` then says by how much, and everything after scales sizes by it.

use terrace::simulate::{DenseTrace, Sample};
use terrace::{BlockId, BlockSize};

use super::work::Work;
use crate::failure::{Failure, Result};
use crate::replay::{Addressing, Scan, block_id};
use crate::trace::{Alignment, Kind, Request, Source, Span, Window};

/// 8 bytes each at the worst (a number and a request of 24 bytes for every third), and 24 for a block.
const REFERENCES_MAX: u64 = 1 << 25;

/// What a request touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Touch {
    pub(super) first: BlockId,
    pub(super) count: u32,
    pub(super) is_write: bool,
    pub(super) time_us: u64,
}

impl Touch {
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
    pub(super) renumbers: bool,
}

/// Powers of two from 512 bytes to a GiB.
pub(super) const SIZES: usize = 22;

impl Survey {
    /// Reads `source` to its end.
    pub(super) fn of(source: &Source, grid: &Grid, work: &Work) -> Result<Self> {
        let progress = work.reading("surveying", source.file_bytes());
        let scan = Scan::of(source, &Window::default(), &grid.addressing, &progress)?;
        let mut survey = Self {
            renumbers: scan.renumbers,
            time_us: scan.duration_ns().map(|ns| ns / 1000).filter(|&us| us > 0),
            alignment: scan.alignment,
            ..Self::default()
        };
        let (mut reader, position) = source.reader()?;
        while let Some(request) = reader.next_request()? {
            if survey.requests.is_multiple_of(4096) {
                progress.show(&position);
            }
            survey.count(&request, grid);
        }
        survey.lost_requests = reader.lost().requests;
        Ok(survey)
    }

    fn count(&mut self, request: &Request, grid: &Grid) {
        if !matches!(request.kind, Kind::Read | Kind::Write) {
            return;
        }
        self.requests += 1;
        let (_, count) = grid.addressing.blocks(grid.place(request.span));
        self.references += count;
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
    /// Reads `source`, of which `survey` was made.
    pub(super) fn load(source: &Source, grid: &Grid, survey: &Survey, work: &Work) -> Result<Self> {
        let rate = (REFERENCES_MAX as f64 / survey.references as f64).min(1.0);
        let mut recording = Self { touches: Vec::new(), rate, block_size: grid.addressing.block_size };
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
            if !matches!(request.kind, Kind::Read | Kind::Write) {
                continue;
            }
            let (first, count) = grid.addressing.blocks(grid.place(request.span));
            let touch = |first, count| Touch {
                first,
                count,
                is_write: request.kind == Kind::Write && !grid.addressing.writes_as_reads,
                time_us: request.time_us().unwrap_or(0),
            };
            match &mut numbers {
                None => recording.push(touch(block_id(request.volume, first), count as u32), sample.as_ref()),
                // Ids beyond every block number: in order of appearance, and no longer neighbours.
                Some(numbers) => {
                    for id in first..first + count {
                        let number = numbers.number(BlockId::from_u64(id ^ u64::from(request.volume) << 56));
                        recording.push(touch(BlockId::from_u64(number.into()), 1), sample.as_ref());
                    }
                }
            }
        }
        if recording.touches.is_empty() {
            return Err(Failure::input("nothing of the trace is left").remedy("name a longer one"));
        }
        Ok(recording)
    }

    fn push(&mut self, touch: Touch, sample: Option<&Sample>) {
        match sample {
            None => self.touches.push(touch),
            Some(sample) => {
                let taken = touch.blocks().filter(|&block| sample.takes(block));
                self.touches.extend(taken.map(|first| Touch { first, count: 1, ..touch }));
            }
        }
    }

    /// The share `rate` of its blocks, told by `salt`.
    pub(super) fn sampled(&self, rate: f64, salt: u64) -> Self {
        let mut sampled = Self { touches: Vec::new(), rate: self.rate * rate, block_size: self.block_size };
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
            time_us: step,
        };
        let whole = Recording { touches: (0..5000).map(touch).collect(), rate: 1.0, block_size };
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

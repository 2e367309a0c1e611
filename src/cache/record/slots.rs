//! Requests as lanes hold them: slots of 16 bytes, so that a request in RAM writes a quarter of a cache line.
//!
//! | slot    | `at`             | `what`: 3 bits           | 41 bits           | 20 bits                  |
//! |---------|------------------|--------------------------|-------------------|--------------------------|
//! | request | the block's id   | the number of its kind   | its bytes         | where in the block it starts |
//! | stamp   | nanoseconds      | 4                        | 0                 | 0                        |
//! | length  | bytes            | 5                        | 0                 | 0                        |
//!
//! A stamp is the time of the requests behind it. A length takes the place of the next request's bytes, which has more than
//! fit there: a discard of 2 TiB.
//!
//! Invariant: a chunk can be read alone. It begins with a stamp, and a length has its request behind it in the same chunk
//! (`every_request_comes_out_as_it_went_in`).

use std::ops::Range;

use terrace_recording::Kind;
use terrace_tiers::block::{BlockId, BlockSize, VolumeId};

/// A request of more bytes has a slot for its length.
pub(super) const BYTES_MAX: u64 = (1 << (KIND_SHIFT - BYTES_SHIFT)) - 1;

/// Above the bytes of the largest block.
const BYTES_SHIFT: u32 = BlockSize::MAX_BYTES.trailing_zeros();
const KIND_SHIFT: u32 = 61;
const STAMP: u64 = 4;
const LENGTH: u64 = 5;

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    pub(super) time_ns: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) volume: VolumeId,
    pub(super) kind: Kind,
}

/// See the head of this file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Slot {
    at: u64,
    what: u64,
}

impl Slot {
    /// Of `bytes` bytes from `start` on in `block`; what does not fit is in a length before it.
    #[inline]
    pub(super) fn request(block: BlockId, start: usize, kind: Kind, bytes: u64) -> Self {
        debug_assert!(start < BlockSize::MAX_BYTES, "{start} is in another block");
        let bytes = if bytes > BYTES_MAX { 0 } else { bytes };
        Self { at: block.as_u64(), what: (kind as u64) << KIND_SHIFT | bytes << BYTES_SHIFT | start as u64 }
    }

    pub(super) fn stamp(time_ns: u64) -> Self {
        Self { at: time_ns, what: STAMP << KIND_SHIFT }
    }

    pub(super) fn length(bytes: u64) -> Self {
        Self { at: bytes, what: LENGTH << KIND_SHIFT }
    }
}

/// Requests of one time: those behind a stamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) time_ns: u64,
    stamp_at: usize,
}

/// Puts the runs among `slots[range]` behind `runs`, in order; how many requests they have.
pub(super) fn find_runs(slots: &[Slot], range: Range<usize>, runs: &mut Vec<Run>) -> usize {
    let mut requests = 0;
    for (slot, stamp_at) in slots[range.clone()].iter().zip(range) {
        match slot.what >> KIND_SHIFT {
            STAMP => runs.push(Run { time_ns: slot.at, stamp_at }),
            LENGTH => {}
            _ => requests += 1,
        }
    }
    requests
}

impl Run {
    /// Where among `slots` its stamp and its requests are.
    pub(super) fn place(self, slots: &[Slot]) -> Range<usize> {
        let first = self.stamp_at + 1;
        let next = slots[first..].iter().position(|slot| slot.what >> KIND_SHIFT == STAMP);
        self.stamp_at..next.map_or(slots.len(), |count| first + count)
    }

    /// The requests, in order.
    #[inline]
    pub(super) fn requests(self, slots: &[Slot], size: BlockSize) -> impl Iterator<Item = Taken> {
        let mut length = None;
        let behind = slots[self.stamp_at + 1..].iter();
        behind.take_while(|slot| slot.what >> KIND_SHIFT != STAMP).filter_map(move |&Slot { at, what }| {
            let number = what >> KIND_SHIFT;
            if number == LENGTH {
                length = Some(at);
                return None;
            }
            let (block, start) = (BlockId::from_u64(at), what & (BlockSize::MAX_BYTES as u64 - 1));
            Some(Taken {
                time_ns: self.time_ns,
                offset: block.byte_offset(size) + start,
                bytes: length.take().unwrap_or(what >> BYTES_SHIFT & BYTES_MAX),
                volume: block.volume(),
                kind: Kind::ALL[number as usize],
            })
        })
    }
}

/// The requests of a chunk, or of several in a row.
#[cfg(test)]
pub(super) fn unpacked(chunk: &[Slot], size: BlockSize) -> Vec<Taken> {
    let mut runs = Vec::new();
    let count = find_runs(chunk, 0..chunk.len(), &mut runs);
    let requests: Vec<Taken> = runs.iter().flat_map(|run| run.requests(chunk, size)).collect();
    assert_eq!(requests.len(), count);
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_comes_out_as_it_went_in() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for shift in [12, 14, 20] {
            let size = BlockSize::new(1 << shift).expect("a block size");
            let (mut chunk, mut wanted) = (Vec::new(), Vec::new());
            for _ in 0..1000 {
                let time_ns = random.u64(..);
                chunk.push(Slot::stamp(time_ns));
                for _ in 0..random.usize(..4) {
                    let volume = VolumeId::new(random.u32(..VolumeId::LIMIT));
                    let block = BlockId::new(volume, random.u64(..BlockId::NUMBER_LIMIT));
                    let start = random.usize(..size.bytes());
                    let bytes = match random.u8(..4) {
                        0 => BYTES_MAX + random.u64(..2),
                        1 => random.u64(..),
                        _ => random.u64(..1 << 21),
                    };
                    let kind = Kind::ALL[random.usize(..4)];
                    if bytes > BYTES_MAX {
                        chunk.push(Slot::length(bytes));
                    }
                    chunk.push(Slot::request(block, start, kind, bytes));
                    let offset = block.byte_offset(size) + start as u64;
                    wanted.push(Taken { time_ns, offset, bytes, volume, kind });
                }
            }
            assert_eq!(unpacked(&chunk, size), wanted, "seed {seed}, blocks of 2^{shift}");
            // Run by run it is the chunk again.
            let mut runs = Vec::new();
            find_runs(&chunk, 0..chunk.len(), &mut runs);
            assert_eq!(runs.len(), 1000);
            let again: Vec<Slot> = runs.iter().flat_map(|run| &chunk[run.place(&chunk)]).copied().collect();
            assert_eq!(again, chunk, "seed {seed}");
        }
        assert_eq!(size_of::<Slot>(), 16);
    }
}

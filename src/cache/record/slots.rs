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
#[derive(Clone, Copy, Default)]
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

/// Puts the requests of a chunk, or of several in a row, behind those in `out`, in order.
pub(super) fn unpack(chunk: &[Slot], size: BlockSize, out: &mut Vec<Taken>) {
    let (mut time_ns, mut length) = (0, None);
    for &Slot { at, what } in chunk {
        let kind = match what >> KIND_SHIFT {
            STAMP => {
                time_ns = at;
                continue;
            }
            LENGTH => {
                length = Some(at);
                continue;
            }
            number => Kind::ALL[number as usize],
        };
        let (block, start) = (BlockId::from_u64(at), what & (BlockSize::MAX_BYTES as u64 - 1));
        let bytes = length.take().unwrap_or(what >> BYTES_SHIFT & BYTES_MAX);
        out.push(Taken {
            time_ns,
            offset: block.byte_offset(size) + start,
            bytes,
            volume: block.volume(),
            kind,
        });
    }
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
            let mut found = Vec::new();
            unpack(&chunk, size, &mut found);
            assert_eq!(found, wanted, "seed {seed}, blocks of 2^{shift}");
        }
        assert_eq!(size_of::<Slot>(), 16);
    }
}

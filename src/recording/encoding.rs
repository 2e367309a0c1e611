//! Requests as columns of bytes, and the index: the only file that knows how they are encoded.
//!
//! bincode 2 with integers of varying width, then zstd. Each column has the difference from the row before it, so that
//! what goes on in order (times, places one behind the other, one volume) is mostly zeros:
//!
//! | column    | holds for each request                                                   |
//! |-----------|--------------------------------------------------------------------------|
//! | `times`   | nanoseconds since the request before; empty in a block without times      |
//! | `volumes` | runs: the volume, and for how many requests                               |
//! | `kinds`   | 0 read, 1 write, 2 flush, 3 discard; and 4 if the span counts ids         |
//! | `places`  | where it begins, less where the one before ended                          |
//! | `lengths` | bytes, or ids                                                             |
//!
//! Differences wrap, so that every 64-bit number can stand in every row.

use std::io;

use bincode::config::{self, Config};
use bincode::{Decode, Encode};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use crate::format::PAYLOAD_BYTES_MAX;
use crate::request::{Kind, Request, Span};

/// Requests of a full block: some 400 KiB packed, and the reach of a seek.
pub const BLOCK_REQUESTS: usize = 1 << 16;

/// 1 packs as tightly as 3 here within a tenth, at three times the speed.
const ZSTD_LEVEL: i32 = 1;
const IDS: u8 = 4;

fn format() -> impl Config {
    config::standard().with_little_endian().with_variable_int_encoding().with_limit::<PAYLOAD_BYTES_MAX>()
}

/// The requests of a block, by column.
#[derive(Clone, Default, Debug, Encode, Decode)]
pub(crate) struct Columns {
    times: Vec<i64>,
    volumes: Vec<(u32, u32)>,
    kinds: Vec<u8>,
    places: Vec<i64>,
    lengths: Vec<u64>,
}

/// What a row is the difference from.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    time: u64,
    end: u64,
}

impl Columns {
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn clear(&mut self) {
        self.times.clear();
        self.volumes.clear();
        self.kinds.clear();
        self.places.clear();
        self.lengths.clear();
    }

    /// All requests of a block have times, or none has.
    pub(crate) fn push(&mut self, request: &Request, before: &mut Row) {
        if let Some(time) = request.time_ns {
            self.times.push(time.wrapping_sub(before.time).cast_signed());
            before.time = time;
        }
        match self.volumes.last_mut() {
            Some((volume, run)) if *volume == request.volume => *run += 1,
            _ => self.volumes.push((request.volume, 1)),
        }
        let kind = request.kind as u8;
        let is_ids = matches!(request.span, Span::Ids { .. });
        self.kinds.push(if is_ids { kind | IDS } else { kind });
        let (start, length) = request.span.parts();
        self.places.push(start.wrapping_sub(before.end).cast_signed());
        self.lengths.push(length);
        before.end = start.wrapping_add(length);
    }

    /// Adds the requests to `out`; none when the columns are not of `count` rows or hold what they cannot.
    pub(crate) fn requests(&self, count: usize, out: &mut Vec<Request>) -> Option<()> {
        let has_times = !self.times.is_empty();
        let rows = [self.kinds.len(), self.places.len(), self.lengths.len()];
        let runs: u64 = self.volumes.iter().map(|&(_, run)| u64::from(run)).sum();
        let fits = rows == [count; 3] && runs == count as u64 && (!has_times || self.times.len() == count);
        if !fits || count > BLOCK_REQUESTS {
            return None;
        }
        let mut before = Row::default();
        let volumes =
            self.volumes.iter().flat_map(|&(volume, run)| std::iter::repeat_n(volume, run as usize));
        for (row, volume) in volumes.enumerate() {
            let kind = *Kind::ALL.get(usize::from(self.kinds[row] & !IDS))?;
            let start = before.end.wrapping_add_signed(self.places[row]);
            let length = self.lengths[row];
            // What ends behind the last number cannot have been a request.
            before.end = start.checked_add(length)?;
            let span = if self.kinds[row] & IDS != 0 {
                Span::Ids { first: start, count: length }
            } else {
                Span::Bytes { offset: start, bytes: length }
            };
            let time_ns = self.times.get(row).map(|&since| {
                before.time = before.time.wrapping_add_signed(since);
                before.time
            });
            out.push(Request { volume, kind, span, time_ns });
        }
        Some(())
    }
}

/// One block in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct StoredEntry {
    pub(crate) at: u64,
    pub(crate) requests_before: u64,
    pub(crate) requests: u32,
    pub(crate) earliest_ns: u64,
    pub(crate) latest_ns: u64,
}

#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode)]
pub(crate) struct StoredIndex {
    pub(crate) blocks: Vec<StoredEntry>,
    pub(crate) volumes: Vec<String>,
}

/// The payload of a note: what the volumes from number `first` on are called.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode)]
pub(crate) struct StoredNames {
    pub(crate) first: u32,
    pub(crate) names: Vec<String>,
}

/// Packs one item after another in the same memory: whoever records for days asks for it once, not with every block.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(ZSTD_LEVEL)?, plain: Vec::new(), packed: Vec::new() })
    }

    /// Packs `item`: the bytes it has unpacked; none when that is more than a payload may have.
    pub(crate) fn pack(&mut self, item: &impl Encode) -> Option<u32> {
        self.plain.clear();
        bincode::encode_into_std_write(item, &mut self.plain, format()).ok()?;
        self.packed.clear();
        self.packed.reserve(compress_bound(self.plain.len()));
        self.compressor.compress_to_buffer(&self.plain, &mut self.packed).ok()?;
        let fits = self.plain.len() <= PAYLOAD_BYTES_MAX && self.packed.len() <= PAYLOAD_BYTES_MAX;
        fits.then(|| u32::try_from(self.plain.len()).expect("less than PAYLOAD_BYTES_MAX"))
    }

    /// What [`Self::pack`] made.
    pub(crate) fn packed(&self) -> &[u8] {
        &self.packed
    }
}

/// The item that was packed to `packed`; none when it is none.
pub(crate) fn unpack<T: Decode<()>>(packed: &[u8], plain_bytes: u32) -> Option<T> {
    let plain = zstd::bulk::decompress(packed, plain_bytes as usize).ok()?;
    let (item, taken) = bincode::decode_from_slice(&plain, format()).ok()?;
    (taken == plain.len() && plain.len() == plain_bytes as usize).then_some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_differences_from_the_rows_before_and_columns_lie_in_order() {
        let mut columns = Columns::default();
        let mut before = Row::default();
        let bytes = |offset| Span::Bytes { offset, bytes: 10 };
        for (time, kind, span) in [
            (100, Kind::Read, bytes(50)),
            (90, Kind::Write, bytes(60)),
            (90, Kind::Discard, Span::Ids { first: 1, count: 2 }),
        ] {
            columns.push(&Request { volume: 7, kind, span, time_ns: Some(time) }, &mut before);
        }
        let encoded = bincode::encode_to_vec(&columns, format()).expect("it fits");
        // Signed numbers are folded: 0, -1, 1, -2 are 0, 1, 2, 3. A list begins with its length.
        let times = [3, 200, 19, 0];
        let volumes = [1, 7, 3];
        let kinds = [3, 0, 1, 3 | IDS];
        let places = [3, 100, 0, 137];
        let lengths = [3, 10, 10, 2];
        assert_eq!(encoded, [&times[..], &volumes, &kinds, &places, &lengths].concat());
    }

    #[test]
    fn columns_of_different_length_or_with_an_unknown_kind_are_refused() {
        let mut good = Columns::default();
        let request = Request { volume: 0, kind: Kind::Read, span: Span::NOTHING, time_ns: Some(1) };
        good.push(&request, &mut Row::default());
        let refused = |columns: &Columns, count| columns.requests(count, &mut Vec::new()).is_none();
        assert!(!refused(&good, 1) && refused(&good, 2) && refused(&good, 0));
        assert!(refused(&Columns { kinds: vec![9], ..good.clone() }, 1));
        assert!(refused(&Columns { volumes: vec![(0, u32::MAX)], ..good.clone() }, 1));
        assert!(refused(&Columns { times: vec![1, 1], ..good.clone() }, 1));
        assert!(refused(&Columns { places: vec![-1], lengths: vec![2], ..good }, 1));
    }
}

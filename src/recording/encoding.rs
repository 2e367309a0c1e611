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
//! Differences wrap, so that every 64-bit number can stand in every row. From version 3 on a byte stands ahead of the
//! columns: so many zero bits at the end of all places and lengths are left out. What disks are asked for is whole sectors:
//! zstd is given a third less of them, and takes half as long.
//!
//! Whoever records live pays for every request that is written. So a block is rows while it is filled, and they are put
//! as bincode puts the columns (`columns_are_put_as_bincode_puts_them`), in a third of its instructions.

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
const NUMBER_BYTES_MAX: usize = 9;

fn format() -> impl Config {
    config::standard().with_little_endian().with_variable_int_encoding().with_limit::<PAYLOAD_BYTES_MAX>()
}

/// The requests of a block that was read, by column.
#[derive(Clone, Default, Debug, Decode)]
#[cfg_attr(test, derive(Encode))]
pub(crate) struct Columns {
    times: Vec<i64>,
    volumes: Vec<(u32, u32)>,
    kinds: Vec<u8>,
    places: Vec<i64>,
    lengths: Vec<u64>,
}

impl Columns {
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Adds the requests to `out`, whose places and lengths have `shift` zero bits more; none when the columns are not of
    /// `count` rows or hold what they cannot.
    pub(crate) fn requests(&self, count: usize, shift: u8, out: &mut Vec<Request>) -> Option<()> {
        let has_times = !self.times.is_empty();
        let rows = [self.kinds.len(), self.places.len(), self.lengths.len()];
        let runs: u64 = self.volumes.iter().map(|&(_, run)| u64::from(run)).sum();
        let fits = rows == [count; 3] && runs == count as u64 && (!has_times || self.times.len() == count);
        if !fits || count > BLOCK_REQUESTS {
            return None;
        }
        let unit = 1u64.checked_shl(shift.into())?;
        let (mut time, mut end) = (0u64, 0u64);
        let volumes =
            self.volumes.iter().flat_map(|&(volume, run)| std::iter::repeat_n(volume, run as usize));
        for (row, volume) in volumes.enumerate() {
            let kind = *Kind::ALL.get(usize::from(self.kinds[row] & !IDS))?;
            let start = end.wrapping_add_signed(self.places[row] << shift);
            let length = self.lengths[row].checked_mul(unit)?;
            // What ends behind the last number cannot have been a request.
            end = start.checked_add(length)?;
            let span = if self.kinds[row] & IDS != 0 {
                Span::Ids { first: start, count: length }
            } else {
                Span::Bytes { offset: start, bytes: length }
            };
            let time_ns = self.times.get(row).map(|&since| {
                time = time.wrapping_add_signed(since);
                time
            });
            out.push(Request { volume, kind, span, time_ns });
        }
        Some(())
    }
}

/// The requests of a block that is to be written.
#[derive(Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    /// What the next row is the difference from.
    time: u64,
    end: u64,
    /// All bits that some place or length has.
    bits: u64,
}

/// One request; times and places are differences from the row before.
struct Row {
    time: i64,
    place: i64,
    length: u64,
    volume: u32,
    kind: u8,
}

impl Rows {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        (self.time, self.end, self.bits) = (0, 0, 0);
    }

    /// The next request, at `time_ns`; at any time when none of the block has one.
    #[inline]
    pub(crate) fn push(&mut self, request: &Request, time_ns: u64) {
        let (start, length) = request.span.parts();
        let is_ids = matches!(request.span, Span::Ids { .. });
        self.rows.push(Row {
            time: time_ns.wrapping_sub(self.time).cast_signed(),
            place: start.wrapping_sub(self.end).cast_signed(),
            length,
            volume: request.volume,
            kind: request.kind as u8 | if is_ids { IDS } else { 0 },
        });
        (self.time, self.end) = (time_ns, start.wrapping_add(length));
        self.bits |= start | length;
    }

    /// Zero bits at the end of all places and lengths, and so of all differences; none when there is nothing else.
    fn shift(&self) -> u8 {
        if self.bits == 0 { 0 } else { self.bits.trailing_zeros() as u8 }
    }

    /// Puts the shift and the columns behind `out`: what bincode makes of both.
    fn put(&self, has_times: bool, out: &mut Vec<u8>) {
        let (rows, shift) = (&self.rows, self.shift());
        out.push(shift);
        let timed = if has_times { &rows[..] } else { &[] };
        put_column(out, timed, |row| folded(row.time));
        let runs = || rows.chunk_by(|row, next| row.volume == next.volume);
        put_number(out, runs().count() as u64);
        for run in runs() {
            put_number(out, run[0].volume.into());
            put_number(out, run.len() as u64);
        }
        put_number(out, rows.len() as u64);
        out.extend(rows.iter().map(|row| row.kind));
        put_column(out, rows, |row| folded(row.place >> shift));
        put_column(out, rows, |row| row.length >> shift);
    }
}

fn put_column(out: &mut Vec<u8>, rows: &[Row], number: impl Fn(&Row) -> u64) {
    put_number(out, rows.len() as u64);
    let mut at = out.len();
    out.resize(at + NUMBER_BYTES_MAX * rows.len(), 0);
    for row in rows {
        at += place_number(out[at..].first_chunk_mut().expect("room for the widest"), number(row));
    }
    out.truncate(at);
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut place = [0; NUMBER_BYTES_MAX];
    let bytes = place_number(&mut place, number);
    out.extend_from_slice(&place[..bytes]);
}

/// A small number is one byte, others stand behind a byte that says how wide they are; how many bytes that is.
#[inline]
fn place_number(place: &mut [u8; NUMBER_BYTES_MAX], number: u64) -> usize {
    if number < 251 {
        place[0] = number as u8;
        return 1;
    }
    let (mark, bytes) = match number {
        0..0x1_0000 => (251, 2),
        0x1_0000..0x1_0000_0000 => (252, 4),
        _ => (253, 8),
    };
    place[0] = mark;
    place[1..].copy_from_slice(&number.to_le_bytes());
    1 + bytes
}

/// 0, -1, 1, -2 are 0, 1, 2, 3: what is near 0 stays small.
fn folded(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
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
        self.compress()
    }

    /// As [`Self::pack`], the requests of a block.
    pub(crate) fn pack_rows(&mut self, rows: &Rows, has_times: bool) -> Option<u32> {
        self.plain.clear();
        rows.put(has_times, &mut self.plain);
        self.compress()
    }

    fn compress(&mut self) -> Option<u32> {
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

    fn rows_of(requests: &[Request]) -> Rows {
        let mut rows = Rows::default();
        requests.iter().for_each(|request| rows.push(request, request.time_ns.unwrap_or(0)));
        rows
    }

    #[test]
    fn rows_are_differences_from_the_rows_before_and_columns_lie_in_order() {
        let bytes = |offset| Span::Bytes { offset, bytes: 20 };
        let rows = rows_of(&[
            Request { volume: 7, kind: Kind::Read, span: bytes(100), time_ns: Some(100) },
            Request { volume: 7, kind: Kind::Write, span: bytes(120), time_ns: Some(90) },
            Request {
                volume: 7,
                kind: Kind::Discard,
                span: Span::Ids { first: 2, count: 4 },
                time_ns: Some(90),
            },
        ]);
        let mut put = Vec::new();
        rows.put(true, &mut put);
        // All even: one bit is left out. Signed numbers are folded: 0, -1, 1, -2 are 0, 1, 2, 3. A list begins with its
        // length.
        let shift = [1];
        let times = [3, 200, 19, 0];
        let volumes = [1, 7, 3];
        let kinds = [3, 0, 1, 3 | IDS];
        let places = [3, 100, 0, 137];
        let lengths = [3, 10, 10, 2];
        assert_eq!(put, [&shift[..], &times, &volumes, &kinds, &places, &lengths].concat());
    }

    #[test]
    fn columns_are_put_as_bincode_puts_them() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for count in 0..300 {
            let (has_times, shifts) = (random.bool(), [random.u32(..63), random.u32(..63)]);
            // Of every width, each bound of one among them.
            let mut number = |bits_max: u32| {
                let bound = [0, 125, 126, 250, 251, 1 << 15, 1 << 16, 1 << 31, 1 << 32, u64::MAX];
                let bits = random.u32(1..=64);
                let number =
                    if random.bool() { bound[random.usize(..10)] } else { random.u64(..) >> (64 - bits) };
                number.wrapping_sub(random.u64(..2)) & (u64::MAX >> (64 - bits_max))
            };
            let mut request = || {
                let [start, length] = shifts.map(|shift| number(63 - shift) << shift);
                let span = if number(1) == 0 {
                    Span::Bytes { offset: start, bytes: length }
                } else {
                    Span::Ids { first: start, count: length }
                };
                let kind = Kind::ALL[number(2) as usize];
                let volume = if number(1) == 0 { 5 } else { number(32) as u32 };
                Request { volume, kind, span, time_ns: has_times.then_some(number(64)) }
            };
            let given: Vec<Request> = (0..count).map(|_| request()).collect();
            let mut put = Vec::new();
            rows_of(&given).put(has_times, &mut put);
            let ((shift, columns), taken): ((u8, Columns), usize) =
                bincode::decode_from_slice(&put, format()).expect("it was just put");
            assert_eq!(taken, put.len(), "seed {seed}");
            let mut found = Vec::new();
            columns.requests(count, shift, &mut found).expect("it was just put");
            assert_eq!(found, given, "seed {seed}");
            let encoded = bincode::encode_to_vec((shift, &columns), format()).expect("it fits");
            assert_eq!(put, encoded, "seed {seed}");
        }
    }

    #[test]
    fn columns_of_different_length_or_with_an_unknown_kind_or_shift_are_refused() {
        let good = Columns {
            times: vec![1],
            volumes: vec![(0, 1)],
            kinds: vec![0],
            places: vec![0],
            lengths: vec![1],
        };
        let refused = |columns: &Columns, count| columns.requests(count, 9, &mut Vec::new()).is_none();
        assert!(!refused(&good, 1) && refused(&good, 2) && refused(&good, 0));
        assert!(refused(&Columns { kinds: vec![9], ..good.clone() }, 1));
        assert!(refused(&Columns { volumes: vec![(0, u32::MAX)], ..good.clone() }, 1));
        assert!(refused(&Columns { times: vec![1, 1], ..good.clone() }, 1));
        assert!(refused(&Columns { places: vec![-1], lengths: vec![2], ..good.clone() }, 1));
        assert!(refused(&Columns { lengths: vec![1 << 55], ..good.clone() }, 1));
        for shift in [64, 255] {
            assert_eq!(good.requests(1, shift, &mut Vec::new()), None);
        }
    }
}

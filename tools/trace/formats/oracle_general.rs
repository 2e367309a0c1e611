//! libCacheSim's oracleGeneral: 24 little-endian bytes a request, no operation (all are taken as reads).
//!
//! | bytes  | holds                                                             | used                |
//! |--------|-------------------------------------------------------------------|---------------------|
//! | 0..4   | time, seconds                                                     | yes                 |
//! | 4..12  | object id                                                         | yes                 |
//! | 12..16 | object size, bytes                                                | with `--id-size`    |
//! | 16..24 | number of the request (from 1) that uses it next; -1 or max: none | to tell the format  |
//!
//! An object is one block: the sizes belong to whole objects and not to places in an address space, so that they
//! cannot say which blocks of a volume a request overlaps. Where the ids are addresses, `--id-size` says of what unit; the
//! size is then still that of the object, which libCacheSim takes from the first request for it.

use super::super::buffer::Buffer;
use super::super::input::Input;
use super::super::text::{SECOND_NS, bytes, ids};
use super::super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

pub(in super::super) const RECORD_BYTES: usize = 24;

pub(in super::super) struct OracleGeneralReader {
    buffer: Buffer,
    /// Of an id, where ids are addresses.
    id_bytes: Option<u64>,
}

impl OracleGeneralReader {
    pub(in super::super) fn new(input: Input, id_bytes: Option<u64>) -> Self {
        Self { buffer: Buffer::new(input), id_bytes }
    }
}

impl TraceReader for OracleGeneralReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let Some(record) = self.buffer.next_record(RECORD_BYTES)? else { return Ok(None) };
        let Record { seconds, id, size, .. } = parse(record);
        let Some(span) = object(id, u64::from(size), self.id_bytes, Kind::Read) else {
            return Err(self.buffer.bad_record("an id that times --id-size fits 64 bits", &format!("{id}")));
        };
        let time_ns = Some(u64::from(seconds) * SECOND_NS);
        Ok(Some(Request { volume: 0, kind: Kind::Read, span, time_ns }))
    }
}

/// What an object of `size` bytes touches: itself, or bytes where ids are addresses.
pub(super) fn object(id: u64, size: u64, id_bytes: Option<u64>, kind: Kind) -> Option<Span> {
    match id_bytes {
        None => ids(id, 1),
        Some(unit) => bytes(kind, id.checked_mul(unit)?, size),
    }
}

struct Record {
    seconds: u32,
    id: u64,
    size: u32,
    next_use: i64,
}

fn parse(record: &[u8]) -> Record {
    let record: &[u8; RECORD_BYTES] = record.try_into().expect("a whole record");
    let (seconds, rest) = record.split_first_chunk().expect("24 bytes hold 4");
    let (id, rest) = rest.split_first_chunk().expect("20 bytes hold 8");
    let (size, next_use) = rest.split_first_chunk().expect("12 bytes hold 4");
    Record {
        seconds: u32::from_le_bytes(*seconds),
        id: u64::from_le_bytes(*id),
        size: u32::from_le_bytes(*size),
        next_use: i64::from_le_bytes(next_use.try_into().expect("8 are left")),
    }
}

/// Whether times and next uses of a trace's beginning all go forward.
pub(in super::super) fn is_likely(prefix: &[u8]) -> bool {
    let mut earlier = 0;
    let likely = |(number, record): (i64, &[u8])| {
        let record = parse(record);
        let goes_forward = record.seconds >= earlier;
        earlier = record.seconds;
        let is_last_use = record.next_use == -1 || record.next_use == i64::MAX;
        goes_forward && (is_last_use || record.next_use > number)
    };
    prefix.len() >= RECORD_BYTES && (1..).zip(prefix.chunks_exact(RECORD_BYTES)).all(likely)
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Options, read_all, read_all_with};
    use super::*;

    fn record(seconds: u32, id: u64, bytes: u32, next_use: i64) -> Vec<u8> {
        let mut record = seconds.to_le_bytes().to_vec();
        record.extend(id.to_le_bytes());
        record.extend(bytes.to_le_bytes());
        record.extend(next_use.to_le_bytes());
        record
    }

    fn request(span: Span, seconds: u64) -> Request {
        Request { volume: 0, kind: Kind::Read, span, time_ns: Some(seconds * 1_000_000_000) }
    }

    #[test]
    fn an_object_is_one_id_whatever_its_size_unless_ids_are_addresses() {
        let bytes = [record(5, 77, 69632, 2), record(6, 77, 512, -1)].concat();
        let id = Span::Ids { first: 77, count: 1 };
        assert_eq!(read_all(Format::OracleGeneral, &bytes), Ok(vec![request(id, 5), request(id, 6)]));
        let options = Options { id_bytes: Some(512), ..Options::default() };
        let span = |bytes| Span::Bytes { offset: 77 * 512, bytes };
        let wanted = vec![request(span(69632), 5), request(span(512), 6)];
        assert_eq!(read_all_with(Format::OracleGeneral, &options, &bytes), Ok(wanted));
    }

    #[test]
    fn a_record_cut_short_or_out_of_range_is_named_by_its_number_and_byte() {
        let bytes = [record(5, 77, 512, -1), record(6, 1 << 60, 512, -1)].concat();
        let error = read_all(Format::OracleGeneral, &bytes[..40]).expect_err("cut");
        assert!(error.contains("record 2 at byte 24: expected 24 bytes, found 16"), "{error}");
        let options = Options { id_bytes: Some(512), ..Options::default() };
        let error = read_all_with(Format::OracleGeneral, &options, &bytes).expect_err("too far");
        assert!(error.contains("record 2 at byte 24: expected an id"), "{error}");
    }

    #[test]
    fn the_format_is_told_by_next_uses_that_lie_ahead() {
        assert!(is_likely(&[record(5, 77, 512, 2), record(5, 77, 512, -1)].concat()));
        assert!(!is_likely(&record(5, 77, 512, 1)), "the next use of request 1 cannot be request 1");
        assert!(!is_likely(&[record(5, 77, 512, -1), record(4, 77, 512, -1)].concat()));
    }
}

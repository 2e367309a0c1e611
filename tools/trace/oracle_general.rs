//! libCacheSim's oracleGeneral: 24 little-endian bytes a request, no operation (all are taken as reads).
//!
//! | bytes  | holds                                                             | used |
//! |--------|-------------------------------------------------------------------|------|
//! | 0..4   | time, seconds                                                     | yes  |
//! | 4..12  | object id                                                         | yes  |
//! | 12..16 | object size, bytes                                                | no   |
//! | 16..24 | number of the request (from 1) that uses it next; -1 or max: none | no   |
//!
//! An object is one block: the sizes belong to whole objects and not to places in an address space, so that they
//! cannot say which blocks of a volume a request overlaps.

use super::buffer::Records;
use super::input::Input;
use super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

pub(super) const RECORD_BYTES: usize = 24;

pub(super) struct OracleGeneralReader {
    records: Records<RECORD_BYTES>,
}

impl OracleGeneralReader {
    pub(super) fn new(input: Input) -> Self {
        Self { records: Records::new(input) }
    }
}

impl TraceReader for OracleGeneralReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let Some(record) = self.records.next_record()? else { return Ok(None) };
        let Record { seconds, id, .. } = parse(record);
        let span = Span::Ids { first: id, count: 1 };
        let time_us = Some(u64::from(seconds) * 1_000_000);
        Ok(Some(Request { volume: 0, kind: Kind::Read, span, time_us }))
    }
}

pub(super) struct Record {
    pub(super) seconds: u32,
    pub(super) id: u64,
    pub(super) next_use: i64,
}

pub(super) fn parse(record: &[u8; RECORD_BYTES]) -> Record {
    let (seconds, rest) = record.split_first_chunk().expect("24 bytes hold 4");
    let (id, rest) = rest.split_first_chunk().expect("20 bytes hold 8");
    let next_use = rest.last_chunk().expect("12 bytes hold 8");
    Record {
        seconds: u32::from_le_bytes(*seconds),
        id: u64::from_le_bytes(*id),
        next_use: i64::from_le_bytes(*next_use),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, read_all};
    use super::*;

    fn record(seconds: u32, id: u64, bytes: u32, next_use: i64) -> Vec<u8> {
        let mut record = seconds.to_le_bytes().to_vec();
        record.extend(id.to_le_bytes());
        record.extend(bytes.to_le_bytes());
        record.extend(next_use.to_le_bytes());
        record
    }

    #[test]
    fn an_object_is_one_id_whatever_its_size() {
        let bytes = [record(5, 77, 69632, 2), record(6, 77, 512, -1)].concat();
        let request = |time_us| Request {
            volume: 0,
            kind: Kind::Read,
            span: Span::Ids { first: 77, count: 1 },
            time_us: Some(time_us),
        };
        assert_eq!(read_all(Format::OracleGeneral, &bytes), Ok(vec![request(5_000_000), request(6_000_000)]));
    }

    #[test]
    fn a_record_cut_short_is_named_by_its_number_and_byte() {
        let bytes = [record(5, 77, 512, -1), record(6, 78, 512, -1)].concat();
        let error = read_all(Format::OracleGeneral, &bytes[..40]).expect_err("cut");
        assert!(error.contains("record 2 at byte 24: expected 24 bytes, found 16"), "{error}");
    }
}

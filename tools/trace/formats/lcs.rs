//! libCacheSim's lcs, versions 1 to 8: a header of 8192 bytes, then records of one size; little-endian.
//!
//! | header   | bytes      | holds                                                    |
//! |----------|------------|----------------------------------------------------------|
//! |          | 0..8       | magic, 0x123456789abcdef0                                |
//! |          | 8..16      | version                                                  |
//! |          | 16..8016   | statistics, not used                                     |
//! |          | 8184..8192 | the magic again                                          |
//!
//! | version  | bytes     | seconds | id    | size             | operation, tenant | ttl    | next use | features        |
//! |----------|-----------|---------|-------|------------------|-------------------|--------|----------|-----------------|
//! | 1        | 24        | 0..4    | 4..12 | 12..16           | -                 | -      | 16..24   | -               |
//! | 2        | 28        | 0..4    | 4..12 | 12..16           | 16..20            | -      | 20..28   | -               |
//! | 3        | 36        | 0..4    | 4..12 | 12..20, signed   | 20..24            | 24..28 | 28..36   | -               |
//! | 4 to 8   | 40 to 100 |         |       | as 3             |                   |        |          | 1 to 16 of 4 B  |
//!
//! The operation is the lowest byte of its word. Ids are of one space, whatever the tenant, and what was said of sizes at
//! `oracle_general` holds here.

use super::super::buffer::Buffer;
use super::super::input::Input;
use super::super::text::SECOND_NS;
use super::super::{Kind, Request, TraceReader};
use super::oracle_general::object;
use crate::failure::Result;

pub(in super::super) const MAGIC: [u8; 8] = 0x1234_5678_9abc_def0_u64.to_le_bytes();
pub(in super::super) const HEADER_BYTES: usize = 8192;

pub(in super::super) struct LcsReader {
    buffer: Buffer,
    id_bytes: Option<u64>,
    /// Known once the header was read.
    version: Option<u64>,
}

impl LcsReader {
    pub(in super::super) fn new(input: Input, id_bytes: Option<u64>) -> Self {
        Self { buffer: Buffer::new(input), id_bytes, version: None }
    }

    fn read_header(&mut self) -> Result<Option<u64>> {
        let Some(header) = self.buffer.next_record(HEADER_BYTES)? else { return Ok(None) };
        let version = u64::from_le_bytes(*header[8..].first_chunk().expect("inside the header"));
        let is_lcs = header.starts_with(&MAGIC) && header.ends_with(&MAGIC);
        if !is_lcs {
            return Err(self.buffer.bad_record("a header of lcs with its magic at both ends", "other data"));
        }
        if !(1..=8).contains(&version) {
            return Err(self.buffer.bad_record("lcs version 1 to 8", &format!("version {version}")));
        }
        self.version = Some(version);
        Ok(self.version)
    }
}

fn record_bytes(version: u64) -> usize {
    match version {
        1 => 24,
        2 => 28,
        3 => 36,
        features => 36 + 4 * (1 << (features - 4)),
    }
}

impl TraceReader for LcsReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let version = match self.version {
            Some(version) => version,
            None => match self.read_header()? {
                Some(version) => version,
                None => return Ok(None),
            },
        };
        let Some(record) = self.buffer.next_record(record_bytes(version))? else { return Ok(None) };
        let half = |at: usize| u32::from_le_bytes(*record[at..].first_chunk().expect("inside the record"));
        let word = |at: usize| u64::from_le_bytes(*record[at..].first_chunk().expect("inside the record"));
        let (seconds, id) = (half(0), word(4));
        let (size, operation) = match version {
            1 => (u64::from(half(12)), 0),
            2 => (u64::from(half(12)), record[16]),
            _ => (word(12), record[20]),
        };
        let kind = kind(operation);
        let Some(span) = object(id, size, self.id_bytes, kind) else {
            let expected = "an id that times --id-size fits 64 bits, and a size below 4 GiB";
            return Err(self.buffer.bad_record(expected, &format!("id {id}, size {size}")));
        };
        let time_ns = Some(u64::from(seconds) * SECOND_NS);
        Ok(Some(Request { volume: 0, kind, span, time_ns }))
    }
}

/// Operations of object caches as a disk would do them. 0 and what is unknown are reads, as where there is none.
fn kind(operation: u8) -> Kind {
    match operation {
        // set, add, cas, replace, append, prepend; incr, decr; write, update.
        3..=8 | 10 | 11 | 13 | 14 => Kind::Write,
        9 => Kind::Discard,
        _ => Kind::Read,
    }
}

/// libCacheSim's number of an operation.
pub(in super::super) fn operation(kind: Kind) -> u8 {
    match kind {
        Kind::Read => 12,
        Kind::Write => 13,
        Kind::Discard => 9,
        Kind::Flush => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Options, Span, read_all, read_all_with};
    use super::*;

    fn header(version: u64) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&version.to_le_bytes());
        header[HEADER_BYTES - 8..].copy_from_slice(&MAGIC);
        header
    }

    /// Second 5, id 77, 4096 bytes, a write where there are operations.
    fn record(version: u64) -> Vec<u8> {
        let mut record = [&5u32.to_le_bytes()[..], &77u64.to_le_bytes()].concat();
        let word = (7u32 << 8 | 13).to_le_bytes();
        match version {
            1 => record.extend(4096u32.to_le_bytes()),
            2 => record.extend([4096u32.to_le_bytes(), word].concat()),
            _ => record.extend([&4096i64.to_le_bytes()[..], &word, &9u32.to_le_bytes()].concat()),
        }
        record.extend((-1i64).to_le_bytes());
        let features = if version > 3 { 1 << (version - 4) } else { 0 };
        record.extend(vec![0xee; 4 * features]);
        record
    }

    #[test]
    fn every_version_is_read_and_its_operation_where_it_has_one() {
        let options = Options { id_bytes: Some(512), ..Options::default() };
        for version in 1..=8 {
            let trace = [header(version), record(version), record(version)].concat();
            let kind = if version == 1 { Kind::Read } else { Kind::Write };
            let request = |span| Request { volume: 0, kind, span, time_ns: Some(5_000_000_000) };
            let id = request(Span::Ids { first: 77, count: 1 });
            assert_eq!(read_all(Format::Lcs, &trace), Ok(vec![id, id]), "version {version}");
            let place = request(Span::Bytes { offset: 77 * 512, bytes: 4096 });
            assert_eq!(read_all_with(Format::Lcs, &options, &trace), Ok(vec![place, place]));
        }
    }

    #[test]
    fn a_header_or_record_that_is_wrong_or_cut_is_named_by_its_byte() {
        let mut torn = header(1);
        torn[HEADER_BYTES - 1] = 0;
        for (trace, expected) in [
            (header(9), "at byte 0: expected lcs version 1 to 8, found version 9"),
            (torn, "at byte 0: expected a header of lcs"),
            (header(1)[..100].to_vec(), "at byte 0: expected 8192 bytes, found 100"),
            ([header(2), record(2)[..27].to_vec()].concat(), "at byte 8192: expected 28 bytes, found 27"),
        ] {
            let error = read_all(Format::Lcs, &trace).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        let mut record = record(3);
        record[12..20].fill(0xff);
        let options = Options { id_bytes: Some(512), ..Options::default() };
        let error =
            read_all_with(Format::Lcs, &options, &[header(3), record].concat()).expect_err("negative");
        assert!(error.contains("record 2 at byte 8192: expected an id"), "{error}");
    }
}

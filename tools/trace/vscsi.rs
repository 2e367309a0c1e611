//! The vscsi recordings of CloudPhysics, version 1: 32 little-endian bytes a request.
//!
//! | bytes  | holds                                     |
//! |--------|-------------------------------------------|
//! | 0..4   | serial number                             |
//! | 4..8   | length, bytes                             |
//! | 8..12  | number of scatter-gather elements         |
//! | 12..14 | SCSI operation code                       |
//! | 14..16 | version, in the upper byte                |
//! | 16..24 | logical block number, 512-byte sectors    |
//! | 24..32 | time, microseconds                        |
//!
//! Commands that neither read nor write are passed over and counted.

use super::buffer::Records;
use super::input::Input;
use super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

pub(super) const RECORD_BYTES: usize = 32;
const SECTOR_BYTES: u64 = 512;

pub(super) struct VscsiReader {
    records: Records<RECORD_BYTES>,
    skipped: u64,
}

impl VscsiReader {
    pub(super) fn new(input: Input) -> Self {
        Self { records: Records::new(input), skipped: 0 }
    }
}

impl TraceReader for VscsiReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            let Some(record) = self.records.next_record()? else { return Ok(None) };
            let record = parse(record);
            if record.version != 1 {
                let found = format!("version {}", record.version);
                return Err(self.records.bad_record("vscsi version 1", &found));
            }
            let Some(kind) = kind(record.operation) else {
                self.skipped += 1;
                continue;
            };
            let bytes = u64::from(record.bytes);
            let offset =
                record.sector.checked_mul(SECTOR_BYTES).filter(|offset| offset.checked_add(bytes).is_some());
            let Some(offset) = offset else {
                let found = format!("sector {}", record.sector);
                return Err(self.records.bad_record("a sector number below 2^55", &found));
            };
            let span = Span::Bytes { offset, bytes };
            return Ok(Some(Request { volume: 0, kind, span, time_us: Some(record.time_us) }));
        }
    }

    fn skipped_commands(&self) -> u64 {
        self.skipped
    }
}

/// READ and WRITE of 6, 10 and 16 bytes.
pub(super) fn kind(operation: u16) -> Option<Kind> {
    match operation {
        0x08 | 0x28 | 0x88 => Some(Kind::Read),
        0x0a | 0x2a | 0x8a => Some(Kind::Write),
        _ => None,
    }
}

pub(super) struct Record {
    pub(super) bytes: u32,
    pub(super) operation: u16,
    pub(super) version: u16,
    pub(super) sector: u64,
    pub(super) time_us: u64,
}

pub(super) fn parse(record: &[u8; RECORD_BYTES]) -> Record {
    let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
    let word = |at: usize| u64::from_le_bytes(*record[at..].first_chunk().expect("inside 32 bytes"));
    Record {
        bytes: u32::from_le_bytes(*record[4..].first_chunk().expect("inside 32 bytes")),
        operation: half(12),
        version: half(14) >> 8,
        sector: word(16),
        time_us: word(24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, read_all};
    use super::*;

    fn record(operation: u16, version: u16, sector: u64, bytes: u32) -> Vec<u8> {
        let mut record = 9u32.to_le_bytes().to_vec();
        record.extend(bytes.to_le_bytes());
        record.extend(1u32.to_le_bytes());
        record.extend(operation.to_le_bytes());
        record.extend((version << 8 | 3).to_le_bytes());
        record.extend(sector.to_le_bytes());
        record.extend(1234u64.to_le_bytes());
        record
    }

    #[test]
    fn reads_and_writes_of_every_length_are_taken_and_other_commands_passed_over() {
        let operations = [0x28, 0x2a, 0x88, 0x8a, 0x08, 0x0a, 0x35, 0x00];
        let bytes: Vec<u8> =
            operations.iter().flat_map(|&operation| record(operation, 1, 63, 4096)).collect();
        let requests = read_all(Format::Vscsi, &bytes).expect("good");
        let kinds: Vec<Kind> = requests.iter().map(|request| request.kind).collect();
        assert_eq!(kinds, [Kind::Read, Kind::Write, Kind::Read, Kind::Write, Kind::Read, Kind::Write]);
        assert!(requests.iter().all(|request| request.span == Span::Bytes { offset: 63 * 512, bytes: 4096 }));
        assert!(requests.iter().all(|request| request.time_us == Some(1234)));
    }

    #[test]
    fn a_record_of_another_version_cut_short_or_out_of_range_is_named_by_its_number() {
        let good = record(0x28, 1, 0, 512);
        for (bad, expected) in [
            (record(0x28, 2, 0, 512), "record 2 at byte 32: expected vscsi version 1, found version 2"),
            (good[..31].to_vec(), "record 2 at byte 32: expected 32 bytes, found 31"),
            (record(0x28, 1, 1 << 60, 512), "record 2 at byte 32: expected a sector number below 2^55"),
        ] {
            let error = read_all(Format::Vscsi, &[good.clone(), bad].concat()).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}

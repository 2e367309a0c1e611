//! The vscsi recordings of CloudPhysics, in two versions; little-endian.
//!
//! | version 1, 32 bytes | version 2, 40 bytes | holds                                   |
//! |---------------------|---------------------|-----------------------------------------|
//! | 0..4                | 4..8                | serial number                           |
//! | 4..8                | 8..12               | length, bytes                           |
//! | 8..12               | 12..16              | number of scatter-gather elements       |
//! | 12..14              | 0..2                | SCSI operation code                     |
//! | 14..16              | 2..4                | version, in the upper byte              |
//! | 16..24              | 16..24              | logical block number, 512-byte sectors  |
//! | 24..32              | 24..32              | time, microseconds                      |
//! | -                   | 32..40              | response time                           |
//!
//! Commands that neither read nor write nor flush are passed over and counted.

use super::super::buffer::Buffer;
use super::super::input::Input;
use super::super::text::{SECTOR_BYTES, bytes};
use super::super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Version {
    One,
    Two,
}

impl Version {
    pub(in super::super) fn record_bytes(self) -> usize {
        match self {
            Self::One => 32,
            Self::Two => 40,
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

pub(in super::super) struct VscsiReader {
    buffer: Buffer,
    version: Version,
    skipped: u64,
}

impl VscsiReader {
    pub(in super::super) fn new(input: Input, version: Version) -> Self {
        Self { buffer: Buffer::new(input), version, skipped: 0 }
    }
}

impl TraceReader for VscsiReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            let Some(record) = self.buffer.next_record(self.version.record_bytes())? else { return Ok(None) };
            let record = parse(record, self.version);
            if record.version != self.version.number() {
                let expected = format!("vscsi version {}", self.version.number());
                let found = format!("version {}", record.version);
                return Err(self.buffer.bad_record(&expected, &found));
            }
            let Some(kind) = kind(record.operation) else {
                self.skipped += 1;
                continue;
            };
            let Some((span, time_ns)) = record.place(kind) else {
                let found =
                    format!("sector {}, {} bytes, {} us", record.sector, record.bytes, record.time_us);
                return Err(self
                    .buffer
                    .bad_record("a sector number below 2^55 and a time below 2^54 us", &found));
            };
            return Ok(Some(Request { volume: 0, kind, span, time_ns: Some(time_ns) }));
        }
    }

    fn skipped_commands(&self) -> u64 {
        self.skipped
    }
}

/// READ, WRITE of 6, 10, 12 and 16 bytes, and SYNCHRONIZE CACHE.
pub(in super::super) fn kind(operation: u16) -> Option<Kind> {
    match operation {
        0x08 | 0x28 | 0xa8 | 0x88 => Some(Kind::Read),
        0x0a | 0x2a | 0xaa | 0x8a => Some(Kind::Write),
        0x35 | 0x91 => Some(Kind::Flush),
        _ => None,
    }
}

struct Record {
    bytes: u32,
    operation: u16,
    version: u16,
    sector: u64,
    time_us: u64,
}

impl Record {
    fn place(&self, kind: Kind) -> Option<(Span, u64)> {
        let span = match kind {
            Kind::Flush => Span::NOTHING,
            _ => bytes(kind, self.sector.checked_mul(SECTOR_BYTES)?, u64::from(self.bytes))?,
        };
        Some((span, self.time_us.checked_mul(1000)?))
    }
}

fn parse(record: &[u8], version: Version) -> Record {
    let (operation, version_at, bytes_at) = match version {
        Version::One => (12, 14, 4),
        Version::Two => (0, 2, 8),
    };
    let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
    let word = |at: usize| u64::from_le_bytes(*record[at..].first_chunk().expect("inside the record"));
    Record {
        bytes: u32::from_le_bytes(*record[bytes_at..].first_chunk().expect("inside the record")),
        operation: half(operation),
        version: half(version_at) >> 8,
        sector: word(16),
        time_us: word(24),
    }
}

/// Whether all whole records of a trace's beginning hold what this version makes likely.
pub(in super::super) fn is_likely(prefix: &[u8], version: Version) -> bool {
    let mut records =
        prefix.chunks_exact(version.record_bytes()).map(|record| parse(record, version)).peekable();
    let mut moved = false;
    records.peek().is_some()
        && records.all(|record| {
            moved |= kind(record.operation).is_some();
            let is_small = record.bytes <= 1 << 28 && record.sector < 1 << 55;
            record.version == version.number() && record.operation <= 0xff && is_small
        })
        && moved
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, read_all};
    use super::*;

    fn record(version: Version, operation: u16, number: u16, sector: u64, bytes: u32) -> Vec<u8> {
        let code = [operation.to_le_bytes(), (number << 8 | 3).to_le_bytes()].concat();
        let counts = [9u32.to_le_bytes(), bytes.to_le_bytes(), 1u32.to_le_bytes()].concat();
        let rest = [sector.to_le_bytes(), 1234u64.to_le_bytes()].concat();
        match version {
            Version::One => [counts, code, rest].concat(),
            Version::Two => [code, counts, rest, 5u64.to_le_bytes().to_vec()].concat(),
        }
    }

    #[test]
    fn reads_writes_and_flushes_of_every_length_are_taken_and_other_commands_passed_over() {
        use Kind::{Flush, Read, Write};
        for (version, format) in [(Version::One, Format::Vscsi), (Version::Two, Format::Vscsi2)] {
            let operations = [0x28, 0x2a, 0x88, 0x8a, 0x08, 0x0a, 0x35, 0x00, 0x91, 0xa8, 0xaa];
            let records = operations.map(|operation| record(version, operation, version.number(), 63, 4096));
            assert!(is_likely(&records.concat(), version));
            let requests = read_all(format, &records.concat()).expect("good");
            let kinds: Vec<Kind> = requests.iter().map(|request| request.kind).collect();
            assert_eq!(kinds, [Read, Write, Read, Write, Read, Write, Flush, Flush, Read, Write]);
            for request in requests {
                let flushes = request.kind == Flush;
                let span = Span::Bytes { offset: 63 * 512, bytes: 4096 };
                assert_eq!(request.span, if flushes { Span::NOTHING } else { span });
                assert_eq!(request.time_ns, Some(1_234_000));
            }
        }
    }

    #[test]
    fn a_record_of_another_version_cut_short_or_out_of_range_is_named_by_its_number() {
        let of = |number, sector| record(Version::One, 0x28, number, sector, 512);
        for (bad, expected) in [
            (of(2, 0), "record 2 at byte 32: expected vscsi version 1, found version 2"),
            (of(1, 0)[..31].to_vec(), "record 2 at byte 32: expected 32 bytes, found 31"),
            (of(1, 1 << 60), "record 2 at byte 32: expected a sector number below 2^55"),
        ] {
            let error = read_all(Format::Vscsi, &[of(1, 0), bad].concat()).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        let error = read_all(Format::Vscsi2, &record(Version::Two, 0x28, 1, 0, 512)).expect_err("version");
        assert!(error.contains("record 1 at byte 0: expected vscsi version 2, found version 1"), "{error}");
    }
}

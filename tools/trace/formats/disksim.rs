//! Five numbers a line: the ASCII traces of DiskSim, SSDSim and MQSim, and those of TraceRAR and its kin.
//!
//! | format   | fields                     | times                 | addresses, sizes | reads          |
//! |----------|----------------------------|-----------------------|------------------|----------------|
//! | DiskSim  | `time device lbn size flag` | nanoseconds, or chosen | 512-byte sectors | flag 1 (bit 0) |
//! | TraceRAR | `time device offset size op` | milliseconds          | bytes            | 1              |
//!
//! The unit of DiskSim's time is a setting of its reader (`--time-unit`): whole numbers are taken for nanoseconds, as
//! MQSim has them, and fractions for milliseconds, as DiskSim has them. The first line decides; one that looks otherwise is
//! refused, since its time would be off by a factor of a million.

use super::super::text::{
    Line, LineParser, MILLISECOND_NS, Plain, Row, SECTOR_BYTES, bytes, number, split_words, time, words,
};
use super::super::{Kind, text};

pub(in super::super) const TRACERAR: Plain =
    Plain { expected: "`time device offset size 0 or 1`, in bytes and milliseconds", row: tracerar };

pub(in super::super) struct DiskSimParser {
    /// Of the time, nanoseconds, if it was given.
    time_unit_ns: Option<u64>,
    /// Else whether times have a fraction, once the first of them was seen.
    has_fractions: Option<bool>,
}

impl DiskSimParser {
    pub(in super::super) fn new(time_unit_ns: Option<u64>) -> Self {
        Self { time_unit_ns, has_fractions: None }
    }
}

impl LineParser for DiskSimParser {
    fn expected(&self) -> &'static str {
        match (self.time_unit_ns, self.has_fractions) {
            (None, Some(true)) => {
                "`time device sector sectors flag`, the flag 0 or 1 and the time with a fraction as before, or --time-unit"
            }
            (None, Some(false)) => {
                "`time device sector sectors flag`, the flag 0 or 1 and the time a whole number as before, or --time-unit"
            }
            _ => "`time device sector sectors flag`, the flag 0 or 1",
        }
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        let [at, volume, first, count, flag] = words(line)?;
        let has_fraction = at.contains(&b'.');
        let looks_like = if has_fraction { MILLISECOND_NS } else { 1 };
        let time_ns = time(at, self.time_unit_ns.unwrap_or(looks_like))?;
        let kind = kind(flag)?;
        number(volume)?;
        let span = text::units(kind, number(first)?, number(count)?, SECTOR_BYTES)?;
        if self.time_unit_ns.is_none() && *self.has_fractions.get_or_insert(has_fraction) != has_fraction {
            return None;
        }
        Some(Line::Request(Row { volume, kind, span, time_ns: Some(time_ns) }))
    }
}

/// In what a trace that begins like this counts, as its first line shows it.
pub(in super::super) fn units(prefix: &[u8]) -> &'static str {
    let first = prefix.split(|&byte| byte == b'\n').find_map(|line| split_words(line).next());
    if first.is_some_and(|at| at.contains(&b'.')) {
        "512-byte sectors, times in ms (they have fractions; see --time-unit)"
    } else {
        "512-byte sectors, times in ns (they are whole numbers; see --time-unit)"
    }
}

fn tracerar(line: &[u8]) -> Option<Row<'_>> {
    let [at, volume, offset, length, operation] = words(line)?;
    let (time_ns, kind) = (time(at, MILLISECOND_NS)?, kind(operation)?);
    number(volume)?;
    let span = bytes(kind, number(offset)?, number(length)?)?;
    Some(Row { volume, kind, span, time_ns: Some(time_ns) })
}

/// Whether a line is rather TraceRAR's than DiskSim's: a time with a fraction, and whole sectors counted in bytes.
pub(in super::super) fn looks_like_tracerar(line: &[u8]) -> bool {
    let Some([at, _, offset, length, _]) = words(line) else { return false };
    let is_whole = |field| number(field).is_some_and(|bytes: u64| bytes.is_multiple_of(SECTOR_BYTES));
    at.contains(&b'.') && is_whole(offset) && is_whole(length) && tracerar(line).is_some()
}

/// The opposite of fio's and Tencent's.
fn kind(flag: &[u8]) -> Option<Kind> {
    match flag {
        b"0" => Some(Kind::Write),
        b"1" => Some(Kind::Read),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Options, bad_lines_are_named, read_all, read_all_with, request};
    use super::*;

    #[test]
    fn disksims_are_in_sectors_and_1_is_a_read() {
        let text = b"11413000 0 657728 16 1\n11565000 1 8 1 0\n";
        let wanted = [
            request(0, Kind::Read, 657_728 * 512, 8192, 11_413_000),
            request(1, Kind::Write, 4096, 512, 11_565_000),
        ];
        assert_eq!(read_all(Format::DiskSim, text).expect("good"), wanted);
        let bad = ["1 0 8 1", "1 0 8 1 2", "x 0 8 1 1", "1 x 8 1 1", "1 0 8 -1 1", "1 0 8 8388608 1"];
        bad_lines_are_named(Format::DiskSim, "1 0 8 1 1", "expected `time device sector", &bad);
    }

    #[test]
    fn a_fraction_of_time_means_milliseconds_unless_the_unit_is_given() {
        let times = |text: &[u8], unit| {
            let options = Options { time_unit_ns: unit, ..Options::default() };
            read_all_with(Format::DiskSim, &options, text).expect("good")[0].time_ns
        };
        assert_eq!(times(b"1.5 0 8 1 1", None), Some(1_500_000));
        assert_eq!(times(b"15 0 8 1 1", Some(1000)), Some(15_000));
        assert_eq!(times(b"1.5 0 8 1 1", Some(1_000_000_000)), Some(1_500_000_000));
        assert!(super::units(b"\n1.5 0 8 1 1\n2 0").contains("in ms"));
        assert!(super::units(b"15 0 8 1 1\n2.5 0").contains("in ns"));
    }

    /// Two recordings one behind the other, or times that a tool printed without their zeros, were read as nanoseconds here
    /// and as milliseconds there.
    #[test]
    fn a_line_whose_time_is_of_another_unit_is_named_by_its_number_unless_the_unit_is_given() {
        for (text, expected) in [
            (
                &b"1.5 0 8 1 1\n2 0 8 1 1\n"[..],
                "line 2: expected `time device sector sectors flag`, the flag 0 or 1 and the time with a fraction",
            ),
            (
                b"1500000 0 8 1 1\n2.0 0 8 1 1\n",
                "line 2: expected `time device sector sectors flag`, the flag 0 or 1 and the time a whole number",
            ),
        ] {
            let error = read_all(Format::DiskSim, text).expect_err(expected);
            assert!(error.contains(expected) && error.contains("--time-unit"), "{error}");
            let options = Options { time_unit_ns: Some(1_000_000), ..Options::default() };
            assert_eq!(read_all_with(Format::DiskSim, &options, text).map(|all| all.len()), Ok(2));
        }
    }

    #[test]
    fn tracerars_are_in_bytes_and_milliseconds() {
        let text = b"0.000 0 200626176 4096 0\n223.412 1 3159347200 36864 1\n";
        let wanted = [
            request(0, Kind::Write, 200_626_176, 4096, 0),
            request(1, Kind::Read, 3_159_347_200, 36_864, 223_412_000),
        ];
        assert_eq!(read_all(Format::TraceRar, text).expect("good"), wanted);
        let bad = ["0.0 0 512 512", "0.0 0 512 512 2", "x 0 512 512 1", "0.0 0 512 4294967296 1"];
        bad_lines_are_named(Format::TraceRar, "0.000 0 512 512 1", "expected `time device offset", &bad);
    }

    #[test]
    fn a_time_with_a_fraction_and_whole_sectors_in_bytes_look_like_tracerar() {
        assert!(looks_like_tracerar(b"0.000 0 200626176 4096 0"));
        assert!(!looks_like_tracerar(b"0 0 200626176 4096 0") && !looks_like_tracerar(b"0.1 0 512 16 0"));
    }
}

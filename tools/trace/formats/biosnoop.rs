//! What `biosnoop` of bcc prints: a heading, then a finished request a line.
//!
//! `TIME(s) COMM PID DISK T SECTOR BYTES [QUE(ms)] LAT(ms)` between white space; the time in seconds since the first,
//! sectors of 512 bytes, T is `R`, `W`, `D` (discard) or `F` (flush). Names of processes may have spaces, so that a line
//! is read from its end. The time is that of the answer: `LAT` before it the request was made, and that is what counts.
//!
//! (`biosnoop.bt` of bpftrace prints neither sector nor size, and cannot be read.)

use super::super::text::{
    Line, LineParser, MILLISECOND_NS, Row, SECOND_NS, SECTOR_BYTES, bytes, kind, number, split_words, time,
};
use super::super::{Kind, Span};

pub(in super::super) struct BiosnoopParser;

impl LineParser for BiosnoopParser {
    fn expected(&self) -> &'static str {
        "`seconds process pid disk R or W sector bytes [ms] ms`"
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        if line.starts_with(b"TIME(s)") {
            let is_known = split_words(line).any(|word| word == b"SECTOR");
            return is_known.then_some(Line::Nothing);
        }
        let mut words = split_words(line);
        let ended_ns = time(words.next()?, SECOND_NS)?;
        let latency_ns = time(words.next_back()?, MILLISECOND_NS)?;
        let (last, before) = (words.next_back()?, words.next_back()?);
        // One more column, the time in the queue, has a point; a number of bytes has none.
        let (length, sector) = if time(last, 1).is_some() && last.contains(&b'.') {
            (before, words.next_back()?)
        } else {
            (last, before)
        };
        let operation = words.next_back()?;
        let volume = words.next_back()?;
        number(words.next_back()?)?;
        let kind = match operation {
            b"D" => Kind::Discard,
            b"F" => Kind::Flush,
            other => kind(other)?,
        };
        let span = match kind {
            Kind::Flush => Span::NOTHING,
            _ => bytes(kind, number(sector)?.checked_mul(SECTOR_BYTES)?, number(length)?)?,
        };
        let time_ns = Some(ended_ns.saturating_sub(latency_ns));
        Some(Line::Request(Row { volume, kind, span, time_ns }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, bad_lines_are_named, read_all, request};
    use super::*;

    #[test]
    fn a_request_was_made_its_latency_before_its_answer() {
        let text = b"TIME(s)     COMM           PID    DISK    T SECTOR     BYTES  LAT(ms)\n\
            0.000004    supervise      1950   vda     W 13092560   4096      0.74\n\
            2.5 jbd2/vda 2-8 276 vda R 16 8192 100.00\n\
            3.0 a 1 vdb D 0 4294967296 1.00\n\
            3.0 a 1 vda F 0 0 1.00\n";
        assert_eq!(
            read_all(Format::Biosnoop, text).expect("good"),
            [
                request(0, Kind::Write, 13_092_560 * 512, 4096, 0),
                request(0, Kind::Read, 8192, 8192, 2_400_000_000),
                request(1, Kind::Discard, 0, 1 << 32, 2_999_000_000),
                request(0, Kind::Flush, 0, 0, 2_999_000_000),
            ]
        );
    }

    #[test]
    fn the_time_in_the_queue_is_one_more_column() {
        let text = b"TIME(s) COMM PID DISK T SECTOR BYTES QUE(ms) LAT(ms)\n1.0 a 1 vda R 16 512 0.01 10.00\n";
        let requests = read_all(Format::Biosnoop, text).expect("good");
        assert_eq!(requests[0].span, Span::Bytes { offset: 8192, bytes: 512 });
        assert_eq!(requests[0].time_ns, Some(990_000_000));
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let bad = [
            "1.0 a 1 vda R 16 512",
            "1.0 a x vda R 16 512 0.1",
            "1.0 a 1 vda X 16 512 0.1",
            "soon a 1 vda R 16 512 0.1",
            "1.0 a 1 vda R 16 -512 0.1",
            "TIME(s) DISK COMM PID LAT(ms)",
        ];
        bad_lines_are_named(Format::Biosnoop, "1.0 a 1 vda R 16 512 0.1", "expected `seconds process", &bad);
    }
}

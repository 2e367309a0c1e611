//! What `blkparse` prints of a blktrace recording, in its default format.
//!
//! `major,minor cpu sequence seconds pid action RWBS sector + sectors [process]`; sectors of 512 bytes. Of the stages of
//! a request only its queueing counts (action `Q`): the others are the same request again. A volume is `major,minor`.
//!
//! RWBS says what it is: `D` or `E` a discard; else `W` a write, `R` a read; `F` without a place a flush. Other letters
//! are hints. Messages (action `m`) and the summary at the end mean nothing here.

use super::super::text::{Line, LineParser, Row, SECOND_NS, SECTOR_BYTES, number, split_words, time, units};
use super::super::{Kind, Span};

#[derive(Default)]
pub(in super::super) struct BlkparseParser {
    is_in_summary: bool,
}

impl LineParser for BlkparseParser {
    fn expected(&self) -> &'static str {
        "`major,minor cpu sequence seconds pid action RWBS sector + sectors`"
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        self.is_in_summary |= line.starts_with(b"CPU") || line.starts_with(b"Total (");
        if self.is_in_summary { Some(Line::Nothing) } else { event(line) }
    }
}

fn event(line: &[u8]) -> Option<Line<'_>> {
    let mut words = split_words(line);
    let volume = words.next().filter(|device| is_device(device))?;
    number(words.next()?)?;
    number(words.next()?)?;
    let time_ns = time(words.next()?, SECOND_NS)?;
    number(words.next()?)?;
    match words.next()? {
        b"Q" => {}
        // `UT` is the longest.
        action if action.len() <= 2 && action.iter().all(u8::is_ascii_alphabetic) => {
            return Some(Line::Nothing);
        }
        _ => return None,
    }
    let flags = words.next()?;
    let place = words.next().filter(|word| !word.starts_with(b"["));
    let has = |flag| flags.contains(&flag);
    let kind = match place {
        _ if !flags.iter().all(u8::is_ascii_alphabetic) => return None,
        Some(_) if has(b'D') || has(b'E') => Kind::Discard,
        Some(_) if has(b'W') => Kind::Write,
        Some(_) if has(b'R') => Kind::Read,
        None if has(b'F') => Kind::Flush,
        _ => return Some(Line::Command),
    };
    let span = match place {
        None => Span::NOTHING,
        Some(sector) => {
            let is_length = words.next()? == b"+";
            let count = is_length.then(|| words.next()).flatten()?;
            units(kind, number(sector)?, number(count)?, SECTOR_BYTES)?
        }
    };
    Some(Line::Request(Row { volume, kind, span, time_ns: Some(time_ns) }))
}

fn is_device(word: &[u8]) -> bool {
    let mut parts = word.splitn(2, |&byte| byte == b',');
    let mut is_number = || parts.next().and_then(number).is_some();
    is_number() && is_number()
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, bad_lines_are_named, read_all, request};
    use super::*;

    #[test]
    fn only_what_is_queued_is_a_request() {
        let text = b"  8,0    1        1     0.000000000   697  Q   W 223490 + 8 [kjournald]\n\
            8,0 1 2 0.000001829 697 G W 223490 + 8 [kjournald]\n\
            8,0 1 3 0.000002 697 P N [kjournald]\n\
            8,0 1 0 0.000003 0 m N cfq something\n\
            8,16 1 4 1.5 697 Q RA 16 + 1 [a b]\n\
            8,0 1 5 1.6 697 Q FWS [sync]\n\
            8,0 1 6 1.7 697 Q DS 0 + 2048 [fstrim]\n\
            8,0 1 7 1.8 697 Q N [sg]\n\
            CPU0 (sda):\n Reads Queued: 1, 1KiB\t Writes Queued: 5\n";
        assert_eq!(
            read_all(Format::Blkparse, text).expect("good"),
            [
                request(0, Kind::Write, 223_490 * 512, 4096, 0),
                request(1, Kind::Read, 8192, 512, 1_500_000_000),
                request(0, Kind::Flush, 0, 0, 1_600_000_000),
                request(0, Kind::Discard, 0, 1 << 20, 1_700_000_000),
            ]
        );
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let bad = [
            "8 1 1 0.0 1 Q W 1 + 8 [p]",
            "8,0 1 1 0.0 1 Q W 1 8 [p]",
            "8,0 1 1 0.0 1 Q W 1 +",
            "8,0 1 1 now 1 Q W 1 + 8 [p]",
            "8,0 1 1 0.0 1 Quick W 1 + 8 [p]",
            "8,0 1 1 0.0 1 Q W x + 8 [p]",
            "8,0 1 1 0.0 1 Q 7 1 + 8 [p]",
        ];
        bad_lines_are_named(Format::Blkparse, "8,0 1 1 0.0 1 Q W 1 + 8 [p]", "expected `major,minor", &bad);
    }
}

//! I/O logs of fio, versions 2 and 3 (`write_iolog`, `read_iolog`): the version on the first line, then an action a line.
//!
//! | version | line                           | times                                                    |
//! |---------|--------------------------------|----------------------------------------------------------|
//! | 2       | `file action [offset length]`  | `file wait us`: so long after what was before             |
//! | 3       | `us file action [offset length]` | microseconds since the start; there is no `wait`        |
//!
//! Actions: `read`, `write`, `trim` with bytes from an offset; `sync` and `datasync`, a flush; `add`, `open`, `close`,
//! which mean nothing here. A volume is a file. fio's manual does not name the unit of version 3; fio writes microseconds.
//! Version 1 (`rw,offset,length`) fio itself reads no more.

use super::super::text::{Line, LineParser, Row, bytes, number, split_words};
use super::super::{Kind, Span};

#[derive(Default)]
pub(in super::super) struct FioParser {
    version: Option<u8>,
    /// The sum of all waits so far.
    waited_us: u64,
}

impl LineParser for FioParser {
    fn expected(&self) -> &'static str {
        match self.version {
            None => "`fio version 2 iolog` or `fio version 3 iolog`",
            Some(2) => "`file action offset length`",
            Some(_) => "`microseconds file action offset length`",
        }
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        let Some(version) = self.version else {
            self.version = match line {
                b"fio version 2 iolog" => Some(2),
                b"fio version 3 iolog" => Some(3),
                _ => None,
            };
            return self.version.map(|_| Line::Nothing);
        };
        let mut words = split_words(line);
        let stamped_us = if version == 3 { Some(number(words.next()?)?) } else { None };
        let (volume, action) = (words.next()?, words.next()?);
        let numbers = [words.next(), words.next()];
        if words.next().is_some() {
            return None;
        }
        let kind = match action {
            b"read" => Kind::Read,
            b"write" => Kind::Write,
            b"trim" => Kind::Discard,
            b"sync" | b"datasync" => Kind::Flush,
            b"add" | b"open" | b"close" => return Some(Line::Nothing),
            b"wait" if version == 2 => {
                self.waited_us = self.waited_us.checked_add(number(numbers[0]?)?)?;
                return Some(Line::Nothing);
            }
            _ => return None,
        };
        let span = match kind {
            Kind::Flush => Span::NOTHING,
            _ => bytes(kind, number(numbers[0]?)?, number(numbers[1]?)?)?,
        };
        let time_ns = Some(stamped_us.unwrap_or(self.waited_us).checked_mul(1000)?);
        Some(Line::Request(Row { volume, kind, span, time_ns }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, bad_lines_are_named, read_all, request};
    use super::*;

    #[test]
    fn version_3_has_microseconds_before_each_action() {
        let text = b"fio version 3 iolog\n16 /dev/sda add\n128 /dev/sda open\n132 /dev/sda read 0 4096\n\
            133 /dev/sdb write 512 1024\n140 /dev/sda datasync\n141 /dev/sda trim 8192 4096\n900 /dev/sda close\n";
        let wanted = [
            request(0, Kind::Read, 0, 4096, 132_000),
            request(1, Kind::Write, 512, 1024, 133_000),
            request(0, Kind::Flush, 0, 0, 140_000),
            request(0, Kind::Discard, 8192, 4096, 141_000),
        ];
        assert_eq!(read_all(Format::Fio, text).expect("good"), wanted);
    }

    #[test]
    fn version_2_waits_between_actions() {
        let text =
            b"fio version 2 iolog\nf add\nf open\nf read 0 512\nf wait 250 0\nf sync 0 0\nf wait 1000\n\
            f write 512 512\nf close\n";
        let wanted = [
            request(0, Kind::Read, 0, 512, 0),
            request(0, Kind::Flush, 0, 0, 250_000),
            request(0, Kind::Write, 512, 512, 1_250_000),
        ];
        assert_eq!(read_all(Format::Fio, text).expect("good"), wanted);
    }

    #[test]
    fn a_line_of_another_shape_or_version_is_named_by_its_number() {
        let error = read_all(Format::Fio, b"0,4096,512\n").expect_err("version 1");
        assert!(error.contains("line 1: expected `fio version 2 iolog`"), "{error}");
        let bad = ["f read 0", "f reed 0 512", "f", "f read 0 512 7", "f wait", "f read -1 512"];
        bad_lines_are_named(Format::Fio, "fio version 2 iolog", "expected `file action", &bad);
        let bad = ["f read 0 512", "1 f read 0", "1 f wait 100", "18446744073709551615 f read 0 512"];
        bad_lines_are_named(Format::Fio, "fio version 3 iolog", "expected `microseconds file", &bad);
    }
}

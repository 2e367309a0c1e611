//! One id a line, as the LIRS authors keep their traces: `*` (a mark between phases) and empty lines mean nothing.

use super::super::Kind;
use super::super::text::{Line, LineParser, Row, ids, number};

pub(in super::super) struct IdsParser;

impl LineParser for IdsParser {
    fn expected(&self) -> &'static str {
        "one id, a whole number below 2^64"
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        if line == b"*" {
            return Some(Line::Nothing);
        }
        let span = ids(number(line)?, 1)?;
        Some(Line::Request(Row { volume: b"", kind: Kind::Read, span, time_ns: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Span, bad_lines_are_named, read_all};

    #[test]
    fn marks_and_empty_lines_are_passed_over() {
        let requests = read_all(Format::Ids, b"0\n*\n\n 17 \n18446744073709551615").expect("good");
        let spans: Vec<Span> = requests.iter().map(|request| request.span).collect();
        let id = |first| Span::Ids { first, count: 1 };
        assert_eq!(spans, [id(0), id(17), id(u64::MAX)]);
    }

    #[test]
    fn a_line_that_is_no_id_is_named_by_its_number() {
        let bad = ["x", "1 2", "-5", "1.5", "18446744073709551616", "**"];
        bad_lines_are_named(Format::Ids, "*", "expected one id", &bad);
    }
}

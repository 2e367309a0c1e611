//! One id a line, as the LIRS authors keep their traces: `*` (a mark between phases) and empty lines mean nothing.

use super::buffer::{Lines, take_number};
use super::input::Input;
use super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

pub(super) struct IdsReader {
    lines: Lines,
}

impl IdsReader {
    pub(super) fn new(input: Input) -> Self {
        Self { lines: Lines::new(input) }
    }
}

impl TraceReader for IdsReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let first = loop {
            match self.lines.next_line()? {
                None => return Ok(None),
                Some([] | [b'*']) => {}
                Some(line) => match parse(line) {
                    Some(id) => break id,
                    None => {
                        let line = line.to_vec();
                        return Err(self.lines.bad_line("one id, a whole number below 2^64", &line));
                    }
                },
            }
        };
        let span = Span::Ids { first, count: 1 };
        Ok(Some(Request { volume: 0, kind: Kind::Read, span, time_us: None }))
    }
}

/// The id on a line; none when it is not of this format.
pub(super) fn parse(line: &[u8]) -> Option<u64> {
    let rest = &mut &*line;
    take_number(rest).filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::{Format, read_all};
    use super::*;

    #[test]
    fn marks_and_empty_lines_are_passed_over() {
        let requests = read_all(Format::Ids, b"0\n*\n\n 17 \n18446744073709551615").expect("good");
        let spans: Vec<Span> = requests.iter().map(|request| request.span).collect();
        let id = |first| Span::Ids { first, count: 1 };
        assert_eq!(spans, [id(0), id(17), id(u64::MAX)]);
    }

    #[test]
    fn a_line_that_is_no_id_is_named_by_its_number() {
        for bad in ["x", "1 2", "-5", "1.5", "18446744073709551616"] {
            let error = read_all(Format::Ids, format!("1\n*\n{bad}\n").as_bytes()).expect_err(bad);
            assert!(error.contains("line 3: expected one id"), "{error}");
        }
    }
}

//! The traces of the ARC paper: `start count ignored sequence` a line, a run of ids.

use super::buffer::{Lines, take_number, take_space};
use super::input::Input;
use super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

pub(super) struct ArcReader {
    lines: Lines,
}

impl ArcReader {
    pub(super) fn new(input: Input) -> Self {
        Self { lines: Lines::new(input) }
    }
}

impl TraceReader for ArcReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let span = loop {
            match self.lines.next_line()? {
                None => return Ok(None),
                Some([]) => {}
                Some(line) => match parse(line) {
                    Some(span) => break span,
                    None => {
                        let line = line.to_vec();
                        let expected = "`start count ignored sequence`, four whole numbers, the count not 0";
                        return Err(self.lines.bad_line(expected, &line));
                    }
                },
            }
        };
        Ok(Some(Request { volume: 0, kind: Kind::Read, span, time_us: None }))
    }
}

/// The run of ids a line means; none when it is not of this format.
pub(super) fn parse(line: &[u8]) -> Option<Span> {
    let rest = &mut &*line;
    let first = take_number(rest)?;
    let count = take_space(rest).then(|| take_number(rest))??;
    for _ in 0..2 {
        take_space(rest).then(|| take_number(rest))??;
    }
    let fits = rest.is_empty() && count > 0 && first.checked_add(count).is_some();
    fits.then_some(Span::Ids { first, count })
}

#[cfg(test)]
mod tests {
    use super::super::{Format, read_all};
    use super::*;

    #[test]
    fn each_line_is_a_run_of_ids() {
        let requests = read_all(Format::Arc, b"1936993 8 0 0\n793041\t1 0 1\r\n\n7 64 0 2").expect("good");
        let spans: Vec<Span> = requests.iter().map(|request| request.span).collect();
        let run = |first, count| Span::Ids { first, count };
        assert_eq!(spans, [run(1936993, 8), run(793041, 1), run(7, 64)]);
        assert!(requests.iter().all(|request| request.kind == Kind::Read && request.time_us.is_none()));
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number_and_what_was_expected() {
        for bad in
            ["1 2 3", "1 2 3 4 5", "a b c d", "1 0 0 0", "-1 1 0 0", "1,1,0,0", "18446744073709551615 2 0 0"]
        {
            let error = read_all(Format::Arc, format!("1 1 0 0\n{bad}\n").as_bytes()).expect_err(bad);
            assert!(error.contains("line 2: expected `start count"), "{error}");
            assert!(error.contains(&format!("found `{bad}`")), "{error}");
        }
    }
}

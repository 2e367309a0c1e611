//! The traces of the ARC paper: `start count ignored sequence` a line, a run of ids (pages of 512 bytes).

use super::super::Kind;
use super::super::buffer::{take_number, take_space};
use super::super::text::{Plain, Row, ids};

pub(in super::super) const PARSER: Plain =
    Plain { expected: "`start count ignored sequence`, four whole numbers, the count not 0", row };

/// The run of ids a line means; none when it is not of this format.
fn row(line: &[u8]) -> Option<Row<'_>> {
    let rest = &mut &*line;
    let first = take_number(rest)?;
    let count = take_space(rest).then(|| take_number(rest))??;
    for _ in 0..2 {
        take_space(rest).then(|| take_number(rest))??;
    }
    let span = ids(first, count).filter(|_| rest.is_empty())?;
    Some(Row { volume: b"", kind: Kind::Read, span, time_ns: None })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Span, bad_lines_are_named, read_all};
    use super::*;

    #[test]
    fn each_line_is_a_run_of_ids() {
        let requests = read_all(Format::Arc, b"1936993 8 0 0\n793041\t1 0 1\r\n\n7 64 0 2").expect("good");
        let spans: Vec<Span> = requests.iter().map(|request| request.span).collect();
        let run = |first, count| Span::Ids { first, count };
        assert_eq!(spans, [run(1936993, 8), run(793041, 1), run(7, 64)]);
        assert!(requests.iter().all(|request| request.kind == Kind::Read && request.time_ns.is_none()));
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number_and_what_was_expected() {
        let bad =
            ["1 2 3", "1 2 3 4 5", "a b c d", "1 0 0 0", "-1 1 0 0", "1,1,0,0", "18446744073709551615 2 0 0"];
        bad_lines_are_named(Format::Arc, "1 1 0 0", "expected `start count", &bad);
    }
}

//! SYSTOR '17 (Lee et al., "Understanding storage traffic characteristics on enterprise virtual desktop
//! infrastructure"): CSV with a heading.
//!
//! `Timestamp,Response,IOType,LUN,Offset,Size`; times in seconds with a fraction, the response may be empty, the type is
//! `R` or `W`, offset and size in bytes. A volume is a LUN.

use super::super::text::{Line, LineParser, Row, SECOND_NS, bytes, fields, kind, number, time};

pub(in super::super) struct SystorParser;

impl LineParser for SystorParser {
    fn expected(&self) -> &'static str {
        "`time,response,R or W,LUN,offset,size`, times in seconds"
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        let [at, response, operation, volume, offset, length] = fields(line, b',')?;
        if at.eq_ignore_ascii_case(b"timestamp") {
            return Some(Line::Nothing);
        }
        let (time_ns, kind) = (time(at, SECOND_NS)?, kind(operation)?);
        if !response.is_empty() {
            time(response, SECOND_NS)?;
        }
        let span = bytes(kind, number(offset)?, number(length)?)?;
        Some(Line::Request(Row { volume, kind, span, time_ns: Some(time_ns) }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Kind, bad_lines_are_named, read_all, request};

    #[test]
    fn the_heading_is_passed_over_and_a_response_may_be_missing() {
        let text = b"Timestamp,Response,IOType,LUN,Offset,Size\n\
                     1455592511.103572000,0.000294000,W,3,8192,4096\n\
                     1455592511.5,,R,0,512,1024\n";
        assert_eq!(
            read_all(Format::Systor, text).expect("good"),
            [
                request(0, Kind::Write, 8192, 4096, 1_455_592_511_103_572_000),
                request(1, Kind::Read, 512, 1024, 1_455_592_511_500_000_000),
            ]
        );
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let bad =
            ["1,,R,0,1", "1,,X,0,1,1", "x,,R,0,1,1", "1,y,R,0,1,1", "1,,R,0,-1,1", "1,,R,0,1,4294967296"];
        bad_lines_are_named(Format::Systor, "1.5,0.1,R,0,512,512", "expected `time,response", &bad);
    }
}

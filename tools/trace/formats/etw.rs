//! Microsoft enterprise servers and production builds (SNIA): event tracing of Windows as text.
//!
//! Between `BeginHeader` and `EndHeader` stands what the columns of each event are; then an event a line:
//! `DiskRead, time, process ( pid), thread, packet, offset, size, elapsed, disk, ...`. Times in microseconds, offset and
//! size in bytes, hexadecimal with `0x`. `DiskFlush` has no offset and no size. Other events are passed over.

use super::super::text::{Line, LineParser, Row, bytes, hexadecimal, number};
use super::super::{Kind, Span};

#[derive(Default)]
pub(in super::super) struct EtwParser {
    is_in_header: bool,
}

impl LineParser for EtwParser {
    fn expected(&self) -> &'static str {
        "an event, as `DiskRead, time, process ( pid), thread, packet, 0xoffset, 0xsize, elapsed, disk`"
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        match line {
            b"BeginHeader" => self.is_in_header = true,
            b"EndHeader" => self.is_in_header = false,
            _ if self.is_in_header => {}
            _ => return event(line),
        }
        Some(Line::Nothing)
    }
}

fn event(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let name = fields.next()?;
    let kind = match name {
        b"DiskRead" => Kind::Read,
        b"DiskWrite" => Kind::Write,
        b"DiskFlush" => Kind::Flush,
        _ => {
            let is_name = name.first().is_some_and(u8::is_ascii_alphabetic) && name.len() < line.len();
            return is_name.then_some(Line::Command);
        }
    };
    let time_ns = number(fields.next()?)?.checked_mul(1000)?;
    // Behind the process, its thread and the packet.
    let mut fields = fields.skip(3);
    let span = match kind {
        Kind::Flush => Span::NOTHING,
        _ => bytes(kind, hexadecimal(fields.next()?)?, hexadecimal(fields.next()?)?)?,
    };
    let _elapsed = fields.next()?;
    let volume = fields.next().filter(|disk| number(disk).is_some())?;
    Some(Line::Request(Row { volume, kind, span, time_ns: Some(time_ns) }))
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, bad_lines_are_named, read_all, request};
    use super::*;

    const HEADER: &str = "BeginHeader\n DiskRead,  TimeStamp,  Process Name ( PID), ThreadID\nEndHeader\n";

    #[test]
    fn events_of_disks_are_taken_and_others_passed_over() {
        let text = format!(
            "{HEADER}OS Version: 6, more\n\
             DiskRead,  158, svc.exe ( 696), 5420, 0xfffffa80, 0x00d1c40000, 0x00004000, 42, 0, 0x060043, 42\n\
             FileIoRead, 159, svc.exe ( 696), 1\n\
             DiskWrite, 160, System ( 4), 1, 0xfffffa80, 0x200, 0x1000, 42, 1, 0x0\n\
             DiskFlush, 161, System ( 4), 1, 0xfffffa80, 42, 1, 0x0\n"
        );
        assert_eq!(
            read_all(Format::Etw, text.as_bytes()).expect("good"),
            [
                request(0, Kind::Read, 0xd1c4_0000, 0x4000, 158_000),
                request(1, Kind::Write, 512, 4096, 160_000),
                request(1, Kind::Flush, 0, 0, 161_000),
            ]
        );
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let bad = [
            "DiskRead, 1, p ( 1), 2, 0x3, 0x200",
            "DiskRead, soon, p ( 1), 2, 0x3, 0x200, 0x200, 1, 0",
            "DiskRead, 1, p ( 1), 2, 0x3, offset, 0x200, 1, 0",
            "DiskRead, 1, p ( 1), 2, 0x3, 0x200, 0x200, 1, disk",
            "17, 18",
            "prose",
        ];
        let good = "DiskRead, 1, p ( 1), 2, 0x3, 0x200, 0x200, 1, 0";
        bad_lines_are_named(Format::Etw, good, "expected an event", &bad);
    }
}

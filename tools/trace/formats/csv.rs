//! CSV whose columns the user names, or whose heading does: ours, libCacheSim's, and that of OCTF (Open CAS iotrace).
//!
//! A column is `NAME` or `NAME:UNIT`, in the order of the fields; `-` is a field that does not count.
//!
//! | name     | unit                          | holds                                                              |
//! |----------|-------------------------------|--------------------------------------------------------------------|
//! | `time`   | `s` (default) `ms` `us` `ns`, `100ns` | when, with a fraction or without                           |
//! | `volume` |                               | any text; several such columns together are one name               |
//! | `op`     | `word` (default)              | `R`, `W`, `F`, `D`, or read, write, flush, discard, trim            |
//! |          | `scsi`                        | a hexadecimal operation code, as 28 or 2a                          |
//! |          | `r0`, `r1`                    | 0 or 1: the read is the 0, or the 1                                |
//! | `offset` | bytes of a unit, as 512 or 4KiB | where, in such units                                             |
//! | `size`   | the same                      | how much                                                           |
//! | `id`     |                               | one block, in place of offset and size                             |
//! | `flush`  |                               | not empty, 0 or false: a flush, when nothing is read or written    |
//!
//! A first line whose fields do not fit is taken for a heading. Fields in quotes may hold the separator.

use std::ops::Range;
use std::str::FromStr;

use super::super::text::{
    Line, LineParser, MILLISECOND_NS, Row, SECOND_NS, bytes, ids, number, split_words, time, units,
};
use super::super::{Kind, Span};
use super::vscsi;
use crate::units::parse_size;

/// Our own.
pub(in super::super) const HEADING: &str = "time_ns,volume,operation,offset,bytes";

/// Headings that are known, and what their columns mean. The last is OCTF's, of which only names count.
const KNOWN: [(&str, &str); 2] = [
    (HEADING, "time:ns,volume,op,offset,size"),
    ("version,time,op,size,lbn", "-,time:s,op:scsi,size,offset:512"),
];

/// OCTF names its columns in the heading; these count.
const OCTF: [(&str, &str); 6] = [
    ("device.id", "volume"),
    ("header.timestamp", "time:ns"),
    ("io.lba", "offset:512"),
    ("io.len", "size:512"),
    ("io.operation", "op"),
    ("io.flush", "flush"),
];

/// The most fields of a line that count.
const FIELDS_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Unused,
    Time { unit_ns: u64 },
    Volume,
    Operation(Words),
    Offset { unit: u64 },
    Size { unit: u64 },
    Id,
    Flush,
}

/// How a column says what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Words {
    Word,
    Scsi,
    ReadIs(u8),
}

/// What the fields of a line are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Columns(Vec<Column>);

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let columns: Vec<Column> =
            text.split(',').map(|column| column.trim().parse()).collect::<Result<_, _>>()?;
        if columns.len() > FIELDS_MAX {
            return Err(format!("{} columns, and {FIELDS_MAX} are the limit", columns.len()));
        }
        let count = |is: fn(&Column) -> bool| columns.iter().filter(|column| is(column)).count();
        let places = count(|column| matches!(column, Column::Offset { .. } | Column::Id));
        let sizes = count(|column| matches!(column, Column::Size { .. }));
        let others = [
            count(|column| matches!(column, Column::Time { .. })),
            count(|column| matches!(column, Column::Operation(_))),
        ];
        if places != 1 || sizes > 1 || others.iter().any(|&count| count > 1) {
            return Err("expected `offset` or `id` once, and `time`, `op`, `size` at most once".into());
        }
        if sizes == 0 && count(|column| matches!(column, Column::Offset { .. })) == 1 {
            return Err("an `offset` needs a `size`; or name the column `id`".into());
        }
        Ok(Self(columns))
    }
}

impl FromStr for Column {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, unit) = text.split_once(':').unwrap_or((text, ""));
        let bytes = || match unit {
            "" => Ok(1),
            unit => parse_size(unit)
                .and_then(|unit| if unit == 0 { Err("a unit of 0 bytes".into()) } else { Ok(unit) }),
        };
        let column = match name {
            "-" => Self::Unused,
            "time" => Self::Time { unit_ns: time_unit(if unit.is_empty() { "s" } else { unit })? },
            "volume" => Self::Volume,
            "op" => Self::Operation(match unit {
                "" | "word" => Words::Word,
                "scsi" => Words::Scsi,
                "r0" => Words::ReadIs(b'0'),
                "r1" => Words::ReadIs(b'1'),
                _ => return Err(format!("`{unit}` is no way to say operations; use word, scsi, r0 or r1")),
            }),
            "offset" => Self::Offset { unit: bytes()? },
            "size" => Self::Size { unit: bytes()? },
            "id" => Self::Id,
            "flush" => Self::Flush,
            _ => {
                return Err(format!(
                    "`{name}` is no column; use time, volume, op, offset, size, id, flush or -"
                ));
            }
        };
        let has_unit = matches!(name, "time" | "op" | "offset" | "size");
        if has_unit || unit.is_empty() { Ok(column) } else { Err(format!("`{name}` has no unit")) }
    }
}

/// Nanoseconds of a unit of time.
pub(crate) fn time_unit(name: &str) -> Result<u64, String> {
    match name {
        "s" => Ok(SECOND_NS),
        "ms" => Ok(MILLISECOND_NS),
        "us" => Ok(1000),
        "100ns" => Ok(100),
        "ns" => Ok(1),
        _ => Err(format!("`{name}` is no unit of time; use s, ms, us, 100ns or ns")),
    }
}

/// What the columns of a known heading are.
pub(in super::super) fn known_heading(line: &[u8]) -> Option<Columns> {
    let line = str::from_utf8(line).ok()?.trim().trim_start_matches('\u{feff}');
    if let Some((_, columns)) = KNOWN.iter().find(|(heading, _)| heading.eq_ignore_ascii_case(line)) {
        return Some(columns.parse().expect("it is tested"));
    }
    let named = |field: &str| {
        let field = field.trim().trim_matches('"');
        OCTF.iter().find(|(name, _)| *name == field).map_or("-", |(_, column)| column)
    };
    let columns: Vec<&str> = line.split(',').map(named).collect();
    columns.join(",").parse().ok().filter(|_| columns.contains(&"time:ns"))
}

pub(in super::super) struct CsvParser {
    columns: Option<Columns>,
    separator: u8,
    reader: csv_core::Reader,
    is_first: bool,
    /// Where the fields of a line are: in the line, or in `unquoted`.
    fields: Vec<Range<usize>>,
    /// The fields of a line with quotes, one behind the other.
    unquoted: Vec<u8>,
    volume: Vec<u8>,
}

impl CsvParser {
    /// For fields between `separator` with these columns, or those of the heading.
    pub(in super::super) fn new(columns: Option<Columns>, separator: u8) -> Self {
        let reader = csv_core::ReaderBuilder::new().delimiter(separator).build();
        Self {
            columns,
            separator,
            reader,
            is_first: true,
            fields: Vec::with_capacity(FIELDS_MAX),
            unquoted: vec![0; 4096],
            volume: Vec::new(),
        }
    }

    /// Finds the fields of `line`; whether they are in it, rather than in `unquoted`. None when there are too many.
    fn split(&mut self, line: &[u8]) -> Option<bool> {
        self.fields.clear();
        if self.separator == b' ' {
            for word in split_words(line) {
                let start = word.as_ptr().addr() - line.as_ptr().addr();
                self.put(start..start + word.len())?;
            }
            return Some(true);
        }
        if memchr::memchr2(b'"', b'\r', line).is_some() {
            self.split_quoted(line)?;
            return Some(false);
        }
        let mut start = 0;
        for end in memchr::memchr_iter(self.separator, line) {
            self.put(start..end)?;
            start = end + 1;
        }
        self.put(start..line.len())?;
        Some(true)
    }

    fn put(&mut self, field: Range<usize>) -> Option<()> {
        (self.fields.len() < FIELDS_MAX).then(|| self.fields.push(field))
    }

    fn split_quoted(&mut self, line: &[u8]) -> Option<()> {
        use csv_core::ReadRecordResult::{End, InputEmpty, OutputEndsFull, OutputFull, Record};
        if self.unquoted.len() < line.len() {
            self.unquoted.resize(line.len(), 0);
        }
        self.reader.reset();
        let mut ends = [0; FIELDS_MAX];
        let (mut taken, mut filled, mut count) = (0, 0, 0);
        loop {
            let (result, read, wrote, ended) =
                self.reader.read_record(&line[taken..], &mut self.unquoted[filled..], &mut ends[count..]);
            (taken, filled, count) = (taken + read, filled + wrote, count + ended);
            match result {
                // An empty input is the end of the line.
                InputEmpty => {}
                Record | End => break,
                OutputFull | OutputEndsFull => return None,
            }
        }
        let mut start = 0;
        for &end in &ends[..count] {
            self.fields.push(start..end);
            start = end;
        }
        Some(())
    }

    /// What the line means whose fields are in itself, or in `unquoted`.
    fn row(&mut self, line: &[u8], is_in_line: bool) -> Option<Row<'_>> {
        let text = if is_in_line { line } else { &self.unquoted };
        let columns = self.columns.as_ref()?;
        if self.fields.len() < columns.0.len() {
            return None;
        }
        self.volume.clear();
        let (mut at, mut kind, mut place, mut size, mut flushes) = (None, None, None, None, false);
        for (column, field) in columns.0.iter().zip(&self.fields) {
            let field = text[field.clone()].trim_ascii();
            match *column {
                Column::Unused => {}
                Column::Time { .. } if field.is_empty() => {}
                Column::Time { unit_ns } => at = Some(time(field, unit_ns)?),
                Column::Volume => {
                    if !self.volume.is_empty() {
                        self.volume.push(b',');
                    }
                    self.volume.extend_from_slice(field);
                }
                Column::Operation(words) => kind = Some(operation(field, words)?),
                Column::Offset { unit } => place = Some((field, Some(unit))),
                Column::Id => place = Some((field, None)),
                Column::Size { unit } => size = Some((field, unit)),
                Column::Flush => flushes = !matches!(field, b"" | b"0" | b"false" | b"False"),
            }
        }
        let size = match size {
            Some((field, unit)) => Some(number(field)?.checked_mul(unit)?),
            None => None,
        };
        let kind = if flushes && size == Some(0) { Kind::Flush } else { kind.unwrap_or(Kind::Read) };
        let span = match place? {
            _ if kind == Kind::Flush => Span::NOTHING,
            (field, None) => ids(number(field)?, 1)?,
            (field, Some(unit)) => {
                bytes(kind, units(Kind::Discard, number(field)?, 0, unit)?.parts().0, size?)?
            }
        };
        Some(Row { volume: &self.volume, kind, span, time_ns: at })
    }
}

fn operation(field: &[u8], words: Words) -> Option<Kind> {
    let is = |whole: &[u8]| field.eq_ignore_ascii_case(whole) || field.eq_ignore_ascii_case(&whole[..1]);
    match words {
        Words::Scsi => vscsi::kind(u16::try_from(super::super::text::hexadecimal(field)?).ok()?),
        Words::ReadIs(read) => match field {
            [flag @ (b'0' | b'1')] => Some(if *flag == read { Kind::Read } else { Kind::Write }),
            _ => None,
        },
        Words::Word if is(b"read") => Some(Kind::Read),
        Words::Word if is(b"write") => Some(Kind::Write),
        Words::Word if is(b"flush") => Some(Kind::Flush),
        Words::Word if is(b"discard") || is(b"trim") => Some(Kind::Discard),
        Words::Word => None,
    }
}

impl LineParser for CsvParser {
    fn expected(&self) -> &'static str {
        match self.columns {
            Some(_) => "the columns that were named, numbers where they are numbers",
            None => "a heading that is known; or name the columns with --columns",
        }
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        let is_first = std::mem::take(&mut self.is_first);
        if is_first && self.columns.is_none() {
            self.columns = known_heading(line);
            return self.columns.is_some().then_some(Line::Nothing);
        }
        let is_in_line = self.split(line)?;
        // A heading has letters where the numbers will be.
        if is_first && self.row(line, is_in_line).is_none() {
            let is_heading = line.iter().any(u8::is_ascii_alphabetic);
            return is_heading.then_some(Line::Nothing);
        }
        self.row(line, is_in_line).map(Line::Request)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Options, Request, bad_lines_are_named, read_all, read_all_with};
    use super::*;

    fn read(columns: &str, separator: u8, text: &str) -> Result<Vec<Request>, String> {
        let columns = Some(columns.parse().expect("good columns"));
        let options = Options { columns, separator, ..Options::default() };
        read_all_with(Format::Csv, &options, text.as_bytes())
    }

    fn request(volume: u32, kind: Kind, offset: u64, bytes: u64, time_ns: Option<u64>) -> Request {
        Request { volume, kind, span: Span::Bytes { offset, bytes }, time_ns }
    }

    #[test]
    fn columns_are_what_the_user_says_and_a_heading_is_passed_over() {
        let text = "when,what,where,how much,who,disk\n1.5,W,2,3,\"a, b\",0\n2,r,0,1,c,1\n";
        let wanted = [
            request(0, Kind::Write, 1024, 12288, Some(1_500_000)),
            request(1, Kind::Read, 0, 4096, Some(2_000_000)),
        ];
        assert_eq!(read("time:ms,op,offset:512,size:4KiB,volume,volume", b',', text).expect("good"), wanted);
        let text = "7 0 4096 512\n\n 8\t1 0   1\n";
        let wanted = [request(0, Kind::Write, 4096, 512, Some(7)), request(0, Kind::Read, 0, 1, Some(8))];
        assert_eq!(read("time:ns,op:r1,offset,size", b' ', text).expect("good"), wanted);
        let ids = read("-,id", b';', "x;5\ny;6\n").expect("good");
        assert_eq!(ids.iter().map(|id| id.span.parts()).collect::<Vec<_>>(), [(5, 1), (6, 1)]);
    }

    #[test]
    fn known_headings_need_no_columns() {
        let text = format!("{HEADING}\n5,sda,write,512,1024\n,sda,flush,0,0\n7,sdb,discard,0,4294967296\n");
        let wanted = [
            request(0, Kind::Write, 512, 1024, Some(5)),
            request(0, Kind::Flush, 0, 0, None),
            request(1, Kind::Discard, 0, 1 << 32, Some(7)),
        ];
        assert_eq!(read_all(Format::Csv, text.as_bytes()).expect("good"), wanted);
        let text = b"version,time,op,size,lbn\n1,5633898,2a,512,42932745\n";
        let wanted = [request(0, Kind::Write, 42_932_745 * 512, 512, Some(5_633_898_000_000_000))];
        assert_eq!(read_all(Format::Csv, text).expect("good"), wanted);
    }

    #[test]
    fn octfs_columns_are_found_by_their_names() {
        let text = b"device.id,device.name,header.sid,header.timestamp,io.flush,io.lba,io.len,io.operation\n\
            7,nvme0n1,1,1000,false,16,8,Read\n7,nvme0n1,2,2000,true,0,0,Write\n7,nvme0n1,3,3000,false,8,2048,Discard\n";
        let wanted = [
            request(0, Kind::Read, 8192, 4096, Some(1000)),
            request(0, Kind::Flush, 0, 0, Some(2000)),
            request(0, Kind::Discard, 4096, 1 << 20, Some(3000)),
        ];
        assert_eq!(read_all(Format::Csv, text).expect("good"), wanted);
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let bad =
            ["5,sda,write,512", "5,sda,walk,512,1", "x,sda,read,0,1", "5,sda,read,0,-1", "5,\"sda,read,0,1"];
        bad_lines_are_named(Format::Csv, HEADING, "expected the columns that were named", &bad);
        let error = read_all(Format::Csv, b"a,b,c\n1,2,3\n").expect_err("no heading that is known");
        assert!(error.contains("line 1: expected a heading") && error.contains("--columns"), "{error}");
    }

    #[test]
    fn columns_that_say_too_little_or_too_much_are_refused() {
        for bad in [
            "",
            "time",
            "offset",
            "offset,size,id",
            "time,time,id",
            "op:x,id",
            "id:5",
            "what,id",
            "offset:0,size",
        ] {
            assert!(bad.parse::<Columns>().is_err(), "{bad}");
        }
    }
}

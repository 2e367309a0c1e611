//! Which format a trace is in, told from a bounded piece of its content and never from its name.
//!
//! Text: most lines of the piece must parse; of formats that fit alike the narrower comes first in [`TEXTS`]. Binary:
//! what begins with a magic, else every whole record must hold what only that format makes likely (a version field;
//! request numbers that point forward). What we know and do not read is named.

use super::formats::{blktrace, csv, disksim, lcs, oracle_general, vscsi};
use super::text::Line;
use super::{Format, Options};
use crate::failure::{Failure, Result};

/// How much of a trace is looked at, unpacked.
pub(super) const PREFIX_BYTES: usize = 64 << 10;

/// Formats and wrappings that others use, by what they begin with.
const KNOWN_BUT_NOT_READ: [(&[u8], &str, &str); 3] = [
    (b"BZh", "bzip2 data", "decompress it, or pipe `bzcat` into `terrace replay -`"),
    (b"PK\x03\x04", "a zip archive", "unpack it and name a file of it"),
    (
        b"TIME(ms)",
        "the output of bpftrace's biosnoop.bt, which has no addresses and no sizes",
        "record with bcc's biosnoop, or with blktrace",
    ),
];

/// Formats of lines, the narrower before the wider.
const TEXTS: [Format; 15] = [
    Format::Fio,
    Format::Etw,
    Format::Msr,
    Format::Systor,
    Format::Spc,
    Format::Alibaba,
    Format::K5cloud,
    Format::Tencent,
    Format::Fiu,
    Format::Blkparse,
    Format::Biosnoop,
    Format::TraceRar,
    Format::DiskSim,
    Format::Arc,
    Format::Ids,
];

const REMEDY: &str = "name it with --format, or the columns of a table with --columns";

/// The format of a trace that begins with `prefix`.
pub(super) fn detect(prefix: &[u8], name: &str, options: &Options) -> Result<Format> {
    if prefix.is_empty() {
        return Err(Failure::input(format!("{name} is empty")).remedy("name a trace with requests in it"));
    }
    let begin = without_greeting(prefix);
    for (magic, what, remedy) in KNOWN_BUT_NOT_READ {
        if begin.starts_with(magic) {
            return Err(Failure::input(format!("{name} is {what}, which is not read")).remedy(remedy));
        }
    }
    // Every binary format here has zero bytes in its first numbers, and no text has one.
    let is_text = !prefix.contains(&0);
    let found = match is_text {
        true if options.columns.is_some() => Some(Format::Csv),
        true => text(prefix, options),
        false => binary(prefix),
    };
    found.ok_or_else(|| {
        let begins = if is_text { "text" } else { "binary data" };
        Failure::input(format!("{name} is {begins} of no format that is known by its content")).remedy(REMEDY)
    })
}

/// What comes behind the line in which bpftrace says what it attaches, if there is one.
fn without_greeting(prefix: &[u8]) -> &[u8] {
    let end = prefix.iter().position(|&byte| byte == b'\n').filter(|_| prefix.starts_with(b"Attaching "));
    end.map_or(prefix, |end| &prefix[end + 1..])
}

/// The format that most lines are of, if it is half of them or the first. A bad line must not hide the format: the
/// reader will name that line.
fn text(prefix: &[u8], options: &Options) -> Option<Format> {
    let whole = prefix.iter().rposition(|&byte| byte == b'\n').map_or(prefix, |end| &prefix[..end]);
    let lines: Vec<&[u8]> = whole.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).collect();
    let lines: Vec<&[u8]> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    if lines.first().is_some_and(|line| csv::known_heading(line).is_some()) {
        return Some(Format::Csv);
    }
    let mut best = None;
    for format in TEXTS {
        let fit = Fit::of(format, &lines, options);
        if fit.requests > best.map_or(0, |(_, best): (Format, Fit)| best.requests) {
            best = Some((format, fit));
        }
    }
    let (format, fit) = best?;
    (fit.has_first || fit.known * 2 >= lines.len()).then_some(format)
}

/// How well lines fit a format.
#[derive(Clone, Copy)]
struct Fit {
    /// Lines that are requests.
    requests: usize,
    /// Those, and lines that the format has besides.
    known: usize,
    /// The first line is one of them.
    has_first: bool,
}

impl Fit {
    fn of(format: Format, lines: &[&[u8]], options: &Options) -> Self {
        let mut fit = Self { requests: 0, known: 0, has_first: false };
        let Some(mut parser) = format.parser(options) else { return fit };
        for (number, line) in lines.iter().enumerate() {
            let is_other = format == Format::TraceRar && !disksim::looks_like_tracerar(line);
            let parsed = if is_other { None } else { parser.parse(line) };
            fit.requests += usize::from(matches!(parsed, Some(Line::Request(_))));
            fit.known += usize::from(parsed.is_some());
            fit.has_first |= number == 0 && parsed.is_some();
        }
        fit
    }
}

fn binary(prefix: &[u8]) -> Option<Format> {
    use vscsi::Version::{One, Two};
    match prefix {
        prefix if prefix.starts_with(&terrace_recording::MAGIC) => Some(Format::Terrace),
        prefix if prefix.starts_with(&lcs::MAGIC) => Some(Format::Lcs),
        prefix if blktrace::begins(prefix) => Some(Format::Blktrace),
        prefix if vscsi::is_likely(prefix, One) => Some(Format::Vscsi),
        prefix if vscsi::is_likely(prefix, Two) => Some(Format::Vscsi2),
        prefix if oracle_general::is_likely(prefix) => Some(Format::OracleGeneral),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prefix: &[u8]) -> std::result::Result<Format, String> {
        detect(prefix, "trace", &Options::default()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn text_is_told_by_the_shape_of_its_lines() {
        for (text, format) in [
            ("1 8 0 0\n9 16 0 1\n", Format::Arc),
            ("1\n*\n2\n", Format::Ids),
            ("7", Format::Ids),
            ("128166386787582087,mds,1,Read,0,4608,1\n", Format::Msr),
            ("BeginHeader\nx\nEndHeader\nDiskRead, 1, p ( 1), 2, 0x3, 0x200, 0x200, 1, 0\n", Format::Etw),
            ("Timestamp,Response,IOType,LUN,Offset,Size\n1.5,,R,0,512,512\n", Format::Systor),
            ("1.5,0.1,R,0,512,512\n", Format::Systor),
            ("0,20941264,8192,W,0.551706\n", Format::Spc),
            ("1 2 p 16 8 R 6 0 abc\n", Format::Fiu),
            ("0,R,126703661056,4096,1577808000000046\n", Format::Alibaba),
            ("1538323199,1003027216,16,0,2313\n", Format::Tencent),
            ("9,7,R,4096,512\n", Format::K5cloud),
            ("11413000 0 657728 16 1\n", Format::DiskSim),
            ("1.5 0 8 16 0\n", Format::DiskSim),
            ("0.000 0 200626176 4096 0\n", Format::TraceRar),
            ("8,0 1 1 0.0 1 Q W 1 + 8 [p]\n8,0 1 1 0.0 1 G W 1 + 8 [p]\n", Format::Blkparse),
            ("TIME(s) COMM PID DISK T SECTOR BYTES LAT(ms)\n1.0 a 1 vda R 16 512 0.1\n", Format::Biosnoop),
            ("fio version 2 iolog\nf read 0 512\n", Format::Fio),
            ("version,time,op,size,lbn\n1,5,2a,512,4\n", Format::Csv),
        ] {
            assert_eq!(found(text.as_bytes()), Ok(format), "{text}");
        }
    }

    #[test]
    fn one_bad_line_does_not_hide_the_format() {
        assert_eq!(found(b"1\n2\nthree\n4\n"), Ok(Format::Ids));
        assert_eq!(found(b"1 8 0 0\n\xff garbage\n"), Ok(Format::Arc));
        assert_eq!(found(b"a heading\n1\n2\n"), Ok(Format::Ids));
        assert_eq!(found(b"1 8 0 0\n9 16 0 1\n7 1 0 "), Ok(Format::Arc), "the piece may end inside a line");
    }

    #[test]
    fn named_columns_make_a_table_of_any_text() {
        let options = Options { columns: Some("id".parse().expect("good")), ..Options::default() };
        assert_eq!(detect(b"1\n2\n", "trace", &options).ok(), Some(Format::Csv));
    }

    #[test]
    fn what_is_known_and_not_read_is_named_with_a_way_out() {
        assert!(found(b"BZh91").expect_err("bzip2").contains("bzip2"));
        for greeting in ["", "Attaching 4 probes...\n"] {
            let text = format!("{greeting}TIME(ms)     DISK    COMM             PID    LAT(ms)\n");
            assert!(found(text.as_bytes()).expect_err("bpftrace").contains("no addresses"));
        }
        assert!(found(b"").expect_err("empty").contains("empty"));
        assert!(found(b"hello, world\n").expect_err("prose").contains("--format"));
        assert!(found(&[0; 64]).is_err());
    }
}

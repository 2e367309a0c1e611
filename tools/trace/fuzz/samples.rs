//! Good traces: the same requests in every format, by our own writers where we write it.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::super::write::{Sink, Target};
use super::super::{Format, Kind, Request, Span};
use super::{DETECTED, target_of};

/// A good trace, as an entry takes it.
#[derive(Clone)]
pub struct Valid {
    pub target: String,
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Requests of each sample.
const REQUESTS: u64 = 12;

/// A trace of each format for each entry.
pub fn valid() -> Vec<Valid> {
    let mut all = Vec::new();
    for &format in Format::value_variants() {
        let trace = trace(format);
        let chosen = [&[0][..], &trace].concat();
        all.push(Valid { target: target_of(format), name: format.name().into(), bytes: chosen });
        all.push(Valid { target: DETECTED.into(), name: format.name().into(), bytes: trace });
    }
    all
}

/// Reads and writes of pages on two volumes, some of them again and again.
fn requests() -> impl Iterator<Item = Request> {
    (0..REQUESTS).map(|number| Request {
        volume: (number % 2) as u32,
        kind: if number % 3 == 0 { Kind::Write } else { Kind::Read },
        span: Span::Bytes { offset: (number * 7 % 5) << 20, bytes: 4096 << (number % 3) },
        time_ns: Some(1_000_000_000 + number * 5_000_000),
    })
}

fn trace(format: Format) -> Vec<u8> {
    let target = match format {
        Format::Terrace => Some(Target::Terrace),
        Format::OracleGeneral => Some(Target::OracleGeneral),
        Format::Lcs => Some(Target::Lcs),
        Format::Fio => Some(Target::Fio),
        Format::Csv => Some(Target::Csv),
        _ => None,
    };
    match (target, format) {
        (Some(target), _) => written(target),
        (None, Format::Blktrace | Format::Vscsi | Format::Vscsi2) => {
            requests().flat_map(|request| record(format, &request)).collect()
        }
        _ => text(format).into_bytes(),
    }
}

fn written(target: Target) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("trace");
    let fill = || {
        let mut sink = Sink::create(&path, target, 512)?;
        requests().try_for_each(|request| sink.write(&request))?;
        sink.finish(&["a".into(), "b".into()])
    };
    fill().unwrap_or_else(|failure| panic!("{failure}"));
    std::fs::read(path).expect("it was written")
}

fn text(format: Format) -> String {
    let mut text = String::from(match format {
        Format::Biosnoop => "TIME(s) COMM PID DISK T SECTOR BYTES LAT(ms)\n",
        Format::Etw => "BeginHeader\nDiskRead, TimeStamp\nEndHeader\nOS Version: 6, more\n",
        Format::Ids => "*\n",
        Format::Systor => "Timestamp,Response,IOType,LUN,Offset,Size\n",
        _ => "",
    });
    for (number, request) in requests().enumerate() {
        line(&mut text, format, number, &request);
    }
    text
}

/// Adds a line of `format`, as the head of its file has it.
fn line(text: &mut String, format: Format, number: usize, request: &Request) {
    let Request { volume, kind, span, time_ns } = *request;
    let (offset, bytes) = span.parts();
    let (sector, sectors) = (offset / 512, bytes / 512);
    let ns = time_ns.expect("all have times");
    let (seconds, ms, us) = (ns as f64 / 1e9, ns as f64 / 1e6, ns / 1000);
    let is_read = kind == Kind::Read;
    let (letter, word) = if is_read { ('R', "Read") } else { ('W', "Write") };
    let (one_reads, zero_reads) = (u8::from(is_read), u8::from(!is_read));
    match format {
        Format::Alibaba => writeln!(text, "{volume},{letter},{offset},{bytes},{us}"),
        Format::Arc => writeln!(text, "{sector} {sectors} 0 {number}"),
        Format::Biosnoop => {
            writeln!(text, "{seconds:.6} some program 42 vd{volume} {letter} {sector} {bytes} 0.25")
        }
        Format::Blkparse => {
            writeln!(text, "8,{volume} 1 {number} {seconds:.9} 42 Q {letter} {sector} + {sectors} [p]")
        }
        Format::DiskSim => writeln!(text, "{ns} {volume} {sector} {sectors} {one_reads}"),
        Format::Etw => {
            writeln!(text, "Disk{word}, {us}, p ( 1), 2, 0x3, {offset:#x}, {bytes:#x}, 9, {volume}")
        }
        Format::Fiu => writeln!(text, "{ns} 42 program {sector} {sectors} {letter} 8 {volume} 0a1b2c"),
        Format::Ids => writeln!(text, "{sector}"),
        Format::K5cloud => writeln!(text, "{volume},{},{letter},{offset},{bytes}", ns / 1_000_000_000),
        Format::Msr => writeln!(text, "{},host,{volume},{word},{offset},{bytes},77", ns / 100),
        Format::Spc => writeln!(text, "{volume},{sector},{bytes},{letter},{seconds:.6}"),
        Format::Systor => writeln!(text, "{seconds:.9},0.0003,{letter},{volume},{offset},{bytes}"),
        Format::Tencent => {
            writeln!(text, "{},{sector},{sectors},{zero_reads},{volume}", ns / 1_000_000_000)
        }
        Format::TraceRar => writeln!(text, "{ms:.3} {volume} {offset} {bytes} {one_reads}"),
        _ => unreachable!("no format of lines, or one that we write"),
    }
    .expect("a string takes everything");
}

/// A record of `format`, as the table at the head of its file has it.
fn record(format: Format, request: &Request) -> Vec<u8> {
    let (offset, bytes) = request.span.parts();
    let ns = request.time_ns.expect("all have times");
    let (sector, length, us) = (offset / 512, bytes as u32, ns / 1000);
    let is_read = request.kind == Kind::Read;
    let operation: u16 = if is_read { 0x28 } else { 0x2a };
    let half = |number: u16| number.to_le_bytes().to_vec();
    let word = |number: u32| number.to_le_bytes().to_vec();
    let long = |number: u64| number.to_le_bytes().to_vec();
    let parts = match format {
        Format::Vscsi => {
            vec![word(1), word(length), word(1), half(operation), half(1 << 8), long(sector), long(us)]
        }
        Format::Vscsi2 => {
            let begin = [half(operation), half(2 << 8), word(1), word(length), word(1)].concat();
            vec![begin, long(sector), long(us), long(5)]
        }
        Format::Blktrace => {
            // Queued, of category 1 (a read) or 2 (a write); two bytes follow.
            let action = 1 | if is_read { 1 << 16 } else { 2 << 16 };
            let begin = [word(0x6561_7407), word(1), long(ns), long(sector), word(length)].concat();
            let end = [word(42), word(8 << 20 | request.volume), word(0), half(0), half(2), half(0)].concat();
            vec![begin, word(action), end]
        }
        _ => unreachable!("no format of records, or one that we write"),
    };
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::super::super::{Options, input::Input, place};
    use super::*;

    fn read(format: Format, bytes: &[u8]) -> Vec<Request> {
        let options = Options { id_bytes: Some(512), ..Options::default() };
        let mut reader = place::Placed::around(format.reader(Input::from_bytes(bytes), &options), &options);
        let next = || reader.next_request().unwrap_or_else(|failure| panic!("{format:?}: {failure}"));
        std::iter::from_fn(next).collect()
    }

    /// What is read of `bytes`, and why no more.
    fn read_until_refused(format: Format, bytes: &[u8]) -> (Vec<Request>, Option<String>) {
        let mut reader = format.reader(Input::from_bytes(bytes), &Options::default());
        let mut requests = Vec::new();
        loop {
            match reader.next_request() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return (requests, None),
                Err(failure) => return (requests, Some(failure.to_string())),
            }
        }
    }

    fn lines(bytes: &[u8]) -> usize {
        bytes.iter().filter(|&&byte| byte == b'\n').count()
    }

    #[test]
    fn every_format_that_is_cut_short_anywhere_gives_what_is_before_or_the_line_or_byte_and_what_it_expected()
    {
        for &format in Format::value_variants() {
            let whole = trace(format);
            let (all, refused) = read_until_refused(format, &whole);
            assert_eq!(refused, None, "{format:?}");
            for end in 0..whole.len() {
                let (found, refused) = read_until_refused(format, &whole[..end]);
                let Some(said) = refused else {
                    // Cut between two requests, or inside the last field of one.
                    assert!(found.len() <= all.len(), "{format:?} up to {end}");
                    continue;
                };
                assert_eq!(found, all[..found.len()], "{format:?} up to {end}: {said}");
                let place = if format.parser(&Options::default()).is_some() {
                    format!(", line {}: expected ", lines(&whole[..end]) + 1)
                } else {
                    "byte ".into()
                };
                assert!(said.contains(&place), "{format:?} up to {end}: {said}");
            }
        }
    }

    #[test]
    fn every_format_names_the_line_or_byte_of_what_is_no_request_of_it() {
        for &format in Format::value_variants() {
            let whole = trace(format);
            let requests = read_until_refused(format, &whole).0.len();
            if format.parser(&Options::default()).is_none() {
                let mut bad = [&whole[..], b"\xff\xff\xff"].concat();
                if format == Format::Terrace {
                    // What lies behind its end is nobody's; it is damaged before.
                    bad[whole.len() / 3] ^= 1;
                }
                let (found, said) = read_until_refused(format, &bad);
                let said = said.unwrap_or_else(|| panic!("{format:?} takes anything"));
                let place = match format {
                    Format::Terrace => "damaged at byte ".into(),
                    _ => format!("at byte {}: expected", whole.len()),
                };
                assert!(said.contains(&place), "{format:?}: {said}");
                assert!(found.len() == requests || format == Format::Terrace, "{format:?}: {said}");
                continue;
            }
            // Other text, another format's line, numbers with units or none, more than a number holds.
            for bad in [
                "It was a dark night.",
                "\u{fffd}",
                "1,2,3,4,5,6,7,8,9,10,11,12",
                "4KiB",
                "-1",
                "1e3 0x 5s 7 8",
            ] {
                let text = [&whole[..], bad.as_bytes(), b"\n"].concat();
                let (found, said) = read_until_refused(format, &text);
                let said = said.unwrap_or_else(|| panic!("{format:?} takes `{bad}`"));
                assert_eq!(found.len(), requests, "{format:?}: {said}");
                let place = format!(", line {}: expected ", lines(&whole) + 1);
                assert!(said.contains(&place) && said.contains("found `"), "{format:?}: {said}");
            }
        }
    }

    #[test]
    fn every_format_takes_nothing_for_no_requests() {
        for &format in Format::value_variants() {
            let (found, said) = read_until_refused(format, b"");
            assert!(found.is_empty(), "{format:?}");
            // A recording has a head also when nothing was recorded.
            assert!(said.is_none() || format == Format::Terrace, "{format:?}: {said:?}");
        }
    }

    #[test]
    fn every_format_says_the_same_requests_as_far_as_it_can() {
        for &format in Format::value_variants() {
            let found = read(format, &trace(format));
            assert_eq!(found.len() as u64, REQUESTS, "{format:?}");
            for (found, wanted) in found.iter().zip(requests()) {
                let (offset, bytes) = wanted.span.parts();
                let has_length = !matches!(format, Format::Ids | Format::OracleGeneral);
                let length = if has_length { bytes } else { found.span.parts().1 };
                assert_eq!(found.span.parts().1, length, "{format:?}");
                // Where a format has no volumes, what it is written to puts their places apart.
                assert_eq!(found.span.parts().0 & ((512 << 40) - 1), offset, "{format:?}");
                let has_kind = !matches!(format, Format::Arc | Format::Ids | Format::OracleGeneral);
                assert!(!has_kind || found.kind == wanted.kind, "{format:?}");
            }
        }
    }
}

//! Which format a trace is in, told from a bounded piece of its content and never from its name.
//!
//! Text: every whole line of the piece must parse. Binary: every whole record must hold what only that format makes
//! likely (a version field; request numbers that point forward). What we know and do not read is named.

use super::{Format, arc, ids, msr, oracle_general, vscsi};
use crate::failure::{Failure, Result};

/// How much of a trace is looked at, decompressed.
pub(super) const PREFIX_BYTES: usize = 64 << 10;

/// Formats and wrappings that others use, by what they begin with.
const KNOWN_BUT_NOT_READ: [(&[u8], &str, &str); 6] = [
    (&[0x1f, 0x8b], "gzip data", "decompress it, or pipe `zcat` into `terrace replay -`"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz data", "decompress it, or pipe `xzcat` into `terrace replay -`"),
    (b"BZh", "bzip2 data", "decompress it, or pipe `bzcat` into `terrace replay -`"),
    (b"PK\x03\x04", "a zip archive", "unpack it and name a file of it"),
    (&[0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12], "an lcs trace", "convert it to oracleGeneral"),
    (&[0x07, 0x74, 0x61, 0x65], "a blktrace recording", "convert it to one of the formats in --help"),
];

const REMEDY: &str = "name it with --format (see `terrace replay --help`)";

/// The format of a trace that begins with `prefix`.
pub(super) fn detect(prefix: &[u8], name: &str) -> Result<Format> {
    if prefix.is_empty() {
        return Err(Failure::input(format!("{name} is empty")).remedy("name a trace with requests in it"));
    }
    for (magic, what, remedy) in KNOWN_BUT_NOT_READ {
        if prefix.starts_with(magic) {
            return Err(Failure::input(format!("{name} is {what}, which is not read")).remedy(remedy));
        }
    }
    // Every binary format here has zero bytes in its first numbers, and no text has one.
    let is_text = !prefix.contains(&0);
    let found = if is_text { text(prefix) } else { binary(prefix) };
    found.ok_or_else(|| {
        let begins = if is_text { "text" } else { "binary data" };
        Failure::input(format!("{name} is {begins} of no format that is known by its content")).remedy(REMEDY)
    })
}

/// The format that most lines are of, if it is half of them or the first. A bad line must not hide the format: the
/// reader will name that line.
fn text(prefix: &[u8]) -> Option<Format> {
    let whole = prefix.iter().rposition(|&byte| byte == b'\n').map_or(prefix, |end| &prefix[..end]);
    let lines = whole.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty() && *line != b"*").collect();
    let fits = |format: Format, line: &[u8]| match format {
        Format::Arc => arc::parse(line).is_some(),
        Format::Ids => ids::parse(line).is_some(),
        Format::Msr => msr::parse(line).is_some(),
        Format::OracleGeneral | Format::Vscsi => false,
    };
    let count = |format| lines.iter().filter(|line| fits(format, line)).count();
    let best = [Format::Msr, Format::Arc, Format::Ids].into_iter().max_by_key(|&format| count(format))?;
    let is_first = lines.first().is_some_and(|line| fits(best, line));
    (is_first || count(best) * 2 >= lines.len()).then_some(best).filter(|_| !lines.is_empty())
}

fn binary(prefix: &[u8]) -> Option<Format> {
    if is_vscsi(prefix) {
        return Some(Format::Vscsi);
    }
    is_oracle_general(prefix).then_some(Format::OracleGeneral)
}

fn is_vscsi(prefix: &[u8]) -> bool {
    let (records, _) = prefix.as_chunks();
    let likely = |record: &[u8; vscsi::RECORD_BYTES]| {
        let record = vscsi::parse(record);
        record.version == 1 && record.operation <= 0xff && record.bytes <= 1 << 28 && record.sector < 1 << 55
    };
    !records.is_empty() && records.iter().all(likely) && {
        let moved = |record| vscsi::kind(vscsi::parse(record).operation).is_some();
        records.iter().any(moved)
    }
}

fn is_oracle_general(prefix: &[u8]) -> bool {
    let (records, _) = prefix.as_chunks();
    let mut earlier = 0;
    let mut number = 0;
    let likely = |record: &[u8; oracle_general::RECORD_BYTES]| {
        let record = oracle_general::parse(record);
        number += 1;
        let goes_forward = record.seconds >= earlier;
        earlier = record.seconds;
        let is_last_use = record.next_use == -1 || record.next_use == i64::MAX;
        goes_forward && (is_last_use || record.next_use > number)
    };
    !records.is_empty() && records.iter().all(likely)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prefix: &[u8]) -> std::result::Result<Format, String> {
        detect(prefix, "trace").map_err(|failure| failure.to_string())
    }

    #[test]
    fn text_is_told_by_the_shape_of_its_lines_and_one_bad_line_does_not_hide_it() {
        assert_eq!(found(b"1 8 0 0\n9 16 0 1\n"), Ok(Format::Arc));
        assert_eq!(found(b"1\n*\n2\n"), Ok(Format::Ids));
        assert_eq!(found(b"128166386787582087,mds,1,Read,0,4608,1\n"), Ok(Format::Msr));
        assert_eq!(found(b"7"), Ok(Format::Ids));
        assert_eq!(found(b"1\n2\nthree\n4\n"), Ok(Format::Ids));
        assert_eq!(found(b"1 8 0 0\n\xff garbage\n"), Ok(Format::Arc));
        assert_eq!(found(b"a heading\n1\n2\n"), Ok(Format::Ids));
        assert_eq!(found(b"1 8 0 0\n9 16 0 1\n7 1 0 "), Ok(Format::Arc), "the piece may end inside a line");
    }

    #[test]
    fn binary_is_told_by_what_only_one_format_makes_likely() {
        let mut vscsi = vec![0u8; 64];
        for record in vscsi.chunks_mut(32) {
            record[12] = 0x28;
            record[15] = 1;
        }
        assert_eq!(found(&vscsi), Ok(Format::Vscsi));
        let mut oracle = vec![0u8; 48];
        oracle[16] = 2;
        oracle[40..48].fill(0xff);
        assert_eq!(found(&oracle), Ok(Format::OracleGeneral));
        oracle[16] = 1;
        assert!(found(&oracle).is_err(), "the next use of request 1 cannot be request 1");
    }

    #[test]
    fn what_is_known_and_not_read_is_named_with_a_way_out() {
        assert!(found(&[0x1f, 0x8b, 8]).expect_err("gzip").contains("gzip"));
        assert!(found(b"").expect_err("empty").contains("empty"));
        assert!(found(b"hello, world\n").expect_err("prose").contains("--format"));
    }
}

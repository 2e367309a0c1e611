//! MSR Cambridge (Narayanan et al., FAST 2008): one CSV line a request, without a heading.
//!
//! `Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime`; the times in units of 100 ns since 1601, offset and
//! size in bytes. Hosts repeat disk numbers, so that a volume is a host *and* a disk.

use super::super::buffer::{take_byte, take_number};
use super::super::text::{Plain, Row, bytes, kind};

pub(in super::super) const PARSER: Plain =
    Plain { expected: "`time,host,disk,Read or Write,offset,size,response time`", row };

/// What a line says; none when it is not of this format.
fn row(line: &[u8]) -> Option<Row<'_>> {
    let rest = &mut &*line;
    let time_ns = take_number(rest)?.checked_mul(100)?;
    take_byte(rest, b',').then_some(())?;
    let from_host = *rest;
    let host_bytes = memchr::memchr(b',', rest).filter(|&bytes| bytes > 0)?;
    *rest = &rest[host_bytes + 1..];
    take_number(rest)?;
    let volume = &from_host[..from_host.len() - rest.len()];
    take_byte(rest, b',').then_some(())?;
    let word_bytes = memchr::memchr(b',', rest)?;
    let kind = kind(&rest[..word_bytes])?;
    *rest = &rest[word_bytes + 1..];
    let offset = take_number(rest)?;
    let length = take_byte(rest, b',').then(|| take_number(rest))??;
    take_byte(rest, b',').then(|| take_number(rest))??;
    let span = bytes(kind, offset, length).filter(|_| rest.is_empty())?;
    Some(Row { volume, kind, span, time_ns: Some(time_ns) })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Kind, Request, Span, bad_lines_are_named, read_all};

    #[test]
    fn host_and_disk_together_are_a_volume_and_times_are_in_units_of_100_ns() {
        let text = b"128166386787582087,mds,1,Read,1211904,4608,1331\n\
                     128166386787582097,usr,1,Write,512,0,1\n\
                     128166386787582107,mds,1,read,0,1,1\n\
                     128166386787582117,mds,0,Write,7,9,1";
        let requests = read_all(Format::Msr, text).expect("good");
        let span = |offset, bytes| Span::Bytes { offset, bytes };
        let request = |volume, kind, span, time| Request { volume, kind, span, time_ns: Some(time) };
        assert_eq!(
            requests,
            [
                request(0, Kind::Read, span(1211904, 4608), 12_816_638_678_758_208_700),
                request(1, Kind::Write, span(512, 0), 12_816_638_678_758_209_700),
                request(0, Kind::Read, span(0, 1), 12_816_638_678_758_210_700),
                request(2, Kind::Write, span(7, 9), 12_816_638_678_758_211_700),
            ]
        );
    }

    #[test]
    fn a_line_cut_anywhere_or_of_another_shape_is_named_by_its_number() {
        let good = "128166386787582087,mds,1,Read,1211904,4608,1331";
        let cut = good.rfind(',').expect("has commas") + 1;
        let mut bad: Vec<&str> = (1..=cut).map(|end| &good[..end]).collect();
        bad.extend(["1,mds,1,Trim,0,1,1", "1,,1,Read,0,1,1", "1,mds,1,Read,-1,1,1", "1,mds,1,Read,0,1,1,1"]);
        bad.extend(["1,mds,1,Read,18446744073709551615,4096,1", "1,mds,1,Read,0,4294967296,1"]);
        bad.push("18446744073709551615,mds,1,Read,0,1,1");
        bad_lines_are_named(Format::Msr, good, "expected `time,host,disk", &bad);
    }
}

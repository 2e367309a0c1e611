//! MSR Cambridge (Narayanan et al., FAST 2008): one CSV line a request, without a heading.
//!
//! `Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime`; the time in units of 100 ns, offset and size in bytes.
//! Hosts repeat disk numbers, so that a volume is a host *and* a disk.

use std::collections::HashMap;

use super::buffer::{Lines, take_byte, take_number};
use super::input::Input;
use super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

pub(super) struct MsrReader {
    lines: Lines,
    /// `host,disk` as the lines say it, to the volume.
    volumes: HashMap<Vec<u8>, u32>,
    last: (Vec<u8>, u32),
}

/// What one line says; `disk` is `host,disk`.
pub(super) struct MsrLine<'a> {
    time_us: u64,
    disk: &'a [u8],
    kind: Kind,
    offset: u64,
    bytes: u64,
}

impl MsrReader {
    pub(super) fn new(input: Input) -> Self {
        Self { lines: Lines::new(input), volumes: HashMap::new(), last: (Vec::new(), 0) }
    }
}

impl TraceReader for MsrReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            let line = match self.lines.next_line()? {
                None => return Ok(None),
                Some([]) => continue,
                Some(line) => line,
            };
            let Some(parsed) = parse(line) else {
                let line = line.to_vec();
                let expected = "`time,host,disk,Read or Write,offset,size,response time`";
                return Err(self.lines.bad_line(expected, &line));
            };
            // Neighbouring lines mostly come from one disk.
            if self.last.0 != parsed.disk {
                self.last = (parsed.disk.to_vec(), number(&mut self.volumes, parsed.disk));
            }
            let span = Span::Bytes { offset: parsed.offset, bytes: parsed.bytes };
            let time_us = Some(parsed.time_us);
            return Ok(Some(Request { volume: self.last.1, kind: parsed.kind, span, time_us }));
        }
    }
}

fn number(volumes: &mut HashMap<Vec<u8>, u32>, disk: &[u8]) -> u32 {
    let next = u32::try_from(volumes.len()).expect("the names of 2^32 disks do not fit in memory");
    *volumes.entry(disk.to_vec()).or_insert(next)
}

/// What a line says; none when it is not of this format.
pub(super) fn parse(line: &[u8]) -> Option<MsrLine<'_>> {
    let rest = &mut &*line;
    let time = take_number(rest)?;
    take_byte(rest, b',').then_some(())?;
    let from_host = *rest;
    let host_bytes = rest.iter().position(|&byte| byte == b',')?;
    *rest = &rest[host_bytes + 1..];
    take_number(rest)?;
    let disk = &from_host[..from_host.len() - rest.len()];
    let kind = take_kind(rest)?;
    let offset = take_number(rest)?;
    let bytes = take_byte(rest, b',').then(|| take_number(rest))??;
    take_byte(rest, b',').then(|| take_number(rest))??;
    let fits = rest.is_empty() && host_bytes > 0 && offset.checked_add(bytes).is_some();
    fits.then_some(MsrLine { time_us: time / 10, disk, kind, offset, bytes })
}

fn take_kind(rest: &mut &[u8]) -> Option<Kind> {
    for (word, kind) in [(&b",Read,"[..], Kind::Read), (b",Write,", Kind::Write)] {
        if rest.len() >= word.len() && rest[..word.len()].eq_ignore_ascii_case(word) {
            *rest = &rest[word.len()..];
            return Some(kind);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Format, read_all};
    use super::*;

    #[test]
    fn host_and_disk_together_are_a_volume_and_times_become_microseconds() {
        let text = b"128166386787582087,mds,1,Read,1211904,4608,1331\n\
                     128166386787582097,usr,1,Write,512,0,1\n\
                     128166386787582107,mds,1,read,0,1,1\n\
                     128166386787582117,mds,0,Write,7,9,1";
        let requests = read_all(Format::Msr, text).expect("good");
        let span = |offset, bytes| Span::Bytes { offset, bytes };
        let request = |volume, kind, span, time| Request { volume, kind, span, time_us: Some(time) };
        assert_eq!(
            requests,
            [
                request(0, Kind::Read, span(1211904, 4608), 12816638678758208),
                request(1, Kind::Write, span(512, 0), 12816638678758209),
                request(0, Kind::Read, span(0, 1), 12816638678758210),
                request(2, Kind::Write, span(7, 9), 12816638678758211),
            ]
        );
    }

    #[test]
    fn a_line_cut_anywhere_or_of_another_shape_is_named_by_its_number() {
        let good = "128166386787582087,mds,1,Read,1211904,4608,1331";
        let cut = good.rfind(',').expect("has commas") + 1;
        let mut bad: Vec<&str> = (1..=cut).map(|end| &good[..end]).collect();
        bad.extend(["1,mds,1,Trim,0,1,1", "1,,1,Read,0,1,1", "1,mds,1,Read,-1,1,1", "1,mds,1,Read,0,1,1,1"]);
        bad.push("1,mds,1,Read,18446744073709551615,4096,1");
        for bad in bad {
            let error = read_all(Format::Msr, format!("{good}\n{bad}\n").as_bytes()).expect_err(bad);
            assert!(error.contains("line 2: expected `time,host,disk"), "{error}");
        }
    }
}

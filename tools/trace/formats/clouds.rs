//! Block traces that operators of clouds published: CSV without a heading.
//!
//! | format        | fields                                | times        | addresses and sizes |
//! |---------------|---------------------------------------|--------------|---------------------|
//! | Alibaba 2020  | `device,R or W,offset,length,time`    | microseconds | bytes               |
//! | Tencent CBS   | `time,offset,size,0 or 1,volume`      | seconds      | 512-byte sectors    |
//! | K5cloud       | `volume,time,R or W,offset,size`      | seconds      | bytes               |
//!
//! In Tencent's, 0 is a read and 1 a write. That the second field of K5cloud's is a time in seconds is what its values
//! look like; its publisher does not say.

use super::super::Kind;
use super::super::text::{Plain, Row, SECOND_NS, SECTOR_BYTES, bytes, fields, kind, number, time, units};

pub(in super::super) const ALIBABA: Plain =
    Plain { expected: "`device,R or W,offset,length,time`, in bytes and microseconds", row: alibaba };
pub(in super::super) const TENCENT: Plain =
    Plain { expected: "`time,offset,size,0 or 1,volume`, in sectors and seconds", row: tencent };
pub(in super::super) const K5CLOUD: Plain =
    Plain { expected: "`volume,time,R or W,offset,size`, in bytes", row: k5cloud };

fn alibaba(line: &[u8]) -> Option<Row<'_>> {
    let [volume, operation, offset, length, at] = fields(line, b',')?;
    number(volume)?;
    let kind = kind(operation)?;
    let span = bytes(kind, number(offset)?, number(length)?)?;
    Some(Row { volume, kind, span, time_ns: Some(number(at)?.checked_mul(1000)?) })
}

fn tencent(line: &[u8]) -> Option<Row<'_>> {
    let [at, first, count, operation, volume] = fields(line, b',')?;
    number(volume)?;
    let kind = match operation {
        b"0" => Kind::Read,
        b"1" => Kind::Write,
        _ => return None,
    };
    let span = units(kind, number(first)?, number(count)?, SECTOR_BYTES)?;
    Some(Row { volume, kind, span, time_ns: Some(time(at, SECOND_NS)?) })
}

fn k5cloud(line: &[u8]) -> Option<Row<'_>> {
    let [volume, at, operation, offset, length] = fields(line, b',')?;
    if volume.is_empty() {
        return None;
    }
    let kind = kind(operation)?;
    let span = bytes(kind, number(offset)?, number(length)?)?;
    Some(Row { volume, kind, span, time_ns: Some(time(at, SECOND_NS)?) })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Kind, bad_lines_are_named, read_all, request};

    #[test]
    fn alibabas_are_in_bytes_and_microseconds() {
        let text = b"419,W,8192,16384,1577808000000626\n0,R,126703661056,4096,1577808000000046\n";
        let wanted = [
            request(0, Kind::Write, 8192, 16384, 1_577_808_000_000_626_000),
            request(1, Kind::Read, 126_703_661_056, 4096, 1_577_808_000_000_046_000),
        ];
        assert_eq!(read_all(Format::Alibaba, text).expect("good"), wanted);
        let bad = ["0,R,1,1", "x,R,1,1,1", "0,T,1,1,1", "0,R,1,1,1.5", "0,R,-1,1,1", "0,R,1,1,1,1"];
        bad_lines_are_named(Format::Alibaba, "0,R,1,1,1", "expected `device,R or W", &bad);
    }

    #[test]
    fn tencents_are_in_sectors_and_seconds() {
        let text = b"1538323199,1003027216,16,0,2313\n1538323200,8,1,1,2313\n";
        let wanted = [
            request(0, Kind::Read, 1_003_027_216 * 512, 8192, 1_538_323_199_000_000_000),
            request(0, Kind::Write, 4096, 512, 1_538_323_200_000_000_000),
        ];
        assert_eq!(read_all(Format::Tencent, text).expect("good"), wanted);
        let bad =
            ["1,8,1,2,5", "1,8,1,R,5", "1,8,1,0", "1,8,x,0,5", "1,8,1,0,x", "1,72057594037927936,1,0,5"];
        bad_lines_are_named(Format::Tencent, "1,8,1,0,5", "expected `time,offset,size", &bad);
    }

    #[test]
    fn k5clouds_are_in_bytes() {
        let wanted =
            [request(0, Kind::Read, 4096, 512, 7_000_000_000), request(1, Kind::Write, 0, 1, 8_000_000_000)];
        assert_eq!(read_all(Format::K5cloud, b"9,7,R,4096,512\n3,8,W,0,1\n").expect("good"), wanted);
        let bad = ["9,7,R,4096", ",7,R,0,1", "9,7,Q,0,1", "9,x,R,0,1", "9,7,R,0,1e3"];
        bad_lines_are_named(Format::K5cloud, "9,7,R,4096,512", "expected `volume,time", &bad);
    }
}

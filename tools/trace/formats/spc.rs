//! UMass storage traces, in the SPC trace file format 1.0.1 (Storage Performance Council).
//!
//! `ASU,LBA,size,opcode,timestamp` and optional fields behind; the LBA in blocks of 512 bytes of its application storage
//! unit, the size in bytes, the opcode `r` or `w` in either case, the time in seconds with a fraction. White space may
//! stand around every field. A volume is an ASU.

use super::super::text::{Plain, Row, SECOND_NS, SECTOR_BYTES, bytes, kind, number, time};

pub(in super::super) const PARSER: Plain =
    Plain { expected: "`ASU,LBA,size,r or w,time`, the time in seconds", row };

fn row(line: &[u8]) -> Option<Row<'_>> {
    let mut fields = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let volume = fields.next().filter(|unit| number(unit).is_some())?;
    let (sector, length) = (number(fields.next()?)?, number(fields.next()?)?);
    let kind = kind(fields.next()?)?;
    let time_ns = time(fields.next()?, SECOND_NS)?;
    let span = bytes(kind, sector.checked_mul(SECTOR_BYTES)?, length)?;
    Some(Row { volume, kind, span, time_ns: Some(time_ns) })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Kind, bad_lines_are_named, read_all, request};

    #[test]
    fn addresses_are_sectors_sizes_are_bytes_and_further_fields_are_passed_over() {
        let text = b"0,20941264,8192,W,0.551706\n 1 , 16 , 512 , r , 2.000000001 , more , fields\n";
        assert_eq!(
            read_all(Format::Spc, text).expect("good"),
            [
                request(0, Kind::Write, 20_941_264 * 512, 8192, 551_706_000),
                request(1, Kind::Read, 8192, 512, 2_000_000_001),
            ]
        );
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let bad =
            ["0,1,512,r", "a,1,512,r,0", "0,1.5,512,r,0", "0,1,512,x,0", "0,1,512,r,late", "0,1,-1,r,0"];
        bad_lines_are_named(Format::Spc, "0,1,512,r,0.1", "expected `ASU,LBA", &bad);
    }
}

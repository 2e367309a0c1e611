//! FIU traces (SRCMap, I/O Deduplication): words between spaces.
//!
//! `ts pid process lba size operation major minor md5`; the time in nanoseconds, address and size in sectors of 512
//! bytes, the operation `R` or `W`. A volume is a major and a minor number. Names of processes may have spaces, so that a
//! line is read from both ends.

use super::super::text::{Plain, Row, SECTOR_BYTES, kind, number, split_words, units};

pub(in super::super) const PARSER: Plain =
    Plain { expected: "`ns pid process lba size R or W major minor md5`", row };

fn row(line: &[u8]) -> Option<Row<'_>> {
    let mut words = split_words(line);
    let time_ns = number(words.next()?)?;
    number(words.next()?)?;
    let digest = words.next_back()?;
    let (minor, major) = (words.next_back()?, words.next_back()?);
    let kind = kind(words.next_back()?)?;
    let (count, first) = (number(words.next_back()?)?, number(words.next_back()?)?);
    // The process.
    words.next()?;
    let is_good =
        digest.iter().all(u8::is_ascii_hexdigit) && number(major).is_some() && number(minor).is_some();
    let span = units(kind, first, count, SECTOR_BYTES).filter(|_| is_good)?;
    // Both numbers as the line has them, with what is between.
    let start = major.as_ptr().addr() - line.as_ptr().addr();
    let end = minor.as_ptr().addr() - line.as_ptr().addr() + minor.len();
    Some(Row { volume: &line[start..end], kind, span, time_ns: Some(time_ns) })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Format, Kind, bad_lines_are_named, read_all, request};

    #[test]
    fn addresses_are_sectors_and_a_process_may_have_spaces() {
        let text = b"89968195792462 20782 gzip 283193184 8 R 6 0 56f1c0ffee\n\
                     89968195792463 1 my program 16 1 W 6 1 0abc\n";
        assert_eq!(
            read_all(Format::Fiu, text).expect("good"),
            [
                request(0, Kind::Read, 283_193_184 * 512, 4096, 89_968_195_792_462),
                request(1, Kind::Write, 8192, 512, 89_968_195_792_463),
            ]
        );
    }

    #[test]
    fn a_line_of_another_shape_is_named_by_its_number() {
        let good = "1 2 p 16 8 R 6 0 abc";
        let bad =
            ["1 2 16 8 R 6 0 abc", "x 2 p 16 8 R 6 0 abc", "1 2 p 16 8 X 6 0 abc", "1 2 p 16 8 R 6 0 xyz"];
        bad_lines_are_named(Format::Fiu, good, "expected `ns pid process", &bad);
    }
}

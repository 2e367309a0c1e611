//! What the readers of text formats share: a line becomes a request or is refused with its number.
//!
//! A format is a [`LineParser`]. [`TextReader`] does the rest: lines, the numbers of volumes, what a bad line is told.
//!
//! No request of a read or a write is [`LENGTH_LIMIT`] long or ends behind the last address, so that nothing further on
//! can be made to count for ever; a trace names at most [`VOLUMES_MAX`] volumes in [`NAME_BYTES_MAX`] bytes, so that memory
//! is bounded.

use std::collections::HashMap;

use super::buffer::{Lines, POWERS_OF_TEN, take_byte, take_digits, take_number};
use super::input::Input;
use super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

/// 4 GiB: no block layer lets a longer request through. Discards may be longer.
pub(super) const LENGTH_LIMIT: u64 = 4 << 30;
/// More than any published trace has.
pub(super) const VOLUMES_MAX: usize = 1 << 16;
/// Of all their names: 256 each if there are as many.
const NAME_BYTES_MAX: usize = 16 << 20;
pub(super) const SECTOR_BYTES: u64 = 512;
pub(super) const MILLISECOND_NS: u64 = 1_000_000;
pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// What one line means.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Request(Row<'a>),
    /// A command that moves no data and orders none.
    Command,
    /// A heading, a comment, another stage of a request.
    Nothing,
}

/// A request as its line says it.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// The name of the volume; empty where the format has but one.
    pub(super) volume: &'a [u8],
    pub(super) kind: Kind,
    pub(super) span: Span,
    pub(super) time_ns: Option<u64>,
}

/// A format of lines; it may remember what earlier lines said.
pub(super) trait LineParser: Send {
    /// What a good line looks like.
    fn expected(&self) -> &'static str;

    /// What `line` means; none when it is not of this format.
    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>>;
}

/// A format whose lines do not depend on each other.
#[derive(Clone, Copy)]
pub(super) struct Plain {
    pub(super) expected: &'static str,
    pub(super) row: for<'a> fn(&'a [u8]) -> Option<Row<'a>>,
}

impl LineParser for Plain {
    fn expected(&self) -> &'static str {
        self.expected
    }

    fn parse<'a>(&'a mut self, line: &'a [u8]) -> Option<Line<'a>> {
        (self.row)(line).map(Line::Request)
    }
}

pub(super) struct TextReader {
    lines: Lines,
    parser: Box<dyn LineParser>,
    volumes: Volumes,
    skipped: u64,
}

impl TextReader {
    pub(super) fn new(input: Input, parser: Box<dyn LineParser>) -> Self {
        Self { lines: Lines::new(input), parser, volumes: Volumes::default(), skipped: 0 }
    }
}

impl TraceReader for TextReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            let line = match self.lines.next_line()? {
                None => return Ok(None),
                Some([]) => continue,
                Some(line) => line,
            };
            let row = match self.parser.parse(line) {
                Some(Line::Request(row)) => row,
                Some(Line::Nothing) => continue,
                Some(Line::Command) => {
                    self.skipped += 1;
                    continue;
                }
                None => {
                    let line = line.to_vec();
                    return Err(self.lines.bad_line(self.parser.expected(), &line));
                }
            };
            let Some(volume) = self.volumes.number(row.volume) else {
                let line = line.to_vec();
                return Err(self.lines.bad_line("one of at most 65,536 volumes, in names of 16 MiB", &line));
            };
            return Ok(Some(Request { volume, kind: row.kind, span: row.span, time_ns: row.time_ns }));
        }
    }

    fn skipped_commands(&self) -> u64 {
        self.skipped
    }

    fn volume_names(&self) -> &[String] {
        &self.volumes.names
    }
}

/// Volumes numbered from 0 as their names appear.
#[derive(Default)]
pub(super) struct Volumes {
    numbers: HashMap<Vec<u8>, u32>,
    pub(super) names: Vec<String>,
    name_bytes: usize,
    /// The volume that was asked for last, and its name.
    last: Option<u32>,
    last_name: Vec<u8>,
}

impl Volumes {
    /// The number of the volume called `name`; none when there are too many.
    pub(super) fn number(&mut self, name: &[u8]) -> Option<u32> {
        // Neighbouring lines mostly come from one volume, or all do and it has no name: nothing is to be compared then.
        let is_last = name.is_empty() && self.last_name.is_empty() || name == self.last_name;
        if let Some(last) = self.last.filter(|_| is_last) {
            return Some(last);
        }
        let number = match self.numbers.get(name) {
            Some(&number) => number,
            None if self.names.len() == VOLUMES_MAX => return None,
            None if self.name_bytes + name.len() > NAME_BYTES_MAX => return None,
            None => {
                self.name_bytes += name.len();
                let number = u32::try_from(self.names.len()).expect("at most VOLUMES_MAX");
                self.numbers.insert(name.to_vec(), number);
                self.names.push(String::from_utf8_lossy(name).into_owned());
                number
            }
        };
        self.last_name.clear();
        self.last_name.extend_from_slice(name);
        self.last = Some(number);
        Some(number)
    }
}

/// `bytes` bytes from `offset` on; none when no `kind` of request can have that place.
pub(super) fn bytes(kind: Kind, offset: u64, bytes: u64) -> Option<Span> {
    let is_long = bytes >= LENGTH_LIMIT && matches!(kind, Kind::Read | Kind::Write);
    (!is_long && offset.checked_add(bytes).is_some()).then_some(Span::Bytes { offset, bytes })
}

/// The same in units of `unit` bytes.
pub(super) fn units(kind: Kind, first: u64, count: u64, unit: u64) -> Option<Span> {
    bytes(kind, first.checked_mul(unit)?, count.checked_mul(unit)?)
}

/// So many ids; none when there cannot be as many, were each but a sector.
pub(super) fn ids(first: u64, count: u64) -> Option<Span> {
    let fits = count > 0 && count < LENGTH_LIMIT / SECTOR_BYTES && first.checked_add(count - 1).is_some();
    fits.then_some(Span::Ids { first, count })
}

/// A field that is a whole decimal number, with white space around it or none.
#[inline]
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let rest = &mut field.trim_ascii();
    take_number(rest).filter(|_| rest.is_empty())
}

/// A field that is a hexadecimal number, with `0x` or without.
pub(super) fn hexadecimal(field: &[u8]) -> Option<u64> {
    let field = field.trim_ascii();
    let digits = field.strip_prefix(b"0x").or_else(|| field.strip_prefix(b"0X")).unwrap_or(field);
    let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, 16).ok()
}

/// A field that is a time: a decimal number of units of `unit_ns`, a power of ten up to a second, as nanoseconds; what is
/// finer is cut off.
pub(super) fn time(field: &[u8], unit_ns: u64) -> Option<u64> {
    let rest = &mut field.trim_ascii();
    let whole = if rest.first() == Some(&b'.') { None } else { Some(take_number(rest)?) };
    let mut part = 0;
    if take_byte(rest, b'.') {
        let (finer, coarse) = (rest.get(9..).unwrap_or_default(), &mut &rest[..rest.len().min(9)]);
        let (billionths, digits) = take_digits(coarse);
        let is_number =
            coarse.is_empty() && finer.iter().all(u8::is_ascii_digit) && (digits > 0 || whole.is_some());
        if !is_number {
            return None;
        }
        part = billionths * POWERS_OF_TEN[9 - digits] * unit_ns / SECOND_NS;
    } else if !rest.is_empty() {
        return None;
    }
    whole.unwrap_or(0).checked_mul(unit_ns)?.checked_add(part)
}

/// Exactly `N` fields between separators.
#[inline]
pub(super) fn fields<const N: usize>(line: &[u8], separator: u8) -> Option<[&[u8]; N]> {
    let mut fields = [&line[..0]; N];
    let mut rest = line.split(|&byte| byte == separator);
    for field in &mut fields {
        *field = rest.next()?;
    }
    rest.next().is_none().then_some(fields)
}

/// Exactly `N` words between white space.
pub(super) fn words<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut words = [&line[..0]; N];
    let mut rest = split_words(line);
    for word in &mut words {
        *word = rest.next()?;
    }
    rest.next().is_none().then_some(words)
}

/// The words of a line, from either end.
pub(super) fn split_words(line: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// `R`, `W`, `Read`, `write`: in full or by their first letter, in any case.
pub(super) fn kind(word: &[u8]) -> Option<Kind> {
    let is = |whole: &[u8]| word.eq_ignore_ascii_case(whole) || word.eq_ignore_ascii_case(&whole[..1]);
    if is(b"read") { Some(Kind::Read) } else { is(b"write").then_some(Kind::Write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_to_the_nanosecond_and_finer_digits_are_cut_off() {
        for (text, unit, wanted) in [
            ("1.5", 1_000_000_000, Some(1_500_000_000)),
            ("0.123456789123", 1_000_000_000, Some(123_456_789)),
            ("223.412", 1_000_000, Some(223_412_000)),
            ("1.9999999999", 1000, Some(1999)),
            ("5.", 1_000_000, Some(5_000_000)),
            ("1.123456789x", 1_000_000_000, None),
            ("+1", 1, None),
            (".5", 1000, Some(500)),
            ("7", 100, Some(700)),
            ("18446744073709551615", 1, Some(u64::MAX)),
            ("18446744073709551615", 10, None),
            ("", 1, None),
            (".", 1, None),
            ("-1", 1, None),
            ("1e3", 1, None),
            ("1.x", 1, None),
        ] {
            assert_eq!(time(text.as_bytes(), unit), wanted, "{text}");
        }
    }

    #[test]
    fn places_that_no_request_can_have_are_refused() {
        assert!(
            bytes(Kind::Read, 0, LENGTH_LIMIT - 1).is_some() && bytes(Kind::Read, 0, LENGTH_LIMIT).is_none()
        );
        assert!(bytes(Kind::Discard, 0, LENGTH_LIMIT).is_some());
        assert!(bytes(Kind::Write, u64::MAX, 1).is_none());
        assert!(units(Kind::Read, 1 << 56, 1, 512).is_none());
        assert!(ids(0, (1 << 23) - 1).is_some() && ids(0, 1 << 23).is_none());
        assert!(ids(u64::MAX, 1).is_some() && ids(u64::MAX, 2).is_none() && ids(0, 0).is_none());
    }

    #[test]
    fn fields_and_words_are_taken_only_when_there_are_as_many() {
        assert_eq!(fields(b"a,,c", b','), Some([&b"a"[..], b"", b"c"]));
        assert_eq!(fields::<2>(b"a,b,c", b','), None);
        assert_eq!(words(b" a \t b "), Some([&b"a"[..], b"b"]));
        assert_eq!(words::<3>(b"a b"), None);
        assert_eq!(
            (hexadecimal(b" 0x1F"), hexadecimal(b"2a"), hexadecimal(b"+1")),
            (Some(31), Some(42), None)
        );
    }

    #[test]
    fn too_many_volumes_are_refused_and_those_that_are_known_stay() {
        let mut volumes = Volumes::default();
        for volume in 0..VOLUMES_MAX as u32 {
            assert_eq!(volumes.number(volume.to_string().as_bytes()), Some(volume));
        }
        assert_eq!(volumes.number(b"one more"), None);
        assert_eq!(volumes.number(b"17"), Some(17));
        let mut volumes = Volumes::default();
        let long = vec![b'n'; NAME_BYTES_MAX - 1];
        assert_eq!((volumes.number(&long), volumes.number(b"n")), (Some(0), Some(1)));
        assert_eq!((volumes.number(b"m"), volumes.number(b"n")), (None, Some(1)));
    }
}

//! Lines and fixed-size records out of one reused buffer, with their number for error messages.

use super::input::Input;
use crate::failure::{Failure, Result};

/// 256 KiB: past it, larger reads are no faster; also bounds the length of a line.
const BUFFER_BYTES: usize = 256 << 10;

/// The part of the input that was read and not yet taken, in lines by [`Lines`] or in records.
pub(super) struct Buffer {
    input: Input,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Records taken, and where the last one began and ended.
    records: u64,
    record_at: u64,
    next_at: u64,
}

impl Buffer {
    pub(super) fn new(input: Input) -> Self {
        let bytes = vec![0; BUFFER_BYTES];
        Self { input, bytes, start: 0, end: 0, records: 0, record_at: 0, next_at: 0 }
    }

    /// Reads more behind what is there; false at the end of the input. There must be room: see [`Self::is_full`].
    fn fill(&mut self) -> Result<bool> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let count = self.input.read(&mut self.bytes[self.end..])?;
        self.end += count;
        Ok(count > 0)
    }

    fn is_full(&self) -> bool {
        self.end - self.start == self.bytes.len()
    }

    /// The next `bytes` bytes, or none at the end.
    pub(super) fn next_record(&mut self, bytes: usize) -> Result<Option<&[u8]>> {
        if !self.gather(bytes)? {
            return Ok(None);
        }
        let start = self.start;
        self.start += bytes;
        self.records += 1;
        (self.record_at, self.next_at) = (self.next_at, self.next_at + bytes as u64);
        Ok(Some(&self.bytes[start..start + bytes]))
    }

    /// Passes over `bytes` bytes that belong to the record last taken.
    pub(super) fn skip(&mut self, bytes: usize) -> Result<()> {
        if !self.gather(bytes)? {
            return Err(self.cut_short(bytes, 0));
        }
        self.start += bytes;
        self.next_at += bytes as u64;
        Ok(())
    }

    /// Reads until there are `bytes` bytes, at most [`BUFFER_BYTES`]; false when there are none at all.
    fn gather(&mut self, bytes: usize) -> Result<bool> {
        while self.end - self.start < bytes {
            if !self.fill()? {
                let rest = self.end - self.start;
                return if rest == 0 { Ok(false) } else { Err(self.cut_short(bytes, rest)) };
            }
        }
        Ok(true)
    }

    fn cut_short(&self, bytes: usize, rest: usize) -> Failure {
        let (name, record, at) = (self.input.name(), self.records + 1, self.next_at);
        Failure::input(format!(
            "{name}, record {record} at byte {at}: expected {bytes} bytes, found {rest} before the end"
        ))
        .remedy(
            "the trace is cut short or of another format: fetch it again, or name its format with --format",
        )
    }

    /// The record last given could not be read: its number, what was expected, what stands there.
    pub(super) fn bad_record(&self, expected: &str, found: &str) -> Failure {
        let (name, record, at) = (self.input.name(), self.records, self.record_at);
        Failure::input(format!("{name}, record {record} at byte {at}: expected {expected}, found {found}"))
            .remedy("name another format with --format")
    }
}

/// The lines of a text, without their ends.
pub(super) struct Lines {
    buffer: Buffer,
    number: u64,
}

impl Lines {
    pub(super) fn new(input: Input) -> Self {
        Self { buffer: Buffer::new(input), number: 0 }
    }

    /// The next line, trimmed of its end and of white space around it.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>> {
        let mut searched = 0;
        let (start, end, next) = loop {
            let waiting = &self.buffer.bytes[self.buffer.start..self.buffer.end];
            if let Some(length) = memchr::memchr(b'\n', &waiting[searched..]) {
                let end = self.buffer.start + searched + length;
                break (self.buffer.start, end, end + 1);
            }
            searched = waiting.len();
            if self.buffer.is_full() {
                let (name, line) = (self.buffer.input.name(), self.number + 1);
                return Err(Failure::input(format!("{name}, line {line}: longer than {BUFFER_BYTES} bytes"))
                    .remedy("this is no text trace; name its format with --format"));
            }
            if !self.buffer.fill()? {
                if searched == 0 {
                    return Ok(None);
                }
                break (self.buffer.start, self.buffer.end, self.buffer.end);
            }
        };
        self.number += 1;
        self.buffer.start = next;
        Ok(Some(self.buffer.bytes[start..end].trim_ascii()))
    }

    /// The line last given could not be read: its number, what was expected, what stands there.
    pub(super) fn bad_line(&self, expected: &str, found: &[u8]) -> Failure {
        let shown: String =
            String::from_utf8_lossy(found).chars().filter(|c| !c.is_control()).take(60).collect();
        let dots = if found.len() > 60 { "..." } else { "" };
        Failure::input(format!(
            "{}, line {}: expected {expected}, found `{shown}{dots}`",
            self.buffer.input.name(),
            self.number
        ))
        .remedy("mend the line, or name another format with --format")
    }
}

/// Takes a decimal number off the front of `text`; none when there is none or it does not fit.
#[inline]
pub(super) fn take_number(text: &mut &[u8]) -> Option<u64> {
    let all = *text;
    let (value, digits) = take_digits(text);
    match digits {
        0 => None,
        // Below 20 digits nothing overflows; beyond, the standard library decides.
        1..=19 => Some(value),
        _ => str::from_utf8(&all[..digits]).ok()?.parse().ok(),
    }
}

/// Takes all decimal digits off the front of `text`: the number that they are, modulo 2^64, and how many there are.
#[inline]
pub(super) fn take_digits(text: &mut &[u8]) -> (u64, usize) {
    let (mut value, mut digits) = (0u64, 0);
    loop {
        let (part, count) = leading_digits(first_eight(text));
        value = value.wrapping_mul(POWERS_OF_TEN[count]).wrapping_add(part);
        digits += count;
        *text = &text[count..];
        if count < 8 {
            return (value, digits);
        }
    }
}

pub(super) const POWERS_OF_TEN: [u64; 10] =
    [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// The first eight bytes, the first of them lowest; zeros where there are fewer.
#[inline]
fn first_eight(text: &[u8]) -> u64 {
    if let Some(eight) = text.first_chunk() {
        return u64::from_le_bytes(*eight);
    }
    // Two loads that overlap, or three bytes that do: no loop, whose end would be hard to foresee.
    let length = text.len();
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => {
            let word = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
            word(first) | word(last) << (8 * (length - 4))
        }
        _ if length == 0 => 0,
        _ => [0, length / 2, length - 1].iter().fold(0, |sum, &at| sum | u64::from(text[at]) << (8 * at)),
    }
}

/// The number that the decimal digits at the low end of `bytes` are, and how many there are: all eight at once.
#[inline]
fn leading_digits(bytes: u64) -> (u64, usize) {
    // A digit becomes 0 to 9, to which 0x76 is added without reaching the uppermost bit; all else has it then. What is
    // carried over goes to bytes behind the first of those, which do not count.
    let digits = bytes ^ 0x3030_3030_3030_3030;
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    let count = others.trailing_zeros() as usize / 8;
    if count == 0 {
        return (0, 0);
    }
    // Zeros before them, then pairs, fours and eights: ten, a hundred, ten thousand times the one plus the other.
    let pairs = (digits << (64 - 8 * count)).wrapping_mul(10 << 8 | 1) >> 8;
    let fours = (pairs & 0x00ff_00ff_00ff_00ff).wrapping_mul(100 << 16 | 1) >> 16;
    let eight = (fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32;
    (eight, count)
}

/// Takes white space off the front of `text`; false when there is none.
#[inline]
pub(super) fn take_space(text: &mut &[u8]) -> bool {
    let rest = text.trim_ascii_start();
    let was_there = rest.len() < text.len();
    *text = rest;
    was_there
}

/// Takes `byte` off the front of `text`; false when something else stands there.
#[inline]
pub(super) fn take_byte(text: &mut &[u8], byte: u8) -> bool {
    match text.split_first() {
        Some((&first, rest)) if first == byte => {
            *text = rest;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_whatever_the_buffer_holds_and_the_last_needs_no_end() {
        let mut text = Vec::new();
        for line in 0..100_000 {
            text.extend_from_slice(format!("{line}\r\n").as_bytes());
        }
        text.extend_from_slice(b"last");
        let mut lines = Lines::new(Input::from_bytes(&text));
        for line in 0..100_000 {
            let got = lines.next_line().expect("in memory").map(<[u8]>::to_vec);
            assert_eq!(got, Some(line.to_string().into_bytes()));
        }
        assert_eq!(lines.next_line().expect("in memory"), Some(&b"last"[..]));
        assert_eq!(lines.next_line().expect("in memory"), None);
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_refused_and_not_grown_for() {
        let mut lines = Lines::new(Input::from_bytes(&vec![b'1'; BUFFER_BYTES + 1]));
        assert!(lines.next_line().expect_err("too long").to_string().contains("line 1"));
    }

    #[test]
    fn numbers_are_taken_up_to_the_largest_and_refused_beyond() {
        let take = |text: &str| take_number(&mut text.as_bytes());
        assert_eq!(take("0"), Some(0));
        assert_eq!(take("18446744073709551615"), Some(u64::MAX));
        assert_eq!(take("18446744073709551616"), None);
        assert_eq!(take("-1"), None);
        let mut text = &b"12 rest"[..];
        assert_eq!((take_number(&mut text), text), (Some(12), &b" rest"[..]));
    }

    #[test]
    fn digits_are_taken_as_one_by_one_whatever_stands_behind_them() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let digits: Vec<u8> = (0..random.usize(..22)).map(|_| random.u8(b'0'..=b'9')).collect();
            let rest: Vec<u8> = (0..random.usize(..12)).map(|_| random.u8(..)).collect();
            let mut text = &[&digits[..], &rest].concat()[..];
            let all = text;
            let is_digit = |byte: &&u8| byte.is_ascii_digit();
            let count = all.iter().take_while(is_digit).count();
            let number = all[..count]
                .iter()
                .fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
            assert_eq!(
                (take_digits(&mut text), text),
                ((number, count), &all[count..]),
                "seed {seed}: {all:?}"
            );
        }
    }
}

//! What `blktrace` records: 48 bytes an event, in the byte order of the machine, and further bytes behind some.
//!
//! | bytes  | holds                                                                        |
//! |--------|------------------------------------------------------------------------------|
//! | 0..4   | magic 0x65617400, and the version 7 in its lowest byte; tells the byte order |
//! | 4..8   | sequence number                                                              |
//! | 8..16  | time, nanoseconds since the recording began                                  |
//! | 16..24 | sector, 512 bytes                                                            |
//! | 24..28 | length, bytes                                                                |
//! | 28..32 | action: the event in the lower half, what kind of request in the upper       |
//! | 36..40 | device: major << 20, minor                                                   |
//! | 46..48 | bytes that follow                                                            |
//!
//! Of the stages of a request only its queueing counts (event 1): the others are the same request again. There is a file
//! for each processor, in the order of time each; `merge` brings them together. A volume is a device.

use super::super::buffer::Buffer;
use super::super::input::Input;
use super::super::text::{SECTOR_BYTES, Volumes, bytes};
use super::super::{Kind, Request, Span, TraceReader};
use crate::failure::Result;

const EVENT_BYTES: usize = 48;
const MAGIC: u32 = 0x6561_7407;
const QUEUED: u32 = 1;
/// An event of a control group has this bit too.
const EVENT_MASK: u32 = 0xff;

/// Bits of what kind of request it is.
const WRITE: u32 = 1 << (1 + 16);
const FLUSH: u32 = 1 << (2 + 16);
const READ: u32 = 1 << 16;
/// Commands that are passed through to the device.
const PASSED: u32 = 1 << (8 + 16);
/// Messages: what stands in place of time and sector means something else.
const NOTIFY: u32 = 1 << (10 + 16);
const DISCARD: u32 = 1 << (13 + 16);

/// Whether a trace that begins like this was recorded by blktrace.
pub(in super::super) fn begins(prefix: &[u8]) -> bool {
    prefix
        .first_chunk()
        .is_some_and(|magic| [u32::from_le_bytes(*magic), u32::from_be_bytes(*magic)].contains(&MAGIC))
}

pub(in super::super) struct BlktraceReader {
    buffer: Buffer,
    volumes: Volumes,
    skipped: u64,
}

impl BlktraceReader {
    pub(in super::super) fn new(input: Input) -> Self {
        Self { buffer: Buffer::new(input), volumes: Volumes::default(), skipped: 0 }
    }
}

struct Event {
    time_ns: u64,
    sector: u64,
    bytes: u32,
    action: u32,
    device: u32,
    follow_bytes: u16,
}

/// The event in `record`; none when it has not the magic.
fn parse(record: &[u8]) -> Option<Event> {
    let is_little = match record.first_chunk().map(|magic| u32::from_le_bytes(*magic))? {
        MAGIC => true,
        other if other.swap_bytes() == MAGIC => false,
        _ => return None,
    };
    let half = |at: usize| {
        let half = [record[at], record[at + 1]];
        if is_little { u16::from_le_bytes(half) } else { u16::from_be_bytes(half) }
    };
    let word = |at: usize| {
        let word = *record[at..].first_chunk().expect("inside the event");
        if is_little { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) }
    };
    let long = |at: usize| {
        let long = *record[at..].first_chunk().expect("inside the event");
        if is_little { u64::from_le_bytes(long) } else { u64::from_be_bytes(long) }
    };
    Some(Event {
        time_ns: long(8),
        sector: long(16),
        bytes: word(24),
        action: word(28),
        device: word(36),
        follow_bytes: half(46),
    })
}

impl Event {
    /// What it asks for; none when it moves and orders nothing.
    fn kind(&self) -> Option<Kind> {
        match self.action {
            action if action & PASSED != 0 => None,
            action if action & DISCARD != 0 => Some(Kind::Discard),
            action if self.bytes == 0 && action & FLUSH != 0 => Some(Kind::Flush),
            action if action & WRITE != 0 => Some(Kind::Write),
            action if action & READ != 0 => Some(Kind::Read),
            _ => None,
        }
    }
}

impl TraceReader for BlktraceReader {
    fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            let Some(record) = self.buffer.next_record(EVENT_BYTES)? else { return Ok(None) };
            let Some(event) = parse(record) else {
                let found = format!("{:02x?}", &record[..4]);
                return Err(self.buffer.bad_record("the magic of blktrace, version 7", &found));
            };
            if event.follow_bytes > 0 {
                // Counted with the event before it.
                self.buffer.skip(usize::from(event.follow_bytes))?;
            }
            if event.action & NOTIFY != 0 || event.action & EVENT_MASK != QUEUED {
                continue;
            }
            let Some(kind) = event.kind() else {
                self.skipped += 1;
                continue;
            };
            let span = match kind {
                Kind::Flush => Some(Span::NOTHING),
                _ => event
                    .sector
                    .checked_mul(SECTOR_BYTES)
                    .and_then(|offset| bytes(kind, offset, u64::from(event.bytes))),
            };
            let device = format!("{},{}", event.device >> 20, event.device & 0xf_ffff);
            let (Some(span), Some(volume)) = (span, self.volumes.number(device.as_bytes())) else {
                let found = format!("sector {}", event.sector);
                return Err(self.buffer.bad_record("a sector below 2^55 of one of 65,536 devices", &found));
            };
            return Ok(Some(Request { volume, kind, span, time_ns: Some(event.time_ns) }));
        }
    }

    fn skipped_commands(&self) -> u64 {
        self.skipped
    }

    fn volume_names(&self) -> &[String] {
        &self.volumes.names
    }
}

#[cfg(test)]
pub(in super::super) mod tests {
    use super::super::super::{Format, read_all};
    use super::*;

    /// An event of device 8,16 with so many bytes behind it.
    pub(in super::super::super) fn event(
        time_ns: u64,
        action: u32,
        sector: u64,
        bytes: u32,
        follow: u16,
    ) -> Vec<u8> {
        let words = |words: [u32; 6]| words.map(u32::to_le_bytes).concat();
        let mut event = [MAGIC, 1].map(u32::to_le_bytes).concat();
        event.extend([time_ns, sector].map(u64::to_le_bytes).concat());
        event.extend(words([bytes, action, 42, 8 << 20 | 16, 1, u32::from(follow) << 16]));
        event.extend(vec![0xaa; usize::from(follow)]);
        event
    }

    pub(in super::super::super) const QUEUED_READ: u32 = QUEUED | READ;

    fn request(kind: Kind, offset: u64, bytes: u64, time_ns: u64) -> Request {
        Request { volume: 0, kind, span: Span::Bytes { offset, bytes }, time_ns: Some(time_ns) }
    }

    #[test]
    fn only_what_is_queued_is_a_request_and_what_follows_an_event_is_passed_over() {
        let trace = [
            event(0, NOTIFY | 1, 99, 0, 12),
            event(10, QUEUED | READ, 16, 4096, 0),
            event(11, 7 | READ, 16, 4096, 0),
            event(20, QUEUED | 1 << 8 | WRITE | FLUSH, 8, 512, 8),
            event(30, QUEUED | WRITE | FLUSH, 0, 0, 0),
            event(40, QUEUED | WRITE | DISCARD, 0, 1 << 20, 0),
            event(50, QUEUED | PASSED | READ, 0, 36, 0),
            event(60, QUEUED | READ, 0, 512, 0),
        ];
        let wanted = [
            request(Kind::Read, 8192, 4096, 10),
            request(Kind::Write, 4096, 512, 20),
            request(Kind::Flush, 0, 0, 30),
            request(Kind::Discard, 0, 1 << 20, 40),
            request(Kind::Read, 0, 512, 60),
        ];
        assert_eq!(read_all(Format::Blktrace, &trace.concat()), Ok(wanted.to_vec()));
    }

    #[test]
    fn events_of_a_machine_of_the_other_byte_order_are_read_alike() {
        let mut swapped = Vec::new();
        let mut little = &event(10, QUEUED | READ, 16, 4096, 0)[..];
        for bytes in [4, 4, 8, 8, 4, 4, 4, 4, 4, 2, 2] {
            let (number, rest) = little.split_at(bytes);
            swapped.extend(number.iter().rev());
            little = rest;
        }
        assert!(begins(&swapped));
        assert_eq!(read_all(Format::Blktrace, &swapped), Ok(vec![request(Kind::Read, 8192, 4096, 10)]));
    }

    #[test]
    fn an_event_without_the_magic_cut_short_or_out_of_range_is_named_by_its_number_and_byte() {
        let good = event(10, QUEUED | READ, 16, 4096, 4);
        let mut other = good.clone();
        other[0] = 6;
        for (bad, expected) in [
            (other, "record 2 at byte 52: expected the magic of blktrace, version 7"),
            (good[..40].to_vec(), "record 2 at byte 52: expected 48 bytes, found 40"),
            (good[..50].to_vec(), "at byte 100: expected 4 bytes, found 2"),
            (event(1, QUEUED | READ, 1 << 60, 512, 0), "record 2 at byte 52: expected a sector"),
        ] {
            let error = read_all(Format::Blktrace, &[good.clone(), bad].concat()).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}

//! The log of one life of the child: what it began, and what was acknowledged.
//!
//! A record is one call of the system, in the order of time over all threads: what a kill can cut off is the end.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Both volumes are attached.
    Opened,
    /// A write is about to be called.
    Begun,
    Acknowledged,
    /// A flush of the volume is about to be called.
    Flushing,
    Flushed,
    /// A close is about to be called: from now on the files may look as after a close.
    Closing,
}

impl Event {
    const ALL: [Self; 6] =
        [Self::Opened, Self::Begun, Self::Acknowledged, Self::Flushing, Self::Flushed, Self::Closing];
}

/// One line of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) event: Event,
    /// The child's writers count from 0; its main thread comes after them.
    pub(super) thread: u8,
    pub(super) volume: u8,
    /// The sectors that are written, and with what.
    pub(super) count: u8,
    pub(super) first: u32,
    pub(super) value: u64,
}

impl Record {
    /// A divisor of a page, so that no record is ever written in part.
    const BYTES: usize = 16;

    pub(super) fn of(event: Event, thread: usize, volume: usize) -> Self {
        Self { event, thread: thread as u8, volume: volume as u8, count: 0, first: 0, value: 0 }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&[self.event as u8, self.thread, self.volume, self.count]);
        bytes[4..8].copy_from_slice(&self.first.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let first = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        let value = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let event = Event::ALL[usize::from(bytes[0])];
        Self { event, thread: bytes[1], volume: bytes[2], count: bytes[3], first, value }
    }

    pub(super) fn sectors(self) -> Range<usize> {
        self.first as usize..self.first as usize + usize::from(self.count)
    }
}

pub(super) struct Log(File);

impl Log {
    pub(super) fn create(path: &Path) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Self(file.expect("the log can be made"))
    }

    pub(super) fn append(&self, record: Record) {
        (&self.0).write_all(&record.to_bytes()).expect("the log can be written");
    }
}

/// Everything in the log of one life; nothing when it ended before it had one.
pub(super) fn read(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap_or_default();
    assert!(bytes.len().is_multiple_of(Record::BYTES), "a record of the log is torn");
    bytes.chunks_exact(Record::BYTES).map(Record::from_bytes).collect()
}

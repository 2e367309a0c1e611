//! Bytes that came from the client and were not taken yet.

use std::io;

use crate::stream::Stream;

/// Many small requests come in one call; of a large payload at most this much is copied once more.
pub(crate) const INPUT_BYTES: usize = 32 << 10;

pub(crate) struct Input {
    bytes: Vec<u8>,
    start: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(INPUT_BYTES), start: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// The next `bytes` bytes, if they are here; at most [`INPUT_BYTES`].
    pub(crate) fn peek(&self, bytes: usize) -> Option<&[u8]> {
        self.bytes[self.start..].get(..bytes)
    }

    /// At most the next `bytes` bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> &[u8] {
        let start = self.start;
        self.start = self.bytes.len().min(start.saturating_add(bytes));
        &self.bytes[start..self.start]
    }

    /// Puts bytes back that came too early.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        self.bytes.splice(..self.start, bytes.iter().copied());
        self.start = 0;
    }

    /// Fetches what has come; zero is the end of the stream.
    pub(crate) fn receive(&mut self, stream: &mut Stream, waits: bool) -> io::Result<usize> {
        self.bytes.drain(..self.start);
        self.start = 0;
        stream.receive(&mut self.bytes, waits)
    }
}

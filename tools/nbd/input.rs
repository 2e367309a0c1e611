//! Bytes that came from the client and were not taken yet.

use std::io;

use crate::stream::Stream;

/// Many small requests come in one call; of a large payload at most this much is copied once more.
pub(crate) const INPUT_BYTES: usize = 32 << 10;

pub(crate) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; INPUT_BYTES].into(), start: 0, end: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next `bytes` bytes, if they are here; at most [`INPUT_BYTES`].
    pub(crate) fn peek(&self, bytes: usize) -> Option<&[u8]> {
        self.buffer[self.start..self.end].get(..bytes)
    }

    /// At most the next `bytes` bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> &[u8] {
        let start = self.start;
        self.start = self.end.min(start.saturating_add(bytes));
        &self.buffer[start..self.start]
    }

    /// Fetches what has come; zero is the end of the stream.
    pub(crate) fn receive(&mut self, stream: &mut Stream, waits: bool) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let received = stream.receive(&mut self.buffer[self.end..], waits)?;
        self.end += received;
        Ok(received)
    }
}

//! The bytes of a write, in memory that the connection uses again: fresh memory costs a page fault for every page, which
//! for large writes is more than the copy.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

/// What a connection keeps for later at most.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// The smallest buffer, so that small writes of different sizes share them.
const BUFFER_BYTES_MIN: usize = 4 << 10;

/// Buffers that are not in use.
#[derive(Default)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
}

/// The bytes that a client wrote.
pub struct Payload {
    /// At least as long as what is used of it.
    buffer: Box<[u8]>,
    bytes: usize,
    buffers: Option<Arc<Buffers>>,
}

impl Buffers {
    /// A payload of `bytes` bytes, with anything in it. Memory that nobody touched yet is none.
    pub(crate) fn payload(self: &Arc<Self>, bytes: usize) -> Payload {
        let mut free = self.free.lock();
        // A buffer of twice the size would do, but not for a write of a few bytes while it waits for its end.
        let fitting =
            free.iter().rposition(|buffer| (bytes..=2 * bytes.max(BUFFER_BYTES_MIN)).contains(&buffer.len()));
        let buffer = fitting.map(|index| free.swap_remove(index));
        drop(free);
        let buffer = buffer.unwrap_or_else(|| vec![0; bytes.max(BUFFER_BYTES_MIN)].into());
        Payload { buffer, bytes, buffers: Some(self.clone()) }
    }

    fn keep(&self, buffer: Box<[u8]>) {
        let mut free = self.free.lock();
        let kept_bytes: usize = free.iter().map(|buffer| buffer.len()).sum();
        if kept_bytes + buffer.len() <= KEPT_BYTES_MAX {
            free.push(buffer);
        }
    }
}

impl Payload {
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.bytes]
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.len(), buffer: bytes.into(), buffers: None }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.bytes]
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if let Some(buffers) = self.buffers.take() {
            buffers.keep(std::mem::take(&mut self.buffer));
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

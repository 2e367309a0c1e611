//! What a client may take of the server.

use std::time::Duration;

/// Bounds of the server and of each connection: what is beyond them waits, or is closed, and costs nobody else anything.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time, handshakes included; others are closed at once, unless a handshake makes room.
    pub connections_max: usize,
    /// From the first byte to the choice of an export. One that takes a tenth of it makes room for another client where there
    /// is none, the oldest first: silent clients keep nobody out.
    pub handshake_time: Duration,
    /// Requests of a connection whose reply has not gone yet; the next ones wait unread.
    pub requests_max: usize,
    /// The payloads and answers of those together; a single request may be larger.
    pub bytes_max: u64,
    /// A client that takes nothing of a reply for so long is cut off.
    pub write_timeout: Duration,
    /// Bytes that an export lent are copied when a client has not taken them in this time.
    pub lend_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // With `bytes_max` this bounds the memory: 6.4 GiB, when all at once do their worst.
            connections_max: 100,
            handshake_time: Duration::from_secs(10),
            // The depth of a queue of the Linux client.
            requests_max: 128,
            // Two requests of the largest size that clients may use unasked.
            bytes_max: 64 << 20,
            write_timeout: Duration::from_secs(60),
            lend_time: Duration::from_millis(100),
        }
    }
}

//! What a server tells of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::outbox::Traffic;

/// What went over connections.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TrafficStats {
    pub requests: u64,
    /// Requests answered with an error.
    pub failures: u64,
    /// To clients, heads of replies included.
    pub bytes_read: u64,
    /// Payloads of clients.
    pub bytes_written: u64,
}

/// Counts since the server began. `accepted` is who is here, who was, and who was `turned_away`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ServerStats {
    /// Here now, handshakes included.
    pub connections: usize,
    pub accepted: u64,
    /// Closed at once, as there were too many.
    pub turned_away: u64,
    /// Left or lost before they chose an export.
    pub handshakes_failed: u64,
    /// Closed for breaking the protocol.
    pub breaches: u64,
    /// Requests now whose reply has not gone, and the bytes that are held for them.
    pub requests_in_flight: usize,
    pub bytes_in_flight: u64,
    pub traffic: TrafficStats,
}

/// One client.
#[derive(Clone, Debug)]
pub struct ConnectionStats {
    /// In the order of coming; no other connection of this server has it.
    pub id: u64,
    pub peer: String,
    /// None: in the handshake.
    pub export: Option<String>,
    pub has_tls: bool,
    pub connected_for: Duration,
    /// Requests now whose reply has not gone.
    pub requests_in_flight: usize,
    pub traffic: TrafficStats,
}

/// How a shutdown went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Connections that ended with all they had begun answered.
    pub in_order: usize,
    /// Those that had to be cut off.
    pub cut: usize,
    /// Of these, the ones whose requests are still at their export.
    pub stuck: usize,
}

impl Traffic {
    pub(crate) fn stats(&self) -> TrafficStats {
        TrafficStats {
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}

impl TrafficStats {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

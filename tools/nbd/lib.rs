//! A server of network block devices: the whole NBD protocol in front of anything that implements [`Export`].
//!
//! ```text
//!   clients ──> listen.rs ──> door.rs ──> server.rs: a thread for each connection
//!                                │  negotiate.rs: the handshake, which ends in a Session    exports.rs: what there is
//!                                ▼
//!                             transmission.rs: requests ──> session.rs: may it? ──> export.rs: the trait
//!                                                                                      │
//!   clients <── socket.rs, or TLS in stream.rs <── outbox.rs <── reply.rs <── done.rs <┘  on any thread
//! ```
//!
//! An answer that is at hand goes back on the thread of the connection; others go back from the thread that has them, in
//! any order. Nobody but its own thread ever waits for a client.
//!
//! What is absent: an async runtime; resizing exports while clients are connected (no client knows how); the handshake of
//! before 2011; pre-shared keys for TLS.

#![deny(unsafe_code)]

mod done;
mod door;
mod export;
mod exports;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod input;
mod limits;
mod listen;
mod negotiate;
mod outbox;
mod patience;
mod payload;
mod reply;
mod server;
mod session;
mod socket;
mod stats;
mod stream;
mod tls;
mod transmission;
mod wire;

pub use done::Done;
pub use export::{
    BlockSizes, Data, ErrorCode, Export, ExportInfo, Extent, Failure, Features, Parts, Result, StatusQuery,
    Zeroing,
};
pub use exports::Exports;
pub use limits::Limits;
pub use listen::{Listener, remove_abandoned};
pub use payload::Payload;
pub use server::{ListenerId, Server};
pub use socket::Socket;
pub use stats::{ConnectionStats, Drained, ServerStats, TrafficStats};
pub use tls::{Tls, TlsMode};

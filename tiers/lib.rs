//! The places a block can be in: RAM ([`ram`]), a segment log on an SSD ([`ssd`]), a backing store ([`backing`]).
//!
//! A tier is synchronous bookkeeping over a [`device::Device`]. It has no thread, no lock, no clock and no random
//! source of its own: the cache above calls it with real blocks, the simulator calls the very same types with none.
//!
//! Imports point down: `ram`, `ssd` and `backing` never name each other; `backing` stands on `file_device`, that and
//! `ssd` and `mark` on `device`, and all on `error` and `block`. Implementations of `Device` are the exception to the rule above:
//! a call on one blocks, and may wait for a lock.

pub mod backing;
pub mod block;
pub mod device;
pub mod error;
pub mod file_device;
pub mod mark;
pub mod ram;
pub mod ssd;
pub mod testing;

pub use error::{Error, Result};

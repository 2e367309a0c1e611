//! Simulated storage for tests: a device in RAM that errs, stalls and flips bits on request, and a journal of a run
//! from which the state after a power cut is built for every moment of it.
//!
//! ```
//! use std::sync::Arc;
//! use terrace_tiers::device::Device;
//! use terrace_tiers::testing::{Journal, Loss, MemoryDevice};
//! use std::io::IoSlice;
//!
//! # fn main() -> terrace_tiers::Result<()> {
//! let journal = Arc::new(Journal::default());
//! let device = MemoryDevice::new(1 << 20).recorded_in(&journal);
//! device.write(0, &[IoSlice::new(&[7; 4096])])?;       // run once ...
//! device.sync()?;
//! journal.mark(1);                                     // ... saying what was promised when
//!
//! let mut cut = journal.first_cut();                   // every place the power can fail
//! loop {
//!     for loss in Loss::ALL {
//!         let devices = cut.images(loss, 42);          // one for each recorded device
//!         let promised = cut.marks().contains(&1);
//!         # let mut buffer = [0; 1];
//!         # devices[0].read(4095, &mut [std::io::IoSliceMut::new(&mut buffer)])?;
//!         # assert!(!promised || buffer[0] == 7);
//!         // reopen on `devices`; what was promised must hold, and nothing may lie
//!     }
//!     if !cut.advance() {
//!         break;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Same seed, same calls in the same order: same answers.

mod journal;
mod memory;
mod pages;

#[cfg(test)]
mod tests;

pub use journal::{Cut, Journal, Loss};
pub use memory::{Counters, Fault, MemoryDevice, Operation};

/// The grain at which a write tears.
const TEAR_BYTES: u64 = crate::block::SECTOR_BYTES as u64;

/// A small seeded generator (SplitMix64), so that this package needs none.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

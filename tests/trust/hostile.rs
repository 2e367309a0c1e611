//! A device that does what a device may, at its worst: it leaves garbage in the buffers of a read that fails, looks
//! whether the bytes of a write change while it has them, and holds a read of the caller's choice, before it or when it
//! has its bytes already.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use terrace::Device;
use terrace::tiers::testing::MemoryDevice;
use terrace::tiers::{Error, Result};

/// What a failed read leaves.
pub(crate) const POISON: u8 = 0xdb;

pub(crate) struct Hostile {
    pub(crate) inner: Arc<MemoryDevice>,
    /// One of so many reads fails; 0 for none.
    pub(crate) fails_every: AtomicU64,
    reads: AtomicU64,
    /// Writes whose bytes changed while they were under way.
    pub(crate) changed: AtomicU64,
    hold: Mutex<Hold>,
    moved: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    None,
    /// The next read that gets there stops.
    Wanted(At),
    Held,
}

/// Where a read is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Start,
    /// Its bytes are what the device had until then.
    End,
}

impl Hostile {
    pub(crate) fn new(inner: Arc<MemoryDevice>) -> Self {
        Self {
            inner,
            fails_every: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            hold: Mutex::new(Hold::None),
            moved: Condvar::new(),
        }
    }

    /// Holds the next read there, and no other, until [`Self::release`].
    pub(crate) fn hold_next_read(&self, at: At) {
        *self.hold.lock().expect("nobody panics with it") = Hold::Wanted(at);
    }

    pub(crate) fn wait_until_held(&self) {
        let hold = self.hold.lock().expect("nobody panics with it");
        drop(self.moved.wait_while(hold, |hold| *hold != Hold::Held));
    }

    pub(crate) fn release(&self) {
        *self.hold.lock().expect("nobody panics with it") = Hold::None;
        self.moved.notify_all();
    }

    fn stop_if_wanted(&self, at: At) {
        let mut hold = self.hold.lock().expect("nobody panics with it");
        if *hold == Hold::Wanted(at) {
            *hold = Hold::Held;
            self.moved.notify_all();
            drop(self.moved.wait_while(hold, |hold| *hold == Hold::Held));
        }
    }
}

fn digest(buffers: &[IoSlice<'_>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    buffers.iter().for_each(|buffer| hasher.write(buffer));
    hasher.finish()
}

impl Device for Hostile {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.stop_if_wanted(At::Start);
        buffers.iter_mut().for_each(|buffer| buffer.fill(POISON));
        let every = self.fails_every.load(Ordering::Relaxed);
        if every > 0 && self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            let source = io::Error::other("hostile");
            return Err(Error::Device { action: "read", device: self.name(), offset, bytes: 0, source });
        }
        self.inner.read(offset, buffers)?;
        self.stop_if_wanted(At::End);
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let before = digest(buffers);
        for _ in 0..20 {
            std::thread::yield_now();
        }
        self.inner.write(offset, buffers)?;
        self.changed.fetch_add(u64::from(digest(buffers) != before), Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.inner.discard(offset, bytes)
    }
}

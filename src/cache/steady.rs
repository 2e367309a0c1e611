//! A device that panics is one that fails: the panic ends here, as an error of that one call. So no flag that says what is
//! under way stays up for ever, and whoever waits is told.

use std::io::{self, IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use terrace_tiers::device::{Device, Extent, Identity, total_bytes};
use terrace_tiers::{Error, Result};

pub(super) struct Steady(pub(super) Arc<dyn Device>);

impl Steady {
    fn call<T>(
        &self,
        action: &'static str,
        (offset, bytes): (u64, u64),
        call: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        // What a device that panicked has in its memory is its own affair; the buffers of a call that failed are not used.
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
            let source = io::Error::other("the device panicked");
            Err(Error::Device { action, device: "a device".into(), offset, bytes, source })
        })
    }
}

impl Device for Steady {
    fn name(&self) -> String {
        self.0.name()
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let bytes = total_bytes(buffers);
        self.call("read", (offset, bytes), || self.0.read(offset, buffers))
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        self.call("write", (offset, total_bytes(buffers)), || self.0.write(offset, buffers))
    }

    fn sync(&self) -> Result<()> {
        self.call("sync", (0, self.0.len_bytes()), || self.0.sync())
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.call("discard", (offset, bytes), || self.0.discard(offset, bytes))
    }

    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        self.call("find holes in", (offset, bytes), || self.0.extents(offset, bytes, count_max))
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        self.call("resize", (0, bytes), || self.0.resize(bytes))
    }

    fn identity(&self) -> Option<Identity> {
        self.0.identity()
    }

    fn alignment(&self) -> usize {
        self.0.alignment()
    }
}

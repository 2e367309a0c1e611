//! The one seam to storage: a linear space of bytes with vectored reads and writes, sync and discard.
//!
//! Everything that Terrace stores goes through [`Device`]: the cache file, the backing store, and in tests a
//! simulated disk that loses, tears and delays. Nothing above can tell which.
//!
//! | method    | what it promises                                                                        |
//! |-----------|-----------------------------------------------------------------------------------------|
//! | `read`    | fills every buffer or fails; bytes past the end of a file that may grow are an error      |
//! | `write`   | all bytes are on their way, in no order with other writes, and *not* durable              |
//! | `sync`    | what was written before the call is durable, or the call fails; a failure is never retried|
//! | `discard` | the range reads as zeros; space may be given back                                         |
//! | `extents` | a hole reads as zeros, and nothing that was written before the call is one                |

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;

use crate::block::PAGE_BYTES;
use crate::error::{Error, Result};

/// A linear space of bytes. Calls may come from many threads at once and block until they are done.
pub trait Device: Send + Sync {
    /// What the device is called in errors and logs.
    fn name(&self) -> String;

    /// The size in bytes.
    fn len_bytes(&self) -> u64;

    /// Fills `buffers`, one after the other, from `offset` on. Short transfers and `EINTR` are the device's to finish.
    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()>;

    /// Writes `buffers`, one after the other, from `offset` on.
    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()>;

    /// Makes every write that returned before this call durable.
    fn sync(&self) -> Result<()>;

    /// Makes `bytes` bytes from `offset` on read as zeros.
    fn discard(&self, offset: u64, bytes: u64) -> Result<()>;

    /// Which parts of `bytes` bytes from `offset` on are holes: pieces in the order of addresses, at least one and at most
    /// `count_max`, which may end before the range does. A device that cannot say has data everywhere.
    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        let _ = count_max;
        check_range(offset, bytes, self.len_bytes())?;
        Ok(vec![Extent { bytes, is_hole: false }])
    }

    /// Makes room for `bytes` bytes, so that no later write to them can find the disk full, and gives back what is
    /// beyond, where the device can. When it fails the size is what it was.
    fn resize(&self, bytes: u64) -> Result<()> {
        check_range(0, bytes, self.len_bytes())
    }

    /// What tells this content from a changed one; none when the device cannot say.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Where a small file about this content may be kept beside it (see [`crate::mark`]); none when there is no such place.
    fn mark_path(&self) -> Option<PathBuf> {
        None
    }

    /// The size in bytes below which an access costs a read-modify-write (or a copy through the page cache):
    /// offsets, lengths and memory aligned to it take the straight way.
    fn alignment(&self) -> usize {
        1
    }
}

impl<T: Device + ?Sized> Device for Arc<T> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        (**self).read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        (**self).write(offset, buffers)
    }

    fn sync(&self) -> Result<()> {
        (**self).sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        (**self).discard(offset, bytes)
    }

    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        (**self).extents(offset, bytes, count_max)
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        (**self).resize(bytes)
    }

    fn identity(&self) -> Option<Identity> {
        (**self).identity()
    }

    fn mark_path(&self) -> Option<PathBuf> {
        (**self).mark_path()
    }

    fn alignment(&self) -> usize {
        (**self).alignment()
    }
}

impl fmt::Debug for dyn Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A piece of a device that is alike throughout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub bytes: u64,
    /// It reads as zeros and nothing is stored for it.
    pub is_hole: bool,
}

/// What a backing store looked like, to tell later whether it changed meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub bytes: u64,
    pub modified_ns: i128,
    pub inode: u64,
    pub device: u64,
}

impl Identity {
    /// No file has this inode, on a device of this number.
    const NUMBERED: u64 = u64::MAX;

    /// Of a content that its owner numbers: another number when it was changed.
    pub fn of_generation(bytes: u64, generation: u64) -> Self {
        let modified_ns = i128::from(generation);
        Self { bytes, modified_ns, inode: Self::NUMBERED, device: Self::NUMBERED }
    }

    /// The number that its owner gave it, if that is what tells it from others.
    pub fn generation(&self) -> Option<u64> {
        let is_numbered = (self.inode, self.device) == (Self::NUMBERED, Self::NUMBERED);
        u64::try_from(self.modified_ns).ok().filter(|_| is_numbered)
    }
}

/// Bytes whose memory starts on a page, so that direct I/O takes them as they are.
///
/// Over-allocated by a page and cut to size, which needs no unsafe code and costs a page.
pub struct PageBuf {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl PageBuf {
    /// `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let memory = vec![0; bytes + PAGE_BYTES - 1];
        // The memory of a `Vec` that never grows stays where it is.
        let start = memory.as_ptr().addr().next_multiple_of(PAGE_BYTES) - memory.as_ptr().addr();
        Self { memory, start, bytes }
    }
}

impl Deref for PageBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.bytes]
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.bytes]
    }
}

/// All bytes of a list of buffers.
pub fn total_bytes(buffers: &[impl Deref<Target = [u8]>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}

/// Whether `bytes` bytes from `offset` on lie below `end`.
///
/// # Errors
/// [`Error::OutOfRange`] when they do not, also when the sum overflows.
pub fn check_range(offset: u64, bytes: u64, end: u64) -> Result<()> {
    match offset.checked_add(bytes) {
        Some(last) if last <= end => Ok(()),
        _ => Err(Error::OutOfRange { offset, bytes, end }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_buffer_starts_on_a_page_and_holds_zeros_of_its_size() {
        for bytes in [0, 1, 511, 4096, 4097, 1 << 20] {
            let mut buffer = PageBuf::zeroed(bytes);
            assert_eq!(buffer.as_ptr().addr() % PAGE_BYTES, 0);
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_generation_is_told_from_a_time_of_change() {
        let numbered = Identity::of_generation(4096, 7);
        assert_eq!((numbered.bytes, numbered.generation()), (4096, Some(7)));
        assert_ne!(numbered, Identity::of_generation(4096, 8));
        assert_ne!(numbered, Identity::of_generation(8192, 7));
        assert_eq!(Identity { inode: 3, device: 4, ..numbered }.generation(), None);
    }

    #[test]
    fn a_range_that_overflows_is_out_of_range() {
        assert!(check_range(0, 10, 10).is_ok());
        assert!(check_range(10, 0, 10).is_ok());
        assert!(check_range(1, 10, 10).is_err());
        assert!(check_range(u64::MAX, 2, u64::MAX).is_err());
    }
}

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

use std::io::{IoSlice, IoSliceMut};

use crate::error::Result;

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

    /// What tells this content from a changed one; none when the device cannot say.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// The size in bytes below which an access costs a read-modify-write (or a copy through the page cache):
    /// offsets, lengths and memory aligned to it take the straight way.
    fn alignment(&self) -> usize {
        1
    }
}

/// What a backing store looked like, to tell later whether it changed meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub bytes: u64,
    pub modified_ns: i128,
    pub inode: u64,
    pub device: u64,
}
pub struct PageBuf; impl PageBuf { pub fn zeroed(_b: usize) -> Self { todo!() } }
impl std::ops::Deref for PageBuf { type Target=[u8]; fn deref(&self)->&[u8]{todo!()} }
impl std::ops::DerefMut for PageBuf { fn deref_mut(&mut self)->&mut [u8]{todo!()} }

//! What is measured in: caches and tiers brought into the state that a benchmark wants.
//!
//! | file     | scene                                                                               |
//! |----------|-------------------------------------------------------------------------------------|
//! | `ram`    | all blocks resident; the policy alone; blocks that are always new                   |
//! | `append` | blocks that leave RAM for a full SSD; the tier alone; a plain file                  |
//! | `read`   | all blocks on the SSD and none in RAM, and the same file read plainly               |
//! | `flush`  | small writes, each flushed to the log; the same bytes written and synced plainly    |
//! | `recover`| a cache file whose summaries are there and whose blocks are holes                   |
//! | `whole`  | three tiers on real files                                                           |
//! | `serve`  | the service and servers of others as processes, with fio as their client           |

pub mod append;
pub mod flush;
pub mod ram;
pub mod read;
pub mod recover;
pub mod serve;
pub mod whole;

use std::io::{IoSlice, IoSliceMut};

use fastrand::Rng;
use terrace::Device;
use terrace_tiers::Result;

use crate::is_trial;

/// The block of every scene, in bytes.
pub const BLOCK_BYTES: usize = 16 << 10;

/// Where a benchmark has its files; they are gone when it ends.
pub fn temporary_folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// The size of the files of `ssd/append`. 2 GiB: from there on segments are as long as they get.
pub fn append_file_bytes() -> u64 {
    if is_trial() { 128 << 20 } else { 2 << 30 }
}

/// The blocks of `ssd/recover`: so many that the index is far larger than the processor's caches, as it is with 1 TB.
pub fn recover_blocks() -> u64 {
    if is_trial() { 1 << 16 } else { 1 << 23 }
}

/// A backing store that takes no time: what is written is gone.
pub struct NoDisk {
    pub len_bytes: u64,
    /// Reads below this offset give bytes that look like content; the others leave the memory as it was.
    pub content_bytes: u64,
}

impl Device for NoDisk {
    fn name(&self) -> String {
        "no disk".into()
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        if offset < self.content_bytes {
            let mut random = Rng::with_seed(offset);
            for buffer in buffers {
                random.fill(buffer);
            }
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _buffers: &[IoSlice<'_>]) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _bytes: u64) -> Result<()> {
        Ok(())
    }
}

//! The floor: one `preadv` or `pwritev` with direct I/O a call, or one `fdatasync`, and nothing around it.
//!
//! It stands beside [`terrace_tiers::file_device`] and not on it, so that what that file might cost shows.

use std::fs::{File, OpenOptions};
use std::io::{Error, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file, open for direct I/O. Every call ends in a panic when it is not done as a whole.
pub struct PlainFile {
    file: File,
}

impl PlainFile {
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        Self { file: file.expect("the temporary folder has direct I/O; TMPDIR names another one") }
    }

    /// One `preadv`.
    pub fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) {
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        // SAFETY: bounds   - `IoSliceMut` is an `iovec` by contract; the count is that of the slice.
        //         no alias - the slices are borrowed mutably.
        //         lifetime - they and the descriptor outlive the call, which keeps none of them.
        let read = unsafe {
            libc::preadv(
                self.file.as_raw_fd(),
                buffers.as_mut_ptr().cast(),
                buffers.len() as i32,
                offset as i64,
            )
        };
        assert_eq!(read, wanted as isize, "preadv at {offset}: {}", Error::last_os_error());
    }

    /// One `fdatasync`.
    pub fn sync(&self) {
        self.file.sync_data().expect("the file can be synced");
    }

    /// One `pwritev`.
    pub fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) {
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        // SAFETY: bounds   - `IoSlice` is an `iovec` by contract; the count is that of the slice.
        //         no alias - the call only reads them.
        //         lifetime - they and the descriptor outlive the call, which keeps none of them.
        let written = unsafe {
            libc::pwritev(self.file.as_raw_fd(), buffers.as_ptr().cast(), buffers.len() as i32, offset as i64)
        };
        assert_eq!(written, wanted as isize, "pwritev at {offset}: {}", Error::last_os_error());
    }
}

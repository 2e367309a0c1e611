//! One file or block device as the backing store.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;

use crate::device::{Device, Extent, Identity};
use crate::error::{Error, Result};
use crate::file_device::{FileDevice, FileOptions};

/// An open backing file; direct I/O where the file system has it.
pub struct FileBacking {
    file: FileDevice,
}

impl FileBacking {
    /// Opens an existing file or block device; its size is the size of the volume.
    ///
    /// # Errors
    /// [`Error::Path`] when it is missing, a directory, or not ours to read and write.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::with_options(&FileOptions::new(path))
    }

    /// Opens an existing file or block device, or makes a sparse file of `bytes` zeros where there is none (or an
    /// empty one). A file with content keeps its size, which the caller finds in [`Device::len_bytes`].
    pub fn create(path: impl Into<PathBuf>, bytes: u64) -> Result<Self> {
        Self::with_options(&FileOptions { create: Some(bytes), ..FileOptions::new(path) })
    }

    pub fn with_options(options: &FileOptions) -> Result<Self> {
        match FileDevice::open(options) {
            Ok(file) => Ok(Self { file }),
            Err(Error::Path { action: "open", path, source }) => {
                Err(Error::Path { action: "open the backing store", path, source: with_remedy(source) })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether aligned calls bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.file.is_direct()
    }
}

/// The same error saying what to do.
fn with_remedy(source: io::Error) -> io::Error {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => "name an existing file, or create one of a given size",
        io::ErrorKind::IsADirectory => "name a file in it, or a block device",
        io::ErrorKind::PermissionDenied => "open it as a user who may read and write it",
        _ => return source,
    };
    io::Error::new(source.kind(), format!("{source}; {remedy}"))
}

impl Device for FileBacking {
    fn name(&self) -> String {
        self.file.name()
    }

    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.file.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        self.file.write(offset, buffers)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.file.discard(offset, bytes)
    }

    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        self.file.extents(offset, bytes, count_max)
    }

    fn identity(&self) -> Option<Identity> {
        self.file.identity()
    }

    /// Beside the file, under its name and `.terrace`; none for a block device.
    fn mark_path(&self) -> Option<PathBuf> {
        let mut path = self.file.path().to_path_buf().into_os_string();
        path.push(".terrace");
        (!self.file.is_block_device()).then(|| path.into())
    }

    fn alignment(&self) -> usize {
        self.file.alignment()
    }
}

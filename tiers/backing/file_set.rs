//! Many files in a row as one address space: what a torrent's pieces, or a volume split into parts, lie in.
//!
//! ```text
//!   set     0 ───────────┬────┬───────────────────┬┬─────────► bytes
//!   files    a.bin       │pad │ b/c.bin           ││ d.bin        (one of no bytes between b/c.bin and d.bin)
//!   blocks  |      |      |      |      |      |      |           cross the borders wherever they are
//! ```
//!
//! - A call is cut at the borders, and its buffers with it, without a copy.
//! - Files are opened when they are needed, through a [`HandlePool`] that many sets share. A file that is not open
//!   costs its path and two numbers.
//! - **Pads** have no file: they read as zeros, and what is written to them is dropped.
//! - With [`FileSetOptions::create`] a file, and the folders above it, are made by the first write to it, sparse and
//!   at its full size; files of no bytes by the first write to any. Their names are durable after the next sync.
//! - A read of an absent file, or past the end of one that is too short, is an error or zeros, as
//!   [`FileSetOptions::absent_reads_zeros`] has it. Blocks cross borders: where some files of a set may stay absent for
//!   good, their neighbours can only be read whole with zeros.
//!
//! What is *not* here: checks of the paths. Who takes them from a stranger keeps them inside a folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::{Device, Identity, check_range, total_bytes};
use crate::error::{Error, Result};
use crate::file_device::{FileDevice, FileOptions};

mod handles;
mod pieces;

#[cfg(test)]
mod tests;

pub use handles::HandlePool;
use handles::{FileKey, Handle};
use pieces::{cut, cut_mut};

/// One file of a set.
#[derive(Clone, Debug)]
pub struct SetFile {
    /// None: a pad.
    pub path: Option<PathBuf>,
    pub bytes: u64,
}

/// How a set treats its files.
#[derive(Clone, Debug)]
pub struct FileSetOptions {
    /// What errors and logs call the set.
    pub name: String,
    /// Files and folders that are missing are made by the first write. Default: they are errors.
    pub create: bool,
    /// What is not there reads as zeros. Default: it is an error.
    pub absent_reads_zeros: bool,
    /// Refuses to write. Default: no.
    pub read_only: bool,
    /// `O_DIRECT` where a call allows it: only in files that start on a page of the set. Default: yes.
    pub direct: bool,
}

impl FileSetOptions {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), create: false, absent_reads_zeros: false, read_only: false, direct: true }
    }
}

/// The files of a list as one device.
pub struct FileSet {
    options: FileSetOptions,
    files: Vec<SetFile>,
    /// Where each file starts, and at last where the set ends.
    starts: Vec<u64>,
    handles: Arc<HandlePool>,
    number: u64,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    /// The files of no bytes are there.
    are_empty_files_made: bool,
    /// Folders with new names in them that no sync has covered.
    unsynced_folders: BTreeSet<PathBuf>,
}

impl FileSet {
    /// A set of `files` in this order; opens none of them.
    ///
    /// # Errors
    /// [`Error::Size`] when the sizes do not add up to a 64-bit number, or there are more than 2^32 files.
    pub fn new(files: Vec<SetFile>, options: FileSetOptions, handles: &Arc<HandlePool>) -> Result<Self> {
        let refused = |what, bytes| Error::Size { what, bytes, remedy: "split the set".into() };
        let mut starts = Vec::with_capacity(files.len() + 1);
        let mut end = 0u64;
        for file in &files {
            starts.push(end);
            end = end.checked_add(file.bytes).ok_or_else(|| refused("a set of files", u64::MAX))?;
        }
        starts.push(end);
        if u32::try_from(files.len()).is_err() {
            return Err(refused("a set of more than 2^32 files", end));
        }
        let (handles, number) = (handles.clone(), handles.new_set());
        Ok(Self { options, files, starts, handles, number, made: Mutex::new(Made::default()) })
    }

    /// The files that a range touches, each with the range in it; none of no bytes.
    fn touched(&self, offset: u64, bytes: u64) -> impl Iterator<Item = (u32, Range<u64>)> + '_ {
        let end = offset + bytes;
        let first = self.starts.partition_point(|&start| start <= offset).saturating_sub(1);
        (first..self.files.len())
            .take_while(move |&index| self.starts[index] < end)
            .map(move |index| {
                let (start, next) = (self.starts[index], self.starts[index + 1]);
                (index as u32, offset.max(start) - start..end.min(next).max(start) - start)
            })
            .filter(|(_, range)| range.start < range.end)
    }

    fn error(&self, action: &'static str, file: u32, range: &Range<u64>, source: io::Error) -> Error {
        let device = match &self.files[file as usize].path {
            Some(path) => path.display().to_string(),
            None => format!("a pad of {}", self.options.name),
        };
        Error::Device { action, device, offset: range.start, bytes: range.end - range.start, source }
    }

    fn handle(&self, file: u32, path: &Path, create: bool) -> Result<Handle<'_, FileDevice>> {
        let key = FileKey { set: self.number, file };
        self.handles.get(key, || {
            if create && !path.exists() {
                self.make_empty_file(path)?;
            }
            FileDevice::open(&FileOptions {
                direct: self.options.direct && self.starts[file as usize].is_multiple_of(FILE_GRAIN),
                read_only: self.options.read_only,
                ..FileOptions::new(path)
            })
        })
    }

    fn read_file(&self, file: u32, range: &Range<u64>, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let Some(path) = &self.files[file as usize].path else {
            return fill_zeros(buffers, 0);
        };
        let handle = match self.handle(file, path, false) {
            Err(Error::Path { source, .. })
                if source.kind() == io::ErrorKind::NotFound && self.options.absent_reads_zeros =>
            {
                return fill_zeros(buffers, 0);
            }
            handle => handle?,
        };
        let there = handle.file().len_bytes().saturating_sub(range.start).min(range.end - range.start);
        if there == range.end - range.start {
            return handle.file().read(range.start, buffers);
        }
        if !self.options.absent_reads_zeros {
            let source =
                io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it should be");
            return Err(self.error("read", file, range, source));
        }
        cut_mut(buffers, &[there], |_, buffers| handle.file().read(range.start, buffers))?;
        fill_zeros(buffers, there)
    }

    /// Runs a change of a file that exists in its full length, and remembers that it is to be synced.
    fn change_file(&self, file: u32, end: u64, change: impl FnOnce(&FileDevice) -> Result<()>) -> Result<()> {
        let SetFile { path, bytes } = &self.files[file as usize];
        let Some(path) = path else { return Ok(()) };
        let handle = self.handle(file, path, self.options.create)?;
        if handle.file().len_bytes() < end {
            if !self.options.create {
                let source =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it should be");
                return Err(self.error("write", file, &(0..end), source));
            }
            handle.file().grow(*bytes)?;
        }
        let result = change(handle.file());
        handle.set_written();
        result
    }

    fn check_write(&self, offset: u64, bytes: u64) -> Result<()> {
        check_range(offset, bytes, self.len_bytes())?;
        if self.options.read_only {
            let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "it was opened for reading only");
            let device = self.options.name.clone();
            return Err(Error::Device { action: "write", device, offset, bytes, source });
        }
        if self.options.create { self.make_empty_files() } else { Ok(()) }
    }

    fn make_empty_files(&self) -> Result<()> {
        if std::mem::replace(&mut self.lock_made().are_empty_files_made, true) {
            return Ok(());
        }
        for path in self.files.iter().filter(|file| file.bytes == 0).filter_map(|file| file.path.as_deref()) {
            if let Err(error) = self.make_empty_file(path) {
                self.lock_made().are_empty_files_made = false;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes a file, if it is not there, and the folders above it, and remembers which folders get a new name.
    fn make_empty_file(&self, path: &Path) -> Result<()> {
        self.make_folders(path)?;
        let made = fs::OpenOptions::new().append(true).create(true).open(path);
        made.map(drop).map_err(|source| Error::Path { action: "make", path: path.to_owned(), source })
    }

    fn make_folders(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let mut changed = vec![parent.to_owned()];
        let mut folder = parent;
        while !folder.as_os_str().is_empty() && !folder.exists() {
            let Some(above) = folder.parent() else { break };
            changed.push(above.to_owned());
            folder = above;
        }
        self.lock_made().unsynced_folders.extend(changed);
        fs::create_dir_all(parent).map_err(|source| Error::Path {
            action: "make the folder",
            path: parent.to_owned(),
            source,
        })
    }

    fn sync_folders(&self) -> Result<()> {
        let folders = std::mem::take(&mut self.lock_made().unsynced_folders);
        for folder in &folders {
            let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            if let Err(source) = File::open(shown).and_then(|folder| folder.sync_all()) {
                // Unlike the pages of a file, names stay to be synced.
                self.lock_made().unsynced_folders.extend(folders.iter().cloned());
                return Err(Error::Path { action: "sync the folder", path: shown.to_owned(), source });
            }
        }
        Ok(())
    }

    fn lock_made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that starts elsewhere in the set has no page in common with the blocks above: all its calls are misaligned.
const FILE_GRAIN: u64 = crate::block::PAGE_BYTES as u64;

/// Fills the buffers from byte `from` on; that much always works.
fn fill_zeros(buffers: &mut [IoSliceMut<'_>], from: u64) -> Result<()> {
    let mut skip = from;
    for buffer in buffers {
        let start = skip.min(buffer.len() as u64);
        buffer[start as usize..].fill(0);
        skip -= start;
    }
    Ok(())
}

impl Device for FileSet {
    fn name(&self) -> String {
        self.options.name.clone()
    }

    fn len_bytes(&self) -> u64 {
        self.starts[self.files.len()]
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let bytes = total_bytes(buffers);
        check_range(offset, bytes, self.len_bytes())?;
        let touched: Vec<(u32, Range<u64>)> = self.touched(offset, bytes).collect();
        if let [(file, range)] = &touched[..] {
            return self.read_file(*file, range, buffers);
        }
        let lengths: Vec<u64> = touched.iter().map(|(_, range)| range.end - range.start).collect();
        cut_mut(buffers, &lengths, |part, buffers| self.read_file(touched[part].0, &touched[part].1, buffers))
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let bytes = total_bytes(buffers);
        self.check_write(offset, bytes)?;
        let touched: Vec<(u32, Range<u64>)> = self.touched(offset, bytes).collect();
        if let [(file, range)] = &touched[..] {
            return self.change_file(*file, range.end, |device| device.write(range.start, buffers));
        }
        let lengths: Vec<u64> = touched.iter().map(|(_, range)| range.end - range.start).collect();
        cut(buffers, &lengths, |part, buffers| {
            let (file, range) = &touched[part];
            self.change_file(*file, range.end, |device| device.write(range.start, buffers))
        })
    }

    /// Files first, then the names of new ones: a name without its content is no worse than neither.
    fn sync(&self) -> Result<()> {
        let synced = self.handles.sync(self.number);
        synced.and(self.sync_folders())
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check_write(offset, bytes)?;
        for (file, range) in self.touched(offset, bytes) {
            self.change_file(file, range.end, |device| device.discard(range.start, range.end - range.start))?;
        }
        Ok(())
    }

    /// Of all files together: a checksum over what each one's says, and the time of the latest change. An absent
    /// file counts as such; none when one cannot be looked at.
    fn identity(&self) -> Option<Identity> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        let mut together = Identity { bytes: self.len_bytes(), modified_ns: 0, inode: 0, device: 0 };
        for (file, path) in self.files.iter().filter_map(|file| Some((file, file.path.as_ref()?))) {
            let mut said = [file.bytes, 0, 0, 0, 0, 0];
            match fs::metadata(path) {
                Ok(found) => {
                    let modified_ns =
                        i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
                    said[1..].copy_from_slice(&[
                        1,
                        found.len(),
                        modified_ns as u64,
                        found.ino(),
                        found.dev(),
                    ]);
                    together.modified_ns = together.modified_ns.max(modified_ns);
                    if together.device == 0 {
                        together.device = found.dev();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
            for number in said {
                digest.update(&number.to_le_bytes());
            }
        }
        together.inode = digest.finalize();
        Some(together)
    }

    fn alignment(&self) -> usize {
        FILE_GRAIN as usize
    }
}

impl Drop for FileSet {
    fn drop(&mut self) {
        self.handles.close(self.number);
        // As above: nobody is left to tell.
        let _ = self.sync_folders();
    }
}

//! A file or block device as a [`Device`]: direct I/O where a call allows it, buffered I/O where it does not.
//!
//! Two descriptors of the same file. A call goes **direct** when its offset and length are multiples of a page, its
//! pieces are of the device's sectors and its memory is aligned as the device wants it; else, and everywhere when the
//! file system refuses `O_DIRECT`, it goes through the page cache. Both see each other:
//!
//! - Linux writes dirty pages of a range back before a direct read or write of it, and drops cached pages of the
//!   range after a direct write. So a call sees whatever *returned* before it, whichever way either took.
//! - At the same time, a buffered write could write a whole cached page back, with old bytes around the new ones.
//!   It cannot bring back what a direct write replaced: direct calls take whole pages, so one that shares a page with
//!   a buffered write overlaps that write itself, and overlapping writes at once are not ordered by anyone.
//! - The tail of a file whose size is no multiple of a page is never whole, so it always goes buffered.
//!
//! `sync` is `fdatasync` on the buffered descriptor: it writes the pages of the file back (they belong to the file and
//! not to the descriptor), then makes the disk's own cache durable for both ways, with the file's size and extents as
//! far as reading back needs them.
//!
//! What is *not* here: growth by writing (a call past [`Device::len_bytes`] is refused; see [`FileDevice::grow`]),
//! and threads: every call blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::{PAGE_BYTES, SECTOR_BYTES};
use crate::device::{Device, Extent, Identity, PageBuf, check_range, total_bytes};
use crate::error::{Error, Result};

mod sync_turn;
mod system;
mod transfer;

pub(crate) use sync_turn::SyncTurn;
use transfer::{Reads, Writes, transfer};
#[cfg(test)]
mod tests;

/// How [`FileDevice::open`] opens.
#[derive(Clone, Debug)]
pub struct FileOptions {
    pub path: PathBuf,
    /// Makes a file that is missing or empty so many bytes long, sparse. A file with content is never resized.
    /// Default: a missing file is an error.
    pub create: Option<u64>,
    /// `O_DIRECT` where a call allows it. Default: yes.
    pub direct: bool,
    /// Refuses to write. Default: no.
    pub read_only: bool,
    /// Holds a lock on the file, which any other opening with this option respects; shared with other readers when
    /// it is `read_only`. A block device that is to be written must besides be free: not mounted, and no part of another.
    /// Default: no.
    pub lock: bool,
}

impl FileOptions {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), create: None, direct: true, read_only: false, lock: false }
    }
}

/// An open file or block device.
pub struct FileDevice {
    path: PathBuf,
    buffered: File,
    direct: Option<Direct>,
    is_read_only: bool,
    is_block_device: bool,
    /// This opening made the file; a failed [`Self::allocate`] takes it away again.
    is_new: bool,
    len_bytes: AtomicU64,
    /// Held while the length changes.
    growth: Mutex<()>,
    sync_turn: SyncTurn,
}

/// The descriptor with `O_DIRECT`, and what it asks of a call.
struct Direct {
    file: File,
    /// Of offset and length; at least a page, see the head of this file.
    call_bytes: usize,
    /// Of each piece's length: a sector of the device.
    piece_bytes: usize,
    /// Of each piece's address.
    memory_bytes: usize,
}

impl FileDevice {
    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// [`Error::Path`] when it is missing (and not to be created), is a directory or not ours to open;
    /// [`Error::Locked`] when another opening holds the lock, or the system uses the device.
    pub fn open(options: &FileOptions) -> Result<Self> {
        let path = &options.path;
        let failed = |source| Error::Path { action: "open", path: path.clone(), source };
        let opened = open_buffered(options).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Error::Locked { path: path.clone() },
            _ => failed(error),
        });
        let (mut buffered, is_new) = opened?;
        let metadata = buffered.metadata().map_err(failed)?;
        let is_block_device = metadata.file_type().is_block_device();
        if !metadata.is_file() && !is_block_device {
            return Err(failed(io::Error::other("it is neither a file nor a block device; name one")));
        }
        if options.lock {
            lock(&buffered, path, options.read_only)?;
        }
        let mut len_bytes = metadata.len();
        if is_block_device {
            len_bytes = buffered.seek(SeekFrom::End(0)).map_err(failed)?;
        } else if let (0, Some(bytes)) = (len_bytes, options.create) {
            let made = buffered.set_len(bytes).and_then(|()| sync_parent(path));
            made.map_err(|source| {
                discard_new(is_new, path);
                Error::Path { action: "make a file of the wanted size at", path: path.clone(), source }
            })?;
            len_bytes = bytes;
        }
        Ok(Self {
            direct: if options.direct { open_direct(options, &buffered) } else { None },
            path: path.clone(),
            buffered,
            is_read_only: options.read_only,
            is_block_device,
            is_new,
            len_bytes: AtomicU64::new(len_bytes),
            growth: Mutex::new(()),
            sync_turn: SyncTurn::default(),
        })
    }

    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether aligned calls bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Makes the file at least `bytes` long; the new part reads as zeros and takes no space yet.
    pub fn grow(&self, bytes: u64) -> Result<()> {
        // The lock keeps two that grow at once from cutting each other's part off.
        let _growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.len_bytes() {
            self.buffered.set_len(bytes).map_err(|source| self.error("grow to", 0, bytes, source))?;
            self.len_bytes.store(bytes, Ordering::Release);
        }
        Ok(())
    }

    /// Gives the first `bytes` bytes their place on the disk, growing the file if it is shorter, so that no later
    /// write to them can find the disk full. The length changes last: a crash before leaves it as it was.
    ///
    /// # Errors
    /// [`Error::Size`] when the disk is too full; a file that this opening made is gone again then.
    pub fn allocate(&self, bytes: u64) -> Result<()> {
        let allocated = self.allocate_or_keep(bytes);
        if let Err(Error::Size { .. }) = allocated {
            discard_new(self.is_new, &self.path);
        }
        allocated
    }

    fn allocate_or_keep(&self, bytes: u64) -> Result<()> {
        if self.is_block_device {
            return check_range(0, bytes, self.len_bytes());
        }
        let allocated = self.allocate_blocks(bytes).or_else(|error| match error.raw_os_error() {
            // A file system without the call: the writes will find out.
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
            _ => Err(error),
        });
        allocated.map_err(|source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                let remedy =
                    format!("there is no room for it at {}; free some or ask for less", self.path.display());
                Error::Size { what: "a file", bytes, remedy }
            }
            _ => self.error("allocate", 0, bytes, source),
        })?;
        self.grow(bytes)
    }

    /// Cuts off what is beyond `bytes` bytes.
    fn cut(&self, bytes: u64) -> Result<()> {
        let _growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_block_device && bytes < self.len_bytes() {
            self.len_bytes.store(bytes, Ordering::Release);
            self.buffered.set_len(bytes).map_err(|source| self.error("cut to", 0, bytes, source))?;
        }
        Ok(())
    }

    /// Refuses before it fills the disk in vain, which others would feel.
    fn allocate_blocks(&self, bytes: u64) -> io::Result<()> {
        let taken = self.buffered.metadata()?.blocks() * SECTOR_BYTES as u64;
        if bytes.saturating_sub(taken) > system::free_bytes(&self.buffered)? {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        system::allocate(&self.buffered, bytes)
    }

    fn error(&self, action: &'static str, offset: u64, bytes: u64, source: io::Error) -> Error {
        Error::Device { action, device: self.name(), offset, bytes, source }
    }

    /// Whether `bytes` bytes at `offset` may be written.
    fn check_write(&self, offset: u64, bytes: u64) -> Result<()> {
        if self.is_read_only {
            let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "it was opened for reading only");
            return Err(self.error("write", offset, bytes, source));
        }
        check_range(offset, bytes, self.len_bytes())
    }

    /// The direct descriptor, when a call like this may use it.
    fn direct_for<'a>(&self, offset: u64, pieces: impl Iterator<Item = &'a [u8]>) -> Option<&File> {
        let direct = self.direct.as_ref()?;
        let mut bytes = 0;
        for piece in pieces {
            let is_aligned = piece.len().is_multiple_of(direct.piece_bytes)
                && piece.as_ptr().addr().is_multiple_of(direct.memory_bytes);
            if !is_aligned {
                return None;
            }
            bytes += piece.len() as u64;
        }
        let is_whole =
            offset.is_multiple_of(direct.call_bytes as u64) && bytes.is_multiple_of(direct.call_bytes as u64);
        is_whole.then_some(&direct.file)
    }

    /// The piece that begins at `at`, up to `end`.
    fn extent_at(&self, at: u64, end: u64) -> io::Result<Extent> {
        let data = system::next_data(&self.buffered, at)?.unwrap_or(end).min(end);
        if data > at {
            return Ok(Extent { bytes: data - at, is_hole: true });
        }
        // At least a byte: the data there may have become a hole meanwhile.
        let hole = system::next_hole(&self.buffered, at)?.clamp(at + 1, end);
        Ok(Extent { bytes: hole - at, is_hole: false })
    }

    fn write_zeros(&self, offset: u64, bytes: u64) -> Result<()> {
        const ZEROS_BYTES: usize = 64 << 10;
        let zeros = PageBuf::zeroed(bytes.min(ZEROS_BYTES as u64) as usize);
        let mut at = offset;
        while at < offset + bytes {
            // 16 times the same 64 KiB: calls of 1 MiB without the memory for it.
            let mut pieces = [IoSlice::new(&[]); 16];
            let mut planned = at;
            for piece in &mut pieces {
                let count = (offset + bytes - planned).min(ZEROS_BYTES as u64);
                *piece = IoSlice::new(&zeros[..count as usize]);
                planned += count;
            }
            self.write(at, &pieces)?;
            at = planned;
        }
        Ok(())
    }
}

impl Device for FileDevice {
    fn resize(&self, bytes: u64) -> Result<()> {
        if bytes < self.len_bytes() { self.cut(bytes) } else { self.allocate_or_keep(bytes) }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Acquire)
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let bytes = total_bytes(buffers);
        check_range(offset, bytes, self.len_bytes())?;
        let direct = self.direct_for(offset, buffers.iter().map(|buffer| &buffer[..]));
        transfer(direct, &self.buffered, offset, &mut Reads(buffers))
            .map_err(|source| self.error("read", offset, bytes, source))
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let bytes = total_bytes(buffers);
        self.check_write(offset, bytes)?;
        let direct = self.direct_for(offset, buffers.iter().map(|buffer| &buffer[..]));
        transfer(direct, &self.buffered, offset, &mut Writes(buffers))
            .map_err(|source| self.error("write", offset, bytes, source))
    }

    /// Fails with one that fails meanwhile: see `SyncTurn`.
    fn sync(&self) -> Result<()> {
        let sync =
            || self.buffered.sync_data().map_err(|source| self.error("sync", 0, self.len_bytes(), source));
        self.sync_turn.run(self.sync_turn.failures(), self, sync)
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check_write(offset, bytes)?;
        // A block device zeroes whole sectors only, a file system any byte; the rest is written.
        let grain = if self.is_block_device { self.alignment() as u64 } else { 1 };
        let end = offset + bytes;
        let (first, last) = (offset.next_multiple_of(grain).min(end), end - end % grain);
        if first >= last {
            return self.write_zeros(offset, bytes);
        }
        // On a block device too this call promises zeros, or fails; `BLKDISCARD` promises nothing.
        if let Err(error) = system::punch_hole(&self.buffered, first, last - first) {
            if is_unsupported(&error) {
                return self.write_zeros(offset, bytes);
            }
            return Err(self.error("discard", offset, bytes, error));
        }
        self.write_zeros(offset, first - offset)?;
        self.write_zeros(last, end - last)
    }

    /// As the file system has it; where that cannot say, and on a block device, all is data. What a write has brought to the
    /// page cache, or to the disk directly, is data to the file system when the write returns.
    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        check_range(offset, bytes, self.len_bytes())?;
        let (mut found, mut at, end) = (Vec::new(), offset, offset + bytes);
        while at < end && found.len() < count_max {
            let extent = match self.extent_at(at, end) {
                Err(error) if is_unsupported(&error) => Extent { bytes: end - at, is_hole: false },
                extent => extent.map_err(|source| self.error("find holes in", offset, bytes, source))?,
            };
            at += extent.bytes;
            found.push(extent);
        }
        Ok(found)
    }

    /// None for a block device: neither its size nor the times of its node say whether its content changed.
    fn identity(&self) -> Option<Identity> {
        let metadata = self.buffered.metadata().ok().filter(|_| !self.is_block_device)?;
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Some(Identity { bytes: metadata.len(), modified_ns, inode: metadata.ino(), device: metadata.dev() })
    }

    fn alignment(&self) -> usize {
        self.direct.as_ref().map_or(PAGE_BYTES, |direct| direct.call_bytes)
    }
}

/// Whether the file system or the device does not know the call.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM))
}

/// The file for reading and (unless told not to) writing, and whether it was made.
fn open_buffered(options: &FileOptions) -> io::Result<(File, bool)> {
    let mut open = OpenOptions::new();
    open.read(true).write(!options.read_only);
    let is_block_device =
        || fs::metadata(&options.path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    if options.lock && !options.read_only && is_block_device() {
        // Of a device this is a claim that a mount, or what is built of devices, respects: `open(2)`.
        open.custom_flags(libc::O_EXCL);
    }
    match open.open(&options.path) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && options.create.is_some() && !options.read_only =>
        {
            // `create_new`: when another makes it in between, it is not ours to remove.
            let made = open.clone().create_new(true).open(&options.path);
            match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Ok((open.open(&options.path)?, false))
                }
                made => Ok((made?, true)),
            }
        }
        opened => Ok((opened?, false)),
    }
}

/// A second descriptor with `O_DIRECT`; none when the file system refuses it.
fn open_direct(options: &FileOptions, buffered: &File) -> Option<Direct> {
    let mut open = OpenOptions::new();
    let file =
        open.read(true).write(!options.read_only).custom_flags(libc::O_DIRECT).open(&options.path).ok()?;
    // The path may name another file by now.
    let (wanted, found) = (buffered.metadata().ok()?, file.metadata().ok()?);
    if (wanted.dev(), wanted.ino()) != (found.dev(), found.ino()) {
        return None;
    }
    let (memory_bytes, offset_bytes) = system::direct_alignment(&file).unwrap_or((PAGE_BYTES, PAGE_BYTES));
    Some(Direct {
        file,
        call_bytes: offset_bytes.max(PAGE_BYTES),
        // Older kernels want the pieces of a call as the call itself.
        piece_bytes: offset_bytes.max(memory_bytes).max(SECTOR_BYTES),
        memory_bytes,
    })
}

fn lock(file: &File, path: &Path, is_shared: bool) -> Result<()> {
    match if is_shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => {
            Err(Error::Path { action: "lock", path: path.to_owned(), source })
        }
    }
}

/// Makes the name of a new file durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn discard_new(is_new: bool, path: &Path) {
    if is_new {
        // The error that led here says more than a failure to tidy up.
        let _ = std::fs::remove_file(path);
    }
}

//! Marks beside backing stores: which cache file has blocks that a store lacks, and which cache files are too old.
//!
//! A cache file knows a serial number of each volume, and so does the mark. A file that knows a lower one is older than
//! the mark: something was written below that it never learned of, or it is a copy of long ago. What it has of that volume
//! is not to be believed. A mark also names the holder, the file that may have blocks newer than the store.
//!
//! ```text
//! a volume goes back-ssd:  the cache file learns serial + 1, durably; then the mark is { serial + 1, this file }
//! the SSD fails, is away:  before the first write past it the mark is { serial + 1, .. }, which no cache file knows
//! the log has nothing:     the mark is { serial, nobody }
//! ```
//!
//! Where a mark is kept is a trade-off. A file beside a backing file ([`FileMark`]) goes where its folder goes, and is left
//! behind when the backing file alone is moved: then nobody knows of the SSD. For a block device it must lie elsewhere, at
//! a path of the caller's choice, and does not follow the disk to another machine. A mark on a device of its own
//! ([`DeviceMark`]) can follow it. Extended attributes follow a file best, but many file systems and copies drop them.
//!
//! ```text
//! | magic "TRRCMRK1" | serial: u64 | has holder: u64 | holder: u64 | CRC32C of these 32 bytes: u32 | zeros |
//! ```

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};

use crate::block::PAGE_BYTES;
use crate::device::{Device, PageBuf};
use crate::error::{Error, Result};

const MAGIC: u64 = u64::from_le_bytes(*b"TRRCMRK1");
const MARK_BYTES: usize = 36;

/// What is known of a volume beside its backing store.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Mark {
    /// A cache file that knows a lower one of this volume is not believed.
    pub serial: u64,
    /// The id of the cache file that may have newer blocks than the backing store.
    pub holder: Option<u64>,
}

impl Mark {
    fn to_bytes(self) -> [u8; MARK_BYTES] {
        let words = [MAGIC, self.serial, u64::from(self.holder.is_some()), self.holder.unwrap_or(0)];
        let mut bytes = [0; MARK_BYTES];
        for (word, to) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c(&bytes[..MARK_BYTES - 4]);
        bytes[MARK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..MARK_BYTES)?;
        let (body, crc) = bytes.split_at(MARK_BYTES - 4);
        let word = |index: usize| body[8 * index..][..8].try_into().map(u64::from_le_bytes).ok();
        let is_whole = crc == crc32c(body).to_le_bytes() && word(0)? == MAGIC && word(2)? <= 1;
        let holder = (word(2)? == 1).then_some(word(3)?);
        is_whole.then_some(Self { serial: word(1)?, holder })
    }
}

/// Where the mark of one volume is kept. Calls may come from many threads, one at a time.
pub trait MarkPlace: Send + Sync {
    /// What the place is called in errors.
    fn name(&self) -> String;

    /// The mark; none when there never was one. One that cannot be read or verified is an error: it is not gone.
    fn load(&self) -> Result<Option<Mark>>;

    /// Puts this mark in place of the one before: after a crash there is either of them, and when this returns the new one.
    fn store(&self, mark: Mark) -> Result<()>;
}

fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn damaged(name: &str) -> Error {
    Error::Damaged {
        what: format!(
            "the mark {name}; find out which cache file belongs to the volume, and remove the mark"
        ),
    }
}

/// A mark in a file of its own.
pub struct FileMark {
    path: PathBuf,
}

impl FileMark {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::Path { action, path: self.path.clone(), source }
    }

    /// What is there; never all of a disk that was named by mistake.
    fn read(&self) -> io::Result<Vec<u8>> {
        let file = File::open(&self.path)?;
        if file.metadata()?.len() > PAGE_BYTES as u64 || !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no mark, which is a small file; name another",
            ));
        }
        let mut bytes = Vec::new();
        file.take(PAGE_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl MarkPlace for FileMark {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn load(&self) -> Result<Option<Mark>> {
        match self.read() {
            Ok(bytes) => Mark::from_bytes(&bytes).map(Some).ok_or_else(|| damaged(&self.name())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read the mark")(error)),
        }
    }

    fn store(&self, mark: Mark) -> Result<()> {
        self.replace(&mark.to_bytes()).map_err(self.failed("write the mark"))
    }
}

/// A mark in the first two pages of a device of its own, which begins with zeros: in both the same, written one after the
/// other, so that one is whole after a crash.
pub struct DeviceMark {
    device: Arc<dyn Device>,
}

impl DeviceMark {
    /// Bytes that it takes.
    pub const BYTES: u64 = 2 * PAGE_BYTES as u64;

    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device }
    }
}

impl MarkPlace for DeviceMark {
    fn name(&self) -> String {
        self.device.name()
    }

    fn load(&self) -> Result<Option<Mark>> {
        let mut pages = PageBuf::zeroed(2 * PAGE_BYTES);
        self.device.read(0, &mut [IoSliceMut::new(&mut pages)])?;
        let (first, second) = pages.split_at(PAGE_BYTES);
        match Mark::from_bytes(first).or_else(|| Mark::from_bytes(second)) {
            Some(mark) => Ok(Some(mark)),
            // The first one ever was cut short: nobody was told that it was there.
            None if second.iter().all(|&byte| byte == 0) => Ok(None),
            None => Err(damaged(&self.name())),
        }
    }

    fn store(&self, mark: Mark) -> Result<()> {
        let mut page = PageBuf::zeroed(PAGE_BYTES);
        page[..MARK_BYTES].copy_from_slice(&mark.to_bytes());
        for at in [0, PAGE_BYTES as u64] {
            self.device.write(at, &[IoSlice::new(&page)])?;
            self.device.sync()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Journal, Loss, MemoryDevice};

    #[test]
    fn a_mark_has_the_bytes_it_always_had_and_no_others_pass() {
        let mark = Mark { serial: 5, holder: Some(0xabc) };
        let bytes = mark.to_bytes();
        assert_eq!(&bytes[..17], b"TRRCMRK1\x05\0\0\0\0\0\0\0\x01");
        assert_eq!(bytes[24..26], [0xbc, 0x0a]);
        assert_eq!(Mark::from_bytes(&bytes), Some(mark));
        for at in 0..MARK_BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Mark::from_bytes(&changed), None, "byte {at}");
        }
        assert_eq!(Mark::from_bytes(&bytes[1..]), None);
    }

    #[test]
    fn a_mark_in_a_file_is_there_again_and_one_that_is_damaged_is_not_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let place = FileMark::new(folder.path().join("disk.mark"));
        assert_eq!(place.load().expect("no file is no error"), None);
        for serial in 1..4 {
            let mark = Mark { serial, holder: (serial < 3).then_some(7) };
            place.store(mark).expect("it can be written");
            assert_eq!(place.load().expect("it can be read"), Some(mark));
        }
        std::fs::write(folder.path().join("disk.mark"), b"rubbish").expect("it can be written");
        assert!(matches!(place.load(), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_disk_that_is_named_for_a_mark_is_neither_read_whole_nor_said_to_be_in_the_way() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("disk.img");
        File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file can be made");
        for path in [&path, Path::new("/dev/zero")] {
            let error = FileMark::new(path).load().expect_err("it is no mark");
            assert!(
                matches!(&error, Error::Path { source, .. } if source.to_string().contains("no mark")),
                "{error}"
            );
        }
    }

    #[test]
    fn wherever_the_power_fails_a_device_has_the_mark_that_was_stored_or_the_one_before() {
        let journal = Arc::new(Journal::default());
        let device = Arc::new(MemoryDevice::new(DeviceMark::BYTES).recorded_in(&journal));
        let place = DeviceMark::new(device);
        for serial in 1..6 {
            place.store(Mark { serial, holder: Some(serial) }).expect("no fault is set");
            journal.mark(serial);
        }
        let mut cut = journal.first_cut();
        loop {
            let stored = cut.marks().last().copied().unwrap_or(0);
            for (loss, seed) in Loss::ALL.into_iter().zip(0..) {
                let image = cut.images(loss, seed).swap_remove(0);
                let found = DeviceMark::new(Arc::new(image)).load().expect("one of them is whole");
                let serial = found.map_or(0, |mark| mark.serial);
                assert!(serial == stored || serial == stored + 1, "{serial} after {stored}, {loss:?}");
            }
            if !cut.advance() {
                return;
            }
        }
    }
}

//! Small writes that are flushed one by one to the log of a `back-ssd` volume, and the same bytes written and synced
//! plainly in a file of the same file system.
//!
//! Both files are written through before. So the cache is told not to do that for its own once more: it would write half a
//! gigabyte to the very file that it syncs, beside the first seconds of the measurement, and the other side nothing.

use std::io::{IoSlice, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use terrace::{BlockSize, Cache, Config, RamSize, SsdConfig, SsdSize, Volume, WriteMode};
use terrace_tiers::block::PAGE_BYTES;
use terrace_tiers::device::PageBuf;
use terrace_tiers::ssd::Geometry;

use super::NoDisk;
use crate::is_trial;
use crate::measure::time_callers;
use crate::plain::PlainFile;
use crate::workload::{Pattern, Workload};

/// Each write; aligned, so that no call of either side has to copy or to read anything.
pub const WRITE_BYTES: usize = PAGE_BYTES;
const DISK_BYTES: u64 = 32 << 30;
const RAM_BYTES: u64 = 64 << 20;

fn file_bytes() -> u64 {
    if is_trial() { 128 << 20 } else { 512 << 20 }
}

/// Where the writes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Places {
    /// All over the volume: nearly every one to a block that is not in RAM and not in the log.
    Apart,
    /// One after the other: many to one block, if that is larger than a write.
    InARow,
}

/// When what was flushed goes on to the backing store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destage {
    /// After each measurement.
    Later,
    /// While it is measured, and while the other side is.
    Beside,
}

pub struct Flushes {
    destage: Destage,
    cache: Cache,
    volume: Volume,
    offsets: Vec<u64>,
    next: AtomicU64,
    plain: PlainFile,
    next_plain: AtomicU64,
    data: PageBuf,
}

impl Flushes {
    /// `folder` gets the cache file and the plain one.
    pub fn new(folder: &Path, block_bytes: usize, places: Places, destage: Destage) -> Self {
        let (ssd, plain) = (folder.join("ssd-flush"), folder.join("plain-flush"));
        let block_size = BlockSize::new(block_bytes as u64).expect("a block size");
        let geometry = Geometry::for_bytes(block_size, file_bytes()).expect("the layout fits");
        // Both are written through: a write to space that was never written costs the file system a commit.
        for (path, bytes) in [(&ssd, geometry.file_bytes()), (&plain, file_bytes())] {
            write_through(path, bytes);
        }
        let mut config = Config::new(RamSize::Blocks((RAM_BYTES / block_bytes as u64).max(64)));
        config.block_size = block_size;
        config.writeback_delay_ms = if destage == Destage::Later { 3_600_000 } else { 1 };
        config.ssd = Some(SsdConfig { prepare: false, ..SsdConfig::new(&ssd, SsdSize::Bytes(file_bytes())) });
        let cache = Cache::open(&config).expect("the cache opens");
        assert!(cache.stats().ssd_direct, "the temporary folder has direct I/O; TMPDIR names another one");
        let disk = NoDisk { len_bytes: DISK_BYTES, content_bytes: 0 };
        let volume = cache.attach("bench", Arc::new(disk), WriteMode::BackSsd).expect("a volume attaches");
        let pages = (DISK_BYTES / WRITE_BYTES as u64) as u32;
        let pattern = if places == Places::Apart { Pattern::Uniform } else { Pattern::Scan };
        let offsets = Workload::new(pattern, pages, 1).offsets(1 << 20, WRITE_BYTES);
        let mut data = PageBuf::zeroed(WRITE_BYTES);
        fastrand::Rng::with_seed(1).fill(&mut data);
        let plain = PlainFile::open(&plain);
        let next = AtomicU64::new(0);
        Self { destage, cache, volume, offsets, next, plain, next_plain: AtomicU64::new(0), data }
    }

    /// One write and its flush.
    pub fn flush(&self) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % self.offsets.len();
        self.volume.write(self.offsets[at], &self.data).expect("a write succeeds");
        self.volume.flush().expect("the log can be written");
    }

    /// One `pwritev` of the same bytes, and `fdatasync`.
    pub fn plain(&self) {
        let at = self.next_plain.fetch_add(WRITE_BYTES as u64, Ordering::Relaxed) % file_bytes();
        self.plain.write(at, &[IoSlice::new(&self.data)]);
        self.plain.sync();
    }

    /// `count` writes and flushes by `callers` threads together, each waiting for its own.
    pub fn time_flushes(&self, callers: usize, count: usize) -> Duration {
        let before = self.cache.stats();
        let took = time_callers(callers, |_| (0..count / callers).for_each(|_| self.flush()));
        let stats = self.cache.stats();
        assert_eq!(stats.disk_read_operations, before.disk_read_operations, "no write needs a fill");
        assert_eq!(stats.ssd_read_operations, before.ssd_read_operations, "nor anything from the SSD");
        if self.destage == Destage::Later {
            self.cache.settle().expect("no disk never fails");
        }
        took
    }

    /// As many by [`Self::plain`].
    pub fn time_plain(&self, callers: usize, count: usize) -> Duration {
        time_callers(callers, |_| (0..count / callers).for_each(|_| self.plain()))
    }

    /// Syncs of the SSD since the cache opened, of whatever needed one.
    pub fn syncs(&self) -> u64 {
        self.cache.stats().ssd_syncs
    }
}

fn write_through(path: &Path, bytes: u64) {
    let mut file = std::fs::File::create(path).expect("a file can be made in the temporary folder");
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        file.write_all(&zeros[..now as usize]).expect("there is room in the temporary folder");
        left -= now;
    }
    file.sync_all().expect("the file can be synced");
}

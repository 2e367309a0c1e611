//! A cache file to be opened: sealed segments with whole summaries, and records of dirty blocks. The clean blocks
//! themselves are holes, since opening reads none of them.
//!
//! Two times matter: until the first answer, which is when the dirty blocks are known, and until everything is warm. The
//! summaries are in the page cache, so that the work of finding copies is measured and not a disk; and the processor's
//! time is counted besides, which a machine that others use as well does not change as much. An opening has a few syncs
//! before the first answer, as many for any file: their time is told apart, and not scaled. A file that was left in order
//! says more than one that was not, so both are measured.

use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use terrace::{BlockId, BlockSize};
use terrace_tiers::block::{Version, VolumeId};
use terrace_tiers::device::{Device, Identity, PageBuf};
use terrace_tiers::file_device::{FileDevice, FileOptions};
use terrace_tiers::ssd::{
    Demote, Geometry, Install, JournalPlan, NewCopy, ReadVerdict, Scanned, Ssd, SsdPolicy,
};

use super::BLOCK_BYTES;
use crate::workload::{Pattern, Workload};

/// The volume's file, as the tier was told.
const IDENTITY: Identity = Identity { bytes: 1 << 40, modified_ns: 1, inode: 1, device: 1 };
/// How much of a file is dirty.
pub const DIRTY_PERCENT: u64 = 1;
/// Threads that read summaries.
const THREADS: usize = 2;
/// Blocks in one record.
const RECORD_BLOCKS: u64 = 64;

/// How a file was left that is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    InOrder,
    /// The process died.
    Open,
}

pub struct CacheFile {
    path: PathBuf,
    geometry: Geometry,
    volume: VolumeId,
    /// Clean blocks that opening finds.
    pub entries: u64,
    /// Blocks newer than the backing store.
    pub dirty: u64,
}

/// What one opening took.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Until a dirty block was read, but for the syncs.
    pub first_answer: Duration,
    /// What that took of a processor, syncs included.
    pub first_busy: Duration,
    /// The syncs before that.
    pub syncs: Duration,
    /// From then on until everything was found, on two threads.
    pub warm: Duration,
    /// What the threads had of the processors for that.
    pub warm_busy: Duration,
}

impl CacheFile {
    /// Made in `folder`, of `blocks` blocks, of which so many in a hundred are dirty.
    pub fn new(folder: &Path, blocks: u64, dirty_percent: u64) -> Self {
        let path = folder.join(format!("recover-{blocks}"));
        let geometry = Geometry::for_blocks(BlockSize::DEFAULT, blocks).expect("the layout fits");
        let options = FileOptions { create: Some(geometry.file_bytes()), ..options(&path) };
        let device = FileDevice::open(&options).expect("the cache file can be made");
        let mut tier = Ssd::create(&device, geometry, SsdPolicy::default()).expect("the tier can be made");
        let volume = tier.attach_volume("bench", Some(IDENTITY)).expect("attaches");
        write_journal(&mut tier, &device);
        let dirty = log(&mut tier, &device, volume, geometry.capacity_blocks() * dirty_percent / 100);
        let entries = fill(&mut tier, &device, volume, dirty);
        Self { path, geometry, volume, entries, dirty }
    }

    /// Opens the file as a cache does, without what a cache puts around the tier, and reads one dirty block. In the end the
    /// file is left like this.
    pub fn open(&self, left: Left) -> Opening {
        let (began, busy_before) = (Instant::now(), busy());
        let device = FileDevice::open(&options(&self.path)).expect("the cache file is there");
        let device = SyncTimer { device, took_ns: AtomicU64::new(0) };
        let tier = Ssd::open_early(&device, self.geometry, SsdPolicy::default()).expect("it opens");
        let tier = Mutex::new(tier);
        self.read_dirty(&tier, &device);
        let (until_answer, first_busy) = (began.elapsed(), busy() - busy_before);
        let syncs = Duration::from_nanos(device.took_ns.load(Ordering::Relaxed));
        let scan = || {
            let before = busy();
            loop {
                let plan = tier.lock().expect("nobody panics").plan_scan();
                let Some(plan) = plan else { return busy() - before };
                install(&tier, plan.run(&device));
            }
        };
        let warm_busy = std::thread::scope(|scope| {
            let threads = [(); THREADS].map(|()| scope.spawn(scan));
            threads.map(|thread| thread.join().expect("a thread that panicked has said why")).iter().sum()
        });
        let warm = began.elapsed() - until_answer;
        let mut tier = tier.into_inner().expect("nobody panics");
        let stats = tier.stats();
        assert_eq!((stats.cached_blocks, stats.dirty_blocks), (self.entries, self.dirty), "all is found");
        if left == Left::InOrder {
            leave_in_order(&mut tier, &device);
        }
        Opening { first_answer: until_answer - syncs, first_busy, syncs, warm, warm_busy }
    }

    fn read_dirty(&self, tier: &Mutex<Ssd>, device: &SyncTimer) {
        if self.dirty == 0 {
            return;
        }
        let read = tier.lock().expect("nobody panics").plan_log_read(BlockId::new(self.volume, 0));
        let read = read.expect("the first block is dirty");
        let mut block = PageBuf::zeroed(BLOCK_BYTES);
        let spoilt = read.run(device, &mut block).expect("the cache file can be read");
        let verdict = tier.lock().expect("nobody panics").finish_log_read(&read, spoilt);
        assert_eq!(verdict, ReadVerdict::Valid);
    }

    /// How many times this file holds what 1 TB of blocks is.
    pub fn times_to_terabyte(&self) -> f64 {
        1e12 / ((self.entries + self.dirty) as f64 * BLOCK_BYTES as f64)
    }

    /// The best of `rounds` openings of the file left like this, in each of the times.
    pub fn best_of(&self, rounds: usize, left: Left) -> Opening {
        self.open(left);
        let openings: Vec<Opening> = (0..rounds).map(|_| self.open(left)).collect();
        let best = |of: fn(&Opening) -> Duration| openings.iter().map(of).min().expect("at least one round");
        Opening {
            first_answer: best(|opening| opening.first_answer),
            first_busy: best(|opening| opening.first_busy),
            syncs: best(|opening| opening.syncs),
            warm: best(|opening| opening.warm),
            warm_busy: best(|opening| opening.warm_busy),
        }
    }

    /// What an opening of the file left like this makes of 1 TB.
    pub fn describe(&self, left: Left, opening: &Opening) -> String {
        let times = self.times_to_terabyte();
        let (warm, busy) = (opening.warm.as_secs_f64(), opening.warm_busy.as_secs_f64() / THREADS as f64);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (answer, answer_busy, syncs) =
            (ms(opening.first_answer), ms(opening.first_busy), ms(opening.syncs));
        format!(
            "ssd/recover, left {left:?}: {:.1} million entries a second on {THREADS} threads, {:.1} s for 1 TB of 16 KiB blocks \
             ({:.1} s of each processor); first answer after {answer:.0} ms and {syncs:.0} ms of syncs with {} of {} \
             blocks dirty, {:.0} ms for 1 TB ({:.0} ms of a processor)",
            self.entries as f64 / warm / 1e6,
            warm * times,
            busy * times,
            self.dirty,
            self.entries + self.dirty,
            answer * times + syncs,
            answer_busy * times,
        )
    }
}

/// Puts what was found into the index.
fn install(tier: &Mutex<Ssd>, mut scanned: Scanned) {
    let mut install: Option<Install> = None;
    loop {
        let mut tier = tier.lock().expect("nobody panics");
        install.take().into_iter().for_each(|done| tier.finish_install(done));
        install = tier.plan_install(&mut scanned);
        drop(tier);
        let Some(install) = &mut install else { return };
        install.run();
    }
}

/// Tells how long its syncs took.
struct SyncTimer {
    device: FileDevice,
    took_ns: AtomicU64,
}

impl Device for SyncTimer {
    fn name(&self) -> String {
        self.device.name()
    }

    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> terrace_tiers::Result<()> {
        self.device.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> terrace_tiers::Result<()> {
        self.device.write(offset, buffers)
    }

    fn sync(&self) -> terrace_tiers::Result<()> {
        let began = Instant::now();
        let synced = self.device.sync();
        self.took_ns.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        synced
    }

    fn discard(&self, offset: u64, bytes: u64) -> terrace_tiers::Result<()> {
        self.device.discard(offset, bytes)
    }
}

fn options(path: &Path) -> FileOptions {
    FileOptions { direct: false, ..FileOptions::new(path) }
}

/// What this thread had of a processor since it began.
fn busy() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    let first = said.split_whitespace().next().expect("it begins with nanoseconds");
    Duration::from_nanos(first.parse().expect("it begins with nanoseconds"))
}

/// Puts `count` blocks into the log, from the first on; how many it took.
fn log(tier: &mut Ssd, device: &FileDevice, volume: VolumeId, count: u64) -> u64 {
    let block = vec![1; BLOCK_BYTES];
    let first_version = tier.first_version().as_u64();
    let copy_of = |number: u64| NewCopy {
        block: BlockId::new(volume, number),
        version: Version::from_u64(first_version + number),
        epoch: 0,
        mask: Box::new([u64::from(u32::MAX)]),
    };
    let mut logged = 0;
    while logged < count {
        let copies: Vec<NewCopy> = (logged..count.min(logged + RECORD_BLOCKS)).map(copy_of).collect();
        let mut plan = tier.plan_record(&copies, 0).expect("the log has room");
        let taken = plan.block_count();
        plan.run(device, &vec![&block[..]; taken]).expect("the cache file can be written");
        tier.finish_record(plan);
        logged += taken as u64;
    }
    if let Some(sync) = tier.plan_log_sync() {
        device.sync().expect("the cache file can be synced");
        tier.finish_log_sync(sync);
    }
    logged
}

/// Plans every block from `first` on and seals every segment, but writes none of the blocks.
fn fill(tier: &mut Ssd, device: &FileDevice, volume: VolumeId, first: u64) -> u64 {
    // The headers of the log's records take room as well.
    let count = tier.geometry().capacity_blocks() - first - first / 8;
    let mut numbers = Workload::new(Pattern::Shuffled, count as u32, 1);
    let first_version = tier.first_version().as_u64();
    for index in 0..count {
        let block = BlockId::new(volume, first + u64::from(numbers.block()));
        let version = Version::from_u64(first_version + first + index);
        let Demote::Append(plan) = tier.plan_demote(block, version, true, 0) else {
            panic!("there is room for {block}");
        };
        let checksum = index as u32;
        if let Some(seal) = tier.finish_append(&[plan], Some(&[checksum])) {
            finish_seal(tier, device, seal);
        }
    }
    for seal in tier.plan_seal_open() {
        finish_seal(tier, device, seal);
    }
    tier.detach_volume(volume, Some(IDENTITY));
    leave_in_order(tier, device);
    count
}

fn leave_in_order(tier: &mut Ssd, device: &dyn Device) {
    let plan = tier.plan_checkpoint(true);
    plan.run(device).expect("the cache file can be written");
    tier.finish_checkpoint(plan, true);
}

fn write_journal(tier: &mut Ssd, device: &FileDevice) {
    if let JournalPlan::Write(write) = tier.plan_journal() {
        write.run(device).expect("the cache file can be written");
        tier.finish_journal(&write, true);
    }
}

fn finish_seal(tier: &mut Ssd, device: &FileDevice, seal: terrace_tiers::ssd::SealPlan) {
    write_journal(tier, device);
    seal.run(device).expect("the cache file can be written");
    tier.finish_seal(seal, true);
}

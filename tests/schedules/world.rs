//! The smallest cache there is, on simulated devices.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shuttle::thread;
use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::{Journal, Loss, MemoryDevice};
use terrace::{BlockSize, Cache, Clock, Config, Device, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

pub(super) const BLOCK: usize = 4096;
pub(super) const RAM_BLOCKS: u64 = 8;
/// Frames beyond those.
pub(super) const SLACK_BLOCKS: u64 = 4;
pub(super) const SSD_BLOCKS: u64 = 16;
/// The last ones are for [`World::drive_out`].
pub(super) const DISK_BLOCKS: u64 = 48;

pub(super) fn block_size() -> BlockSize {
    BlockSize::new(BLOCK as u64).expect("a block size")
}

/// Block `block` as of its value `value`; all start with 1.
pub(super) fn content(block: u64, value: u64) -> Vec<u8> {
    (block << 32 | value).to_le_bytes().repeat(BLOCK / 8)
}

/// The value that these bytes of `block` show.
pub(super) fn value_of(block: u64, bytes: &[u8]) -> u64 {
    let value = u64::from(u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")));
    assert!(bytes == content(block, value), "block {block} is torn, or another's");
    value
}

/// A cache on simulated devices; the smallest there is, so that few steps fill it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) cache: Cache,
    pub(super) volume: Volume,
    pub(super) disk: Arc<MemoryDevice>,
    pub(super) ssd: Arc<MemoryDevice>,
    pub(super) journal: Arc<Journal>,
}

impl World {
    pub(super) fn new(mode: WriteMode) -> Self {
        Self::tuned(mode, |_| ())
    }

    pub(super) fn tuned(mode: WriteMode, tune: impl FnOnce(&mut Config)) -> Self {
        let journal = Arc::new(Journal::default());
        let disk = Arc::new(new_disk().recorded_in(&journal));
        let geometry = Geometry::for_blocks(block_size(), SSD_BLOCKS).expect("a layout");
        let ssd = Arc::new(MemoryDevice::new(geometry.file_bytes()).recorded_in(&journal));
        Self::open(mode, disk, ssd, journal, tune)
    }

    /// Another volume of the same cache, on a disk of its own.
    pub(super) fn beside(&self, mode: WriteMode) -> Self {
        let disk = Arc::new(new_disk().recorded_in(&self.journal));
        let volume = self.cache.attach("beside", disk.clone(), mode).expect("the volume attaches");
        Self { volume, disk, ..self.clone() }
    }

    /// The same devices with another cache, which finds on the SSD what this one leaves there.
    pub(super) fn reopened(self, mode: WriteMode) -> Self {
        self.cache.close().expect("the cache closes");
        let Self { disk, ssd, journal, .. } = self;
        Self::open(mode, disk, ssd, journal, |_| ())
    }

    /// A cache on devices as they are.
    pub(super) fn open(
        mode: WriteMode,
        disk: Arc<MemoryDevice>,
        ssd: Arc<MemoryDevice>,
        journal: Arc<Journal>,
        tune: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
        config.block_size = block_size();
        config.slack_blocks = Some(SLACK_BLOCKS as u32);
        config.shards = Some(1);
        config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        config.writeback_delay_ms = 1;
        config.disk_threads = 2;
        config.ssd_threads = 1;
        config.clock = Clock::Manual(Arc::new(AtomicU64::new(0)));
        tune(&mut config);
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
        Self { cache, volume, disk, ssd, journal }
    }

    pub(super) fn write(&self, block: u64, value: u64) {
        self.volume.write(block * BLOCK as u64, &content(block, value)).expect("a write succeeds");
    }

    pub(super) fn read(&self, block: u64) -> u64 {
        let mut bytes = vec![0; BLOCK];
        self.volume.read(block * BLOCK as u64, &mut bytes).expect("a read succeeds");
        value_of(block, &bytes)
    }

    /// Reads `blocks`, which nobody writes, so that others leave RAM.
    pub(super) fn churn(&self, blocks: std::ops::Range<u64>) {
        blocks.for_each(|block| assert_eq!(self.read(block), 1));
    }

    /// Has every other block leave RAM, whatever the policy thought of it: what is read next comes from the SSD, if that
    /// has a copy, or from the disk.
    pub(super) fn drive_out(&self) {
        for block in DISK_BLOCKS - 2 * RAM_BLOCKS..DISK_BLOCKS {
            self.churn(block..block + 1);
            self.churn(block..block + 1);
        }
    }

    /// Reads `block` again and again: a newer value is never followed by an older one.
    pub(super) fn watch(&self, block: u64, times: u32) {
        let mut newest = 0;
        for _ in 0..times {
            let value = self.read(block);
            assert!(value >= newest, "block {block} went back from {newest} to {value}");
            newest = value;
        }
    }

    pub(super) fn on_disk(&self, block: u64) -> u64 {
        let mut bytes = vec![0; BLOCK];
        let buffers = &mut [std::io::IoSliceMut::new(&mut bytes)];
        self.disk.read(block * BLOCK as u64, buffers).expect("no fault was asked for");
        value_of(block, &bytes)
    }

    pub(super) fn is_zeros(&self, block: u64) -> bool {
        let mut bytes = vec![0; BLOCK];
        self.volume.read(block * BLOCK as u64, &mut bytes).expect("a read succeeds");
        bytes.iter().all(|&byte| byte == 0)
    }

    pub(super) fn discard(&self, block: u64, count: u64) {
        self.volume.discard(block * BLOCK as u64, count * BLOCK as u64).expect("a discard succeeds");
    }

    /// Runs `work` on a thread of its own.
    pub(super) fn spawn(&self, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || work(&world))
    }

    /// Everything comes to rest, the books agree, and `block` is `value` wherever it is looked for.
    pub(super) fn rests_with(self, values: &[(u64, u64)]) {
        for &(block, value) in values {
            assert_eq!(self.read(block), value, "block {block}");
        }
        self.volume.flush().expect("a flush succeeds");
        if self.volume.mode() == WriteMode::BackSsd {
            self.cache.settle().expect("the log is destaged");
        }
        for &(block, value) in values {
            assert_eq!(self.on_disk(block), value, "block {block} on the disk");
        }
        self.drive_out();
        for &(block, value) in values {
            assert_eq!(self.read(block), value, "block {block} after it left RAM");
        }
        self.cache.settle().expect("the cache settles");
        self.cache.assert_quiet();
        self.cache.close().expect("the cache closes");
    }
}

fn new_disk() -> MemoryDevice {
    let disk = MemoryDevice::new(DISK_BLOCKS * BLOCK as u64);
    for block in 0..DISK_BLOCKS {
        let bytes = content(block, 1);
        disk.write(block * BLOCK as u64, &[std::io::IoSlice::new(&bytes)]).expect("no fault was asked for");
    }
    disk
}

pub(super) fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
}

/// What every cut of the power from `mark` on leaves on the disk, when all that was not synced is lost.
pub(super) fn check_durable_from(world: &World, mark: u64, is_right: impl Fn(&World) -> bool) {
    let mut cut = world.journal.first_cut();
    loop {
        if cut.marks().contains(&mark) {
            let disk = Arc::new(cut.images(Loss::All, 0).remove(0));
            assert!(is_right(&World { disk, ..world.clone() }), "flush {mark} was told too early");
        }
        if !cut.advance() {
            return;
        }
    }
}

/// The same of the last moment.
pub(super) fn check_durable_at_the_end(world: &World, is_right: impl Fn(&World) -> bool) {
    let mut cut = world.journal.first_cut();
    while cut.advance() {}
    let disk = Arc::new(cut.images(Loss::All, 0).remove(0));
    assert!(is_right(&World { disk, ..world.clone() }), "the last write is not durable");
}

/// What a cut of the power right after `mark` leaves of the log, when all that was not synced is lost.
pub(super) fn check_logged_at(world: &World, mark: u64, is_right: impl Fn(&World) -> bool) {
    let mut cut = world.journal.first_cut();
    while !cut.marks().contains(&mark) {
        assert!(cut.advance(), "flush {mark} ended");
    }
    let mut images = cut.images(Loss::All, 0).into_iter().map(Arc::new);
    let (disk, ssd) = (images.next().expect("the disk"), images.next().expect("the SSD"));
    let left = World::open(WriteMode::BackSsd, disk, ssd, Arc::default(), |config| {
        config.background = terrace::Background::OnSettle;
    });
    assert!(is_right(&left), "flush {mark} was told too early");
    left.cache.close().expect("the cache closes");
}

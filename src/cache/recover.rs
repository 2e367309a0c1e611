//! Opening and closing: caches and volumes.
//!
//! Everything in the configuration is checked before anything is made on disk. Closing flushes every volume, notes how
//! each looks, and leaves the cache file in order. Copies of a volume that was not left so are never believed again.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use hashbrown::HashMap;
use terrace_tiers::Error as TierError;
use terrace_tiers::block::{BlockId, BlockSize, Version, VolumeId};
use terrace_tiers::device::{Device, Extent, Identity};
use terrace_tiers::file_device::{FileDevice, FileOptions};
use terrace_tiers::ram::frames::Frames;
use terrace_tiers::ssd::{Geometry, Ssd};

use super::dirty::{VolumeParts, VolumeState};
use super::index::Shard;
use super::mark::Judged;
use super::ssd::SsdTier;
use super::steady::Steady;
use super::tap::Tap;
use super::throttle::Throttle;
use super::ticker::Ticker;
use super::{Counters, Inner, Limits, Result, Volumes};
use crate::config::{AttachOptions, Background, Config, RamLayout, Recovery, SsdConfig, SsdSize, WriteMode};
use crate::error::Error;
use crate::pool::{Lane, LaneConfig, Pool};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Event, Mutex, RwLock, thread};

/// Merged requests grow to this at the most, in bytes.
const MERGE_BYTES_MAX: usize = 4 << 20;

impl SsdConfig {
    /// The layout of the cache file.
    pub(crate) fn geometry(&self, block_size: BlockSize) -> Result<Geometry> {
        match self.size {
            SsdSize::AsFound => self.geometry_found(block_size),
            _ => self.geometry_without_file(block_size),
        }
    }

    /// The same, where there is no cache file to look at.
    pub(crate) fn geometry_without_file(&self, block_size: BlockSize) -> Result<Geometry> {
        Ok(match self.size {
            SsdSize::Bytes(bytes) => Geometry::for_bytes(block_size, bytes)?,
            SsdSize::Blocks(blocks) => Geometry::for_blocks(block_size, blocks)?,
            SsdSize::AsFound => {
                let what = "a simulation looks at no cache file; give the size of the SSD in bytes or blocks";
                return Err(Error::Config(what.into()));
            }
        })
    }

    fn geometry_found(&self, block_size: BlockSize) -> Result<Geometry> {
        let found = match &self.device {
            Some(device) => Ssd::geometry_of(&**device)?,
            None => {
                let options = FileOptions { read_only: true, ..FileOptions::new(&self.path) };
                Ssd::geometry_of(&FileDevice::open(&options)?)?
            }
        };
        if found.block_size != block_size {
            return Err(Error::from(TierError::Mismatch {
                field: "block bytes",
                in_file: found.block_size.bytes().to_string(),
                wanted: block_size.bytes().to_string(),
                remedy: "open it with the block size that it was made with",
            }));
        }
        Ok(found)
    }
}

pub(super) fn open(config: &Config) -> Result<Arc<Inner>> {
    let layout = config.ram_layout()?;
    let geometry = config.ssd.as_ref().map(|ssd| ssd.geometry(config.block_size)).transpose()?;
    let frames = map_frames(config, layout)?;
    let (pool, ticker) = (Pool::new(), Arc::new(Ticker::new()));
    let limits = limits(config, layout);
    let ssd_lane = OnceLock::new();
    let ssd = match (&config.ssd, geometry) {
        (Some(ssd), Some(geometry)) => {
            let lane = ssd_lane.get_or_init(|| pool.lane(limits.ssd_lane.clone())).clone();
            Some(SsdParts { ticker: ticker.clone(), lane }.open(ssd, geometry)?)
        }
        _ => None,
    };
    let first_version =
        ssd.as_ref().map_or(Version::first_of_opening(1), |ssd| ssd.with(|tier| tier.first_version()));
    let shards = (0..layout.shards)
        .map(|index| {
            CachePadded::new(Mutex::new(Shard::new(layout.shard_capacity(index), config.block_size)))
        })
        .collect();
    let inner = Arc::new(Inner {
        size: config.block_size,
        frames,
        hasher: super::index::FastHash::default(),
        shards,
        volumes: RwLock::new(Volumes::default()),
        volumes_attached: AtomicU32::new(0),
        ssd: RwLock::new(ssd.map(Arc::new)),
        ssd_lane,
        appends_are_wanted: AtomicBool::new(false),
        throttle: Throttle::new(layout.dirty_low, layout.dirty_high),
        released: Event::default(),
        version: AtomicU64::new(first_version.as_u64()),
        ticker,
        ticker_thread: Mutex::new(None),
        pool,
        tap: Tap::new(),
        records: super::record::Records::default(),
        lanes: Mutex::new(HashMap::default()),
        counters: Counters::default(),
        limits,
        clock: config.clock.clone(),
        closed: AtomicBool::new(false),
        closing: Mutex::new(()),
        prepares: config.ssd.as_ref().is_some_and(|ssd| ssd.prepare),
        resizing: Mutex::new(Config { shards: Some(layout.shards), ssd: None, ..config.clone() }),
    });
    start(&inner, config);
    if let Some(ssd) = &config.ssd
        && let Err(error) = inner.fit_ssd(ssd.size)
    {
        inner.stop();
        return Err(error);
    }
    if let Some(record) = &config.record
        && let Err(error) = inner.start_recording(record)
    {
        inner.stop();
        return Err(error);
    }
    Ok(inner)
}

/// The frames of the RAM tier, and address space for more of them where the system has it.
fn map_frames(config: &Config, layout: RamLayout) -> Result<Frames> {
    let (bytes, count) = (config.block_size.bytes(), layout.frames());
    let frames = Frames::growable(bytes, count, config.frame_count_max(layout));
    // Nobody asked for more: a process with little address space does without.
    let frames =
        if config.ram_bytes_max.is_none() { frames.or_else(|_| Frames::new(bytes, count)) } else { frames };
    Ok(frames?)
}

fn limits(config: &Config, layout: RamLayout) -> Limits {
    Limits {
        run_bytes_max: config.run_bytes_max,
        ordered_destage: config.ordered_destage,
        log_low: config.log_low,
        log_high: config.log_high,
        disk_threads: config.disk_threads,
        ssd_lane: lane_config("ssd", config.ssd_threads, config),
        ssd_threads: config.ssd_threads,
        queue_max: config.queue_max,
        frame_wait: Duration::from_millis(config.frame_wait_ms),
        writeback_delay: Duration::from_millis(config.writeback_delay_ms),
        background: config.background,
        chunk_blocks: AtomicUsize::new(layout.chunk_blocks()),
        demoting_max: AtomicUsize::new(layout.demoting_max()),
    }
}

fn lane_config(name: &str, threads: u32, config: &Config) -> LaneConfig {
    LaneConfig {
        name: name.to_owned(),
        threads,
        queue_max: config.queue_max,
        merge_bytes_max: MERGE_BYTES_MAX,
    }
}

/// What an SSD needs of its cache.
pub(super) struct SsdParts {
    pub(super) ticker: Arc<Ticker>,
    pub(super) lane: Lane,
}

impl SsdParts {
    pub(super) fn open(self, config: &SsdConfig, geometry: Geometry) -> Result<SsdTier> {
        let (device, tier, is_direct) = match &config.device {
            Some(device) => (device.clone(), open_on_device(&**device, config, geometry)?, false),
            None => open_on_file(config, geometry)?,
        };
        Ok(SsdTier::new(tier, device, is_direct, self))
    }
}

fn open_on_device(device: &dyn Device, ssd: &SsdConfig, geometry: Geometry) -> Result<Ssd> {
    let open = if Ssd::is_unmade(device)? { Ssd::create } else { Ssd::open_early };
    Ok(open(device, geometry, ssd.policy.clone())?)
}

fn open_on_file(ssd: &SsdConfig, geometry: Geometry) -> Result<(Arc<dyn Device>, Ssd, bool)> {
    let is_new = std::fs::metadata(&ssd.path).map_or(true, |found| found.is_file() && found.len() == 0);
    let mut options = FileOptions::new(&ssd.path);
    options.direct = ssd.direct;
    options.lock = true;
    // Empty at first: the size comes with `allocate`, so that a file of another size is never taken for a new one.
    options.create = is_new.then_some(0);
    let device = FileDevice::open(&options)?;
    // The power may have failed between the size and the first superblock.
    let is_unmade = device.len_bytes() == geometry.file_bytes() && Ssd::is_unmade(&device)?;
    let opened = if is_new || is_unmade {
        device
            .allocate(geometry.file_bytes())
            .and_then(|()| Ssd::create(&device, geometry, ssd.policy.clone()))
    } else {
        Ssd::open_early(&device, geometry, ssd.policy.clone())
    };
    match opened {
        Ok(tier) => {
            let is_direct = device.is_direct();
            Ok((Arc::new(device), tier, is_direct))
        }
        Err(error) => {
            if is_new {
                // Nothing is left behind; that it could not be removed says less than why it could not be made.
                let _ = std::fs::remove_file(&ssd.path);
            }
            Err(error.into())
        }
    }
}

fn start(inner: &Arc<Inner>, config: &Config) {
    let weak = Arc::downgrade(inner);
    inner.frames.on_free(Box::new(move || {
        if let Some(inner) = weak.upgrade() {
            inner.announce_release();
        }
    }));
    let (weak, ticker) = (Arc::downgrade(inner), inner.ticker.clone());
    let delay = inner.is_continuous().then(|| inner.limits.writeback_delay.max(Duration::from_millis(1)));
    let thread = thread::Builder::new().name("terrace-ticker".into());
    let thread = thread.spawn(move || ticker.run(&weak, delay)).expect("a thread can be started");
    *inner.ticker_thread.lock() = Some(thread);
    let Some(ssd) = inner.ssd() else { return };
    let prepares =
        config.background == Background::Continuous && config.ssd.as_ref().is_some_and(|ssd| ssd.prepare);
    inner.start_scan(&ssd, prepares);
    if config.ssd.as_ref().is_some_and(|ssd| ssd.recovery == Recovery::BeforeServing) {
        ssd.finish_scan();
    }
    if prepares {
        inner.start_preparing(&ssd);
    }
}

impl Inner {
    pub(super) fn attach(
        self: &Arc<Self>,
        name: &str,
        device: Arc<dyn Device>,
        mode: WriteMode,
        options: &AttachOptions,
    ) -> Result<Arc<VolumeState>> {
        self.check_open()?;
        let mut judged = Judged::load(&*device, options)?;
        // Before any lock is taken: this may ask the file system, for each file of a set.
        let found = device.identity();
        // No SSD comes or goes meanwhile.
        let closing = self.closing.lock();
        self.check_open()?;
        let mut volumes = self.volumes.write();
        if volumes.names.contains(name) {
            return Err(Error::AlreadyAttached { name: name.to_owned() });
        }
        let len_bytes = device.len_bytes();
        if self.size.blocks_for(len_bytes) > BlockId::NUMBER_LIMIT {
            return Err(Error::Config(format!(
                "volume {name} has more than 2^40 blocks; make the blocks larger"
            )));
        }
        let lane = self.lane_for(found);
        let numbered = options.generation.map(|number| Identity::of_generation(len_bytes, number));
        let ssd = self.ssd_in_use();
        judged.settle(name, ssd.as_deref(), options.stale_ssd)?;
        let is_exclusive = options.exclusive && judged.has_place();
        let keeps = is_exclusive && judged.has_serial();
        let mark = judged.into_mark(ssd.as_deref(), options.mark.is_some())?;
        let id = match self.ssd() {
            Some(ssd) => {
                ssd.with(|tier| tier.attach_again(name, numbered.or(found), keeps)).map_err(Arc::new)?
            }
            None => VolumeId::new(self.volumes_attached.fetch_add(1, Ordering::Relaxed)),
        };
        // No number is given out twice, also when the SSD goes.
        self.volumes_attached.fetch_max(id.number() + 1, Ordering::Relaxed);
        let padded = Arc::new(Padded { device: Arc::new(Steady(device)), len_bytes, numbered });
        let version = Version::from_u64(self.version.load(Ordering::Relaxed));
        let ssd = self.ssd().filter(|_| self.limits.ordered_destage);
        let first_epoch = ssd.map(|ssd| ssd.with(|tier| tier.last_epoch(id)) + 1);
        volumes.names.insert(name.to_owned());
        let (name, device): (_, Arc<dyn Device>) = (name.to_owned(), padded);
        let parts = VolumeParts { id, name, device, lane, mode, version, first_epoch, mark, is_exclusive };
        let volume = Arc::new(VolumeState::new(parts, self.size));
        volumes.by_id.insert(id, volume.clone());
        drop(volumes);
        self.show_mark(&volume);
        drop(closing);
        let result = self.begin_exclusive(&volume).and_then(|()| self.prepare_mode(&volume));
        if result.is_err() {
            self.leave(&volume);
        }
        result.map(|()| volume)
    }

    /// What the log has of a volume that is attached goes below first in every mode but its own (rule 2); that one needs
    /// a cache file that finds the volume again.
    fn prepare_mode(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        if volume.mode() != WriteMode::BackSsd {
            self.drain_log(volume)?;
            self.release_mark(volume);
            return Ok(());
        }
        self.record_for_log(volume)?;
        self.start_destage(volume);
        Ok(())
    }

    /// Takes a volume with nothing in RAM out again.
    fn leave(&self, volume: &VolumeState) {
        let mut volumes = self.volumes.write();
        volumes.names.remove(&volume.name);
        volumes.by_id.remove(&volume.id);
        if let Some(ssd) = self.ssd() {
            let identity = volume.device.identity();
            ssd.with(|tier| tier.detach_volume(volume.id, identity));
        }
    }

    /// Volumes on one device share its lane: the device is what is slow.
    fn lane_for(&self, identity: Option<Identity>) -> Lane {
        let device = identity.map_or(u64::MAX, |identity| identity.device);
        let new = || {
            let name = format!("disk {device:x}");
            let threads = self.limits.disk_threads;
            let queue_max = self.limits.queue_max;
            self.pool.lane(LaneConfig { name, threads, queue_max, merge_bytes_max: MERGE_BYTES_MAX })
        };
        self.lanes.lock().entry(device).or_insert_with(new).clone()
    }

    pub(super) fn settle(self: &Arc<Self>) -> Result<()> {
        self.check_open()?;
        for volume in self.volumes() {
            self.flush_while_closing(&volume)?;
            self.drain_log(&volume)?;
        }
        // Reads that callbacks and futures wait for.
        let lanes: Vec<Lane> = self.lanes.lock().values().cloned().collect();
        lanes.iter().for_each(Lane::wait_idle);
        self.ssd().iter().for_each(|ssd| self.settle_ssd(ssd));
        Ok(())
    }

    pub(super) fn close(self: &Arc<Self>) -> Result<()> {
        let _closing = self.closing.lock();
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // A resize that runs sees that too, and ends.
        drop(self.resizing.lock());
        self.wait_for_stores();
        // What is written while it closes may need the room that is not given back before.
        self.ssd().iter().for_each(|ssd| ssd.finish_scan());
        let result =
            self.close_volumes().and_then(|()| self.ssd_in_use().map_or(Ok(()), |ssd| self.close_ssd(&ssd)));
        if let Err(error) = result {
            self.closed.store(false, Ordering::SeqCst);
            return Err(error);
        }
        self.volumes().iter().for_each(|volume| self.release_mark(volume));
        self.stop();
        Ok(())
    }

    /// What was let in before the cache was closed, and looks at that under the lock of a shard, has done what it does
    /// there: stores are below after the next flush, and no demotion starts any more.
    pub(super) fn wait_for_stores(&self) {
        for shard in &self.shards {
            drop(shard.lock());
        }
    }

    /// Ends all threads, after what they have under way.
    pub(super) fn stop(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wait_for_stores();
        self.stop_recording();
        self.ticker.stop();
        let thread = self.ticker_thread.lock().take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // A ticker that panicked has said so itself.
            let _ = thread.join();
        }
        self.pool.shutdown();
        // Whoever still waits finds the cache closed.
        self.wake_writers();
    }

    fn close_volumes(self: &Arc<Self>) -> Result<()> {
        let volumes = self.volumes();
        for volume in &volumes {
            self.flush_while_closing(volume)?;
            self.wait_for_destage(volume);
        }
        // Only now: the cache stays open when one of them could not be flushed.
        for volume in volumes {
            if let Some(ssd) = self.ssd() {
                let identity = volume.device.identity();
                ssd.with(|tier| tier.detach_volume(volume.id, identity));
            }
        }
        Ok(())
    }
}

/// A device that reads as zeros past its end, up to the end of the last block.
struct Padded {
    device: Arc<dyn Device>,
    len_bytes: u64,
    /// Its identity, if the caller gave it a number.
    numbered: Option<Identity>,
}

impl Device for Padded {
    fn name(&self) -> String {
        self.device.name()
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> terrace_tiers::Result<()> {
        let wanted: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let there = self.len_bytes.saturating_sub(offset);
        if wanted <= there {
            return self.device.read(offset, buffers);
        }
        let mut left = there;
        let mut inside = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            let split = left.min(buffer.len() as u64);
            left -= split;
            let (read, zero) = buffer.split_at_mut(split as usize);
            zero.fill(0);
            if !read.is_empty() {
                inside.push(IoSliceMut::new(read));
            }
        }
        if inside.is_empty() { Ok(()) } else { self.device.read(offset, &mut inside) }
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> terrace_tiers::Result<()> {
        self.device.write(offset, buffers)
    }

    fn sync(&self) -> terrace_tiers::Result<()> {
        self.device.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> terrace_tiers::Result<()> {
        self.device.discard(offset, bytes)
    }

    fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> terrace_tiers::Result<Vec<Extent>> {
        self.device.extents(offset, bytes, count_max)
    }

    fn identity(&self) -> Option<Identity> {
        self.numbered.or_else(|| self.device.identity())
    }

    fn alignment(&self) -> usize {
        self.device.alignment()
    }
}

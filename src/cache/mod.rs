//! The cache: joins the tiers, and decides what moves between them.
//!
//! A read looks its blocks up in the index of RAM; what is missing is *planned* under the lock of its shard, *run* on
//! the pool (or by the caller, who would only wait), and *finished* under the lock again, which checks that what plan
//! saw still holds. Writes, demotions and write-back go the same three steps.
//!
//! | file        | what it does                                                                  |
//! |-------------|-------------------------------------------------------------------------------|
//! | `index`     | what is in RAM: shards, entries, fills                                        |
//! | `read`      | looks up, plans and finishes fills                                            |
//! | `write`     | puts bytes into RAM, makes writers wait when too much is dirty                |
//! | `dirty`     | what of a volume is not durable below                                         |
//! | `writeback` | writes dirty blocks below                                                     |
//! | `pump`      | what of them next, and at which pace                                          |
//! | `flush`     | syncs and flushes                                                             |
//! | `fence`     | keeps write-back off a range while it is discarded or forgotten               |
//! | `discard`   | zeros from now on, given back below                                           |
//! | `forget`    | drops what is cached of a range                                               |
//! | `place`     | where the blocks of a volume are                                              |
//! | `extents`   | which parts of a volume are holes                                             |
//! | `attach_ssd` | the SSD comes and goes                                                       |
//! | `mode`      | changes how a volume in use writes                                            |
//! | `detach`    | takes one volume out, and leaves its copies on the SSD in order                |
//! | `ticker`    | the thread that looks at what is dirty from time to time, and wakes who waits |
//! | `ssd`       | the SSD: where a block is, what is void                                       |
//! | `demote`    | appends what leaves RAM                                                       |
//! | `reclaim`   | seals what is full, empties what is old                                       |
//! | `journal`   | what recovery must know of the SSD: journal and checkpoint                    |
//! | `log`       | dirty blocks go to the log on the SSD                                         |
//! | `destage`   | and from there below                                                          |
//! | `full_log`  | what becomes of them when nothing makes room in it                            |
//! | `fall_back` | what becomes of them when the SSD fails                                       |
//! | `mark`      | what is known of the SSD beside the backing store                             |
//! | `synced`    | which clean copies outlive a crash                                             |
//! | `tap`       | a sample of what is referenced, for whoever wants to know                      |
//! | `record`    | all that callers ask for, in files                                             |
//! | `recover`   | opens and closes caches and volumes                                           |
//! | `resize`    | another size of RAM while the cache is used                                   |
//! | `resize_ssd` | and of the cache file                                                        |
//! | `scan`      | finds again what a cache file holds, while the cache serves                   |
//! | `volume`    | the three entries over one engine: blocking, callback, future                 |
//! | `quiet`     | what must hold when nothing is under way                                      |
//!
//! Lock order: a shard, then a volume's `Dirty`, or a shard, then the SSD's state. Never two shards, never two
//! volumes, never a shard while one of the others is held. `closing` comes before all, then `resizing`; `attach` takes
//! `volumes`, then `lanes` or the SSD's state; a volume's mark comes before the SSD's state. Under any lock else none is
//! taken but the pool's, and under that of a shard the stock's of the recording. `ssd` is held for as long as it takes to copy what is in it, under any of them.
//!
//! No lock is held over I/O, nor while a caller's callback runs, but `closing`, which is held for a whole close, while
//! the record of a detached volume is written, and while an SSD comes or goes; `resizing`, for a whole change of size; and
//! a volume's mark, while it is stored.

mod answer;
mod attach_ssd;
mod demote;
mod destage;
mod detach;
mod dirty;
mod discard;
mod entry;
mod extents;
mod fall_back;
mod fence;
mod fill;
mod flush;
mod forget;
mod full_log;
mod index;
mod journal;
mod log;
mod mark;
mod mode;
mod place;
mod pump;
mod quiet;
mod read;
mod reclaim;
mod record;
mod recover;
mod resize;
mod resize_ssd;
mod scan;
mod ssd;
mod steady;
mod synced;
mod tap;
mod throttle;
mod ticker;
mod volume;
mod write;
mod writeback;

use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock, Weak};

use crossbeam::utils::CachePadded;
use hashbrown::{HashMap, HashSet};
use terrace_tiers::block::{BlockId, BlockSize, Version, VolumeId};
use terrace_tiers::ram::frames::Frames;

use crate::config::{Background, Clock, Config, RamSize, RecordConfig, SsdConfig, SsdSize};
use crate::error::{Error, Result};
use crate::pool::{Lane, LaneConfig, Pool};
use crate::stats::Stats;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Event, Mutex, MutexGuard, RwLock, thread};

pub use answer::{Answer, BlockRef, Blocks};
pub(crate) use index::DIRECTORY_BYTES_PER_BLOCK;
pub use place::BlockPlace;
pub use record::RecordStatus;
pub use resize::RamResized;
pub use resize_ssd::SsdResized;
pub(crate) use tap::{Reference, ReferenceKind, Tap};
pub use volume::{DiscardFuture, FlushFuture, ReadFuture, Volume, WriteFuture};

use dirty::VolumeState;
use index::{FastHash, Shard};
use write::WriteWaiter;

/// Neighbouring blocks share a shard in groups of 4. Larger groups fill shards less evenly: with 16 the CloudPhysics
/// recording loses 1.6 points in 262,144 blocks.
const SHARD_GROUP_SHIFT: u32 = 2;

/// A tiered block cache. A cheap handle: clones are the same cache. When the last of them and of its [`Volume`]s goes it is
/// closed, and nobody is told what could not be made durable: [`Self::close`] tells.
#[derive(Clone)]
pub struct Cache {
    handle: Arc<Handle>,
}

/// The tap of a cache that it does not keep open.
pub(crate) struct TapHandle {
    inner: Weak<Inner>,
}

impl TapHandle {
    /// Runs `work` on the tap, with the references to all blocks so far; none when the cache is gone.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Tap, u64) -> T) -> Option<T> {
        let inner = self.inner.upgrade()?;
        Some(work(&inner.tap, inner.references()))
    }
}

/// Closes the cache when the last [`Cache`] and [`Volume`] are gone.
struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let inner = self.inner.clone();
        // Whoever wants to know whether everything was written calls `close` and looks at the answer.
        let close = move || {
            if inner.close().is_err() {
                inner.stop();
            }
        };
        if self.inner.pool.is_own_thread() {
            // The handle went with a callback: a thread of the pool would wait for what it has to do itself.
            thread::spawn(close);
        } else {
            close();
        }
    }
}

/// Everything of one cache.
struct Inner {
    size: BlockSize,
    frames: Frames,
    hasher: FastHash,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    volumes: RwLock<Volumes>,
    /// Numbers volumes when there is no cache file to number them.
    volumes_attached: AtomicU32,
    /// None while there is none. What is under way keeps the one it began with. Nothing that RAM has comes here.
    ssd: RwLock<Option<Arc<ssd::SsdTier>>>,
    /// Of whichever SSD there is: once there was one, its threads stay.
    ssd_lane: OnceLock<Lane>,
    /// Appends to the SSD may be wanted that nobody started yet.
    appends_are_wanted: AtomicBool,
    throttle: throttle::Throttle,
    /// A block may leave RAM that could not, or a frame became free.
    released: Event,
    /// The last version that was given out.
    version: AtomicU64,
    ticker: Arc<ticker::Ticker>,
    ticker_thread: Mutex<Option<JoinHandle<()>>>,
    pool: Pool,
    tap: Tap,
    records: record::Records,
    /// One lane for each backing device, by its device number.
    lanes: Mutex<HashMap<u64, Lane, FastHash>>,
    counters: Counters,
    limits: Limits,
    clock: Clock,
    closed: AtomicBool,
    closing: Mutex<()>,
    /// What the cache is made of now; held while that changes.
    resizing: Mutex<Config>,
    /// The cache file is written through ahead.
    prepares: bool,
}

/// The volumes that are attached; there may be hundreds of thousands.
#[derive(Default)]
struct Volumes {
    by_id: HashMap<VolumeId, Arc<VolumeState>, FastHash>,
    names: HashSet<String, FastHash>,
}

/// What [`Config`] says and calls look at.
struct Limits {
    run_bytes_max: usize,
    ordered_destage: bool,
    log_low: f64,
    log_high: f64,
    disk_threads: u32,
    ssd_lane: LaneConfig,
    ssd_threads: u32,
    queue_max: usize,
    frame_wait: std::time::Duration,
    writeback_delay: std::time::Duration,
    background: Background,
    /// Blocks that one blocking read takes at a time.
    chunk_blocks: AtomicUsize,
    /// Frames that may be on their way to the SSD at once: fewer than the slack, so that a read finds one whatever the SSD
    /// does.
    demoting_max: AtomicUsize,
}

/// Counts that belong to no shard.
#[derive(Default)]
struct Counters {
    demotions_dropped: AtomicU64,
    disk_syncs: AtomicU64,
}

impl Cache {
    /// Opens a cache as `config` says; starts its threads.
    ///
    /// # Errors
    /// [`Error::Config`] for what cannot work, [`Error::Tier`] when the cache file cannot be opened or made, or belongs
    /// to another cache, format or process. Nothing is left behind then.
    pub fn open(config: &Config) -> Result<Self> {
        Ok(Self { handle: Arc::new(Handle { inner: recover::open(config)? }) })
    }

    pub fn block_size(&self) -> BlockSize {
        self.handle.inner.size
    }

    /// Counters since the cache opened, and gauges of now.
    pub fn stats(&self) -> Stats {
        self.handle.inner.stats()
    }

    /// The dirty blocks that the cache file has of the volume `name` go to whatever is attached under that name next,
    /// however it looks: for a backing store that was changed or replaced on purpose, which is refused otherwise. What
    /// the cache file has of it beside these is not believed any more. Nothing when the volume is attached or not known.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn forget_identity(&self, name: &str) -> Result<()> {
        let inner = &self.handle.inner;
        inner.check_open()?;
        if let Some(ssd) = inner.ssd() {
            ssd.with(|tier| tier.forget_identity(name));
        }
        Ok(())
    }

    /// Waits until nothing is under way: every dirty block written and synced, every demotion and reclaim done.
    ///
    /// # Errors
    /// [`Error::StillDirty`] when a block could not be written below.
    pub fn settle(&self) -> Result<()> {
        self.handle.inner.settle()
    }

    /// Makes the RAM tier larger or smaller while it is used, up to [`Config::ram_bytes_max`]. When this returns blocks fit
    /// the new size, and memory that was given up is the system's again. Growing takes no longer than a walk through the
    /// directory. For a smaller size clean blocks leave as they always do, the coldest first; when too many are dirty they
    /// are flushed, and writers wait for that. Readers wait for nothing and keep what they hold: the answer says how many
    /// blocks that still is. The number of shards stays as it is. Not for callbacks to call.
    ///
    /// # Errors
    /// [`Error::Config`] with the remedy for a size that does not work, [`Error::StillDirty`] when dirty blocks would have
    /// to leave and cannot be written: the size is as it was. [`Error::Closed`].
    pub fn resize_ram(&self, ram: RamSize) -> Result<RamResized> {
        self.handle.inner.resize_ram(ram)
    }

    /// Makes the cache file on the SSD larger or smaller while it is used: as many of its segments as fit the size. A
    /// larger file takes its space at once, so that it cannot find the disk full later. For a smaller one the segments
    /// beyond its end are emptied first: dirty blocks go below, what was hit often moves on, the rest goes. Reads and writes
    /// go on meanwhile. A crash at any moment leaves a file of the old or of the new size. Not for callbacks to call.
    ///
    /// A file that is opened with another size than it has is resized so before [`Self::open`] returns, unless it would
    /// become smaller and has dirty blocks: then it keeps its size until this is called, with their volumes attached.
    ///
    /// # Errors
    /// [`Error::Tier`] when the disk is full, or the size is too small, with one that works; [`Error::StillDirty`] when
    /// dirty blocks cannot go below; [`Error::Config`] when they are of volumes that are not attached, or there is no SSD.
    /// The size is as it was then.
    pub fn resize_ssd(&self, size: SsdSize) -> Result<SsdResized> {
        self.handle.inner.resize_ssd(size)
    }

    /// Flushes everything, leaves the cache file in order and ends all threads. A second call does nothing.
    ///
    /// A write of another thread that runs beside this call is either written below or says [`Error::Closed`].
    ///
    /// # Errors
    /// [`Error::StillDirty`] when blocks could not be written below: the cache stays open and keeps them, so that the
    /// caller may mend the cause and close again.
    pub fn close(&self) -> Result<()> {
        self.handle.inner.close()
    }

    /// Records all that callers ask for from now on, until [`Self::stop_recording`] or a close, for less than a hundredth
    /// of the throughput: each call on a volume with its time, offset and length, without the bytes. No call waits for the
    /// files; what they do not take in time is lost and counted, and when they fail the recording ends.
    ///
    /// # Errors
    /// [`Error::Config`] when one is running already, or for sizes that do not work; [`Error::Tier`] when its first file
    /// cannot be made; [`Error::Closed`].
    pub fn start_recording(&self, config: &RecordConfig) -> Result<()> {
        self.handle.inner.start_recording(config)
    }

    /// Ends the recording, and waits until its files are whole, but not for ever: a disk that stands still is left with
    /// what it has. What became of it; none when there never was one.
    pub fn stop_recording(&self) -> Option<RecordStatus> {
        self.handle.inner.stop_recording()
    }

    /// The recording that runs, or the last one; none when there never was one.
    pub fn record_status(&self) -> Option<RecordStatus> {
        self.handle.inner.record_status()
    }

    pub(crate) fn tap(&self) -> TapHandle {
        TapHandle { inner: Arc::downgrade(&self.handle.inner) }
    }

    /// Takes the SSD out while the cache is in use, leaves its file in order, and lets the device go; the cache goes on with
    /// RAM alone. One that was switched off is just let go. Does nothing when there is none. Not for callbacks to call.
    ///
    /// # Errors
    /// [`Error::SsdInUse`] when a volume needs it. Those of the device, when its file could not be left in order: the SSD is
    /// detached all the same, and its clean copies are lost.
    pub fn detach_ssd(&self) -> Result<()> {
        self.handle.inner.detach_ssd()
    }

    /// Puts an SSD in while the cache is in use. It has nothing of the volumes that are attached at first, whatever its file
    /// had of them; those that are attached later find their copies.
    ///
    /// # Errors
    /// [`Error::Config`] when there is one already; [`Error::SsdHasNewer`] when the file has blocks that a backing store
    /// lacks, of an attached volume or under its number; and as [`Self::open`]. The cache goes on without it then.
    pub fn attach_ssd(&self, config: &SsdConfig) -> Result<()> {
        self.handle.inner.attach_ssd(config)
    }

    /// For tests: nothing is under way, so all bookkeeping must agree with itself. Waits for what only has its last
    /// line to run.
    ///
    /// # Panics
    /// When it does not agree, or readers still hold blocks.
    #[doc(hidden)]
    pub fn assert_quiet(&self) {
        self.handle.inner.assert_quiet();
    }

    /// For tests: no call waits for a frame or for a block to leave.
    ///
    /// # Panics
    /// When one does.
    #[doc(hidden)]
    pub fn assert_nobody_waits(&self) {
        self.handle.inner.assert_nobody_waits();
    }
}

impl Inner {
    fn shard(&self, block: BlockId) -> MutexGuard<'_, Shard> {
        let index = shard_index(&self.hasher, block, self.shards.len());
        self.shards[index].lock()
    }

    fn next_version(&self) -> Version {
        Version::from_u64(self.version.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether calls on the volume may start.
    fn check_volume(&self, volume: &VolumeState) -> Result<()> {
        self.check_open()?;
        if volume.is_detached() { Err(volume.detached_error()) } else { Ok(()) }
    }

    /// As [`Self::check_volume`], for those who only want to know whether.
    fn is_out(&self, volume: &VolumeState) -> bool {
        self.is_closed() || volume.is_detached()
    }

    fn check_open(&self) -> Result<()> {
        if self.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Whether work in the background may start by itself.
    fn is_continuous(&self) -> bool {
        self.limits.background == Background::Continuous
    }

    fn volumes(&self) -> Vec<Arc<VolumeState>> {
        self.volumes.read().by_id.values().cloned().collect()
    }

    /// Tells callers that wait for a frame, or for a block that may leave, to look again: from the ticker's thread,
    /// since whoever lets go of a frame may hold any lock.
    fn announce_release(&self) {
        if self.released.change() {
            self.ticker.want_wake();
        }
    }

    /// Blocks that calls touched.
    fn references(&self) -> u64 {
        let of = |shard: &CachePadded<Mutex<Shard>>| {
            let counters = shard.lock().counters;
            counters.read_ram_hits + counters.read_ssd_hits + counters.disk_reads + counters.writes
        };
        self.shards.iter().map(of).sum()
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for shard in &self.shards {
            let counters = shard.lock().counters;
            stats.read_ram_hits += counters.read_ram_hits;
            stats.read_ssd_hits += counters.read_ssd_hits;
            stats.disk_reads += counters.disk_reads;
            stats.fills_joined += counters.fills_joined;
            stats.writes += counters.writes;
            stats.write_ram_hits += counters.write_ram_hits;
        }
        stats.reads = stats.read_ram_hits + stats.read_ssd_hits + stats.disk_reads;
        stats.references = stats.reads + stats.writes;
        stats.ram_hits = stats.read_ram_hits + stats.write_ram_hits;
        stats.demotions_dropped = self.counters.demotions_dropped.load(Ordering::Relaxed);
        stats.disk_syncs = self.counters.disk_syncs.load(Ordering::Relaxed);
        for volume in self.volumes() {
            let dirty = volume.dirty.lock();
            stats.dirty_blocks += dirty.dirty_blocks();
            stats.unsynced_blocks += dirty.unsynced_blocks();
            stats.lost_blocks += dirty.lost_blocks();
            let is_failing = dirty.is_failing();
            drop(dirty);
            stats.failing_volumes += u64::from(is_failing || self.fails_to_destage(&volume));
            stats.lost_blocks += self.bad_in_log(&volume).len() as u64;
        }
        for lane in self.lanes.lock().values() {
            let io = lane.stats();
            stats.disk_read_operations += io.read_operations;
            stats.disk_read_bytes += io.read_bytes;
            stats.disk_write_operations += io.write_operations;
            stats.disk_write_bytes += io.write_bytes;
            stats.disk_queue_depth += lane.depth() as u64;
        }
        if let Some(ssd) = self.ssd() {
            ssd.add_stats(&mut stats);
        }
        stats
    }
}

/// The shard of `block`: by a hash of the id without its lowest bits.
#[inline]
pub(crate) fn shard_index(hasher: &FastHash, block: BlockId, shard_count: usize) -> usize {
    let hash = hasher.hash_one(block.as_u64() >> SHARD_GROUP_SHIFT);
    // Multiply and shift in place of a remainder: any number of shards is as good.
    ((u128::from(hash) * shard_count as u128) >> 64) as usize
}

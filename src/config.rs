//! Everything that is chosen when a cache opens.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terrace_tiers::block::BlockSize;
use terrace_tiers::device::Device;
use terrace_tiers::mark::MarkPlace;
use terrace_tiers::ram::arc_policy::ArcPolicy;
use terrace_tiers::ram::frames::Frames;
use terrace_tiers::ssd::{Geometry, SsdPolicy};

use crate::error::{Error, Result};

/// How much RAM holds blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RamSize {
    /// The whole budget of the RAM tier in bytes: frames, slack and directory together.
    Bytes(u64),
    /// Exactly so many resident blocks; slack and directory come on top.
    Blocks(u64),
}

/// How much the SSD tier holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SsdSize {
    /// The size of the cache file in bytes.
    Bytes(u64),
    /// So many cached blocks; spare segments and summaries come on top.
    Blocks(u64),
    /// As the cache file that is there is laid out; without one nothing is opened.
    AsFound,
}

/// The SSD tier.
#[derive(Clone, Debug)]
pub struct SsdConfig {
    /// The cache file or block device; a file is made when it is missing.
    pub path: PathBuf,
    /// Stands in for the file at `path`; see [`Self::on_device`].
    pub device: Option<Arc<dyn Device>>,
    pub size: SsdSize,
    pub policy: SsdPolicy,
    /// Direct I/O; where the file system refuses it the file is buffered, and the stats say so.
    pub direct: bool,
    /// Write the file through once, in the background: appending to written space is six times as fast as to holes.
    pub prepare: bool,
    pub recovery: Recovery,
}

/// When a cache serves whose file held something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// As soon as it is known which blocks are newer than the backing store. Clean copies are found again beside the
    /// requests, or with [`Background::OnSettle`] in [`crate::Cache::settle`]; until then they are misses.
    BesideServing,
    /// When all that it held is known: for runs that are to be compared.
    BeforeServing,
}

impl SsdConfig {
    /// A file of this size, and the default of everything else.
    pub fn new(path: impl Into<PathBuf>, size: SsdSize) -> Self {
        let policy = SsdPolicy::default();
        let recovery = Recovery::BesideServing;
        Self { path: path.into(), device: None, size, policy, direct: true, prepare: true, recovery }
    }

    /// RAM that the index of the tier takes at the most, on top of [`Config::ram`], with blocks of this size: 20 bytes for
    /// each that fits the file, and when a volume is in mode [`WriteMode::BackSsd`], what the blocks in its log take.
    ///
    /// # Errors
    /// When no cache file can be of this size; for [`SsdSize::AsFound`], which only the file knows.
    pub fn index_bytes_max(&self, block_size: BlockSize) -> Result<u64> {
        let geometry = match self.size {
            SsdSize::Bytes(bytes) => Geometry::for_bytes(block_size, bytes)?,
            SsdSize::Blocks(blocks) => Geometry::for_blocks(block_size, blocks)?,
            SsdSize::AsFound => {
                let what = "the size of the cache file is as found";
                return Err(Error::Config(what.into()));
            }
        };
        Ok(geometry.index_bytes_max())
    }

    /// The tier on a device of the caller's, at least as long as [`terrace_tiers::ssd::Geometry::file_bytes`] says; one
    /// that begins with zeros is a new one. Nobody locks it, and nothing of it is written through ahead.
    pub fn on_device(device: Arc<dyn Device>, size: SsdSize) -> Self {
        Self { device: Some(device), prepare: false, ..Self::new(PathBuf::new(), size) }
    }
}

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteMode {
    /// The backing store has it, and no tier above keeps any of it: for what is not read again soon. A block that was in
    /// RAM or on the SSD is there no longer.
    Around,
    /// The backing store has it; the tiers keep it.
    Through,
    /// RAM has it; the backing store gets it in the background, and durably at the next flush.
    Back,
    /// RAM has it; the log on the SSD gets it in the background, and durably at the next flush. It goes on to the backing
    /// store later, also after a restart. Needs an SSD tier, which then has data that nothing else has.
    ///
    /// All volumes share the log. While it is full of what another volume's backing store does not take, or what an absent
    /// volume left there, a flush waits for its own backing store instead, as in [`WriteMode::Back`]; a crash may then leave
    /// parts of a block that was being written, and not all or nothing of it, as there.
    BackSsd,
}

impl WriteMode {
    /// Whether a write is acknowledged only when the backing store has it.
    pub(crate) fn waits_for_backing(self) -> bool {
        matches!(self, Self::Through | Self::Around)
    }
}

/// What is done with an SSD that is away, or was, while its volume has blocks on it that the backing store lacks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum StaleSsd {
    /// The volume is not attached.
    #[default]
    Refuse,
    /// The blocks that only the SSD has are given up, for good.
    Forget,
    /// What the SSD has is taken for newer than the backing store, though that was written since. For one that was away by
    /// mistake, when what was written meanwhile is worth less.
    Believe,
}

/// What can be chosen when a volume is attached, beside its mode.
#[derive(Clone, Default)]
pub struct AttachOptions {
    /// Where the volume's mark is kept (see `terrace::tiers::mark`); none: beside a backing file, under its name and
    /// `.terrace`, and nowhere for devices that know no such place. Without a mark nobody can tell that an SSD which has
    /// newer blocks of the volume is missing, or too old.
    pub mark: Option<Arc<dyn MarkPlace>>,
    pub stale_ssd: StaleSsd,
    /// Nobody but the cache writes to the backing store: neither beside it, nor while no cache has the volume, nor did since
    /// it was last attached. The clean copies on the SSD then outlive a crash too, those that a sync of the backing store
    /// covered; otherwise a volume that was not left in order comes back cold. Attaching costs a sync of the backing store.
    /// Needs a place for the mark, and changes nothing without one.
    pub exclusive: bool,
    /// The caller's own number for what the backing store holds, in place of its time of change and inode: for one that has
    /// none, such as a block device, or whose time says nothing. A volume that was left in order comes back warm with the
    /// number that it was last attached with, and the size that it had; with any other, or none, as one that was changed.
    /// Whoever changes the store without the cache gives another number next time. Beside [`Self::exclusive`], which says that
    /// nobody does, it has nothing to say.
    pub generation: Option<u64>,
}

/// A recording of all that callers ask for, which `terrace trace`, `tune` and `replay` read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordConfig {
    /// What the files are called, with a number behind: `PATH.1`, `PATH.2` and so on, each a whole recording. Numbers go on
    /// behind those that are there. `terrace trace info PATH` takes all of them as one.
    pub path: PathBuf,
    /// All files of this path together never have more bytes: the oldest go, three quarters are kept. At least 32 MiB.
    pub bytes_max: u64,
    /// RAM for requests on their way to a disk that is slow, 17 bytes for each of those that share a time and 32 for others;
    /// what finds none is lost and counted.
    pub buffer_bytes: usize,
    /// So many requests that come close together, of a shard or of a thread, may have one time: a look at the clock takes half
    /// as long as a hit in RAM. With 1 each has its own, and those of one caller are in order.
    pub stamp_every: u32,
    /// How long a request waits at the most for the block that it is written with, in milliseconds: what a kill loses.
    pub block_ms: u64,
}

impl RecordConfig {
    /// A recording at this path, and the default of everything else.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bytes_max: 1 << 30,
            // Half a million requests or more: five seconds of 100,000 a second.
            buffer_bytes: 16 << 20,
            stamp_every: 16,
            block_ms: 5000,
        }
    }
}

/// The time that the SSD's write budget runs on.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    /// Microseconds, set by the owner; a replay puts the trace's own time here.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Microseconds since some fixed moment.
    pub(crate) fn now_us(&self) -> u64 {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
            }
            Self::Manual(now_us) => now_us.load(Ordering::Relaxed),
        }
    }
}

/// When work in the background (demotion, write-back) is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Background {
    /// As soon as there is some.
    Continuous,
    /// Only in [`crate::Cache::settle`], or when a call cannot go on without it: a run with one caller is then the
    /// same every time, which is what a comparison with the simulator needs. Takes frames for 2048 blocks more than
    /// the RAM tier's budget.
    OnSettle,
}

/// Everything that is chosen when a cache opens; [`Config::new`] fills in the rest, [`crate::Cache::open`] checks it.
#[derive(Clone, Debug)]
pub struct Config {
    pub block_size: BlockSize,
    pub ram: RamSize,
    /// What [`crate::Cache::resize_ram`] can make of it at the most, in bytes; it is address space alone until then. None:
    /// 16 times what it is at first, or nothing more where the system has no address space for that.
    pub ram_bytes_max: Option<u64>,
    /// Frames beyond the resident blocks, for what is under way and what readers hold; none: a sixteenth of the
    /// resident blocks, but at least 32 and at most 1024. At least 4.
    pub slack_blocks: Option<u32>,
    /// Shards of the RAM directory; none: as many as keep 1000 blocks each, at most 16.
    pub shards: Option<u32>,
    pub ssd: Option<SsdConfig>,
    /// Share of the resident blocks that may be dirty or unsynced before writers wait, from 0 to 1.
    pub dirty_high: f64,
    /// Share at which waiting writers go on, and below which write-back takes its time.
    pub dirty_low: f64,
    /// Of volumes in mode [`WriteMode::BackSsd`]: share of the log that may be full before what it has goes on to the backing
    /// store without waiting for [`Self::writeback_delay_ms`]. Till then it gathers, so that more of it are neighbours.
    pub log_low: f64,
    /// Share of the log from which that goes before other work in the background.
    pub log_high: f64,
    /// How long write-back lets a block be overwritten before it starts, in milliseconds.
    pub writeback_delay_ms: u64,
    /// The longest run that one write below takes, in bytes.
    pub run_bytes_max: usize,
    /// Of volumes in mode [`WriteMode::BackSsd`]: what goes on to the backing store goes there epoch by epoch, and an epoch
    /// ends at a flush. Nothing of the next is written there before all of one is synced, so that the backing store alone
    /// is, at any moment, what it was at some flush and a part of what came until the next: for a store that must be of use
    /// when the SSD dies. A block that is written in many epochs is then written below as often, and takes the log's
    /// room as often. Otherwise only its newest version goes below, in the order of addresses. A log that stays full, since
    /// another volume's backing store takes nothing, then holds up the flushes of all: none goes past it.
    pub ordered_destage: bool,
    /// Worker threads for each backing device.
    pub disk_threads: u32,
    /// Worker threads for the SSD: so many of its reads are under way at once, and few SSDs give their most at less.
    pub ssd_threads: u32,
    /// Requests that may queue for one device before callers of the callback entries wait. Futures are bounded by frames alone,
    /// so that no poll ever waits.
    pub queue_max: usize,
    /// How long a blocking call waits for a frame before it says [`Error::WouldBlock`], in milliseconds.
    pub frame_wait_ms: u64,
    pub background: Background,
    pub clock: Clock,
    /// Records all that callers ask for from the start; see [`crate::Cache::start_recording`].
    pub record: Option<RecordConfig>,
}

impl Config {
    /// RAM of this size, no SSD, and the default of everything else.
    pub fn new(ram: RamSize) -> Self {
        Self {
            block_size: BlockSize::DEFAULT,
            ram,
            ram_bytes_max: None,
            slack_blocks: None,
            shards: None,
            ssd: None,
            dirty_high: 0.5,
            dirty_low: 0.25,
            log_low: 0.25,
            log_high: 0.5,
            writeback_delay_ms: 200,
            run_bytes_max: 2 << 20,
            ordered_destage: false,
            disk_threads: 4,
            ssd_threads: 16,
            queue_max: 1024,
            frame_wait_ms: 1000,
            background: Background::Continuous,
            clock: Clock::System,
            record: None,
        }
    }

    /// How many blocks the RAM tier holds.
    ///
    /// # Errors
    /// [`Error::Config`] when its sizes do not work.
    pub fn ram_blocks(&self) -> Result<u64> {
        Ok(self.ram_layout()?.capacity.into())
    }

    /// The sizes of the RAM tier that follow.
    ///
    /// # Errors
    /// [`Error::Config`] with the field and the remedy.
    pub(crate) fn ram_layout(&self) -> Result<RamLayout> {
        let marks = self.dirty_low > 0.0 && self.dirty_low <= self.dirty_high && self.dirty_high <= 0.9;
        if !marks {
            return Err(Error::Config(format!(
                "dirty marks {} and {} do not work; they need 0 < low <= high <= 0.9",
                self.dirty_low, self.dirty_high
            )));
        }
        if !(self.log_low >= 0.0 && self.log_low <= self.log_high && self.log_high <= 0.9) {
            return Err(Error::Config(format!(
                "marks {} and {} of the log do not work; they need 0 <= low <= high <= 0.9",
                self.log_low, self.log_high
            )));
        }
        if self.disk_threads == 0 || self.ssd_threads == 0 || self.queue_max == 0 {
            return Err(Error::Config("threads and queue bound must be at least 1".into()));
        }
        let slack_for =
            |blocks: u64| self.slack_blocks.unwrap_or_else(|| (blocks / 16).clamp(32, 1024) as u32);
        if self.slack_blocks.is_some_and(|slack| slack < SLACK_BLOCKS_MIN) {
            return Err(Error::Config(format!("the slack must be at least {SLACK_BLOCKS_MIN} blocks")));
        }
        let capacity = match self.ram {
            RamSize::Blocks(blocks) => blocks,
            RamSize::Bytes(bytes) => {
                let all = bytes / self.bytes_per_block();
                all.saturating_sub(u64::from(slack_for(all)))
            }
        };
        let slack = slack_for(capacity);
        let bytes_for = |blocks: u64| {
            let fits = |&all: &u64| all >= blocks + u64::from(slack_for(all));
            (blocks..).find(fits).unwrap_or(blocks) * self.bytes_per_block()
        };
        if capacity < SHARD_BLOCKS_MIN {
            let blocks_min = SHARD_BLOCKS_MIN * u64::from(self.shards.unwrap_or(1).max(1));
            return Err(Error::Config(format!(
                "the RAM tier holds {capacity} blocks of {} bytes, it needs {blocks_min}; give it {} bytes or make the \
                 blocks smaller",
                self.block_size.bytes(),
                bytes_for(blocks_min)
            )));
        }
        let capacity = u32::try_from(capacity).ok().filter(|&blocks| blocks <= 1 << 30).ok_or_else(|| {
            Error::Config(format!("{capacity} blocks in RAM are too many; make the blocks larger"))
        })?;
        let shards = self.shards.unwrap_or_else(|| (capacity / 1000).clamp(1, 16));
        let shards_max = capacity / SHARD_BLOCKS_MIN as u32;
        if shards == 0 || shards > shards_max {
            return Err(Error::Config(format!(
                "{shards} shards do not work for {capacity} blocks; use from 1 to {shards_max}, or give them {} bytes",
                bytes_for(u64::from(shards.max(1)) * SHARD_BLOCKS_MIN)
            )));
        }
        let mark = |share: f64| ((f64::from(capacity) * share) as u64).max(1);
        let (dirty_low, dirty_high) = (mark(self.dirty_low), mark(self.dirty_high));
        // Without work in the background, what leaves RAM waits for the end of the request.
        let slack = match self.background {
            Background::Continuous => slack,
            Background::OnSettle => slack + ON_SETTLE_SLACK_BLOCKS,
        };
        Ok(RamLayout { capacity, slack, shards, dirty_low, dirty_high })
    }

    /// Frames that there is to be address space for, of which `layout` has the first.
    pub(crate) fn frame_count_max(&self, layout: RamLayout) -> u32 {
        let count = match self.ram_bytes_max {
            Some(bytes) => bytes / self.bytes_per_block(),
            None => GROWTH * u64::from(layout.frames()),
        };
        u32::try_from(count).unwrap_or(u32::MAX).clamp(layout.frames(), (1 << 31) - 1)
    }

    /// RAM that so many frames take with all that belongs to them.
    pub(crate) fn bytes_of_frames(&self, frames: u32) -> u64 {
        u64::from(frames) * self.bytes_per_block()
    }

    /// RAM that one frame of the tier takes in all, in bytes.
    fn bytes_per_block(&self) -> u64 {
        (self.block_size.bytes() + Frames::OVERHEAD_BYTES + ArcPolicy::BYTES_PER_BLOCK) as u64
            + crate::cache::DIRECTORY_BYTES_PER_BLOCK as u64
    }
}

/// Fewer blocks leave a shard's policy nothing to choose from.
const SHARD_BLOCKS_MIN: u64 = 8;

/// How much larger RAM may become, when nobody says.
const GROWTH: u64 = 16;

/// Frames for what leaves RAM during one request of [`Background::OnSettle`], in blocks.
const ON_SETTLE_SLACK_BLOCKS: u32 = 2048;

/// One for a write's new frame, and the SSD has at most three quarters.
const SLACK_BLOCKS_MIN: u32 = 4;

/// Sizes of the RAM tier, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamLayout {
    /// Resident blocks.
    pub(crate) capacity: u32,
    /// Frames beyond them.
    pub(crate) slack: u32,
    pub(crate) shards: u32,
    /// Blocks that may be dirty or unsynced.
    pub(crate) dirty_low: u64,
    pub(crate) dirty_high: u64,
}

impl RamLayout {
    pub(crate) fn frames(&self) -> u32 {
        self.capacity + self.slack
    }

    /// Blocks that one call takes at a time: it holds their frames, so that many callers share few.
    pub(crate) fn chunk_blocks(&self) -> usize {
        (self.slack as usize / 2).clamp(1, 1024)
    }

    /// Frames that may be on their way to the SSD at once.
    pub(crate) fn demoting_max(&self) -> usize {
        (self.slack as usize * 3 / 4).max(1)
    }

    /// The resident blocks of shard `index`: they differ by one at the most.
    pub(crate) fn shard_capacity(&self, index: u32) -> u32 {
        self.capacity / self.shards + u32::from(index < self.capacity % self.shards)
    }
}

//! L1 alone: a cache in front of no disk, and the policy with frames and without a cache.

use terrace::{BlockId, Cache, Config, RamSize, Volume, VolumeId, WriteMode};
use terrace_tiers::ram::arc_policy::{Access, ArcPolicy};
use terrace_tiers::ram::frames::{FrameRef, Frames};

use super::{BLOCK_BYTES, NoDisk};
use crate::workload::{Pattern, Workload};

/// Blocks that are asked for; 1 GiB of them.
pub const BLOCKS: u32 = 65_536;
/// The exponent of the hits.
pub const EXPONENT: f64 = 0.9;
/// Requests drawn ahead, so that drawing is not measured; walked round and round.
const REQUESTS: usize = 1 << 18;

/// The requests of `ram/hit`, as offsets.
pub fn zipf_offsets() -> Vec<u64> {
    Workload::new(Pattern::Zipf { exponent: EXPONENT }, BLOCKS, 1).offsets(REQUESTS, BLOCK_BYTES)
}

fn open(blocks: u64, volume_blocks: u64, content_bytes: u64, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(&Config::new(RamSize::Blocks(blocks))).expect("a cache in RAM opens");
    let disk = NoDisk { len_bytes: volume_blocks * BLOCK_BYTES as u64, content_bytes };
    let volume = cache.attach("bench", std::sync::Arc::new(disk), mode).expect("a volume attaches");
    (cache, volume)
}

/// A cache with all [`BLOCKS`] resident.
pub fn resident() -> (Cache, Volume) {
    // A quarter more than there are: blocks do not spread evenly over the shards.
    let blocks = u64::from(BLOCKS);
    // With content: a frame that was never written is all one page of zeros, and copied as fast.
    let (cache, volume) = open(blocks * 5 / 4, blocks, blocks * BLOCK_BYTES as u64, WriteMode::Through);
    for block in 0..u64::from(BLOCKS) {
        volume.read_ref(block * BLOCK_BYTES as u64, BLOCK_BYTES).expect("no disk never fails");
    }
    for block in 0..u64::from(BLOCKS) {
        let blocks = volume.read_ref(block * BLOCK_BYTES as u64, BLOCK_BYTES).expect("no disk never fails");
        assert_eq!(blocks.answer().ram_blocks, 1, "block {block} is resident");
    }
    (cache, volume)
}

/// The policy with all [`BLOCKS`] resident, in one shard.
pub fn resident_policy() -> ArcPolicy {
    let mut policy = ArcPolicy::new(BLOCKS);
    for _ in 0..2 {
        for block in 0..u64::from(BLOCKS) {
            let _ = policy.request(block_at(block * BLOCK_BYTES as u64), |_| true);
        }
    }
    policy
}

/// A cache full of blocks, on a volume so large that a scan of it finds none of them.
pub struct Inserts {
    _cache: Cache,
    volume: Volume,
    scan: Workload,
    data: Vec<u8>,
}

impl Inserts {
    pub fn new(blocks: u32, mode: WriteMode) -> Self {
        let volume_blocks = blocks * 16;
        let (cache, volume) = open(blocks.into(), volume_blocks.into(), 0, mode);
        let scan = Workload::new(Pattern::Scan, volume_blocks, 0);
        let mut inserts = Self { _cache: cache, volume, scan, data: vec![7; BLOCK_BYTES] };
        for _ in 0..2 * blocks {
            inserts.read();
        }
        inserts
    }

    fn offset(&mut self) -> u64 {
        u64::from(self.scan.block()) * BLOCK_BYTES as u64
    }

    /// Reads a block that is not there.
    pub fn read(&mut self) {
        let offset = self.offset();
        let blocks = self.volume.read_ref(offset, BLOCK_BYTES).expect("no disk never fails");
        debug_assert_eq!(blocks.answer().disk_blocks, 1, "the block at {offset} is new");
    }

    /// Writes a block that is not there.
    pub fn write(&mut self) {
        let offset = self.offset();
        self.volume.write(offset, &self.data).expect("no disk never fails");
    }
}

/// The policy and the frames without a cache, full.
pub struct Directory {
    policy: ArcPolicy,
    frames: Frames,
    frame_of_slot: Vec<Option<FrameRef>>,
    next: u64,
    data: Vec<u8>,
}

impl Directory {
    pub fn new(blocks: u32) -> Self {
        let policy = ArcPolicy::new(blocks);
        let frames = Frames::new(BLOCK_BYTES, blocks + 1).expect("the frames fit RAM");
        let frame_of_slot = vec![None; policy.slot_limit()];
        let mut directory = Self { policy, frames, frame_of_slot, next: 0, data: vec![7; BLOCK_BYTES] };
        for _ in 0..2 * blocks {
            directory.insert(true);
        }
        directory
    }

    /// Inserts a block that was never there, with bytes copied in or whatever its frame holds.
    pub fn insert(&mut self, copies: bool) {
        let mut frame = self.frames.alloc().expect("one frame more than blocks");
        if copies {
            frame.copy_from_slice(&self.data);
        }
        let access = self.policy.request(block_at(self.next), |_| true);
        self.next += BLOCK_BYTES as u64;
        let Ok(Access::Miss { slot, evicted, .. }) = access else { panic!("{access:?} of a new block") };
        if let Some(evicted) = evicted {
            self.frame_of_slot[evicted.slot.index()] = None;
        }
        self.frame_of_slot[slot.index()] = Some(frame.freeze());
    }
}

/// The block at `offset` of some volume.
pub fn block_at(offset: u64) -> BlockId {
    BlockId::new(VolumeId::new(0), offset / BLOCK_BYTES as u64)
}

//! The cache without data: the same directory and the same SSD bookkeeping over ids, what a size would give.
//!
//! A request does what a call of the cache does, in the same order; what the cache leaves to the background is done
//! before the next request. A cache with one caller that settles after each request therefore counts the same hits, to
//! the block (a test holds the two equal on recorded traces).
//!
//! One RAM tier can be simulated over several SSD tiers at once: RAM does not depend on what is below it, so each of them
//! sees what it would see alone, and the work above is done once.
//!
//! | file        | what it adds                                                                   |
//! |-------------|--------------------------------------------------------------------------------|
//! | `dense`     | ids numbered off once, so that the rest indexes arrays                         |
//! | `lru_curve` | LRU's misses for every size, exactly, in one pass                              |
//! | `arc_curve` | the RAM policy's own misses, exactly, a pass for each size                     |
//!
//! Blocks are whole in RAM, whatever part of them is written; what goes to the log is that part. Written blocks may not leave
//! before their request ends, as in the cache, where they wait for a sync. What went to the log is below by then too: a disk
//! that falls behind, so that the log takes room from clean copies, is nothing that a simulation knows.

mod arc_curve;
mod dense;
mod lru_curve;

use std::ops::Range;

use foldhash::fast::FixedState;
use terrace_tiers::block::{BlockId, BlockSize, Version, mask};
use terrace_tiers::ram::arc_policy::{Access, ArcPolicy, Evicted, List, Side, Slot};
use terrace_tiers::ssd::{Demote, NewCopy, SealPlan, SectorMask, Ssd};

use crate::cache::shard_index;
use crate::config::{Config, SsdConfig, WriteMode};
use crate::error::Result;
use crate::stats::Stats;

pub use crate::sample::Sample;
pub use arc_curve::ArcCurve;
pub use dense::DenseTrace;
pub use lru_curve::{LruCurve, StackDistances};

/// Runs the policies of a cache over ids.
pub struct Simulation {
    shards: Vec<SimulatedShard>,
    /// At least one; without an SSD that one is the disk alone.
    below: Vec<Below>,
    counts: Stats,
    /// Of the request that runs now.
    request: u64,
    /// Blocks written by it that were refused as victims, by shard.
    set_aside: Vec<(usize, Slot)>,
    /// Blocks written by it, or since the cache waited for the flusher.
    pinned_blocks: u64,
    /// From so many `pinned_blocks` on a write waits for write-back.
    pinned_blocks_max: u64,
    /// Blocks that RAM does not keep when they may leave.
    passing: Vec<BlockId>,
    /// Copies of blocks of this size that are to go to the log when those may leave.
    to_log: Vec<NewCopy>,
    /// So many at a time.
    log_run_max: usize,
    block_size: BlockSize,
    now_us: u64,
    hasher: FixedState,
}

/// What lies below RAM, and what was read of it.
struct Below {
    ssd: Option<Ssd>,
    read_ssd_hits: u64,
    disk_reads: u64,
    /// Blocks that left RAM before the request that reads them had their bytes: they go to the SSD with its end.
    left_early: Vec<Evicted>,
}

/// Where what is written goes from RAM.
enum Way {
    Below,
    /// The same, and RAM does not keep it.
    Past,
    /// These sectors, counted from the start of the first block on.
    Log(Range<u64>),
}

/// One bit for each of them.
const BELOW_MAX: usize = 64;

struct SimulatedShard {
    policy: ArcPolicy,
    /// By slot: the last request that wrote the block there.
    written_in: Vec<u64>,
    /// By slot: the request that read the block from a disk, and over which of the tiers below it did.
    filled_in: Vec<(u64, u64)>,
}

impl SimulatedShard {
    fn new(capacity: u32) -> Self {
        let policy = ArcPolicy::new(capacity);
        let slots = policy.slot_limit();
        Self { policy, written_in: vec![0; slots], filled_in: vec![(0, 0); slots] }
    }

    fn remove(&mut self, block: BlockId) {
        if self.policy.lookup(block).is_some() {
            self.policy.remove(block);
        }
    }

    /// Without a look at those that are not there.
    fn remove_all(&mut self, ids: &Range<u64>) {
        let resident = [List::Recent, List::Frequent].into_iter().flat_map(|list| self.policy.list(list));
        let inside: Vec<BlockId> = resident.filter(|block| ids.contains(&block.as_u64())).collect();
        for block in inside {
            self.policy.remove(block);
        }
    }
}

impl Simulation {
    /// A simulation of the cache that `config` describes: of it the block size, the RAM size, the shards, and the SSD's
    /// size and policy count. No path is touched.
    ///
    /// # Errors
    /// As [`crate::Cache::open`] for sizes that do not work.
    pub fn new(config: &Config) -> Result<Self> {
        Self::over(config, config.ssd.as_slice())
    }

    /// As [`Self::new`], with each of `ssds` below the one RAM tier in place of the SSD that `config` has.
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Panics
    /// When there are more than 64.
    pub fn over(config: &Config, ssds: &[SsdConfig]) -> Result<Self> {
        assert!(ssds.len() <= BELOW_MAX, "{} SSD tiers below one RAM tier", ssds.len());
        let layout = config.ram_layout()?;
        let shard = |index| SimulatedShard::new(layout.shard_capacity(index));
        let below = |ssd| Below { ssd, read_ssd_hits: 0, disk_reads: 0, left_early: Vec::new() };
        let simulated = |ssd: &SsdConfig| {
            let geometry = ssd.geometry_without_file(config.block_size)?;
            Ok(below(Some(Ssd::simulated(geometry, ssd.policy.clone()))))
        };
        let tiers = ssds.iter().map(simulated).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            shards: (0..layout.shards).map(shard).collect(),
            below: if tiers.is_empty() { vec![below(None)] } else { tiers },
            counts: Stats::default(),
            request: 0,
            set_aside: Vec::new(),
            pinned_blocks: 0,
            pinned_blocks_max: layout.dirty_high,
            passing: Vec::new(),
            to_log: Vec::new(),
            log_run_max: (config.run_bytes_max / config.block_size.bytes()).max(1),
            block_size: config.block_size,
            now_us: 0,
            hasher: FixedState::default(),
        })
    }

    /// As if the cache had been closed and opened again: RAM is empty, the SSD keeps its copies.
    pub fn reopen(&mut self) {
        for shard in &mut self.shards {
            *shard = SimulatedShard::new(shard.policy.capacity());
        }
        for ssd in self.below.iter_mut().filter_map(|below| below.ssd.as_mut()) {
            for seal in ssd.plan_seal_open() {
                ssd.finish_seal(seal, true);
            }
        }
        self.settle();
    }

    /// A request that reads the whole blocks `first`, `first + 1`, and so on, `now_us` on the trace's clock.
    pub fn read(&mut self, first: BlockId, count: u64, now_us: u64) {
        self.request += 1;
        for number in 0..count {
            let block = BlockId::from_u64(first.as_u64() + number);
            let (slot, was_resident) = self.reference(block, false, now_us);
            if was_resident {
                self.counts.read_ram_hits += 1;
                continue;
            }
            let mut from_disk = 0;
            for (index, below) in self.below.iter_mut().enumerate() {
                if below.ssd.as_mut().is_some_and(|ssd| ssd.plan_read(block).is_some()) {
                    below.read_ssd_hits += 1;
                } else {
                    below.disk_reads += 1;
                    from_disk |= 1 << index;
                }
            }
            self.shards[slot.0].filled_in[slot.1.index()] = (self.request, from_disk);
        }
        for below in &mut self.below {
            below.left_early.sort_unstable_by_key(|evicted| evicted.block);
            for evicted in std::mem::take(&mut below.left_early) {
                below.demote(evicted, now_us);
            }
        }
        self.settle();
    }

    /// A request that writes whole blocks, as in mode [`WriteMode::Through`] or [`WriteMode::Back`].
    pub fn write(&mut self, first: BlockId, count: u64, now_us: u64) {
        self.write_blocks(first, count, &Way::Below, now_us);
    }

    /// A request that writes these sectors, counted from the start of block `first` on, to a volume in this mode.
    pub fn write_in(&mut self, mode: WriteMode, first: BlockId, sectors: Range<u64>, now_us: u64) {
        let sectors_a_block = self.block_size.sectors() as u64;
        let skipped = sectors.start / sectors_a_block;
        let first = BlockId::from_u64(first.as_u64() + skipped);
        let count = sectors.end.div_ceil(sectors_a_block) - skipped;
        let before = skipped * sectors_a_block;
        let way = match mode {
            WriteMode::Through | WriteMode::Back => Way::Below,
            WriteMode::Around => Way::Past,
            WriteMode::BackSsd => Way::Log(sectors.start - before..sectors.end - before),
        };
        self.write_blocks(first, count, &way, now_us);
    }

    fn write_blocks(&mut self, first: BlockId, count: u64, way: &Way, now_us: u64) {
        self.request += 1;
        self.now_us = now_us;
        for number in 0..count {
            let block = BlockId::from_u64(first.as_u64() + number);
            if self.pinned_blocks >= self.pinned_blocks_max {
                self.release();
            }
            self.pinned_blocks += 1;
            self.counts.writes += 1;
            self.counts.write_ram_hits += u64::from(self.reference(block, true, now_us).1);
            for ssd in self.below.iter_mut().filter_map(|below| below.ssd.as_mut()) {
                ssd.void(block, Version::ZERO.next(), terrace_tiers::ssd::VoidMark::Exact);
            }
            match way {
                Way::Below => {}
                Way::Past => self.passing.push(block),
                Way::Log(sectors) => self.to_log.push(self.copy_of(block, number, sectors)),
            }
        }
        self.settle();
    }

    /// What goes to the log of `block`, number `number` of those whose `sectors` are written.
    fn copy_of(&self, block: BlockId, number: u64, sectors: &Range<u64>) -> NewCopy {
        let in_block = self.block_size.sectors() as u64;
        let inside = |sector: u64| sector.saturating_sub(number * in_block).min(in_block) as usize;
        let mut mask: SectorMask = vec![0; self.block_size.mask_words()].into();
        mask::set(&mut mask, inside(sectors.start)..inside(sectors.end));
        NewCopy { block, version: Version::ZERO.next(), mask, epoch: 0 }
    }

    /// A request that discards whole blocks: none is in RAM or on an SSD from then on.
    pub fn discard(&mut self, first: BlockId, count: u64) {
        self.request += 1;
        let ids = first.as_u64()..first.as_u64().saturating_add(count);
        let resident: u64 = self.shards.iter().map(|shard| u64::from(shard.policy.len())).sum();
        if count < resident {
            for block in ids.map(BlockId::from_u64) {
                let index = shard_index(&self.hasher, block, self.shards.len());
                self.shards[index].remove(block);
            }
        } else {
            for shard in &mut self.shards {
                shard.remove_all(&ids);
            }
        }
        for ssd in self.below.iter_mut().filter_map(|below| below.ssd.as_mut()) {
            ssd.void_range(first, count, Version::ZERO.next());
        }
        self.settle();
    }

    /// One reference; gives the shard and the slot of the block, and whether it was resident.
    fn reference(&mut self, block: BlockId, is_write: bool, now_us: u64) -> ((usize, Slot), bool) {
        let index = shard_index(&self.hasher, block, self.shards.len());
        let access = loop {
            let SimulatedShard { policy, written_in, .. } = &mut self.shards[index];
            let (request, set_aside) = (self.request, &mut self.set_aside);
            let access = policy.request(block, |slot| {
                let may_leave = written_in[slot.index()] != request;
                if !may_leave {
                    set_aside.push((index, slot));
                }
                may_leave
            });
            match access {
                Ok(access) => break access,
                // The whole shard was written by this request: the cache waits for the flusher here.
                Err(_) => self.release(),
            }
        };
        let (slot, was_resident) = match access {
            Access::Hit(slot) => (slot, true),
            Access::Miss { slot, evicted, .. } => {
                if let Some(evicted) = evicted {
                    self.evict(evicted, self.shards[index].filled_in[evicted.slot.index()], now_us);
                }
                (slot, false)
            }
        };
        self.shards[index].written_in[slot.index()] = if is_write { self.request } else { 0 };
        if !was_resident {
            self.shards[index].filled_in[slot.index()] = (0, 0);
        }
        ((index, slot), was_resident)
    }

    /// A block leaves RAM that was `filled_in` a request, from the disk of some.
    fn evict(&mut self, evicted: Evicted, filled_in: (u64, u64), now_us: u64) {
        let under_way = if filled_in.0 == self.request { filled_in.1 } else { 0 };
        for (index, below) in self.below.iter_mut().enumerate() {
            if under_way >> index & 1 == 1 {
                below.left_early.push(evicted);
            } else {
                below.demote(evicted, now_us);
            }
        }
    }

    /// What was written may leave: it is below or in the log, and synced.
    fn release(&mut self) {
        self.request += 1;
        self.pinned_blocks = 0;
        for copies in self.to_log.chunks(self.log_run_max) {
            self.below.iter_mut().for_each(|below| below.log(copies, self.now_us));
        }
        self.to_log.clear();
        for block in self.passing.drain(..) {
            let index = shard_index(&self.hasher, block, self.shards.len());
            self.shards[index].remove(block);
        }
        for (index, slot) in self.set_aside.drain(..) {
            self.shards[index].policy.release(slot);
        }
    }

    /// Everything that the request set off ends.
    fn settle(&mut self) {
        self.release();
        self.below.iter_mut().for_each(Below::settle);
    }

    /// What the cache would count: references and hits, and what the SSD tier did. Operations and bytes of I/O to the
    /// backing store, which depend on timing, stay zero.
    pub fn stats(&self) -> Stats {
        self.stats_over(0)
    }

    /// The same over the SSD tier with this index.
    pub fn stats_over(&self, index: usize) -> Stats {
        let below = &self.below[index];
        let mut stats = self.counts;
        (stats.read_ssd_hits, stats.disk_reads) = (below.read_ssd_hits, below.disk_reads);
        stats.reads = stats.read_ram_hits + stats.read_ssd_hits + stats.disk_reads;
        stats.references = stats.reads + stats.writes;
        stats.ram_hits = stats.read_ram_hits + stats.write_ram_hits;
        if let Some(ssd) = &below.ssd {
            stats.ssd_in_use = true;
            stats.ssd = ssd.stats();
        }
        stats
    }
}

impl Below {
    fn demote(&mut self, evicted: Evicted, now_us: u64) {
        let Some(ssd) = &mut self.ssd else { return };
        let earned = evicted.from == Side::Frequent;
        if let Demote::Append(plan) = ssd.plan_demote(evicted.block, Version::ZERO, earned, now_us)
            && let Some(seal) = ssd.finish_append(&[plan], Some(&[0]))
        {
            seal_now(ssd, seal);
        }
    }

    /// These blocks go to the log; when it is full, what it has goes below first.
    fn log(&mut self, mut copies: &[NewCopy], now_us: u64) {
        let mut is_drained = false;
        while !copies.is_empty() {
            let Some(ssd) = &mut self.ssd else { return };
            if let Some(plan) = ssd.plan_record(copies, now_us) {
                copies = &copies[plan.block_count()..];
                ssd.finish_record(plan);
                let sync = ssd.plan_log_sync().expect("a record was just written");
                ssd.finish_log_sync(sync);
                is_drained = false;
            } else if !std::mem::replace(&mut is_drained, true) {
                self.settle();
            } else {
                // No room can be made: they go below past the log.
                return;
            }
        }
    }

    fn settle(&mut self) {
        let Some(ssd) = &mut self.ssd else { return };
        ssd.settle_simulated_log();
        ssd.settle_simulated_journal();
        while let Some(plan) = ssd.plan_reclaim() {
            let entries = ssd.simulated_entries(&plan);
            let moves = ssd.plan_moves(&plan, Some(&entries));
            let crcs: Vec<u32> = moves.iter().map(|step| step.from.crc).collect();
            if let Some(seal) = ssd.finish_moves(&moves, Some(&crcs)) {
                seal_now(ssd, seal);
            }
            ssd.finish_reclaim(&plan);
            ssd.settle_simulated_journal();
        }
    }
}

fn seal_now(ssd: &mut Ssd, plan: SealPlan) {
    ssd.finish_seal(plan, true);
}

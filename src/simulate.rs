//! The cache without data: the same directory and the same SSD bookkeeping over ids, what a size would give.
//!
//! A request does what a call of the cache does, in the same order; what the cache leaves to the background is done
//! before the next request. A cache with one caller that settles after each request therefore counts the same hits, to
//! the block (a test holds the two equal on recorded traces).
//!
//! Requests are of whole blocks. Written blocks may not leave before their request ends, as in the cache, where they
//! wait for a sync.

use foldhash::fast::FixedState;
use terrace_tiers::block::{BlockId, Version};
use terrace_tiers::ram::arc_policy::{Access, ArcPolicy, Evicted, Side, Slot};
use terrace_tiers::ssd::{Demote, SealPlan, Ssd};

use crate::cache::shard_index;
use crate::config::Config;
use crate::error::Result;
use crate::stats::Stats;

/// Runs the policies of a cache over ids.
pub struct Simulation {
    shards: Vec<SimulatedShard>,
    ssd: Option<Ssd>,
    counts: Stats,
    /// Of the request that runs now.
    request: u64,
    /// Blocks written by it that were refused as victims, by shard.
    set_aside: Vec<(usize, Slot)>,
    /// Blocks written by it, or since the cache waited for the flusher.
    pinned_blocks: u64,
    /// Blocks that left RAM before the request that reads them had their bytes: they go to the SSD with its end.
    left_early: Vec<Evicted>,
    /// From so many `pinned_blocks` on a write waits for write-back.
    pinned_blocks_max: u64,
    hasher: FixedState,
}

struct SimulatedShard {
    policy: ArcPolicy,
    /// By slot: the last request that wrote the block there.
    written_in: Vec<u64>,
    /// By slot: the request that read the block from below.
    filled_in: Vec<u64>,
}

impl SimulatedShard {
    fn new(capacity: u32) -> Self {
        let policy = ArcPolicy::new(capacity);
        let slots = policy.slot_limit();
        Self { policy, written_in: vec![0; slots], filled_in: vec![0; slots] }
    }
}

impl Simulation {
    /// A simulation of the cache that `config` describes: of it the block size, the RAM size, the shards, and the SSD's
    /// size and policy count. No path is touched.
    ///
    /// # Errors
    /// As [`crate::Cache::open`] for sizes that do not work.
    pub fn new(config: &Config) -> Result<Self> {
        let layout = config.ram_layout()?;
        let shard = |index| SimulatedShard::new(layout.shard_capacity(index));
        let ssd = match &config.ssd {
            Some(ssd) => Some(Ssd::simulated(ssd.geometry(config.block_size)?, ssd.policy.clone())),
            None => None,
        };
        Ok(Self {
            shards: (0..layout.shards).map(shard).collect(),
            ssd,
            counts: Stats::default(),
            request: 0,
            set_aside: Vec::new(),
            pinned_blocks: 0,
            left_early: Vec::new(),
            pinned_blocks_max: layout.dirty_high,
            hasher: FixedState::default(),
        })
    }

    /// As if the cache had been closed and opened again: RAM is empty, the SSD keeps its copies.
    pub fn reopen(&mut self) {
        for shard in &mut self.shards {
            *shard = SimulatedShard::new(shard.policy.capacity());
        }
        if let Some(ssd) = &mut self.ssd {
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
            } else if self.ssd.as_mut().is_some_and(|ssd| ssd.plan_read(block).is_some()) {
                self.counts.read_ssd_hits += 1;
            } else {
                self.counts.disk_reads += 1;
                self.shards[slot.0].filled_in[slot.1.index()] = self.request;
            }
        }
        self.left_early.sort_unstable_by_key(|evicted| evicted.block);
        for evicted in std::mem::take(&mut self.left_early) {
            self.demote(evicted, now_us);
        }
        self.settle();
    }

    /// A request that writes whole blocks.
    pub fn write(&mut self, first: BlockId, count: u64, now_us: u64) {
        self.request += 1;
        for number in 0..count {
            let block = BlockId::from_u64(first.as_u64() + number);
            if self.pinned_blocks >= self.pinned_blocks_max {
                self.release();
            }
            self.pinned_blocks += 1;
            self.counts.writes += 1;
            self.counts.write_ram_hits += u64::from(self.reference(block, true, now_us).1);
            if let Some(ssd) = &mut self.ssd {
                ssd.void(block, Version::ZERO.next(), terrace_tiers::ssd::VoidMark::Exact);
            }
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
                    if self.shards[index].filled_in[evicted.slot.index()] == self.request {
                        self.left_early.push(evicted);
                    } else {
                        self.demote(evicted, now_us);
                    }
                }
                (slot, false)
            }
        };
        self.shards[index].written_in[slot.index()] = if is_write { self.request } else { 0 };
        if !was_resident {
            self.shards[index].filled_in[slot.index()] = 0;
        }
        ((index, slot), was_resident)
    }

    fn demote(&mut self, evicted: Evicted, now_us: u64) {
        let Some(ssd) = &mut self.ssd else { return };
        let earned = evicted.from == Side::Frequent;
        if let Demote::Append(plan) = ssd.plan_demote(evicted.block, Version::ZERO, earned, now_us)
            && let Some(seal) = ssd.finish_append(&[plan], Some(&[0]))
        {
            seal_now(ssd, seal);
        }
    }

    /// What was written may leave: it is below, and synced.
    fn release(&mut self) {
        self.request += 1;
        self.pinned_blocks = 0;
        for (index, slot) in self.set_aside.drain(..) {
            self.shards[index].policy.release(slot);
        }
    }

    /// Everything that the request set off ends.
    fn settle(&mut self) {
        self.release();
        let Some(ssd) = &mut self.ssd else { return };
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

    /// What the cache would count: references and hits, and what the SSD tier did. Operations and bytes of I/O to the
    /// backing store, which depend on timing, stay zero.
    pub fn stats(&self) -> Stats {
        let mut stats = self.counts;
        stats.reads = stats.read_ram_hits + stats.read_ssd_hits + stats.disk_reads;
        stats.references = stats.reads + stats.writes;
        stats.ram_hits = stats.read_ram_hits + stats.write_ram_hits;
        if let Some(ssd) = &self.ssd {
            stats.ssd_in_use = true;
            stats.ssd = ssd.stats();
        }
        stats
    }
}

fn seal_now(ssd: &mut Ssd, plan: SealPlan) {
    ssd.finish_seal(plan, true);
}

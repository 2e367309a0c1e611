//! What the tier does with what it has room for: which blocks are written, and which are kept when their segment goes.
//!
//! Policy only: it knows ids, hit counts and bytes, no places. The log beneath is a FIFO whatever is decided here.
//!
//! A block that has *earned* its write (evicted from T2, or met again through a ghost of RAM), or that is found in
//! the list of ids lately refused or evicted here, is admitted while there is budget at all; any other one while the
//! cache fills up or as [`SsdPolicy::admit_unearned`] says, and only while the budget is not short.
//!
//! The budget is a bucket of tokens, one a byte, filled at the rate of [`SsdPolicy::write_budget_bytes_per_day`] and
//! holding an hour of it. Everything written is taken out of it, what may not be refused too, so that the bucket may
//! be overdrawn; clean admission and reinsertion wait until it is not. It is *short* when less than half full. Journal
//! and checkpoints are charged by the entry, not by what reached the device: a simulated tier spends like a real one.

use crate::block::BlockId;

use super::index::mix;

/// What the tier does with what it has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SsdPolicy {
    /// Bytes a day that may be written; none: as many as come.
    pub write_budget_bytes_per_day: Option<u64>,
    /// Whether a block that has not earned its write is written once the cache was full, while the budget is not
    /// short. Turn it off to spend fewer writes at the cost of hits.
    pub admit_unearned: bool,
    /// How many ids of blocks lately refused or evicted are remembered, in percent of the cache's blocks; 4 bytes each.
    pub ghost_percent: u32,
    /// Up to how many hits are counted, 1 to 3.
    pub hits_max: u32,
    /// From how many hits on a block is kept when its segment is emptied.
    pub reinsert_hits_min: u32,
    /// How many blocks of a segment are kept at most, in percent of its slots.
    pub reinsert_percent_max: u32,
}

impl Default for SsdPolicy {
    fn default() -> Self {
        Self {
            write_budget_bytes_per_day: None,
            admit_unearned: true,
            ghost_percent: 12,
            hits_max: 3,
            reinsert_hits_min: 1,
            reinsert_percent_max: 50,
        }
    }
}

/// What a journal entry is charged: its share of a page, and of the checkpoint that absorbs it.
const JOURNAL_ENTRY_CHARGE_BYTES: u64 = 512;

pub(super) struct Admission {
    policy: SsdPolicy,
    budget: Option<Budget>,
    ghost: Ghost,
}

impl Admission {
    pub(super) fn new(policy: SsdPolicy, capacity_blocks: u64) -> Self {
        let budget = policy.write_budget_bytes_per_day.map(Budget::new);
        let ghost = Ghost::new(capacity_blocks * u64::from(policy.ghost_percent) / 100);
        Self { policy, budget, ghost }
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.ghost.fingerprints.len() * 4) as u64
    }

    /// Whether `block` is written; `fills` as long as the cache has never been full.
    pub(super) fn admits(&mut self, block: BlockId, is_earned: bool, fills: bool, now_us: u64) -> bool {
        if let Some(budget) = &mut self.budget {
            budget.refill(now_us);
        }
        let is_met_again = self.ghost.take(block);
        let admits = if is_earned || is_met_again || fills {
            self.budget.as_ref().is_none_or(Budget::is_left)
        } else {
            self.policy.admit_unearned && self.budget.as_ref().is_none_or(|budget| !budget.is_short())
        };
        if !admits {
            self.ghost.remember(block);
        }
        admits
    }

    /// Whether a block with so many hits is kept when its segment goes, of which `kept` of `slots` are kept already.
    pub(super) fn keeps(&self, hits: u32, kept: u32, slots: u32) -> bool {
        hits >= self.policy.reinsert_hits_min.max(1)
            && u64::from(kept) * 100 < u64::from(slots) * u64::from(self.policy.reinsert_percent_max)
            && self.budget.as_ref().is_none_or(Budget::is_left)
    }

    pub(super) fn evicted(&mut self, block: BlockId) {
        self.ghost.remember(block);
    }

    pub(super) fn hits_max(&self) -> u32 {
        self.policy.hits_max.clamp(1, super::log::HITS_MAX)
    }

    pub(super) fn charge(&mut self, bytes: u64) {
        if let Some(budget) = &mut self.budget {
            budget.tokens -= i128::from(bytes) * DAY_US;
        }
    }

    pub(super) fn charge_journal_entry(&mut self) {
        self.charge(JOURNAL_ENTRY_CHARGE_BYTES);
    }
}

const DAY_US: i128 = 86_400_000_000;

struct Budget {
    bytes_per_day: i128,
    /// Bytes times [`DAY_US`], so that no filling up is rounded.
    tokens: i128,
    tokens_max: i128,
    filled_us: Option<u64>,
}

impl Budget {
    fn new(bytes_per_day: u64) -> Self {
        let tokens_max = i128::from(bytes_per_day / 24) * DAY_US;
        Self { bytes_per_day: bytes_per_day.into(), tokens: tokens_max, tokens_max, filled_us: None }
    }

    fn refill(&mut self, now_us: u64) {
        let elapsed_us = now_us.saturating_sub(self.filled_us.unwrap_or(now_us));
        // A clock that goes back earns nothing until it is where it was.
        self.filled_us = Some(self.filled_us.unwrap_or(0).max(now_us));
        let earned = i128::from(elapsed_us) * self.bytes_per_day;
        self.tokens = (self.tokens + earned).min(self.tokens_max);
    }

    fn is_left(&self) -> bool {
        self.tokens > 0
    }

    fn is_short(&self) -> bool {
        self.tokens * 2 <= self.tokens_max
    }
}

/// Ids lately refused or evicted, as fingerprints of 32 bits: a stranger is taken for one of them once in 500 million.
struct Ghost {
    /// Buckets of [`WAYS`], the latest first; 0 is none.
    fingerprints: Vec<u32>,
}

const WAYS: usize = 8;

impl Ghost {
    fn new(count: u64) -> Self {
        let buckets = (count as usize).div_ceil(WAYS);
        Self { fingerprints: vec![0; buckets * WAYS] }
    }

    fn bucket(&mut self, block: BlockId) -> Option<(&mut [u32], u32)> {
        let buckets = self.fingerprints.len() / WAYS;
        if buckets == 0 {
            return None;
        }
        let hash = mix(block.as_u64());
        let at = (((hash & u64::from(u32::MAX)) * buckets as u64) >> 32) as usize;
        Some((&mut self.fingerprints[at * WAYS..][..WAYS], (hash >> 32) as u32 | 1))
    }

    fn remember(&mut self, block: BlockId) {
        if let Some((bucket, fingerprint)) = self.bucket(block) {
            let last = bucket.iter().position(|&here| here == fingerprint).unwrap_or(WAYS - 1);
            bucket.copy_within(..last, 1);
            bucket[0] = fingerprint;
        }
    }

    /// Whether `block` is remembered; not any more after this.
    fn take(&mut self, block: BlockId) -> bool {
        let Some((bucket, fingerprint)) = self.bucket(block) else { return false };
        let Some(at) = bucket.iter().position(|&here| here == fingerprint) else { return false };
        bucket.copy_within(at + 1.., at);
        bucket[WAYS - 1] = 0;
        true
    }
}

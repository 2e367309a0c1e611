//! What the tier does with what it has room for: which blocks are written, and which are kept when their segment goes.
//!
//! Policy only: it knows ids, hit counts and bytes, no places. The log beneath is a FIFO whatever is decided here.
//!
//! A block that has *earned* its write (evicted from T2, or met again through a ghost of RAM), or that is found in
//! the list of ids lately refused or evicted here, is admitted while there is budget at all. So is any other one as
//! long as the cache has never been full. After that it is refused, or, with [`SsdPolicy::admit_unearned`], admitted
//! while the budget is not short.
//!
//! The budget is a bucket of tokens, one a byte, filled at the rate of [`SsdPolicy::write_budget_bytes_per_day`] and
//! holding an hour of it. Everything written is taken out of it, what may not be refused too, so that the bucket may
//! be overdrawn; clean admission and reinsertion wait until it is not. It is *short* when less than half full. Journal
//! and checkpoints are charged by the entry, not by what reached the device: a simulated tier spends like a real one.

use crate::block::BlockId;

use super::encoding::{GHOSTS_PER_ENTRY, GhostEntry};
use super::slot_bits::HITS_MAX;
use super::table::mix;

/// What the tier does with what it has room for.
///
/// The defaults are the best of a replay of OLTP, P3 (both of the ARC paper) and a CloudPhysics trace through this
/// tier behind ARC in RAM, in all seven pairs of sizes; misses in percent, and blocks written an access:
///
/// | trace, blocks in RAM and here | plain FIFO   | defaults     | kept from 1 hit on | ARC here, as reference |
/// |-------------------------------|--------------|--------------|--------------------|------------------------|
/// | OLTP, 1000 and 4000           | 47.90, 0.510 | 48.15, 0.152 | 47.42, 0.187       | 46.12, 0.461           |
/// | OLTP, 1000 and 20,000         | 35.20, 0.358 | 34.73, 0.170 | 34.23, 0.201       | 31.94, 0.319           |
/// | P3, 8192 and 32,768           | 93.54, 0.939 | 81.87, 0.078 | 81.64, 0.098       | 81.20, 0.812           |
/// | P3, 8192 and 131,072          | 58.06, 0.585 | 50.80, 0.295 | 50.32, 0.384       | 48.27, 0.483           |
/// | P3, 8192 and 262,144          | 38.97, 0.393 | 34.74, 0.283 | 33.99, 0.337       | 32.24, 0.322           |
/// | CloudPhysics, 1024 and 32,768 | 86.66, 0.867 | 78.60, 0.124 | 79.27, 0.161       | 80.61, 0.806           |
/// | CloudPhysics, 1024 and 131,072| 45.83, 0.458 | 50.15, 0.394 | 52.19, 0.523       | 54.34, 0.543           |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SsdPolicy {
    /// Bytes a day that may be written; none: as many as come. Default none.
    pub write_budget_bytes_per_day: Option<u64>,
    /// Whether a block that has not earned its write is written once the cache was full, while the budget is not
    /// short. Default no: on these traces it costs two to ten times the writes, and more misses on most.
    pub admit_unearned: bool,
    /// How many ids of blocks lately refused or evicted are remembered, in percent of the cache's blocks; 2 bytes
    /// each. Default 100: fewer cost up to 10 points on P3, more win at most one.
    pub ghost_percent: u32,
    /// Up to how many hits are counted, 1 to 3. Default 3.
    pub hits_max: u32,
    /// From how many hits on a block is kept when its segment is emptied, from 1. Default 2.
    pub reinsert_hits_min: u32,
    /// How many blocks of a segment are kept at most, in percent of its slots. Default 75: 50 loses a point on P3;
    /// with all of them a cache in which all was hit would be rewritten at once.
    pub reinsert_percent_max: u32,
}

impl Default for SsdPolicy {
    fn default() -> Self {
        Self {
            write_budget_bytes_per_day: None,
            admit_unearned: false,
            ghost_percent: 100,
            hits_max: HITS_MAX,
            reinsert_hits_min: 2,
            reinsert_percent_max: 75,
        }
    }
}

/// What a journal entry is charged: its share of a page, and of the checkpoint that absorbs it.
const JOURNAL_ENTRY_CHARGE_BYTES: u64 = 512;

pub(super) struct Admission {
    policy: SsdPolicy,
    budget: Option<Budget>,
    ghost: Ghost,
    /// Fingerprints that a checkpoint has room for.
    ghosts_max: usize,
}

impl Admission {
    pub(super) fn new(policy: SsdPolicy, capacity_blocks: u64) -> Self {
        let budget = policy.write_budget_bytes_per_day.map(Budget::new);
        let ghost = Ghost::new(capacity_blocks * u64::from(policy.ghost_percent) / 100);
        Self { policy, budget, ghost, ghosts_max: (capacity_blocks as usize).next_multiple_of(WAYS) }
    }

    /// The list of ids lately refused or evicted, to be kept while the cache is closed; nothing when it is longer than
    /// a checkpoint has room for.
    pub(super) fn ghosts(&self) -> impl Iterator<Item = GhostEntry> + '_ {
        let all = &self.ghost.fingerprints;
        let kept = if all.len() <= self.ghosts_max { &all[..] } else { &[] };
        let entries = kept.chunks(GHOSTS_PER_ENTRY).enumerate();
        entries.map(|(index, fingerprints)| GhostEntry {
            first: (index * GHOSTS_PER_ENTRY) as u64,
            fingerprints: fingerprints.to_vec(),
        })
    }

    /// Puts a stretch of the list back, behind what came to it since; one that does not fit the list as it is now is left
    /// out.
    pub(super) fn restore_ghosts(&mut self, entry: &GhostEntry) {
        let first = usize::try_from(entry.first).unwrap_or(usize::MAX);
        let end = first.saturating_add(entry.fingerprints.len());
        let Some(place) = self.ghost.fingerprints.get_mut(first..end).filter(|_| first.is_multiple_of(WAYS))
        else {
            return;
        };
        for (bucket, known) in place.chunks_exact_mut(WAYS).zip(entry.fingerprints.chunks_exact(WAYS)) {
            let newer = bucket.iter().take_while(|&&fingerprint| fingerprint != 0).count();
            bucket[newer..].copy_from_slice(&known[..WAYS - newer]);
        }
    }

    /// The file has another size: the ghosts follow, the budget is what it was.
    pub(super) fn set_capacity(&mut self, capacity_blocks: u64) {
        self.ghost = self.ghost.resized(capacity_blocks * u64::from(self.policy.ghost_percent) / 100);
        self.ghosts_max = (capacity_blocks as usize).next_multiple_of(WAYS);
    }

    pub(super) fn bytes(&self) -> u64 {
        size_of_val(self.ghost.fingerprints.as_slice()) as u64
    }

    /// Whether `block` is written; `fills` as long as the cache has never been full.
    pub(super) fn admits(&mut self, block: BlockId, is_earned: bool, fills: bool, now_us: u64) -> bool {
        if let Some(budget) = &mut self.budget {
            budget.refill(now_us);
        }
        let is_met_again = self.ghost.take(block);
        let admits = if is_earned || is_met_again || fills {
            self.has_budget()
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
            && self.has_budget()
    }

    fn has_budget(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.tokens > 0)
    }

    pub(super) fn evicted(&mut self, block: BlockId) {
        self.ghost.remember(block);
    }

    pub(super) fn hits_max(&self) -> u32 {
        self.policy.hits_max.clamp(1, HITS_MAX)
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
    /// Bytes times [`DAY_US`], so that nothing is rounded.
    tokens: i128,
    tokens_max: i128,
    filled_us: Option<u64>,
}

impl Budget {
    fn new(bytes_per_day: u64) -> Self {
        let tokens_max = i128::from(bytes_per_day / 24) * DAY_US;
        Self { bytes_per_day: bytes_per_day.into(), tokens: tokens_max, tokens_max, filled_us: None }
    }

    /// A clock that goes back earns nothing until it is where it was.
    fn refill(&mut self, now_us: u64) {
        let filled_us = self.filled_us.unwrap_or(now_us);
        let earned = i128::from(now_us.saturating_sub(filled_us)) * self.bytes_per_day;
        self.filled_us = Some(filled_us.max(now_us));
        self.tokens = (self.tokens + earned).min(self.tokens_max);
    }

    fn is_short(&self) -> bool {
        self.tokens * 2 <= self.tokens_max
    }
}

/// Ids lately refused or evicted, as fingerprints of 16 bits: a stranger is taken for one of them once in 8000 times,
/// which costs a write.
struct Ghost {
    /// Buckets of [`WAYS`], the latest first; 0 is none.
    fingerprints: Vec<u16>,
}

const WAYS: usize = 8;

impl Ghost {
    fn new(count: u64) -> Self {
        Self { fingerprints: vec![0; (count as usize).next_multiple_of(WAYS)] }
    }

    /// The same ids in another number of buckets. A bucket is a stretch of all hashes: a new one takes the latest of every
    /// old one that shares a part with it. In a longer list an id may be in two; in one of them nobody looks for it.
    fn resized(&self, count: u64) -> Self {
        let mut ghost = Self::new(count);
        let (old, new) = (self.fingerprints.len() / WAYS, ghost.fingerprints.len() / WAYS);
        if old == 0 {
            return ghost;
        }
        for (index, bucket) in ghost.fingerprints.chunks_exact_mut(WAYS).enumerate() {
            let sources = index * old / new..((index + 1) * old).div_ceil(new);
            let latest_first = (0..WAYS).flat_map(|way| sources.clone().map(move |at| at * WAYS + way));
            let known = latest_first.map(|at| self.fingerprints[at]).filter(|&known| known != 0);
            bucket.iter_mut().zip(known).for_each(|(place, known)| *place = known);
        }
        ghost
    }

    /// Where `block` is if it is anywhere, and what it looks like there; none when nothing is remembered.
    fn bucket(&mut self, block: BlockId) -> Option<(&mut [u16], u16)> {
        let buckets = self.fingerprints.len() / WAYS;
        if buckets == 0 {
            return None;
        }
        let hash = mix(block.as_u64());
        let at = ((u128::from(hash) * buckets as u128) >> 64) as usize;
        Some((&mut self.fingerprints[at * WAYS..][..WAYS], (hash as u16).max(1)))
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

#[cfg(test)]
mod tests {
    use super::super::encoding::Item;
    use super::*;

    fn block(number: u64) -> BlockId {
        BlockId::from_u64(number)
    }

    #[test]
    fn a_refused_block_is_admitted_when_it_comes_again_and_forgotten_after_that() {
        let mut admission = Admission::new(SsdPolicy::default(), 1000);
        assert!(admission.admits(block(1), false, true, 0), "the cache fills up");
        assert!(!admission.admits(block(1), false, false, 0));
        assert!(admission.admits(block(1), false, false, 0), "met again");
        assert!(!admission.admits(block(1), false, false, 0));
        admission.evicted(block(2));
        assert!(admission.admits(block(2), false, false, 0), "it was here lately");
        assert!(admission.admits(block(3), true, false, 0), "earned");
    }

    #[test]
    fn the_ghost_list_remembers_about_as_many_as_it_has_room_for_and_hardly_a_stranger() {
        let mut ghost = Ghost::new(10_000);
        (0..10_000).for_each(|number| ghost.remember(block(number)));
        let known = (0..10_000).filter(|&number| ghost.take(block(number))).count();
        assert!(known > 8000, "{known}");
        (0..10_000).for_each(|number| ghost.remember(block(number)));
        let strangers = (10_000..20_000).filter(|&number| ghost.take(block(number))).count();
        assert!(strangers < 20, "{strangers}");
    }

    #[test]
    fn a_day_of_demotions_writes_the_budget_and_an_hour_of_it_at_most() {
        let budget = 24 * 1000 * 4096;
        let policy = SsdPolicy { write_budget_bytes_per_day: Some(budget), ..SsdPolicy::default() };
        let mut admission = Admission::new(policy, 1000);
        let mut written = 0;
        for minute in 0..24 * 60 {
            for number in 0..100 {
                if admission.admits(block(minute * 100 + number), true, false, minute * 60_000_000) {
                    admission.charge(4096);
                    written += 4096;
                }
            }
        }
        assert!(written <= budget + budget / 24 + 4096, "{written} of {budget}");
        assert!(written >= budget, "all of it is used: {written} of {budget}");
    }

    #[test]
    fn what_may_not_be_refused_overdraws_the_budget_and_clean_blocks_wait_for_it() {
        let policy = SsdPolicy {
            write_budget_bytes_per_day: Some(24_000_000),
            admit_unearned: true,
            ..SsdPolicy::default()
        };
        let mut admission = Admission::new(policy, 1000);
        assert!(admission.admits(block(1), false, false, 0) && admission.keeps(2, 0, 100));
        admission.charge(600_000);
        assert!(!admission.admits(block(2), false, false, 0), "short");
        assert!(admission.admits(block(3), true, false, 0), "but not used up");
        admission.charge(1_400_000);
        assert!(!admission.admits(block(4), true, false, 0) && !admission.keeps(3, 0, 100));
        let hour_us = 3_600_000_000;
        assert!(!admission.admits(block(5), true, false, hour_us - 1), "an hour to be even");
        assert!(admission.admits(block(6), true, false, hour_us + hour_us / 100));
        assert!(admission.admits(block(7), true, false, 0), "a clock that goes back takes nothing");
    }

    #[test]
    fn blocks_hit_often_enough_are_kept_up_to_their_share_of_a_segment() {
        let admission = Admission::new(SsdPolicy::default(), 1000);
        assert!(admission.keeps(2, 0, 100) && !admission.keeps(1, 0, 100));
        assert!(admission.keeps(3, 74, 100) && !admission.keeps(3, 75, 100));
    }

    #[test]
    fn what_was_refused_before_a_resize_is_met_again_after_it() {
        for (capacity, known_min) in [(20_000, 9500), (25_000, 8800), (7000, 4500), (5000, 3500)] {
            let mut ghost = Ghost::new(20_000);
            (0..10_000).for_each(|number| ghost.remember(block(number)));
            let mut resized = ghost.resized(capacity);
            let known = (0..10_000).filter(|&number| resized.take(block(number))).count();
            assert!(known >= known_min, "{known} in {capacity}");
            let strangers = (10_000..20_000).filter(|&number| resized.take(block(number))).count();
            assert!(strangers < 20, "{strangers}");
        }
        assert!(Ghost::new(0).resized(100).fingerprints.len() == 104);
    }

    #[test]
    fn what_was_refused_before_a_close_is_met_again_after_it() {
        let mut before = Admission::new(SsdPolicy::default(), 100_000);
        for number in 0..20_000 {
            before.admits(block(number), false, false, 0);
        }
        let mut stored = Vec::new();
        for entry in before.ghosts() {
            entry.put(&mut stored);
        }
        let (mut after, mut at) = (Admission::new(SsdPolicy::default(), 100_000), 0);
        while at < stored.len() {
            let (entry, bytes) = GhostEntry::take(&stored[at..]).expect("every entry can be read again");
            after.restore_ghosts(&entry);
            at += bytes;
        }
        assert!((0..20_000).all(|number| before.admits(block(number), false, false, 0)
            == after.admits(block(number), false, false, 0)));
        let mut smaller = Admission::new(SsdPolicy::default(), 100);
        before.ghosts().for_each(|entry| smaller.restore_ghosts(&entry));
        assert!(!smaller.admits(block(1), false, false, 0), "a list of another size starts empty");
    }
}

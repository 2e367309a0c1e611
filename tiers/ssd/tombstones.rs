//! Tombstones: ranges that read as zeros, and that the backing store has not discarded yet.
//!
//! A tombstone is an entry of the journal. Its version orders it among the records of the log, whichever was written
//! first: it takes the place of every copy with a lower version, clean or dirty, and none with a higher one. So one
//! entry both voids what was there and says what is there now, however large the range is.
//!
//! Invariants:
//! 1. They are run below in the order of their versions, each before any copy of a higher version is written there.
//! 2. One goes when the backing store was synced after it, or when its blocks are forgotten. The journal voids, by the
//!    same entry, all that is older: nothing that it covered comes back (rule 4).
//! 3. They are put in the order of their versions. So one is durable only when all lower ones are, and what runs them in
//!    that order never finds one that came too late: a newer copy might be below by then, and be discarded with it.
//! 4. There are at most [`PIECES_MAX`], so that a checkpoint has room for them. While a journal is applied over a checkpoint
//!    that is younger than its beginning there may be those of then and those of the checkpoint.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::block::{BlockId, Version, VolumeId};

use super::Ssd;
use super::encoding::{CheckpointItem, JournalEntry};
use super::journal::Seq;

/// No more are taken in before some are below.
const TOMBSTONES_MAX: usize = 512;

/// Those, and what is left of them on both sides of what was forgotten.
pub(super) const PIECES_MAX: usize = 2 * TOMBSTONES_MAX;

/// A range that reads as zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// Of one volume.
    pub(super) ids: Range<u64>,
    pub(super) version: Version,
    /// Of its volume, as in [`super::NewCopy`].
    pub(super) epoch: u64,
    /// The journal entry that says so.
    seq: Seq,
}

impl Tombstone {
    /// None when there can be no such range.
    pub(super) fn new(first: u64, count: u64, version: u64, epoch: u64) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        let is_one_volume = BlockId::from_u64(first).volume() == BlockId::from_u64(last).volume();
        let ids = first..last.checked_add(1)?;
        is_one_volume.then_some(Self { ids, version: Version::from_u64(version), epoch, seq: Seq(0) })
    }

    pub(super) fn volume(&self) -> VolumeId {
        self.first().volume()
    }

    pub(super) fn first(&self) -> BlockId {
        BlockId::from_u64(self.ids.start)
    }

    pub(super) fn last(&self) -> BlockId {
        BlockId::from_u64(self.ids.end - 1)
    }

    /// The numbers of its blocks.
    pub fn blocks(&self) -> Range<u64> {
        self.first().number()..self.last().number() + 1
    }

    /// As in [`super::NewCopy`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// In the order in which they are run; what a forget left of one has one version.
    fn place(&self) -> (Version, u64) {
        (self.version, self.ids.start)
    }

    fn count(&self) -> u64 {
        self.ids.end - self.ids.start
    }
}

/// Those of all volumes.
#[derive(Default)]
pub(super) struct Tombstones {
    /// In their order.
    list: Vec<Tombstone>,
    /// What they cover together: disjoint, each start with its end.
    covered: BTreeMap<u64, u64>,
}

impl Tombstones {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tombstone> {
        self.list.iter()
    }

    pub(super) fn of(&self, volume: VolumeId) -> impl Iterator<Item = &Tombstone> {
        self.list.iter().filter(move |tombstone| tombstone.volume() == volume)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn covers(&self, block: BlockId) -> bool {
        let before = self.covered.range(..=block.as_u64()).next_back();
        before.is_some_and(|(_, &end)| block.as_u64() < end)
    }

    /// Whether one covers any of `ids`.
    pub(super) fn touches(&self, ids: &Range<u64>) -> bool {
        self.list.iter().any(|one| one.ids.start < ids.end && ids.start < one.ids.end)
    }

    /// Whether one takes the place of this version of `block`.
    pub(super) fn bury(&self, block: BlockId, version: Version) -> bool {
        let is_it = |one: &Tombstone| version < one.version && one.ids.contains(&block.as_u64());
        self.list.iter().any(is_it)
    }

    /// Takes the place of what is left of the same one: a journal may be applied over a checkpoint that has it already.
    pub(super) fn insert(&mut self, tombstone: Tombstone) {
        let Tombstone { ref ids, version, .. } = tombstone;
        let is_part = |other: &Tombstone| {
            other.version == version && ids.start <= other.ids.start && other.ids.end <= ids.end
        };
        self.list.retain(|other| !is_part(other));
        let at = self.list.partition_point(|other| other.place() <= tombstone.place());
        self.list.insert(at, tombstone);
        self.cover();
    }

    pub(super) fn retain(&mut self, keeps: impl FnMut(&Tombstone) -> bool) {
        self.list.retain(keeps);
        self.cover();
    }

    /// Takes `ids` out of those that are older than `version`. Whether there were any.
    pub(super) fn cut(&mut self, ids: &Range<u64>, version: Version) -> bool {
        let is_hit = |tombstone: &Tombstone| {
            tombstone.version < version && tombstone.ids.start < ids.end && ids.start < tombstone.ids.end
        };
        if !self.list.iter().any(is_hit) {
            return false;
        }
        for tombstone in std::mem::take(&mut self.list) {
            if !is_hit(&tombstone) {
                self.list.push(tombstone);
                continue;
            }
            let rests = [tombstone.ids.start..ids.start, ids.end..tombstone.ids.end];
            let rests = rests.into_iter().filter(|rest| rest.start < rest.end);
            self.list.extend(rests.map(|ids| Tombstone { ids, ..tombstone.clone() }));
        }
        self.list.sort_by_key(Tombstone::place);
        self.cover();
        true
    }

    /// Whether [`Self::cut`] leaves no more than there is room for.
    fn may_cut(&self, ids: &Range<u64>) -> bool {
        let is_split =
            |tombstone: &&Tombstone| tombstone.ids.start < ids.start && ids.end < tombstone.ids.end;
        self.list.len() + self.list.iter().filter(is_split).count() <= PIECES_MAX
    }

    fn cover(&mut self) {
        let mut all: Vec<Range<u64>> = self.list.iter().map(|tombstone| tombstone.ids.clone()).collect();
        all.sort_unstable_by_key(|ids| ids.start);
        self.covered.clear();
        for ids in all {
            match self.covered.last_entry() {
                Some(mut last) if ids.start <= *last.get() => {
                    let end = ids.end.max(*last.get());
                    last.insert(end);
                }
                _ => {
                    self.covered.insert(ids.start, ids.end);
                }
            }
        }
    }
}

impl Ssd {
    /// `count` blocks from `first` on read as zeros, whatever was there with a lower `version`, until
    /// [`Self::finish_tombstone`]; none when that takes room that there is not before others are below. No record of
    /// these blocks may be under way, and no tombstone may have a higher version. It is durable with the entry that is
    /// named.
    pub fn put_tombstone(&mut self, first: BlockId, count: u64, version: Version, epoch: u64) -> Option<Seq> {
        if self.dirty.tombstones.len() >= TOMBSTONES_MAX {
            return None;
        }
        let (first, version) = (first.as_u64(), version.as_u64());
        let tombstone = Tombstone::new(first, count, version, epoch).expect("blocks of one volume, and some");
        let is_last = self.dirty.tombstones.list.last().is_none_or(|last| last.version < tombstone.version);
        assert!(is_last, "tombstones are put in the order of their versions");
        // The tombstone itself is what tells recovery that they are void.
        self.drop_clean(&tombstone.ids);
        let seq = self.queue(JournalEntry::Tombstone { first, count, version, epoch });
        self.dirty.bury(Tombstone { seq, ..tombstone });
        Some(seq)
    }

    /// Whether `block` reads as zeros, but for what a newer copy in the log has of it.
    pub fn is_buried(&self, block: BlockId) -> bool {
        self.dirty.tombstones.covers(block)
    }

    /// No journal entry that is not durable ever will be: the tombstones of those are as if they had not been put.
    pub fn withdraw_tombstones(&mut self) {
        let durable = self.journal.durable();
        self.dirty.tombstones.retain(|tombstone| tombstone.seq <= durable);
    }

    /// The backing store has discarded the range, and was synced since. To be durable before `finish_destage` of a copy that
    /// was written below over it.
    pub fn finish_tombstone(&mut self, tombstone: &Tombstone) {
        let version = Version::from_u64(tombstone.version.as_u64() + 1);
        if self.dirty.tombstones.cut(&tombstone.ids, version) {
            let (first, count) = (tombstone.ids.start, tombstone.count());
            self.queue(JournalEntry::VoidRange { first, count, version: version.as_u64() });
        }
    }

    /// Whether [`Self::void_range`] may take this out of the tombstones: not when too many pieces were left.
    pub fn may_void_range(&self, first: BlockId, count: u64) -> bool {
        self.dirty.tombstones.may_cut(&(first.as_u64()..first.as_u64().saturating_add(count)))
    }

    /// The first durable tombstone of `volume` that comes after that one in their order.
    pub(super) fn next_tombstone(&self, volume: VolumeId, after: Option<&Tombstone>) -> Option<Tombstone> {
        let durable = self.journal.durable();
        let is_next = |tombstone: &&Tombstone| {
            tombstone.seq <= durable && after.is_none_or(|after| tombstone.place() > after.place())
        };
        self.dirty.tombstones.of(volume).find(is_next).cloned()
    }

    pub(super) fn tombstone_items(&self) -> impl Iterator<Item = CheckpointItem> + '_ {
        self.dirty.tombstones.iter().map(|tombstone| CheckpointItem::Tombstone {
            first: tombstone.ids.start,
            count: tombstone.count(),
            version: tombstone.version.as_u64(),
            epoch: tombstone.epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(ids: Range<u64>, version: u64) -> Tombstone {
        Tombstone::new(ids.start, ids.end - ids.start, version, 0).expect("a range")
    }

    #[test]
    fn tombstones_cover_what_each_block_of_theirs_says_and_nothing_else() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tombstones = Tombstones::default();
        let mut model: Vec<Vec<u64>> = vec![Vec::new(); 64];
        for version in 1..400 {
            let start = random.u64(..64);
            let ids = start..random.u64(start..64) + 1;
            if random.bool() {
                let older = random.u64(..=version);
                tombstones.cut(&ids, Version::from_u64(older));
                ids.for_each(|id| model[id as usize].retain(|&other| other >= older));
            } else {
                tombstones.insert(tombstone(ids.clone(), version));
                ids.for_each(|id| model[id as usize].push(version));
            }
            for (id, versions) in model.iter().enumerate() {
                let block = BlockId::from_u64(id as u64);
                let found: Vec<u64> = tombstones
                    .iter()
                    .filter(|tombstone| tombstone.ids.contains(&(id as u64)))
                    .map(|tombstone| tombstone.version.as_u64())
                    .collect();
                assert_eq!(&found, versions, "seed {seed} version {version} block {id}");
                assert_eq!(tombstones.covers(block), !versions.is_empty(), "seed {seed} version {version}");
            }
        }
    }

    #[test]
    fn impossible_ranges_are_none() {
        let limit = BlockId::NUMBER_LIMIT;
        assert!(Tombstone::new(0, 0, 1, 0).is_none());
        assert!(Tombstone::new(u64::MAX, 1, 1, 0).is_none() && Tombstone::new(1, u64::MAX, 1, 0).is_none());
        assert!(Tombstone::new(limit - 1, 2, 1, 0).is_none(), "it reaches into the next volume");
        assert!(Tombstone::new(limit - 1, 1, 1, 0).is_some());
    }
}

//! Which versions blocks have, and what each version holds: what the checker remembers.
//!
//! Version 0 is what was there before. Every change makes the next one:
//!
//! | change                | the new version holds                                                  | remembered |
//! |-----------------------|------------------------------------------------------------------------|------------|
//! | a write               | what [`super::content`] makes of the block and the version             | its number |
//! | a discard of any part | the version before, with zeros in place of the bytes that are discarded | [`Holed`]  |
//!
//! A change is *issued* before the cache is asked for it and *committed* when that is acknowledged; in between it is *under
//! way*. At most one change of a block is under way ([`super::ranges`]). The description of a holed version is kept as long
//! as a read may give it: while it is the committed one or later, and while any read goes on that began before.
//!
//! Of a block that this run never wrote nothing is remembered, discarded or not: zeros stay zeros.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use terrace::BlockId;

/// Neighbours share a shard.
const BLOCKS_PER_GROUP_SHIFT: u32 = 6;
const SHARD_COUNT: usize = 64;

/// The versions of all blocks written so far, 17 bytes each.
pub(super) struct Versions {
    block_bytes: u32,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    /// Twice the committed version, plus one while the next is under way.
    states: HashMap<u64, u32>,
    /// Of blocks that were discarded since they were written last, in the order of versions.
    holed: HashMap<u64, Vec<Holed>>,
    /// Reads under way.
    readers: u32,
}

/// A version that a discard made.
struct Holed {
    version: u32,
    expected: Expected,
}

/// What a version holds: what was written as `written` (0: zeros), with zeros in `holes`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Expected {
    pub(super) written: u32,
    /// In bytes of the block, ascending, none beside the next.
    pub(super) holes: Vec<Range<u32>>,
}

/// What the versions of a block were when a read of it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    committed: u32,
}

/// What a read may give.
pub(super) struct Allowed {
    /// The committed version when the read began, and what it holds.
    pub(super) oldest: u32,
    pub(super) expected: Expected,
    /// What the later versions hold, up to the last that was issued when the read ended.
    pub(super) later: Vec<Expected>,
}

impl Versions {
    pub(super) fn new(block_bytes: usize) -> Self {
        let block_bytes = u32::try_from(block_bytes).expect("a block has at most a MiB");
        Self { block_bytes, shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect() }
    }

    /// A read of `block` begins; it ends in [`Self::allowed`].
    pub(super) fn see(&self, block: BlockId) -> Seen {
        let mut shard = self.shard(block);
        shard.readers += 1;
        Seen { committed: shard.state(block) / 2 }
    }

    /// A read of `block` that began when `before` was seen has ended.
    pub(super) fn allowed(&self, block: BlockId, before: Seen) -> Allowed {
        let mut shard = self.shard(block);
        shard.readers -= 1;
        let (oldest, newest) = (before.committed, shard.state(block).div_ceil(2));
        let later = (oldest + 1..=newest).map(|version| shard.expected(block, version)).collect();
        Allowed { oldest, expected: shard.expected(block, oldest), later }
    }

    /// The next version of `block`, to be written whole, is under way.
    pub(super) fn issue_write(&self, block: BlockId) -> u32 {
        self.shard(block).issue(block)
    }

    /// The next version of `block`, the last with zeros in `hole`, is under way; false when it was never written.
    pub(super) fn issue_hole(&self, block: BlockId, hole: Range<u32>) -> bool {
        let mut shard = self.shard(block);
        if !shard.states.contains_key(&block.as_u64()) {
            return false;
        }
        let version = shard.issue(block);
        let mut expected = shard.expected(block, version - 1);
        expected.add_hole(hole, self.block_bytes);
        shard.holed.entry(block.as_u64()).or_default().push(Holed { version, expected });
        true
    }

    /// The version under way was acknowledged.
    pub(super) fn commit(&self, block: BlockId) {
        let mut shard = self.shard(block);
        let state = shard.states.get_mut(&block.as_u64()).expect("it was issued");
        assert!(!state.is_multiple_of(2), "no change of block {block} is under way");
        *state += 1;
    }

    /// The blocks with these ids that were ever written, in no order; without a look at each of them when they are more than
    /// were written at all.
    pub(super) fn written_among(&self, ids: &Range<u64>) -> Vec<BlockId> {
        let shards = || self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        let written: usize = shards().map(|shard| shard.states.len()).sum();
        let mut found = Vec::new();
        if ids.end - ids.start <= written as u64 {
            let is_written = |block: &BlockId| self.shard(*block).states.contains_key(&block.as_u64());
            found.extend(ids.clone().map(BlockId::from_u64).filter(is_written));
        } else {
            for shard in shards() {
                let inside = shard.states.keys().filter(|id| ids.contains(id));
                found.extend(inside.copied().map(BlockId::from_u64));
            }
        }
        found
    }

    fn shard(&self, block: BlockId) -> MutexGuard<'_, Shard> {
        let shard = (block.as_u64() >> BLOCKS_PER_GROUP_SHIFT) as usize % SHARD_COUNT;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn state(&self, block: BlockId) -> u32 {
        self.states.get(&block.as_u64()).copied().unwrap_or(0)
    }

    fn issue(&mut self, block: BlockId) -> u32 {
        let state = self.states.entry(block.as_u64()).or_insert(0);
        assert!(state.is_multiple_of(2), "two changes of block {block} are under way");
        let committed = *state / 2;
        *state += 1;
        if self.readers == 0
            && let Some(holed) = self.holed.get_mut(&block.as_u64())
        {
            holed.retain(|holed| holed.version >= committed);
            if holed.is_empty() {
                self.holed.remove(&block.as_u64());
            }
        }
        committed + 1
    }

    fn expected(&self, block: BlockId, version: u32) -> Expected {
        let holed = self.holed.get(&block.as_u64());
        let found = holed.and_then(|holed| holed.iter().find(|holed| holed.version == version));
        found.map_or(Expected { written: version, holes: Vec::new() }, |holed| holed.expected.clone())
    }
}

impl Expected {
    fn add_hole(&mut self, hole: Range<u32>, block_bytes: u32) {
        self.holes.push(hole);
        self.holes.sort_unstable_by_key(|hole| hole.start);
        self.holes.dedup_by(|later, earlier| {
            let joins = later.start <= earlier.end;
            if joins {
                earlier.end = earlier.end.max(later.end);
            }
            joins
        });
        if self.holes.first() == Some(&(0..block_bytes)) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::block_id;
    use super::*;

    fn holed(written: u32, holes: &[(u32, u32)]) -> Expected {
        Expected { written, holes: holes.iter().map(|&(start, end)| start..end).collect() }
    }

    fn now(versions: &Versions, block: BlockId) -> Expected {
        let seen = versions.see(block);
        versions.allowed(block, seen).expected
    }

    fn punch(versions: &Versions, block: BlockId, hole: Range<u32>) {
        assert!(versions.issue_hole(block, hole));
        versions.commit(block);
    }

    fn write(versions: &Versions, block: BlockId) {
        versions.issue_write(block);
        versions.commit(block);
    }

    #[test]
    fn holes_add_up_until_the_block_is_all_zeros_or_written_again() {
        let (versions, block) = (Versions::new(4096), block_id(0, 5));
        assert!(!versions.issue_hole(block, 0..512), "nothing was written there");
        write(&versions, block);
        punch(&versions, block, 1024..2048);
        punch(&versions, block, 100..200);
        assert_eq!(now(&versions, block), holed(1, &[(100, 200), (1024, 2048)]));
        punch(&versions, block, 150..1500);
        assert_eq!(now(&versions, block), holed(1, &[(100, 2048)]));
        punch(&versions, block, 0..4096);
        assert_eq!(now(&versions, block), Expected::default());
        punch(&versions, block, 7..8);
        assert_eq!(now(&versions, block).written, 0);
        write(&versions, block);
        assert_eq!(now(&versions, block), holed(7, &[]));
    }

    #[test]
    fn a_read_knows_every_version_since_it_began_and_nothing_older_is_kept_after_it() {
        let (versions, block) = (Versions::new(4096), block_id(0, 5));
        write(&versions, block);
        punch(&versions, block, 0..512);
        let seen = versions.see(block);
        punch(&versions, block, 512..1024);
        write(&versions, block);
        versions.issue_hole(block, 0..4096);
        let allowed = versions.allowed(block, seen);
        assert_eq!((allowed.oldest, allowed.expected), (2, holed(1, &[(0, 512)])));
        assert_eq!(allowed.later, [holed(1, &[(0, 1024)]), holed(4, &[]), Expected::default()]);
        versions.commit(block);
        write(&versions, block);
        write(&versions, block);
        assert!(versions.shard(block).holed.is_empty());
    }

    #[test]
    fn what_was_written_in_a_range_is_found_whichever_of_the_two_is_larger() {
        let versions = Versions::new(4096);
        for number in [3, 200, 90_000] {
            write(&versions, block_id(1, number));
        }
        let found = |ids: Range<u64>| {
            let start = block_id(1, 0).as_u64();
            let mut found: Vec<u64> = versions
                .written_among(&(start + ids.start..start + ids.end))
                .into_iter()
                .map(BlockId::number)
                .collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(2..4), [3]);
        assert_eq!(found(0..90_000), [3, 200]);
        assert_eq!(found(0..1 << 39), [3, 200, 90_000]);
    }
}

//! Which contents a read may give, while other threads write.
//!
//! A block's writes come one after the other: a writer holds the block's stripe from issuing its version to
//! committing it. So at most one version is under way, and a read may give any version from the one committed when it
//! began to the highest issued when it ended. Reads hold nothing; they look at the versions before and after.
//!
//! Stripes are taken in ascending order of their index, which keeps writers of several blocks from waiting in a ring.
//! A stripe is held over the cache's I/O; a shard of the table never is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use terrace::BlockId;

use super::content::Content;

/// Neighbours share a stripe, so that a long request takes few.
const BLOCKS_PER_STRIPE_SHIFT: u32 = 6;
const STRIPE_COUNT: usize = 1024;
const SHARD_COUNT: usize = 64;

/// What a block holds that this run has not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Untouched {
    Zeros,
    /// A device that was there before: anything goes.
    Unknown,
}

/// The versions of all blocks written so far, 17 bytes each.
pub(crate) struct Checker {
    content: Content,
    untouched: Untouched,
    stripes: Vec<Mutex<()>>,
    /// Twice the committed version, plus one while the next is under way.
    shards: Vec<Mutex<HashMap<u64, u32>>>,
}

/// What the versions of a block were at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    committed: u32,
    issued: u32,
}

/// A read gave bytes that were never written there.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct WrongBlock {
    block: BlockId,
    oldest: u32,
    newest: u32,
    found: Found,
}

#[derive(PartialEq, Eq, Debug)]
enum Found {
    Zeros,
    Version { block: BlockId, version: u64 },
    Garbage { at: usize },
}

impl Checker {
    pub(crate) fn new(seed: u64, untouched: Untouched) -> Self {
        Self {
            content: Content::new(seed),
            untouched,
            stripes: (0..STRIPE_COUNT).map(|_| Mutex::default()).collect(),
            shards: (0..SHARD_COUNT).map(|_| Mutex::default()).collect(),
        }
    }

    /// Shuts other writers out of `count` blocks from `first` on, until the guards go.
    pub(crate) fn lock_for_write(&self, first: BlockId, count: u64) -> Vec<MutexGuard<'_, ()>> {
        let last = first.as_u64() + count - 1;
        let groups = first.as_u64() >> BLOCKS_PER_STRIPE_SHIFT..=last >> BLOCKS_PER_STRIPE_SHIFT;
        let mut stripes: Vec<usize> = groups.map(|group| group as usize % STRIPE_COUNT).collect();
        stripes.sort_unstable();
        stripes.dedup();
        // A poisoned stripe means a worker panicked; the run is ending anyway.
        stripes
            .into_iter()
            .map(|stripe| self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    /// The next version of `block` is under way; fills `bytes` with it. Its stripe must be held.
    pub(crate) fn issue(&self, block: BlockId, bytes: &mut [u8]) {
        let version = {
            let mut shard = self.shard(block);
            let state = shard.entry(block.as_u64()).or_insert(0);
            assert!(state.is_multiple_of(2), "two writers hold the stripe of block {block}");
            *state += 1;
            *state / 2 + 1
        };
        self.content.fill(block, version, bytes);
    }

    /// The version under way was acknowledged. The stripe must be held since [`Self::issue`].
    pub(crate) fn commit(&self, block: BlockId) {
        *self.shard(block).get_mut(&block.as_u64()).expect("it was issued") += 1;
    }

    /// The versions of `block` now: taken before a read, and again after it in [`Self::check`].
    pub(crate) fn see(&self, block: BlockId) -> Seen {
        let state = self.shard(block).get(&block.as_u64()).copied().unwrap_or(0);
        Seen { committed: state / 2, issued: state.div_ceil(2) }
    }

    /// Whether `bytes` are what a read of `block` may give that began when `before` was seen and has just ended.
    pub(crate) fn check(&self, block: BlockId, before: Seen, bytes: &[u8]) -> Result<(), WrongBlock> {
        let (oldest, newest) = (before.committed, self.see(block).issued);
        if oldest == 0 && self.untouched == Untouched::Unknown {
            return Ok(());
        }
        let claimed = Content::claim(bytes);
        let version = claimed.map_or(0, |(_, version)| version);
        let is_allowed = (u64::from(oldest)..=u64::from(newest)).contains(&version);
        let difference = |version| self.content.first_difference(block, version, bytes);
        let found = match (claimed, u32::try_from(version)) {
            (None, _) => match difference(0) {
                None if is_allowed => return Ok(()),
                None => Found::Zeros,
                Some(at) => Found::Garbage { at },
            },
            (Some((claimed, _)), Ok(version)) => {
                match self.content.first_difference(claimed, version, bytes) {
                    None if claimed == block && is_allowed => return Ok(()),
                    None => Found::Version { block: claimed, version: u64::from(version) },
                    // Neither what was asked for nor any other block: the oldest that would do says where it differs.
                    Some(at) if claimed == block && is_allowed => Found::Garbage { at },
                    Some(_) => Found::Garbage { at: difference(oldest).unwrap_or(0) },
                }
            }
            (Some(_), Err(_)) => Found::Garbage { at: difference(oldest).unwrap_or(0) },
        };
        Err(WrongBlock { block, oldest, newest, found })
    }

    fn shard(&self, block: BlockId) -> MutexGuard<'_, HashMap<u64, u32>> {
        let shard = (block.as_u64() >> BLOCKS_PER_STRIPE_SHIFT) as usize % SHARD_COUNT;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for WrongBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "wrong bytes in block {} of volume {}: ",
            self.block.number(),
            self.block.volume().number()
        )?;
        match (self.oldest, self.newest) {
            (0, 0) => write!(f, "expected zeros, as nothing was written there")?,
            (oldest, newest) if oldest == newest => write!(f, "expected version {oldest}")?,
            (oldest, newest) => write!(f, "expected a version from {oldest} to {newest}")?,
        }
        match self.found {
            Found::Zeros => write!(f, ", found zeros"),
            Found::Version { block, version } if block == self.block => {
                write!(f, ", found version {version}")
            }
            Found::Version { block, version } => {
                let (number, volume) = (block.number(), block.volume().number());
                write!(f, ", found version {version} of block {number} of volume {volume}")
            }
            Found::Garbage { at } => write!(f, ", found other bytes from byte {at} of the block on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::block_id;
    use super::*;

    fn written(checker: &Checker, block: BlockId) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let _guards = checker.lock_for_write(block, 1);
        checker.issue(block, &mut bytes);
        checker.commit(block);
        bytes
    }

    #[test]
    fn only_the_last_committed_version_passes_when_nobody_writes() {
        let (checker, block) = (Checker::new(1, Untouched::Zeros), block_id(0, 5));
        let zeros = vec![0; 4096];
        assert_eq!(checker.check(block, checker.see(block), &zeros), Ok(()));
        let first = written(&checker, block);
        let second = written(&checker, block);
        let check =
            |bytes: &[u8]| checker.check(block, checker.see(block), bytes).map_err(|wrong| wrong.to_string());
        assert_eq!(check(&second), Ok(()));
        let wrong = "wrong bytes in block 5 of volume 0: expected version 2, found ";
        assert_eq!(check(&first), Err(format!("{wrong}version 1")));
        assert_eq!(check(&zeros), Err(format!("{wrong}zeros")));
        let other = written(&checker, block_id(2, 7));
        assert_eq!(check(&other), Err(format!("{wrong}version 1 of block 7 of volume 2")));
        let mut torn = second.clone();
        torn[512..1024].copy_from_slice(&first[512..1024]);
        assert_eq!(check(&torn), Err(format!("{wrong}other bytes from byte 512 of the block on")));
    }

    #[test]
    fn a_read_beside_a_write_may_give_either_and_a_later_one_only_the_new() {
        let (checker, block) = (Checker::new(1, Untouched::Zeros), block_id(0, 5));
        let first = written(&checker, block);
        let before = checker.see(block);
        let mut second = vec![0; 4096];
        let guards = checker.lock_for_write(block, 1);
        checker.issue(block, &mut second);
        for bytes in [&first, &second] {
            assert_eq!(checker.check(block, before, bytes), Ok(()), "while it is under way");
        }
        checker.commit(block);
        drop(guards);
        for bytes in [&first, &second] {
            assert_eq!(checker.check(block, before, bytes), Ok(()), "begun before it was under way");
        }
        assert!(checker.check(block, checker.see(block), &first).is_err());
        assert_eq!(checker.check(block, checker.see(block), &second), Ok(()));
    }

    #[test]
    fn bytes_of_an_unknown_device_pass_until_this_run_wrote_them() {
        let (checker, block) = (Checker::new(1, Untouched::Unknown), block_id(0, 5));
        let foreign = vec![0xab; 4096];
        assert_eq!(checker.check(block, checker.see(block), &foreign), Ok(()));
        let _first = written(&checker, block);
        assert!(checker.check(block, checker.see(block), &foreign).is_err());
    }

    #[test]
    fn writers_of_overlapping_ranges_in_any_order_all_come_through() {
        let checker = Checker::new(1, Untouched::Zeros);
        std::thread::scope(|scope| {
            for worker in 0..4u64 {
                let checker = &checker;
                scope.spawn(move || {
                    let mut bytes = vec![0; 4096];
                    for round in 0..200u64 {
                        let first = block_id(0, (worker * 7919 + round * 64 * 1000) % 70_000);
                        let count = 1 + round % 300;
                        let _guards = checker.lock_for_write(first, count);
                        for number in 0..count {
                            checker.issue(block_id(0, first.number() + number), &mut bytes);
                        }
                        for number in 0..count {
                            checker.commit(block_id(0, first.number() + number));
                        }
                    }
                });
            }
        });
    }
}

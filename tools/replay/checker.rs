//! Which contents a read may give, while other threads write and discard.
//!
//! Changes of a block (writes, discards) come one after the other: who makes one holds the block's range from issuing the
//! version to committing it. So a read may give any version from the one committed when it began to the highest issued
//! when it ended. Reads hold nothing; they look at the versions before and after.
//!
//! A discard may begin and end anywhere. As in the library it leaves zeros in the very bytes that it names, and the rest
//! of the blocks at its ends as it was.

use std::fmt;
use std::ops::Range;

use terrace::BlockId;

use super::content::Content;
use super::ranges::{Held, Ranges};
use super::versions::{Expected, Seen, Versions};

/// What a block holds that this run has not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Untouched {
    Zeros,
    /// A device that was there before: anything goes, also after a discard.
    Unknown,
}

pub(crate) struct Checker {
    content: Content,
    untouched: Untouched,
    block_bytes: u32,
    ranges: Ranges,
    versions: Versions,
}

/// A discard that is under way.
pub(super) struct Discarding<'a> {
    checker: &'a Checker,
    /// Those of its blocks that were ever written.
    blocks: Vec<BlockId>,
    _held: Held<'a>,
}

/// A read gave bytes that were never written there.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct WrongBlock {
    block: BlockId,
    oldest: u32,
    newest: u32,
    /// What the oldest version holds.
    expected: Expected,
    found: Found,
}

#[derive(PartialEq, Eq, Debug)]
enum Found {
    Zeros,
    Version { block: BlockId, version: u64 },
    Garbage { at: usize },
}

impl Checker {
    pub(crate) fn new(seed: u64, untouched: Untouched, block_bytes: usize) -> Self {
        let versions = Versions::new(block_bytes);
        let block_bytes = u32::try_from(block_bytes).expect("a block has at most a MiB");
        let content = Content::new(seed);
        Self { content, untouched, block_bytes, ranges: Ranges::default(), versions }
    }

    /// Shuts others that change `count` blocks from `first` on out, until the guard goes; there is at least one.
    pub(super) fn hold(&self, first: BlockId, count: u64) -> Held<'_> {
        self.ranges.hold(first.as_u64()..first.as_u64() + count)
    }

    /// The next version of `block` is under way; fills `bytes` with it. The block must be held.
    pub(super) fn issue(&self, block: BlockId, bytes: &mut [u8]) {
        self.content.fill(block, self.versions.issue_write(block), bytes);
    }

    /// The version under way was acknowledged. The block must be held since it was issued.
    pub(super) fn commit(&self, block: BlockId) {
        self.versions.commit(block);
    }

    /// Zeros in place of `bytes` bytes are under way, `offset` bytes into the volume whose first block is `volume`. There is
    /// at least one.
    pub(super) fn issue_discard(&self, volume: BlockId, offset: u64, bytes: u64) -> Discarding<'_> {
        let block_bytes = u64::from(self.block_bytes);
        let (first, end) = (offset / block_bytes, (offset + bytes).div_ceil(block_bytes));
        let ids = volume.as_u64() + first..volume.as_u64() + end;
        let held = self.ranges.hold(ids.clone());
        let mut blocks = self.versions.written_among(&ids);
        let hole = |block: &BlockId| -> Range<u32> {
            let start = block.number() * block_bytes;
            let inside = |at: u64| at.clamp(start, start + block_bytes) - start;
            inside(offset) as u32..inside(offset + bytes) as u32
        };
        blocks.retain(|block| self.versions.issue_hole(*block, hole(block)));
        Discarding { checker: self, blocks, _held: held }
    }

    /// A read of `block` begins. Each is followed by a [`Self::check`].
    pub(super) fn see(&self, block: BlockId) -> Seen {
        self.versions.see(block)
    }

    /// Whether `bytes` are what a read of `block` may give that began when `before` was seen and has just ended.
    pub(super) fn check(&self, block: BlockId, before: Seen, bytes: &[u8]) -> Result<(), WrongBlock> {
        let allowed = self.versions.allowed(block, before);
        let oldest = allowed.oldest;
        if oldest == 0 && self.untouched == Untouched::Unknown {
            return Ok(());
        }
        let is = |expected: &Expected| self.first_difference(block, expected, bytes).is_none();
        if is(&allowed.expected) || allowed.later.iter().any(is) {
            return Ok(());
        }
        let newest = oldest + allowed.later.len() as u32;
        let found = self.identify(block, &allowed.expected, bytes);
        Err(WrongBlock { block, oldest, newest, expected: allowed.expected, found })
    }

    fn first_difference(&self, block: BlockId, expected: &Expected, bytes: &[u8]) -> Option<usize> {
        if expected.holes.is_empty() {
            return self.content.first_difference(block, expected.written, bytes);
        }
        let mut wanted = vec![0; bytes.len()];
        self.content.fill(block, expected.written, &mut wanted);
        for hole in &expected.holes {
            wanted[hole.start as usize..hole.end as usize].fill(0);
        }
        bytes.iter().zip(&wanted).position(|(byte, wanted)| byte != wanted)
    }

    /// What `bytes` are in place of what was `expected`.
    fn identify(&self, block: BlockId, expected: &Expected, bytes: &[u8]) -> Found {
        let garbage = || Found::Garbage { at: self.first_difference(block, expected, bytes).unwrap_or(0) };
        match Content::claim(bytes) {
            None if self.content.first_difference(block, 0, bytes).is_none() => Found::Zeros,
            None => garbage(),
            Some((claimed, version)) => match u32::try_from(version) {
                Ok(number) if self.content.first_difference(claimed, number, bytes).is_none() => {
                    Found::Version { block: claimed, version }
                }
                _ => garbage(),
            },
        }
    }
}

impl Discarding<'_> {
    /// The discard was acknowledged.
    pub(super) fn commit(self) {
        self.blocks.iter().for_each(|block| self.checker.versions.commit(*block));
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
            (oldest, newest) if oldest < newest => write!(f, "expected a version from {oldest} to {newest}")?,
            _ if self.expected == Expected::default() => write!(f, "expected zeros, as it was discarded")?,
            (oldest, _) if self.expected.holes.is_empty() => write!(f, "expected version {oldest}")?,
            _ => write!(f, "expected version {}, a part of it discarded", self.expected.written)?,
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
        let _held = checker.hold(block, 1);
        checker.issue(block, &mut bytes);
        checker.commit(block);
        bytes
    }

    #[test]
    fn only_the_last_committed_version_passes_when_nobody_writes() {
        let (checker, block) = (Checker::new(1, Untouched::Zeros, 4096), block_id(0, 5));
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
        let (checker, block) = (Checker::new(1, Untouched::Zeros, 4096), block_id(0, 5));
        let first = written(&checker, block);
        let before = [(); 4].map(|()| checker.see(block));
        let mut second = vec![0; 4096];
        let held = checker.hold(block, 1);
        checker.issue(block, &mut second);
        for (before, bytes) in before[..2].iter().zip([&first, &second]) {
            assert_eq!(checker.check(block, *before, bytes), Ok(()), "while it is under way");
        }
        checker.commit(block);
        drop(held);
        for (before, bytes) in before[2..].iter().zip([&first, &second]) {
            assert_eq!(checker.check(block, *before, bytes), Ok(()), "begun before it was under way");
        }
        assert!(checker.check(block, checker.see(block), &first).is_err());
        assert_eq!(checker.check(block, checker.see(block), &second), Ok(()));
    }

    #[test]
    fn bytes_of_an_unknown_device_pass_until_this_run_wrote_them() {
        let (checker, block) = (Checker::new(1, Untouched::Unknown, 4096), block_id(0, 5));
        let foreign = vec![0xab; 4096];
        assert_eq!(checker.check(block, checker.see(block), &foreign), Ok(()));
        let _first = written(&checker, block);
        assert!(checker.check(block, checker.see(block), &foreign).is_err());
    }

    #[test]
    fn a_discard_leaves_zeros_in_its_bytes_and_the_rest_of_the_blocks_at_its_ends() {
        let checker = Checker::new(1, Untouched::Zeros, 4096);
        let mut blocks: Vec<Vec<u8>> = (4..8).map(|number| written(&checker, block_id(0, number))).collect();
        let check = |number: u64, bytes: &[u8]| {
            let block = block_id(0, number);
            checker.check(block, checker.see(block), bytes).map_err(|wrong| wrong.to_string())
        };
        checker.issue_discard(block_id(0, 0), 4 * 4096 + 1000, 2 * 4096 + 24).commit();
        blocks[0][1000..].fill(0);
        blocks[1].fill(0);
        let whole = blocks[2].clone();
        blocks[2][..1024].fill(0);
        for (number, bytes) in (4..8).zip(&blocks) {
            assert_eq!(check(number, bytes), Ok(()), "block {number}");
        }
        let wrong = |number| format!("wrong bytes in block {number} of volume 0: expected ");
        let in_part = "version 1, a part of it discarded, found version 1";
        assert_eq!(check(6, &whole), Err(wrong(6) + in_part));
        assert_eq!(
            check(5, &whole),
            Err(wrong(5) + "zeros, as it was discarded, found version 1 of block 6 of volume 0")
        );
        blocks[0][999] ^= 1;
        let at = "version 1, a part of it discarded, found other bytes from byte 999 of the block on";
        assert_eq!(check(4, &blocks[0]), Err(wrong(4) + at));
        assert_eq!(check(5, &written(&checker, block_id(0, 5))), Ok(()), "written again");
    }

    #[test]
    fn a_read_beside_a_discard_may_give_the_bytes_or_zeros_and_a_later_one_only_zeros() {
        let (checker, block) = (Checker::new(1, Untouched::Zeros, 4096), block_id(0, 5));
        let (first, zeros) = (written(&checker, block), vec![0; 4096]);
        let before = [(); 2].map(|()| checker.see(block));
        let discarding = checker.issue_discard(block_id(0, 0), 0, 1 << 40);
        assert_eq!(checker.check(block, checker.see(block), &first), Ok(()), "while it is under way");
        discarding.commit();
        for (before, bytes) in before.into_iter().zip([&first, &zeros]) {
            assert_eq!(checker.check(block, before, bytes), Ok(()), "begun before it was under way");
        }
        assert!(checker.check(block, checker.see(block), &first).is_err());
        assert_eq!(checker.check(block, checker.see(block), &zeros), Ok(()));
    }
}

//! Which blocks are to be destaged, in the order in which they are: by volume, epoch and address.
//!
//! A bit a block, in words of 64 neighbours: neighbours take next to nothing, and a block that has none a word of its own.

use std::collections::BTreeMap;

use crate::block::{BlockId, VolumeId};

/// What one entry of a `BTreeMap` from `u64` to `u64` takes at the most: a leaf of 11 is half full, and has its share of
/// the nodes above.
const ENTRY_BYTES_MAX: usize = 40;
/// What a map of its own takes beyond that.
const EPOCH_BYTES: usize = 256;

const BITS: u64 = u64::BITS as u64;

/// The ids that these words have.
fn ids<'a>(words: impl Iterator<Item = (&'a u64, &'a u64)>) -> impl Iterator<Item = u64> {
    words.flat_map(|(&at, &word)| {
        (0..BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * BITS + bit)
    })
}

#[derive(Default)]
struct Epoch {
    count: usize,
    /// Of 64 neighbours each, by the first of them.
    words: BTreeMap<u64, u64>,
}

#[derive(Default)]
pub(super) struct DestageOrder {
    count: usize,
    words: usize,
    epochs: BTreeMap<(VolumeId, u64), Epoch>,
}

fn word_of(block: BlockId) -> (u64, u64) {
    (block.as_u64() / BITS, 1 << (block.as_u64() % BITS))
}

impl DestageOrder {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn count_of(&self, volume: VolumeId) -> usize {
        self.of(volume).map(|(_, epoch)| epoch.count).sum()
    }

    /// RAM of all this, at the most.
    pub(super) fn bytes(&self) -> usize {
        self.words * ENTRY_BYTES_MAX + self.epochs.len() * EPOCH_BYTES
    }

    pub(super) fn insert(&mut self, epoch: u64, block: BlockId) {
        let epoch = self.epochs.entry((block.volume(), epoch)).or_default();
        let (at, bit) = word_of(block);
        let before = epoch.words.len();
        let word = epoch.words.entry(at).or_default();
        if *word & bit == 0 {
            *word |= bit;
            epoch.count += 1;
            self.count += 1;
            self.words += epoch.words.len() - before;
        }
    }

    pub(super) fn remove(&mut self, epoch: u64, block: BlockId) {
        let key = (block.volume(), epoch);
        let Some(epoch) = self.epochs.get_mut(&key) else { return };
        let (at, bit) = word_of(block);
        let Some(word) = epoch.words.get_mut(&at).filter(|word| **word & bit != 0) else { return };
        *word &= !bit;
        if *word == 0 {
            epoch.words.remove(&at);
            self.words -= 1;
        }
        epoch.count -= 1;
        self.count -= 1;
        if epoch.count == 0 {
            self.epochs.remove(&key);
        }
    }

    pub(super) fn first_epoch(&self, volume: VolumeId) -> Option<u64> {
        self.of(volume).next().map(|(epoch, _)| epoch)
    }

    pub(super) fn last_epoch(&self, volume: VolumeId) -> Option<u64> {
        self.of(volume).next_back().map(|(epoch, _)| epoch)
    }

    /// From `from` on, the first run of neighbours of this epoch, at most `count`.
    pub(super) fn run(&self, epoch: u64, from: BlockId, count: usize) -> Vec<BlockId> {
        let Some(epoch) = self.epochs.get(&(from.volume(), epoch)) else { return Vec::new() };
        let known = ids(epoch.words.range(from.as_u64() / BITS..));
        let mut run: Vec<BlockId> = Vec::new();
        for id in known.skip_while(|&id| id < from.as_u64()).take(count) {
            if run.last().is_some_and(|last| last.as_u64() + 1 != id) {
                break;
            }
            run.push(BlockId::from_u64(id));
        }
        run
    }

    /// All blocks, each with its epoch.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, BlockId)> + '_ {
        self.epochs
            .iter()
            .flat_map(|((_, epoch), known)| ids(known.words.iter()).map(|id| (*epoch, BlockId::from_u64(id))))
    }

    fn of(&self, volume: VolumeId) -> impl DoubleEndedIterator<Item = (u64, &Epoch)> {
        self.epochs.range((volume, 0)..=(volume, u64::MAX)).map(|((_, epoch), known)| (*epoch, known))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn runs_and_counts_are_those_of_a_set_of_volumes_epochs_and_blocks() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut order = DestageOrder::default();
        let mut model: BTreeSet<(VolumeId, u64, BlockId)> = BTreeSet::new();
        for _ in 0..5000 {
            let volume = VolumeId::new(random.u32(..3));
            let (epoch, block) = (random.u64(..3), BlockId::new(volume, random.u64(..300)));
            if random.u32(..3) < 2 {
                order.insert(epoch, block);
                model.insert((volume, epoch, block));
            } else {
                order.remove(epoch, block);
                model.remove(&(volume, epoch, block));
            }
            let of_volume: Vec<_> = model.iter().filter(|known| known.0 == volume).collect();
            assert_eq!(order.count(), model.len(), "seed {seed}");
            assert_eq!(order.count_of(volume), of_volume.len(), "seed {seed}");
            assert_eq!(order.first_epoch(volume), of_volume.first().map(|known| known.1), "seed {seed}");
            assert_eq!(order.last_epoch(volume), of_volume.last().map(|known| known.1), "seed {seed}");
            let (from, count) = (BlockId::new(volume, random.u64(..300)), random.usize(1..9));
            let mut next = None;
            let all =
                of_volume.iter().filter(|known| known.1 == epoch && known.2 >= from).map(|known| known.2);
            let run: Vec<BlockId> = all
                .take_while(|block| {
                    let follows = next.is_none_or(|next| block.as_u64() == next);
                    next = Some(block.as_u64() + 1);
                    follows
                })
                .take(count)
                .collect();
            assert_eq!(order.run(epoch, from, count), run, "seed {seed}");
        }
    }
}

//! Which parts of a volume are holes: its tiers and its backing store seen as one.
//!
//! | of a block ...                                              | the answer is             |
//! |-------------------------------------------------------------|---------------------------|
//! | something is dirty or unsynced in RAM or in the log         | data                      |
//! | it was lost                                                 | data: reading it fails    |
//! | it was discarded, and the backing store may not know yet    | a hole                    |
//! | none of this                                                | what the backing store says |
//!
//! Invariant: what was written when the call began, and not discarded since, is never a hole. Every block is judged in the
//! tiers *first*, and the backing store is asked afterwards, only about blocks that had nothing newer. At the moment in
//! which a block was judged to have nothing newer, each write to it that was acknowledged before had been written below;
//! the device is asked later than that, and what was written to it is no hole (see `Device::extents`). Asked in the other
//! order, a block could be a hole below, be written below and become clean, and only then be judged: its data would be
//! denied. (`a_hole_below_that_is_filled_before_the_tiers_are_asked_is_data`.)
//!
//! A block is judged under the lock of its shard, where it cannot move from RAM to the log unseen. What is written or
//! discarded beside the call may be seen or not. Nothing is referenced, nothing moves.

use terrace_tiers::block::BlockId;
use terrace_tiers::device::Extent;

use super::dirty::VolumeState;
use super::{Inner, Result};

/// Blocks of one call: a few milliseconds of locks, taken one by one.
const BLOCKS_MAX: u64 = 16 << 10;

/// What the tiers know of a block that the backing store does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Newer {
    Data,
    Zeros,
    Nothing,
}

impl Inner {
    /// See [`super::Volume::extents`].
    pub(super) fn extents(
        &self,
        volume: &VolumeState,
        offset: u64,
        bytes: u64,
        count_max: usize,
    ) -> Result<Vec<Extent>> {
        self.check_volume(volume)?;
        volume.check_stretch(offset, bytes)?;
        let mut extents = Extents { found: Vec::new(), count_max: count_max.max(1) };
        if bytes == 0 {
            return Ok(extents.found);
        }
        let first = volume.block_number(offset);
        let last = volume.block_number(offset + bytes - 1).min(first + BLOCKS_MAX - 1);
        let end = (offset + bytes).min((last + 1) << self.size.shift());
        let newer: Vec<Newer> = (first..=last).map(|number| self.newer(volume, number)).collect();
        let (mut at, mut number) = (offset, first);
        for alike in newer.chunk_by(|one, other| one == other) {
            number += alike.len() as u64;
            let stop = (number << self.size.shift()).min(end);
            let is_full = match alike[0] {
                Newer::Data => !extents.push(Extent { bytes: stop - at, is_hole: false }),
                Newer::Zeros => !extents.push(Extent { bytes: stop - at, is_hole: true }),
                Newer::Nothing => {
                    let below = volume.device.extents(at, stop - at, extents.count_max)?;
                    let told: u64 = below.iter().map(|extent| extent.bytes).sum();
                    let all_fit = below.into_iter().all(|extent| extents.push(extent));
                    !all_fit || told < stop - at
                }
            };
            if is_full {
                break;
            }
            at = stop;
        }
        Ok(extents.found)
    }

    fn newer(&self, volume: &VolumeState, number: u64) -> Newer {
        let block = BlockId::new(volume.id, number);
        if volume.is_unreadable(block) {
            return Newer::Data;
        }
        let mut shard = self.shard(block);
        if shard.entry_of(block).is_some_and(|(_, entry)| entry.is_pinned()) {
            return Newer::Data;
        }
        if shard.is_discarded(block) {
            return Newer::Zeros;
        }
        let Some(ssd) = self.ssd() else { return Newer::Nothing };
        ssd.with(|tier| match tier.dirty_mask(block) {
            Some(_) => Newer::Data,
            None if tier.is_buried(block) => Newer::Zeros,
            None => Newer::Nothing,
        })
    }
}

/// Pieces in the order of addresses, neighbours that are alike joined.
struct Extents {
    found: Vec<Extent>,
    count_max: usize,
}

impl Extents {
    /// False when there is no room for it.
    fn push(&mut self, extent: Extent) -> bool {
        let count = self.found.len();
        match self.found.last_mut() {
            Some(last) if last.is_hole == extent.is_hole => last.bytes += extent.bytes,
            _ if count == self.count_max => return false,
            _ => self.found.push(extent),
        }
        true
    }
}

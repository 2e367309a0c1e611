//! Where the bytes of a block are, asked by someone who draws a map: no reference, no hit, nothing moves.
//!
//! Each block is judged under the lock of its shard, so its own answer is of one moment; those of two blocks are not.

use std::ops::Range;

use terrace_tiers::block::{BlockId, mask};

use super::dirty::VolumeState;
use super::{Inner, Result};
use crate::error::Error;

/// Where the bytes of one block are. Of one that is nowhere here, only the backing store has them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BlockPlace {
    /// RAM has all of it.
    pub in_ram: bool,
    /// The SSD has a copy of it, or part of one, or soon will.
    pub on_ssd: bool,
    /// Something of it is newer than the backing store, or written there and not yet durable; or the backing store is still
    /// to be told that it was discarded.
    pub is_dirty: bool,
}

impl Inner {
    pub(super) fn places(&self, volume: &VolumeState, blocks: Range<u64>) -> Result<Vec<BlockPlace>> {
        self.check_volume(volume)?;
        let block_bytes = self.size.bytes() as u64;
        if blocks.end > volume.len_bytes.div_ceil(block_bytes) {
            let bytes = blocks.end.saturating_sub(blocks.start).saturating_mul(block_bytes);
            let offset = blocks.start.saturating_mul(block_bytes);
            return Err(Error::OutOfRange { offset, bytes, volume_bytes: volume.len_bytes });
        }
        Ok(blocks.map(|number| self.place_of(volume, number)).collect())
    }

    fn place_of(&self, volume: &VolumeState, number: u64) -> BlockPlace {
        let block = BlockId::new(volume.id, number);
        let mut shard = self.shard(block);
        let mut place = BlockPlace { is_dirty: shard.is_discarded(block), ..BlockPlace::default() };
        if let Some((_, entry)) = shard.entry_of(block) {
            let sectors = entry.sectors.as_ref();
            let is_whole = sectors.is_none_or(|s| mask::contains(s.valid(), 0..self.size.sectors()));
            place.in_ram = entry.frame.is_some() && is_whole;
            place.is_dirty |= entry.is_pinned();
        }
        if let Some(ssd) = self.ssd().filter(|_| !shard.is_fenced(block)) {
            let (contains, is_dirty) = ssd.with(|tier| {
                (tier.contains(block), tier.dirty_mask(block).is_some() || tier.is_buried(block))
            });
            place.on_ssd = contains && (is_dirty || !ssd.is_off());
            place.is_dirty |= is_dirty;
        }
        place
    }
}

//! Block status: which parts of an export are holes, and where the cache has what is in the others.
//!
//! | context           | flags                                                                              |
//! |-------------------|------------------------------------------------------------------------------------|
//! | `base:allocation` | 1: nothing is allocated, 2: reads as zeros. Seen through the cache: what is dirty is data, what was discarded is a hole |
//! | `x-terrace:tier`  | 1: RAM has all of it, 2: the SSD has a copy, 4: it is newer than the backing store. 0: only the backing store has it |

use terrace::{BlockPlace, Volume};
use terrace_nbd::Extent;

/// The meta contexts of every export, in the order of [`of`].
pub(super) const CONTEXTS: [&str; 2] = ["base:allocation", "x-terrace:tier"];

const IN_RAM: u32 = 1;
const ON_SSD: u32 = 2;
const DIRTY: u32 = 4;

/// Blocks of one answer: a lock for each. Clients ask for the rest when an answer ends early.
const BLOCKS_MAX: u64 = 16 << 10;

/// What context number `context` says of `bytes` bytes from `offset` on, in at most `count_max` pieces.
pub(super) fn of(
    volume: &Volume,
    context: usize,
    offset: u64,
    bytes: u64,
    count_max: usize,
) -> terrace::Result<Vec<Extent>> {
    if context == 0 {
        allocation(volume, offset, bytes, count_max)
    } else {
        tiers(volume, offset, bytes, count_max)
    }
}

fn allocation(volume: &Volume, offset: u64, bytes: u64, count_max: usize) -> terrace::Result<Vec<Extent>> {
    let extents = volume.extents(offset, bytes, count_max)?;
    let flags = |is_hole| if is_hole { Extent::HOLE | Extent::ZERO } else { 0 };
    Ok(extents
        .into_iter()
        .map(|extent| Extent { bytes: extent.bytes, flags: flags(extent.is_hole) })
        .collect())
}

fn tiers(volume: &Volume, offset: u64, bytes: u64, count_max: usize) -> terrace::Result<Vec<Extent>> {
    let (block_bytes, end) = (volume.block_size().bytes() as u64, offset + bytes);
    let first = offset / block_bytes;
    let last = end.div_ceil(block_bytes).min(first + BLOCKS_MAX);
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = offset;
    for (number, place) in (first..last).zip(volume.places(first..last)?) {
        let stop = ((number + 1) * block_bytes).min(end);
        let (bytes, flags) = (stop - at, flags_of(place));
        let count = extents.len();
        match extents.last_mut() {
            Some(last) if last.flags == flags => last.bytes += bytes,
            _ if count == count_max => break,
            _ => extents.push(Extent { bytes, flags }),
        }
        at = stop;
    }
    Ok(extents)
}

fn flags_of(place: BlockPlace) -> u32 {
    [(place.in_ram, IN_RAM), (place.on_ssd, ON_SSD), (place.is_dirty, DIRTY)]
        .into_iter()
        .filter_map(|(is_so, flag)| is_so.then_some(flag))
        .sum()
}

//! What [`super::arc_policy`] asks of the memory under it: blocks in lists, each found by its id.

use super::rings::{Link, PLACES, Place, Rings};
use crate::block::BlockId;

/// Blocks in the lists of their places. An entry names a block until it is deleted, converted or touched.
pub trait BlockLists {
    /// The entries that are or may become residents.
    fn resident_entries(&self) -> u32;

    /// Every byte allocated.
    fn allocated_bytes(&self) -> usize;

    fn len(&self, place: Place) -> u32;

    fn id(&self, entry: u32) -> BlockId;

    fn place(&self, entry: u32) -> Place;

    /// The entry of `block`.
    fn find(&self, block: BlockId) -> Option<u32>;

    /// The entry of the list that was longest without a use. May note where it was found.
    fn coldest(&mut self, place: Place) -> Option<u32>;

    /// From the coldest to the hottest.
    fn iter(&self, place: Place) -> impl Iterator<Item = u32> + '_;

    /// Adds `block`, which must be absent, at the hot end of a list of residents.
    fn insert(&mut self, block: BlockId, place: Place) -> u32;

    /// Gives back an entry whose place is `from`.
    fn delete(&mut self, entry: u32, from: Place);

    /// Makes a ghost of its side's coldest resident, or a resident of a ghost, at the hot end of `to`; its new entry.
    fn convert(&mut self, entry: u32, from: Place, to: Place) -> u32;

    /// A resident is used once more: to the hot end of [`Place::Frequent`]; its new entry.
    fn touch(&mut self, entry: u32) -> u32;

    /// Walks everything.
    ///
    /// # Panics
    /// When an invariant does not hold.
    fn assert_invariants(&self);
}

/// Blocks that were numbered from 0 on, an entry of 8 bytes each whether they are in a list or not: nothing is hashed, and
/// to find a block is to look at it. For simulations that are told one reference after another; of a trace that is known
/// beforehand [`Timeline`](super::arc_policy::Timeline) is faster still.
///
/// Invariant: entry `PLACES + n` is block n; one in no list of the policy's is in no ring, and its place is
/// `FreeResident`: to take it costs no look at strangers.
pub struct DenseLists {
    rings: Rings<Link>,
}

impl DenseLists {
    /// For blocks whose id is below `ids`.
    pub(super) fn new(ids: u32) -> Self {
        let mut rings = Rings::new();
        rings.entries.resize(PLACES + ids as usize, Link::lone(Place::FreeResident));
        Self { rings }
    }
}

impl BlockLists for DenseLists {
    fn resident_entries(&self) -> u32 {
        // As elsewhere one more than can be resident.
        (self.rings.entries.len() - PLACES) as u32 + 1
    }

    fn allocated_bytes(&self) -> usize {
        self.rings.entries.capacity() * size_of::<Link>()
    }

    #[inline]
    fn len(&self, place: Place) -> u32 {
        self.rings.len(place)
    }

    #[inline]
    fn id(&self, entry: u32) -> BlockId {
        BlockId::from_u64(u64::from(entry) - PLACES as u64)
    }

    #[inline]
    fn place(&self, entry: u32) -> Place {
        self.rings.place(entry)
    }

    #[inline]
    fn find(&self, block: BlockId) -> Option<u32> {
        let entry = block.as_u64() as u32 + PLACES as u32;
        (!self.rings.place(entry).is_free()).then_some(entry)
    }

    #[inline]
    fn coldest(&mut self, place: Place) -> Option<u32> {
        self.rings.coldest(place)
    }

    fn iter(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        self.rings.iter(place)
    }

    #[inline]
    fn insert(&mut self, block: BlockId, place: Place) -> u32 {
        let entry = block.as_u64() as u32 + PLACES as u32;
        self.rings.link_hot(entry, place);
        entry
    }

    #[inline]
    fn delete(&mut self, entry: u32, _from: Place) {
        self.rings.unlink(entry);
        self.rings.entries[entry as usize] = Link::lone(Place::FreeResident);
    }

    #[inline]
    fn convert(&mut self, entry: u32, _from: Place, to: Place) -> u32 {
        self.rings.move_hot(entry, to);
        entry
    }

    #[inline]
    fn touch(&mut self, entry: u32) -> u32 {
        self.rings.move_hot(entry, Place::Frequent);
        entry
    }

    fn assert_invariants(&self) {
        let listed = self.rings.assert_sound(|entry, place| {
            assert_eq!(self.find(self.id(entry)), Some(entry), "{place:?}");
        });
        let entries = PLACES as u32..self.rings.entries.len() as u32;
        let taken = entries.filter(|&entry| !self.rings.place(entry).is_free()).count();
        assert_eq!(taken, listed, "blocks that say so are in no list");
    }
}

//! Rings of entries, one a [`Place`]: the lists of [`super::arc_policy`], whatever else an entry holds.
//!
//! Every entry is in the ring of its place, or in none. A ring goes through its sentinel, whose `next` is the coldest
//! entry and whose `prev` is the hottest: linking and unlinking have no special cases and no branches. The sentinels
//! are the first [`PLACES`] entries.
//!
//! Invariant, checked by [`Rings::assert_sound`]: every ring is sound, of entries that say so, as many as `lengths` says.

/// Which list an entry is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Recent,
    Frequent,
    RecentAside,
    FrequentAside,
    RecentGhost,
    FrequentGhost,
    FreeResident,
    FreeGhost,
}

impl Place {
    pub(super) const ALL: [Self; PLACES] = [
        Self::Recent,
        Self::Frequent,
        Self::RecentAside,
        Self::FrequentAside,
        Self::RecentGhost,
        Self::FrequentGhost,
        Self::FreeResident,
        Self::FreeGhost,
    ];

    /// Where the list starts and ends.
    #[inline]
    fn sentinel(self) -> u32 {
        self as u32
    }

    #[inline]
    pub(super) fn is_resident(self) -> bool {
        (self as u32) < Self::RecentGhost as u32
    }

    #[inline]
    pub(super) fn is_free(self) -> bool {
        self as u32 >= Self::FreeResident as u32
    }

    /// Where an entry of this place's kind goes when it is given back.
    pub(super) fn free(self) -> Self {
        if self.is_resident() { Self::FreeResident } else { Self::FreeGhost }
    }
}

pub(super) const PLACES: usize = 8;

/// The upper 3 bits of an entry's `place_and_prev` are its place.
const INDEX_BITS: u32 = 29;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// The most entries there can be.
pub(super) const ENTRIES_MAX: usize = 1 << INDEX_BITS;

/// Where an entry is, and its neighbours.
#[derive(Clone, Copy, Default)]
pub(super) struct Link {
    place_and_prev: u32,
    next: u32,
}

impl Link {
    /// Of an entry in no ring.
    pub(super) fn lone(place: Place) -> Self {
        Self { place_and_prev: (place as u32) << INDEX_BITS, next: 0 }
    }

    #[inline]
    fn prev(self) -> u32 {
        self.place_and_prev & INDEX_MASK
    }

    #[inline]
    fn set_prev(&mut self, prev: u32) {
        self.place_and_prev = self.place_and_prev & !INDEX_MASK | prev;
    }

    #[inline]
    fn place(self) -> Place {
        Place::ALL[(self.place_and_prev >> INDEX_BITS) as usize]
    }
}

/// An entry has a link in it.
pub(super) trait Linked: Copy + Default {
    fn link(&self) -> Link;

    fn link_mut(&mut self) -> &mut Link;
}

impl Linked for Link {
    #[inline]
    fn link(&self) -> Link {
        *self
    }

    #[inline]
    fn link_mut(&mut self) -> &mut Link {
        self
    }
}

/// See the head of this file. Entries are named by their index.
pub(super) struct Rings<E> {
    pub(super) entries: Vec<E>,
    lengths: [u32; PLACES],
}

impl<E: Linked> Rings<E> {
    /// The empty rings.
    pub(super) fn new() -> Self {
        let mut rings = Self { entries: vec![E::default(); PLACES], lengths: [0; PLACES] };
        Place::ALL.into_iter().for_each(|place| rings.reset(place));
        rings
    }

    #[inline]
    pub(super) fn len(&self, place: Place) -> u32 {
        self.lengths[place as usize]
    }

    #[inline]
    pub(super) fn place(&self, entry: u32) -> Place {
        self.link_of(entry).place()
    }

    /// The entry of the list that was longest without a use.
    #[inline]
    pub(super) fn coldest(&self, place: Place) -> Option<u32> {
        let entry = self.link_of(place.sentinel()).next;
        (entry != place.sentinel()).then_some(entry)
    }

    /// The entry that was linked last at the hot end.
    #[inline]
    pub(super) fn hottest(&self, place: Place) -> Option<u32> {
        let entry = self.link_of(place.sentinel()).prev();
        (entry != place.sentinel()).then_some(entry)
    }

    /// From the coldest to the hottest.
    pub(super) fn iter(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        let mut entry = place.sentinel();
        std::iter::from_fn(move || {
            entry = self.link_of(entry).next;
            (entry != place.sentinel()).then_some(entry)
        })
    }

    #[inline]
    pub(super) fn move_hot(&mut self, entry: u32, place: Place) {
        self.unlink(entry);
        self.link_hot(entry, place);
    }

    pub(super) fn move_cold(&mut self, entry: u32, place: Place) {
        self.unlink(entry);
        self.link_cold(entry, place);
    }

    /// Empties a ring; what was in it is in none now.
    pub(super) fn reset(&mut self, place: Place) {
        let own = place.sentinel();
        *self.entries[own as usize].link_mut() = Link { place_and_prev: own << INDEX_BITS | own, next: own };
        self.lengths[place as usize] = 0;
    }

    #[inline]
    pub(super) fn unlink(&mut self, entry: u32) {
        let link = self.link_of(entry);
        self.lengths[link.place() as usize] -= 1;
        self.entries[link.prev() as usize].link_mut().next = link.next;
        self.entries[link.next as usize].link_mut().set_prev(link.prev());
    }

    /// Adds an entry that is in no ring.
    #[inline]
    pub(super) fn link_hot(&mut self, entry: u32, place: Place) {
        let prev = self.link_of(place.sentinel()).prev();
        self.link(entry, place, prev, place.sentinel());
    }

    pub(super) fn link_cold(&mut self, entry: u32, place: Place) {
        let next = self.link_of(place.sentinel()).next;
        self.link(entry, place, place.sentinel(), next);
    }

    #[inline]
    fn link(&mut self, entry: u32, place: Place, prev: u32, next: u32) {
        self.lengths[place as usize] += 1;
        self.entries[prev as usize].link_mut().next = entry;
        self.entries[next as usize].link_mut().set_prev(entry);
        let own = self.entries[entry as usize].link_mut();
        own.place_and_prev = (place as u32) << INDEX_BITS | prev;
        own.next = next;
    }

    #[inline]
    fn link_of(&self, entry: u32) -> Link {
        self.entries[entry as usize].link()
    }

    /// Walks everything; `check` is told each entry in a ring and its place. How many those are.
    ///
    /// # Panics
    /// When the invariant does not hold.
    pub(super) fn assert_sound(&self, check: impl Fn(u32, Place)) -> usize {
        for place in Place::ALL {
            let mut prev = place.sentinel();
            let mut length = 0;
            for entry in self.iter(place) {
                let own = self.link_of(entry);
                assert_eq!((own.place(), own.prev()), (place, prev), "entry {entry}");
                check(entry, place);
                prev = entry;
                length += 1;
            }
            assert_eq!(self.link_of(place.sentinel()).prev(), prev, "{place:?}");
            assert_eq!(self.len(place), length, "{place:?}");
        }
        self.lengths.iter().sum::<u32>() as usize
    }
}

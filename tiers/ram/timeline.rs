//! Blocks by the time of their last reference: the memory under [`super::arc_policy`] for a trace that is known beforehand.
//!
//! ```text
//!  entry:     one for each reference, in their order                            v the next one
//!  recent     . . . . x . . x . . . x x . . x . . x . x . x x . . x x . x . x x     a bit: put there by this reference,
//!                     ghosts        | residents                                     and not gone or used since
//!  frequent   . . x . . x . . . x . . . x . . x . . . . . . . . x . . x . x . .
//!                     ghosts              | residents
//! ```
//!
//! Who comes into a list comes in at its hot end, now: a list is in the order of time by itself, and to move a block is to
//! clear one bit and to set the next. Who leaves a side is its coldest resident and becomes its hottest ghost, so the ghosts
//! of a side are what lies before its first resident: an eviction moves a border and touches no block.
//!
//! There is nothing by block. A block is named by the number of the reference before, as the trace has it, and that is where
//! its bit is: next to those of blocks used at the same time, where links would lie as far apart as the blocks.
//!
//! Every reference takes an entry, the first after [`PLACES`] that are nobody's, as elsewhere. Nothing can be set aside: what
//! is released from there goes to the cold end, out of the order of time.
//!
//! Invariants, checked by [`Timeline::assert_invariants`]: an entry is in one row at the most, and in none from `next` on;
//! between its borders a row has as many bits as its lengths say, and before the first ghost none.

use super::block_lists::BlockLists;
use super::rings::{PLACES, Place};
use crate::block::BlockId;

/// The most entries there can be.
pub(super) const ENTRIES_MAX: u32 = u32::MAX - BITS;

const BITS: u32 = u64::BITS;

/// See the head of this file. Takes a quarter of a byte for each reference.
pub struct Timeline {
    /// By [`BITS`] entries: the recent row, and the frequent one.
    marks: Vec<[u64; 2]>,
    next: u32,
    rows: [Row; 2],
}

/// Borders and lengths. Where the row is not known beforehand both are counted on, one of them by 0: so they stay in registers
/// through the loop of a simulation, where fields found by index would be in memory and each step wait for the last.
#[derive(Clone, Copy)]
struct Row {
    /// No ghost lies before this entry.
    first_ghost: u32,
    /// Nor a resident before this one; ghosts do.
    first_resident: u32,
    ghosts: u32,
    residents: u32,
}

impl Timeline {
    /// For so many references.
    pub(super) fn new(references: u32) -> Self {
        let next = PLACES as u32;
        // As elsewhere one more than can be resident.
        let entries = next + references + 1;
        let row = Row { first_ghost: next, first_resident: next, ghosts: 0, residents: 0 };
        Self { marks: vec![[0; 2]; entries.div_ceil(BITS) as usize], next, rows: [row; 2] }
    }

    #[inline]
    fn has(&self, row: usize, entry: u32) -> bool {
        self.marks[word(entry)][row] & bit(entry) != 0
    }

    #[inline]
    fn is_marked(&self, entry: u32) -> bool {
        let [recent, frequent] = self.marks[word(entry)];
        (recent | frequent) & bit(entry) != 0
    }

    #[inline]
    fn unmark(&mut self, entry: u32) {
        let [recent, frequent] = &mut self.marks[word(entry)];
        *recent &= !bit(entry);
        *frequent &= !bit(entry);
    }

    /// Counts an entry more at `place`.
    #[inline]
    fn count(&mut self, place: Place) {
        let [recent, frequent] = &mut self.rows;
        recent.residents += u32::from(place == Place::Recent);
        frequent.residents += u32::from(place == Place::Frequent);
        recent.ghosts += u32::from(place == Place::RecentGhost);
        frequent.ghosts += u32::from(place == Place::FrequentGhost);
    }

    /// Counts an entry less at `place`.
    #[inline]
    fn discount(&mut self, place: Place) {
        let [recent, frequent] = &mut self.rows;
        recent.residents -= u32::from(place == Place::Recent);
        frequent.residents -= u32::from(place == Place::Frequent);
        recent.ghosts -= u32::from(place == Place::RecentGhost);
        frequent.ghosts -= u32::from(place == Place::FrequentGhost);
    }

    /// Puts the next entry into a list of residents.
    #[inline]
    fn append(&mut self, place: Place) -> u32 {
        let entry = self.next;
        self.marks[word(entry)][row(place)] |= bit(entry);
        self.count(place);
        self.next += 1;
        entry
    }

    /// Where the first entry of a row lies from `border` on; there is one.
    #[inline]
    fn first(&self, row: usize, border: u32) -> u32 {
        let mut at = word(border);
        let mut marks = self.marks[at][row] & (!0 << (border % BITS));
        while marks == 0 {
            at += 1;
            marks = self.marks[at][row];
        }
        at as u32 * BITS + marks.trailing_zeros()
    }

    /// From where to where the entries of a place lie.
    fn span(&self, place: Place) -> std::ops::Range<u32> {
        let Row { first_ghost, first_resident, .. } = self.rows[row(place)];
        match place {
            Place::Recent | Place::Frequent => first_resident..self.next,
            Place::RecentGhost | Place::FrequentGhost => first_ghost..first_resident,
            _ => 0..0,
        }
    }
}

#[inline]
fn word(entry: u32) -> usize {
    (entry / BITS) as usize
}

#[inline]
fn bit(entry: u32) -> u64 {
    1 << (entry % BITS)
}

#[inline]
fn row(place: Place) -> usize {
    usize::from(matches!(place, Place::Frequent | Place::FrequentGhost))
}

impl BlockLists for Timeline {
    fn resident_entries(&self) -> u32 {
        self.marks.len() as u32 * BITS - PLACES as u32
    }

    fn allocated_bytes(&self) -> usize {
        self.marks.capacity() * size_of::<[u64; 2]>()
    }

    #[inline]
    fn len(&self, place: Place) -> u32 {
        let [recent, frequent] = &self.rows;
        match place {
            Place::Recent => recent.residents,
            Place::Frequent => frequent.residents,
            Place::RecentGhost => recent.ghosts,
            Place::FrequentGhost => frequent.ghosts,
            _ => 0,
        }
    }

    #[inline]
    fn id(&self, entry: u32) -> BlockId {
        BlockId::from_u64(u64::from(entry) - PLACES as u64)
    }

    #[inline]
    fn place(&self, entry: u32) -> Place {
        if !self.is_marked(entry) {
            return Place::FreeResident;
        }
        let [recent, frequent] = &self.rows;
        let is_frequent = self.has(1, entry);
        let first_resident = if is_frequent { frequent.first_resident } else { recent.first_resident };
        match (is_frequent, entry < first_resident) {
            (false, false) => Place::Recent,
            (true, false) => Place::Frequent,
            (false, true) => Place::RecentGhost,
            (true, true) => Place::FrequentGhost,
        }
    }

    #[inline]
    fn find(&self, block: BlockId) -> Option<u32> {
        let entry = block.as_u64() as u32 + PLACES as u32;
        self.is_marked(entry).then_some(entry)
    }

    #[inline]
    fn coldest(&mut self, place: Place) -> Option<u32> {
        if self.len(place) == 0 {
            return None;
        }
        let [recent, frequent] = self.rows;
        let first = match place {
            Place::Recent => self.first(0, recent.first_resident),
            Place::Frequent => self.first(1, frequent.first_resident),
            Place::RecentGhost => self.first(0, recent.first_ghost),
            _ => self.first(1, frequent.first_ghost),
        };
        let [recent, frequent] = &mut self.rows;
        match place {
            Place::Recent => recent.first_resident = first,
            Place::Frequent => frequent.first_resident = first,
            Place::RecentGhost => recent.first_ghost = first,
            _ => frequent.first_ghost = first,
        }
        Some(first)
    }

    fn iter(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        self.span(place).filter(move |&entry| self.has(row(place), entry))
    }

    #[inline]
    fn insert(&mut self, block: BlockId, place: Place) -> u32 {
        debug_assert!(self.id(self.next) >= block, "{block:?} is named by a reference to come");
        self.append(place)
    }

    #[inline]
    fn delete(&mut self, entry: u32, from: Place) {
        debug_assert_eq!(self.place(entry), from);
        self.discount(from);
        self.unmark(entry);
    }

    #[inline]
    fn convert(&mut self, entry: u32, from: Place, to: Place) -> u32 {
        if to.is_resident() {
            self.delete(entry, from);
            return self.append(to);
        }
        debug_assert!(row(from) == row(to) && self.iter(from).next() == Some(entry), "not the coldest");
        self.discount(from);
        self.count(to);
        let [recent, frequent] = &mut self.rows;
        match to {
            Place::RecentGhost => recent.first_resident = entry + 1,
            _ => frequent.first_resident = entry + 1,
        }
        entry
    }

    #[inline]
    fn touch(&mut self, entry: u32) -> u32 {
        // Not by its place: which of the two it was is anyone's guess, also the processor's.
        let is_recent = u32::from(self.has(0, entry));
        let [recent, frequent] = &mut self.rows;
        recent.residents -= is_recent;
        frequent.residents -= 1 - is_recent;
        self.unmark(entry);
        self.append(Place::Frequent)
    }

    fn assert_invariants(&self) {
        let mut listed = 0;
        for place in Place::ALL {
            let found = self.iter(place).count() as u32;
            assert_eq!(found, self.len(place), "{place:?}");
            listed += found;
        }
        let all = self.marks.iter().flatten().map(|marks| marks.count_ones()).sum::<u32>();
        assert_eq!(all, listed, "entries outside of the borders");
        let is_apart = self.marks.iter().all(|[recent, frequent]| recent & frequent == 0);
        assert!(is_apart, "an entry in both rows");
    }
}

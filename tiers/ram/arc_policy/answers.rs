//! What the policy is asked with and answers: slots, sides, lists, and what a request found.

use super::super::rings::{PLACES, Place};
use crate::block::BlockId;

/// Where a block's entry is while the block is resident.
///
/// A slot that a call gave up (`Evicted::slot`, or the answer of `remove`) is not given to another block before the
/// next call, so what is kept in arrays by slot can be fetched after the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// Below [`slot_limit`](super::ArcPolicy::slot_limit).
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    #[inline]
    pub(super) fn of(entry: u32) -> Self {
        Self(entry - PLACES as u32)
    }

    #[inline]
    pub(super) fn entry(self) -> u32 {
        self.0 + PLACES as u32
    }
}

/// Whether a block was used once, or more often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Recent,
    Frequent,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Recent => Self::Frequent,
            Self::Frequent => Self::Recent,
        }
    }

    pub(super) fn chain(self) -> Place {
        match self {
            Self::Recent => Place::Recent,
            Self::Frequent => Place::Frequent,
        }
    }

    pub(super) fn aside(self) -> Place {
        match self {
            Self::Recent => Place::RecentAside,
            Self::Frequent => Place::FrequentAside,
        }
    }

    pub(super) fn ghosts(self) -> Place {
        match self {
            Self::Recent => Place::RecentGhost,
            Self::Frequent => Place::FrequentGhost,
        }
    }

    /// The side whose blocks, or ghosts, are in `place`.
    pub(super) fn of(place: Place) -> Self {
        match place {
            Place::Recent | Place::RecentAside | Place::RecentGhost => Self::Recent,
            Place::Frequent | Place::FrequentAside | Place::FrequentGhost => Self::Frequent,
            Place::FreeResident | Place::FreeGhost => unreachable!("a free entry is never found"),
        }
    }
}

/// The four lists of the paper, for inspection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    Recent,
    Frequent,
    RecentGhost,
    FrequentGhost,
}

/// A block that left RAM, the slot it had, and the side it left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evicted {
    pub block: BlockId,
    pub slot: Slot,
    pub from: Side,
}

/// What a request for a block found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It was resident.
    Hit(Slot),
    /// It was not, and is now; `ghost` tells the ghost list that remembered it.
    Miss { slot: Slot, ghost: Option<Side>, evicted: Option<Evicted> },
}

/// No resident block may leave: nothing was changed (blocks may have been set aside).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoVictim;

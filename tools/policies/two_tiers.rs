//! Two caches one below the other, as the two-tier figures of others define them: a check of LRU and of the cache's own
//! policy with removal and insertion, and of the figures.
//!
//! | mode   | what goes to the lower cache          | what a hit there does |
//! |--------|---------------------------------------|-----------------------|
//! | fill   | what missed in both                   | a use                 |
//! | demote | what leaves the upper one             | it moves up           |
//! | victim | what leaves the upper one, if not there | a use               |

use terrace::BlockId;
use terrace::tiers::ram::arc_policy::{Access, ArcPolicy, DenseLists};

use super::lists::Lists;
use super::lru::Lru;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Lru,
    Fifo,
    Arc,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Fill,
    Demote,
    Victim,
}

enum Tier {
    Lru(Lru),
    Fifo(Lists, u32),
    Arc(ArcPolicy<DenseLists>),
}

impl Tier {
    fn new(kind: Kind, capacity: u32, ids: u32) -> Self {
        match kind {
            Kind::Lru => Self::Lru(Lru::new(capacity, ids)),
            Kind::Fifo => Self::Fifo(Lists::new(ids, 1), capacity),
            Kind::Arc => Self::Arc(ArcPolicy::dense(capacity, ids)),
        }
    }

    fn contains(&self, block: u32) -> bool {
        match self {
            Self::Lru(lru) => lru.contains(block),
            Self::Fifo(lists, _) => lists.contains(block),
            Self::Arc(arc) => arc.lookup(BlockId::from_u64(block.into())).is_some(),
        }
    }

    /// A use of `block`, which comes in if it is not there; what leaves for it.
    fn request(&mut self, block: u32) -> Option<u32> {
        match self {
            Self::Lru(lru) => {
                if lru.touch(block) {
                    None
                } else {
                    lru.insert(block)
                }
            }
            Self::Fifo(lists, _) if lists.contains(block) => None,
            Self::Fifo(lists, capacity) => {
                let evicted = if lists.len(0) == *capacity { lists.pop_coldest(0) } else { None };
                lists.push_hot(block, 0);
                evicted
            }
            Self::Arc(arc) => match arc.reference(BlockId::from_u64(block.into())) {
                Access::Miss { evicted, .. } => evicted.map(|one| one.block.as_u64() as u32),
                Access::Hit(_) => None,
            },
        }
    }

    fn remove(&mut self, block: u32) {
        match self {
            Self::Lru(lru) => lru.remove(block),
            Self::Fifo(lists, _) => lists.remove(block),
            Self::Arc(arc) => _ = arc.remove(BlockId::from_u64(block.into())),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) upper_hits: u64,
    pub(super) lower_hits: u64,
    pub(super) misses: u64,
    pub(super) lower_writes: u64,
}

/// What `references` count in an upper cache over a lower one; each is its kind and its capacity.
pub(super) fn run(
    references: &[u32],
    ids: u32,
    upper: (Kind, u32),
    lower: (Kind, u32),
    mode: Mode,
) -> Counts {
    let (mut upper, mut lower) = (Tier::new(upper.0, upper.1, ids), Tier::new(lower.0, lower.1, ids));
    let mut counts = Counts::default();
    for &block in references {
        if upper.contains(block) {
            counts.upper_hits += 1;
            upper.request(block);
            continue;
        }
        let is_below = lower.contains(block);
        match (is_below, mode) {
            (true, Mode::Demote) => lower.remove(block),
            (true, _) => _ = lower.request(block),
            (false, Mode::Fill) => _ = lower.request(block),
            (false, _) => {}
        }
        counts.lower_hits += u64::from(is_below);
        counts.misses += u64::from(!is_below);
        counts.lower_writes += u64::from(!is_below && mode == Mode::Fill);
        let evicted = upper.request(block);
        if let Some(evicted) = evicted.filter(|&evicted| mode != Mode::Fill && !lower.contains(evicted)) {
            lower.request(evicted);
            counts.lower_writes += 1;
        }
    }
    counts
}

//! The oracle: what was written, what was promised of it, and what may be found after a crash.
//!
//! Writes are numbered from 1 on, and those of a run follow each other. After a crash a sector may hold its last write
//! that was promised to be durable, or one that came later and had begun. What was read after a crash is the first
//! write of the life that follows: nothing older may be found any more.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use terrace::tiers::testing::{Cut, Journal};

use super::content::Found;

/// The writes of one volume, sector by sector, ascending.
#[derive(Clone)]
pub(crate) struct History {
    sectors: Vec<Vec<Entry>>,
}

#[derive(Clone, Copy)]
struct Entry {
    number: u64,
    shows: Found,
    /// The number of the first of those that were made at once, its own where it was alone, 0 of what was there at first.
    order: u64,
    /// It was gone when the process had died so many times.
    lost_by: Option<u32>,
}

/// The writes that count at a moment: those that are promised, and those that have begun.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Bounds {
    durable: u64,
    begun: u64,
    deaths: u32,
}

impl History {
    /// A volume of zeros.
    pub(crate) fn new(sectors: u64) -> Self {
        Self { sectors: vec![vec![Entry::new(0, Found::Zeros)]; sectors as usize] }
    }

    /// A volume that was found to hold this.
    fn of(found: &[Found]) -> Self {
        let entry = |found: &Found| match found {
            Found::Write(number) => Entry { order: 0, ..Entry::new(*number, *found) },
            Found::Zeros | Found::Rubbish => Entry::new(0, Found::Zeros),
        };
        Self { sectors: found.iter().map(|found| vec![entry(found)]).collect() }
    }

    pub(crate) fn note(&mut self, sectors: Range<u64>, number: u64, is_zeros: bool) {
        for sector in sectors {
            let shows = if is_zeros { Found::Zeros } else { Found::Write(number) };
            self.sectors[sector as usize].push(Entry::new(number, shows));
        }
    }

    /// The writes of these sectors from `number` on were made at once: in no order.
    pub(crate) fn note_at_once(&mut self, sectors: Range<u64>, number: u64) {
        let entries = self.sectors[sectors.start as usize..sectors.end as usize].iter_mut().flatten();
        entries.filter(|entry| entry.number >= number).for_each(|entry| entry.order = number);
    }

    /// What `number` left of the sectors from `sector` on, which is not its own.
    pub(crate) fn note_found(&mut self, sector: u64, number: u64, found: impl Iterator<Item = Found>) {
        for (entries, shows) in self.sectors[sector as usize..].iter_mut().zip(found) {
            entries.push(Entry::new(number, shows));
        }
    }

    /// What a cache that is running must answer.
    pub(crate) fn newest(&self, sector: u64) -> Found {
        let kept = self.sectors[sector as usize].iter().rfind(|entry| entry.lost_by.is_none());
        kept.expect("every sector holds something").shows
    }

    /// The process died for the `deaths`th time, and `sector` was found to hold this: what came later was lost.
    fn lose(&mut self, sector: u64, found: Found, deaths: u32) {
        let entries = &mut self.sectors[sector as usize];
        let lost = entries.iter_mut().rev().take_while(|entry| entry.shows != found);
        lost.filter(|entry| entry.lost_by.is_none()).for_each(|entry| entry.lost_by = Some(deaths));
    }

    fn allowed(&self, sector: u64, bounds: Bounds) -> impl Iterator<Item = &Entry> {
        let is_there = move |entry: &&Entry| entry.is_there(bounds);
        let entries = &self.sectors[sector as usize];
        let durable = entries.iter().filter(is_there).rfind(|entry| entry.number <= bounds.durable);
        let first = durable.map_or(0, |entry| entry.number);
        entries.iter().filter(is_there).filter(move |entry| (first..=bounds.begun).contains(&entry.number))
    }

    /// Whether the sectors from `sector` on hold this after some write, and nothing of those after that one: a write that
    /// was made alone is there as a whole or not at all.
    fn is_one(&self, sector: u64, found: &[Found], bounds: Bounds) -> bool {
        let sectors = &self.sectors[sector as usize..][..found.len()];
        let begun = |entry: &&Entry| entry.is_there(bounds) && entry.number <= bounds.begun;
        let shows = |entries: &[Entry], order| {
            entries.iter().filter(begun).rfind(|entry| entry.order <= order).map(|entry| entry.shows)
        };
        sectors.iter().flatten().filter(begun).any(|last| {
            let is_alone = last.order == last.number || last.order == 0;
            sectors.iter().zip(found).all(|(entries, &found)| {
                shows(entries, last.order) == Some(found)
                    || !is_alone && shows(entries, last.order - 1) == Some(found)
            })
        })
    }

    fn allows(&self, sector: u64, bounds: Bounds, found: Found) -> bool {
        self.allowed(sector, bounds).any(|entry| entry.shows == found)
    }
}

impl Entry {
    fn new(number: u64, shows: Found) -> Self {
        Self { number, shows, order: number, lost_by: None }
    }

    fn is_there(&self, bounds: Bounds) -> bool {
        self.lost_by.is_none_or(|deaths| bounds.deaths < deaths)
    }
}

/// What a run tells the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// The write `number` of `volume` is about to be made.
    Begun { volume: usize, number: u64 },
    /// The writes of `volume` up to `number` are promised to survive.
    Durable { volume: usize, number: u64 },
    /// What `number` left of these sectors is promised to survive, whatever is of the others.
    Kept { volume: usize, first: u64, count: u64, number: u64 },
    /// All volumes were read after a crash.
    Seen,
    /// The process died, and what it left was read.
    Died,
}

/// The marks of a run; the journal knows each by its place here.
pub(crate) struct Marks {
    pub(crate) journal: Arc<Journal>,
    list: Mutex<Vec<Mark>>,
}

impl Marks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { journal: Arc::default(), list: Mutex::default() })
    }

    /// The last write of `volume` that is promised by now.
    fn durable(&self, volume: usize) -> u64 {
        let list = self.list.lock().expect("nobody panics with it");
        let durable = list.iter().filter_map(|mark| match *mark {
            Mark::Durable { volume: of, number } if of == volume => Some(number),
            _ => None,
        });
        durable.max().unwrap_or(0)
    }

    pub(crate) fn push(&self, mark: Mark) {
        let mut list = self.list.lock().expect("nobody panics with it");
        list.push(mark);
        self.journal.mark(list.len() as u64 - 1);
    }
}

/// What is known at a cut.
#[derive(Clone)]
pub(crate) struct Known {
    bounds: Vec<Bounds>,
    /// Of each volume: the writes that flushes ended with, in their order.
    flushed: Vec<Vec<u64>>,
    /// Volume, first sector and the one after the last, and the number that they keep.
    kept: Vec<(usize, u64, u64, u64)>,
    is_seen: bool,
    learned: usize,
}

/// From the start of a cache, or from a crash, to the end of what it was made to do.
pub(crate) struct Life {
    pub(crate) marks: Arc<Marks>,
    pub(crate) histories: Vec<History>,
    /// The writes up to this one were there at its start, as far as they were found.
    first: u64,
    /// The life that a crash ended before this one. What that allows holds until all was read.
    earlier: Option<(Arc<Life>, Known)>,
}

impl Life {
    /// On devices full of zeros.
    pub(crate) fn first(volumes: usize, sectors: u64) -> Self {
        let histories = (0..volumes).map(|_| History::new(sectors)).collect();
        Self { marks: Marks::new(), histories, first: 0, earlier: None }
    }

    /// After a crash of `earlier` when that was `known`. The volumes have not been read.
    pub(crate) fn after(earlier: &Arc<Life>, known: &Known, last_number: u64) -> Self {
        let histories = earlier.histories.clone();
        Self {
            marks: Marks::new(),
            histories,
            first: last_number,
            earlier: Some((earlier.clone(), known.clone())),
        }
    }

    /// All volumes were read, and held this.
    pub(crate) fn see(&mut self, found: &[Vec<Found>]) {
        self.histories = found.iter().map(|found| History::of(found)).collect();
        self.marks.push(Mark::Seen);
    }

    /// The process died for the `deaths`th time, and `volume` was found to hold this.
    ///
    /// # Errors
    /// When it must hold all that was acknowledged (`all_outlives`), or else all that was flushed, and does not.
    pub(crate) fn lose(
        &mut self,
        volume: usize,
        found: &[Found],
        all_outlives: bool,
        deaths: u32,
    ) -> Result<(), String> {
        let durable = if all_outlives { u64::MAX } else { self.marks.durable(volume).max(self.first) };
        let bounds = Bounds { durable, begun: u64::MAX, deaths };
        let history = &mut self.histories[volume];
        for (sector, &found) in (0..).zip(found) {
            if !history.allows(sector, bounds, found) {
                let was = history.newest(sector);
                return Err(format!(
                    "sector {sector} of volume {volume} was {was:?}, and {found:?} to the next process"
                ));
            }
            history.lose(sector, found, deaths);
        }
        Ok(())
    }

    /// What is known before anything was done.
    pub(crate) fn known(&self) -> Known {
        let bounds = Bounds { durable: self.first, begun: self.first, deaths: 0 };
        let flushed = vec![Vec::new(); self.histories.len()];
        Known {
            bounds: vec![bounds; self.histories.len()],
            flushed,
            kept: Vec::new(),
            is_seen: self.earlier.is_none(),
            learned: 0,
        }
    }

    /// Takes in the marks that `cut` has passed.
    pub(crate) fn learn(&self, known: &mut Known, cut: &Cut) {
        let list = self.marks.list.lock().expect("nobody panics with it");
        for &label in &cut.marks()[known.learned..] {
            match list[label as usize] {
                Mark::Begun { volume, number } => {
                    let begun = &mut known.bounds[volume].begun;
                    *begun = number.max(*begun);
                }
                Mark::Durable { volume, number } => {
                    let durable = &mut known.bounds[volume].durable;
                    *durable = number.max(*durable);
                    known.flushed[volume].push(number);
                }
                Mark::Kept { volume, first, count, number } => {
                    known.kept.push((volume, first, first + count, number));
                }
                Mark::Seen => known.is_seen = true,
                Mark::Died => known.bounds.iter_mut().for_each(|bounds| bounds.deaths += 1),
            }
        }
        known.learned = cut.marks().len();
    }

    /// Whether a volume that holds this is, as some flush left it, with a part of what came until the next.
    pub(crate) fn judge_epoch(&self, known: &Known, volume: usize, found: &[Found]) -> Result<(), String> {
        let bounds = known.bounds[volume];
        if let Some((earlier, then)) = &self.earlier {
            // What this life writes is not known to stand on anything that was flushed below.
            let is_untouched = bounds.begun == self.first;
            return if is_untouched { earlier.judge_epoch(then, volume, found) } else { Ok(()) };
        }
        let first = std::iter::once(0).chain(known.flushed[volume].iter().copied());
        let last = known.flushed[volume].iter().copied().chain([bounds.begun]);
        let is_one = first.zip(last).any(|(durable, begun)| {
            let epoch = Bounds { durable, begun, ..bounds };
            (0..).zip(found).all(|(sector, &found)| self.histories[volume].allows(sector, epoch, found))
        });
        if is_one {
            Ok(())
        } else {
            Err(format!("volume {volume} is of no epoch of the backing store: {found:?}"))
        }
    }

    /// Whether a block of a volume that goes to the log alone may hold this after a crash now: what some write left of it.
    pub(crate) fn judge_block(
        &self,
        known: &Known,
        volume: usize,
        sector: u64,
        found: &[Found],
    ) -> Result<(), String> {
        if let Some((earlier, then)) = self.earlier.as_ref().filter(|_| !known.is_seen) {
            return earlier.judge_block(then, volume, sector, found);
        }
        if self.histories[volume].is_one(sector, found, known.bounds[volume]) {
            return Ok(());
        }
        Err(format!("the block from sector {sector} of volume {volume} on is torn: {found:?}"))
    }

    /// Whether a sector of a volume may hold this after a crash now; else what it may hold.
    pub(crate) fn judge(
        &self,
        known: &Known,
        volume: usize,
        sector: u64,
        found: Found,
    ) -> Result<(), String> {
        if let Some((earlier, then)) = self.earlier.as_ref().filter(|_| !known.is_seen) {
            return earlier.judge(then, volume, sector, found);
        }
        let (history, mut bounds) = (&self.histories[volume], known.bounds[volume]);
        let kept = known.kept.iter().filter(|kept| kept.0 == volume && (kept.1..kept.2).contains(&sector));
        bounds.durable = kept.map(|kept| kept.3).fold(bounds.durable, u64::max);
        if history.allows(sector, bounds, found) {
            return Ok(());
        }
        let numbers: Vec<u64> = history.allowed(sector, bounds).map(|entry| entry.number).collect();
        Err(format!("{found:?}, and may hold one of the writes {numbers:?} (0: as it was at first)"))
    }
}

#[test]
fn a_sector_may_hold_its_last_durable_write_or_a_later_one_that_has_begun() {
    let mut history = History::new(1);
    (1..=4).for_each(|number| history.note(0..1, number, number == 3));
    let bounds = Bounds { durable: 2, begun: 3, deaths: 0 };
    let may_hold = |found| history.allows(0, bounds, found);
    assert!(may_hold(Found::Write(2)) && may_hold(Found::Zeros));
    assert!(!may_hold(Found::Write(1)), "an older one");
    assert!(!may_hold(Found::Write(3)) && !may_hold(Found::Write(4)) && !may_hold(Found::Rubbish));
    assert!(!history.allows(0, Bounds { durable: 4, begun: 4, deaths: 0 }, Found::Zeros), "overwritten");
    history.lose(0, Found::Write(2), 1);
    let bounds = Bounds { durable: 4, begun: 4, deaths: 1 };
    assert!(history.allows(0, bounds, Found::Write(2)) && !history.allows(0, bounds, Found::Write(4)));
    assert_eq!(history.newest(0), Found::Write(2));
}

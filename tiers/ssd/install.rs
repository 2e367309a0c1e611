//! The part of [`Ssd`] that puts found copies into the index, beside everything else.
//!
//! As many blocks as the cache has come in within seconds, and each is a wait for memory. So that this is done by as many
//! threads as read summaries, and holds nobody up, a part of the index is lent to who has blocks for it (see `index`):
//!
//! ```text
//! Scanned -> plan_install -> Install::run -> finish_install -> plan_install -> ... until there is none
//!            (under the lock) (without)      (under the lock)
//! ```
//!
//! 1. What was found goes in only if nothing newer took its place: that is looked at when the part is lent, and what takes
//!    its place after that leaves the part when it is back.
//! 2. A part to which blocks of now are on their way, planned and not finished, is not lent: they go in under the lock then.
//!    What is demoted while its part is lent is refused.
//! 3. Nobody waits for a lent part. What someone else found for it goes in when it is back.
//! 4. Recovery is not over before all parts are back.
//!
//! | situation                                                    | test in `tests/install.rs`                     |
//! |--------------------------------------------------------------|------------------------------------------------|
//! | written, discarded, made cold while the part is lent         | `what_is_written_while_its_part_is_lent_...`    |
//! | an append is under way to the part                           | `a_part_with_an_append_under_way_is_not_lent`   |
//! | two find blocks for one part                                 | `what_two_found_for_one_part_is_all_there`      |
//! | any order of all of these, against a model, with crashes     | `tests/scan.rs`                                |

use crate::block::BlockId;

use super::Ssd;
use super::encoding::{self, JournalEntry};
use super::scan::{Scan, Scanned};
use super::table::{New, Place, Table};

/// What recovery knows of a part of the index.
#[derive(Default)]
pub(super) struct PartState {
    /// Appends to it that are planned and not finished.
    appends: u32,
    /// Found by others while it was lent.
    waiting: Vec<New>,
}

/// A part of the index, and what is to be put into it.
pub struct Install {
    part: usize,
    table: Table,
    news: Vec<New>,
    /// Those whose block was in already, and where.
    rivals: Vec<(New, Place)>,
}

impl Install {
    /// Adds the blocks to the part.
    pub fn run(&mut self) {
        let Self { table, news, rivals, .. } = self;
        table.insert_all(news, |number, known| rivals.push((news[number], known.place)));
    }
}

impl Ssd {
    /// Blocks of `scanned` for one part of the index, and that part; none when all are installed, or will be when others
    /// give the parts back that they have. To be called again until then.
    pub fn plan_install(&mut self, scanned: &mut Scanned) -> Option<Install> {
        for (segment, found) in scanned.segments.drain(..) {
            match found {
                Some(found) => {
                    self.scan_mut().sealed.push((found.sequence, segment));
                    self.log.restore_sealed(segment, found.generation, found.slots_used, &found.bits);
                }
                None => self.give_back(segment),
            }
        }
        if let Some((ghosts, more)) = scanned.ghosts.take() {
            ghosts.iter().for_each(|entry| self.admission.restore_ghosts(entry));
            let scan = self.scan_mut();
            (scan.ghosts, scan.ghosts_are_planned) = (more, false);
        }
        let doubtful = std::mem::take(&mut scanned.doubtful);
        for new in self.wanted(doubtful) {
            scanned.news[self.index.spread().part_of(new.block)].push(new);
        }
        for part in 0..scanned.news.len() {
            if scanned.news[part].is_empty() || self.index.is_part_lent(part) {
                continue;
            }
            let news = self.still_wanted(std::mem::take(&mut scanned.news[part]));
            if let Some(table) = self.lend(part) {
                return Some(Install { part, table, news, rivals: Vec::new() });
            }
            self.install_here(part, &news);
        }
        self.leave_to_others(scanned);
        None
    }

    /// A part is back.
    pub fn finish_install(&mut self, install: Install) {
        let Install { part, table, rivals, .. } = install;
        let log = &mut self.log;
        self.index.take_back(part, table, |found| {
            log.drop_copy(found.place);
        });
        self.settle_rivals(rivals);
        let waiting = std::mem::take(&mut self.scan_mut().parts[part].waiting);
        let waiting = self.still_wanted(waiting);
        self.install_here(part, &waiting);
        self.scan_mut().parts_lent -= 1;
        self.end_scan_if_over();
    }

    /// All three steps for all that was found.
    pub fn finish_scan(&mut self, mut scanned: Scanned) {
        while let Some(mut install) = self.plan_install(&mut scanned) {
            install.run();
            self.finish_install(install);
        }
    }

    /// Nothing is found in `segment`. A checkpoint may list it still, so that an opening would look for nothing else there.
    fn give_back(&mut self, segment: u32) {
        match self.log.segments[segment as usize].generation {
            0 => self.log.restore_free(segment),
            generation => {
                let seq = self.queue(JournalEntry::Retire { segment, generation });
                self.log.restore_retired(segment, seq);
            }
        }
    }

    /// The table of a part that is here, unless something is on its way to it.
    fn lend(&mut self, part: usize) -> Option<Table> {
        let scan = self.scan_mut();
        if scan.parts[part].appends > 0 {
            return None;
        }
        scan.parts_lent += 1;
        self.index.lend(part)
    }

    fn install_here(&mut self, part: usize, news: &[New]) {
        let mut rivals = Vec::new();
        self.index.insert_all(part, news, |number, known| rivals.push((news[number], known.place)));
        self.settle_rivals(rivals);
    }

    /// What is left of `scanned` is for parts that others have.
    fn leave_to_others(&mut self, scanned: &mut Scanned) {
        let scan = self.scan_mut();
        for (part, news) in scan.parts.iter_mut().zip(&mut scanned.news) {
            part.waiting.append(news);
        }
        scan.left -= std::mem::take(&mut scanned.segment_count);
        self.end_scan_if_over();
    }

    fn scan_mut(&mut self) -> &mut Scan {
        self.scan.as_mut().expect("a scan is there until all that it found is installed")
    }

    fn end_scan_if_over(&mut self) {
        if self.scan.as_ref().is_some_and(Scan::is_over) {
            self.end_scan();
        }
    }

    /// Those of `news`, which the log did not hide when the file was opened, whose place nothing took since.
    fn still_wanted(&mut self, news: Vec<New>) -> Vec<New> {
        let is_as_opened = !self.dirty.has_late() && self.scan.as_ref().is_some_and(|scan| !scan.has_void());
        if is_as_opened { news } else { self.wanted(news) }
    }

    /// Those of `news` whose place nothing took.
    fn wanted(&mut self, mut news: Vec<New>) -> Vec<New> {
        news.retain(|new| {
            let is_wanted = self.is_wanted(new);
            if !is_wanted {
                self.log.drop_copy(new.place);
            }
            is_wanted
        });
        news
    }

    /// Whether nothing takes the place of this copy; what the log hides is void.
    fn is_wanted(&mut self, new: &New) -> bool {
        if self.scan.as_ref().is_some_and(|scan| scan.is_void(new.block)) {
            return false;
        }
        let is_hidden = self.dirty.may_be_found(new.block);
        if is_hidden {
            // The log's copy may be gone at the next opening.
            let (segment, slot) = self.log.segment_and_slot(new.place);
            let generation = self.log.segments[segment as usize].generation;
            self.queue(JournalEntry::VoidSlot { segment, generation, slot });
        }
        !is_hidden
    }

    /// Second copies of blocks were found; the first is in the place that is named.
    fn settle_rivals(&mut self, rivals: Vec<(New, Place)>) {
        for (new, place) in rivals {
            self.log.drop_copy(new.place);
            self.settle_rival(new.block, place);
        }
    }

    fn settle_rival(&mut self, block: BlockId, place: Place) {
        let (segment, _) = self.log.segment_and_slot(place);
        let first_generation = self.scan_mut().first_generation;
        if self.log.segments[segment as usize].generation >= first_generation {
            return;
        }
        self.scan_mut().void(block);
        self.drop_copy(block);
        let version = self.first_version();
        self.queue(encoding::void(block, version));
    }

    /// An append of `block` is planned.
    pub(super) fn note_append(&mut self, block: BlockId) {
        let part = self.index.spread().part_of(block);
        if let Some(scan) = &mut self.scan {
            scan.parts[part].appends += 1;
        }
    }

    /// It is finished, whatever became of it.
    pub(super) fn note_append_done(&mut self, block: BlockId) {
        let part = self.index.spread().part_of(block);
        if let Some(scan) = &mut self.scan {
            scan.parts[part].appends -= 1;
        }
    }
}

//! The journal by itself, over many openings that each go on where the one before was cut short.
//!
//! A write of it may be durable, fail and be tried again, be torn by the power, or be there with nobody left to know it.
//! Whatever becomes of them, the file opens, and has at least what was acknowledged, as it was queued.

use std::io::{IoSlice, IoSliceMut};

use crate::block::{BlockId, PAGE_BYTES, VolumeId};
use crate::device::Device;

use super::super::encoding::{JournalEntry, void};
use super::super::journal::{Journal, JournalSeq, JournalWrite, replay};
use super::super::*;
use super::device::MemoryDevice;
use super::driver::geometry;

const BLOCKS: u64 = 64;
const FILE_ID: u64 = 7;

/// What is told of the journal by the checkpoint.
#[derive(Clone, Copy)]
struct Checkpointed {
    absorbed: JournalSeq,
    generation: u64,
}

struct Life {
    random: fastrand::Rng,
    device: MemoryDevice,
    checkpointed: Checkpointed,
    acknowledged: JournalSeq,
    /// How many entries were queued in the openings so far: none of them is like another.
    queued: u64,
    /// Entry number n at place n - 1.
    entries: Vec<JournalEntry>,
    torn: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            device: MemoryDevice::new(geometry(BLOCKS).file_bytes()),
            checkpointed: Checkpointed { absorbed: JournalSeq(0), generation: 1 },
            acknowledged: JournalSeq(0),
            queued: 0,
            entries: Vec::new(),
            torn: 0,
        }
    }

    /// Opens what is there, and goes on behind it.
    fn open(&mut self, place: &str) -> Journal {
        let Checkpointed { absorbed, generation } = self.checkpointed;
        let mut found = Vec::new();
        let apply = |entry| {
            found.push(entry);
            Ok(())
        };
        let replayed = replay(&self.device, &geometry(BLOCKS), FILE_ID, absorbed.0, generation, apply);
        let replayed = replayed.unwrap_or_else(|error| panic!("{place}: {error}"));
        assert!(replayed.last >= self.acknowledged, "{place}: {} entries", replayed.last.0);
        assert!(found == self.entries[absorbed.0 as usize..replayed.last.0 as usize], "{place}");
        self.entries.truncate(replayed.last.0 as usize);
        self.acknowledged = replayed.last;
        Journal::resume(geometry(BLOCKS), FILE_ID, absorbed, &replayed)
    }

    fn queue(&mut self, journal: &mut Journal) {
        let most = if self.random.bool() { 3 } else { 600 };
        for _ in 0..self.random.u64(1..=most) {
            self.queued += 1;
            let entry = void(BlockId::new(VolumeId::new(0), self.queued), Version::from_u64(self.queued));
            journal.queue(entry.clone());
            self.entries.push(entry);
        }
    }

    fn checkpoint(&mut self, journal: &mut Journal) {
        let absorbed = journal.last();
        let superfluous = journal.start_checkpoint();
        self.checkpointed = Checkpointed { absorbed, generation: journal.generation() };
        self.acknowledged = absorbed;
        journal.finish_checkpoint(absorbed, superfluous, true);
    }

    /// Some pages of `write` are there, and others as before.
    fn tear(&mut self, write: &JournalWrite) {
        let geometry = geometry(BLOCKS);
        let mut before = vec![0; geometry.journal_bytes as usize];
        self.device.read(geometry.journal_offset, &mut [IoSliceMut::new(&mut before)]).expect("in range");
        write.run(&self.device).expect("in range");
        for (number, page) in before.chunks_exact(PAGE_BYTES).enumerate() {
            if self.random.bool() {
                let offset = geometry.journal_offset + (number * PAGE_BYTES) as u64;
                self.device.write(offset, &[IoSlice::new(page)]).expect("in range");
            }
        }
        self.torn += 1;
    }

    /// False when this opening has ended.
    fn step(&mut self, journal: &mut Journal) -> bool {
        if self.random.u8(..8) == 0 {
            self.checkpoint(journal);
        }
        self.queue(journal);
        match journal.plan() {
            JournalPlan::Nothing => panic!("something is queued, and nothing under way"),
            JournalPlan::Full => self.checkpoint(journal),
            JournalPlan::Write(write) => match self.random.u8(..8) {
                0 => {
                    self.tear(&write);
                    journal.finish(&write, false);
                }
                1 => {
                    self.tear(&write);
                    return false;
                }
                2 => {
                    write.run(&self.device).expect("in range");
                    return false;
                }
                _ => {
                    write.run(&self.device).expect("in range");
                    journal.finish(&write, true);
                    self.acknowledged = write.through;
                }
            },
        }
        true
    }
}

#[test]
fn a_journal_that_every_opening_goes_on_with_is_never_refused_and_loses_nothing_acknowledged() {
    let seed = fastrand::u64(..);
    let (mut torn, mut generations) = (0, 0);
    for life_seed in (0..40).map(|number| seed.wrapping_add(number)) {
        let mut life = Life::new(life_seed);
        for opening in 0..40 {
            let mut journal = life.open(&format!("seed {life_seed}, opening {opening}"));
            // An opening with unread summaries absorbs nothing.
            if life.random.u8(..4) == 0 {
                life.checkpoint(&mut journal);
            }
            while life.step(&mut journal) {}
            generations = generations.max(journal.generation());
        }
        torn += life.torn;
    }
    assert!(torn > 100 && generations > 4, "seed {seed}: {torn} torn writes, {generations} generations");
}

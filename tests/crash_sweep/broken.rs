//! Devices that break one promise each, put between the cache and the recorded ones. The sweep must catch every one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use terrace::tiers::Result;
use terrace::tiers::device::{Identity, total_bytes};
use terrace::tiers::ssd::Geometry;
use terrace::{BlockSize, Device};

use super::actor::Stage;
use super::common::BLOCK;
use super::content::SECTOR;
use super::script::Script;

/// Which device is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Ssd,
    Disk,
}

/// A stretch of the cache file, or anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Region {
    Superblocks,
    Journal,
    Checkpoints,
    Segments,
    Anywhere,
}

/// What a device does instead of what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// A sync does nothing when the last write was in the region.
    SyncSkipped(Region),
    /// A sync does nothing when all writes since the last one that did something were in the region.
    OwnSyncSkipped(Region),
    /// A sync makes durable what was written before the one before it, and returns.
    SyncLate,
    /// A sync leaves out the last write before it.
    SyncMissesLast,
    /// Writes of the region never get there; reads see them all the same.
    WriteLost(Region),
    /// Every other write of the region never gets there.
    EveryOtherWriteLost(Region),
    /// Writes of the region get there after the next write to another device has.
    WriteLate(Region),
    /// Only the first half of every third write of the region gets there.
    WriteTorn(Region),
    /// Of what a crash left, the SSD is not looked at, nor what the marks say of it: no block counts as dirty.
    Forgotten,
    /// Of two writes to the same sector between two syncs the first one wins.
    OldOverNew,
}

/// A flaw, and what the sweep must find with it.
pub(crate) struct Broken {
    pub(crate) part: Part,
    pub(crate) flaw: Flaw,
    /// The promise that is broken.
    pub(crate) promise: &'static str,
    pub(crate) script: &'static str,
}

pub(crate) const BROKEN: &[Broken] = &[
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "what a flush covers is durable on the backing store",
        script: "back",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "the same, where writes are below when they are acknowledged",
        script: "through",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncLate,
        promise: "a flush waits for a sync that is done",
        script: "back",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncMissesLast,
        promise: "a flush covers every write before it",
        script: "back",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::WriteTorn(Region::Anywhere),
        promise: "a flush covers every sector of a write",
        script: "back",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::OldOverNew,
        promise: "the last write of a sector is the last one below",
        script: "through",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::WriteLost(Region::Anywhere),
        promise: "what is written below gets there",
        script: "one step after the other",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "what is synced is durable",
        script: "overwritten after a close",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncSkipped(Region::Journal),
        promise: "a void is durable before the newer write is submitted below (rule 1)",
        script: "overwritten after a close",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::WriteLost(Region::Journal),
        promise: "the journal says what is void (rule 1)",
        script: "overwritten after a close",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::WriteLate(Region::Journal),
        promise: "a void comes before the write (rule 1)",
        script: "overwritten after a close",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::EveryOtherWriteLost(Region::Journal),
        promise: "a hole in the journal costs the file, because it could hide a void",
        script: "journal and checkpoint",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncLate,
        promise: "a checkpoint is durable before a superblock names it, a void before the write (rule 1)",
        script: "overwritten after a close",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::EveryOtherWriteLost(Region::Superblocks),
        promise: "there is another superblock when one is torn",
        script: "overwritten after a close",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncSkipped(Region::Segments),
        promise: "a flush is done when the records are synced",
        script: "a log of dirty blocks",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "a copy in the log goes when the backing store is synced (rule 2)",
        script: "a full log beside clean copies",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncSkipped(Region::Journal),
        promise: "a discard is durable when its tombstone is synced, a forget when its void is",
        script: "discards and forgets in a log",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::WriteLost(Region::Journal),
        promise: "the journal has the tombstones",
        script: "discards and forgets in a log",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "nothing of an epoch is written below before all of the one before is synced",
        script: "epoch by epoch",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "the log is left when the backing store is synced (rule 2)",
        script: "modes that change",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncSkipped(Region::Journal),
        promise: "what the log had is void before newer blocks go below by another way (rule 1)",
        script: "modes that change",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncLate,
        promise: "a clean copy outlives a crash only when a sync of the backing store covers it (rule 3)",
        script: "warm after a crash",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::WriteLost(Region::Journal),
        promise: "what is overwritten is void after a crash, also where clean copies outlive it (rule 1)",
        script: "warm after a crash",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::SyncSkipped(Region::Segments),
        promise: "a copy that is superseded in part stays until its successor is synced (rule 5)",
        script: "chains of partial copies",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::EveryOtherWriteLost(Region::Segments),
        promise: "every copy of a chain is there",
        script: "chains of partial copies",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "the copies of a chain go when the backing store is synced (rule 2)",
        script: "chains of partial copies",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::EveryOtherWriteLost(Region::Anywhere),
        promise: "all copies of a chain are below before its segments go",
        script: "chains in a log that is full",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::WriteLost(Region::Journal),
        promise: "a tombstone or a void takes every copy of a chain",
        script: "chains of partial copies",
    },
    Broken {
        part: Part::Disk,
        flaw: Flaw::SyncSkipped(Region::Anywhere),
        promise: "what each epoch wrote to a block is below before what the next one did",
        script: "chains epoch by epoch",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::Forgotten,
        promise: "what is dirty is asked for after a crash",
        script: "a log of dirty blocks",
    },
    Broken {
        part: Part::Ssd,
        flaw: Flaw::WriteLost(Region::Checkpoints),
        promise: "the checkpoint that a superblock names is there",
        script: "overwritten after a close",
    },
];

/// What may be broken as one likes: it costs hits, since nothing is returned that was not verified.
pub(crate) const WITHSTOOD: &[Broken] = &[
    Broken::withstood(Flaw::OwnSyncSkipped(Region::Segments)),
    Broken::withstood(Flaw::WriteLost(Region::Segments)),
    Broken::withstood(Flaw::WriteLate(Region::Segments)),
    Broken::withstood(Flaw::WriteTorn(Region::Segments)),
    Broken::withstood(Flaw::EveryOtherWriteLost(Region::Segments)),
];

impl Region {
    fn range(self, geometry: &Geometry) -> Range<u64> {
        let checkpoints = geometry.checkpoint_offset;
        match self {
            Self::Superblocks => 0..geometry.journal_offset,
            Self::Journal => geometry.journal_offset..geometry.journal_offset + geometry.journal_bytes,
            Self::Checkpoints => checkpoints..checkpoints + 2 * geometry.checkpoint_bytes,
            Self::Segments => geometry.segments_offset..u64::MAX,
            Self::Anywhere => 0..u64::MAX,
        }
    }
}

impl Flaw {
    fn region(self) -> Region {
        match self {
            Self::SyncSkipped(region)
            | Self::OwnSyncSkipped(region)
            | Self::WriteLost(region)
            | Self::EveryOtherWriteLost(region)
            | Self::WriteLate(region)
            | Self::WriteTorn(region) => region,
            Self::SyncLate | Self::SyncMissesLast | Self::OldOverNew | Self::Forgotten => Region::Anywhere,
        }
    }
}

impl Broken {
    const fn withstood(flaw: Flaw) -> Self {
        let promise = "none: clean copies are verified when they are read";
        Self { part: Part::Ssd, flaw, promise, script: "overwritten after a close" }
    }

    /// The stage with the flaw in one part of it.
    pub(crate) fn stage(&self, script: &Script, stage: Stage) -> Stage {
        let block_size = BlockSize::new(BLOCK as u64).expect("a block size");
        let geometry = Geometry::for_blocks(block_size, script.ssd_blocks).expect("a layout");
        let range = self.flaw.region().range(&geometry);
        let flawed = |inner: Arc<dyn Device>| {
            let state = Mutex::new(State::default());
            Arc::new(Flawed { inner, flaw: self.flaw, range: range.clone(), state })
        };
        match self.part {
            Part::Disk => {
                let disks = stage.disks.into_iter().map(|disk| -> Arc<dyn Device> { flawed(disk) }).collect();
                Stage { disks, ..stage }
            }
            Part::Ssd => {
                let ssd = flawed(stage.ssd);
                let disks = stage
                    .disks
                    .into_iter()
                    .map(|inner| -> Arc<dyn Device> { Arc::new(Ahead { inner, late: ssd.clone() }) });
                Stage { disks: disks.collect(), ssd, marks: stage.marks }
            }
        }
    }
}

/// A device with a flaw. While the power is on nobody can tell.
struct Flawed {
    inner: Arc<dyn Device>,
    flaw: Flaw,
    range: Range<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sectors that did not get there, by their offset; reads see them.
    held: BTreeMap<u64, Vec<u8>>,
    /// The sectors that were written since the last sync, by their offset.
    first: BTreeSet<u64>,
    /// Writes of the region.
    writes: u64,
    /// Where the last write was.
    last: u64,
    /// A write was somewhere else since the last sync that did something.
    is_others: bool,
}

impl Flawed {
    fn is_meant(&self, offset: u64) -> bool {
        self.range.contains(&offset)
    }

    /// What was held back gets there.
    fn release(&self, state: &mut State) -> Result<()> {
        std::mem::take(&mut state.held).iter().try_for_each(|(at, sector)| self.write_inner(*at, sector))
    }

    fn write_inner(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inner.write(offset, &[IoSlice::new(bytes)])
    }

    /// Writes the first `bytes` of `data` and holds the rest back.
    fn write_part(&self, state: &mut State, offset: u64, data: &[u8], bytes: usize) -> Result<()> {
        let sectors = (offset..).step_by(SECTOR).zip(data.chunks(SECTOR));
        for (index, (at, sector)) in sectors.enumerate() {
            state.held.remove(&at);
            if index * SECTOR >= bytes {
                state.held.insert(at, sector.to_vec());
            }
        }
        if bytes > 0 { self.write_inner(offset, &data[..bytes]) } else { Ok(()) }
    }
}

impl Device for Flawed {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let state = self.state.lock().expect("nobody panics with it");
        self.inner.read(offset, buffers)?;
        let mut at = offset;
        for buffer in buffers {
            for (sector, bytes) in state.held.range(at..at + buffer.len() as u64) {
                buffer[(sector - at) as usize..][..SECTOR].copy_from_slice(bytes);
            }
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let data: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let mut state = self.state.lock().expect("nobody panics with it");
        state.last = offset;
        state.is_others |= !self.is_meant(offset);
        state.writes += u64::from(self.is_meant(offset));
        let all = data.len();
        let gets_there = match self.flaw {
            Flaw::SyncSkipped(_) | Flaw::OwnSyncSkipped(_) | Flaw::Forgotten => all,
            Flaw::WriteLost(_) | Flaw::WriteLate(_) if self.is_meant(offset) => 0,
            Flaw::EveryOtherWriteLost(_) if self.is_meant(offset) && state.writes.is_multiple_of(2) => 0,
            Flaw::WriteLost(_) | Flaw::WriteLate(_) | Flaw::EveryOtherWriteLost(_) => all,
            Flaw::WriteTorn(_) if self.is_meant(offset) && state.writes.is_multiple_of(3) => {
                (all / 2).next_multiple_of(SECTOR)
            }
            Flaw::WriteTorn(_) => all,
            Flaw::SyncLate => 0,
            Flaw::SyncMissesLast => {
                self.release(&mut state)?;
                0
            }
            Flaw::OldOverNew => {
                let sectors = (offset..).step_by(SECTOR).zip(data.chunks(SECTOR));
                for (at, sector) in sectors {
                    if state.first.insert(at) {
                        state.held.remove(&at);
                        self.write_inner(at, sector)?;
                    } else {
                        state.held.insert(at, sector.to_vec());
                    }
                }
                return Ok(());
            }
        };
        self.write_part(&mut state, offset, &data, gets_there)
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.first.clear();
        match self.flaw {
            Flaw::SyncSkipped(_) if self.is_meant(state.last) => Ok(()),
            Flaw::OwnSyncSkipped(_) if !std::mem::take(&mut state.is_others) => Ok(()),
            Flaw::SyncLate | Flaw::SyncMissesLast => {
                self.inner.sync()?;
                self.release(&mut state)
            }
            _ => self.inner.sync(),
        }
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.write(offset, &[IoSlice::new(&vec![0; bytes as usize])])
    }

    fn identity(&self) -> Option<Identity> {
        self.inner.identity()
    }
}

/// A disk whose writes get there before what a flawed SSD holds back.
struct Ahead {
    inner: Arc<dyn Device>,
    late: Arc<Flawed>,
}

impl Device for Ahead {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.inner.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        assert!(total_bytes(buffers) > 0, "nobody writes nothing");
        self.inner.write(offset, buffers)?;
        if matches!(self.late.flaw, Flaw::WriteLate(_)) {
            let mut state = self.late.state.lock().expect("nobody panics with it");
            self.late.release(&mut state)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.inner.discard(offset, bytes)
    }

    fn identity(&self) -> Option<Identity> {
        self.inner.identity()
    }
}

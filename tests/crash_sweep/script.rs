//! What a cache is made to do before its power fails: a mixture of steps, drawn by a seed.
//!
//! To cover something new, add one to `SCRIPTS`, and when it needs one, a [`Step`] with what it does in `actor`. What writes
//! zeros (a discard) is noted as such: `History::note`. A new mode says what it promises in `is_whole_below` and
//! [`outlives_process`].

use terrace::{Background, WriteMode};

use super::actor::BLOCK_SECTORS;
use super::content::{self, Found, SECTOR};

/// What one mark covers.
const REGION_BLOCKS: u64 = 4096;

/// One thing that a cache is made to do; volume, place and length are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Writes some sectors of one block.
    WritePart,
    /// Writes some whole blocks.
    WriteBlocks,
    /// Writes some blocks of the volume at once, each half of one by a call of its own.
    WriteBeside,
    /// Writes the place of the last write again, which may be on its way below.
    WriteAgain,
    /// Discards some sectors; not of a volume whose writes outlive a process that dies: this may not.
    Discard,
    /// Flushes the volume and forgets some blocks of it; neither of such a volume.
    Forget,
    /// Changes the mode of the volume, to one of [`Script::changes`].
    ChangeMode,
    /// Takes the volume out of the cache and puts it back, where there are changes in the mode of one of them.
    Detach,
    /// Reads some blocks, mostly the same few.
    Read,
    /// Reads the whole volume: all leaves RAM.
    Scan,
    Flush,
    /// A flush that nobody waits for: what follows runs beside it.
    FlushBehind,
    /// Gives RAM another size.
    ResizeRam,
    /// Gives the cache file another size, of half to [`SSD_GROWTH`] times its blocks.
    ResizeSsd,
    /// Waits until nothing is under way.
    Settle,
    /// Closes the cache and opens it again.
    Reopen,
    /// The SSD takes nothing any more, until the next process has it.
    BreakSsd,
    /// The disk of the first volume takes nothing any more, until the next process has it or [`Step::MendDisk`]. The log has
    /// something of it then, and it is left be.
    BreakDisk,
    MendDisk,
    /// Takes the SSD out of the cache, if it is there.
    DetachSsd,
    /// Puts it back.
    AttachSsd,
    /// The process dies and another one opens the cache. The devices keep what they were given, synced or not.
    Die,
}

/// How much larger than at first the cache file may become.
pub(crate) const SSD_GROWTH: u64 = 4;

pub(crate) struct Script {
    pub(crate) name: &'static str,
    /// One volume for each, which begins in this mode.
    pub(crate) modes: &'static [WriteMode],
    /// The modes that they change to.
    pub(crate) changes: &'static [WriteMode],
    /// Of each volume.
    pub(crate) blocks: u64,
    /// In so many stretches of equal length, each at the start of a region that one mark covers; the blocks between are not
    /// used. No step but a scan goes from one to the next.
    pub(crate) stretches: u64,
    pub(crate) ram_blocks: u64,
    /// Frames beyond those; few have demotions dropped.
    pub(crate) slack_blocks: u32,
    pub(crate) ssd_blocks: u64,
    pub(crate) background: Background,
    /// What the log has goes below epoch by epoch; only steps whose flushes are waited for.
    pub(crate) ordered: bool,
    /// Nobody else writes to the volumes: clean copies outlive a crash.
    pub(crate) exclusive: bool,
    pub(crate) steps: usize,
    /// How often each step is drawn.
    pub(crate) mixture: &'static [(u32, Step)],
}

impl Script {
    /// Whether the backing store of a volume alone keeps the promise of a flush, and all copies above it are clean after a
    /// crash.
    pub(crate) fn is_whole_below(&self, volume: usize) -> bool {
        self.changes.iter().chain([&self.modes[volume]]).all(|&mode| is_whole_below(mode))
    }

    /// Whether all of a volume goes to the log before it goes anywhere else: a crash then leaves each block of it whole. It
    /// goes past a log that an SSD fails, or that another volume's disk keeps full.
    pub(crate) fn is_logged(&self, volume: usize) -> bool {
        let may_fail = self.mixture.iter().any(|(_, step)| [Step::BreakSsd, Step::BreakDisk].contains(step));
        self.modes[volume] == WriteMode::BackSsd && self.changes.is_empty() && !may_fail
    }

    /// Blocks from this one on to the end of its stretch.
    pub(crate) fn left_from(&self, block: u64) -> u64 {
        let length = self.blocks / self.stretches;
        length - block % length
    }

    /// Where in its volume a sector is, in bytes.
    pub(crate) fn offset_of(&self, sector: u64) -> u64 {
        let length = self.blocks / self.stretches * BLOCK_SECTORS;
        (sector / length * REGION_BLOCKS * BLOCK_SECTORS + sector % length) * SECTOR as u64
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.offset_of(self.blocks * BLOCK_SECTORS - 1) + SECTOR as u64
    }

    /// What a volume holds, when `read` fills a buffer from an offset on.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn read_all<E>(
        &self,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Vec<Found>, E> {
        let length = self.blocks / self.stretches * BLOCK_SECTORS;
        let mut bytes = vec![0; length as usize * SECTOR];
        let mut all = Vec::new();
        for first in (0..self.blocks * BLOCK_SECTORS).step_by(length as usize) {
            read(self.offset_of(first), &mut bytes)?;
            all.extend(content::found(first, &bytes));
        }
        Ok(all)
    }

    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> Step {
        let sum: u32 = self.mixture.iter().map(|(weight, _)| weight).sum();
        let mut left = random.u32(..sum);
        for &(weight, step) in self.mixture {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return step,
            }
        }
        unreachable!("the weights were added up")
    }
}

fn is_whole_below(mode: WriteMode) -> bool {
    match mode {
        WriteMode::Through | WriteMode::Around | WriteMode::Back => true,
        // The log on the SSD has what the backing store lacks.
        WriteMode::BackSsd => false,
    }
}

/// Whether a write that is acknowledged outlives the process.
pub(crate) fn outlives_process(mode: WriteMode) -> bool {
    match mode {
        WriteMode::Through | WriteMode::Around => true,
        WriteMode::Back | WriteMode::BackSsd => false,
    }
}

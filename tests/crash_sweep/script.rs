//! The scripts: what caches are made to do before their power fails.
//!
//! A script is a mixture of steps, drawn by a seed. To cover something new, add one to [`SCRIPTS`], and when it needs one,
//! a [`Step`] with what it does in `actor`. What writes zeros (a discard) is noted as such: `History::note`. A new mode
//! says what it promises in `is_whole_below` and [`outlives_process`].

use Step::{
    AttachSsd, BreakSsd, ChangeMode, DetachSsd, Die, Discard, Flush, FlushBehind, Forget, Read, Reopen,
    ResizeRam, ResizeSsd, Scan, Settle, WriteAgain, WriteBeside, WriteBlocks, WritePart,
};
use WriteMode::{Around, Back, BackSsd, Through};
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

const DEFAULT: Script = Script {
    name: "",
    modes: &[Back],
    changes: &[],
    blocks: 40,
    stretches: 1,
    ram_blocks: 8,
    slack_blocks: 48,
    ssd_blocks: 24,
    background: Background::Continuous,
    ordered: false,
    exclusive: false,
    steps: 50,
    mixture: &[],
};

pub(crate) const SCRIPTS: &[Script] = &[
    Script {
        name: "back",
        mixture: &[
            (6, WritePart),
            (4, WriteBlocks),
            (2, WriteAgain),
            (6, Read),
            (2, Flush),
            (1, FlushBehind),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "through",
        modes: &[Through],
        mixture: &[
            (6, WritePart),
            (2, WriteBlocks),
            (2, WriteBeside),
            (2, WriteAgain),
            (6, Read),
            (2, Flush),
            (1, FlushBehind),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "a log of dirty blocks",
        modes: &[BackSsd],
        mixture: &[
            (6, WritePart),
            (4, WriteBlocks),
            (2, WriteBeside),
            (2, WriteAgain),
            (6, Read),
            (3, Flush),
            (2, FlushBehind),
            (1, Settle),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "discards and forgets in a log",
        modes: &[BackSsd],
        blocks: 24,
        mixture: &[
            (5, WritePart),
            (3, WriteBlocks),
            (2, WriteAgain),
            (5, Discard),
            (2, Forget),
            (5, Read),
            (1, Scan),
            (4, Flush),
            (1, FlushBehind),
            (1, Settle),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    // Blocks leave RAM and are written again in part, so that the log has many copies of each, in many segments.
    Script {
        name: "chains of partial copies",
        modes: &[BackSsd],
        blocks: 14,
        steps: 80,
        mixture: &[
            (14, WritePart),
            (1, WriteBlocks),
            (3, WriteAgain),
            (2, Discard),
            (1, Forget),
            (3, Read),
            (4, Scan),
            (12, Flush),
            (2, FlushBehind),
            (1, Settle),
            (1, Reopen),
            (1, Die),
        ],
        ..DEFAULT
    },
    // Nothing is destaged before it is asked for: the chains are as long as they can be when the log is full.
    Script {
        name: "chains in a log that is full",
        modes: &[BackSsd],
        background: Background::OnSettle,
        blocks: 18,
        steps: 120,
        mixture: &[
            (14, WritePart),
            (2, WriteAgain),
            (1, Discard),
            (2, Scan),
            (14, Flush),
            (1, Settle),
            (1, Reopen),
            (1, Die),
        ],
        ..DEFAULT
    },
    Script {
        name: "chains epoch by epoch",
        modes: &[BackSsd],
        blocks: 12,
        ordered: true,
        steps: 80,
        mixture: &[
            (14, WritePart),
            (2, WriteAgain),
            (4, Discard),
            (2, Read),
            (3, Scan),
            (10, Flush),
            (1, Settle),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "epoch by epoch",
        modes: &[BackSsd],
        blocks: 16,
        ordered: true,
        steps: 60,
        mixture: &[
            (7, WritePart),
            (4, WriteBlocks),
            (2, WriteAgain),
            (2, Discard),
            (4, Read),
            (1, Scan),
            (6, Flush),
            (1, Settle),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "modes that change",
        modes: &[BackSsd, Back],
        changes: &[BackSsd, BackSsd, Back, Through, Around],
        blocks: 24,
        mixture: &[
            (5, WritePart),
            (3, WriteBlocks),
            (2, WriteBeside),
            (2, WriteAgain),
            (3, Discard),
            (4, Read),
            (2, Scan),
            (3, Flush),
            (1, FlushBehind),
            (4, ChangeMode),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    // The log is full, goes round, and shares its segments with clean copies of both volumes.
    Script {
        name: "a full log beside clean copies",
        modes: &[BackSsd, Through],
        blocks: 30,
        ssd_blocks: 32,
        steps: 60,
        mixture: &[
            (6, WriteBlocks),
            (3, WritePart),
            (3, Scan),
            (4, Read),
            (3, Flush),
            (1, Settle),
            (1, Reopen),
            (1, Die),
        ],
        ..DEFAULT
    },
    Script {
        name: "around and discard",
        modes: &[Around, Back],
        blocks: 24,
        mixture: &[
            (5, WritePart),
            (3, WriteBlocks),
            (2, WriteAgain),
            (4, Discard),
            (5, Read),
            (2, Scan),
            (2, Flush),
            (1, FlushBehind),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    // Copies are on the SSD and the cache was closed in order when blocks are overwritten.
    Script {
        name: "overwritten after a close",
        modes: &[Back, Through],
        blocks: 20,
        steps: 30,
        mixture: &[(4, WritePart), (2, WriteBlocks), (4, Read), (3, Scan), (1, Flush), (4, Reopen)],
        ..DEFAULT
    },
    // Each durable void takes a page of the journal, whose halves have eight, and nothing but a checkpoint frees one.
    Script {
        name: "journal and checkpoint",
        modes: &[Back, Through],
        blocks: 16,
        steps: 100,
        mixture: &[(12, WritePart), (6, Flush), (2, FlushBehind), (6, Scan), (1, Settle)],
        ..DEFAULT
    },
    // Blocks are read again from the SSD, and kept when their segments are emptied and used again.
    Script {
        name: "segments used again",
        modes: &[Back, Through],
        blocks: 30,
        ssd_blocks: 16,
        steps: 50,
        mixture: &[(8, Read), (6, Scan), (3, WritePart), (1, Flush), (2, Settle), (1, Reopen)],
        ..DEFAULT
    },
    // What one process wrote and did not sync is read by the next one, and copied, and closed over.
    Script {
        name: "the process dies",
        modes: &[Back, Through],
        blocks: 20,
        steps: 30,
        mixture: &[
            (4, WritePart),
            (3, WriteBeside),
            (3, Read),
            (3, Scan),
            (2, Flush),
            (1, FlushBehind),
            (3, Reopen),
            (3, Die),
        ],
        ..DEFAULT
    },
    Script {
        name: "many dirty blocks and few frames",
        slack_blocks: 8,
        modes: &[Back, Back],
        blocks: 60,
        steps: 40,
        mixture: &[
            (5, WriteBlocks),
            (3, WriteBeside),
            (2, WritePart),
            (2, Read),
            (1, Flush),
            (2, FlushBehind),
        ],
        ..DEFAULT
    },
    // What comes back is older than what was written without it, and the disks look as they did.
    Script {
        name: "the ssd comes and goes",
        modes: &[Back, Through],
        blocks: 20,
        steps: 40,
        mixture: &[
            (5, WritePart),
            (3, WriteBlocks),
            (4, Read),
            (4, Scan),
            (2, Flush),
            (1, FlushBehind),
            (3, DetachSsd),
            (3, AttachSsd),
            (1, BreakSsd),
            (3, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "the ssd fails with a log",
        modes: &[BackSsd, Around],
        blocks: 20,
        steps: 40,
        mixture: &[
            (6, WritePart),
            (4, WriteBlocks),
            (2, WriteAgain),
            (4, Read),
            (2, Scan),
            (4, Flush),
            (1, FlushBehind),
            (2, BreakSsd),
            (3, Reopen),
            (1, Die),
        ],
        ..DEFAULT
    },
    // Dirty blocks are more than RAM has room for, all of a sudden.
    Script {
        name: "RAM shrinks and grows",
        modes: &[Back, Through, BackSsd],
        blocks: 40,
        steps: 40,
        mixture: &[
            (6, ResizeRam),
            (6, WriteBlocks),
            (4, WritePart),
            (3, WriteBeside),
            (3, Read),
            (1, Scan),
            (2, Flush),
            (2, FlushBehind),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    // Its checkpoints move behind the last segment and back, and segments come and go with what is in them. Whoever opens
    // it after a crash wants the first size again.
    Script {
        name: "the cache file grows and shrinks",
        modes: &[Back, Through, BackSsd],
        blocks: 40,
        ssd_blocks: 24,
        steps: 30,
        mixture: &[
            (6, ResizeSsd),
            (5, WriteBlocks),
            (3, WritePart),
            (3, Read),
            (3, Scan),
            (2, Flush),
            (1, FlushBehind),
            (1, ResizeRam),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    // What the process left is not found again before it is written to and dies, or closes.
    Script {
        name: "summaries unread",
        modes: &[Back, Through],
        background: Background::OnSettle,
        blocks: 20,
        ssd_blocks: 32,
        steps: 40,
        mixture: &[
            (6, WritePart),
            (3, WriteBlocks),
            (3, Read),
            (4, Scan),
            (2, Flush),
            (1, Settle),
            (3, Reopen),
            (2, Die),
        ],
        ..DEFAULT
    },
    // The same with discards. Nobody dies: a discard may be lost with its process, a write to the second volume may not.
    Script {
        name: "discards beside summaries unread",
        modes: &[Back, Through],
        background: Background::OnSettle,
        blocks: 20,
        ssd_blocks: 32,
        steps: 40,
        mixture: &[
            (5, WritePart),
            (3, WriteBlocks),
            (3, Discard),
            (3, Read),
            (4, Scan),
            (2, Flush),
            (1, Settle),
            (4, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "a log beside summaries unread",
        modes: &[BackSsd, Through],
        background: Background::OnSettle,
        blocks: 20,
        ssd_blocks: 32,
        steps: 40,
        mixture: &[
            (6, WritePart),
            (3, WriteBlocks),
            (3, Read),
            (4, Scan),
            (2, Flush),
            (1, Settle),
            (3, Reopen),
            (2, Die),
        ],
        ..DEFAULT
    },
    // Clean copies outlive the crash, those that are what the backing store has. Most blocks are read before anything of
    // them is on the SSD, where a mark over their region would void whatever comes there next.
    Script {
        name: "warm after a crash",
        modes: &[Around, Back],
        exclusive: true,
        blocks: 48,
        ssd_blocks: 64,
        steps: 60,
        mixture: &[
            (2, WritePart),
            (3, WriteBlocks),
            (1, WriteBeside),
            (1, Discard),
            (1, Forget),
            (9, Read),
            (1, Flush),
            (1, FlushBehind),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    // With one mark over all of a volume a crash drops what is not synced by that mark already.
    Script {
        name: "warm after a crash in several regions",
        modes: &[Around, Back],
        exclusive: true,
        blocks: 48,
        stretches: 12,
        ssd_blocks: 64,
        steps: 60,
        mixture: &[
            (2, WritePart),
            (3, WriteBlocks),
            (1, Discard),
            (9, Read),
            (1, Flush),
            (1, FlushBehind),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "warm after a process died",
        modes: &[Around, Back],
        exclusive: true,
        blocks: 48,
        ssd_blocks: 64,
        steps: 60,
        mixture: &[(2, WritePart), (3, WriteBlocks), (9, Read), (1, Scan), (1, Flush), (1, Reopen), (2, Die)],
        ..DEFAULT
    },
    Script {
        name: "warm after a crash with a log",
        modes: &[BackSsd, Through],
        exclusive: true,
        blocks: 24,
        ssd_blocks: 48,
        mixture: &[
            (4, WritePart),
            (2, WriteBlocks),
            (1, WriteAgain),
            (2, Discard),
            (1, Forget),
            (3, Read),
            (4, Scan),
            (2, Flush),
            (1, FlushBehind),
            (1, Settle),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "warm unless the ssd was away",
        modes: &[Around, Back],
        exclusive: true,
        blocks: 24,
        ssd_blocks: 32,
        mixture: &[
            (4, WritePart),
            (2, WriteBlocks),
            (6, Read),
            (3, Scan),
            (2, Flush),
            (1, DetachSsd),
            (3, AttachSsd),
            (1, BreakSsd),
            (2, Reopen),
        ],
        ..DEFAULT
    },
    // With nothing in the background a seed gives the same run each time.
    Script {
        name: "one step after the other",
        modes: &[Back, Through],
        background: Background::OnSettle,
        mixture: &[
            (6, WritePart),
            (3, WriteBlocks),
            (6, Read),
            (2, Scan),
            (2, Flush),
            (3, Settle),
            (2, Reopen),
        ],
        ..DEFAULT
    },
];

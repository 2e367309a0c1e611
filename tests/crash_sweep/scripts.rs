//! All scripts of the sweep.

use terrace::Background;
use terrace::WriteMode::{Around, Back, BackSsd, Through};

use super::script::Script;
use super::script::Step::{
    AttachSsd, BreakDisk, BreakSsd, ChangeMode, Detach, DetachSsd, Die, Discard, Flush, FlushBehind, Forget,
    MendDisk, Read, Reopen, ResizeRam, ResizeSsd, Scan, Settle, WriteAgain, WriteBeside, WriteBlocks,
    WritePart,
};

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
            (1, Detach),
            (1, Reopen),
        ],
        ..DEFAULT
    },
    Script {
        name: "volumes come and go",
        modes: &[BackSsd, Back, Through],
        blocks: 20,
        mixture: &[
            (5, WritePart),
            (3, WriteBlocks),
            (2, WriteAgain),
            (2, Discard),
            (4, Read),
            (3, Scan),
            (2, Flush),
            (1, FlushBehind),
            (4, Detach),
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
    // What the first one has in the log keeps it full, and the second one goes past it.
    Script {
        name: "a sick volume beside a sound one",
        modes: &[BackSsd, BackSsd],
        blocks: 24,
        steps: 70,
        mixture: &[
            (6, BreakDisk),
            (2, MendDisk),
            (8, WriteBlocks),
            (6, WritePart),
            (1, WriteBeside),
            (2, WriteAgain),
            (3, Discard),
            (1, Forget),
            (3, Read),
            (2, Scan),
            (8, Flush),
            (1, FlushBehind),
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

//! Fills: the bytes of missing blocks are read, from the SSD or below, and installed.
//!
//! Fills of neighbours that one call plans are one vectored read. A blocking caller, who would only wait, runs the last of
//! its reads itself, and one that waits for no slow disk the last of the SSD's; the rest, and all reads of the other
//! entries, go to the pool.
//!
//! A copy on the SSD that moved or is damaged sends its block below; an error below answers everyone who waited.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use terrace_tiers::block::{BlockId, BlockSize};
use terrace_tiers::device::Device;
use terrace_tiers::ram::frames::{FrameMut, FrameRef};
use terrace_tiers::ssd::{LogRead, ReadPlan, ReadVerdict};

use super::answer::{Answer, BlockRef, Blocks};
use super::dirty::VolumeState;
use super::fence::Swept;
use super::ssd::SsdTier;
use super::{Inner, Result};
use crate::error::{Error, TierError};
use crate::pool::{Lane, Priority, ReadRequest};

/// Who runs the I/O that a call needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Runner {
    /// The calling thread, which would only wait.
    Caller,
    /// The calling thread what the SSD has, at most one run of it, and the pool the rest: for one that can wait as long as an
    /// SSD takes, and not for a slow disk. Of reads alone.
    Near,
    Pool(Priority),
}

impl Runner {
    pub(super) fn priority(self) -> Priority {
        match self {
            Self::Caller | Self::Near => Priority::Foreground,
            Self::Pool(priority) => priority,
        }
    }
}

/// Where the bytes of a fill come from.
#[derive(Clone)]
pub(super) enum Source {
    Disk,
    Ssd(Arc<SsdTier>, ReadPlan),
    Log(Arc<SsdTier>, LogRead),
}

impl Source {
    pub(super) fn is_disk(&self) -> bool {
        matches!(self, Self::Disk)
    }
}

/// A fill whose frame is at hand and whose I/O is not yet under way.
pub(super) struct PlannedFill {
    pub(super) block: BlockId,
    pub(super) source: Source,
    pub(super) frame: FrameMut,
}

/// Fills that are neighbours where they come from.
struct FillRun {
    blocks: SmallVec<[(BlockId, Source); 1]>,
    offset: u64,
    frames: Vec<FrameMut>,
}

impl Inner {
    /// Brings planned fills on their way, neighbours together.
    pub(super) fn run_fills(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        mut fills: Vec<PlannedFill>,
        runner: Runner,
    ) {
        for fill in fills.extract_if(.., |fill| matches!(fill.source, Source::Log(..))) {
            self.start_log_fill(volume, fill, runner);
        }
        let mut runs = self.group_fills(fills);
        if !self.is_continuous() && runner == Runner::Caller {
            // One after the other, so that what follows does not depend on which read is faster.
            for run in runs {
                let (lane, request) = self.request_for(volume, run, runner);
                lane.run_read(request);
            }
            return;
        }
        let own = match runner {
            Runner::Caller => runs.pop(),
            Runner::Near => runs.pop_if(|run| !run.blocks[0].1.is_disk()),
            Runner::Pool(_) => None,
        };
        for run in runs {
            let (lane, request) = self.request_for(volume, run, runner);
            lane.read(request);
        }
        if let Some(run) = own {
            let (lane, request) = self.request_for(volume, run, runner);
            lane.run_read(request);
        }
    }

    fn group_fills(&self, fills: Vec<PlannedFill>) -> Vec<FillRun> {
        let block_bytes = self.size.bytes() as u64;
        let blocks_max = (self.limits.run_bytes_max / self.size.bytes()).max(1);
        let mut runs: Vec<FillRun> = Vec::new();
        for fill in fills {
            let offset = match fill.source {
                Source::Disk => fill.block.byte_offset(self.size),
                Source::Ssd(_, ref plan) => plan.offset,
                Source::Log(..) => unreachable!("a fill from the log goes alone"),
            };
            let last = runs.last_mut().filter(|run| {
                let same_place = match (&run.blocks[0].1, &fill.source) {
                    (Source::Ssd(one, _), Source::Ssd(other, _)) => Arc::ptr_eq(one, other),
                    (one, other) => one.is_disk() && other.is_disk(),
                };
                let end = run.offset + run.frames.len() as u64 * block_bytes;
                same_place && end == offset && run.frames.len() < blocks_max
            });
            match last {
                Some(run) => {
                    run.blocks.push((fill.block, fill.source));
                    run.frames.push(fill.frame);
                }
                None => runs.push(FillRun {
                    blocks: smallvec![(fill.block, fill.source)],
                    offset,
                    frames: vec![fill.frame],
                }),
            }
        }
        runs
    }

    fn request_for(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        run: FillRun,
        runner: Runner,
    ) -> (Lane, ReadRequest) {
        let (lane, device) = match &run.blocks[0].1 {
            // The tier itself: as long as a request is under way, its device is not let go.
            Source::Ssd(ssd, _) => (ssd.lane.clone(), ssd.clone() as Arc<dyn Device>),
            _ => (volume.lane.clone(), volume.device.clone()),
        };
        let (inner, volume, blocks) = (self.clone(), volume.clone(), run.blocks);
        let done =
            Box::new(move |frames, result| inner.finish_fills(&volume, blocks, frames, &result, runner));
        let priority = runner.priority();
        (lane, ReadRequest { priority, device, offset: run.offset, frames: run.frames, done })
    }

    /// The I/O of a run ended.
    fn finish_fills(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        blocks: SmallVec<[(BlockId, Source); 1]>,
        frames: Vec<FrameMut>,
        result: &Result<(), TierError>,
        runner: Runner,
    ) {
        let is_alone = blocks.len() == 1;
        let mut again = Vec::new();
        for ((block, source), frame) in blocks.into_iter().zip(frames) {
            match (source, result) {
                (Source::Log(..), _) => unreachable!("a fill from the log goes alone"),
                (Source::Ssd(ssd, plan), _) => {
                    let verified = result.is_ok() && plan.verify(&frame);
                    if ssd.finish_read(&plan, verified, result.as_ref().err()) == ReadVerdict::Valid {
                        self.finish_fill(volume, block, Ok(frame), &Source::Ssd(ssd, plan));
                    } else {
                        again.push(PlannedFill { block, source: Source::Disk, frame });
                    }
                }
                (Source::Disk, Ok(())) => self.finish_fill(volume, block, Ok(frame), &Source::Disk),
                (Source::Disk, Err(error)) if is_alone => {
                    self.finish_fill(volume, block, Err(error.clone()), &Source::Disk);
                }
                // One bad block must not fail its neighbours.
                (Source::Disk, Err(_)) => again.push(PlannedFill { block, source: Source::Disk, frame }),
            }
        }
        let runs_alone = result.is_err();
        for run in self
            .group_fills(again)
            .into_iter()
            .flat_map(|run| if runs_alone { run.split() } else { vec![run] })
        {
            let run = run.at(self.size);
            let (lane, request) = self.request_for(volume, run, runner);
            match runner {
                Runner::Near => lane.read(request),
                Runner::Caller | Runner::Pool(_) => lane.run_read(request),
            }
        }
    }

    /// A fill ended: its bytes go to their place in RAM and to all who wait.
    pub(super) fn finish_fill(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        block: BlockId,
        frame: Result<FrameMut, TierError>,
        source: &Source,
    ) {
        // Those who wait were told.
        let _ = self.end_fill(volume, block, frame, source, 0);
    }

    /// As [`Self::finish_fill`]; what came is also for `takers` who did not wait, and take it from the answer.
    fn end_fill(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        block: BlockId,
        frame: Result<FrameMut, TierError>,
        source: &Source,
        takers: u64,
    ) -> Result<FrameRef, TierError> {
        let mut shard = self.shard(block);
        let (frame, error) = match frame {
            Ok(frame) => (Some(frame), None),
            Err(error) => (None, Some(error)),
        };
        let filled = shard.finish_fill(block, frame, !source.is_disk());
        let count = filled.waiters.len() as u64 + takers;
        if error.is_none() {
            match source {
                Source::Disk => shard.counters.disk_reads += count,
                Source::Ssd(..) | Source::Log(..) => shard.counters.read_ssd_hits += count,
            }
            shard.counters.fills_joined += count.saturating_sub(1);
        }
        if let Some(departed) = filled.departed {
            self.demote(departed);
        }
        let mut swept = Swept::default();
        if filled.is_stale {
            self.finish_stale_fill(volume, &mut shard, block, &mut swept);
        }
        drop(shard);
        if filled.is_stale {
            swept.finish(self);
            self.go_on_behind_fences(volume);
        }
        self.start_wanted_appends();
        if filled.released {
            self.announce_release();
        }
        let brought = match (filled.frame, error) {
            (_, Some(error)) => Err(error),
            (frame, None) => Ok(frame.expect("a fill that was read has a frame")),
        };
        for waiter in filled.waiters {
            waiter.deliver(brought.clone(), source);
        }
        brought
    }

    /// The one block that a blocking caller misses: the caller runs its fill, and nothing is built for others.
    pub(super) fn fill_alone(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        fill: PlannedFill,
        offset: u64,
        bytes: usize,
    ) -> Result<Blocks> {
        let PlannedFill { block, mut source, mut frame } = fill;
        let read = loop {
            let result = match &source {
                Source::Log(..) => self.read_logged(volume, block, &source, &mut frame),
                Source::Ssd(ssd, plan) => {
                    if ssd.read_stored(plan, &mut frame) {
                        break Ok(());
                    }
                    source = Source::Disk;
                    continue;
                }
                Source::Disk => {
                    let from = block.byte_offset(self.size);
                    volume.lane.read_here(&*volume.device, from, &mut frame).map_err(Arc::new)
                }
            };
            break result;
        };
        let frame = self.end_fill(volume, block, read.map(|()| frame), &source, 1).map_err(Error::Tier)?;
        let answer = match source {
            Source::Disk => Answer { disk_blocks: 1, ..Answer::default() },
            Source::Ssd(..) | Source::Log(..) => Answer { ssd_blocks: 1, ..Answer::default() },
        };
        let start = (offset - block.byte_offset(self.size)) as usize;
        Ok(Blocks { parts: smallvec![BlockRef::new(frame, start, start + bytes)], answer })
    }
}

impl SsdTier {
    /// Reads a clean copy on this thread; false when the backing store must be asked.
    fn read_stored(&self, plan: &ReadPlan, frame: &mut [u8]) -> bool {
        let result = self.lane.read_here(&*self.device, plan.offset, frame).map_err(Arc::new);
        let verified = result.is_ok() && plan.verify(frame);
        self.finish_read(plan, verified, result.as_ref().err()) == ReadVerdict::Valid
    }
}

impl FillRun {
    /// Each block by itself.
    fn split(self) -> Vec<FillRun> {
        let parts = self.blocks.into_iter().zip(self.frames);
        parts
            .map(|(block, frame)| FillRun { blocks: smallvec![block], offset: 0, frames: vec![frame] })
            .collect()
    }

    fn at(mut self, size: BlockSize) -> FillRun {
        self.offset = self.blocks[0].0.byte_offset(size);
        self
    }
}

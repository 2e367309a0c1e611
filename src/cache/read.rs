//! Reading: look up, plan fills for what is missing, run them, finish them.
//!
//! A fill is single-flight: whoever wants a block that is on its way waits for it. Fills of neighbours that one call
//! plans are one vectored read. A blocking caller, who would only wait, runs the last of its reads itself; the rest,
//! and all reads of the other entries, go to the pool.
//!
//! A copy on the SSD that moved or is damaged sends its block below; an error below answers everyone who waited.

use std::ops::Range;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use terrace_tiers::block::{BlockId, BlockSize, SECTOR_BYTES};
use terrace_tiers::ram::frames::{FrameMut, FrameRef};
use terrace_tiers::ssd::{LogRead, ReadPlan, ReadVerdict};

use super::answer::{Answer, BlockRef, Blocks};
use super::dirty::VolumeState;
use super::fence::Swept;
use super::index::{Found, Shard};
use super::ssd::{OnSsd, SsdTier};
use super::{Inner, Result};
use crate::error::{Error, TierError};
use crate::pool::{Lane, Priority, ReadRequest};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The end of a read that could not be answered at once.
pub(super) type ReadDone = Box<dyn FnOnce(Result<Blocks>) + Send>;

/// Who runs the I/O that a call needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Runner {
    /// The calling thread, which would only wait.
    Caller,
    Pool(Priority),
}

/// The part of one block that a call touches, in bytes of the block.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) block: BlockId,
    pub(super) bytes: Range<usize>,
}

impl Piece {
    pub(super) fn sectors(&self) -> Range<usize> {
        self.bytes.start / SECTOR_BYTES..self.bytes.end.div_ceil(SECTOR_BYTES)
    }
}

/// `bytes` bytes from `offset` on, block by block.
pub(super) fn pieces(
    volume: terrace_tiers::block::VolumeId,
    offset: u64,
    bytes: usize,
    size: BlockSize,
) -> impl Iterator<Item = Piece> {
    let end = offset + bytes as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = (at & (size.bytes() as u64 - 1)) as usize;
        let length = (size.bytes() - start).min((end - at) as usize);
        let block = BlockId::new(volume, at >> size.shift());
        at += length as u64;
        Some(Piece { block, bytes: start..start + length })
    })
}

/// A read that waits for fills.
pub(super) struct ReadOperation {
    /// Parts that are not there yet, and one for whoever plans the read.
    pending: AtomicU32,
    state: Mutex<ReadState>,
}

struct ReadState {
    parts: SmallVec<[Option<BlockRef>; 2]>,
    answer: Answer,
    error: Option<Error>,
    done: Option<ReadDone>,
}

/// One who waits for a fill: a read, which of its parts, and the bytes of the block that it wants.
pub(super) struct FillWaiter {
    operation: Arc<ReadOperation>,
    part: usize,
    bytes: Range<usize>,
}

/// Where the bytes of a fill come from.
#[derive(Clone)]
pub(super) enum Source {
    Disk,
    Ssd(Arc<SsdTier>, ReadPlan),
    Log(Arc<SsdTier>, LogRead),
}

impl Source {
    fn is_disk(&self) -> bool {
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

impl ReadOperation {
    fn new(piece_count: usize, done: ReadDone) -> Arc<Self> {
        let state = ReadState {
            parts: smallvec![None; piece_count],
            answer: Answer::default(),
            error: None,
            done: Some(done),
        };
        Arc::new(Self { pending: AtomicU32::new(1), state: Mutex::new(state) })
    }

    fn part_done(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut state = self.state.lock();
        let done = state.done.take().expect("an operation completes once");
        let result = match state.error.take() {
            Some(error) => Err(error),
            None => Ok(state.blocks()),
        };
        drop(state);
        done(result);
    }
}

impl ReadState {
    fn blocks(&mut self) -> Blocks {
        let parts = std::mem::take(&mut self.parts);
        let parts = parts.into_iter().map(|part| part.expect("every part was delivered"));
        Blocks { parts: parts.collect(), answer: self.answer }
    }
}

impl FillWaiter {
    /// The block arrived; the last part completes the operation.
    fn deliver(self, frame: Result<FrameRef, TierError>, source: &Source) {
        let mut state = self.operation.state.lock();
        match source {
            Source::Disk => state.answer.disk_blocks += 1,
            Source::Ssd(..) | Source::Log(..) => state.answer.ssd_blocks += 1,
        }
        match frame {
            Ok(frame) => {
                state.parts[self.part] = Some(BlockRef::new(frame, self.bytes.start, self.bytes.end));
            }
            Err(error) => state.error = Some(Error::Tier(error)),
        }
        drop(state);
        self.operation.part_done();
    }
}

/// A read while it is planned: what is at hand, and the operation once something is missing.
struct Planning<'a> {
    /// The parts up to the first that is missing.
    ready: SmallVec<[BlockRef; 2]>,
    /// Those after it that are at hand.
    ready_later: Vec<(usize, BlockRef)>,
    operation: Option<Arc<ReadOperation>>,
    fills: SmallVec<[PlannedFill; 1]>,
    error: Option<Error>,
    piece_count: usize,
    answer: Answer,
    /// Whoever plans runs the fill, and takes what it brings without being told.
    is_alone: bool,
    new_done: &'a mut dyn FnMut() -> ReadDone,
}

impl<'a> Planning<'a> {
    fn new(piece_count: usize, is_alone: bool, new_done: &'a mut dyn FnMut() -> ReadDone) -> Self {
        Self {
            ready: SmallVec::new(),
            ready_later: Vec::new(),
            operation: None,
            fills: SmallVec::new(),
            error: None,
            piece_count,
            answer: Answer::default(),
            is_alone,
            new_done,
        }
    }

    /// A part is at hand.
    fn take(&mut self, part: usize, frame: FrameRef, bytes: &Range<usize>) {
        let block = BlockRef::new(frame, bytes.start, bytes.end);
        if self.ready.len() == part {
            self.ready.push(block);
        } else {
            self.ready_later.push((part, block));
        }
    }

    fn waiter(&mut self, part: usize, bytes: &Range<usize>) -> FillWaiter {
        let operation = self
            .operation
            .get_or_insert_with(|| ReadOperation::new(self.piece_count, (self.new_done)()))
            .clone();
        operation.pending.fetch_add(1, Ordering::Relaxed);
        FillWaiter { operation, part, bytes: bytes.clone() }
    }
}

impl Inner {
    /// The bytes of one block, if they are in RAM: the short way, with nothing to build for what may be missing.
    pub(super) fn read_hit(&self, volume: &VolumeState, offset: u64, bytes: usize) -> Option<Blocks> {
        let number = volume.block_number(offset);
        let start = (offset - (number << self.size.shift())) as usize;
        let end = start.checked_add(bytes).filter(|&end| bytes > 0 && end <= self.size.bytes())?;
        if self.is_out(volume) || volume.check_range(offset, bytes).is_err() {
            return None;
        }
        let block = BlockId::new(volume.id, number);
        let sectors = start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let frame = self.shard(block).hit(block, sectors)?;
        let answer = Answer { ram_blocks: 1, ..Answer::default() };
        Some(Blocks { parts: smallvec![BlockRef::new(frame, start, end)], answer })
    }

    /// Reads `bytes` bytes from `offset` on. The answer when all was at hand; else none, and the function that
    /// `new_done` gives (it is asked once) runs when the answer is there, on the thread that brought the last part.
    pub(super) fn read(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        bytes: usize,
        runner: Runner,
        new_done: &mut dyn FnMut() -> ReadDone,
    ) -> Option<Result<Blocks>> {
        if let Err(error) = self.check_volume(volume).and_then(|()| volume.check_range(offset, bytes)) {
            return Some(Err(error));
        }
        let last = offset + bytes.max(1) as u64 - 1;
        let piece_count = (volume.block_number(last) - volume.block_number(offset) + 1) as usize;
        let is_alone = runner == Runner::Caller && piece_count == 1;
        let mut planning = Planning::new(piece_count, is_alone, new_done);
        for (part, piece) in pieces(volume.id, offset, bytes, self.size).enumerate() {
            self.plan_part(volume, part, &piece, &mut planning);
        }
        self.start_wanted_appends();
        let Planning { ready, ready_later, operation, mut fills, error, answer, .. } = planning;
        let Some(operation) = operation else {
            if let Some(fill) = fills.pop() {
                return Some(self.fill_alone(volume, fill, offset, bytes));
            }
            return Some(match error {
                Some(error) => Err(error),
                None => Ok(Blocks { parts: ready, answer }),
            });
        };
        {
            let mut state = operation.state.lock();
            state.answer.add(answer);
            if error.is_some() {
                state.error = error;
            }
            for (part, block) in ready.into_iter().enumerate().chain(ready_later) {
                state.parts[part] = Some(block);
            }
        }
        self.run_fills(volume, fills.into_vec(), runner);
        operation.part_done();
        None
    }

    /// Looks one block up: takes its frame when it is at hand; else a fill is planned or joined.
    fn plan_part(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        part: usize,
        piece: &Piece,
        planning: &mut Planning<'_>,
    ) {
        let mut shard = self.shard(piece.block);
        let (found, departed) = shard.find(piece.block, piece.sectors());
        if let Some(departed) = departed {
            self.demote(departed);
        }
        match found {
            Found::Ready(frame) => {
                planning.answer.ram_blocks += 1;
                planning.take(part, frame, &piece.bytes);
            }
            Found::Filling => {
                let waiter = planning.waiter(part, &piece.bytes);
                let fill =
                    shard.fills.get_mut(&piece.block).expect("a block that is being filled has a fill");
                fill.waiters.push(waiter);
            }
            Found::Absent => self.plan_fill(volume, part, piece, shard, planning),
        }
    }

    fn plan_fill(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        part: usize,
        piece: &Piece,
        mut shard: MutexGuard<'_, Shard>,
        planning: &mut Planning<'_>,
    ) {
        let block = piece.block;
        // Under the lock of the shard, which whoever detaches takes after it said so.
        if volume.is_detached() {
            shard.give_up(block);
            planning.error = Some(volume.detached_error());
            return;
        }
        if shard.is_discarded(block) {
            let Some(frame) = self.frames.alloc() else {
                shard.give_up(block);
                planning.error = Some(Error::WouldBlock);
                return;
            };
            planning.answer.ram_blocks += 1;
            let frame = shard.take_zeros(block, frame, volume.version());
            return planning.take(part, frame, &piece.bytes);
        }
        if volume.is_unreadable(block) {
            shard.give_up(block);
            planning.error = Some(volume.unreadable_error(1));
            return;
        }
        let ssd = self.ssd().filter(|ssd| !shard.is_fenced(block) && ssd.serves(volume.mode()));
        let found = ssd.and_then(|ssd| ssd.find(block).map(|found| (ssd, found)));
        let source = match found {
            Some((_, OnSsd::OnTheWay(frame))) => {
                planning.answer.ssd_blocks += 1;
                let frame = shard.take_back(block, frame, volume.version());
                return planning.take(part, frame, &piece.bytes);
            }
            Some((ssd, OnSsd::Stored(plan))) => Source::Ssd(ssd, plan),
            Some((ssd, OnSsd::Logged(read))) => Source::Log(ssd, read),
            None => Source::Disk,
        };
        let Some(frame) = self.frames.alloc() else {
            shard.give_up(block);
            planning.error = Some(Error::WouldBlock);
            return;
        };
        let waiter = (!planning.is_alone).then(|| planning.waiter(part, &piece.bytes));
        shard.start_fill(block, volume.version(), waiter);
        planning.fills.push(PlannedFill { block, source, frame });
    }

    /// Brings planned fills on their way, neighbours together.
    fn run_fills(self: &Arc<Self>, volume: &Arc<VolumeState>, mut fills: Vec<PlannedFill>, runner: Runner) {
        for fill in fills.extract_if(.., |fill| matches!(fill.source, Source::Log(..))) {
            self.start_log_fill(volume, fill, runner);
        }
        let mut runs = self.group_fills(fills);
        if !self.is_continuous() && runner == Runner::Caller {
            // One after the other, so that what follows does not depend on which read is faster.
            for run in runs {
                let (lane, request) = self.request_for(volume, run, Priority::Foreground);
                lane.run_read(request);
            }
            return;
        }
        let own = if runner == Runner::Caller { runs.pop() } else { None };
        let priority = match runner {
            Runner::Caller => Priority::Foreground,
            Runner::Pool(priority) => priority,
        };
        for run in runs {
            let (lane, request) = self.request_for(volume, run, priority);
            lane.read(request);
        }
        if let Some(run) = own {
            let (lane, request) = self.request_for(volume, run, priority);
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
        priority: Priority,
    ) -> (Lane, ReadRequest) {
        let (lane, device) = match &run.blocks[0].1 {
            Source::Ssd(ssd, _) => (ssd.lane.clone(), ssd.device.clone()),
            _ => (volume.lane.clone(), volume.device.clone()),
        };
        let (inner, volume, blocks) = (self.clone(), volume.clone(), run.blocks);
        let done = Box::new(move |frames, result| inner.finish_fills(&volume, blocks, frames, &result));
        (lane, ReadRequest { priority, device, offset: run.offset, frames: run.frames, done })
    }

    /// The I/O of a run ended.
    fn finish_fills(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        blocks: SmallVec<[(BlockId, Source); 1]>,
        frames: Vec<FrameMut>,
        result: &Result<(), TierError>,
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
            let (lane, request) = self.request_for(volume, run, Priority::Foreground);
            lane.run_read(request);
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
    fn fill_alone(
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

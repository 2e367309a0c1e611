//! Reading: look up, and plan fills for what is missing, which `fill` runs.
//!
//! A fill is single-flight: whoever wants a block that is on its way waits for it.

use std::ops::Range;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use terrace_recording::Kind;
use terrace_tiers::block::{BlockId, BlockSize, SECTOR_BYTES};
use terrace_tiers::ram::frames::FrameRef;

use super::answer::{Answer, BlockRef, Blocks};
use super::dirty::VolumeState;
use super::fill::{PlannedFill, Runner, Source};
use super::index::{Found, Shard};
use super::ssd::OnSsd;
use super::tap::ReferenceKind;
use super::{Inner, Result};
use crate::error::{Error, TierError};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The end of a read that could not be answered at once.
pub(super) type ReadDone = Box<dyn FnOnce(Result<Blocks>) + Send>;

/// What a read is of what a caller asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// All of it: it is recorded.
    Whole,
    /// A part of what was recorded before, or nothing of it.
    Part,
}

/// What is to become of a read when there are frames for its first blocks only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// It would block: nobody waits for frames and holds some. What was found was used, and is again when the caller comes
    /// back: to look first would take every lock twice, for calls that find RAM full of bytes that readers hold.
    All,
    /// It ends before the first block that has none. So blocks that were found are used once, however often a caller has
    /// to come back for the rest.
    AsFar,
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
    pub(super) fn deliver(self, frame: Result<FrameRef, TierError>, source: &Source) {
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

    /// The read is of the parts before this one, all of them at hand or on their way.
    fn end_before(&mut self, part: usize) {
        self.error = None;
        if let Some(operation) = &self.operation {
            operation.state.lock().parts.truncate(part);
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
    /// The bytes of one block, if they are in RAM: the short way, with nothing to build for what may be missing. Part of its
    /// callers, so that the answer is made where it goes.
    #[inline(always)]
    pub(super) fn read_hit(
        &self,
        volume: &VolumeState,
        offset: u64,
        bytes: usize,
        call: Call,
    ) -> Option<Blocks> {
        let number = volume.block_number(offset);
        let start = (offset - (number << self.size.shift())) as usize;
        let end = start.checked_add(bytes).filter(|&end| bytes > 0 && end <= self.size.bytes())?;
        if self.is_out(volume) || volume.check_range(offset, bytes).is_err() {
            return None;
        }
        let block = BlockId::new(volume.id, number);
        let sectors = start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let frame = {
            let mut shard = self.shard(block);
            let frame = shard.hit(block, sectors)?;
            if shard.lane.is_recording() && call == Call::Whole {
                shard.lane.take(block, start, Kind::Read, bytes as u64);
            }
            frame
        };
        self.tap.note(block, ReferenceKind::Read);
        let answer = Answer { ram_blocks: 1, ..Answer::default() };
        Some(Blocks { parts: smallvec![BlockRef::new(frame, start, end)], answer })
    }

    /// As [`Self::read_hit`], of any number of blocks; when some are missing nothing counts as a use. Recorded by itself.
    #[inline(never)]
    pub(super) fn read_hits(&self, volume: &VolumeState, offset: u64, bytes: usize) -> Option<Blocks> {
        if self.is_out(volume) || volume.check_range(offset, bytes).is_err() {
            return None;
        }
        let pieces = || pieces(volume.id, offset, bytes, self.size);
        if !pieces().all(|piece| self.shard(piece.block).has(piece.block, piece.sectors())) {
            return None;
        }
        let mut blocks = Blocks { parts: SmallVec::new(), answer: Answer::default() };
        for piece in pieces() {
            // One may have left since: then those before it count twice.
            let frame = self.shard(piece.block).hit(piece.block, piece.sectors())?;
            self.tap.note(piece.block, ReferenceKind::Read);
            blocks.parts.push(BlockRef::new(frame, piece.bytes.start, piece.bytes.end));
            blocks.answer.ram_blocks += 1;
        }
        self.note(volume, Kind::Read, offset, bytes as u64);
        Some(blocks)
    }

    /// Reads `bytes` bytes from `offset` on, or the first of them. The answer when all was at hand; else none, and the
    /// function that `new_done` gives (it is asked once) runs when the answer is there, on the thread that brought the
    /// last part.
    pub(super) fn read(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        bytes: usize,
        (runner, wanted): (Runner, Wanted),
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
            if matches!(planning.error, Some(Error::WouldBlock)) {
                if wanted == Wanted::AsFar && part > 0 {
                    planning.end_before(part);
                }
                break;
            }
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
        self.tap.note(piece.block, ReferenceKind::Read);
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
            return self.plan_zeros(volume, part, piece, &mut shard, planning);
        }
        if volume.is_unreadable(block) {
            shard.give_up(block);
            planning.error = Some(volume.unreadable_error(1));
            return;
        }
        let ssd = self.ssd().filter(|ssd| !shard.is_fenced(block) && ssd.serves(volume.mode()));
        let found = ssd.and_then(|ssd| ssd.find(block).map(|found| (ssd, found)));
        let source = match found {
            Some((_, OnSsd::Zeros)) => return self.plan_zeros(volume, part, piece, &mut shard, planning),
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

    /// A block that was discarded needs no I/O.
    fn plan_zeros(
        &self,
        volume: &VolumeState,
        part: usize,
        piece: &Piece,
        shard: &mut Shard,
        planning: &mut Planning<'_>,
    ) {
        let Some(frame) = self.frames.alloc() else {
            shard.give_up(piece.block);
            planning.error = Some(Error::WouldBlock);
            return;
        };
        planning.answer.ram_blocks += 1;
        let frame = shard.take_zeros(piece.block, frame, volume.version());
        planning.take(part, frame, &piece.bytes);
    }
}

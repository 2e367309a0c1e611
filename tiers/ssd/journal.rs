//! The journal: what recovery must know beyond the last checkpoint, above all which copies are void.
//!
//! ```text
//! half 0, generation 7                     half 1, generation 8
//! | frame: 101..140 | frame: 141..150 |    | frame: 151..151 | frame: 152..190 | left over of generation 6
//! ```
//!
//! Entries are numbered from 1 on, without gaps, for the life of the file (recovery leaves a gap of its own, which a
//! checkpoint covers). Frames (see `format`) are appended to the current half until one does not fit; then the other
//! half starts a new generation, if a durable checkpoint has absorbed all that is in it. Otherwise the journal is
//! full until a checkpoint is made. One write is under way at a time, so a frame is never durable before an older one.
//!
//! When the bytes may be trusted: the frames of a half from its start on, as long as each is whole, of the
//! generation of the first, and its entries follow the ones before. The checkpoint names the lowest generation that
//! is not left over; the half with the lower generation comes first. Entries that the checkpoint has absorbed are
//! skipped; a gap after those means that a frame in the middle was lost, and the file is damaged: it could void what
//! is still believed. Only the last frame can be torn, and it was not acknowledged: one that is whole and of the same
//! generation behind a torn one is a gap too, since a frame is written when the one before it is durable.
//!
//! What is left over behind the last frame of a half is told from the next one twice: it has a lower generation, and lower
//! entries. The entries alone would do, since no number is given out twice: halves that all had one generation would lose
//! nothing. Numbers that were, in one generation, would cost the file.
//!
//! A failed write is written again in the same place: frames that were never acknowledged may be lost. An opening goes
//! on behind the last whole frame, when a sync has made that durable: what a torn one left there is overwritten, and a
//! mixture of both has no checksum that holds. So nothing has to be absorbed before the cache serves.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

use crate::block::PAGE_BYTES;
use crate::device::Device;
use crate::error::{Error, Result};

use super::encoding::{Item, JournalEntry};
use super::format::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, JOURNAL_MAGIC, Pages};
use super::geometry::Geometry;

/// A position in the journal: all entries up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct JournalSeq(pub u64);

pub(super) use JournalSeq as Seq;

/// What is to be done for the journal.
pub enum JournalPlan {
    /// All is durable, or on its way: one write at a time.
    Nothing,
    /// Run it, then call `finish_journal`.
    Write(JournalWrite),
    /// A checkpoint must be made first.
    Full,
}

pub struct JournalWrite {
    /// Durable up to here when it has run.
    pub through: JournalSeq,
    offset: u64,
    frame: Pages,
}

impl JournalWrite {
    /// Writes and syncs.
    pub fn run(&self, device: &dyn Device) -> Result<()> {
        device.write(self.offset, &[IoSlice::new(&self.frame)])?;
        device.sync()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.frame.len() as u64
    }
}

pub(super) struct Journal {
    geometry: Geometry,
    file_id: u64,
    is_simulated: bool,
    /// Entries `durable + 1 ..= last`; always empty in a simulated tier.
    pending: VecDeque<JournalEntry>,
    last: Seq,
    durable: Seq,
    /// Part of the last durable checkpoint.
    absorbed: Seq,
    half: usize,
    generation: u64,
    /// Of the current half, in bytes.
    used_bytes: u64,
    /// The last entry that may be in each half.
    last_in_half: [Seq; 2],
    is_writing: bool,
    bytes_since_checkpoint: u64,
}

impl Journal {
    /// An empty journal, of a new file.
    pub(super) fn new(geometry: Geometry, file_id: u64, is_simulated: bool) -> Self {
        let nothing = Replayed { last: JournalSeq(0), count: 0, end: JournalEnd::before(1) };
        Self { is_simulated, ..Self::resume(geometry, file_id, JournalSeq(0), &nothing) }
    }

    /// Goes on behind what was replayed, of which a checkpoint has the entries up to `absorbed`. All of it must be
    /// durable before the first write.
    pub(super) fn resume(geometry: Geometry, file_id: u64, absorbed: Seq, replayed: &Replayed) -> Self {
        let JournalEnd { half, generation, used_bytes, last_in_half } = replayed.end;
        Self {
            geometry,
            file_id,
            is_simulated: false,
            pending: VecDeque::new(),
            last: replayed.last,
            durable: replayed.last,
            absorbed,
            half,
            generation,
            used_bytes,
            last_in_half,
            is_writing: false,
            bytes_since_checkpoint: used_bytes,
        }
    }

    pub(super) fn queue(&mut self, entry: JournalEntry) -> Seq {
        self.last.0 += 1;
        if !self.is_simulated {
            self.pending.push_back(entry);
        }
        self.last
    }

    pub(super) fn last(&self) -> Seq {
        self.last
    }

    pub(super) fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The entries up to this one are part of the last durable checkpoint.
    pub(super) fn absorbed(&self) -> Seq {
        self.absorbed
    }

    /// The last entry, if it is not durable yet.
    pub(super) fn awaited(&self) -> Option<Seq> {
        (self.last > self.durable).then_some(self.last)
    }

    pub(super) fn plan(&mut self) -> JournalPlan {
        if self.is_writing || self.pending.is_empty() {
            return JournalPlan::Nothing;
        }
        let mut encoded = self.encode_pending();
        if encoded.0 == 0 {
            if self.last_in_half[1 - self.half] > self.absorbed {
                return JournalPlan::Full;
            }
            self.half = 1 - self.half;
            self.generation += 1;
            self.used_bytes = 0;
            encoded = self.encode_pending();
        }
        let (items, bytes) = encoded;
        let header = FrameHeader {
            magic: JOURNAL_MAGIC,
            file_id: self.file_id,
            number: self.generation,
            first: self.durable.0 + 1,
            items,
            item_bytes: bytes.len() as u32,
        };
        let through = JournalSeq(self.durable.0 + u64::from(items));
        self.last_in_half[self.half] = self.last_in_half[self.half].max(through);
        self.is_writing = true;
        let offset = self.geometry.journal_half_offset(self.half) + self.used_bytes;
        JournalPlan::Write(JournalWrite { through, offset, frame: header.frame(&bytes) })
    }

    /// As many entries as fit one frame in the rest of the current half, and their bytes.
    fn encode_pending(&self) -> (u32, Vec<u8>) {
        let room =
            (self.geometry.journal_half_bytes() - self.used_bytes).min(FRAME_BYTES_MAX as u64) as usize;
        let room = room.saturating_sub(FRAME_HEADER_BYTES);
        let (mut items, mut bytes) = (0, Vec::new());
        for entry in &self.pending {
            let end = bytes.len();
            entry.put(&mut bytes);
            if bytes.len() > room {
                bytes.truncate(end);
                break;
            }
            items += 1;
        }
        (items, bytes)
    }

    pub(super) fn finish(&mut self, write: &JournalWrite, is_durable: bool) {
        self.is_writing = false;
        if is_durable {
            self.used_bytes += write.bytes();
            self.bytes_since_checkpoint += write.bytes();
            self.advance(write.through);
        }
    }

    /// What a simulated tier does instead of writing.
    pub(super) fn settle(&mut self) {
        self.durable = self.last;
    }

    /// The bytes that a checkpoint planned now makes superfluous.
    pub(super) fn start_checkpoint(&mut self) -> u64 {
        std::mem::take(&mut self.bytes_since_checkpoint)
    }

    /// A checkpoint of everything up to `seq` is durable, or failed.
    pub(super) fn finish_checkpoint(&mut self, seq: Seq, superfluous_bytes: u64, is_durable: bool) {
        if is_durable {
            self.absorbed = self.absorbed.max(seq);
            self.advance(seq);
        } else {
            self.bytes_since_checkpoint += superfluous_bytes;
        }
    }

    /// Early enough that the next half is free before this one is full.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.bytes_since_checkpoint > self.geometry.journal_half_bytes() / 2
    }

    fn advance(&mut self, durable: Seq) {
        if durable > self.durable {
            let count = (durable.0 - self.durable.0) as usize;
            self.pending.drain(..count.min(self.pending.len()));
            self.durable = durable;
        }
    }
}

/// What [`replay`] found.
pub(super) struct Replayed {
    pub(super) last: Seq,
    /// Entries after the checkpoint.
    pub(super) count: u64,
    pub(super) end: JournalEnd,
}

/// Where a journal goes on.
pub(super) struct JournalEnd {
    half: usize,
    generation: u64,
    used_bytes: u64,
    last_in_half: [Seq; 2],
}

impl JournalEnd {
    /// That of a journal without frames of `generation` or later, which is the first to be used.
    fn before(generation: u64) -> Self {
        Self { half: 0, generation, used_bytes: 0, last_in_half: [JournalSeq(0); 2] }
    }
}

/// Where the frames of a half end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HalfEnd {
    pub(super) frames: u64,
    /// From the start of the half on.
    pub(super) bytes: u64,
    /// What follows is the next frame, and not whole.
    pub(super) is_torn: bool,
    /// The last entry that is found behind the end, as far as one frame can reach: there was more, and it is damaged.
    lost_before: Option<Seq>,
}

/// A whole frame.
pub(super) struct Frame {
    generation: u64,
    first: u64,
    entries: Vec<JournalEntry>,
}

/// Gives the entries after the entry `absorbed` to `apply`, in order, of frames from `generation` on; one frame at a time,
/// since a journal may have as many entries as there is room for in both halves. What was applied means nothing when it
/// fails.
///
/// # Errors
/// Those of the device and of `apply`; [`Error::Damaged`] when entries are missing in the middle.
pub(super) fn replay(
    device: &dyn Device,
    geometry: &Geometry,
    file_id: u64,
    absorbed: u64,
    generation: u64,
    mut apply: impl FnMut(JournalEntry) -> Result<()>,
) -> Result<Replayed> {
    let end = JournalEnd::before(generation);
    let mut replayed = Replayed { last: JournalSeq(absorbed), count: 0, end };
    for half in halves_in_order(device, geometry, file_id)? {
        let mut is_used = false;
        let end = read_half(device, geometry, file_id, half, generation, |frame| {
            is_used = true;
            replayed.end.generation = frame.generation;
            replayed.end.last_in_half[half] = replayed.take(frame, &mut apply)?;
            Ok(())
        })?;
        if let Some(last) = end.lost_before.filter(|last| last.0 > absorbed) {
            let what =
                format!("a frame of the journal before entry {} is torn, and not the last one", last.0);
            return Err(Error::Damaged { what });
        }
        if is_used {
            (replayed.end.half, replayed.end.used_bytes) = (half, end.bytes);
        }
    }
    Ok(replayed)
}

impl Replayed {
    /// Applies what is new in `frame`; its last entry.
    fn take(&mut self, frame: Frame, apply: &mut impl FnMut(JournalEntry) -> Result<()>) -> Result<Seq> {
        let next = self.last.0 + 1;
        let end = frame.first + frame.entries.len() as u64;
        if frame.first > next {
            let what = format!("journal entries {next} to {} are missing", frame.first - 1);
            return Err(Error::Damaged { what });
        }
        if end > next {
            frame.entries.into_iter().skip((next - frame.first) as usize).try_for_each(apply)?;
            self.count += end - next;
            self.last = JournalSeq(end - 1);
        }
        Ok(JournalSeq(end - 1))
    }
}

/// The half with the older frames first. One that does not begin with a header has none, wherever it comes.
fn halves_in_order(device: &dyn Device, geometry: &Geometry, file_id: u64) -> Result<[usize; 2]> {
    let mut begins = [None; 2];
    for (half, begin) in begins.iter_mut().enumerate() {
        let mut page = Pages::new(PAGE_BYTES);
        device.read(geometry.journal_half_offset(half), &mut [IoSliceMut::new(&mut page)])?;
        let header = FrameHeader::from_bytes(&page, JOURNAL_MAGIC, file_id);
        *begin = header.map(|header| (header.number, header.first));
    }
    Ok(if begins[0] <= begins[1] { [0, 1] } else { [1, 0] })
}

/// Gives the intact chain of frames from the start of `half` on to `take`.
pub(super) fn read_half(
    device: &dyn Device,
    geometry: &Geometry,
    file_id: u64,
    half: usize,
    generation: u64,
    mut take: impl FnMut(Frame) -> Result<()>,
) -> Result<HalfEnd> {
    let (start, half_bytes) = (geometry.journal_half_offset(half), geometry.journal_half_bytes());
    let mut window = Pages::new(FRAME_BYTES_MAX.min(half_bytes as usize));
    let (mut window_at, mut window_len) = (0u64, 0usize);
    let (mut at, mut chain): (u64, Option<(u64, u64)>) = (0, None);
    let (mut frames, mut is_torn) = (0, false);
    while at < half_bytes {
        let mut inside = (at - window_at) as usize;
        let header = |bytes: &[u8]| FrameHeader::from_bytes(bytes, JOURNAL_MAGIC, file_id);
        let is_in_window = inside < window_len
            && header(&window[inside..window_len])
                .is_none_or(|header| header.frame_bytes() <= window_len - inside);
        if !is_in_window {
            (window_at, inside) = (at, 0);
            window_len = window.len().min((half_bytes - at) as usize);
            device.read(start + at, &mut [IoSliceMut::new(&mut window[..window_len])])?;
        }
        let bytes = &window[inside..window_len];
        let Some(header) = header(bytes) else { break };
        let follows = match chain {
            None => header.number >= generation,
            Some((number, end)) => header.number == number && header.first >= end,
        };
        // A sequence or generation near the end of its range is no file of ours.
        let is_sane = header.items > 0 && header.first < 1 << 62 && header.number < 1 << 62;
        if !follows || !is_sane {
            break;
        }
        let Some(entries) = header.items(bytes) else {
            is_torn = true;
            break;
        };
        frames += 1;
        chain = Some((header.number, header.first + entries.len() as u64));
        at += header.frame_bytes() as u64;
        take(Frame { generation: header.number, first: header.first, entries })?;
    }
    let is_later = |header: &FrameHeader| match chain {
        None => header.number >= generation,
        Some((number, end)) => header.number == number && header.first >= end,
    };
    let window_len = (half_bytes - at).min(window.len() as u64) as usize;
    device.read(start + at, &mut [IoSliceMut::new(&mut window[..window_len])])?;
    let lost_before = last_of_later_frames(&window[..window_len], file_id, is_later);
    Ok(HalfEnd { frames, bytes: at, is_torn, lost_before })
}

/// The last entry of the whole frames that begin in `window` after its first page, and that are `is_later`.
fn last_of_later_frames(window: &[u8], file_id: u64, is_later: impl Fn(&FrameHeader) -> bool) -> Option<Seq> {
    let frames = (PAGE_BYTES..window.len()).step_by(PAGE_BYTES).filter_map(|at| {
        let header = FrameHeader::from_bytes(&window[at..], JOURNAL_MAGIC, file_id).filter(&is_later)?;
        let entries = header.items::<JournalEntry>(&window[at..]).filter(|entries| !entries.is_empty())?;
        Some(JournalSeq(header.first.saturating_add(entries.len() as u64 - 1)))
    });
    frames.max()
}

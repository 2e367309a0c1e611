//! Which request of a lane is next, and which others go along with it.
//!
//! - Order: by priority. Within one, first come, first served, but where nobody waits for a single request
//!   (`Awaited` and `Background` writes) writes go by address, upwards from where the last one ended and then again
//!   from the bottom, so that a disk's arm sweeps instead of jumping.
//! - Ageing: every [`AGEING_PICKS`]th pick takes the request that has been queued longest, whatever its priority.
//!   So none starves: a request waits for at most that many picks for each request that was queued before it.
//! - Merging: with a request go those of the same device and kind, as urgent as it or more, that lie right before or
//!   behind it, as long as the call stays within its bounds.
//!
//! Pure bookkeeping over what is queued: no threads, no locks, no clock.

use std::collections::BTreeMap;

use smallvec::smallvec;

use super::{Batch, Priority, Request};

/// See the head of this file; one in eight costs urgent requests little and drains any backlog.
const AGEING_PICKS: u64 = 8;

const PRIORITIES: usize = Priority::Background as usize + 1;

/// The order in which requests came.
type Sequence = u64;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Read,
    Write,
}

/// Where a read or write lies, ordered by address within a device; the sequence tells those at one place apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    kind: Kind,
    /// The device's address in memory, which is its own as long as a request for it is queued.
    device: usize,
    offset: u64,
    sequence: Sequence,
}

/// What a call may grow to by merging.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallBounds {
    pub(super) bytes: u64,
    pub(super) pieces: usize,
}

/// What waits in one lane.
pub(super) struct Queue {
    levels: [Level; PRIORITIES],
    bounds: CallBounds,
    sequence: Sequence,
    picks: u64,
    count: usize,
}

#[derive(Default)]
struct Level {
    by_age: BTreeMap<Sequence, Request>,
    by_place: BTreeMap<Place, ()>,
    /// Where the sweep over the writes stands.
    swept: Option<Place>,
}

/// A stretch of one device that a call covers.
struct Span {
    kind: Kind,
    device: usize,
    start: u64,
    end: u64,
    pieces: usize,
}

impl Queue {
    pub(super) fn new(bounds: CallBounds) -> Self {
        Self { levels: Default::default(), bounds, sequence: 0, picks: 0, count: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn push(&mut self, request: Request) {
        self.sequence += 1;
        let level = &mut self.levels[request.priority() as usize];
        if let Some(place) = place_of(&request, self.sequence) {
            level.by_place.insert(place, ());
        }
        level.by_age.insert(self.sequence, request);
        self.count += 1;
    }

    /// Takes the next request and what goes along with it, in the order of their addresses; empty when none waits.
    pub(super) fn pop(&mut self) -> Batch {
        let Some((level, sequence)) = self.pick() else { return Batch::new() };
        let first = self.take(level, sequence);
        let Some(mut span) = span_of(&first) else { return smallvec![first] };
        let mut batch: Batch = smallvec![first];
        while let Some(before) = self.neighbour(level, &span, Side::Before) {
            span = span.with(&before);
            batch.push(before);
        }
        batch.reverse();
        while let Some(behind) = self.neighbour(level, &span, Side::Behind) {
            span = span.with(&behind);
            batch.push(behind);
        }
        if span.kind == Kind::Write {
            let sequence = Sequence::MAX;
            let Span { kind, device, end: offset, .. } = span;
            // Up to the largest sequence: everything that starts at the end of this one is still ahead.
            self.levels[level].swept =
                offset.checked_sub(1).map(|offset| Place { kind, device, offset, sequence });
        }
        batch
    }

    /// The level and sequence of the next request.
    fn pick(&mut self) -> Option<(usize, Sequence)> {
        if self.count == 0 {
            return None;
        }
        self.picks += 1;
        if self.picks.is_multiple_of(AGEING_PICKS) {
            return self
                .levels
                .iter()
                .enumerate()
                .filter_map(|(index, level)| Some((index, *level.by_age.first_key_value()?.0)))
                .min_by_key(|&(_, sequence)| sequence);
        }
        let index = self.levels.iter().position(|level| !level.by_age.is_empty())?;
        let level = &self.levels[index];
        let (&oldest, request) = level.by_age.first_key_value()?;
        let is_swept = [Priority::Awaited as usize, Priority::Background as usize].contains(&index);
        match request {
            Request::Write(_) if is_swept => Some((index, level.next_in_sweep().unwrap_or(oldest))),
            _ => Some((index, oldest)),
        }
    }

    fn take(&mut self, level: usize, sequence: Sequence) -> Request {
        let level = &mut self.levels[level];
        let request = level.by_age.remove(&sequence).expect("a picked request is queued");
        if let Some(place) = place_of(&request, sequence) {
            level.by_place.remove(&place);
        }
        self.count -= 1;
        request
    }

    /// Takes a request that lies right beside `span` and fits into the same call.
    fn neighbour(&mut self, level_max: usize, span: &Span, side: Side) -> Option<Request> {
        for level in 0..=level_max {
            let Some(sequence) = self.levels[level].beside(span, side) else { continue };
            let found =
                span_of(&self.levels[level].by_age[&sequence]).expect("only reads and writes have a place");
            let bytes = (span.end - span.start).saturating_add(found.end - found.start);
            if bytes <= self.bounds.bytes && span.pieces + found.pieces <= self.bounds.pieces {
                return Some(self.take(level, sequence));
            }
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    Behind,
}

impl Level {
    /// The write that the sweep meets next.
    fn next_in_sweep(&self) -> Option<Sequence> {
        let bottom = Place { kind: Kind::Write, device: 0, offset: 0, sequence: 0 };
        let ahead = self.swept.and_then(|swept| self.by_place.range(swept..).next());
        let (place, ()) = ahead.or_else(|| self.by_place.range(bottom..).next())?;
        Some(place.sequence)
    }

    fn beside(&self, span: &Span, side: Side) -> Option<Sequence> {
        let &Span { kind, device, start, end, .. } = span;
        let at = |offset| Place { kind, device, offset, sequence: 0 };
        let (place, ()) = match side {
            Side::Behind => self.by_place.range(at(end)..).next()?,
            Side::Before => self.by_place.range(..at(start)).next_back()?,
        };
        let found = span_of(&self.by_age[&place.sequence])?;
        let is_beside = (found.kind, found.device) == (kind, device)
            && if side == Side::Behind { found.start == end } else { found.end == start };
        is_beside.then_some(place.sequence)
    }
}

impl Span {
    fn with(&self, other: &Request) -> Self {
        let other = span_of(other).expect("only reads and writes are merged");
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
            pieces: self.pieces + other.pieces,
            ..other
        }
    }
}

fn place_of(request: &Request, sequence: Sequence) -> Option<Place> {
    let span = span_of(request)?;
    Some(Place { kind: span.kind, device: span.device, offset: span.start, sequence })
}

fn span_of(request: &Request) -> Option<Span> {
    let (kind, device, start, pieces) = match request {
        Request::Read(read) => (Kind::Read, &read.device, read.offset, read.frames.len()),
        Request::Write(write) => (Kind::Write, &write.device, write.offset, write.pieces.len()),
        Request::Task(..) => return None,
    };
    let device = std::sync::Arc::as_ptr(device).addr();
    Some(Span { kind, device, start, end: start.saturating_add(request.bytes()), pieces })
}

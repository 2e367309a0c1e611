//! From requests to blocks: which blocks a request touches, and in pieces of which size the cache is asked for them.
//!
//! Replay and simulation both take their pieces from here, so that they count the same.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use terrace::BlockSize;
use terrace::tiers::block::{BlockId, SECTOR_BYTES};

use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::trace::{Alignment, Kind, Request, Source, Span, TraceReader};

/// A request longer than this is asked for in several calls.
const PIECE_BLOCKS_MAX: u64 = 1024;
/// The same for large blocks: a caller's buffer is not to be larger than the smallest sensible RAM tier.
const PIECE_BYTES_MAX: u64 = 64 << 20;
/// Ids are renumbered in order of appearance when a volume would be larger than this. Half of ext4's largest file.
const ID_VOLUME_BYTES_MAX: u64 = 8 << 40;

/// How requests become blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressing {
    pub(crate) block_size: BlockSize,
    /// One block a request, sizes ignored.
    pub(crate) one_block_each: bool,
    pub(crate) writes_as_reads: bool,
}

/// One call to the cache: `count` whole blocks from `first` on; none for a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) volume: u32,
    pub(crate) kind: Kind,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) time_us: Option<u64>,
    /// The request is answered with this piece.
    pub(crate) is_last: bool,
}

impl Addressing {
    pub(crate) fn piece_blocks_max(&self) -> u64 {
        PIECE_BLOCKS_MAX.min(PIECE_BYTES_MAX >> self.block_size.shift())
    }

    /// The first block and the number of blocks that a request touches.
    pub(crate) fn blocks(&self, span: Span) -> (u64, u64) {
        match span {
            Span::Ids { first, .. } if self.one_block_each => (first, 1),
            Span::Ids { first, count } => (first, count),
            Span::Bytes { offset, .. } if self.one_block_each => (offset / SECTOR_BYTES as u64, 1),
            Span::Bytes { offset, bytes } => {
                let first = offset >> self.block_size.shift();
                let last = (offset + bytes.max(1) - 1) >> self.block_size.shift();
                (first, last - first + 1)
            }
        }
    }

    fn has_ids(&self, span: Span) -> bool {
        self.one_block_each || matches!(span, Span::Ids { .. })
    }
}

/// What one reading of the whole trace shows.
#[derive(Clone, Default, Debug)]
pub(crate) struct Scan {
    pub(crate) requests: u64,
    /// Discards, and commands that neither move data nor order it.
    pub(crate) skipped_commands: u64,
    /// Requests that whoever recorded the trace had no room for.
    pub(crate) lost_requests: u64,
    pub(crate) has_times: bool,
    /// The earliest and the latest time.
    pub(crate) times_ns: Option<(u64, u64)>,
    pub(crate) alignment: Alignment,
    /// For each volume, how many blocks it must have.
    pub(crate) volume_blocks: Vec<u64>,
    /// Ids are too large for block numbers and are counted off instead.
    pub(crate) renumbers: bool,
}

impl Scan {
    /// Reads the trace to its end, so that a line that cannot be read is found before anything is made on disk.
    pub(crate) fn of(source: &Source, addressing: &Addressing, progress: &Progress) -> Result<Self> {
        Self::with(source, addressing, progress, |_| ())
    }

    /// The same, with `visit` called for each request.
    pub(crate) fn with(
        source: &Source,
        addressing: &Addressing,
        progress: &Progress,
        mut visit: impl FnMut(&Request),
    ) -> Result<Self> {
        let (mut reader, position) = source.reader()?;
        let mut scan = Self::default();
        let (mut passed, mut discards) = (0u64, 0);
        let mut has_ids = false;
        let mut highest = 0;
        while let Some(request) = reader.next_request()? {
            if passed.is_multiple_of(4096) {
                progress.show(&position);
            }
            passed += 1;
            visit(&request);
            if request.kind == Kind::Discard {
                discards += 1;
                continue;
            }
            scan.count(&request);
            if request.kind == Kind::Flush {
                continue;
            }
            has_ids |= addressing.has_ids(request.span);
            let (first, count) = addressing.blocks(request.span);
            let end = first.saturating_add(count);
            highest = highest.max(end);
            let volume = &mut scan.volume_blocks[request.volume as usize];
            *volume = end.max(*volume);
        }
        scan.skipped_commands = reader.skipped_commands() + discards;
        scan.lost_requests = reader.lost().requests;
        if highest == 0 {
            return Err(Failure::input(format!("{} holds no reads and no writes", source.name()))
                .remedy("name another trace, or its format with --format"));
        }
        scan.renumbers = has_ids && highest > ID_VOLUME_BYTES_MAX >> addressing.block_size.shift();
        if scan.renumbers {
            // As many as there can be; the backing file is sparse.
            let limit = ID_VOLUME_BYTES_MAX >> addressing.block_size.shift();
            scan.volume_blocks.iter_mut().for_each(|blocks| *blocks = (*blocks).min(limit));
        } else if highest > BlockId::NUMBER_LIMIT {
            return Err(Failure::input(format!(
                "the trace reaches block {}, and 2^40 is the limit",
                highest - 1
            ))
            .remedy("choose a larger --block-size"));
        }
        Ok(scan)
    }

    pub(crate) fn duration_ns(&self) -> Option<u64> {
        self.times_ns.map(|(earliest, latest)| latest - earliest)
    }

    fn count(&mut self, request: &Request) {
        self.requests += 1;
        if let Some(time) = request.time_ns {
            self.has_times = true;
            let (earliest, latest) = self.times_ns.unwrap_or((time, time));
            self.times_ns = Some((earliest.min(time), latest.max(time)));
        }
        if let (Span::Bytes { offset, .. }, Kind::Read | Kind::Write) = (request.span, request.kind) {
            self.alignment.add(offset);
        }
        let volumes = self.volume_blocks.len().max(request.volume as usize + 1);
        self.volume_blocks.resize(volumes, 0);
    }
}

/// Deals out the pieces of a trace, in its order, to as many threads as ask.
pub(crate) struct Feeder<'a> {
    addressing: Addressing,
    progress: &'a Progress,
    position: Arc<AtomicU64>,
    state: Mutex<State>,
}

struct State {
    reader: Box<dyn TraceReader>,
    requests: u64,
    requests_max: u64,
    ends_at: Option<Instant>,
    /// The request that is being dealt out, and its blocks still to come.
    rest: Option<(Request, u64, u64)>,
    numbers: Option<HashMap<(u32, u64), u64>>,
}

impl<'a> Feeder<'a> {
    /// The pieces of what `reader` gives; `renumbers` as in [`Scan`].
    pub(crate) fn new(
        (reader, position): (Box<dyn TraceReader>, Arc<AtomicU64>),
        addressing: Addressing,
        renumbers: bool,
        progress: &'a Progress,
    ) -> Self {
        let numbers = renumbers.then(HashMap::new);
        let state = State { reader, requests: 0, requests_max: u64::MAX, ends_at: None, rest: None, numbers };
        Self { addressing, progress, position, state: Mutex::new(state) }
    }

    /// Ends after `requests` more requests.
    pub(crate) fn limit(&self, requests: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests_max = state.requests + requests;
    }

    /// Begins no request after so long from now, however many that makes.
    pub(crate) fn limit_time(&self, time: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.requests_max, state.ends_at) = (u64::MAX, Some(Instant::now() + time));
    }

    /// The next piece, or none at the end.
    pub(crate) fn next_piece(&self) -> Result<Option<Piece>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (request, first, count) = match state.rest.take() {
            Some(rest) => rest,
            None if state.requests == state.requests_max => return Ok(None),
            None if state.ends_at.is_some_and(|end| Instant::now() >= end) => return Ok(None),
            None => {
                let request = loop {
                    match state.reader.next_request()? {
                        None => return Ok(None),
                        // Passed over, and counted so by the scan.
                        Some(Request { kind: Kind::Discard, .. }) => {}
                        Some(request) => break request,
                    }
                };
                if state.requests.is_multiple_of(64) {
                    self.progress.show(&self.position);
                }
                state.requests += 1;
                if request.kind == Kind::Flush {
                    let (volume, time_us) = (request.volume, request.time_us());
                    let kind = Kind::Flush;
                    return Ok(Some(Piece { volume, kind, first: 0, count: 0, time_us, is_last: true }));
                }
                let (first, count) = self.addressing.blocks(request.span);
                (request, first, count)
            }
        };
        // Renumbered ids are no longer neighbours: one at a time.
        let count_max = if state.numbers.is_some() { 1 } else { self.addressing.piece_blocks_max() };
        let now = count.min(count_max);
        if now < count {
            state.rest = Some((request, first + now, count - now));
        }
        let first = match &mut state.numbers {
            None => first,
            Some(numbers) => {
                let next = numbers.len() as u64;
                *numbers.entry((request.volume, first)).or_insert(next)
            }
        };
        let kind = if self.addressing.writes_as_reads { Kind::Read } else { request.kind };
        let (volume, time_us) = (request.volume, request.time_us());
        Ok(Some(Piece { volume, kind, first, count: now, time_us, is_last: now == count }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given(std::vec::IntoIter<Request>);

    impl TraceReader for Given {
        fn next_request(&mut self) -> Result<Option<Request>> {
            Ok(self.0.next())
        }
    }

    fn addressing(block_bytes: u64) -> Addressing {
        let block_size = BlockSize::new(block_bytes).expect("a good size");
        Addressing { block_size, one_block_each: false, writes_as_reads: false }
    }

    fn pieces(addressing: Addressing, renumbers: bool, spans: &[Span]) -> Vec<(u64, u64, bool)> {
        let request = |&span| Request { volume: 0, kind: Kind::Write, span, time_ns: None };
        let requests: Vec<Request> = spans.iter().map(request).collect();
        let reader: Box<dyn TraceReader> = Box::new(Given(requests.into_iter()));
        let progress = Progress::hidden();
        let feeder = Feeder::new((reader, Arc::default()), addressing, renumbers, &progress);
        let next = || feeder.next_piece().expect("nothing can fail");
        std::iter::from_fn(next).map(|piece| (piece.first, piece.count, piece.is_last)).collect()
    }

    #[test]
    fn a_request_of_bytes_touches_every_block_it_overlaps_and_an_empty_one_a_block() {
        let bytes = |offset, bytes| Span::Bytes { offset, bytes };
        let spans = [bytes(0, 4096), bytes(4095, 2), bytes(4096, 0), bytes(63 * 512, 69632), bytes(8191, 1)];
        let wanted = [(0, 1, true), (0, 2, true), (1, 1, true), (7, 18, true), (1, 1, true)];
        assert_eq!(pieces(addressing(4096), false, &spans), wanted);
    }

    #[test]
    fn taken_as_ids_an_address_is_its_sector_and_sizes_mean_nothing() {
        let one_each = Addressing { one_block_each: true, ..addressing(4096) };
        let spans = [Span::Bytes { offset: 63 * 512, bytes: 69632 }, Span::Ids { first: 9, count: 5 }];
        assert_eq!(pieces(one_each, false, &spans), [(63, 1, true), (9, 1, true)]);
    }

    #[test]
    fn a_long_request_is_asked_for_in_pieces_that_cover_it_once() {
        let spans = [Span::Ids { first: 10, count: 2500 }];
        let wanted = [(10, 1024, false), (1034, 1024, false), (2058, 452, true)];
        assert_eq!(pieces(addressing(4096), false, &spans), wanted);
        let spans = [Span::Ids { first: 10, count: 65 }];
        assert_eq!(pieces(addressing(1 << 20), false, &spans), [(10, 64, false), (74, 1, true)]);
    }

    #[test]
    fn ids_too_large_for_block_numbers_are_counted_off_in_order_of_appearance() {
        let id = |first, count| Span::Ids { first, count };
        let spans = [id(u64::MAX, 1), id(5, 2), id(u64::MAX, 1), id(6, 1)];
        let wanted = [(0, 1, true), (1, 1, false), (2, 1, true), (0, 1, true), (2, 1, true)];
        assert_eq!(pieces(addressing(4096), true, &spans), wanted);
    }
}

//! In pieces of which size the cache is asked for what a trace asks for.
//!
//! Replay and simulation both take their pieces from here, so that they count the same. Reads and writes are of whole
//! blocks, all that a request touches; a discard is of the very bytes that it names.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::blocks::Addressing;
use crate::failure::Result;
use crate::progress::Progress;
use crate::trace::{Kind, Request, Span, TraceReader};

/// One call to the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) volume: u32,
    pub(crate) kind: Kind,
    /// The blocks it touches; none for a flush.
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// The bytes of the volume that it is about: whole blocks, but for a discard.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) time_us: Option<u64>,
    /// So long after the first request of all it is due, by the trace's clock, and never before the request ahead of it.
    pub(crate) due_ns: u64,
    /// The request is answered with this piece.
    pub(crate) is_last: bool,
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
    /// The time of the first request, and the latest so far.
    times_ns: Option<(u64, u64)>,
    /// The request that is being dealt out, and its blocks still to come.
    rest: Option<(Request, u64, u64)>,
    numbers: Option<HashMap<(u32, u64), u64>>,
}

impl<'a> Feeder<'a> {
    /// The pieces of what `reader` gives; `renumbers` as in [`super::Scan`].
    pub(crate) fn new(
        (reader, position): (Box<dyn TraceReader>, Arc<AtomicU64>),
        addressing: Addressing,
        renumbers: bool,
        progress: &'a Progress,
    ) -> Self {
        let state = State {
            reader,
            requests: 0,
            requests_max: u64::MAX,
            ends_at: None,
            times_ns: None,
            rest: None,
            numbers: renumbers.then(HashMap::new),
        };
        Self { addressing, progress, position, state: Mutex::new(state) }
    }

    pub(crate) fn block_bytes(&self) -> u64 {
        self.addressing.block_size.bytes() as u64
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
        if let Some((request, first, count)) = state.rest.take() {
            return Ok(Some(state.deal(&self.addressing, &request, first, count)));
        }
        let is_over =
            state.requests == state.requests_max || state.ends_at.is_some_and(|end| Instant::now() >= end);
        if is_over {
            return Ok(None);
        }
        let Some(request) = state.next_request(&self.addressing)? else { return Ok(None) };
        if state.requests.is_multiple_of(64) {
            self.progress.show(&self.position);
        }
        state.requests += 1;
        let (first, count) = match request.kind {
            Kind::Flush => (0, 0),
            _ => self.addressing.blocks(request.span),
        };
        Ok(Some(state.deal(&self.addressing, &request, first, count)))
    }
}

impl State {
    /// The next request that is not passed over, as the kind that it is taken as.
    fn next_request(&mut self, addressing: &Addressing) -> Result<Option<Request>> {
        while let Some(request) = self.reader.next_request()? {
            let Some(kind) = addressing.kind(request.kind) else { continue };
            if let Some(time) = request.time_ns {
                let (first, latest) = self.times_ns.unwrap_or((time, time));
                self.times_ns = Some((first, latest.max(time)));
            }
            return Ok(Some(Request { kind, ..request }));
        }
        Ok(None)
    }

    /// The first piece of these blocks of `request`; what is left is the next to be dealt out.
    fn deal(&mut self, addressing: &Addressing, request: &Request, first: u64, count: u64) -> Piece {
        let count_max = match request.kind {
            // Renumbered ids are no longer neighbours: one at a time.
            _ if self.numbers.is_some() => 1,
            Kind::Discard => u64::MAX,
            _ => addressing.piece_blocks_max(),
        };
        let now = count.min(count_max);
        if now < count {
            self.rest = Some((*request, first + now, count - now));
        }
        let first = match &mut self.numbers {
            Some(numbers) if count > 0 => {
                let next = numbers.len() as u64;
                *numbers.entry((request.volume, first)).or_insert(next)
            }
            _ => first,
        };
        let shift = addressing.block_size.shift();
        let (offset, bytes) = match (request.kind, request.span) {
            (Kind::Discard, Span::Bytes { offset, bytes }) if !addressing.one_block_each => (offset, bytes),
            _ => (first << shift, now << shift),
        };
        Piece {
            volume: request.volume,
            kind: request.kind,
            first,
            count: now,
            offset,
            bytes,
            time_us: request.time_us(),
            due_ns: self.times_ns.map_or(0, |(first, latest)| latest - first),
            is_last: now == count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use terrace::BlockSize;

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

    fn dealt(addressing: Addressing, requests: Vec<Request>) -> Vec<Piece> {
        let reader: Box<dyn TraceReader> = Box::new(Given(requests.into_iter()));
        let progress = Progress::hidden();
        let feeder = Feeder::new((reader, Arc::default()), addressing, false, &progress);
        std::iter::from_fn(|| feeder.next_piece().expect("nothing can fail")).collect()
    }

    #[test]
    fn a_discard_is_one_piece_of_the_bytes_it_names_and_nothing_when_writes_are_reads() {
        let span = Span::Bytes { offset: 5000, bytes: 10 << 30 };
        let request = Request { volume: 3, kind: Kind::Discard, span, time_ns: None };
        let pieces = dealt(addressing(4096), vec![request]);
        let touched: Vec<_> = pieces.iter().map(|piece| (piece.first, piece.count)).collect();
        assert_eq!(touched, [(1, (10 << 18) + 1)]);
        assert_eq!((pieces[0].offset, pieces[0].bytes, pieces[0].is_last), (5000, 10 << 30, true));
        let as_reads = Addressing { writes_as_reads: true, ..addressing(4096) };
        assert_eq!(dealt(as_reads, vec![request]), []);
    }

    #[test]
    fn a_request_is_due_by_its_own_time_but_never_before_the_one_ahead_of_it() {
        let request = |time_ns| Request { volume: 0, kind: Kind::Flush, span: Span::NOTHING, time_ns };
        let times = [Some(100), Some(130), Some(90), None, Some(150)];
        let pieces = dealt(addressing(4096), times.map(request).to_vec());
        let due: Vec<u64> = pieces.iter().map(|piece| piece.due_ns).collect();
        assert_eq!(due, [0, 30, 30, 30, 50]);
    }
}

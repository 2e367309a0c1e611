//! One thread that asks: it takes a piece of the trace, waits until it is due, has the cache do it, and checks the answer.
//!
//! A write or discard holds its blocks in the checker from making its content to its acknowledgement; a read holds
//! nothing.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use terrace::{Answer, Clock};

use super::checker::WrongBlock;
use super::content::block_id;
use super::feeder::{Feeder, Piece};
use super::latency::Timings;
use super::session::{Session, Shared};
use super::versions::Seen;
use crate::failure::{Failure, Result};
use crate::trace::Kind;

/// All threads together keep buffers of so many bytes between requests.
const BUFFERS_KEPT_BYTES: usize = 64 << 20;

/// One thread's buffers.
pub(super) struct Worker<'a, 'b> {
    session: &'a Session<'b>,
    shared: &'a Shared,
    timings: &'a Mutex<Timings>,
    buffer: Vec<u8>,
    buffer_kept_bytes: usize,
    seen: Vec<Seen>,
}

impl<'a, 'b> Worker<'a, 'b> {
    pub(super) fn new(
        session: &'a Session<'b>,
        shared: &'a Shared,
        timings: &'a Mutex<Timings>,
        threads: u32,
    ) -> Self {
        let buffer_kept_bytes = BUFFERS_KEPT_BYTES / threads as usize;
        Self { session, shared, timings, buffer: Vec::new(), buffer_kept_bytes, seen: Vec::new() }
    }

    /// Asks until `feeder` has no more, or all is over.
    pub(super) fn run(&mut self, feeder: &Feeder<'_>) -> Result<()> {
        while !self.shared.is_over() {
            let Some(piece) = feeder.next_piece()? else { break };
            let due = match &self.shared.open {
                None => None,
                Some(open) => match open.wait_until_due(piece.due_ns) {
                    None => break,
                    due => due,
                },
            };
            if let (Clock::Manual(clock), Some(now_us)) = (&self.session.clock, piece.time_us) {
                clock.fetch_max(now_us, Ordering::Relaxed);
            }
            let asked = self.ask(&piece, due);
            if let Some(open) = &self.shared.open {
                open.answered();
            }
            asked?;
            if piece.is_last {
                self.session.end_request(self.shared)?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, piece: &Piece, due: Option<Instant>) -> Result<()> {
        match piece.kind {
            Kind::Read => self.read(piece, due)?,
            Kind::Write => self.write(piece, due)?,
            Kind::Flush => {
                let begun = Instant::now();
                self.session.volume(piece.volume).flush()?;
                self.record(Kind::Flush, Answer::default(), due, begun);
            }
            Kind::Discard => self.discard(piece, due)?,
        }
        if self.buffer.len() > self.buffer_kept_bytes {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn read(&mut self, piece: &Piece, due: Option<Instant>) -> Result<()> {
        let (session, block_bytes) = (self.session, self.session.block_bytes);
        let block = |index: usize| block_id(piece.volume, piece.first + index as u64);
        let count = piece.count as usize;
        self.make_room(piece);
        self.seen.clear();
        self.seen.extend((0..count).map(|index| session.checker.see(block(index))));
        let buffer = &mut self.buffer[..count * block_bytes];
        let begun = Instant::now();
        let answer = session.volume(piece.volume).read(piece.offset, buffer)?;
        self.record(Kind::Read, answer, due, begun);
        let mut first_wrong: Option<WrongBlock> = None;
        for (index, bytes) in self.buffer[..count * block_bytes].chunks_exact(block_bytes).enumerate() {
            if let Err(wrong) = session.checker.check(block(index), self.seen[index], bytes) {
                self.shared.wrong_blocks.fetch_add(1, Ordering::Relaxed);
                first_wrong.get_or_insert(wrong);
            }
        }
        match first_wrong {
            None => Ok(()),
            Some(wrong) => Err(Failure::WrongBytes(wrong.to_string())),
        }
    }

    fn write(&mut self, piece: &Piece, due: Option<Instant>) -> Result<()> {
        let (session, block_bytes) = (self.session, self.session.block_bytes);
        let block = |index: usize| block_id(piece.volume, piece.first + index as u64);
        let count = piece.count as usize;
        self.make_room(piece);
        let buffer = &mut self.buffer[..count * block_bytes];
        let _held = session.checker.hold(block(0), piece.count);
        for (index, bytes) in buffer.chunks_exact_mut(block_bytes).enumerate() {
            session.checker.issue(block(index), bytes);
        }
        let begun = Instant::now();
        let answer = session.volume(piece.volume).write(piece.offset, buffer)?;
        self.record(Kind::Write, answer, due, begun);
        (0..count).for_each(|index| session.checker.commit(block(index)));
        Ok(())
    }

    fn discard(&mut self, piece: &Piece, due: Option<Instant>) -> Result<()> {
        if piece.bytes == 0 {
            return Ok(());
        }
        let volume = block_id(piece.volume, 0);
        let discarding = self.session.checker.issue_discard(volume, piece.offset, piece.bytes);
        let begun = Instant::now();
        self.session.volume(piece.volume).discard(piece.offset, piece.bytes)?;
        self.record(Kind::Discard, Answer::default(), due, begun);
        discarding.commit();
        Ok(())
    }

    fn make_room(&mut self, piece: &Piece) {
        let bytes = piece.count as usize * self.session.block_bytes;
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
    }

    /// Answered now.
    fn record(&self, kind: Kind, answer: Answer, due: Option<Instant>, begun: Instant) {
        let took = begun.elapsed();
        self.timings.lock().unwrap_or_else(PoisonError::into_inner).record(kind, answer, due, begun, took);
    }
}

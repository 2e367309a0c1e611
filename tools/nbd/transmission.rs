//! The transmission phase: requests in, replies out, on the thread of the connection.
//!
//! A turn of [`Transmission::run`]: work on all requests that are here, send what was answered at once, and only then
//! read or wait. So requests that came together are answered together, by one call.
//!
//! Invariants:
//! 1. The thread waits in one place, [`Transmission::wait`], for all that can happen: bytes, room in the socket, the bell.
//!    It waits in `recv` alone when nothing is owed, as then nothing else can happen; that saves a call a request. For a
//!    client that asks for one thing after the other it looks again for a moment before: see `patience.rs`.
//! 2. A request whose head was understood is answered, also one whose payload must be skipped. After a head that was not,
//!    the connection ends: nothing behind it can be told apart. Tests in `tests/hostile.rs`.
//! 3. The connection ends when all that is at the export is answered, not before: who comes and goes fast has no more
//!    there than who stays. Test: a_client_that_leaves_is_counted_until_its_requests_end.
//! 4. Nothing is worked on for longer than memory takes but a read that is all that the client has asked for
//!    ([`crate::export::Export::read_alone`]). If it asked for more meanwhile its next [`CROWD_READS`] reads are done elsewhere.
//!    Tests: a_read_is_done_here_when_nothing_else_is_asked, a_client_that_asks_meanwhile_is_not_taken_for_alone_again_soon.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use smallvec::SmallVec;

use crate::done::Done;
use crate::export::{ErrorCode, Failure, Result, StatusQuery};
use crate::input::Input;
use crate::negotiate::End;
use crate::outbox::{Admission, Outbox, Pending, Waiting};
use crate::patience::Patience;
use crate::payload::{Buffers, Payload};
use crate::reply::{Answer, Ticket};
use crate::session::{Session, Task, context_id};
use crate::socket::{Interest, wait};
use crate::stream::Stream;
use crate::wire::{Request, command};

/// Extents that one reply has of a context at most. A client asks again for the rest.
const EXTENTS_MAX: usize = 16 << 10;
/// Replies that wait for others before all of them are sent: enough for one call to pay, few enough that a client has
/// something to do meanwhile.
const REPLIES_TOGETHER: usize = 16;
/// Reads for which a client that asked for several things at a time is taken for one that does. Then it is tried again, which
/// costs it one wait for a read in so many.
const CROWD_READS: u32 = 64;

pub(crate) struct Transmission<'a> {
    stream: &'a mut Stream,
    input: &'a mut Input,
    session: &'a Session,
    outbox: &'a Arc<Outbox>,
    buffers: Arc<Buffers>,
    patience: Patience<'static>,
    /// So many reads more are taken for one of several.
    crowd_left: u32,
    expected: Expected,
    /// The client sends nothing more.
    has_ended: bool,
    /// Nothing can be sent to the client any more.
    is_gone: bool,
}

/// What the next bytes are.
enum Expected {
    Request,
    Payload {
        task: Task,
        request: Request,
        ticket: Ticket,
        payload: Payload,
        /// How much of it is here.
        filled: usize,
    },
    /// The payload of a request that is refused.
    Refused {
        ticket: Ticket,
        failure: Failure,
        left: u64,
    },
}

/// Why no more can be done for now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lack {
    Bytes,
    /// So much is in flight that replies must go first.
    Room,
    /// The client has said that it leaves.
    Requests,
}

impl<'a> Transmission<'a> {
    pub(crate) fn new(
        stream: &'a mut Stream,
        input: &'a mut Input,
        session: &'a Session,
        outbox: &'a Arc<Outbox>,
    ) -> Self {
        Self {
            stream,
            input,
            session,
            outbox,
            buffers: Arc::default(),
            patience: Patience::new(),
            crowd_left: 0,
            expected: Expected::Request,
            has_ended: false,
            is_gone: false,
        }
    }

    /// Serves until the client leaves, breaks the rules, or the server drains.
    pub(crate) fn run(mut self) -> Result<(), End> {
        loop {
            self.outbox.cork();
            let worked = self.work();
            let pending = self.outbox.uncork(&mut |slices| self.stream.send(slices));
            let has_drained = pending.is_draining && pending.requests == 0;
            match worked {
                Ok(Lack::Bytes) if self.has_ended || has_drained => return self.leave(),
                Ok(Lack::Requests) => return self.leave(),
                Ok(Lack::Room) if pending.has_room => {}
                Ok(lack) => self.wait(lack, pending, pending.look_at)?,
                Err(end) => {
                    self.outbox.break_off();
                    return self.leave().and(Err(end));
                }
            }
        }
    }

    /// Waits for what is at the export, and for the client to take the rest.
    fn leave(&mut self) -> Result<(), End> {
        let unfinished = std::mem::replace(&mut self.expected, Expected::Request);
        if let Expected::Payload { ticket, .. } | Expected::Refused { ticket, .. } = unfinished {
            self.outbox.finish(&ticket, Err(Failure::new(ErrorCode::Invalid, "the payload ended early")));
        }
        // For what TLS still has; the outbox looks after the rest.
        let deadline = Instant::now() + self.outbox.limits.write_timeout;
        loop {
            let pending = self.outbox.uncork(&mut |slices| self.stream.send(slices));
            if pending.requests > 0 {
                self.wait(Lack::Requests, pending, pending.look_at)?;
                continue;
            }
            let is_out = self.is_gone || pending.is_broken || self.stream.push().unwrap_or(true);
            if is_out || Instant::now() >= deadline {
                self.stream.say_goodbye();
                return Ok(());
            }
            self.wait(Lack::Requests, pending, Some(deadline))?;
        }
    }

    /// Does what the bytes that are here ask for.
    fn work(&mut self) -> Result<Lack, End> {
        let mut answered = 0;
        loop {
            let lack = match std::mem::replace(&mut self.expected, Expected::Request) {
                Expected::Request => self.take_request()?,
                Expected::Payload { task, request, ticket, payload, filled } => {
                    self.take_payload(task, request, ticket, payload, filled)
                }
                Expected::Refused { ticket, failure, left } => self.skip_payload(ticket, failure, left),
            };
            if let Some(lack) = lack {
                return Ok(lack);
            }
            answered += 1;
            if answered % REPLIES_TOGETHER == 0 {
                self.outbox.send_now(&mut |slices| self.stream.send(slices));
            }
        }
    }

    fn take_request(&mut self) -> Result<Option<Lack>, End> {
        let headers = self.session.headers;
        let Some(head) = self.input.peek(headers.request_bytes()) else { return Ok(Some(Lack::Bytes)) };
        let request = Request::parse(headers, head).ok_or(End::Breach("no request where one must begin"))?;
        if request.command == command::DISCONNECT {
            return Ok(Some(Lack::Requests));
        }
        if self.session.is_breach(&request) {
            return Err(End::Breach("a payload above the largest that is taken"));
        }
        let mut plan = self.session.plan(&request);
        let ticket = self.ticket(&request, &plan);
        match self.outbox.admit(ticket.cost) {
            Admission::Full => return Ok(Some(Lack::Room)),
            Admission::Draining => {
                plan = Err(Failure::new(ErrorCode::Shutdown, "the server is shutting down"));
            }
            Admission::Granted => {}
        }
        self.input.take(headers.request_bytes());
        self.outbox.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let payload_bytes = self.session.payload_bytes(&request);
        match plan {
            Ok(task) if payload_bytes > 0 => {
                // It is at most `BlockSizes::maximum`.
                let payload = self.buffers.payload(payload_bytes as usize);
                self.expected = Expected::Payload { task, request, ticket, payload, filled: 0 };
            }
            Ok(task) => self.execute(task, ticket, Vec::new().into()),
            Err(failure) => self.expected = Expected::Refused { ticket, failure, left: payload_bytes },
        }
        Ok(None)
    }

    /// What `request` is charged: the bytes that are held for it.
    fn ticket(&self, request: &Request, plan: &Result<Task>) -> Ticket {
        let cost = match plan {
            Ok(Task::Read | Task::Write { .. }) => request.length,
            Ok(Task::Status { .. } | Task::StatusOfPayload) => {
                (EXTENTS_MAX * 16 * self.session.contexts.len()) as u64
            }
            _ => 0,
        };
        Ticket {
            cookie: request.cookie,
            offset: request.offset,
            bytes: request.length,
            cost: cost + size_of::<Request>() as u64,
            context_ids: SmallVec::new(),
            is_one: false,
        }
    }

    fn take_payload(
        &mut self,
        task: Task,
        request: Request,
        mut ticket: Ticket,
        mut payload: Payload,
        mut filled: usize,
    ) -> Option<Lack> {
        let here = self.input.take(payload.len() - filled);
        payload.as_mut_slice()[filled..][..here.len()].copy_from_slice(here);
        filled += here.len();
        if filled < payload.len() {
            self.expected = Expected::Payload { task, request, ticket, payload, filled };
            return Some(Lack::Bytes);
        }
        self.outbox.traffic.bytes_written.fetch_add(filled as u64, Ordering::Relaxed);
        if task != Task::StatusOfPayload {
            self.execute(task, ticket, payload);
            return None;
        }
        match self.session.plan_payload(&request, &payload) {
            Ok((task, bytes)) => {
                ticket.bytes = bytes;
                self.execute(task, ticket, Vec::new().into());
            }
            Err(failure) => self.outbox.finish(&ticket, Err(failure)),
        }
        None
    }

    fn skip_payload(&mut self, ticket: Ticket, failure: Failure, mut left: u64) -> Option<Lack> {
        left -= self.input.take(usize::try_from(left).unwrap_or(usize::MAX)).len() as u64;
        if left > 0 {
            self.expected = Expected::Refused { ticket, failure, left };
            return Some(Lack::Bytes);
        }
        self.outbox.finish(&ticket, Err(failure));
        None
    }

    /// Hands an admitted request to the export.
    fn execute(&mut self, task: Task, mut ticket: Ticket, payload: Payload) {
        let (export, outbox) = (&self.session.export, self.outbox.clone());
        let (offset, bytes) = (ticket.offset, ticket.bytes);
        match task {
            Task::Nothing => outbox.finish(&ticket, Ok(Answer::Nothing)),
            Task::Read if bytes == 0 => outbox.finish(&ticket, Ok(Answer::Data(Vec::new().into()))),
            // `BlockSizes::maximum` bounds it, here and in `read`.
            Task::Read => match export.try_read(offset, bytes as u32) {
                Some(answer) => outbox.finish(&ticket, answer.map(Answer::Data)),
                None => self.read(ticket),
            },
            Task::Write { fua } => export.write(offset, payload, fua, Done::of_nothing(outbox, ticket)),
            Task::Flush => export.flush(Done::of_nothing(outbox, ticket)),
            Task::Trim { fua } => export.trim(offset, bytes, fua, Done::of_nothing(outbox, ticket)),
            Task::Zeroes(how) => export.write_zeroes(offset, bytes, how, Done::of_nothing(outbox, ticket)),
            Task::Cache => export.cache(offset, bytes, Done::of_nothing(outbox, ticket)),
            Task::Status { contexts, is_one } => {
                ticket.context_ids = contexts.iter().map(|&index| context_id(index)).collect();
                ticket.is_one = is_one;
                let extents_max = if is_one { 1 } else { EXTENTS_MAX };
                let query = StatusQuery { contexts: &contexts, offset, bytes, extents_max };
                export.block_status(&query, Done::of_status(outbox, ticket));
            }
            Task::StatusOfPayload => unreachable!("its payload says what it is"),
        }
    }

    /// A read that cannot be answered at once: here when it is all that the client wants, elsewhere when more may come.
    fn read(&mut self, ticket: Ticket) {
        let (export, offset, bytes) = (&self.session.export, ticket.offset, ticket.bytes as u32);
        let is_only_one = self.input.is_empty() && self.outbox.has_only_one();
        let done = Done::of_read(self.outbox.clone(), ticket);
        if !is_only_one || self.crowd_left > 0 {
            self.crowd_left = self.crowd_left.saturating_sub(1);
            return export.read(offset, bytes, done);
        }
        export.read_alone(offset, bytes, done);
        if self.receive(false) {
            self.crowd_left = CROWD_READS;
        }
    }

    /// Reads, or waits until something of what `lack` needs may be there.
    fn wait(&mut self, lack: Lack, pending: Pending, until: Option<Instant>) -> Result<(), End> {
        let wants_bytes = lack == Lack::Bytes && !self.has_ended;
        let has_unsent = pending.has_replies || !self.is_gone && !self.stream.push().unwrap_or(true);
        if wants_bytes && self.receive(pending.requests == 0 && !has_unsent) {
            return Ok(());
        }
        let waiting = if wants_bytes { Waiting::Replies } else { Waiting::Room };
        if !self.outbox.start_waiting(pending, waiting) {
            return Ok(());
        }
        let interest = Interest { readable: wants_bytes, writable: has_unsent && !pending.is_broken };
        let socket = (wants_bytes || !self.is_gone).then(|| (self.outbox.socket.as_fd(), interest));
        let ready = wait(socket, Some(&self.outbox.bell), until);
        self.outbox.stop_waiting();
        let ready = ready?;
        if ready.rung {
            self.outbox.bell.hear();
        }
        if ready.gone && !ready.readable {
            // Without this the socket would wake the thread again and again.
            self.is_gone = true;
            self.outbox.break_off();
        }
        self.outbox.look(Instant::now());
        Ok(())
    }

    /// Reads what has come, or `waits` for it; whether there was something, or the end.
    fn receive(&mut self, waits: bool) -> bool {
        let received = match &mut self.expected {
            // Only what is left of it, straight to its place.
            Expected::Payload { payload, filled, .. } => {
                let received = self.stream.receive(&mut payload.as_mut_slice()[*filled..], waits);
                *filled += *received.as_ref().unwrap_or(&0);
                received
            }
            _ if waits => self.patience.wait(|waits| self.input.receive(self.stream, waits)),
            _ => self.input.receive(self.stream, false),
        };
        match received {
            Ok(0) => {
                self.has_ended = true;
                self.outbox.hang_up();
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                tracing::debug!(%error, "a client is gone");
                self.has_ended = true;
                self.outbox.break_off();
            }
        }
        true
    }
}

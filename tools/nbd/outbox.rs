//! What a connection still owes its client: requests at the export, and replies on their way to the socket.
//!
//! ```text
//!   thread of the connection ── admit ──> export ── finish, on any thread ──> queue ── send ──> socket
//! ```
//!
//! Invariants:
//! 1. Nobody waits for the client in here. Whoever finishes a request sends what the socket takes at once and leaves the
//!    rest to the connection's thread, which waits in `poll`. Test: a_client_that_never_reads_holds_up_nobody_else.
//! 2. What is admitted is bounded, in requests and in bytes, until its reply has gone. One request is always admitted
//!    when there is no other, however large. Test: requests_in_flight_are_bounded.
//! 3. While the connection's thread works on requests that came together (`is_corked`), replies only queue; it sends
//!    them before it waits for anything. Then replies go with the thread that finishes, or, if one is sending already, with
//!    that one's next call (`is_sending`): replies that end together go together, and no two calls of the socket at once.
//! 4. A wake-up is never lost: before it waits, the thread says under the lock what it waits for (`Waiting`), and whoever
//!    brings that rings afterwards.
//! 5. Lent bytes are held for at most two [`Limits::lend_time`]: when the client has not taken all by then, they are
//!    copied. Test: a_client_that_never_reads_gives_lent_bytes_back.
//! 6. After an error of the socket replies are dropped (`is_broken`), requests at the export still count.
//!
//! The lock is the innermost, and held for moments: what is sent is taken out of the queue for the time of the call, and
//! what was sent is dropped before the lock is taken again. Only a broken connection drops [`Data`] under it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::export::{Data, Result};
use crate::limits::Limits;
use crate::reply::{Answer, Reply, Style, Ticket};
use crate::socket::{Bell, Socket};

/// Buffers in one call: as many as 4 KiB replies that a client of depth 32 gets at once.
const SLICES_MAX: usize = 64;

pub(crate) struct Outbox {
    state: Mutex<State>,
    style: Style,
    pub(crate) limits: Limits,
    pub(crate) socket: Arc<Socket>,
    pub(crate) bell: Bell,
    /// Replies go to the socket as they are; with TLS only the connection's thread can send.
    is_plain: bool,
    pub(crate) traffic: Arc<Traffic>,
}

/// Counts of one connection. They only grow.
#[derive(Default, Debug)]
pub(crate) struct Traffic {
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// A thread is sending what was first in the queue, and will send the rest.
    is_sending: bool,
    at_export: usize,
    /// Admitted, and the reply has not gone.
    requests: usize,
    bytes: u64,
    /// A request was not admitted, and nothing has gone since.
    is_short: bool,
    is_corked: bool,
    is_broken: bool,
    /// The client closed its side without saying that it leaves.
    has_hung_up: bool,
    is_draining: bool,
    waiting: Option<Waiting>,
    /// Since when the socket has not taken all there was.
    full_since: Option<Instant>,
    /// When it last took something, while it is full.
    took_at: Option<Instant>,
}

/// Replies in the order in which they go.
#[derive(Default)]
struct Queue {
    replies: VecDeque<Reply>,
    /// Bytes of the first that have gone.
    sent: usize,
}

/// Replies that have gone, and the bytes that were held for their requests.
#[derive(Clone, Copy, Default)]
struct Gone {
    requests: usize,
    bytes: u64,
}

/// What the connection's thread waits for, beside bytes from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// Replies that others queue and cannot send.
    Replies,
    /// Any reply that goes: for room for the next request, or for the end.
    Room,
}

/// What [`Outbox::admit`] says to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Granted,
    /// Not before other replies have gone.
    Full,
    /// It is charged, and to be refused.
    Draining,
}

/// What is left to do, seen under the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) at_export: usize,
    pub(crate) requests: usize,
    pub(crate) has_replies: bool,
    /// Another try to admit what was refused may succeed.
    pub(crate) has_room: bool,
    pub(crate) is_broken: bool,
    pub(crate) is_draining: bool,
    /// When something must be done about a client that takes nothing.
    pub(crate) look_at: Option<Instant>,
}

impl Outbox {
    pub(crate) fn new(
        socket: Arc<Socket>,
        style: Style,
        limits: Limits,
        is_plain: bool,
        traffic: Arc<Traffic>,
    ) -> io::Result<Self> {
        let bell = Bell::new()?;
        Ok(Self { state: Mutex::default(), style, limits, socket, bell, is_plain, traffic })
    }

    /// Charges a request, if there is room for it.
    pub(crate) fn admit(&self, cost: u64) -> Admission {
        let mut state = self.state.lock();
        let has_room =
            state.requests < self.limits.requests_max && state.bytes + cost <= self.limits.bytes_max;
        if !has_room && state.requests > 0 {
            state.is_short = true;
            return Admission::Full;
        }
        state.requests += 1;
        state.bytes += cost;
        state.at_export += 1;
        if state.is_draining { Admission::Draining } else { Admission::Granted }
    }

    /// From now on requests are charged and refused, and the connection ends when it owes nothing.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        state.is_draining = true;
        let is_idle = state.requests == 0;
        drop(state);
        // A thread that is owed nothing waits in `recv`, or is on its way there; any other one hears the bell.
        if is_idle {
            self.socket.end_reading();
        }
        self.bell.ring();
    }

    /// The answer to an admitted request.
    pub(crate) fn finish(&self, ticket: &Ticket, result: Result<Answer>) {
        if result.is_err() {
            self.traffic.failures.fetch_add(1, Ordering::Relaxed);
        }
        let reply = self.style.reply(ticket, result);
        let mut state = self.state.lock();
        state.at_export -= 1;
        state.queue.replies.push_back(reply);
        if state.is_sending || state.is_corked && !state.is_broken {
            return;
        }
        if state.is_broken {
            state.drop_replies();
        } else if self.is_plain {
            self.send_queued(&mut state, &mut |slices| self.socket.send(slices), false);
        }
        let rings = match state.waiting {
            Some(Waiting::Room) => true,
            Some(Waiting::Replies) => state.has_replies() || state.is_broken || state.is_draining,
            None => false,
        };
        if rings {
            state.waiting = None;
            drop(state);
            self.bell.ring();
        }
    }

    pub(crate) fn cork(&self) {
        self.state.lock().is_corked = true;
    }

    /// Sends what is queued, as far as the socket takes it, and says what is left. The connection's thread calls it, with
    /// its own way to `send`.
    pub(crate) fn uncork(&self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> Pending {
        let mut state = self.state.lock();
        state.is_corked = false;
        self.send_queued(&mut state, send, true);
        self.pending(&state)
    }

    /// As [`Self::uncork`], while the thread goes on with requests.
    pub(crate) fn send_now(&self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) {
        self.send_queued(&mut self.state.lock(), send, true);
    }

    /// Says that the connection's thread is about to wait, unless something changed since `seen`.
    pub(crate) fn start_waiting(&self, seen: Pending, waiting: Waiting) -> bool {
        let mut state = self.state.lock();
        let now = self.pending(&state);
        let is_same = now.at_export == seen.at_export
            && now.requests == seen.requests
            && now.has_replies == seen.has_replies
            && now.is_broken == seen.is_broken
            && now.is_draining == seen.is_draining;
        state.waiting = is_same.then_some(waiting);
        is_same
    }

    pub(crate) fn stop_waiting(&self) {
        self.state.lock().waiting = None;
    }

    /// From now on replies are dropped.
    pub(crate) fn break_off(&self) {
        let mut state = self.state.lock();
        state.is_broken = true;
        state.drop_replies();
    }

    /// The client closed its side without a word. It may still take replies, as one that closed only that side does; over
    /// TCP there is no telling it from one that is gone.
    pub(crate) fn hang_up(&self) {
        self.state.lock().has_hung_up = true;
    }

    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        !state.is_broken && !state.has_hung_up
    }

    /// Requests whose reply has not gone, and the bytes that are held for them.
    pub(crate) fn in_flight(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.requests, state.bytes)
    }

    /// Whether one request is at the export, and no reply waits for the client. One on its way to the socket has gone: the
    /// client may have it before whoever sends it knows.
    pub(crate) fn has_only_one(&self) -> bool {
        let state = self.state.lock();
        state.at_export == 1 && state.queue.replies.is_empty()
    }

    /// Deals with a client that takes nothing: what was lent is copied, and after the time for that the connection is cut.
    pub(crate) fn look(&self, now: Instant) {
        let mut state = self.state.lock();
        let Some(since) = state.full_since else { return };
        if state.took_at.is_some_and(|took_at| now >= took_at + self.limits.write_timeout) {
            tracing::info!("a client took nothing for too long");
            self.socket.cut();
            state.is_broken = true;
            state.drop_replies();
        } else if now >= since + self.limits.lend_time {
            // Those that are queued from now on have the time anew.
            state.full_since = Some(now);
            for reply in &mut state.queue.replies {
                reply.body = reply.body.take().map(Data::into_owned);
            }
        }
    }

    fn pending(&self, state: &State) -> Pending {
        let look_at = state
            .full_since
            .zip(state.took_at)
            .map(|(since, took_at)| (since + self.limits.lend_time).min(took_at + self.limits.write_timeout));
        Pending {
            at_export: state.at_export,
            requests: state.requests,
            has_replies: state.has_replies(),
            has_room: !state.is_short,
            is_broken: state.is_broken,
            is_draining: state.is_draining,
            look_at,
        }
    }

    /// Sends until nothing is queued, the socket is full, or the connection's thread will do it; nothing while another
    /// thread sends, which will go on with what is queued. The lock is not held while `send` runs.
    fn send_queued(
        &self,
        state: &mut MutexGuard<'_, State>,
        send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
        is_connection: bool,
    ) {
        if state.is_sending {
            return;
        }
        while !state.queue.replies.is_empty() && (is_connection || !state.is_corked) {
            state.is_sending = true;
            let mut batch = std::mem::take(&mut state.queue);
            let (result, gone) = MutexGuard::unlocked(state, || {
                let (slices, wanted) = batch.slices();
                let result = send(&slices);
                drop(slices);
                let gone = batch.take_gone(*result.as_ref().unwrap_or(&0));
                (result.map(|bytes| (bytes, bytes == wanted)), gone)
            });
            state.is_sending = false;
            state.settle(gone);
            state.queue.put_before(batch);
            if state.is_broken {
                return state.drop_replies();
            }
            match result {
                Ok((bytes, took_all)) => {
                    self.traffic.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
                    if !took_all {
                        // The next call would only say so.
                        return state.note_full(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return state.note_full(false),
                Err(error) => {
                    tracing::debug!(%error, "a client is gone");
                    state.is_broken = true;
                    return state.drop_replies();
                }
            }
        }
        if state.queue.replies.is_empty() {
            (state.full_since, state.took_at) = (None, None);
        }
    }
}

impl Queue {
    /// The next bytes to send, and how many.
    fn slices(&self) -> (SmallVec<[IoSlice<'_>; SLICES_MAX]>, usize) {
        let (mut slices, mut wanted) = (SmallVec::new(), 0);
        let mut skip = self.sent;
        for reply in &self.replies {
            let parts = reply.body.iter().flat_map(Data::parts);
            for part in std::iter::once(reply.head.as_slice()).chain(parts) {
                let gone = skip.min(part.len());
                skip -= gone;
                if gone < part.len() {
                    wanted += part.len() - gone;
                    slices.push(IoSlice::new(&part[gone..]));
                }
                if slices.len() == SLICES_MAX {
                    return (slices, wanted);
                }
            }
        }
        (slices, wanted)
    }

    /// So many more bytes have gone: drops what went whole.
    fn take_gone(&mut self, bytes: usize) -> Gone {
        let mut gone = Gone::default();
        self.sent += bytes;
        while let Some(first) = self.replies.front() {
            let reply_bytes = first.head.as_slice().len() + first.body.as_ref().map_or(0, Data::len_bytes);
            if self.sent < reply_bytes {
                break;
            }
            self.sent -= reply_bytes;
            gone.requests += 1;
            gone.bytes += first.cost;
            self.replies.pop_front();
        }
        gone
    }

    /// Puts back what was taken and did not go.
    fn put_before(&mut self, mut first: Self) {
        if !first.replies.is_empty() {
            first.replies.append(&mut self.replies);
            *self = first;
        }
    }
}

impl State {
    /// Whether there are replies that nobody is sending.
    fn has_replies(&self) -> bool {
        !self.queue.replies.is_empty() && !self.is_sending
    }

    fn note_full(&mut self, took_some: bool) {
        let now = Instant::now();
        self.full_since.get_or_insert(now);
        if took_some {
            self.took_at = Some(now);
        }
        self.took_at.get_or_insert(now);
    }

    fn settle(&mut self, gone: Gone) {
        self.requests -= gone.requests;
        self.bytes -= gone.bytes;
        self.is_short &= gone.requests == 0;
    }

    /// Of those that are being sent, who sends them drops what is left.
    fn drop_replies(&mut self) {
        let replies = std::mem::take(&mut self.queue).replies;
        let cost = replies.iter().map(|reply| reply.cost).sum();
        self.settle(Gone { requests: replies.len(), bytes: cost });
        (self.full_since, self.took_at) = (None, None);
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;

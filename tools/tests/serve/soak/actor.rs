//! One of the many clients: it comes, works, checks all it reads, leaves in one of many ways, and comes again.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::{Content, Disk, WriteId};
use crate::raw::{
    Answer, Ask, CACHE, Client, DISCONNECT, FAST_ZERO, FLUSH, FUA, Heads, INVALID, NO_HOLE, NOT_SUPPORTED,
    Place, READ, TRIM, WRITE, ZEROES, option_bytes,
};

const DEPTH_MAX: usize = 12;
const LENGTH_MAX: u64 = 96 << 10;
/// The way of leaving that is none: to stay and take nothing.
const DEAF: u8 = 7;

/// What actors share.
pub(super) struct Stage {
    pub(super) disks: Vec<Disk>,
    pub(super) places: Vec<Place>,
    pub(super) requests: AtomicU64,
    pub(super) sessions: AtomicU64,
}

/// An actor in one round.
pub(super) struct Actor {
    pub(super) number: usize,
    pub(super) random: fastrand::Rng,
    pub(super) stage: Arc<Stage>,
}

/// A request without an answer.
struct Pending {
    ask: Ask,
    write: Option<WriteId>,
    /// When it was sent.
    sent: u64,
    /// The error that it must be answered with.
    error: Option<u32>,
}

struct Session<'a> {
    client: Client,
    disk: &'a Disk,
    owner: usize,
    random: &'a mut fastrand::Rng,
    pending: HashMap<u64, Pending>,
    next: u64,
}

impl Actor {
    /// Comes and goes while `goes_on`.
    pub(super) fn play(mut self, goes_on: impl Fn() -> bool) {
        let stage = self.stage.clone();
        let mut deaf = None;
        while goes_on() {
            stage.sessions.fetch_add(1, Ordering::Relaxed);
            let place = &stage.places[self.random.usize(..stage.places.len())];
            if self.random.u8(..16) == 0 {
                self.stumble(place);
                continue;
            }
            let disk = &stage.disks[self.random.usize(..stage.disks.len())];
            let heads = [Heads::Simple, Heads::Structured, Heads::Extended][self.random.usize(..3)];
            let client = Client::of(place, heads, &disk.name).expect("there is room for every actor");
            let (pending, next) = (HashMap::new(), 0);
            let random = &mut self.random;
            let mut session = Session { client, disk, owner: self.number, random, pending, next };
            for _ in 0..session.random.usize(1..120) {
                if !goes_on() {
                    break;
                }
                session.step();
                stage.requests.fetch_add(1, Ordering::Relaxed);
            }
            // Until the next one that never reads, or the end of the round.
            deaf = session.leave().or(deaf);
        }
    }

    /// A connection that never comes as far as an export.
    fn stumble(&mut self, place: &Place) {
        let mut client = Client::silent(place).expect("there is room for every actor");
        let words = [
            &b"\0\0\0\x03"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &option_bytes(7, b"\0\0\0\x02xx\0\0")[..10],
            &option_bytes(99, &[0; 300]),
            b"",
        ];
        for _ in 0..self.random.usize(..4) {
            // The server may have had enough.
            let _ = client.socket.write_all(words[self.random.usize(..words.len())]);
        }
        match self.random.u8(..3) {
            0 => drop(client),
            1 => {
                client.stop_sending();
                client.wait_for_end();
            }
            // The time for a handshake ends it.
            _ => client.wait_for_end(),
        }
    }
}

impl Session<'_> {
    /// Sends all of it. While the server takes no more, it waits for us to take replies.
    fn send(&mut self, bytes: &[u8]) {
        let mut gone = 0;
        while gone < bytes.len() {
            let sent = match self.client.send_some(&bytes[gone..]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.pending.is_empty() => {
                    self.take_next();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.client.socket.write(&bytes[gone..])
                }
                sent => sent,
            };
            gone += sent.expect("the server takes requests");
        }
    }

    fn take_next(&mut self) {
        let reply = self.client.reply().expect("every request is answered");
        self.take(reply.expect("every request is answered"));
    }

    /// Sends one request, and takes replies to earlier ones.
    fn step(&mut self) {
        let (ask, write, error) = self.choose();
        let payload = match (write, ask.command) {
            (Some((_, content)), WRITE) => content.at(&(ask.offset..ask.offset + ask.length as u64)),
            _ => Vec::new(),
        };
        let sent = self.disk.now();
        let bytes = self.client.begin(&ask, &payload);
        self.send(&bytes);
        self.pending.insert(ask.cookie, Pending { ask, write: write.map(|(id, _)| id), sent, error });
        let depth = self.random.usize(..DEPTH_MAX);
        while self.pending.len() > depth {
            self.take_next();
        }
    }

    fn choose(&mut self) -> (Ask, Option<(WriteId, Content)>, Option<u32>) {
        self.next += 1;
        let cookie = self.random.u64(..) << 20 | self.next;
        let size = self.disk.bytes();
        let anywhere = |random: &mut fastrand::Rng| {
            let length = length(random, size);
            (random.u64(..=size - length), length)
        };
        let fua = if self.random.u8(..10) == 0 { FUA } else { 0 };
        let ask = Ask { cookie, ..Ask::default() };
        match self.random.u8(..100) {
            0..2 => (Ask { command: FLUSH, ..ask }, None, None),
            2..4 => {
                let (offset, length) = anywhere(self.random);
                (Ask { command: CACHE, offset, length: length as usize, ..ask }, None, None)
            }
            4 => (Ask { command: READ, offset: size - 5, length: 10, ..ask }, None, Some(INVALID)),
            5..60 => self.change(Ask { flags: fua, ..ask }),
            _ => {
                let (offset, length) = anywhere(self.random);
                (Ask { command: READ, offset, length: length as usize, ..ask }, None, None)
            }
        }
    }

    /// A write of some kind to what is our own; a read of it, while an earlier one is under way there.
    fn change(&mut self, ask: Ask) -> (Ask, Option<(WriteId, Content)>, Option<u32>) {
        let own = self.disk.stretch(self.owner);
        let length = length(self.random, own.end - own.start);
        let offset = self.random.u64(own.start..=own.end - length);
        let (command, flags, content, error) = match self.random.u8(..10) {
            0 => (TRIM, 0, Content::Zeros, None),
            1 => (ZEROES, [0, FAST_ZERO][self.random.usize(..2)], Content::Zeros, None),
            2 => (ZEROES, NO_HOLE, Content::Zeros, None),
            3 => (ZEROES, NO_HOLE | FAST_ZERO, Content::Zeros, Some(NOT_SUPPORTED)),
            _ => (WRITE, 0, Content::Noise(self.random.u64(..)), None),
        };
        let ask = Ask { offset, length: length as usize, ..ask };
        match self.disk.begin(self.owner, offset..offset + length, content) {
            Some(id) => (Ask { command, flags: ask.flags | flags, ..ask }, Some((id, content)), error),
            None => (Ask { command: READ, flags: 0, ..ask }, None, None),
        }
    }

    fn take(&mut self, (cookie, answer): (u64, Answer)) {
        let pending = self.pending.remove(&cookie).expect("a reply is to a request");
        let Pending { ask, write, sent, error } = pending;
        match (answer, error) {
            (Err(code), Some(wanted)) if code == wanted => write.iter().for_each(|id| self.disk.refused(*id)),
            (Ok(bytes), None) => {
                if let Some(id) = write {
                    self.disk.end(id);
                }
                if ask.command == READ {
                    assert_eq!(bytes.len(), ask.length);
                    let checked = self.disk.check(ask.offset, &bytes, sent);
                    checked.unwrap_or_else(|what| panic!("WRONG BYTES in {ask:?}: {what}"));
                }
            }
            (answer, _) => panic!("{ask:?} of {} was answered with {:?}", self.disk.name, answer.map(|_| ())),
        }
    }

    /// Takes replies until the server closes; all must be there.
    fn take_all(&mut self) {
        while let Some(reply) = self.client.reply().expect("what was begun is answered") {
            self.take(reply);
        }
        assert!(self.pending.is_empty(), "closed with {} requests unanswered", self.pending.len());
    }

    /// Ends it, in order or not. One that never reads again is given back.
    fn leave(mut self) -> Option<Client> {
        match self.random.u8(..10) {
            0 => {
                while !self.pending.is_empty() {
                    self.take_next();
                }
                self.say_goodbye();
            }
            1 => self.say_goodbye(),
            2 => {
                self.client.stop_sending();
                self.take_all();
            }
            way => {
                match self.break_off(way) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock && way != DEAF => {
                        panic!("the connection is stuck")
                    }
                    // The server may have closed first.
                    _ => {}
                }
                return (way == DEAF).then_some(self.client);
            }
        }
        None
    }

    fn say_goodbye(&mut self) {
        let leaving = self.client.begin(&Ask { command: DISCONNECT, ..Ask::default() }, &[]);
        self.send(&leaving);
        self.take_all();
    }

    /// Leaves in the middle of something. The socket closes with the session.
    fn break_off(&mut self, way: u8) -> io::Result<()> {
        let own = self.disk.stretch(self.owner);
        let length = length(self.random, own.end - own.start);
        let half = Ask { command: WRITE, offset: own.start, length: length as usize, ..Ask::default() };
        let head = self.client.head(&half);
        match way {
            // Half a head.
            3 => self.client.socket.write_all(&head[..self.random.usize(1..head.len())]),
            // Half a payload: none of it may ever be read.
            4 | 5 => {
                self.client.socket.write_all(&head)?;
                let payload = vec![0xee; self.random.usize(..length as usize)];
                self.client.socket.write_all(&payload)
            }
            // Half a reply.
            6 => {
                let read = Ask { command: READ, length: 64 << 10, ..Ask::default() };
                self.client.send(&read, &[])?;
                let mut part = vec![0; self.random.usize(1..5000)];
                io::Read::read(&mut self.client.socket, &mut part).map(drop)
            }
            // Never reads, and asks for as much as it can; the server waits for it, and nobody else does.
            DEAF => {
                self.client.socket.set_nonblocking(true)?;
                let read = Ask { command: READ, length: 256 << 10, ..Ask::default() };
                (0..200).try_for_each(|_| self.client.send(&read, &[]))
            }
            // No request where one must begin: the server closes, and all that was begun ends before.
            8 => {
                self.client.socket.write_all(&[0x55; 40])?;
                while self.client.reply()?.is_some() {}
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Small ones mostly, of any alignment, and some of whole blocks and more.
fn length(random: &mut fastrand::Rng, most: u64) -> u64 {
    let length = match random.u8(..10) {
        0..5 => random.u64(1..8192),
        5..8 => 4096 << random.u32(..5),
        _ => random.u64(1..LENGTH_MAX),
    };
    length.min(most)
}

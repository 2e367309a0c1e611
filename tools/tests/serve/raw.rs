//! A client that says any bytes and takes replies in any order, with the protocol written down once more.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendFlags, send};

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISCONNECT: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const ZEROES: u16 = 6;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const FAST_ZERO: u16 = 16;
const PAYLOAD: u16 = 32;

pub(crate) const INVALID: u32 = 22;
pub(crate) const NOT_SUPPORTED: u32 = 95;

const STRUCTURED_REPLY: u32 = 8;
const EXTENDED_HEADERS: u32 = 11;
const GO: u32 = 7;

/// A server that says nothing for so long is stuck: no request of a test takes as long.
pub(crate) const STUCK: Duration = Duration::from_secs(120);

/// How requests and replies begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heads {
    Simple,
    Structured,
    Extended,
}

/// Where a server is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Unix(PathBuf),
    Tcp(u16),
}

/// One connection.
pub(crate) struct Client {
    /// Of any family: to read, write and shut it down is the same.
    pub(crate) socket: UnixStream,
    heads: Heads,
    /// The lengths of reads without an answer, by cookie: a simple reply does not say how much comes.
    reads: HashMap<u64, usize>,
}

/// A request without its payload.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

/// An answer: the bytes of a read, nothing, or the error.
pub(crate) type Answer = Result<Vec<u8>, u32>;

impl Client {
    /// Connects without a word.
    pub(crate) fn silent(place: &Place) -> io::Result<Self> {
        let socket = match place {
            Place::Unix(path) => UnixStream::connect(path)?,
            Place::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                OwnedFd::from(stream).into()
            }
        };
        socket.set_read_timeout(Some(STUCK))?;
        socket.set_write_timeout(Some(STUCK))?;
        Ok(Self { socket, heads: Heads::Simple, reads: HashMap::new() })
    }

    /// Connects and chooses `export`.
    pub(crate) fn of(place: &Place, heads: Heads, export: &str) -> io::Result<Self> {
        let mut client = Self::silent(place)?;
        let greeting: [u8; 18] = client.array()?;
        assert_eq!(greeting, *b"NBDMAGICIHAVEOPT\0\x03");
        client.socket.write_all(&3u32.to_be_bytes())?;
        match heads {
            Heads::Simple => {}
            Heads::Structured => client.option(STRUCTURED_REPLY, &[])?,
            Heads::Extended => client.option(EXTENDED_HEADERS, &[])?,
        }
        client.heads = heads;
        let name = [&(export.len() as u32).to_be_bytes(), export.as_bytes(), &[0, 0]].concat();
        client.option(GO, &name)?;
        Ok(client)
    }

    /// The client at the only export of the socket `nbd` in `folder`.
    pub(crate) fn at(folder: &Path) -> Self {
        Self::of(&Place::Unix(folder.join("nbd")), Heads::Structured, "").expect("the server lets it in")
    }

    /// Sends an option, and takes its answers to the last, which must be an ACK.
    fn option(&mut self, kind: u32, data: &[u8]) -> io::Result<()> {
        self.socket.write_all(&option_bytes(kind, data))?;
        loop {
            assert_eq!(u64::from_be_bytes(self.array()?), 0x0003_e889_0455_65a9);
            assert_eq!(u32::from_be_bytes(self.array()?), kind);
            let answer = u32::from_be_bytes(self.array()?);
            let length = u32::from_be_bytes(self.array()?);
            let data = self.bytes(length as usize)?;
            assert_eq!(answer >> 31, 0, "option {kind}: {}", String::from_utf8_lossy(&data));
            if answer == 1 {
                return Ok(());
            }
        }
    }

    /// The bytes of a request, its payload without.
    pub(crate) fn head(&self, ask: &Ask) -> Vec<u8> {
        let is_extended = self.heads == Heads::Extended;
        let (magic, payload): (u32, u16) = match ask.command {
            WRITE if is_extended => (0x21e4_1c71, PAYLOAD),
            _ if is_extended => (0x21e4_1c71, 0),
            _ => (0x2560_9513, 0),
        };
        let mut head = magic.to_be_bytes().to_vec();
        head.extend((ask.flags | payload).to_be_bytes());
        head.extend(ask.command.to_be_bytes());
        head.extend(ask.cookie.to_be_bytes());
        head.extend(ask.offset.to_be_bytes());
        if is_extended {
            head.extend((ask.length as u64).to_be_bytes());
        } else {
            head.extend((ask.length as u32).to_be_bytes());
        }
        head
    }

    /// What is to be sent for it.
    pub(crate) fn begin(&mut self, ask: &Ask, payload: &[u8]) -> Vec<u8> {
        if ask.command == READ {
            self.reads.insert(ask.cookie, ask.length);
        }
        [&self.head(ask), payload].concat()
    }

    pub(crate) fn send(&mut self, ask: &Ask, payload: &[u8]) -> io::Result<()> {
        let bytes = self.begin(ask, payload);
        self.socket.write_all(&bytes)
    }

    /// Sends as much of `bytes` as goes without waiting.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// The next reply, whatever it answers; none at the end of the stream.
    pub(crate) fn reply(&mut self) -> io::Result<Option<(u64, Answer)>> {
        let mut magic = [0; 4];
        match self.socket.read(&mut magic[..1])? {
            0 => return Ok(None),
            _ => self.socket.read_exact(&mut magic[1..])?,
        }
        let magic = u32::from_be_bytes(magic);
        match self.heads {
            Heads::Simple => self.simple_reply(magic).map(Some),
            _ => self.structured_reply(magic).map(Some),
        }
    }

    fn simple_reply(&mut self, magic: u32) -> io::Result<(u64, Answer)> {
        assert_eq!(magic, 0x6744_6698, "no reply where one must begin");
        let error = u32::from_be_bytes(self.array()?);
        let cookie = u64::from_be_bytes(self.array()?);
        let length = self.reads.remove(&cookie).unwrap_or(0);
        let answer = if error == 0 { Ok(self.bytes(length)?) } else { Err(error) };
        Ok((cookie, answer))
    }

    /// One reply is one piece here: that is what this server sends for what a test asks.
    fn structured_reply(&mut self, magic: u32) -> io::Result<(u64, Answer)> {
        let is_extended = self.heads == Heads::Extended;
        let wanted = if is_extended { 0x6e8a_278c } else { 0x668e_33ef };
        assert_eq!(magic, wanted, "no reply where one must begin");
        let flags = u16::from_be_bytes(self.array()?);
        let kind = u16::from_be_bytes(self.array()?);
        let cookie = u64::from_be_bytes(self.array()?);
        let length = if is_extended {
            let _offset: [u8; 8] = self.array()?;
            u64::from_be_bytes(self.array()?)
        } else {
            u32::from_be_bytes(self.array()?).into()
        };
        assert!(flags == 1 && length <= 33 << 20, "flags {flags}, {length} bytes");
        let mut body = self.bytes(length as usize)?;
        let wanted = self.reads.remove(&cookie);
        let answer = match kind {
            0 => Ok(body),
            1 => {
                body.drain(..8);
                assert_eq!(Some(body.len()), wanted);
                Ok(body)
            }
            _ => Err(u32::from_be_bytes(body[..4].try_into().expect("four bytes"))),
        };
        Ok((cookie, answer))
    }

    /// Asks, and takes the only reply.
    pub(crate) fn ask(&mut self, ask: &Ask, payload: &[u8]) -> Answer {
        self.send(ask, payload).expect("the server takes it");
        let (cookie, answer) = self.reply().expect("it is answered").expect("it is answered");
        assert_eq!(cookie, ask.cookie);
        answer
    }

    pub(crate) fn write(&mut self, offset: u64, payload: &[u8], flags: u16) -> Answer {
        self.ask(&Ask { command: WRITE, flags, offset, length: payload.len(), cookie: 1 }, payload)
    }

    pub(crate) fn stop_sending(&self) {
        // It fails when the server has closed.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Takes whatever comes until the server closes the connection.
    pub(crate) fn wait_for_end(mut self) {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("the connection is stuck"),
                Err(_) => return,
            }
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

pub(crate) fn option_bytes(kind: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &kind.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

//! A client that sends any bytes, with the protocol written down once more: nothing of the server's code is used here.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const ACK: u32 = 1;
pub(crate) const SERVER: u32 = 2;
pub(crate) const INFO: u32 = 3;
pub(crate) const META: u32 = 4;
pub(crate) const ERROR: u32 = 1 << 31;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const ZEROES: u16 = 6;
pub(crate) const STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST: u16 = 16;
pub(crate) const PAYLOAD: u16 = 32;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const EOVERFLOW: u32 = 75;
pub(crate) const ENOTSUP: u32 = 95;
pub(crate) const ESHUTDOWN: u32 = 108;

/// How requests and replies begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heads {
    Simple,
    Structured,
    Extended,
}

pub(crate) const ALL_HEADS: [Heads; 3] = [Heads::Simple, Heads::Structured, Heads::Extended];

/// What carries the bytes.
pub(crate) trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

pub(crate) struct Client {
    pub(crate) wire: Box<dyn Wire>,
    /// The socket below.
    pub(crate) socket: UnixStream,
    pub(crate) heads: Heads,
}

/// One piece of a reply, or a simple one, with the error as its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chunk {
    pub(crate) is_last: bool,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) payload: Vec<u8>,
}

impl Chunk {
    pub(crate) fn error(&self) -> Option<u32> {
        let code = || u32::from_be_bytes(self.payload[..4].try_into().unwrap());
        (self.kind & 1 << 15 != 0).then(code)
    }

    pub(crate) fn message(&self) -> &str {
        std::str::from_utf8(&self.payload[6..]).unwrap()
    }
}

/// A request as it is sent.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) payload: &'a [u8],
}

impl Client {
    /// Connects without a word.
    pub(crate) fn silent(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        // A server that answers nothing fails the test, instead of holding it up.
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let wire = Box::new(socket.try_clone().unwrap());
        Self { wire, socket, heads: Heads::Simple }
    }

    /// Connects over TCP, and is greeted.
    pub(crate) fn connect_tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The other end of nothing: who only has the socket of a Unix client closes that.
        let (socket, _) = UnixStream::pair().unwrap();
        let mut client = Self { wire: Box::new(stream), socket, heads: Heads::Simple };
        assert_eq!(client.bytes(18), b"NBDMAGICIHAVEOPT\0\x03");
        client.send(&3u32.to_be_bytes());
        client
    }

    /// Connects, and is greeted, with these flags for an answer.
    pub(crate) fn with_flags(path: &Path, flags: u32) -> Self {
        let mut client = Self::silent(path);
        let greeting = client.bytes(18);
        assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
        client.send(&flags.to_be_bytes());
        client
    }

    pub(crate) fn connect(path: &Path) -> Self {
        Self::with_flags(path, 3)
    }

    /// Connects and chooses the export `disk`, with these heads and all contexts.
    pub(crate) fn ready(path: &Path, heads: Heads) -> Self {
        let mut client = Self::connect(path);
        client.agree_on(heads);
        if heads != Heads::Simple {
            client.set_contexts("disk", &["base:allocation", "x-terrace:tier"]);
        }
        client.go("disk");
        client
    }

    pub(crate) fn agree_on(&mut self, heads: Heads) {
        match heads {
            Heads::Simple => {}
            Heads::Structured => assert_eq!(self.ask_option(8, &[]), [(ACK, vec![])]),
            Heads::Extended => assert_eq!(self.ask_option(11, &[]), [(ACK, vec![])]),
        }
        self.heads = heads;
    }

    pub(crate) fn set_contexts(&mut self, export: &str, names: &[&str]) -> Vec<(u32, Vec<u8>)> {
        let replies = self.ask_option(10, &queries(export, names));
        assert_eq!(replies.last(), Some(&(ACK, vec![])));
        replies
    }

    /// The size and the flags of the export.
    pub(crate) fn go(&mut self, export: &str) -> (u64, u16) {
        let replies = self.ask_option(7, &info_request(export, &[]));
        assert_eq!(replies.len(), 2, "{replies:?}");
        assert_eq!((replies[0].0, &replies[0].1[..2]), (INFO, &[0, 0][..]));
        assert_eq!(replies[1], (ACK, vec![]));
        size_and_flags(&replies[0].1[2..])
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).unwrap();
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.wire.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    pub(crate) fn send_option(&mut self, kind: u32, data: &[u8]) {
        self.send(&[b"IHAVEOPT", &kind.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat());
    }

    /// All answers to an option: kinds and data.
    pub(crate) fn ask_option(&mut self, kind: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(kind, data);
        self.answers(kind)
    }

    /// The kind of the only answer to an option.
    pub(crate) fn ask_for_one(&mut self, kind: u32, data: &[u8]) -> u32 {
        let answers = self.ask_option(kind, data);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers[0].0
    }

    pub(crate) fn answers(&mut self, kind: u32) -> Vec<(u32, Vec<u8>)> {
        let mut answers = Vec::new();
        loop {
            assert_eq!(self.u64(), 0x0003_e889_0455_65a9);
            assert_eq!(self.u32(), kind);
            let answer = self.u32();
            let length = self.u32() as usize;
            answers.push((answer, self.bytes(length)));
            if answer == ACK || answer & ERROR != 0 {
                return answers;
            }
        }
    }

    /// The bytes of a request on this connection.
    pub(crate) fn request(&self, ask: Ask<'_>) -> Vec<u8> {
        let is_extended = self.heads == Heads::Extended;
        let magic: u32 = if is_extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(ask.flags.to_be_bytes());
        bytes.extend(ask.command.to_be_bytes());
        bytes.extend(ask.cookie.to_be_bytes());
        bytes.extend(ask.offset.to_be_bytes());
        if is_extended {
            bytes.extend(ask.length.to_be_bytes());
        } else {
            bytes.extend((ask.length as u32).to_be_bytes());
        }
        bytes.extend(ask.payload);
        bytes
    }

    pub(crate) fn send_request(&mut self, ask: Ask<'_>) {
        let bytes = self.request(ask);
        self.send(&bytes);
    }

    /// The next piece of any reply. Of a simple reply `data_bytes` follow, if it is no error.
    pub(crate) fn chunk(&mut self, data_bytes: usize) -> Chunk {
        let magic = self.u32();
        if self.heads == Heads::Simple {
            assert_eq!(magic, 0x6744_6698);
            let error = self.u32();
            let cookie = self.u64();
            if error != 0 {
                let payload = error.to_be_bytes().to_vec();
                return Chunk { is_last: true, kind: (1 << 15) + 1, cookie, payload };
            }
            return Chunk { is_last: true, kind: 0, cookie, payload: self.bytes(data_bytes) };
        }
        assert_eq!(magic, if self.heads == Heads::Extended { 0x6e8a_278c } else { 0x668e_33ef });
        let (flags, kind, cookie) = (self.u16(), self.u16(), self.u64());
        let length = match self.heads {
            Heads::Extended => {
                self.u64();
                self.u64()
            }
            _ => self.u32().into(),
        };
        assert!(length <= 33 << 20, "{length} bytes in a reply");
        Chunk { is_last: flags & 1 != 0, kind, cookie, payload: self.bytes(length as usize) }
    }

    /// Asks, and takes a reply in one piece: the data of a read, nothing, or the error.
    pub(crate) fn ask(&mut self, ask: Ask<'_>) -> Result<Vec<u8>, u32> {
        self.send_request(ask);
        self.reply(ask)
    }

    pub(crate) fn reply(&mut self, ask: Ask<'_>) -> Result<Vec<u8>, u32> {
        let data_bytes = if ask.command == READ { ask.length as usize } else { 0 };
        let chunk = self.chunk(data_bytes);
        assert!(chunk.is_last);
        assert_eq!(chunk.cookie, ask.cookie);
        match chunk.error() {
            Some(error) => Err(error),
            None if chunk.kind == 1 => {
                assert_eq!(chunk.payload[..8], ask.offset.to_be_bytes());
                Ok(chunk.payload[8..].to_vec())
            }
            None => {
                assert_eq!(chunk.kind, 0);
                Ok(chunk.payload)
            }
        }
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, u32> {
        self.ask(Ask { command: READ, offset, length, cookie: offset ^ length, ..Ask::default() })
    }

    pub(crate) fn write(&mut self, offset: u64, payload: &[u8]) -> Result<Vec<u8>, u32> {
        self.ask(self.write_of(offset, payload))
    }

    pub(crate) fn write_of<'a>(&self, offset: u64, payload: &'a [u8]) -> Ask<'a> {
        let flags = if self.heads == Heads::Extended { PAYLOAD } else { 0 };
        Ask { flags, command: WRITE, offset, length: payload.len() as u64, payload, cookie: offset }
    }

    /// Fails unless the server closes the connection without another byte.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.wire.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"", "the server said something"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    pub(crate) fn stop_sending(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}

/// The data of an option about meta contexts.
pub(crate) fn queries(export: &str, names: &[&str]) -> Vec<u8> {
    let mut data = string(export);
    data.extend((names.len() as u32).to_be_bytes());
    names.iter().for_each(|name| data.extend(string(name)));
    data
}

/// The data of an option for an export.
pub(crate) fn info_request(export: &str, items: &[u16]) -> Vec<u8> {
    let mut data = string(export);
    data.extend((items.len() as u16).to_be_bytes());
    items.iter().for_each(|item| data.extend(item.to_be_bytes()));
    data
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

pub(crate) fn size_and_flags(bytes: &[u8]) -> (u64, u16) {
    assert_eq!(bytes.len(), 10);
    (u64::from_be_bytes(bytes[..8].try_into().unwrap()), u16::from_be_bytes(bytes[8..].try_into().unwrap()))
}

//! The protocol's numbers and its fixed-size pieces, all in network byte order.
//!
//! Source: "The NBD protocol" (doc/proto.md of NetworkBlockDevice/nbd), with its extension for extended headers.
//!
//! | a request         | bytes | magic  | flags | type | cookie | offset | length |
//! |-------------------|-------|--------|-------|------|--------|--------|--------|
//! | compact           | 28    | 4      | 2     | 2    | 8      | 8      | 4      |
//! | extended          | 32    | 4      | 2     | 2    | 8      | 8      | 8      |
//!
//! | the head of a reply | bytes | magic | error | flags | type | cookie | offset | length |
//! |---------------------|-------|-------|-------|-------|------|--------|--------|--------|
//! | simple              | 16    | 4     | 4     |       |      | 8      |        |        |
//! | structured          | 20    | 4     |       | 2     | 2    | 8      |        | 4      |
//! | extended            | 32    | 4     |       | 2     | 2    | 8      | 8      | 8      |

/// "NBDMAGIC", the first bytes of every connection.
pub(crate) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", before the server's flags and before each option.
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// No string of the protocol is longer.
pub(crate) const STRING_BYTES_MAX: usize = 4096;
/// What a client may count on that was told no sizes.
pub(crate) const PAYLOAD_BYTES_DEFAULT: u32 = 32 << 20;

pub(crate) mod handshake {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
}

pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
}

/// The answers to options.
pub(crate) mod answer {
    const ERROR: u32 = 1 << 31;
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const UNSUPPORTED: u32 = ERROR + 1;
    pub(crate) const POLICY: u32 = ERROR + 2;
    pub(crate) const INVALID: u32 = ERROR + 3;
    pub(crate) const TLS_REQUIRED: u32 = ERROR + 5;
    pub(crate) const UNKNOWN: u32 = ERROR + 6;
    pub(crate) const SHUTDOWN: u32 = ERROR + 7;
    pub(crate) const TOO_BIG: u32 = ERROR + 9;
    pub(crate) const EXTENDED_REQUIRED: u32 = ERROR + 10;
}

pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do, as the client is told.
pub(crate) mod transmission {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const FLUSH: u16 = 1 << 2;
    pub(crate) const FUA: u16 = 1 << 3;
    pub(crate) const ROTATIONAL: u16 = 1 << 4;
    pub(crate) const TRIM: u16 = 1 << 5;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const DF: u16 = 1 << 7;
    pub(crate) const MULTI_CONN: u16 = 1 << 8;
    pub(crate) const CACHE: u16 = 1 << 10;
    pub(crate) const FAST_ZERO: u16 = 1 << 11;
    pub(crate) const STATUS_PAYLOAD: u16 = 1 << 12;
}

pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// The flags of a request.
pub(crate) mod flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD: u16 = 1 << 5;
}

/// The types of the pieces of a reply.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const DATA: u16 = 1;
    pub(crate) const STATUS: u16 = 5;
    pub(crate) const STATUS_EXTENDED: u16 = 6;
    pub(crate) const ERROR: u16 = (1 << 15) + 1;
    /// The flag of the last piece.
    pub(crate) const DONE: u16 = 1;
}

/// How requests and replies begin on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Headers {
    Simple,
    /// Compact requests, structured replies.
    Structured,
    /// Both with lengths of 64 bits.
    Extended,
}

impl Headers {
    pub(crate) fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }
}

/// The head of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    /// The client's name for it, given back in the reply.
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// Of the payload, or of the range that the request is about.
    pub(crate) length: u64,
}

impl Request {
    /// The request that `bytes` begin with, [`Headers::request_bytes`] of them; none, when the magic is not the one of a
    /// request, after which nothing that comes can be told apart.
    pub(crate) fn parse(headers: Headers, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.u32()?;
        let flags = fields.u16()?;
        let command = fields.u16()?;
        let cookie = fields.u64()?;
        let offset = fields.u64()?;
        let (wanted, length) = match headers {
            Headers::Extended => (EXTENDED_REQUEST_MAGIC, fields.u64()?),
            Headers::Simple | Headers::Structured => (REQUEST_MAGIC, fields.u32()?.into()),
        };
        (magic == wanted).then_some(Self { flags, command, cookie, offset, length })
    }
}

/// What is left of a message that is taken apart from the front. Every answer is none when too little is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(bytes)?;
        self.0 = later;
        Some(now)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (now, later) = self.0.split_first_chunk()?;
        self.0 = later;
        Some(*now)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A length and a string of so many bytes. The inner answer is none when that is no string of the protocol.
    pub(crate) fn string(&mut self) -> Option<Option<&'a str>> {
        let bytes = self.u32()?;
        let string = self.take(usize::try_from(bytes).ok()?)?;
        Some(as_string(string))
    }
}

/// A string of the protocol: UTF-8, without zeros, at most [`STRING_BYTES_MAX`] bytes.
pub(crate) fn as_string(bytes: &[u8]) -> Option<&str> {
    let string = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= STRING_BYTES_MAX && !string.contains('\0')).then_some(string)
}

/// As many of the first bytes of `text` as a string of the protocol may have, whole characters.
pub(crate) fn cut_to_string(text: &str) -> &str {
    let mut bytes = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(bytes) {
        bytes -= 1;
    }
    &text[..bytes]
}

/// The first bytes of a reply, in place: a reply without a body needs no allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; Self::BYTES_MAX],
    used: u8,
}

impl Head {
    /// An extended head and the offset of the data behind it.
    const BYTES_MAX: usize = 40;

    pub(crate) fn empty() -> Self {
        Self { bytes: [0; Self::BYTES_MAX], used: 0 }
    }

    fn put<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        let at = usize::from(self.used);
        self.bytes[at..at + N].copy_from_slice(&bytes);
        self.used += N as u8;
        self
    }

    pub(crate) fn put_u64(self, value: u64) -> Self {
        self.put(value.to_be_bytes())
    }

    pub(crate) fn simple(cookie: u64, error: u32) -> Self {
        Self::empty().put(SIMPLE_REPLY_MAGIC.to_be_bytes()).put(error.to_be_bytes()).put_u64(cookie)
    }

    /// The head of a piece with `payload_bytes` bytes behind it.
    pub(crate) fn structured(cookie: u64, flags: u16, kind: u16, payload_bytes: u32) -> Self {
        Self::empty()
            .put(STRUCTURED_REPLY_MAGIC.to_be_bytes())
            .put(flags.to_be_bytes())
            .put(kind.to_be_bytes())
            .put_u64(cookie)
            .put(payload_bytes.to_be_bytes())
    }

    /// As [`Self::structured`]; `offset` is the one of the request.
    pub(crate) fn extended(cookie: u64, offset: u64, flags: u16, kind: u16, payload_bytes: u64) -> Self {
        Self::empty()
            .put(EXTENDED_REPLY_MAGIC.to_be_bytes())
            .put(flags.to_be_bytes())
            .put(kind.to_be_bytes())
            .put_u64(cookie)
            .put_u64(offset)
            .put_u64(payload_bytes)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.used)]
    }
}

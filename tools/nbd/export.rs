//! What is served: the trait between this package and whatever holds the bytes.
//!
//! What an export may rely on, checked in `request.rs` before it is called, each check with its test:
//! 1. A range lies within the size that [`Export::info`] told when the client came, is not empty, and begins and ends on
//!    multiples of [`BlockSizes::minimum`].
//! 2. A payload, and what a read asks for, is at most [`BlockSizes::maximum`] bytes.
//! 3. Nothing is called that the [`Features`] do not promise; on a read-only export nothing that changes it.
//! 4. At most `Limits::requests_max` requests of a connection are at the export at a time.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::done::Done;
use crate::payload::Payload;

/// One disk. Its calls come from the threads of all connections at once.
///
/// No call but [`Self::read_alone`] may block for longer than an answer from memory takes, for it runs on the thread of the
/// connection; what takes longer keeps `done` and answers on another thread. `done` must be called, in any order and on any
/// thread, also before the call returns; dropping it answers with an input/output error.
///
/// The promise of [`Features::multi_conn`]: what any connection was told is written, every other one reads, and a flush
/// or a write with `fua` on one makes durable what all were told before.
pub trait Export: Send + Sync {
    /// What clients are told. A client that stays connected works with what this said when it came.
    fn info(&self) -> ExportInfo;

    /// The bytes at `offset`, if they can be had at once: the fast way, which needs no callback. [`Self::read`] is asked
    /// when this answers none.
    fn try_read(&self, offset: u64, bytes: u32) -> Option<Result<Data>> {
        let _ = (offset, bytes);
        None
    }

    fn read(&self, offset: u64, bytes: u32, done: Done<Data>);

    /// As [`Self::read`], of a client that has asked for nothing else. It may take as long as it takes to wake another
    /// thread, some hundred microseconds: what the client asks for meanwhile waits for it.
    fn read_alone(&self, offset: u64, bytes: u32, done: Done<Data>) {
        self.read(offset, bytes, done);
    }

    /// With `fua` it is answered when `data` is durable.
    fn write(&self, offset: u64, data: Payload, fua: bool, done: Done<()>);

    /// Makes durable what was answered before this was called, on any connection.
    fn flush(&self, done: Done<()>);

    /// The range is not needed any more; what it reads as is open. With `fua` it is answered when that is durable.
    fn trim(&self, offset: u64, bytes: u64, fua: bool, done: Done<()>);

    /// Has the range read as zeros.
    fn write_zeroes(&self, offset: u64, bytes: u64, how: Zeroing, done: Done<()>);

    /// The range will be read soon. It may be answered before it is at hand.
    fn cache(&self, offset: u64, bytes: u64, done: Done<()>);

    /// What the meta contexts of these `contexts`, indices into [`ExportInfo::contexts`], say about the range: for each,
    /// in their order, extents from `offset` on, at least one and at most [`StatusQuery::extents_max`]. They may end
    /// before the range does, or behind it.
    fn block_status(&self, query: &StatusQuery<'_>, done: Done<Vec<Vec<Extent>>>);
}

/// What is asked of [`Export::block_status`].
#[derive(Clone, Copy, Debug)]
pub struct StatusQuery<'a> {
    pub contexts: &'a [usize],
    pub offset: u64,
    pub bytes: u64,
    pub extents_max: usize,
}

/// How [`Export::write_zeroes`] is to be done.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Zeroing {
    /// It is answered when the zeros are durable.
    pub fua: bool,
    /// The space stays allocated.
    pub no_hole: bool,
    /// Only when that is faster than writing as many bytes; otherwise [`ErrorCode::NotSupported`] at once, and nothing is
    /// changed.
    pub fast: bool,
}

/// A piece of a disk that is alike throughout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub bytes: u64,
    /// What they mean, the context defines. For `base:allocation`: [`Self::HOLE`] and [`Self::ZERO`].
    pub flags: u32,
}

impl Extent {
    /// Nothing is allocated for it.
    pub const HOLE: u32 = 1;
    /// It reads as zeros.
    pub const ZERO: u32 = 2;
}

/// What clients are told of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// For people.
    pub description: String,
    pub size_bytes: u64,
    pub block_sizes: BlockSizes,
    pub features: Features,
    /// The names of its meta contexts, as `base:allocation`: a namespace, a colon and a leaf.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    /// A disk of this size with everything that a cache can do, and with `base:allocation`.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            description: String::new(),
            size_bytes,
            block_sizes: BlockSizes::default(),
            features: Features::default(),
            contexts: vec!["base:allocation".into()],
        }
    }
}

/// The sizes of requests, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this power of two, at most 65536.
    pub minimum: u32,
    /// From here on nothing has to be read for a write: a power of two, at least 512 and at least the minimum.
    pub preferred: u32,
    /// The most that one read or write moves: at least the preferred size, at most 64 MiB.
    pub maximum: u32,
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: crate::wire::PAYLOAD_BYTES_DEFAULT }
    }
}

impl BlockSizes {
    pub(crate) fn is_valid(&self) -> bool {
        self.minimum.is_power_of_two()
            && self.minimum <= 1 << 16
            && self.preferred.is_power_of_two()
            && self.preferred >= self.minimum.max(512)
            && (self.preferred..=64 << 20).contains(&self.maximum)
    }
}

/// What an export can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    pub read_only: bool,
    /// The medium has a head that seeks.
    pub rotational: bool,
    pub flush: bool,
    pub fua: bool,
    pub trim: bool,
    pub write_zeroes: bool,
    pub fast_zero: bool,
    pub cache: bool,
    pub multi_conn: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            read_only: false,
            rotational: false,
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            fast_zero: true,
            cache: true,
            multi_conn: true,
        }
    }
}

/// The bytes that a read gives, in one piece or in several.
pub enum Data {
    Owned(Vec<u8>),
    /// Bytes of someone else's, which go to the socket without a copy. They are held until the client took them, or for
    /// `Limits::lend_time` when it does not; then they are copied.
    Lent(Box<dyn Parts>),
}

/// Bytes that lie in several places, as the blocks of a cache do. Dropping them must not wait for anything.
pub trait Parts: Send {
    fn count(&self) -> usize;

    fn part(&self, index: usize) -> &[u8];
}

impl Data {
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let count = match self {
            Self::Owned(_) => 1,
            Self::Lent(parts) => parts.count(),
        };
        (0..count).map(|index| match self {
            Self::Owned(bytes) => bytes.as_slice(),
            Self::Lent(parts) => parts.part(index),
        })
    }

    pub fn len_bytes(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }

    /// Gives back what was lent.
    pub(crate) fn into_owned(self) -> Self {
        match self {
            Self::Owned(_) => self,
            Self::Lent(_) => {
                let mut bytes = Vec::with_capacity(self.len_bytes());
                self.parts().for_each(|part| bytes.extend_from_slice(part));
                Self::Owned(bytes)
            }
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len_bytes())
    }
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// The errors that the protocol has; the numbers are its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    NotPermitted = 1,
    Io = 5,
    NoMemory = 12,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
    Shutdown = 108,
}

/// Why a request failed. The client gets the message if it asked for structured replies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            FileTooLarge, InvalidInput, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
            StorageFull,
        };
        let code = match error.kind() {
            PermissionDenied | ReadOnlyFilesystem => ErrorCode::NotPermitted,
            OutOfMemory => ErrorCode::NoMemory,
            InvalidInput => ErrorCode::Invalid,
            StorageFull | QuotaExceeded | FileTooLarge => ErrorCode::NoSpace,
            _ => ErrorCode::Io,
        };
        Self::new(code, error.to_string())
    }
}

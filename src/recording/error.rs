//! Why a recording cannot be written or read.

use std::fmt;
use std::io;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The file below does not work.
    Io(io::Error),
    /// It does not begin as a recording does, or as one of a later version.
    NotARecording { found: String },
    /// Bytes are not what was written.
    Damaged { at: u64, what: &'static str },
    /// It ends before its tail: it was not closed, or is cut short.
    CutShort { at: u64, whole_requests: u64 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::NotARecording { found } => {
                let (oldest, newest) = (crate::format::OLDEST_VERSION, crate::format::VERSION);
                write!(f, "at byte 0: expected a recording of version {oldest} to {newest}, found {found}")
            }
            Self::Damaged { at, what } => write!(f, "damaged at byte {at}: {what}"),
            Self::CutShort { at, whole_requests } => {
                write!(f, "cut short at byte {at}; the {whole_requests} requests before are whole")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

//! What can go wrong in the tiers, split by what the caller can do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the tiers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The block size is no power of two from 4 KiB to 1 MiB.
    BlockSize { bytes: u64 },
    /// A size is out of the range that works: what, the size given, and the remedy.
    Size { what: &'static str, bytes: u64, remedy: String },
    /// The operating system refused something about a path.
    Path { action: &'static str, path: PathBuf, source: io::Error },
    /// A device failed an operation.
    Device { action: &'static str, device: String, offset: u64, bytes: u64, source: io::Error },
    /// A range lies outside its device or volume.
    OutOfRange { offset: u64, bytes: u64, end: u64 },
    /// The file is not a cache file, or one of another format.
    NotACacheFile { path: PathBuf, found: String },
    /// The cache file is one of ours but made for something else: which field, and both values.
    Mismatch { field: &'static str, in_file: String, wanted: String, remedy: &'static str },
    /// The cache file's own records contradict each other or fail their checksums.
    Damaged { what: String },
    /// The backing store was changed while the cache file has blocks that are newer than it.
    VolumeChanged { name: String, dirty_blocks: u64 },
    /// Another process owns the file, or the system uses the device.
    Locked { path: PathBuf },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSize { bytes } => {
                write!(f, "block size {bytes} is not a power of two from 4096 to 1048576; try 16384")
            }
            Self::Size { what, bytes, remedy } => {
                write!(f, "{what} of {bytes} bytes does not work; {remedy}")
            }
            Self::Path { action, path, .. } => write!(f, "cannot {action} {}", path.display()),
            Self::Device { action, device, offset, bytes, .. } => {
                write!(f, "cannot {action} {bytes} bytes at offset {offset} of {device}")
            }
            Self::OutOfRange { offset, bytes, end } => {
                write!(f, "{bytes} bytes at offset {offset} reach past the end at {end}")
            }
            Self::NotACacheFile { path, found } => write!(
                f,
                "{} is not a cache file of this format ({found}); name another path or remove the file",
                path.display()
            ),
            Self::Mismatch { field, in_file, wanted, remedy } => {
                write!(f, "the cache file has {field} {in_file}, {wanted} was asked for; {remedy}")
            }
            Self::Damaged { what } => write!(f, "the cache file is damaged: {what}"),
            Self::VolumeChanged { name, dirty_blocks } => write!(
                f,
                "volume {name} was changed since it was detached, and the cache file has {dirty_blocks} blocks that are \
                 newer than it; put the backing store back as it was, or attach it under another name and lose them"
            ),
            Self::Locked { path } => {
                write!(
                    f,
                    "{} is in use by another process, or mounted; end that or name another file",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Path { source, .. } | Self::Device { source, .. } => Some(source),
            _ => None,
        }
    }
}

//! What can go wrong in the cache, split by what the caller can do about it.

use std::fmt;
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a tier, shared because one failed fill answers every caller that waited for it.
pub type TierError = Arc<terrace_tiers::Error>;

/// What can go wrong in the cache.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A tier failed; the message is its own.
    Tier(TierError),
    /// The configuration does not work: what, and the remedy.
    Config(String),
    /// The range reaches past the end of the volume.
    OutOfRange { offset: u64, bytes: u64, volume_bytes: u64 },
    /// It would have to wait: every frame is held by readers, or too many blocks are dirty. Drop references or
    /// flush, then try again.
    WouldBlock,
    /// Blocks that could not be written below. They are kept in RAM and tried again; so may the caller.
    StillDirty { volume: String, blocks: u64, cause: TierError },
    /// Only whole blocks can be forgotten: the rest of a block may be dirty.
    NotWholeBlocks { offset: u64, bytes: u64, block_bytes: u64 },
    /// Written below by `around` writes, which keep nothing, and then the sync failed: nobody can write these blocks
    /// again. Every flush says so until [`crate::Volume::forget`] is told of them.
    Lost { volume: String, blocks: u64, cause: TierError },
    /// An SSD that is not this cache's may have blocks newer than the backing store.
    SsdMissing { volume: String, cache_file: u64 },
    /// The volume was written past this SSD, which has blocks of before, or it is an old copy of the one that has them.
    SsdOlder { volume: String, dirty_blocks: u64 },
    /// They were newer than the backing store and only on the SSD, which cannot give them. Reads of them and every flush
    /// say so until each is written whole, discarded or forgotten; [`crate::Volume::lost_blocks`] names them.
    LostWithSsd { volume: String, blocks: u64 },
    /// A volume in mode `back-ssd` cannot do this: what its log has is newer than the backing store.
    NotWithLog { what: &'static str },
    /// A volume of this name is attached already.
    AlreadyAttached { name: String },
    /// The volume was detached, or is being detached; attach it again.
    Detached { name: String },
    /// The cache is closed.
    Closed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(error) => error.fmt(f),
            Self::Config(what) => f.write_str(what),
            Self::OutOfRange { offset, bytes, volume_bytes } => {
                write!(
                    f,
                    "{bytes} bytes at offset {offset} reach past the end of the volume at {volume_bytes}"
                )
            }
            Self::WouldBlock => f.write_str(
                "no frame is free within the time to wait; drop block references or flush, then try again",
            ),
            Self::StillDirty { volume, blocks, .. } => {
                write!(
                    f,
                    "{blocks} blocks of volume {volume} are not on the backing store; they are kept and retried"
                )
            }
            Self::NotWholeBlocks { offset, bytes, block_bytes } => {
                write!(
                    f,
                    "{bytes} bytes at offset {offset} are not whole blocks of {block_bytes} bytes; round both ends, or \
                     end with the volume"
                )
            }
            Self::Lost { volume, blocks, .. } => {
                write!(
                    f,
                    "{blocks} blocks of volume {volume} were written around the cache and a sync failed; write them \
                     again, then forget them"
                )
            }
            Self::SsdMissing { volume, cache_file } => write!(
                f,
                "cache file {cache_file:016x} has blocks of volume {volume} that its backing store lacks; open the cache \
                 with that file, or attach the volume with StaleSsd::Forget and lose them"
            ),
            Self::SsdOlder { volume, dirty_blocks } => write!(
                f,
                "the cache file has {dirty_blocks} blocks of volume {volume} and is older than what was written there \
                 without it; attach the volume with StaleSsd::Forget to drop them, or with StaleSsd::Believe to put them \
                 over it"
            ),
            Self::LostWithSsd { volume, blocks } => write!(
                f,
                "{blocks} blocks of volume {volume} were only on the SSD, which cannot give them; write them whole, or \
                 forget them"
            ),
            Self::NotWithLog { what } => write!(
                f,
                "a volume that writes back to a log on the SSD cannot {what}; detach it, and attach it in another mode"
            ),
            Self::AlreadyAttached { name } => {
                write!(f, "a volume named {name} is attached already; give each volume its own name")
            }
            Self::Detached { name } => write!(f, "volume {name} is detached; attach it again"),
            Self::Closed => f.write_str("the cache is closed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // `Display` already speaks for the tier's error, so its own cause comes next.
            Self::Tier(error) => error.source(),
            Self::StillDirty { cause, .. } | Self::Lost { cause, .. } => Some(cause.as_ref()),
            _ => None,
        }
    }
}

impl From<terrace_tiers::Error> for Error {
    fn from(error: terrace_tiers::Error) -> Self {
        Self::Tier(Arc::new(error))
    }
}

impl From<TierError> for Error {
    fn from(error: TierError) -> Self {
        Self::Tier(error)
    }
}

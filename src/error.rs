//! What can go wrong in the cache.
use std::fmt;
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A tier failed; shared, because one failed fill answers many callers.
    Tier(Arc<terrace_tiers::Error>),
    /// The configuration does not work: what, and the remedy.
    Config(String),
    /// The range reaches past the end of the volume.
    OutOfRange { offset: u64, bytes: u64, volume_bytes: u64 },
    /// It would have to wait for frames or for room among the dirty blocks.
    WouldBlock,
    /// Blocks that could not be written below; they stay in RAM and are tried again.
    StillDirty { blocks: u64, cause: Arc<terrace_tiers::Error> },
    /// The cache or the volume is closed.
    Closed,
}
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{self:?}") }
}
impl std::error::Error for Error {}
impl From<terrace_tiers::Error> for Error {
    fn from(e: terrace_tiers::Error) -> Self { Self::Tier(Arc::new(e)) }
}

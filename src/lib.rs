//! A tiered block cache: RAM (adaptive replacement), a segment log on an SSD, a slow backing store.
//!
//! ```
//! use std::sync::Arc;
//! use terrace::{Cache, Config, RamSize, SsdConfig, SsdSize, WriteMode};
//! use terrace::tiers::backing::file::FileBacking;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (disk, ssd) = (folder.path().join("disk"), folder.path().join("ssd"));
//! let mut config = Config::new(RamSize::Bytes(64 << 20));
//! config.ssd = Some(SsdConfig::new(ssd, SsdSize::Bytes(256 << 20)));
//! let cache = Cache::open(&config)?;
//! let backing = Arc::new(FileBacking::create(disk, 1 << 30)?);
//! let volume = cache.attach("disk", backing, WriteMode::Back)?;
//! volume.write(4096, b"written once, read often")?;
//! let mut buffer = [0; 24];
//! volume.read(4096, &mut buffer)?;
//! assert_eq!(&buffer, b"written once, read often");
//! volume.flush()?;
//! cache.close()?;
//! # Ok(())
//! # }
//! ```

mod cache;
mod config;
mod error;
mod pool;
mod simulate;
mod stats;
mod sync;

pub use cache::{Answer, BlockRef, Blocks, Cache, FlushFuture, ReadFuture, Volume, WriteFuture};
pub use config::{Background, Clock, Config, RamSize, SsdConfig, SsdSize, WriteMode};
pub use error::{Error, Result, TierError};
pub use simulate::Simulation;
pub use stats::Stats;
pub use terrace_tiers as tiers;
pub use terrace_tiers::block::{BlockId, BlockSize, VolumeId};
pub use terrace_tiers::device::Device;

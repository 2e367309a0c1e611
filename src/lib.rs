//! SKELETON of the public interface.
#![allow(unused_variables, dead_code)]
pub mod cache;
pub mod config;
pub mod error;
pub mod simulate;
pub mod stats;

pub use cache::{Answer, Cache, Volume};
pub use config::{Clock, Config, RamSize, SsdConfig, SsdSize, WriteMode};
pub use error::{Error, Result};
pub use stats::Stats;
pub use terrace_tiers as tiers;
pub use terrace_tiers::block::{BlockId, BlockSize, VolumeId};
pub use terrace_tiers::device::Device;

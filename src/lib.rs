//! A tiered block cache: RAM (adaptive replacement), a segment log on an SSD, a slow backing store.
//!
//! [`Cache::open`] takes a [`Config`]; [`Cache::attach`] puts the cache in front of a [`Device`], such as
//! [`FileBacking`](tiers::backing::file::FileBacking), and gives a [`Volume`] to read and write. README.md has an
//! example and says what is kept safe when; ARCHITECTURE.md says how it works inside.
//!
//! | folder or file                 | what it is                                                                    |
//! |--------------------------------|-------------------------------------------------------------------------------|
//! | `cache`                        | joins the tiers, and decides what moves between them                          |
//! | [`simulate`]                   | the same policies over ids alone, and what follows of them for every size     |
//! | `pool`                         | threads that run jobs on devices; knows no cache                              |
//! | `config`, `stats`, `error`     | what is chosen, what is counted, what goes wrong                              |
//! | `sync`                         | the locks and waits of the package                                            |
//! | `../tiers`                     | the places a block can be in, each without thread, lock or clock ([`tiers`])  |

mod cache;
mod config;
mod error;
mod pool;
pub mod sample;
pub mod simulate;
mod stats;
mod sync;
mod what_if;

pub use cache::{
    Answer, BlockPlace, BlockRef, Blocks, Cache, DiscardFuture, FlushFuture, RamResized, ReadFuture,
    RecordStatus, SsdResized, Volume, WriteFuture,
};
pub use config::{
    AttachOptions, Background, Clock, Config, RamSize, RecordConfig, Recovery, SsdConfig, SsdSize, StaleSsd,
    WriteMode,
};
pub use error::{Error, Result, TierError};
pub use simulate::Simulation;
pub use stats::{SsdFailure, Stats};
pub use terrace_tiers as tiers;
pub use terrace_tiers::block::{BlockId, BlockSize, VolumeId};
pub use terrace_tiers::device::Device;
pub use what_if::{Outlook, OutlookProgress, Size, WhatIf};

/// The examples of README.md, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

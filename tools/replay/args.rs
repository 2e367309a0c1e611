//! The arguments of `terrace replay`, and what they come to once they are checked against each other.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use terrace::{BlockSize, RamSize, SsdSize};

use super::live::LiveArgs;
use super::pace::{Pace, Speed};
use crate::failure::{Failure, Result};
use crate::mode::Mode;
use crate::policies::PolicyName;
use crate::trace::{InputArgs, Moment, Window, parse_moment};
use crate::tune::Latency;
use crate::units::{parse_bandwidth, parse_block_size, parse_duration_us, parse_size};

/// 64 MiB: small enough for any machine, and for a recorded trace to overflow.
const RAM_BYTES: u64 = 64 << 20;
/// 1 GiB, sixteen times the RAM: the ratio at which a second tier starts to be worth having.
const SSD_BYTES: u64 = 1 << 30;
/// Requests under way in an open loop: more than any one disk answers at once, and no burden as sleeping threads.
const IN_FLIGHT_MAX: u32 = 256;

/// Replay a recorded trace through the cache, every byte checked, and say what each tier was worth
///
/// Without paths it works on a sparse backing file and a cache file in a temporary directory and removes both. Sizes
/// are bytes or carry a unit, a power of 1024 however it is spelled: 4096, 16k, 64MiB, 1GiB.
#[derive(Args, Debug)]
#[command(after_long_help = super::report::json_help())]
pub(crate) struct ReplayArgs {
    /// The trace, plain or packed by zstd, gzip or xz; `-` reads standard input
    #[arg(required_unless_present = "demo", conflicts_with = "demo")]
    pub(crate) trace: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) input: InputArgs,

    /// One block a request, sizes ignored: ids as recorded, or the number of the 512-byte sector where the trace has
    /// addresses. To compare with simulators that cache whole objects
    #[arg(long, help_heading = "Trace")]
    pub(crate) ids: bool,

    /// Take writes as reads and discards as nothing. To compare with published figures, which know neither
    #[arg(long, help_heading = "Trace")]
    pub(crate) as_reads: bool,

    /// Begin so long after the first request of the trace, e.g. 90s, 2h; or at a moment, where the trace has a wall clock:
    /// 2008-02-22T17:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_moment, conflicts_with = "demo", help_heading = "Trace")]
    pub(crate) from: Option<Moment>,

    /// End before so long after the first request of the trace, or before a moment
    #[arg(long, value_name = "TIME", value_parser = parse_moment, conflicts_with = "demo", help_heading = "Trace")]
    pub(crate) to: Option<Moment>,

    /// End after so many requests of those that all else lets through
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "demo",
          help_heading = "Trace")]
    pub(crate) limit: Option<u64>,

    /// Only this volume, by the number that `terrace trace info` gives it; may be given again
    #[arg(long = "volume", value_name = "NUMBER", conflicts_with = "demo", help_heading = "Trace")]
    pub(crate) volumes: Vec<u32>,

    /// Make a trace from --seed and run it without and with the SSD tier, on a slow disk model; takes under a minute
    #[arg(long, help_heading = "Trace")]
    pub(crate) demo: bool,

    /// Unit of caching: a power of two from 4KiB to 1MiB. Larger blocks cost less index and more bytes a miss; an id
    /// is one block whatever its size
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = parse_block_size, help_heading = "Tiers")]
    pub(crate) block_size: BlockSize,

    /// RAM for blocks, their directory included; the SSD index comes on top, 20 bytes a block [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "ram_blocks", help_heading = "Tiers")]
    pub(crate) ram_size: Option<u64>,

    /// Exactly so many blocks in RAM, to compare with other caches; what holds them comes on top
    #[arg(long, value_name = "COUNT", help_heading = "Tiers")]
    pub(crate) ram_blocks: Option<u64>,

    /// Cache file on the SSD; made when it is not there, and kept. Without it, --ssd-size or --ssd-blocks there is no
    /// second tier
    #[arg(long, value_name = "PATH", help_heading = "Tiers")]
    pub(crate) ssd_file: Option<PathBuf>,

    /// Size of the cache file, in a temporary directory unless --ssd-file says where [default with --ssd-file: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "ssd_blocks", help_heading = "Tiers")]
    pub(crate) ssd_size: Option<u64>,

    /// Exactly so many blocks on the SSD; the cache file is as large as that needs
    #[arg(long, value_name = "COUNT", help_heading = "Tiers")]
    pub(crate) ssd_blocks: Option<u64>,

    /// Bytes a day that may be written to the SSD, by the trace's clock where it has one: blocks that have not earned
    /// their write are refused beyond it [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Tiers")]
    pub(crate) ssd_write_budget: Option<u64>,

    /// Which blocks that leave RAM are written to the SSD, once it was full. `all` costs two to ten times the writes, and is
    /// worth a look where nearly everything is read twice and seldom more [default: earned]
    #[arg(long, value_name = "WHICH", value_enum, help_heading = "Tiers")]
    pub(crate) ssd_admit: Option<Admit>,

    /// When a write is acknowledged: after the disk, or after RAM
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = "Tiers")]
    pub(crate) write: Mode,

    /// How long write-back lets a block be overwritten before it starts, and what was written waits for its sync. Until then
    /// a block cannot leave RAM: in a run that is faster than the recording, a shorter time keeps that in proportion
    /// [default: 200ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration_us, conflicts_with_all = ["demo", "simulate"],
          help_heading = "Tiers")]
    pub(crate) writeback_delay: Option<u64>,

    /// With --write back-ssd: what the SSD has goes on to the disk flush by flush, so that the disk alone is at any moment
    /// what some flush left and a part of what came next. Choose it to see what that costs: a block goes to the disk once
    /// for each flush that it was written before, and not only as it is last
    #[arg(long, conflicts_with_all = ["demo", "simulate"], help_heading = "Tiers")]
    pub(crate) ordered: bool,

    /// RAM directories, by hash of the block; more let more threads in at once, 1 is the policy undivided [default: as
    /// many as hold 1,000 blocks each, at most 16]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Tiers")]
    pub(crate) shards: Option<u32>,

    /// Backing file, made sparse and kept (PATH.1, PATH.2 and so on, by their numbers, for volumes of the trace after the
    /// first that is replayed); its content is the replay's own [default: in a temporary directory, removed]
    #[arg(long, value_name = "PATH", help_heading = "Disk")]
    pub(crate) backing: Option<PathBuf>,

    /// Backing file or device of one volume of the trace, by the number that `terrace trace info` gives it, in place of
    /// what --backing makes of it: 2=/dev/sdx. May be given again
    #[arg(long = "map", value_name = "NUMBER=PATH", value_parser = mapped, conflicts_with_all = ["demo", "simulate"],
          help_heading = "Disk")]
    pub(crate) maps: Vec<(u32, PathBuf)>,

    /// Take backing files and block devices that are there already. WHAT THEY HOLD IS LOST
    #[arg(long, help_heading = "Disk")]
    pub(crate) overwrite: bool,

    /// How slow the backing file is made: `hdd` shows on a laptop what tiers are worth
    #[arg(long, value_name = "MODEL", value_enum, default_value_t = Disk::None, help_heading = "Disk")]
    pub(crate) disk_model: Disk,

    /// Time for an access that does not follow the one before, e.g. 8ms; in place of the model's
    #[arg(long, value_name = "TIME", value_parser = parse_duration_us, help_heading = "Disk")]
    pub(crate) disk_seek: Option<u64>,

    /// Bytes a second, e.g. 150MB/s; in place of the model's
    #[arg(long, value_name = "RATE", value_parser = parse_bandwidth, help_heading = "Disk")]
    pub(crate) disk_bandwidth: Option<u64>,

    /// Operations a second, e.g. 150; in place of the model's
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Disk")]
    pub(crate) disk_iops: Option<u64>,

    /// `max`: as fast as answers come (a closed loop). `1x`, `60x`, `0.5x`: each request when it was recorded, so many times
    /// as fast, whoever else still waits (an open loop); how late requests were is shown beside their latency
    #[arg(long, value_name = "SPEED", default_value = "max", conflicts_with = "demo", help_heading = "Run")]
    pub(crate) speed: Speed,

    /// At --speed max, threads that ask, each its next request when its last is answered; 1 keeps the trace's order
    /// exactly [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Run")]
    pub(crate) threads: Option<u32>,

    /// At any other --speed, requests that may be under way at once, a thread each. More are held back and counted: the
    /// loop is not open then [default: 256]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=16384), help_heading = "Run")]
    pub(crate) in_flight: Option<u32>,

    /// After every request wait until all it set off is done; slow, but counts are then those of --simulate
    #[arg(long, help_heading = "Run")]
    pub(crate) settle: bool,

    /// Replay so many times, the cache closed and opened again in between: what a restart keeps
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..),
          help_heading = "Run")]
    pub(crate) passes: u32,

    /// The same policies without data, thousands of times faster; latencies are left out
    #[arg(long, conflicts_with_all = ["demo", "settle"], help_heading = "Run")]
    pub(crate) simulate: bool,

    /// With --simulate: RAM alone with this replacement policy, in one directory, to compare with. Sizes are resident
    /// blocks; `belady` is the best there can be [default: the cache as it is]
    #[arg(long, value_name = "NAME", value_enum, requires = "simulate", help_heading = "Run",
          conflicts_with_all = ["ssd_file", "ssd_size", "ssd_blocks", "ssd_write_budget", "ssd_admit", "shards"])]
    pub(crate) policy: Option<PolicyName>,

    /// Simulate the same requests with the same sizes afterwards, and put what is predicted beside what was measured
    #[arg(long, conflicts_with_all = ["demo", "simulate"], help_heading = "Run")]
    pub(crate) predict: bool,

    /// With --predict: latency of a hit in RAM, mean and 99th percentile behind a comma
    #[arg(
        long,
        value_name = "TIMES",
        default_value = "2us,10us",
        requires = "predict",
        help_heading = "Run"
    )]
    pub(crate) ram_latency: Latency,

    /// With --predict: latency of a read from the SSD
    #[arg(
        long,
        value_name = "TIMES",
        default_value = "120us,500us",
        requires = "predict",
        help_heading = "Run"
    )]
    pub(crate) ssd_latency: Latency,

    /// With --predict: latency of the disk [default: that of the disk's model; without one no latency is predicted]
    #[arg(long, value_name = "TIMES", requires = "predict", help_heading = "Run")]
    pub(crate) disk_latency: Option<Latency>,

    /// Seed of all content, and of the demo's trace
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "Run")]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) live: LiveArgs,

    /// One JSON object in place of the tables; its keys are at the end of --help
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Admit {
    /// Those that were used twice, or are met again
    Earned,
    /// All, while the write budget is not short
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Disk {
    /// As fast as the file system is
    None,
    /// A hard disk: 8 ms a random access, 150 MB/s, at most 150 random accesses a second
    Hdd,
    /// A SATA SSD: 500 MB/s, at most 50,000 random accesses a second
    Ssd,
}

fn mapped(text: &str) -> Result<(u32, PathBuf), String> {
    let parts = text.split_once('=').filter(|(_, path)| !path.is_empty());
    let number = parts.and_then(|(number, _)| number.parse().ok());
    let mapped = number.zip(parts.map(|(_, path)| path.into()));
    mapped.ok_or_else(|| "expected NUMBER=PATH such as 0=/dev/sdx".into())
}

impl ReplayArgs {
    pub(crate) fn ram(&self) -> Result<RamSize> {
        let size = match self.ram_blocks {
            Some(blocks) => RamSize::Blocks(blocks),
            None => RamSize::Bytes(self.ram_size.unwrap_or(RAM_BYTES)),
        };
        match size {
            RamSize::Blocks(0) => {
                Err(Failure::input("a RAM of 0 blocks holds nothing").remedy("give --ram-blocks 1 or more"))
            }
            RamSize::Bytes(bytes) if bytes < self.block_size.bytes() as u64 => {
                let block = self.block_size.bytes();
                Err(Failure::input(format!("a RAM of {bytes} bytes does not hold one block of {block}"))
                    .remedy("raise --ram-size"))
            }
            size => Ok(size),
        }
    }

    /// The size of the SSD tier; none when there is no such tier.
    pub(crate) fn ssd(&self) -> Result<Option<SsdSize>> {
        match (self.ssd_blocks, self.ssd_size) {
            (Some(0), _) | (_, Some(0)) => Err(Failure::input("an SSD tier of size 0 holds nothing")
                .remedy("leave --ssd-size and --ssd-blocks out to run without one")),
            (Some(blocks), _) => Ok(Some(SsdSize::Blocks(blocks))),
            (_, Some(bytes)) => Ok(Some(SsdSize::Bytes(bytes))),
            (None, None) if self.ssd_file.is_some() => Ok(Some(SsdSize::Bytes(SSD_BYTES))),
            (None, None) if self.ssd_write_budget.is_some() => {
                Err(Failure::input("--ssd-write-budget needs an SSD tier").remedy("add --ssd-size 1GiB"))
            }
            (None, None) if self.ssd_admit.is_some() => {
                Err(Failure::input("--ssd-admit needs an SSD tier").remedy("add --ssd-size 1GiB"))
            }
            (None, None) => Ok(None),
        }
    }

    /// The part of the trace that is asked for.
    pub(crate) fn window(&self) -> Window {
        let (from, to, volumes) = (self.from, self.to, self.volumes.clone());
        Window { from, to, volumes, count_max: self.limit.unwrap_or(u64::MAX), ..Window::default() }
    }

    pub(crate) fn pace(&self) -> Pace {
        match self.speed {
            Speed::Max => Pace::Closed { threads: self.threads.unwrap_or(1) },
            Speed::Times(speed) => {
                Pace::Open { speed, in_flight_max: self.in_flight.unwrap_or(IN_FLIGHT_MAX) }
            }
        }
    }

    fn check_pace(&self) -> Result<()> {
        let refuse = |what: &str, remedy: &str| Err(Failure::input(what).remedy(remedy));
        match self.speed {
            Speed::Max if self.in_flight.is_some() => {
                refuse("--in-flight is for an open loop", "give a --speed such as 1x, or use --threads")
            }
            Speed::Max => Ok(()),
            Speed::Times(_) if self.threads.is_some() => {
                refuse("--threads is for --speed max", "bound what is under way with --in-flight")
            }
            Speed::Times(_) if self.settle => {
                refuse("with --settle no speed can be kept", "leave out --settle or --speed")
            }
            Speed::Times(_) if self.simulate => {
                refuse("a simulation knows no speed", "leave out --simulate or --speed")
            }
            Speed::Times(_) => Ok(()),
        }
    }

    /// What must hold between arguments and is not clap's to say.
    pub(crate) fn check(&self) -> Result<()> {
        self.ram()?;
        self.window().check()?;
        self.check_pace()?;
        if self.overwrite && self.backing.is_none() && self.maps.is_empty() {
            return Err(Failure::input("--overwrite names nothing that may go")
                .remedy("say what with --backing or --map, or leave it out"));
        }
        let has_ssd = self.ssd()?.is_some();
        if self.write == Mode::BackSsd && !has_ssd {
            return Err(Failure::input("--write back-ssd needs an SSD tier").remedy("add --ssd-size 1GiB"));
        }
        if self.ordered && self.write != Mode::BackSsd {
            return Err(Failure::input(
                "--ordered is about what a log on the SSD brings to the disk, and only --write back-ssd has one",
            )
            .remedy("add --write back-ssd, or leave --ordered out"));
        }
        Ok(())
    }
}

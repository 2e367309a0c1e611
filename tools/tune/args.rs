//! The arguments of `terrace tune`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use terrace::BlockSize;
use terrace::simulate::ArcCurve;

use super::candidate::LIFE_YEARS_MAX;
use super::devices::{Latency, Probe};
use super::load::Limits;
use crate::failure::{Failure, Result};
use crate::mode::Mode;
use crate::trace::InputArgs;
use crate::units::{parse_block_size, parse_duration_ns, parse_duration_us, parse_size};

/// What a service that runs knows itself, or cannot simulate.
const OF_A_TRACE: [&str; 17] = [
    "trace",
    "format",
    "columns",
    "separator",
    "time_unit",
    "id_size",
    "shift",
    "ids",
    "as_reads",
    "trace_time",
    "block_size",
    "block_sizes",
    "ram_sizes",
    "ssd_sizes",
    "ssd_write_budget",
    "effort",
    "measured",
];

/// Say from a recorded trace what sizes of RAM and SSD to take
///
/// The cache's own policies are simulated for each pair of sizes, and each pair gets its latency, its wear of the SSD and
/// its price. Taken is the cheapest of those that keep every constraint and whose mean read latency is within --within of
/// the best of them. Sizes are bytes or carry a unit, a power of 1024 however it is spelled.
#[derive(Args, Debug)]
#[command(after_long_help = super::report::json_help())]
pub(crate) struct TuneArgs {
    /// The trace, plain or packed by zstd, gzip or xz; `-` reads standard input
    #[arg(required_unless_present = "live")]
    pub(crate) trace: Option<PathBuf>,

    /// Ask a service that runs instead, by its control socket: what its own simulations of its own traffic say, at sizes from
    /// half to four times of what it has. Only the owner of the service may [default socket: /run/terrace/control.sock]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = crate::ctl::SOCKET,
          conflicts_with_all = OF_A_TRACE, help_heading = "Trace")]
    pub(crate) live: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) input: InputArgs,

    /// One block a request, sizes ignored (see `terrace replay --help`)
    #[arg(long, help_heading = "Trace")]
    pub(crate) ids: bool,

    /// Take writes as reads
    #[arg(long, help_heading = "Trace")]
    pub(crate) as_reads: bool,

    /// How long the recording took, e.g. 90m, 2h, 7d, where the trace itself does not say: bytes a day follow from it
    #[arg(long, value_name = "TIME", value_parser = parse_span_us, help_heading = "Trace")]
    pub(crate) trace_time: Option<u64>,

    /// Unit of caching
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = parse_block_size, help_heading = "Sizes")]
    pub(crate) block_size: BlockSize,

    /// Other block sizes to compare at the recommended sizes [default: 4KiB,16KiB,64KiB]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_block_size, help_heading = "Sizes")]
    pub(crate) block_sizes: Vec<BlockSize>,

    /// RAM sizes to try, e.g. 256MiB,1GiB [default: powers of two up to what the trace touches]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_size, help_heading = "Sizes")]
    pub(crate) ram_sizes: Vec<u64>,

    /// SSD sizes to try, 0 for none [default: none, and powers of two up to what the trace touches]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_size, help_heading = "Sizes")]
    pub(crate) ssd_sizes: Vec<u64>,

    /// Bytes a day that may be written to the SSD, as in the cache [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Sizes")]
    pub(crate) ssd_write_budget: Option<u64>,

    /// When a write is acknowledged. What back-ssd writes to its log wears the SSD too, told as if each write were flushed and
    /// the disk kept up [default: through; with --live what the exports have]
    #[arg(long, value_name = "MODE", value_enum, help_heading = "Sizes")]
    pub(crate) write: Option<Mode>,

    /// Latency of a hit in RAM: mean, and 99th percentile behind a comma
    #[arg(long, value_name = "TIMES", default_value = "2us,10us", help_heading = "Devices")]
    pub(crate) ram_latency: Latency,

    /// Latency of a read from the SSD
    #[arg(long, value_name = "TIMES", default_value = "120us,500us", help_heading = "Devices")]
    pub(crate) ssd_latency: Latency,

    /// Latency of the disk
    #[arg(long, value_name = "TIMES", default_value = "8ms,25ms", help_heading = "Devices")]
    pub(crate) disk_latency: Latency,

    /// Measure a device with a second of random reads in place of naming its latency: `disk=PATH` or `ssd=PATH`, a file,
    /// a block device, or a directory in which a file is made and removed. Nothing else is written. A PATH alone is the
    /// disk's
    #[arg(long, value_name = "PATH", help_heading = "Devices")]
    pub(crate) probe: Vec<Probe>,

    /// How many times over the SSD may be written in its life: its TBW over its size
    #[arg(long, value_name = "COUNT", default_value_t = 600.0, value_parser = positive, help_heading = "Devices")]
    pub(crate) ssd_endurance: f64,

    /// What the SSD writes inside for each byte it is given
    #[arg(long, value_name = "FACTOR", default_value_t = 1.2, value_parser = positive, help_heading = "Devices")]
    pub(crate) ssd_inner_amplification: f64,

    /// Price of a GiB of RAM
    #[arg(long, value_name = "PRICE", default_value_t = 4.0, value_parser = positive, help_heading = "Devices")]
    pub(crate) ram_price: f64,

    /// Price of a GiB of SSD
    #[arg(long, value_name = "PRICE", default_value_t = 0.1, value_parser = positive, help_heading = "Devices")]
    pub(crate) ssd_price: f64,

    /// The most that RAM and SSD may cost together
    #[arg(long, value_name = "PRICE", value_parser = positive, help_heading = "Constraints")]
    pub(crate) budget: Option<f64>,

    /// The most RAM, the SSD's index included
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Constraints")]
    pub(crate) ram_max: Option<u64>,

    /// How many years the SSD must last, at most 100
    #[arg(long, value_name = "YEARS", value_parser = years, help_heading = "Constraints")]
    pub(crate) life_years: Option<f64>,

    /// The longest 99th percentile of read latency, e.g. 5ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration_us, help_heading = "Constraints")]
    pub(crate) p99: Option<u64>,

    /// How much slower than the best the answer may be for being cheaper, in percent of the mean read latency
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, value_parser = share, help_heading = "Constraints")]
    pub(crate) within: f64,

    /// Simulate all of the trace, or samples of it; by itself: all of it where that takes seconds. A trace that fits 192 MiB
    /// is kept in memory whole, and what follows from it may take half as much again. A longer one is
    /// simulated while it is read, a sample of its blocks if they are many, and less than 200 MiB are needed whatever its
    /// length; with `exact` all of it is kept, 4 bytes for each block that is touched and 24 for each request
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Effort::Auto, help_heading = "Run")]
    pub(crate) effort: Effort,

    /// Put a replay of the trace into the report, what was measured beside what was predicted: FILE has what `terrace
    /// replay TRACE --predict --json` printed. May be given again
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) measured: Vec<PathBuf>,

    /// One self-contained page with every plot
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) report: Option<PathBuf>,

    /// Each plot as an SVG in this directory, which is made
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) svg: Option<PathBuf>,

    /// One JSON object in place of the tables; its keys are at the end of --help
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Effort {
    /// All where that takes seconds, else samples
    Auto,
    /// All of it, however long it takes
    Exact,
    /// Samples, also where all of it takes seconds; a trace of too few blocks for them is simulated whole
    Sampled,
}

impl Effort {
    /// How much of the trace to keep in memory for it.
    pub(super) fn limits(self) -> Limits {
        if self == Self::Exact { Limits::NONE } else { Limits::BOUNDED }
    }

    /// Whether a trace of so many references to blocks can be simulated so.
    pub(super) fn check(self, references: u64) -> Result<()> {
        let most = ArcCurve::REFERENCES_MAX;
        if self != Self::Exact || references <= most.into() {
            return Ok(());
        }
        Err(Failure::input(format!(
            "{references} references to blocks, {most} at most are simulated exactly"
        ))
        .remedy("leave out --effort exact"))
    }
}

fn parse_span_us(text: &str) -> Result<u64, String> {
    match parse_duration_ns(text)? / 1000 {
        0 => Err("expected a time above 0, such as 90m, 2h or 7d".into()),
        us => Ok(us),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number from 0 on".into())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number above 0".into())
}

/// A life that is longer is told as a century.
fn years(text: &str) -> Result<f64, String> {
    match positive(text)? {
        years if years <= LIFE_YEARS_MAX => Ok(years),
        _ => Err(format!("expected {LIFE_YEARS_MAX} at most: nobody knows what an SSD does after that")),
    }
}

/// A command line of these arguments alone.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: TuneArgs,
}

impl TuneArgs {
    /// The defaults of everything, for those who ask without a command line.
    pub(crate) fn defaults() -> Self {
        <Line as clap::Parser>::parse_from(["tune", "-"]).args
    }

    /// What must hold between arguments and is not clap's to say.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(&bytes) =
            self.ram_sizes.iter().find(|&&bytes| bytes < 64 * self.block_size.bytes() as u64)
        {
            let least = 64 * self.block_size.bytes();
            return Err(Failure::input(format!("a RAM of {bytes} bytes is too small to simulate"))
                .remedy(format!("begin --ram-sizes at {least}")));
        }
        if self.ssd_sizes.len() > 64 || self.ram_sizes.len() > 64 {
            return Err(Failure::input("more than 64 sizes of one tier").remedy("name fewer"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_of_too_many_references_is_refused_where_all_of_it_would_be_kept() {
        let most = u64::from(ArcCurve::REFERENCES_MAX);
        for (effort, references, is_taken) in [
            (Effort::Exact, most, true),
            (Effort::Exact, most + 1, false),
            (Effort::Auto, most + 1, true),
            (Effort::Sampled, most + 1, true),
        ] {
            assert_eq!(effort.check(references).is_ok(), is_taken, "{effort:?}, {references}");
        }
    }
}

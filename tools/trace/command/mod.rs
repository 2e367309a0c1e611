//! `terrace trace`: what a trace is like, and traces made from traces or from nothing.

mod copy;
mod generate;
mod info;
mod overview;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub(crate) use generate::Ranks;

use super::merge::Mapped;
use super::write::{Sink, Target};
use super::{InputArgs, Moment, TraceReader, parse_moment};
use crate::failure::Result;
use crate::progress::Progress;
use crate::units::{parse_size, show_count};

/// Look at recorded traces, convert, cut, merge and make them
///
/// A trace is read in any of the formats of --format, plain or packed by zstd, gzip or xz; format and packing are told
/// from the content. `-` reads standard input. Reading takes the same memory however long a trace is.
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Subcommand, Debug)]
enum TraceCommand {
    Info(InfoArgs),
    Convert(ConvertArgs),
    Cut(CutArgs),
    Merge(MergeArgs),
    Generate(GenerateArgs),
}

/// Say what a trace is: format, units, requests, times, volumes, sizes, alignment, working set
///
/// Blocks touched are counted exactly up to a million and estimated beyond, with the standard error said.
#[derive(Args, Debug)]
#[command(after_long_help = info::json_help())]
struct InfoArgs {
    /// The trace; `-` reads standard input
    trace: PathBuf,

    #[command(flatten)]
    input: InputArgs,

    /// Blocks of the working set, a power of two of 512 bytes or more
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = page_size)]
    block_size: u64,

    /// One JSON object in place of the table; its keys are at the end of --help
    #[arg(long)]
    json: bool,
}

/// Write a trace in our own format, or in one that others' tools read
#[derive(Args, Debug)]
struct ConvertArgs {
    /// The trace; `-` reads standard input
    trace: PathBuf,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    input: InputArgs,
}

/// What is written, and where.
#[derive(Args, Debug)]
struct OutputArgs {
    /// The file to make; it must not be there yet
    output: PathBuf,

    #[command(flatten)]
    how: TargetArgs,
}

#[derive(Args, Clone, Copy, Debug)]
struct TargetArgs {
    /// Format to write
    #[arg(long = "as", value_name = "FORMAT", value_enum, default_value_t = Target::Terrace)]
    target: Target,

    /// What ids count in oracleGeneral and lcs: every request must begin on a multiple of it
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = block_size)]
    unit: u64,
}

/// Write a part of a trace: a window of time or of requests, some volumes of it
///
/// Of our own recordings only what is needed is read.
#[derive(Args, Debug)]
struct CutArgs {
    /// The trace; `-` reads standard input
    trace: PathBuf,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    input: InputArgs,

    /// Begin so long after the first request, e.g. 90s, 2h; or at a moment, where the trace has a wall clock:
    /// 2008-02-22T17:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    from: Option<Moment>,

    /// End before so long after the first request, or before a moment
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    to: Option<Moment>,

    /// Leave out so many requests at the beginning
    #[arg(long, value_name = "COUNT")]
    from_request: Option<u64>,

    /// End after so many requests, counted from the beginning of the trace
    #[arg(long, value_name = "COUNT")]
    to_request: Option<u64>,

    /// Only this volume, by the number that `info` gives it; may be given again
    #[arg(long = "volume", value_name = "NUMBER")]
    volumes: Vec<u32>,
}

/// Write several traces as one, in the order of time
#[derive(Args, Debug)]
struct MergeArgs {
    /// The file to make; it must not be there yet
    #[arg(long, value_name = "PATH")]
    output: PathBuf,

    /// The traces
    #[arg(required = true, num_args = 2..)]
    traces: Vec<PathBuf>,

    #[command(flatten)]
    how: TargetArgs,

    #[command(flatten)]
    input: InputArgs,

    /// Which volumes of different traces are one
    #[arg(long, value_enum, default_value_t = VolumesAre::Apart)]
    volumes: VolumesAre,

    /// Volume VOLUME of the trace number TRACE (from 1) is volume NUMBER of the result, e.g. 2:0=0; may be given again.
    /// Volumes that are not named stay apart
    #[arg(long = "map", value_name = "TRACE:VOLUME=NUMBER", value_parser = mapped, conflicts_with = "volumes")]
    map: Vec<Mapped>,

    /// Let all begin at once, whatever their clocks said
    #[arg(long)]
    align: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum VolumesAre {
    /// None: every trace has its own
    Apart,
    /// Those that are called alike
    ByName,
}

/// Make a trace from a seed
#[derive(Args, Debug)]
struct GenerateArgs {
    #[command(flatten)]
    output: OutputArgs,

    /// Which block is asked for next
    #[arg(long, value_enum, default_value_t = Pattern::Zipf)]
    pattern: Pattern,

    /// Requests
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    requests: u64,

    /// What is asked for lies in so many bytes, at most 2^24 blocks
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    size: u64,

    /// What places are multiples of
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = block_size)]
    block_size: u64,

    /// Length of a request, or the shortest and the longest with `-` between: all multiples of a block alike
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = size_range)]
    request_size: (u64, u64),

    /// Share of requests that write
    #[arg(long, value_name = "SHARE", default_value_t = 0.25, value_parser = share)]
    write_share: f64,

    /// A flush after so many writes [default: none]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    flush_every: Option<u64>,

    /// Zipf's exponent: a block's chance falls with its rank to this power. Measured disk traces lie from 0.6 to 1
    #[arg(long, value_name = "NUMBER", default_value_t = 0.8, value_parser = positive)]
    skew: f64,

    /// Requests a second, at random moments
    #[arg(long, value_name = "COUNT", default_value_t = 1000.0, value_parser = positive)]
    rate: f64,

    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Pattern {
    /// Some blocks much more often than others, by Zipf's law
    Zipf,
    /// All blocks alike
    Uniform,
    /// From the first block to the last, once and again
    Scan,
    /// The blocks of a tenth of the size, in a random order that is always the same
    Loop,
    /// Zipf, now and then broken by a scan of a hundredth of the size
    Mix,
}

/// Runs the subcommand; `print` takes what goes to standard output.
pub(crate) fn main(args: &TraceArgs, print: impl Fn(&str)) -> Result<()> {
    match &args.command {
        TraceCommand::Info(args) => info::run(args, print),
        TraceCommand::Convert(args) => copy::convert(args, print),
        TraceCommand::Cut(args) => copy::cut(args, print),
        TraceCommand::Merge(args) => copy::merge(args, print),
        TraceCommand::Generate(args) => generate::run(args, print),
    }
}

/// Makes the file at `output` of what `fill` gives; nothing stays of a file that was not finished.
fn produce(
    output: &std::path::Path,
    how: TargetArgs,
    print: impl Fn(&str),
    fill: impl FnOnce(&mut Sink) -> Result<Vec<String>>,
) -> Result<()> {
    let mut sink = Sink::create(output, how.target, how.unit)?;
    let filled = fill(&mut sink).and_then(|volumes| {
        let counts = (sink.written, sink.left_out);
        sink.finish(&volumes)?;
        Ok(counts)
    });
    let (written, left_out) = filled.inspect_err(|_| {
        // What failed is told; that a part of it stays is not worse.
        let _ = std::fs::remove_file(output);
    })?;
    let name = how.target.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
    let mut text = format!("wrote {} ({name}): {} requests", output.display(), show_count(written));
    if left_out > 0 {
        text.push_str(&format!("; left out {} that the format cannot say", show_count(left_out)));
    }
    print(&text);
    Ok(())
}

/// Writes all that `reader` gives, with the progress of `position`.
fn pour(
    reader: &mut dyn TraceReader,
    sink: &mut Sink,
    progress: &Progress,
    position: &std::sync::atomic::AtomicU64,
) -> Result<Vec<String>> {
    while let Some(request) = reader.next_request()? {
        if (sink.written + sink.left_out).is_multiple_of(4096) {
            progress.show(position);
        }
        sink.write(&request)?;
    }
    Ok(reader.volume_names().to_vec())
}

fn block_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes.is_power_of_two() => Ok(bytes),
        bytes => Err(format!("{bytes} is not a power of two")),
    }
}

fn page_size(text: &str) -> Result<u64, String> {
    match block_size(text)? {
        bytes if bytes >= super::text::SECTOR_BYTES => Ok(bytes),
        bytes => Err(format!("{bytes} bytes are less than a sector of 512")),
    }
}

fn size_range(text: &str) -> Result<(u64, u64), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let (least, most) = (parse_size(least)?, parse_size(most)?);
    if least == 0 || least > most {
        return Err("expected a size such as 4KiB, or two such as 4KiB-64KiB".into());
    }
    Ok((least, most))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".into())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".into())
}

fn mapped(text: &str) -> Result<Mapped, String> {
    let parse = || {
        let (place, to) = text.split_once('=')?;
        let (trace, from) = place.split_once(':')?;
        let trace = trace.parse::<usize>().ok()?.checked_sub(1)?;
        let to = to.parse().ok().filter(|&to: &u32| (to as usize) < super::text::VOLUMES_MAX)?;
        Some(Mapped { trace, from: from.parse().ok()?, to })
    };
    parse().ok_or_else(|| "expected TRACE:VOLUME=NUMBER such as 2:0=0, traces from 1, volumes from 0".into())
}

//! `terrace trace info`: a trace in a table, or in one JSON object.
//!
//! Keys and their explanation stand side by side here; `--help` is made of them, and a test holds that every key that is
//! printed is explained and every explained key printed.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::Source;
use super::super::profile::{PAGE_BYTES, Profile};
use super::super::unpack::Packing;
use super::InfoArgs;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::table::{share, table};
use crate::units::{show_bytes, show_count, show_seconds};

/// Volumes that the table lists; the others are in the JSON.
const VOLUMES_SHOWN: usize = 12;

const KEYS: &[(&str, &str)] = &[
    ("trace", "the trace that was read"),
    ("format, packing, units", "what its content showed, or --format said"),
    ("files", "how many files it is: blktrace has one for each processor"),
    ("stored_bytes", "their size"),
    ("requests", "all of them: reads + writes + flushes + discards"),
    ("reads, writes, flushes, discards", "requests of each kind"),
    ("skipped_commands", "commands besides, which move no data and order none"),
    (
        "lost_requests, lost_from_ns, lost_to_ns",
        "requests that a cache which recorded itself had no room for, and when; null and null when there are none",
    ),
    ("read_bytes, written_bytes, discarded_bytes", "0 where the trace has ids"),
    ("first_ns, last_ns", "the earliest and the latest time in nanoseconds; null without times"),
    ("duration_seconds", "between them; null without times"),
    ("out_of_order", "requests stamped earlier than the one before them"),
    ("volumes", "number, name, requests and end (of the bytes or ids used) of each"),
    ("size_p50, size_p90, size_p99, size_max", "lengths of reads and writes: bytes, or ids"),
    ("sizes", "the ten most frequent lengths: length and requests"),
    ("block_bytes", "what the following keys count in; an id is one block"),
    ("references", "blocks touched by reads and writes, each as often as it is"),
    ("unique_blocks", "different blocks among them: the working set"),
    ("unique_error", "standard error of unique_blocks as a share of it; 0: exact"),
    ("working_set_bytes", "unique_blocks times block_bytes; null where the trace has ids"),
    ("compulsory_share", "unique_blocks over references: the misses of a cache of any size"),
    ("aligned_share", "reads and writes that begin on 4096 bytes; null where the trace has ids"),
    ("begin_sectors", "reads and writes by the sector, 0 to 7, of 4096 bytes that they begin on"),
    ("inside_sectors", "those that begin inside a sector"),
    ("memory_peak_bytes", "the most memory that reading took; null where the system does not tell"),
    (
        "shift_bytes, shift_aligned_share",
        "the --shift that aligns most, and how many; null when nothing is won",
    ),
];

#[derive(Serialize)]
struct Info<'a> {
    trace: &'a str,
    format: &'a str,
    packing: &'a str,
    units: String,
    files: usize,
    stored_bytes: u64,
    requests: u64,
    reads: u64,
    writes: u64,
    flushes: u64,
    discards: u64,
    skipped_commands: u64,
    lost_requests: u64,
    lost_from_ns: Option<u64>,
    lost_to_ns: Option<u64>,
    read_bytes: u64,
    written_bytes: u64,
    discarded_bytes: u64,
    first_ns: Option<u64>,
    last_ns: Option<u64>,
    duration_seconds: Option<f64>,
    out_of_order: u64,
    volumes: Vec<VolumeInfo<'a>>,
    size_p50: u64,
    size_p90: u64,
    size_p99: u64,
    size_max: u64,
    sizes: Vec<SizeInfo>,
    block_bytes: u64,
    references: u64,
    unique_blocks: u64,
    unique_error: f64,
    working_set_bytes: Option<u64>,
    compulsory_share: Option<f64>,
    aligned_share: Option<f64>,
    begin_sectors: [u64; 8],
    inside_sectors: u64,
    shift_bytes: Option<u64>,
    shift_aligned_share: Option<f64>,
    memory_peak_bytes: Option<u64>,
}

#[derive(Serialize)]
struct VolumeInfo<'a> {
    number: usize,
    name: &'a str,
    requests: u64,
    end: u64,
}

#[derive(Serialize)]
struct SizeInfo {
    length: u64,
    requests: u64,
}

pub(super) fn run(args: &InfoArgs, print: impl Fn(&str)) -> Result<()> {
    let source = Source::open(&args.trace, &args.input.options())?;
    if !args.json {
        print(&describe(&source));
    }
    let (mut reader, position) = source.reader()?;
    let progress = Progress::new("reading", source.file_bytes());
    let profile = Profile::of(&mut *reader, args.block_size, || progress.show(&position))?;
    drop(progress);
    if profile.requests == 0 {
        return Err(Failure::input(format!("{} holds no requests", source.name()))
            .remedy("name another trace, or its format with --format"));
    }
    let info = Info::new(&source, &profile, args.block_size);
    if args.json {
        print(&serde_json::to_string_pretty(&info).expect("plain data always serialises"));
    } else {
        print(&show(&info));
    }
    Ok(())
}

/// What was detected, before anything else is known: `t.csv.gz: msr, gzip; bytes, times in 100 ns`.
pub(super) fn describe(source: &Source) -> String {
    let mut text = format!("{}: {}", source.name(), source.format().name());
    if source.packing() != Packing::Plain {
        write!(text, ", {}", source.packing().name()).expect("a string takes everything");
    }
    if source.files() > 1 {
        write!(text, ", {} files", source.files()).expect("a string takes everything");
    }
    write!(text, "; {}", source.units()).expect("a string takes everything");
    text
}

impl<'a> Info<'a> {
    fn new(source: &'a Source, profile: &'a Profile, block_bytes: u64) -> Self {
        let (alignment, unique) = (&profile.alignment, profile.touched.count());
        let begun: u64 = alignment.by_sector.iter().sum::<u64>() + alignment.inside_sector;
        let (shift_bytes, shift_aligned_share) = alignment.shift().unzip();
        let mut sizes: Vec<SizeInfo> =
            profile.sizes.iter().map(|(&length, &requests)| SizeInfo { length, requests }).collect();
        sizes.sort_by_key(|size| std::cmp::Reverse(size.requests));
        sizes.truncate(10);
        let volume = |(number, volume): (usize, &'a super::super::profile::Volume)| VolumeInfo {
            number,
            name: &volume.name,
            requests: volume.requests,
            end: volume.end,
        };
        Self {
            trace: source.name(),
            format: source.format().name(),
            packing: source.packing().name(),
            units: source.units(),
            files: source.files(),
            stored_bytes: source.file_bytes(),
            requests: profile.requests,
            reads: profile.reads,
            writes: profile.writes,
            flushes: profile.flushes,
            discards: profile.discards,
            skipped_commands: profile.skipped_commands,
            lost_requests: profile.lost.requests,
            lost_from_ns: profile.lost.times_ns.map(|(from, _)| from),
            lost_to_ns: profile.lost.times_ns.map(|(_, to)| to),
            read_bytes: profile.read_bytes,
            written_bytes: profile.written_bytes,
            discarded_bytes: profile.discarded_bytes,
            first_ns: profile.times_ns.map(|(earliest, _)| earliest),
            last_ns: profile.times_ns.map(|(_, latest)| latest),
            duration_seconds: profile.duration_ns().map(|ns| ns as f64 / 1e9),
            out_of_order: profile.out_of_order,
            volumes: profile.volumes.iter().enumerate().map(volume).collect(),
            size_p50: profile.size_below(0.5),
            size_p90: profile.size_below(0.9),
            size_p99: profile.size_below(0.99),
            size_max: profile.size_below(1.0),
            sizes,
            block_bytes,
            references: profile.references,
            unique_blocks: unique,
            unique_error: profile.touched.error(),
            working_set_bytes: (begun > 0).then(|| unique.saturating_mul(block_bytes)),
            compulsory_share: (profile.references > 0).then(|| unique as f64 / profile.references as f64),
            aligned_share: (begun > 0).then(|| alignment.by_sector[0] as f64 / begun as f64),
            begin_sectors: alignment.by_sector,
            inside_sectors: alignment.inside_sector,
            shift_bytes,
            shift_aligned_share,
            memory_peak_bytes: crate::memory::memory_peak_bytes(),
        }
    }
}

fn show(info: &Info<'_>) -> String {
    let count = |name: &str, count: u64, bytes: u64| {
        let bytes = if bytes > 0 { show_bytes(bytes) } else { String::new() };
        vec![name.to_string(), show_count(count), share(count, info.requests), bytes]
    };
    let rows = vec![
        count("requests", info.requests, info.read_bytes.saturating_add(info.written_bytes)),
        count("reads", info.reads, info.read_bytes),
        count("writes", info.writes, info.written_bytes),
        count("flushes", info.flushes, 0),
        count("discards", info.discards, info.discarded_bytes),
    ];
    let mut text = format!("{}\n", table(&["", "count", "share", "bytes"], rows));
    text.push_str(&times(info));
    text.push_str(&sizes(info));
    text.push_str(&working_set(info));
    text.push_str(&alignment(info));
    text.push_str(&volumes(info));
    if info.skipped_commands > 0 {
        let skipped = show_count(info.skipped_commands);
        writeln!(text, "{skipped} other commands were passed over").expect("a string takes everything");
    }
    if info.lost_requests > 0 {
        writeln!(text, "{}", lost(info)).expect("a string takes everything");
    }
    text.trim_end().to_string()
}

/// What is missing, and where: from the trace's beginning on.
fn lost(info: &Info<'_>) -> String {
    let since = |ns: Option<u64>| {
        let ns = ns.unwrap_or(0).saturating_sub(info.first_ns.unwrap_or(0));
        show_seconds(ns as f64 / 1e9)
    };
    format!(
        "{} requests more were made and are missing, between {} and {} after the first",
        show_count(info.lost_requests),
        since(info.lost_from_ns),
        since(info.lost_to_ns)
    )
}

fn times(info: &Info<'_>) -> String {
    let Some(seconds) = info.duration_seconds else { return "no times\n".into() };
    let rate = if seconds > 0.0 { info.requests as f64 / seconds } else { 0.0 };
    let mut text = format!("{}, {rate:.1} requests a second", show_seconds(seconds));
    if info.out_of_order > 0 {
        let late = show_count(info.out_of_order);
        write!(text, "; {late} stamped before the request ahead of them").expect("a string takes everything");
    }
    text + "\n"
}

fn sizes(info: &Info<'_>) -> String {
    let show = if info.aligned_share.is_some() { show_bytes } else { show_count };
    let points =
        [("half", info.size_p50), ("90 %", info.size_p90), ("99 %", info.size_p99), ("all", info.size_max)];
    let points: Vec<String> =
        points.iter().map(|&(share, size)| format!("{share} up to {}", show(size))).collect();
    format!("sizes: {}\n", points.join(", "))
}

fn working_set(info: &Info<'_>) -> String {
    let Some(compulsory) = info.compulsory_share else { return "no reads and no writes\n".into() };
    let error = match info.unique_error {
        0.0 => String::new(),
        error => format!(" (estimated, standard error {:.2} %)", error * 100.0),
    };
    let blocks = match info.working_set_bytes {
        Some(bytes) => format!("blocks of {}, {}", show_bytes(info.block_bytes), show_bytes(bytes)),
        None => "ids".into(),
    };
    format!(
        "working set: {} {blocks}{error}; of {} references {:.1} % are the first to their block, a miss in any cache\n",
        show_count(info.unique_blocks),
        show_count(info.references),
        compulsory * 100.0
    )
}

fn alignment(info: &Info<'_>) -> String {
    let Some(aligned) = info.aligned_share else { return String::new() };
    let mut text = format!("{:.1} % begin on {}", aligned * 100.0, show_bytes(PAGE_BYTES));
    if let (Some(shift), Some(share)) = (info.shift_bytes, info.shift_aligned_share) {
        let sector = PAGE_BYTES / 512 - shift / 512;
        let percent = share * 100.0;
        write!(
            text,
            "; {percent:.1} % on sector {sector} of 8, as in a partition that starts off a page: --shift {shift} \
             aligns them"
        )
        .expect("a string takes everything");
    }
    text + "\n"
}

fn volumes(info: &Info<'_>) -> String {
    if info.volumes.len() < 2 {
        return String::new();
    }
    let show = if info.aligned_share.is_some() { show_bytes } else { show_count };
    let mut shown: Vec<&VolumeInfo<'_>> = info.volumes.iter().collect();
    shown.sort_by_key(|volume| std::cmp::Reverse(volume.requests));
    let row = |volume: &&VolumeInfo<'_>| {
        let name = if volume.name.is_empty() { "-" } else { volume.name };
        vec![
            format!("{} {name}", volume.number),
            show_count(volume.requests),
            share(volume.requests, info.requests),
            show(volume.end),
        ]
    };
    let rows = shown.iter().take(VOLUMES_SHOWN).map(row).collect();
    let mut text = format!("{}\n", table(&["volume", "requests", "share", "ends at"], rows));
    if info.volumes.len() > VOLUMES_SHOWN {
        let more = show_count((info.volumes.len() - VOLUMES_SHOWN) as u64);
        writeln!(text, "and {more} further volumes").expect("a string takes everything");
    }
    text
}

/// The last part of `terrace trace info --help`.
pub(super) fn json_help() -> String {
    let mut help = String::from("JSON: --json prints one object with these keys, all of them always.\n\n");
    for (keys, text) in KEYS {
        writeln!(help, "  {keys}: {text}").expect("a string takes everything");
    }
    help
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::trace::Options;

    #[test]
    fn every_key_that_is_printed_is_explained_and_every_explained_key_is_printed() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "0,1,512,r,0.1\n").expect("it is ours");
        let source = Source::open(file.path(), &Options::default()).expect("good");
        let (mut reader, _) = source.reader().expect("good");
        let profile = Profile::of(&mut *reader, 4096, || ()).expect("good");
        let json = serde_json::to_value(Info::new(&source, &profile, 4096)).expect("plain data");
        let printed: BTreeSet<String> = json.as_object().expect("an object").keys().cloned().collect();
        let explained: BTreeSet<String> =
            KEYS.iter().flat_map(|(keys, _)| keys.split(", ")).map(String::from).collect();
        assert_eq!(printed, explained);
    }
}

//! What `tune` found: the object that `--json` prints, of which table and page are made.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;

use serde::Serialize;
use terrace::BlockSize;

use super::args::TuneArgs;
use super::bands::CurveErrors;
use super::candidate::{Candidate, World};
use super::choose::{Change, Choice, Constraints, choose};
use super::curves::Curves;
use super::load::{Grid, Recording, Survey};
use super::measured::Measured;
use super::probe;
use super::profile::Profile;
use super::stream::{self, Answer, Counting, More, Question};
use super::surface::{Sizes, Surface, rate_for};
use super::sweep::{Sweep, Variant};
use super::table;
use super::work::Work;
use crate::failure::{Failure, Result};
use crate::replay::Addressing;
use crate::trace::Source;

/// With more first references than this the recording is too short to tell much of large caches.
const COMPULSORY_RATIO_MAX: f64 = 0.5;

/// Nobody wants to buy an SSD again sooner, and most are warranted for longer.
const SHORT_LIFE_YEARS: f64 = 3.0;

/// The keys of `--json`, and what they say.
const KEYS: &[(&str, &str)] = &[
    ("trace, format", "what was read; of a cache that runs its name, and null"),
    (
        "units, volumes",
        "in what its addresses, sizes and times are counted, and how many volumes it has; null of a running cache",
    ),
    (
        "requests, references, unique_blocks",
        "of the trace: requests, blocks they touch, different blocks; null where a running cache does not know",
    ),
    ("bytes_read, bytes_written", "asked for by its requests; null of a running cache"),
    ("lost_requests", "requests that a cache which recorded itself had no room for"),
    ("trace_seconds", "how long it took; null where it has no times"),
    ("block_bytes, shift_bytes", "the unit of caching, and what --shift added to every address"),
    ("method", "exact, sampled, or live: told by a cache that runs"),
    ("sample_rate, samples", "share of blocks in each sample, and how many there are; 1 and 1 when exact"),
    ("world", "latencies in microseconds, prices of a GiB, endurance: what sizes are judged by"),
    ("constraints", "what was asked for; null where nothing was"),
    (
        "recommendation, runner_up, fastest",
        "candidates, or null: ram_bytes and ssd_bytes; index_bytes of RAM that the SSD's index takes, with all that a log may \
         have in mode back-ssd; ram_bytes_total; \
         ram_share, ssd_share, disk_share of reads and their errors (half a 95 % interval); read_mean_us, read_p99_us, \
         write_mean_us; ssd_bytes_written, write_amplification, ssd_bytes_a_day, life_years; price",
    ),
    ("present", "the candidate of the sizes that a running cache has; null of a trace"),
    ("refusal", "why there is no recommendation; else null"),
    ("changes", "what would have to be how many times as much for another answer, and which"),
    ("surface", "every candidate, by ram_bytes and then ssd_bytes; ssd_bytes 0 is without an SSD"),
    (
        "curves",
        "RAM alone: lru and arc as blocks, bytes, miss_ratio of references; knee; compulsory_ratio; null of a running cache",
    ),
    (
        "curve_errors",
        "half of a 95 % interval for each point of both curves, where the trace was too long to be kept whole; null where they \
         are exact, and of a running cache",
    ),
    (
        "profile",
        "request sizes, and windows over the trace's time: working set, footprint, reuse distances in blocks; null of a \
         running cache",
    ),
    ("variants", "other block sizes, and a better shift, at the recommended sizes"),
    (
        "measured",
        "each replay that --measured named: its trace, block_bytes, ram_bytes, ssd_bytes; predicted and measured shares of \
         reads by ram, ssd, disk; predicted_ssd_bytes_written and measured_ssd_bytes_written; predicted_mean_us and \
         measured_mean_us of a read, null where the replay did not know its disk",
    ),
    ("warnings", "what to know before believing any of it"),
    ("uncached_mean_us", "mean latency of reads without any cache"),
    (
        "memory_peak_bytes",
        "the most memory that this took; null of a cache that runs, and where the system does not tell",
    ),
];

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) trace: String,
    pub(crate) format: Option<crate::trace::Format>,
    pub(crate) units: Option<String>,
    pub(crate) volumes: Option<usize>,
    pub(crate) requests: Option<u64>,
    pub(crate) references: u64,
    pub(crate) unique_blocks: Option<u64>,
    pub(crate) bytes_read: Option<u64>,
    pub(crate) bytes_written: Option<u64>,
    pub(crate) lost_requests: u64,
    pub(crate) trace_seconds: Option<f64>,
    pub(crate) block_bytes: u64,
    pub(crate) shift_bytes: u64,
    pub(crate) method: &'static str,
    pub(crate) sample_rate: f64,
    pub(crate) samples: u64,
    pub(crate) world: World,
    pub(crate) constraints: Constraints,
    pub(crate) recommendation: Option<Candidate>,
    pub(crate) runner_up: Option<Candidate>,
    pub(crate) fastest: Option<Candidate>,
    pub(crate) present: Option<Candidate>,
    pub(crate) refusal: Option<String>,
    pub(crate) changes: Vec<Change>,
    pub(crate) surface: Vec<Candidate>,
    pub(crate) curves: Option<Curves>,
    pub(crate) curve_errors: Option<CurveErrors>,
    pub(crate) profile: Option<Profile>,
    pub(crate) variants: Vec<Variant>,
    pub(crate) measured: Vec<Measured>,
    pub(crate) warnings: Vec<String>,
    pub(crate) uncached_mean_us: f64,
    pub(crate) memory_peak_bytes: Option<u64>,
}

impl Report {
    /// The answer in a sentence.
    pub(crate) fn sentence(&self) -> String {
        let Some(taken) = &self.recommendation else {
            return format!("No recommendation: {}.", self.refusal.clone().unwrap_or_default());
        };
        let sizes = sizes(taken.cell.ram_bytes, taken.cell.ssd_bytes);
        let times = self.uncached_mean_us / taken.read_mean_us;
        format!(
            "Take {sizes}: {:.1} % of reads do not wait for the disk, a read takes {} on average, {} without a cache \
             ({times:.1} times as long).",
            (1.0 - taken.cell.disk_share) * 100.0,
            crate::units::show_us(taken.read_mean_us),
            crate::units::show_us(self.uncached_mean_us),
        )
    }
}

/// A pair of sizes in words.
pub(crate) fn sizes(ram_bytes: u64, ssd_bytes: u64) -> String {
    let ram = crate::units::show_bytes(ram_bytes);
    match ssd_bytes {
        0 => format!("{ram} of RAM and no SSD"),
        ssd => format!("{ram} of RAM and {} of SSD", crate::units::show_bytes(ssd)),
    }
}

/// Everything that `args` ask for of `trace`.
pub(super) fn make(trace: &Path, args: &TuneArgs) -> Result<Report> {
    args.check()?;
    let measured = args.measured.iter().map(|path| Measured::read(path)).collect::<Result<_>>()?;
    let work = Work { is_shown: true };
    let source = Source::open(trace, &args.input.options())?;
    let addressing =
        Addressing { block_size: args.block_size, one_block_each: args.ids, writes_as_reads: args.as_reads };
    let grid = Grid { addressing, shift_bytes: 0 };
    let [survey] = Survey::of(&source, &[grid], &work)?;
    announce(&source, &survey);
    if survey.sizes[0].iter().sum::<u64>() == 0 && !args.as_reads {
        return Err(Failure::input(format!("{} has no reads, and sizes are judged by those", source.name()))
            .remedy("take its writes for reads with --as-reads"));
    }
    args.effort.check(survey.references)?;
    let mut world = World::of(args, survey.time_us());
    probe_devices(args, args.block_size, &mut world)?;
    if args.life_years.is_some() && world.trace_days.is_none() {
        return Err(Failure::input("the trace has no times, so --life-years has no days to count")
            .remedy("say with --trace-time how long the recording took"));
    }
    let Found { curves, curve_errors, profile, surface, is_kept } = if args.effort.limits().keep(&survey) {
        whole(args, &source, &grid, &survey, &work)?
    } else {
        streamed(args, &source, &grid, &survey, &work)?
    };
    let constraints = constraints(args);
    let choice = choose(&surface.cells, &world, &constraints);
    let variants = variants(args, &source, grid, &profile, &choice, &work)?;
    let report =
        report(args, &source, &survey, &surface, world, constraints, choice, curves, profile, variants);
    let mut report = Report { volumes: Some(survey.volumes), curve_errors, measured, ..report };
    report.warnings.extend((!is_kept).then(|| not_kept(&report)));
    Ok(report)
}

/// Before anything long begins: whether the trace was understood.
fn announce(source: &Source, survey: &Survey) {
    if std::io::stderr().is_terminal() {
        let seconds = survey.time_us().map(|us| us as f64 / 1e6);
        let said = table::recorded(&source.units(), seconds, survey.volumes);
        let _ = writeln!(std::io::stderr(), "{} ({}): {said}", source.name(), source.format().name());
    }
}

/// What a trace gave.
struct Found {
    curves: Curves,
    curve_errors: Option<CurveErrors>,
    profile: Profile,
    surface: Surface,
    /// It was kept in memory, all of it.
    is_kept: bool,
}

fn whole(args: &TuneArgs, source: &Source, grid: &Grid, survey: &Survey, work: &Work) -> Result<Found> {
    let recording = Recording::load(source, grid, survey, work)?;
    let trace = recording.dense();
    let profile = Profile::of(&trace, &recording, survey);
    let curves = Curves::of(trace, args.block_size, work);
    let sizes = sizes_to_try(args, curves.unique_blocks << args.block_size.shift())?;
    let rate = rate_for(&recording, curves.unique_blocks, &sizes, args.effort);
    let surface = Surface::simulate(&recording, &sizes, rate, work)?;
    Ok(Found { curves, curve_errors: None, profile, surface, is_kept: true })
}

fn streamed(args: &TuneArgs, source: &Source, grid: &Grid, survey: &Survey, work: &Work) -> Result<Found> {
    let sizes = sizes_to_try(args, survey.blocks << args.block_size.shift())?;
    let counting = Counting::new(Question { grid: *grid, survey, sizes: &sizes, has_curves: true })?;
    let Answer { surface, more } = stream::answer(source, vec![counting], work)?.remove(0);
    let More { curves, curve_errors, profile } = more.expect("curves were asked for");
    Ok(Found { curves, curve_errors, profile, surface, is_kept: false })
}

/// What was done with a trace that is too long to be kept.
fn not_kept(report: &Report) -> String {
    let share = report.sample_rate * report.samples as f64 * 100.0;
    let blocks = if share < 100.0 { format!("{share:.2} % of its blocks") } else { "all its blocks".into() };
    format!(
        "The trace is too long to be kept in memory: {blocks} were simulated while it was read, from its beginning to its end."
    )
}

pub(super) fn probe_devices(args: &TuneArgs, block_size: BlockSize, world: &mut World) -> Result<()> {
    for probe in &args.probe {
        let latency = probe::measure(&probe.path, block_size.bytes())?;
        if probe.is_ssd {
            world.ssd_latency = latency;
        } else {
            world.disk_latency = latency;
        }
    }
    Ok(())
}

pub(super) fn constraints(args: &TuneArgs) -> Constraints {
    Constraints {
        budget: args.budget,
        ram_bytes_max: args.ram_max,
        life_years_min: args.life_years,
        read_p99_us_max: args.p99.map(|us| us as f64),
        within_percent: args.within,
    }
}

/// The sizes that were named, or powers of two up to what the trace touches.
fn sizes_to_try(args: &TuneArgs, footprint_bytes: u64) -> Result<Sizes> {
    let block = args.block_size.bytes() as u64;
    let powers = |from: u64, to: u64, most: usize| {
        let all: Vec<u64> =
            (0..50).map(|shift| 1u64 << shift).filter(|size| (from..=to).contains(size)).collect();
        all[all.len().saturating_sub(most)..].to_vec()
    };
    let top = footprint_bytes.next_power_of_two().max(block * 256);
    let mut ram_bytes = if args.ram_sizes.is_empty() {
        powers(block * 128, top.min(args.ram_max.unwrap_or(u64::MAX)), 10)
    } else {
        args.ram_sizes.clone()
    };
    if ram_bytes.is_empty() {
        return Err(Failure::input("--ram-max leaves no size to try")
            .remedy(format!("raise it to {} or more", block * 128)));
    }
    let mut ssd_bytes = if args.ssd_sizes.is_empty() {
        // A log has spare segments: less than that holds hardly anything.
        let least = (block * 1024).max(top >> 6);
        [vec![0], powers(least, top * 2, 8)].concat()
    } else {
        args.ssd_sizes.clone()
    };
    for sizes in [&mut ram_bytes, &mut ssd_bytes] {
        sizes.sort_unstable();
        sizes.dedup();
    }
    Ok(Sizes {
        ram_bytes,
        ssd_bytes,
        ssd_write_budget: args.ssd_write_budget,
        write: args.write.unwrap_or_default(),
    })
}

fn variants(
    args: &TuneArgs,
    source: &Source,
    grid: Grid,
    profile: &Profile,
    choice: &Choice,
    work: &Work,
) -> Result<Vec<Variant>> {
    let Some(taken) = &choice.recommendation else { return Ok(Vec::new()) };
    let size = |bytes: u64| terrace::BlockSize::new(bytes).expect("a power of two in the range");
    let defaults = [4 << 10, 16 << 10, 64 << 10].map(size);
    let mut block_sizes =
        if args.block_sizes.is_empty() { defaults.to_vec() } else { args.block_sizes.clone() };
    block_sizes.push(args.block_size);
    block_sizes.sort_unstable_by_key(|size| size.bytes());
    block_sizes.dedup();
    let sizes = Sizes {
        ram_bytes: vec![taken.cell.ram_bytes],
        ssd_bytes: vec![taken.cell.ssd_bytes],
        ssd_write_budget: args.ssd_write_budget,
        write: args.write.unwrap_or_default(),
    };
    let better_shift = profile.better_shift_bytes;
    Sweep { source, grid, block_sizes: &block_sizes, better_shift, effort: args.effort }.run(&sizes, work)
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the answer")]
fn report(
    args: &TuneArgs,
    source: &Source,
    survey: &Survey,
    surface: &Surface,
    world: World,
    constraints: Constraints,
    choice: Choice,
    curves: Curves,
    profile: Profile,
    variants: Vec<Variant>,
) -> Report {
    let mut report = Report {
        trace: source.name().into(),
        format: Some(source.format()),
        units: Some(source.units()),
        volumes: None,
        requests: Some(survey.requests),
        references: survey.references,
        unique_blocks: Some(curves.unique_blocks),
        bytes_read: Some(survey.bytes[0]),
        bytes_written: Some(survey.bytes[1]),
        lost_requests: survey.lost_requests,
        trace_seconds: survey.time_us().map(|us| us as f64 / 1e6),
        block_bytes: args.block_size.bytes() as u64,
        shift_bytes: source.options().shift_bytes,
        method: if surface.rate < 1.0 { "sampled" } else { "exact" },
        sample_rate: surface.rate,
        samples: surface.samples,
        constraints,
        surface: surface.cells.iter().map(|cell| Candidate::of(cell, &world)).collect(),
        recommendation: choice.recommendation,
        runner_up: choice.runner_up,
        fastest: choice.fastest,
        present: None,
        refusal: choice.refusal,
        changes: choice.changes,
        curves: Some(curves),
        curve_errors: None,
        profile: Some(profile),
        variants,
        measured: Vec::new(),
        warnings: Vec::new(),
        uncached_mean_us: world.uncached_mean_us(),
        memory_peak_bytes: crate::memory::memory_peak_bytes(),
        world,
    };
    report.warnings = warnings(&report);
    report
}

fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(curves) = report.curves.as_ref().filter(|it| it.compulsory_ratio > COMPULSORY_RATIO_MAX) {
        warnings.push(format!(
            "The trace is too short for large caches: {:.0} % of its references are the first to their block, and no cache \
             answers those. A longer recording would show more hits.",
            curves.compulsory_ratio * 100.0
        ));
    }
    if report.lost_requests > 0 {
        warnings.push(format!(
            "{} requests are missing: the cache that recorded itself had no room for them.",
            crate::units::show_count(report.lost_requests)
        ));
    }
    if report.trace_seconds.is_none() && report.world.trace_days.is_none() {
        warnings.push(
            "The trace has no times: bytes a day and years of life are not known. --trace-time says how long it took."
                .into(),
        );
    }
    if report.trace_seconds.is_some_and(|seconds| seconds < 3600.0) {
        warnings.push(
            "The trace is shorter than an hour: what an SSD wears in a day is told from it with little ground.".into(),
        );
    }
    if let Some(years) = report.recommendation.and_then(|taken| taken.life_years)
        && years < SHORT_LIFE_YEARS
        && report.constraints.life_years_min.is_none()
    {
        warnings.push(format!(
            "The SSD that is recommended wears out in {}: --life-years 5 takes sizes that last. A larger drive of which the \
             cache is given only so much lasts longer too, as many times as it is larger.",
            table::show_years(years)
        ));
    }
    if let Some(profile) = &report.profile
        && let Some(shift) = profile.better_shift_bytes
    {
        warnings.push(format!(
            "{:.0} % of requests begin at one place inside a page: --shift {} would let them begin where blocks do.",
            profile.misaligned_share * 100.0,
            shift + report.shift_bytes
        ));
    }
    if report.method == "sampled" {
        warnings.push(format!(
            "Hits are estimated from {} samples of {:.2} % of the blocks; errors are stated. --effort exact simulates all.",
            report.samples,
            report.sample_rate * 100.0
        ));
    }
    warnings
}

/// The last part of `terrace tune --help`.
pub(super) fn json_help() -> String {
    let mut help = String::from("JSON: --json prints one object with these keys, all of them always.\n\n");
    for (key, text) in KEYS {
        writeln!(help, "  {key}: {text}").expect("a string takes everything");
    }
    help.push_str("\nExit codes: 0, also when nothing can be recommended; 2, bad input or environment.");
    help
}

/// The keys that `--help` explains.
#[cfg(test)]
fn explained() -> std::collections::BTreeSet<String> {
    KEYS.iter().flat_map(|(keys, _)| keys.split(", ")).map(String::from).collect()
}

#[cfg(test)]
#[path = "report_tests.rs"]
pub(crate) mod tests;

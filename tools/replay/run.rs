//! A whole replay: with data, or simulated.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use terrace::{Background, Clock, Config, Device, RamSize, Recovery, SsdConfig, SsdSize};

use super::args::{Admit, ReplayArgs};
use super::backing::{disk_model, open_backing};
use super::checker::{Checker, Untouched};
use super::compare;
use super::job::Job;
use super::live::LiveAnswers;
use super::pace::Pace;
use super::places::Places;
use super::predict::Prediction;
use super::report::{FirstRequests, Pass, Report, Setup};
use super::scan::Scan;
use super::session::{Driven, Session};
use super::simulated::simulate;
use crate::failure::{Failure, Result};
use crate::memory::memory_peak_bytes;
use crate::trace::Source;

/// Ten minutes: in an open loop many wait for the few frames that are under way, however long that takes.
const FRAME_WAIT_MS: u64 = 600_000;

/// What there is to tell, and why the run ended early if it did with something to tell.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) failure: Option<Failure>,
}

/// Replays the trace that `args` name.
pub(crate) fn run(args: &ReplayArgs) -> Result<Outcome> {
    args.check()?;
    let job = Job::of(args)?;
    check_times(args, &job)?;
    let setup = setup(args, &Trace::of(&job.source), &job.scan)?;
    if std::io::stderr().is_terminal() {
        // Before anything long begins: whether the trace was understood, and how long it takes.
        let _ = writeln!(std::io::stderr(), "{}", super::table::trace(&setup, job.scan.requests, 1));
    }
    if args.simulate {
        let passes = match args.policy {
            Some(policy) => compare::simulate(policy, args, &job)?,
            None => simulate(args, &job)?.into_iter().map(|simulated| simulated.pass).collect(),
        };
        return Ok(Outcome { report: Report::new(setup, passes, None), failure: None });
    }
    let (passes, answers, failure) = replay(args, &job)?;
    let has_prediction = args.predict && failure.is_none();
    let prediction = has_prediction.then(|| Prediction::of(args, &job, &passes)).transpose()?;
    let mut report = Report::new(setup, passes, prediction);
    answers.tell(&args.live, &mut report)?;
    Ok(Outcome { report, failure })
}

fn check_times(args: &ReplayArgs, job: &Job) -> Result<()> {
    if matches!(args.pace(), Pace::Open { .. }) && !job.scan.has_times {
        return Err(Failure::input(format!(
            "{} has no times, so that no speed can be kept",
            job.source.name()
        ))
        .remedy("leave --speed out"));
    }
    Ok(())
}

/// What a report says of its trace.
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) format: String,
    pub(crate) units: String,
}

impl Trace {
    fn of(source: &Source) -> Self {
        Self { name: source.name().into(), format: source.format().name().into(), units: source.units() }
    }
}

fn replay(args: &ReplayArgs, job: &Job) -> Result<(Vec<Pass>, LiveAnswers, Option<Failure>)> {
    let bytes = |blocks: &Option<u64>| blocks.map(|blocks| blocks.max(1) << args.block_size.shift());
    let volume_bytes: Vec<Option<u64>> = job.scan.volume_blocks.iter().map(bytes).collect();
    let mut places = Places::choose(args, &volume_bytes, job.source.path())?;
    let untouched = if places.starts_as_zeros { Untouched::Zeros } else { Untouched::Unknown };
    let checker = Checker::new(args.seed, untouched, args.block_size.bytes());
    let devices = open_devices(args, &places, &volume_bytes)?;
    let (mut passes, mut answers) = (Vec::new(), LiveAnswers::default());
    for number in 1..=args.passes {
        let config = config(args, &job.scan, &places)?;
        let session = Session::open(&config, &devices, args.write.into(), args.settle, &checker)?;
        let watcher = args.live.watcher(session.cache(), &config)?;
        let title = if args.passes > 1 { format!("pass {number}") } else { "replaying".into() };
        let progress = job.progress(&title);
        let mut driven = session.drive(&job.feeder(&progress)?, args.pace());
        drop(progress);
        match driven.failure.take() {
            Some(failure @ Failure::Input { .. }) => return Err(failure),
            failure @ Some(Failure::WrongBytes(_) | Failure::Damaged(_) | Failure::NotDurable(_)) => {
                // What is on disk may be of use to who looks for the cause.
                places.keep();
                passes.push(pass(driven, &session, Duration::ZERO));
                answers.end_pass(&args.live, session.cache(), watcher.as_ref());
                return Ok((passes, answers, failure));
            }
            None => {}
        }
        let settled_in = session.settle()?;
        passes.push(pass(driven, &session, settled_in));
        answers.end_pass(&args.live, session.cache(), watcher.as_ref());
        session.close()?;
    }
    places.keep();
    Ok((passes, answers, None))
}

/// The backing stores of the volumes that have one.
fn open_devices(
    args: &ReplayArgs,
    places: &Places,
    volume_bytes: &[Option<u64>],
) -> Result<Vec<Option<Arc<dyn Device>>>> {
    let model = disk_model(args);
    let open = |(path, bytes): (&Option<std::path::PathBuf>, &Option<u64>)| {
        let Some((path, &bytes)) = path.as_ref().zip(bytes.as_ref()) else { return Ok(None) };
        open_backing(path, bytes, model).map(Some)
    };
    places.backing.iter().zip(volume_bytes).map(open).collect()
}

pub(crate) fn pass(driven: Driven, session: &Session<'_>, settled_in: Duration) -> Pass {
    let counters = session.counters();
    Pass {
        counters,
        first: driven.first.unwrap_or(FirstRequests { requests: driven.requests, counters }),
        requests: driven.requests,
        wrong_blocks: driven.wrong_blocks,
        took: driven.took,
        settled_in,
        memory_peak_bytes: memory_peak_bytes(),
        timings: Some(driven.timings),
        held_back: driven.held_back,
    }
}

fn config(args: &ReplayArgs, scan: &Scan, places: &Places) -> Result<Config> {
    let mut config = Config::new(args.ram()?);
    config.block_size = args.block_size;
    config.shards = args.shards;
    config.ssd = args.ssd()?.map(|size| ssd_config(args, places.ssd.clone(), size));
    config.ordered_destage = args.ordered;
    if let Some(us) = args.writeback_delay {
        config.writeback_delay_ms = us.div_ceil(1000);
    }
    // What the simulation does between requests, the cache then does when it settles.
    config.background = if args.settle { Background::OnSettle } else { Background::Continuous };
    if matches!(args.pace(), Pace::Open { .. }) {
        config.frame_wait_ms = FRAME_WAIT_MS;
    }
    config.record = args.live.record_config();
    config.clock = if scan.has_times { Clock::Manual(Arc::new(AtomicU64::new(0))) } else { Clock::System };
    Ok(config)
}

pub(super) fn ssd_config(args: &ReplayArgs, path: std::path::PathBuf, size: SsdSize) -> SsdConfig {
    let mut config = SsdConfig::new(path, size);
    config.policy.write_budget_bytes_per_day = args.ssd_write_budget;
    config.policy.admit_unearned = args.ssd_admit == Some(Admit::All);
    // Two runs over one file find the same from the first request on.
    config.recovery = if args.settle { Recovery::BeforeServing } else { Recovery::BesideServing };
    config
}

pub(crate) fn setup(args: &ReplayArgs, trace: &Trace, scan: &Scan) -> Result<Setup> {
    let (ram, ssd) = (args.ram()?, args.ssd()?);
    Ok(Setup {
        trace: trace.name.clone(),
        format: trace.format.clone(),
        units: trace.units.clone(),
        duration_seconds: scan.duration_ns().map(|ns| ns as f64 / 1e9),
        aligning_shift_bytes: scan.alignment.shift().map(|(shift, _)| shift),
        simulated: args.simulate,
        policy: args.policy,
        block_bytes: args.block_size.bytes() as u64,
        ram_bytes: if let RamSize::Bytes(bytes) = ram { Some(bytes) } else { None },
        ram_blocks: if let RamSize::Blocks(blocks) = ram { Some(blocks) } else { None },
        ssd_bytes: if let Some(SsdSize::Bytes(bytes)) = ssd { Some(bytes) } else { None },
        ssd_blocks: if let Some(SsdSize::Blocks(blocks)) = ssd { Some(blocks) } else { None },
        write_mode: args.write,
        ordered: args.ordered,
        threads: args.pace().threads(),
        speed: match args.pace() {
            Pace::Closed { .. } => None,
            Pace::Open { speed, .. } => Some(speed),
        },
        seed: args.seed,
        volumes: scan.volumes(),
        skipped_commands: scan.skipped_commands,
    })
}

//! A whole replay: with data, or simulated.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use terrace::{Background, Clock, Config, Device, RamSize, Recovery, Simulation, SsdConfig, SsdSize};

use super::args::ReplayArgs;
use super::backing::{disk_model, open_backing};
use super::blocks::{Addressing, Feeder, Scan};
use super::checker::{Checker, Untouched};
use super::compare;
use super::content::block_id;
use super::live::LiveAnswers;
use super::places::Places;
use super::report::{Counters, FIRST_REQUESTS, FirstRequests, Pass, Report, Setup};
use super::session::{Driven, Session};
use crate::failure::{Failure, Result};
use crate::memory::memory_peak_bytes;
use crate::progress::Progress;
use crate::trace::{Kind, Source};

/// What there is to tell, and why the run ended early if it did with something to tell.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    pub(crate) failure: Option<Failure>,
}

/// Replays the trace that `args` name.
pub(crate) fn run(args: &ReplayArgs) -> Result<Outcome> {
    args.check()?;
    let path = args.trace.as_deref().expect("clap asks for a trace or the demo");
    let source = Source::open(path, &args.input.options())?;
    let addressing = addressing(args);
    let scan = Scan::of(&source, &addressing, &Progress::new("reading", source.file_bytes()))?;
    let setup = setup(args, &Trace::of(&source), &scan)?;
    if std::io::stderr().is_terminal() {
        // Before anything long begins: whether the trace was understood.
        let _ = writeln!(std::io::stderr(), "{}", super::table::trace(&setup, scan.requests, 1));
    }
    if args.simulate {
        let passes = match args.policy {
            Some(policy) => compare::simulate(policy, args, &source, &addressing, &scan)?,
            None => simulate(args, &source, &addressing, &scan)?,
        };
        return Ok(Outcome { report: Report::new(setup, passes), failure: None });
    }
    let (passes, answers, failure) = replay(args, &source, &addressing, &scan)?;
    let mut report = Report::new(setup, passes);
    answers.tell(&args.live, &mut report)?;
    Ok(Outcome { report, failure })
}

pub(crate) fn addressing(args: &ReplayArgs) -> Addressing {
    Addressing { block_size: args.block_size, one_block_each: args.ids, writes_as_reads: args.as_reads }
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

fn replay(
    args: &ReplayArgs,
    source: &Source,
    addressing: &Addressing,
    scan: &Scan,
) -> Result<(Vec<Pass>, LiveAnswers, Option<Failure>)> {
    let volume_bytes: Vec<u64> =
        scan.volume_blocks.iter().map(|blocks| blocks.max(&1) << args.block_size.shift()).collect();
    let mut places = Places::choose(args, &volume_bytes, source.path())?;
    let untouched = if places.starts_as_zeros { Untouched::Zeros } else { Untouched::Unknown };
    let checker = Checker::new(args.seed, untouched);
    let model = disk_model(args);
    let devices: Vec<Arc<dyn Device>> = places
        .backing
        .iter()
        .zip(&volume_bytes)
        .map(|(path, &bytes)| open_backing(path, bytes, model))
        .collect::<Result<_>>()?;
    let (mut passes, mut answers) = (Vec::new(), LiveAnswers::default());
    for number in 1..=args.passes {
        let config = config(args, scan, &places)?;
        let session = Session::open(&config, &devices, args.write.mode(), args.settle, &checker)?;
        let watcher = args.live.watcher(session.cache(), &config)?;
        let title = if args.passes > 1 { format!("pass {number}") } else { "replaying".into() };
        let progress = Progress::new(&title, source.file_bytes());
        let feeder = Feeder::new(source.reader()?, *addressing, scan.renumbers, &progress);
        let mut driven = session.drive(&feeder, args.threads);
        drop(progress);
        match driven.failure.take() {
            Some(failure @ Failure::Input { .. }) => return Err(failure),
            failure @ Some(Failure::WrongBytes(_) | Failure::Damaged(_)) => {
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
        latencies: Some(driven.latencies),
    }
}

fn simulate(args: &ReplayArgs, source: &Source, addressing: &Addressing, scan: &Scan) -> Result<Vec<Pass>> {
    let mut config = Config::new(args.ram()?);
    config.block_size = args.block_size;
    config.shards = args.shards;
    config.ssd = args.ssd()?.map(|size| ssd_config(args, "simulated".into(), size));
    let mut simulation = Simulation::new(&config)?;
    let mut passes = Vec::new();
    for number in 0..args.passes {
        if number > 0 {
            simulation.reopen();
        }
        let progress = Progress::new("simulating", source.file_bytes());
        let feeder = Feeder::new(source.reader()?, *addressing, scan.renumbers, &progress);
        passes.push(simulate_pieces(&mut simulation, &feeder)?);
    }
    Ok(passes)
}

/// Runs what `feeder` deals out through `simulation`; counts from where it stands.
pub(crate) fn simulate_pieces(simulation: &mut Simulation, feeder: &Feeder<'_>) -> Result<Pass> {
    let before = Counters::of(&simulation.stats());
    let begun = Instant::now();
    let mut requests = 0;
    let mut first = None;
    while let Some(piece) = feeder.next_piece()? {
        let (block, now_us) = (block_id(piece.volume, piece.first), piece.time_us.unwrap_or(0));
        match piece.kind {
            Kind::Read => simulation.read(block, piece.count, now_us),
            Kind::Write => simulation.write(block, piece.count, now_us),
            // What is dirty when is nothing that a simulation knows.
            Kind::Flush | Kind::Discard => {}
        }
        requests += u64::from(piece.is_last);
        if piece.is_last && requests == FIRST_REQUESTS {
            let counters = Counters::of(&simulation.stats()).since(before);
            first = Some(FirstRequests { requests, counters });
        }
    }
    let counters = Counters::of(&simulation.stats()).since(before);
    Ok(Pass {
        counters,
        first: first.unwrap_or(FirstRequests { requests, counters }),
        requests,
        wrong_blocks: 0,
        took: begun.elapsed(),
        settled_in: Duration::ZERO,
        memory_peak_bytes: memory_peak_bytes(),
        latencies: None,
    })
}

fn config(args: &ReplayArgs, scan: &Scan, places: &Places) -> Result<Config> {
    let mut config = Config::new(args.ram()?);
    config.block_size = args.block_size;
    config.shards = args.shards;
    config.ssd = args.ssd()?.map(|size| ssd_config(args, places.ssd.clone(), size));
    config.ordered_destage = args.ordered;
    // What the simulation does between requests, the cache then does when it settles.
    config.background = if args.settle { Background::OnSettle } else { Background::Continuous };
    config.record = args.live.record_config();
    config.clock = if scan.has_times { Clock::Manual(Arc::new(AtomicU64::new(0))) } else { Clock::System };
    Ok(config)
}

fn ssd_config(args: &ReplayArgs, path: std::path::PathBuf, size: SsdSize) -> SsdConfig {
    let mut config = SsdConfig::new(path, size);
    config.policy.write_budget_bytes_per_day = args.ssd_write_budget;
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
        threads: args.threads,
        seed: args.seed,
        volumes: scan.volume_blocks.len(),
        skipped_commands: scan.skipped_commands,
    })
}

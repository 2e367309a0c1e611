//! `terrace replay --demo`: a made-up day at a disk, without and with the SSD tier.
//!
//! Blocks of a working set are read by Zipf's law; it overflows RAM and fits the SSD. Scans over cold blocks pass by.
//! A quarter of the requests write, to a small hot part of the set, as logs and directories do. The first part of the
//! trace warms the cache (every block of the set once, then by the law) and is not measured; the disk is slow only after
//! it, so that filling the cache costs a second and not a minute.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use terrace::tiers::Error;
use terrace::tiers::backing::slow::DiskModel;
use terrace::tiers::device::Identity;
use terrace::{Config, Device, RamSize, SsdConfig, SsdSize, WriteMode};

use super::args::ReplayArgs;
use super::backing::open_backing;
use super::blocks::Addressing;
use super::checker::{Checker, Untouched};
use super::feeder::Feeder;
use super::latency::Percentiles;
use super::pace::Pace;
use super::report::{Measures, Pass, Report};
use super::run::{Trace, pass, setup};
use super::scan::Scan;
use super::session::Session;
use crate::failure::Result;
use crate::mode::Mode;
use crate::progress::Progress;
use crate::table::{share, table};
use crate::trace::command::Ranks;
use crate::trace::{Kind, Request, Span, TraceReader};
use crate::units::{show_bytes, show_count, show_us};

const BLOCK_BYTES: u64 = 16 << 10;
const WORKING_SET_BLOCKS: u64 = 4_000;
const SCANNED_BLOCKS: u64 = 60_000;
const VOLUME_BLOCKS: u64 = WORKING_SET_BLOCKS + SCANNED_BLOCKS;
const RAM_BYTES: u64 = 16 << 20;
const SSD_BYTES: u64 = 256 << 20;
const WARM_REQUESTS: u64 = WORKING_SET_BLOCKS + 12_000;
const WARM_PART_REQUESTS: u64 = 40;
/// So long each run is measured. A closed loop: the faster cache is asked for more in it, and has more to write back.
const MEASURED_TIME: Duration = Duration::from_secs(12);
const THREADS: u32 = 4;
/// The part of the working set that is written to, blocks side by side.
const WRITTEN_BLOCKS: u64 = 512;
/// Zipf's exponent: a block's chance falls with its rank to this power. Measured disk traces lie from 0.6 to 1.
const SKEW: f64 = 0.8;
/// One request in so many begins a scan.
const SCAN_EVERY: u32 = 1_500;
const SCAN_REQUESTS: u64 = 8;
const SCAN_REQUEST_BLOCKS: u64 = 8;

/// Runs the demo; `print` takes what goes to standard output.
pub(super) fn run(args: &ReplayArgs, print: impl Fn(&str)) -> Result<()> {
    let directory = super::places::temporary_directory()?;
    let mut reports = Vec::new();
    for ssd in [None, Some(SSD_BYTES)] {
        let (name, title) = if ssd.is_some() {
            ("two-tiers", "with the SSD tier")
        } else {
            ("one-tier", "without the SSD tier")
        };
        let pass = run_once(args.seed, ssd, &directory.path().join(name), title)?;
        reports.push(report(args, ssd, pass)?);
    }
    let [without, with] = &reports[..] else { unreachable!("there were two runs") };
    if args.json {
        let both = serde_json::json!({ "without_ssd": without, "with_ssd": with });
        print(&serde_json::to_string_pretty(&both).expect("plain data always serialises"));
    } else {
        print(&show(args.seed, &without.total, &with.total));
    }
    Ok(())
}

fn run_once(seed: u64, ssd: Option<u64>, path: &std::path::Path, title: &str) -> Result<Pass> {
    let addressing = addressing();
    let is_slow = Arc::new(AtomicBool::new(false));
    let fast = open_backing(&path.with_extension("disk"), VOLUME_BLOCKS * BLOCK_BYTES, None)?;
    let slow = super::backing::slowed(fast.clone(), DiskModel::HDD);
    let device: Arc<dyn Device> = Arc::new(Switch { fast, slow, is_slow: is_slow.clone() });
    let mut config = Config::new(RamSize::Bytes(RAM_BYTES));
    config.block_size = addressing.block_size;
    // One arm: what waits in the cache is answered in the order of its urgency, what waits in the disk is not.
    config.disk_threads = 1;
    config.ssd = ssd.map(|bytes| SsdConfig::new(path.with_extension("cache"), SsdSize::Bytes(bytes)));
    let checker = Checker::new(seed, Untouched::Zeros, BLOCK_BYTES as usize);
    let session = Session::open(&config, &[Some(device)], WriteMode::Back, false, &checker)?;
    let progress = Progress::timed(title);
    let trace = DemoTrace::new(seed);
    let position = trace.requests.clone();
    let feeder = Feeder::new((Box::new(trace), position), addressing, false, &progress);
    // In parts: no caller in a hurry, so that no block is dropped on its way to the SSD.
    for _ in 0..WARM_REQUESTS / WARM_PART_REQUESTS {
        feeder.limit(WARM_PART_REQUESTS);
        let warmed = session.drive(&feeder, Pace::Closed { threads: THREADS });
        warmed.failure.map_or(Ok(()), Err)?;
        session.settle()?;
    }
    let before = session.counters();
    is_slow.store(true, Ordering::Relaxed);
    feeder.limit_time(MEASURED_TIME);
    let mut driven = session.drive(&feeder, Pace::Closed { threads: THREADS });
    driven.failure.take().map_or(Ok(()), Err)?;
    // What is dirty at the end is no part of the story; at full speed it is gone at once.
    is_slow.store(false, Ordering::Relaxed);
    let mut pass = pass(driven, &session, Duration::ZERO);
    pass.counters = pass.counters.since(before);
    pass.first.counters = pass.first.counters.since(before);
    session.close()?;
    Ok(pass)
}

fn addressing() -> Addressing {
    let block_size = terrace::BlockSize::new(BLOCK_BYTES).expect("a power of two in range");
    Addressing { block_size, one_block_each: false, writes_as_reads: false }
}

fn report(args: &ReplayArgs, ssd: Option<u64>, pass: Pass) -> Result<Report> {
    let scan = Scan { volume_blocks: vec![Some(VOLUME_BLOCKS)], ..Scan::default() };
    let trace = Trace { name: "demo".into(), format: "made from the seed".into(), units: "bytes".into() };
    let mut setup = setup(args, &trace, &scan)?;
    setup.block_bytes = BLOCK_BYTES;
    (setup.ram_bytes, setup.ram_blocks) = (Some(RAM_BYTES), None);
    (setup.ssd_bytes, setup.ssd_blocks) = (ssd, None);
    (setup.write_mode, setup.threads) = (Mode::Back, THREADS);
    Ok(Report::new(setup, vec![pass], None))
}

fn show(seed: u64, without: &Measures, with: &Measures) -> String {
    let both =
        |name: &str, value: &dyn Fn(&Measures) -> String| vec![name.to_string(), value(without), value(with)];
    let time = |measures: &Measures, pick: fn(&Percentiles) -> f64| {
        let all = measures.latency_us.as_ref().and_then(|times| times.all);
        all.map_or("-".into(), |times| show_us(pick(&times)))
    };
    let rows = vec![
        both("requests in 12 s", &|run| show_count(run.requests)),
        both("reads from RAM", &|run| share(run.counters.read_ram_hits, run.counters.reads)),
        both("reads from SSD", &|run| share(run.counters.ssd_hits, run.counters.reads)),
        both("reads from disk", &|run| share(run.counters.disk_reads, run.counters.reads)),
        both("mean latency", &|run| time(run, |times| times.mean)),
        both("p50", &|run| time(run, |times| times.p50)),
        both("p99", &|run| time(run, |times| times.p99)),
        both("requests a second", &|run| format!("{:.0}", run.requests_per_second)),
    ];
    let mean = |measures: &Measures| {
        measures.latency_us.as_ref().and_then(|times| times.all).map_or(0.0, |all| all.mean)
    };
    let p99 = |measures: &Measures| {
        measures.latency_us.as_ref().and_then(|times| times.all).map_or(0.0, |all| all.p99)
    };
    let head = ["", "RAM only", "RAM + SSD"];
    format!(
        "A trace made from seed {seed} (--seed): a working set of {} read by Zipf's law, 25 % writes, a few scans.\n\
         RAM {}, SSD {}, a disk that takes 8 ms to seek, {THREADS} threads; measured after warming up, and every\n\
         byte that was read was checked.\n{}\nThe SSD tier \
         answers {:.1} times as many requests a second: {:.0} instead of {:.0}. The mean wait falls from {}\nto {}, \
         the worst hundredth from {} to {}.",
        show_bytes(WORKING_SET_BLOCKS * BLOCK_BYTES),
        show_bytes(RAM_BYTES),
        show_bytes(SSD_BYTES),
        table(&head, rows),
        with.requests_per_second / without.requests_per_second,
        with.requests_per_second,
        without.requests_per_second,
        show_us(mean(without)),
        show_us(mean(with)),
        show_us(p99(without)),
        show_us(p99(with)),
    )
}

/// The demo's requests, without end; the same for the same seed.
struct DemoTrace {
    random: fastrand::Rng,
    ranks: Ranks,
    scan: Option<(u64, u64)>,
    requests: Arc<std::sync::atomic::AtomicU64>,
}

impl DemoTrace {
    fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let ranks = Ranks::new(WORKING_SET_BLOCKS, SKEW);
        Self { random, ranks, scan: None, requests: Arc::default() }
    }
}

impl TraceReader for DemoTrace {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if number < WORKING_SET_BLOCKS {
            let span = Span::Bytes { offset: number * BLOCK_BYTES, bytes: BLOCK_BYTES };
            return Ok(Some(Request { volume: 0, kind: Kind::Read, span, time_ns: None }));
        }
        if self.scan.is_none() && self.random.u32(..SCAN_EVERY) == 0 {
            let first = self.random.u64(..SCANNED_BLOCKS - SCAN_REQUESTS * SCAN_REQUEST_BLOCKS);
            self.scan = Some((WORKING_SET_BLOCKS + first, SCAN_REQUESTS));
        }
        // A scan takes every other request, so that it disturbs and does not stop the rest.
        let scanned = self.scan.filter(|_| self.random.bool());
        let (kind, first, count) = match scanned {
            Some((first, left)) => {
                self.scan = (left > 1).then_some((first + SCAN_REQUEST_BLOCKS, left - 1));
                (Kind::Read, first, SCAN_REQUEST_BLOCKS)
            }
            None if self.random.u32(..4) == 0 => (Kind::Write, self.random.u64(..WRITTEN_BLOCKS), 1),
            None => (Kind::Read, self.ranks.scattered(&mut self.random), 1),
        };
        let span = Span::Bytes { offset: first * BLOCK_BYTES, bytes: count * BLOCK_BYTES };
        Ok(Some(Request { volume: 0, kind, span, time_ns: None }))
    }
}

/// A device that becomes slow when told to.
struct Switch {
    fast: Arc<dyn Device>,
    slow: Arc<dyn Device>,
    is_slow: Arc<AtomicBool>,
}

impl Switch {
    fn device(&self) -> &dyn Device {
        if self.is_slow.load(Ordering::Relaxed) { &*self.slow } else { &*self.fast }
    }
}

impl Device for Switch {
    fn name(&self) -> String {
        self.fast.name()
    }

    fn len_bytes(&self) -> u64 {
        self.fast.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), Error> {
        self.device().read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<(), Error> {
        self.device().write(offset, buffers)
    }

    fn sync(&self) -> Result<(), Error> {
        self.fast.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        self.fast.discard(offset, bytes)
    }

    fn identity(&self) -> Option<Identity> {
        self.fast.identity()
    }

    fn alignment(&self) -> usize {
        self.fast.alignment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(seed: u64, count: usize) -> Vec<Request> {
        let mut trace = DemoTrace::new(seed);
        let next = || trace.next_request().expect("nothing can fail");
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_trace_and_another_another() {
        assert_eq!(requests(1, 9000), requests(1, 9000));
        assert_ne!(requests(1, 9000), requests(2, 9000));
    }

    #[test]
    fn about_a_quarter_writes_and_every_request_lies_in_the_volume() {
        let requests = requests(1, WORKING_SET_BLOCKS as usize + 20_000);
        let writes = requests.iter().filter(|request| request.kind == Kind::Write).count();
        assert!((4_000..5_500).contains(&writes), "{writes}");
        for request in requests {
            let Span::Bytes { offset, bytes } = request.span else { panic!("the demo has addresses") };
            assert!(offset + bytes <= VOLUME_BLOCKS * BLOCK_BYTES);
        }
    }
}

//! The cache under load: opened, asked by so many threads, settled, closed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use terrace::{Cache, Clock, Config, Device, Volume, WriteMode};

use super::checker::Checker;
use super::feeder::Feeder;
use super::latency::Timings;
use super::pace::{HeldBack, OpenLoop, Pace};
use super::report::{Counters, FIRST_REQUESTS, FirstRequests};
use super::worker::Worker;
use crate::failure::{Failure, Result};

/// Threads share so many histograms: each takes a few MB.
const TIMINGS_MAX: usize = 4;

pub(crate) struct Session<'a> {
    cache: Cache,
    /// By the number that the trace gives them; none for those that nothing is asked of.
    volumes: Vec<Option<Volume>>,
    pub(super) checker: &'a Checker,
    pub(super) clock: Clock,
    pub(super) block_bytes: usize,
    settles: bool,
}

/// What a drive through a trace gave.
pub(crate) struct Driven {
    pub(crate) requests: u64,
    pub(crate) wrong_blocks: u64,
    pub(crate) first: Option<FirstRequests>,
    pub(crate) timings: Timings,
    pub(crate) held_back: HeldBack,
    pub(crate) took: Duration,
    /// Why it ended early.
    pub(crate) failure: Option<Failure>,
}

/// What the threads of one drive share.
pub(super) struct Shared {
    /// None in a closed loop.
    pub(super) open: Option<OpenLoop>,
    stop: AtomicBool,
    requests: AtomicU64,
    pub(super) wrong_blocks: AtomicU64,
    timings: Vec<Mutex<Timings>>,
    first: OnceLock<FirstRequests>,
    failure: Mutex<Option<Failure>>,
}

impl<'a> Session<'a> {
    /// Opens the cache and puts it in front of `devices`, the volumes of the trace by their numbers.
    pub(crate) fn open(
        config: &Config,
        devices: &[Option<Arc<dyn Device>>],
        mode: WriteMode,
        settles: bool,
        checker: &'a Checker,
    ) -> Result<Self> {
        let (clock, block_bytes) = (config.clock.clone(), config.block_size.bytes());
        let cache = Cache::open(config).map_err(cannot_open)?;
        let attach = |(number, device): (usize, &Option<Arc<dyn Device>>)| {
            let Some(device) = device else { return Ok(None) };
            cache.attach(&format!("replay-{number}"), device.clone(), mode).map(Some).map_err(|error| {
                Failure::caused(format!("cannot put the cache in front of {}", device.name()), error)
            })
        };
        let volumes = devices.iter().enumerate().map(attach).collect::<Result<_>>()?;
        Ok(Self { cache, volumes, checker, clock, block_bytes, settles })
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters::of(&self.cache.stats())
    }

    pub(super) fn volume(&self, number: u32) -> &Volume {
        self.volumes[number as usize].as_ref().expect("the scan met every volume that is asked for")
    }

    /// Asks for everything that `feeder` deals out.
    pub(crate) fn drive(&self, feeder: &Feeder<'_>, pace: Pace) -> Driven {
        let threads = pace.threads();
        let shared = Shared::new(pace);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let shared = &shared;
            for index in 0..threads as usize {
                let work = move || {
                    let timings = &shared.timings[index % shared.timings.len()];
                    let run = Worker::new(self, shared, timings, threads).run(feeder);
                    run.unwrap_or_else(|failure| shared.end_with(failure));
                };
                if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, work) {
                    let failure =
                        Failure::caused(format!("cannot start thread {} of {threads}", index + 1), error);
                    shared.end_with(failure.remedy("lower --threads or --in-flight"));
                    break;
                }
            }
            if let Some(open) = &shared.open {
                open.begin();
            }
        });
        shared.driven(begun.elapsed())
    }

    /// A request was answered, all of it.
    pub(super) fn end_request(&self, shared: &Shared) -> Result<()> {
        if self.settles {
            self.cache.settle()?;
        }
        let requests = shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if requests == FIRST_REQUESTS {
            let counters = self.counters();
            // Only the one thread that counted to it comes here.
            let _ = shared.first.set(FirstRequests { requests, counters });
        }
        Ok(())
    }

    /// Waits until everything is durable; gives how long that took.
    pub(crate) fn settle(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.cache.settle()?;
        Ok(begun.elapsed())
    }

    pub(crate) fn close(self) -> Result<()> {
        Ok(self.cache.close()?)
    }
}

/// The library's remedies are in its messages; what the operating system says comes without one.
fn cannot_open(error: terrace::Error) -> Failure {
    use terrace::tiers::Error as Tier;
    let remedy = match &error {
        terrace::Error::Tier(tier) => match &**tier {
            Tier::Path { .. } | Tier::Device { .. } => "name another --ssd-file, or none for a temporary one",
            Tier::Damaged { .. } => "remove the file, or name another --ssd-file",
            _ => "",
        },
        _ => "",
    };
    let failure = Failure::caused("cannot open the cache", error);
    if remedy.is_empty() { failure } else { failure.remedy(remedy) }
}

impl Shared {
    fn new(pace: Pace) -> Self {
        let open = match pace {
            Pace::Closed { .. } => None,
            Pace::Open { speed, in_flight_max } => Some(OpenLoop::new(speed, in_flight_max)),
        };
        let timings = || Mutex::new(Timings::new(open.is_some()));
        let timings = (0..TIMINGS_MAX.min(pace.threads() as usize)).map(|_| timings()).collect();
        Self {
            open,
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            wrong_blocks: AtomicU64::new(0),
            timings,
            first: OnceLock::new(),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The first failure is the one that counts.
    fn end_with(&self, failure: Failure) {
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        if let Some(open) = &self.open {
            open.end();
        }
    }

    fn driven(self, took: Duration) -> Driven {
        let mut timings = self
            .timings
            .into_iter()
            .map(|timings| timings.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut all = timings.next().expect("there is at least one thread");
        timings.for_each(|timings| all.add(&timings));
        Driven {
            requests: self.requests.into_inner(),
            wrong_blocks: self.wrong_blocks.into_inner(),
            first: self.first.into_inner(),
            timings: all,
            held_back: self.open.as_ref().map(OpenLoop::held_back).unwrap_or_default(),
            took,
            failure: self.failure.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

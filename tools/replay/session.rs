//! The cache under load: opened, asked by so many threads, settled, closed.
//!
//! A closed loop: each thread takes the trace's next piece when its last is answered. A write holds its blocks'
//! stripes in the checker from making its content to its acknowledgement; a read holds nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use terrace::{Cache, Clock, Config, Device, Volume, WriteMode};

use super::blocks::{Feeder, Piece};
use super::checker::{Checker, Seen, WrongBlock};
use super::content::block_id;
use super::latency::Latencies;
use super::report::{Counters, FIRST_REQUESTS, FirstRequests};
use crate::failure::{Failure, Result};
use crate::trace::Kind;

pub(crate) struct Session<'a> {
    cache: Cache,
    volumes: Vec<Volume>,
    checker: &'a Checker,
    clock: Clock,
    block_bytes: usize,
    settles: bool,
}

/// What a drive through a trace gave.
pub(crate) struct Driven {
    pub(crate) requests: u64,
    pub(crate) wrong_blocks: u64,
    pub(crate) first: Option<FirstRequests>,
    pub(crate) latencies: Latencies,
    pub(crate) took: Duration,
    /// Why it ended early.
    pub(crate) failure: Option<Failure>,
}

/// What the threads of one drive share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    wrong_blocks: AtomicU64,
    first: OnceLock<FirstRequests>,
    failure: Mutex<Option<Failure>>,
}

impl<'a> Session<'a> {
    /// Opens the cache and puts it in front of `devices`, the volumes of the trace in their order.
    pub(crate) fn open(
        config: &Config,
        devices: &[Arc<dyn Device>],
        mode: WriteMode,
        settles: bool,
        checker: &'a Checker,
    ) -> Result<Self> {
        let (clock, block_bytes) = (config.clock.clone(), config.block_size.bytes());
        let cache = Cache::open(config).map_err(cannot_open)?;
        let attach = |(number, device): (usize, &Arc<dyn Device>)| {
            cache.attach(&format!("replay-{number}"), device.clone(), mode).map_err(|error| {
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

    /// Asks for everything that `feeder` deals out.
    pub(crate) fn drive(&self, feeder: &Feeder<'_>, threads: u32) -> Driven {
        let shared = Shared::default();
        let begun = Instant::now();
        let latencies = std::thread::scope(|scope| {
            let work = || {
                let mut worker = Worker::new(self, &shared);
                worker.run(feeder).unwrap_or_else(|failure| shared.end_with(failure));
                worker.latencies
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut all = Latencies::new();
            for worker in workers {
                all.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all
        });
        Driven {
            requests: shared.requests.into_inner(),
            wrong_blocks: shared.wrong_blocks.into_inner(),
            first: shared.first.into_inner(),
            latencies,
            took: begun.elapsed(),
            failure: shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
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
    /// The first failure is the one that counts.
    fn end_with(&self, failure: Failure) {
        self.stop.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}

/// One thread's buffers and measurements.
struct Worker<'a, 'b> {
    session: &'a Session<'b>,
    shared: &'a Shared,
    buffer: Vec<u8>,
    seen: Vec<Seen>,
    latencies: Latencies,
}

impl<'a, 'b> Worker<'a, 'b> {
    fn new(session: &'a Session<'b>, shared: &'a Shared) -> Self {
        Self { session, shared, buffer: Vec::new(), seen: Vec::new(), latencies: Latencies::new() }
    }

    fn run(&mut self, feeder: &Feeder<'_>) -> Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Some(piece) = feeder.next_piece()? else { break };
            if let (Clock::Manual(clock), Some(now_us)) = (&self.session.clock, piece.time_us) {
                clock.fetch_max(now_us, Ordering::Relaxed);
            }
            let bytes = piece.count as usize * self.session.block_bytes;
            if self.buffer.len() < bytes {
                self.buffer.resize(bytes, 0);
            }
            match piece.kind {
                Kind::Read => self.read(&piece)?,
                Kind::Write => self.write(&piece)?,
                Kind::Flush => self.session.volumes[piece.volume as usize].flush()?,
                // The feeder deals out none.
                Kind::Discard => {}
            }
            if piece.is_last {
                self.end_request()?;
            }
        }
        Ok(())
    }

    fn read(&mut self, piece: &Piece) -> Result<()> {
        let (session, block_bytes) = (self.session, self.session.block_bytes);
        let block = |index: usize| block_id(piece.volume, piece.first + index as u64);
        let count = piece.count as usize;
        self.seen.clear();
        self.seen.extend((0..count).map(|index| session.checker.see(block(index))));
        let buffer = &mut self.buffer[..count * block_bytes];
        let begun = Instant::now();
        let answer = session.volumes[piece.volume as usize].read(piece.first * block_bytes as u64, buffer)?;
        self.latencies.record(Kind::Read, answer, begun.elapsed());
        let mut first_wrong: Option<WrongBlock> = None;
        for (index, bytes) in buffer.chunks_exact(block_bytes).enumerate() {
            if let Err(wrong) = session.checker.check(block(index), self.seen[index], bytes) {
                self.shared.wrong_blocks.fetch_add(1, Ordering::Relaxed);
                first_wrong.get_or_insert(wrong);
            }
        }
        match first_wrong {
            None => Ok(()),
            Some(wrong) => Err(Failure::WrongBytes(wrong.to_string())),
        }
    }

    fn write(&mut self, piece: &Piece) -> Result<()> {
        let (session, block_bytes) = (self.session, self.session.block_bytes);
        let block = |index: usize| block_id(piece.volume, piece.first + index as u64);
        let count = piece.count as usize;
        let buffer = &mut self.buffer[..count * block_bytes];
        let _stripes = session.checker.lock_for_write(block(0), piece.count);
        for (index, bytes) in buffer.chunks_exact_mut(block_bytes).enumerate() {
            session.checker.issue(block(index), bytes);
        }
        let begun = Instant::now();
        let answer =
            session.volumes[piece.volume as usize].write(piece.first * block_bytes as u64, buffer)?;
        self.latencies.record(Kind::Write, answer, begun.elapsed());
        (0..count).for_each(|index| session.checker.commit(block(index)));
        Ok(())
    }

    fn end_request(&self) -> Result<()> {
        if self.session.settles {
            self.session.cache.settle()?;
        }
        let requests = self.shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if requests == FIRST_REQUESTS {
            let counters = self.session.counters();
            // Only the one thread that counted to it comes here.
            let _ = self.shared.first.set(FirstRequests { requests, counters });
        }
        Ok(())
    }
}

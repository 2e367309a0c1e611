//! What more RAM or SSD would do for a cache that runs: its own traffic, sampled, through scaled-down simulations.
//!
//! Source: Waldspurger, Saemundsson, Ahmad and Park, "Cache modeling and optimization using miniature simulations",
//! ATC 2017.
//!
//! ```text
//!   calls ──► Tap (a share of the blocks) ──► one thread ──► for each RAM size, and each of four parts of the sample,
//!                                                            a Simulation over each SSD size
//! ```
//!
//! The parts are samples of their own, told apart by another hash. What is said is their mean, and its error is the half
//! width of the 95 % confidence interval that follows from how they differ, and [`SCALING_ERROR`] for what scaling itself
//! changes.
//!
//! The thread pauses after each batch, and after making simulations, for as long as keeps its share of the time small, and
//! nothing is sampled meanwhile. A batch that would need a pause of more than [`PAUSE_MAX`] is cut: so the share holds over
//! every few seconds, and not in the long run alone. Then it goes on with half as many blocks in half as large simulations,
//! which begin anew; the answer of before stands until they have seen enough. For references that were cut off, or found
//! the queue full, stand those that were not and did not. Ratios are those of the last one to two windows, so that a cold
//! start is forgotten and a change of the traffic shows. References that the sample has too few or too many count as hits in
//! RAM: it is a few blocks that are wanted most of all that are in it or not ("SHARDS-adj").

use std::sync::Arc;
use std::time::Duration;

use terrace_tiers::block::BlockId;

use crate::cache::{Cache, Reference, ReferenceKind, Tap, TapHandle};
use crate::config::{Config, RamSize, SsdConfig, SsdSize, WriteMode};
use crate::error::Result;
use crate::sample::place;
use crate::simulate::Simulation;
use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Instant, Mutex, thread};

/// What is sampled waits so long at most.
const PERIOD: Duration = Duration::from_millis(200);
/// No batch takes so long that it needs a longer pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The RAM of the smallest simulation at the start; an error of about a point in the hit ratio.
const RAM_BLOCKS_WANTED: f64 = 4096.0;
/// No RAM size gets less for all its parts together: its hits would be chance.
const RAM_BLOCKS_MIN: f64 = 128.0;
/// Parts of a sample.
const PARTS: usize = 4;
/// Tells the parts apart; the sample itself has salt 0.
const PART_SALT: u64 = 1;
/// Student's t for a mean of four, two-sided 95 %, over the root of four.
const T_OVER_ROOT: f64 = 3.182 / 2.0;
/// A scaled-down cache has fewer segments, and no requests of many blocks.
const SCALING_ERROR: f64 = 0.005;
/// A window has so many references for each block of the largest simulated RAM.
const WINDOW_TURNS: u64 = 4;
const WINDOW_MIN: u64 = 10_000;
/// The first has the cold start in it.
const WINDOWS_WANTED: u64 = 2;

const RAM_TIMES: [f64; 4] = [0.5, 1.0, 2.0, 4.0];
const SSD_TIMES: [f64; 5] = [0.0, 0.5, 1.0, 2.0, 4.0];
/// SSDs for a cache that has none, in times of its RAM.
const SSD_TIMES_OF_RAM: [f64; 4] = [0.0, 4.0, 16.0, 64.0];

/// The sizes of both tiers, in blocks; without an SSD tier that is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    pub ram_blocks: u64,
    pub ssd_blocks: u64,
}

/// What a size would give: shares of all references, from 0 to 1, that add up to 1 with `disk_ratio`.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Outlook {
    pub size: Size,
    /// References to blocks in RAM, writes among them.
    pub ram_hit_ratio: f64,
    /// Reads that the SSD answers.
    pub ssd_hit_ratio: f64,
    /// Reads that the backing store answers, and writes to blocks that are not in RAM.
    pub disk_ratio: f64,
    /// Half the width of the interval that holds the true ratio in 95 of 100 cases; 0 when all blocks were simulated.
    pub ram_hit_ratio_error: f64,
    pub disk_ratio_error: f64,
    /// Of reads alone: the share that the SSD answers, and that the backing store does.
    pub read_ssd_ratio: f64,
    pub read_disk_ratio: f64,
    pub read_ram_ratio_error: f64,
    pub read_disk_ratio_error: f64,
    /// Blocks written to the SSD for each reference, those that move within it among them.
    pub ssd_writes: f64,
    /// References of the cache that this tells of; so many as the rate says were simulated.
    pub references: u64,
    /// The share of the blocks that were simulated, in so many samples; 1 in 1: all of them.
    pub rate: f64,
    pub samples: u64,
    /// The cache has this size.
    pub is_present: bool,
}

/// How far a watcher is from saying something, in references that were simulated for it: it has to see `wanted` of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OutlookProgress {
    pub seen: u64,
    /// Fewer from when less is simulated on.
    pub wanted: u64,
}

/// Watches a cache; ends when it is dropped. It does not keep the cache open.
pub struct WhatIf {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    stop: Condvar,
}

#[derive(Default)]
struct State {
    is_stopped: bool,
    outlooks: Vec<Outlook>,
    progress: OutlookProgress,
}

impl WhatIf {
    /// Less than a hundredth of one processor.
    pub const BUSY_SHARE: f64 = 0.008;

    /// Begins to watch `cache`, which was opened with `config`. One at a time for a cache: a second takes what the first
    /// would have seen. The simulations take `busy_share_max` of one processor at most, from 0 to 1, such as
    /// [`Self::BUSY_SHARE`].
    ///
    /// # Errors
    /// [`crate::Error::Config`] for sizes that do not work.
    pub fn start(cache: &Cache, config: &Config, busy_share_max: f64) -> Result<Self> {
        let began = Instant::now();
        let miniatures = Miniatures::new(config)?;
        let state = State { progress: miniatures.progress(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), stop: Condvar::new() });
        let mut watcher =
            Watcher { tap: cache.tap(), miniatures, shared: shared.clone(), busy_share_max, taken_at: 0 };
        watcher.listen(watcher.miniatures.rate);
        let worked = began.elapsed();
        let thread = thread::Builder::new().name("terrace-what-if".into()).spawn(move || watcher.run(worked));
        Ok(Self { shared, thread: Some(thread.expect("a thread can be started")) })
    }

    /// What each size would give, by RAM and then by SSD; empty until enough was seen. The size that the cache has is
    /// among them: how far that is from what [`Cache::stats`] counts says how good the others are.
    pub fn outlooks(&self) -> Vec<Outlook> {
        self.shared.state.lock().outlooks.clone()
    }

    /// How much was seen of what [`Self::outlooks`] needs, since the simulations began, or began anew in another size.
    pub fn progress(&self) -> OutlookProgress {
        self.shared.state.lock().progress
    }
}

impl Drop for WhatIf {
    fn drop(&mut self) {
        self.shared.state.lock().is_stopped = true;
        self.shared.stop.notify_all();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

struct Watcher {
    tap: TapHandle,
    miniatures: Miniatures,
    shared: Arc<Shared>,
    busy_share_max: f64,
    /// References that the cache had counted when the last batch was taken.
    taken_at: u64,
}

/// Whether all that was sampled was simulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Batch {
    Whole,
    Cut,
}

impl Watcher {
    /// Until the end; `worked` is what went before.
    fn run(mut self, mut worked: Duration) {
        while self.pause_after(worked) {
            let began = Instant::now();
            let Some(batch) = self.take_batch(began + PAUSE_MAX.mul_f64(self.busy_share_max)) else { return };
            self.miniatures.turn_window();
            if self.miniatures.has_seen_enough() {
                self.shared.state.lock().outlooks = self.miniatures.outlooks();
            }
            if batch == Batch::Cut {
                self.listen(0.0);
                self.miniatures.halve();
            }
            self.shared.state.lock().progress = self.miniatures.progress();
            worked = began.elapsed();
        }
        self.listen(0.0);
    }

    /// Waits for as long as keeps the share small, listening for the last [`PERIOD`] of it; false when it is time to end.
    fn pause_after(&mut self, worked: Duration) -> bool {
        let pause = worked.div_f64(self.busy_share_max).saturating_sub(PERIOD);
        if !pause.is_zero() {
            self.listen(0.0);
            if !self.wait(pause) {
                return false;
            }
            self.listen(self.miniatures.rate);
        }
        self.wait(PERIOD)
    }

    /// False when it is time to end.
    fn wait(&self, length: Duration) -> bool {
        let until = Instant::now() + length;
        let mut state = self.shared.state.lock();
        while !state.is_stopped && Instant::now() < until {
            self.shared.stop.wait_until(&mut state, until);
        }
        !state.is_stopped
    }

    fn listen(&mut self, rate: f64) {
        let listen = |tap: &Tap, total| {
            tap.set_rate(rate);
            total
        };
        self.taken_at = self.tap.with(listen).unwrap_or(0);
    }

    /// Simulates what was sampled, and cuts it off at `until`; none when the cache is gone.
    fn take_batch(&mut self, until: Instant) -> Option<Batch> {
        let Self { tap, miniatures, taken_at, .. } = self;
        tap.with(|tap, total| {
            // No more than were there with `total`; others come meanwhile.
            let sampled = std::iter::from_fn(|| tap.next()).take(tap.len());
            let is_complete = tap.take_dropped() == 0;
            let batch = miniatures
                .take(sampled, is_complete.then_some(total - *taken_at), || Instant::now() >= until);
            *taken_at = total;
            batch
        })
    }
}

/// The simulations of all sizes at one rate.
struct Miniatures {
    config: Config,
    rate: f64,
    ssd_blocks: Vec<u64>,
    rams: Vec<Ram>,
    seen: u64,
    window: u64,
    /// `seen` when the present window began, and how many windows there were before it.
    window_began: u64,
    windows: u64,
    /// References to all blocks, sampled or not, while the sample was taken.
    total: u64,
    /// `total` at the begin of the window before this one, and of this one.
    totals: [u64; 2],
}

/// One RAM size over all SSD sizes.
struct Ram {
    blocks: u64,
    /// One when all blocks are simulated, else [`PARTS`].
    parts: Vec<Part>,
}

/// A part of the sample, by one simulation.
struct Part {
    simulation: Simulation,
    /// Counts at the begin of the window before this one, and of this one, by SSD.
    marks: [Vec<Counts>; 2],
}

#[derive(Clone, Copy, Default)]
struct Counts {
    references: u64,
    ram_hits: u64,
    reads: u64,
    ssd_hits: u64,
    disk_reads: u64,
    ssd_writes: u64,
}

/// What the counts of one part come to; not yet cut off at 0 and 1.
#[derive(Clone, Copy)]
struct Ratios {
    ram: f64,
    ssd: f64,
    read_ssd: f64,
    read_disk: f64,
    ssd_writes: f64,
}

impl Miniatures {
    fn new(config: &Config) -> Result<Self> {
        let ram_blocks = f64::from(config.ram_layout()?.capacity);
        Self::at_rate(config, (RAM_BLOCKS_WANTED / (ram_blocks * RAM_TIMES[0])).min(1.0))
    }

    /// Begins anew with half of the blocks, unless simulations of half the size would say nothing.
    fn halve(&mut self) {
        let smallest = self.rams[0].blocks as f64 * self.rate / 2.0;
        if smallest >= RAM_BLOCKS_MIN
            && let Ok(halved) = Self::at_rate(&self.config, self.rate / 2.0)
        {
            *self = halved;
        }
    }

    fn at_rate(config: &Config, rate: f64) -> Result<Self> {
        let ram_blocks = u64::from(config.ram_layout()?.capacity);
        let ssd_blocks: Vec<u64> = match &config.ssd {
            Some(ssd) => {
                let has = ssd.geometry_without_file(config.block_size)?.capacity_blocks();
                SSD_TIMES.iter().map(|times| (has as f64 * times) as u64).collect()
            }
            None => SSD_TIMES_OF_RAM.iter().map(|times| (ram_blocks as f64 * times) as u64).collect(),
        };
        let parts = if rate < 1.0 { PARTS } else { 1 };
        let rams = RAM_TIMES.iter().map(|times| {
            let blocks = (ram_blocks as f64 * times) as u64;
            let part = |_| {
                let nothing = || vec![Counts::default(); ssd_blocks.len()];
                let simulation = scaled(config, blocks, &ssd_blocks, rate / parts as f64)?;
                Ok(Part { simulation, marks: [nothing(), nothing()] })
            };
            Ok(Ram { blocks, parts: (0..parts).map(part).collect::<Result<_>>()? })
        });
        let rams = rams.collect::<Result<Vec<_>>>()?;
        let largest = rams.last().map_or(0.0, |ram| ram.blocks as f64 * rate);
        let window = (largest as u64 * WINDOW_TURNS).max(WINDOW_MIN);
        Ok(Self {
            config: config.clone(),
            rate,
            ssd_blocks,
            rams,
            seen: 0,
            window,
            window_began: 0,
            windows: 0,
            total: 0,
            totals: [0; 2],
        })
    }

    /// Simulates what was sampled of `of` references, or of as many as the rate says, until `is_time`, which is asked after
    /// each.
    fn take(
        &mut self,
        sampled: impl Iterator<Item = Reference>,
        of: Option<u64>,
        mut is_time: impl FnMut() -> bool,
    ) -> Batch {
        let (seen_before, mut sampled) = (self.seen, sampled.peekable());
        let mut batch = Batch::Whole;
        while let Some(reference) = sampled.next() {
            self.reference(reference);
            if is_time() && sampled.peek().is_some() {
                batch = Batch::Cut;
                break;
            }
        }
        let of = of.filter(|_| batch == Batch::Whole);
        self.total += of.unwrap_or(((self.seen - seen_before) as f64 / self.rate) as u64);
        batch
    }

    fn reference(&mut self, Reference { block, kind }: Reference) {
        let (now_us, whole) = (self.config.clock.now_us(), 0..self.config.block_size.sectors() as u64);
        for ram in &mut self.rams {
            let part = part_of(block, ram.parts.len());
            let simulation = &mut ram.parts[part].simulation;
            match kind {
                ReferenceKind::Read => simulation.read(block, 1, now_us),
                ReferenceKind::Write => simulation.write(block, 1, now_us),
                ReferenceKind::Pass => simulation.write_in(WriteMode::Around, block, whole.clone(), now_us),
            }
        }
        self.seen += 1;
    }

    /// Begins a new window when this one was long enough.
    fn turn_window(&mut self) {
        if self.seen - self.window_began < self.window {
            return;
        }
        (self.window_began, self.windows) = (self.seen, self.windows + 1);
        self.totals = [self.totals[1], self.total];
        for part in self.rams.iter_mut().flat_map(|ram| &mut ram.parts) {
            let now = self.ssd_blocks.iter().enumerate().map(|(index, &blocks)| part.counts(index, blocks));
            let now = now.collect();
            part.marks = [std::mem::take(&mut part.marks[1]), now];
        }
    }

    /// Whether the cold start is behind.
    fn has_seen_enough(&self) -> bool {
        self.windows >= WINDOWS_WANTED
    }

    fn progress(&self) -> OutlookProgress {
        let windows_left = WINDOWS_WANTED.saturating_sub(self.windows);
        OutlookProgress { seen: self.seen, wanted: self.window_began + windows_left * self.window }
    }

    fn outlooks(&self) -> Vec<Outlook> {
        let own = if self.config.ssd.is_some() {
            SSD_TIMES.iter().position(|&times| times == 1.0)
        } else {
            Some(0)
        };
        let own_ram = RAM_TIMES.iter().position(|&times| times == 1.0).map(|index| self.rams[index].blocks);
        let is_present = |ram: &Ram, index: usize| Some(index) == own && Some(ram.blocks) == own_ram;
        let of = |ram: &Ram, index: usize| {
            let references = self.total - self.totals[0];
            let expected = references as f64 * self.rate / ram.parts.len() as f64;
            let of_part = |part: &Part| part.ratios(index, self.ssd_blocks[index], expected);
            let parts: Vec<Ratios> = ram.parts.iter().map(of_part).collect();
            let mean = |of: &dyn Fn(&Ratios) -> f64| mean(&parts, of);
            let ram_hit_ratio = mean(&|part| part.ram).clamp(0.0, 1.0);
            let ssd_hit_ratio = mean(&|part| part.ssd).clamp(0.0, 1.0 - ram_hit_ratio);
            Outlook {
                size: Size { ram_blocks: ram.blocks, ssd_blocks: self.ssd_blocks[index] },
                ram_hit_ratio,
                ssd_hit_ratio,
                disk_ratio: 1.0 - ram_hit_ratio - ssd_hit_ratio,
                ram_hit_ratio_error: error(&parts, &|part| part.ram),
                disk_ratio_error: error(&parts, &|part| part.ram + part.ssd),
                read_ssd_ratio: mean(&|part| part.read_ssd).clamp(0.0, 1.0),
                read_disk_ratio: mean(&|part| part.read_disk).clamp(0.0, 1.0),
                read_ram_ratio_error: error(&parts, &|part| part.read_ssd + part.read_disk),
                read_disk_ratio_error: error(&parts, &|part| part.read_disk),
                ssd_writes: mean(&|part| part.ssd_writes),
                references,
                rate: self.rate,
                samples: ram.parts.len() as u64,
                is_present: is_present(ram, index),
            }
        };
        let all =
            self.rams.iter().flat_map(|ram| (0..self.ssd_blocks.len()).map(move |index| of(ram, index)));
        all.collect()
    }
}

/// Which of `parts` has `block`.
fn part_of(block: BlockId, parts: usize) -> usize {
    ((u128::from(place(block, PART_SALT)) * parts as u128) >> 64) as usize
}

impl Part {
    /// What was counted over the SSD of `ssd_blocks` blocks, the one with this index.
    fn counts(&self, index: usize, ssd_blocks: u64) -> Counts {
        let stats = self.simulation.stats_over(index);
        let (references, ram_hits, reads) = (stats.references, stats.ram_hits, stats.reads);
        let ssd = ssd_blocks > 0;
        Counts {
            references,
            ram_hits,
            reads,
            ssd_hits: if ssd { stats.read_ssd_hits } else { 0 },
            // Without an SSD what it would have answered comes from the disk.
            disk_reads: if ssd { stats.disk_reads } else { stats.disk_reads + stats.read_ssd_hits },
            ssd_writes: if ssd { stats.ssd.blocks_written } else { 0 },
        }
    }

    /// Since the window before this one began; the part should have had `expected` references.
    fn ratios(&self, index: usize, ssd_blocks: u64, expected: f64) -> Ratios {
        let (now, then) = (self.counts(index, ssd_blocks), self.marks[0][index]);
        let since = |of: fn(&Counts) -> u64| (of(&now) - of(&then)) as f64;
        let references = since(|counts| counts.references);
        let missing = expected - references;
        // As many of what is missing, or too much, are reads as of the rest.
        let reads = since(|counts| counts.reads) * expected / references.max(1.0);
        let (of_all, of_reads) =
            (|count: f64| count / expected.max(1.0), |count: f64| count / reads.max(1.0));
        Ratios {
            ram: of_all(since(|counts| counts.ram_hits) + missing),
            ssd: of_all(since(|counts| counts.ssd_hits)),
            read_ssd: of_reads(since(|counts| counts.ssd_hits)),
            read_disk: of_reads(since(|counts| counts.disk_reads)),
            ssd_writes: of_all(since(|counts| counts.ssd_writes)),
        }
    }
}

fn mean(parts: &[Ratios], of: &dyn Fn(&Ratios) -> f64) -> f64 {
    parts.iter().map(of).sum::<f64>() / parts.len() as f64
}

/// See the head of this file; 0 when all was simulated.
fn error(parts: &[Ratios], of: &dyn Fn(&Ratios) -> f64) -> f64 {
    if parts.len() == 1 {
        return 0.0;
    }
    let mean = mean(parts, of);
    let squares: f64 = parts.iter().map(|part| (of(part) - mean).powi(2)).sum();
    T_OVER_ROOT * (squares / (parts.len() as f64 - 1.0)).sqrt() + SCALING_ERROR
}

/// A simulation of `ram_blocks` over each of `ssd_blocks`, all scaled by `rate`. What stands for no SSD has the least
/// that there is, and nobody looks at it.
fn scaled(config: &Config, ram_blocks: u64, ssd_blocks: &[u64], rate: f64) -> Result<Simulation> {
    let part = |blocks: u64| (blocks as f64 * rate).round() as u64;
    let ram = RamSize::Blocks(part(ram_blocks).max(8));
    let small = Config { ram, shards: Some(1), slack_blocks: None, ssd: None, ..config.clone() };
    let ssds: Vec<SsdConfig> = ssd_blocks
        .iter()
        .map(|&blocks| {
            let mut ssd = SsdConfig::new("", SsdSize::Blocks(part(blocks).max(1)));
            ssd.policy = config.ssd.as_ref().map_or_else(Default::default, |ssd| ssd.policy.clone());
            let budget = &mut ssd.policy.write_budget_bytes_per_day;
            *budget = budget.map(part);
            ssd
        })
        .collect();
    Simulation::over(&small, &ssds)
}

#[cfg(test)]
mod tests;

//! Cuts the power at every place of a run, with every pattern of loss, and has each checked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use terrace::Device;
use terrace::tiers::testing::{Cut, Loss, MemoryDevice};

use super::actor::{Actor, Opened, Stage, THREADS};
use super::check::{Survivor, recover, without_panic};
use super::history::{Known, Life};
use super::script::Script;

/// Every so many crash points, what comes after one is a life of its own, whose power is cut again.
const POINTS_A_SECOND_LIFE: u64 = 80;
/// Steps of a second life, after everything was read.
const STEPS_OF_A_SECOND_LIFE: usize = 6;
/// Crash points in a second life.
const POINTS_IN_A_SECOND_LIFE: u64 = 40;

/// A script with a seed, which decides what its steps are.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) script: &'static Script,
    pub(crate) seed: u64,
    /// Only the cuts at this position.
    pub(crate) position: Option<usize>,
    /// About so many crash points, spread over the run; all there are when that is fewer.
    pub(crate) points: u64,
    /// Whoever comes after a crash finds an SSD and marks that have nothing.
    pub(crate) forgets: bool,
}

/// What was checked.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    pub(crate) points: u64,
    pub(crate) second_lives: u64,
    /// Blocks that were read from the SSD after a crash.
    pub(crate) ssd_blocks: u64,
    /// Blocks that were kept when their segments were emptied.
    pub(crate) blocks_reinserted: u64,
    pub(crate) blocks_evicted: u64,
    pub(crate) voids: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.points += other.points;
        self.second_lives += other.second_lives;
        self.ssd_blocks += other.ssd_blocks;
        self.blocks_reinserted += other.blocks_reinserted;
        self.blocks_evicted += other.blocks_evicted;
        self.voids += other.voids;
    }
}

/// Where the power was cut, and how.
#[derive(Clone, Copy, Debug)]
struct Point {
    position: usize,
    loss: Loss,
}

/// A broken promise.
pub(crate) struct Violation {
    run: Run,
    /// None when it happened while the power was on; two when the power failed twice.
    points: Vec<Point>,
    what: String,
    /// What was done right before.
    recent: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { script, seed, .. } = self.run;
        writeln!(f, "script {:?}, seed {seed}: {}", script.name, self.what)?;
        for (index, Point { position, loss }) in self.points.iter().enumerate() {
            writeln!(f, "  power failure {}: after event {position}, loss {loss:?}", index + 1)?;
        }
        for line in &self.recent {
            writeln!(f, "    {line}")?;
        }
        let position = self.points.first().map_or(String::new(), |point| format!(":{}", point.position));
        writeln!(
            f,
            "  again, until it shows: TERRACE_CRASH_ONLY={:?}",
            format!("{}:{seed}{position}", script.name)
        )
    }
}

impl Run {
    /// Makes the run on devices that `stand_in` may put others in front of, and checks what is left of each cut.
    pub(crate) fn sweep(
        &self,
        stand_in: &dyn Fn(Stage) -> Stage,
        tally: &mut Tally,
    ) -> Result<(), Box<Violation>> {
        let life = self.first_life(stand_in, tally).map_err(|what| self.violation(vec![], what, vec![]))?;
        let life = Arc::new(life);
        tally.runs += 1;
        let stops = count_points(&life);
        let share = (self.points as f64 / stops.max(1) as f64).min(1.0);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (mut cut, mut known) = (life.marks.journal.first_cut(), life.known());
        loop {
            life.learn(&mut known, &cut);
            for &loss in losses(&cut) {
                let is_wanted =
                    self.position.map_or_else(|| random.f64() < share, |only| only == cut.position());
                if !is_wanted {
                    continue;
                }
                let point = Point { position: cut.position(), loss };
                tally.points += 1;
                let is_first_of_two = random.u64(..POINTS_A_SECOND_LIFE) == 0 || self.position.is_some();
                let result = if is_first_of_two {
                    self.two_crashes(&cut, point, &life, &known, tally)
                } else {
                    self.one_crash(&cut, point, &life, &known, tally)
                };
                result.map_err(|(points, what, recent)| self.violation(points, what, recent))?;
            }
            if !cut.advance() {
                return Ok(());
            }
        }
    }

    fn violation(&self, points: Vec<Point>, what: String, recent: Vec<String>) -> Box<Violation> {
        Box::new(Violation { run: *self, points, what, recent })
    }

    fn first_life(&self, stand_in: &dyn Fn(Stage) -> Stage, tally: &mut Tally) -> Result<Life, String> {
        let script = self.script;
        let life = Life::first(script.modes.len(), script.blocks * super::actor::BLOCK_SECTORS);
        let stage = stand_in(Stage::recorded(script, &life.marks));
        let opened = Opened::new(script, &stage, THREADS)
            .map_err(|error| format!("a new one does not open: {error}"))?;
        let mut random = fastrand::Rng::with_seed(self.seed);
        let closes = random.u8(..4) > 0;
        let mut actor = Actor::new(script, stage, life, opened, random);
        without_panic(|| actor.act(script.steps))?;
        if closes {
            actor.close().map_err(|error| format!("it does not close: {error}"))?;
        } else {
            actor.note_stats();
        }
        tally.add(&actor.tally);
        Ok(actor.life)
    }

    fn one_crash(&self, cut: &Cut, point: Point, life: &Life, known: &Known, tally: &mut Tally) -> Checked {
        let images = self.images(cut, point);
        let survivor = recover(self.script, images, life, known, None)
            .map_err(|what| (vec![point], what, cut.recent(RECENT)))?;
        tally.ssd_blocks += survivor.ssd_blocks;
        Ok(())
    }

    /// What comes back after the crash reads everything and does a few steps, and its power fails too.
    fn two_crashes(
        &self,
        cut: &Cut,
        point: Point,
        life: &Arc<Life>,
        known: &Known,
        tally: &mut Tally,
    ) -> Checked {
        tally.second_lives += 1;
        let images = self.images(cut, point);
        let second = self
            .second_life(images, life, known, self.loss_seed(point), tally)
            .map_err(|what| (vec![point], what, cut.recent(RECENT)))?;
        let share = POINTS_IN_A_SECOND_LIFE as f64 / count_points(&second).max(1) as f64;
        let mut random = fastrand::Rng::with_seed(self.loss_seed(point));
        let (mut cut, mut known) = (second.marks.journal.first_cut(), second.known());
        loop {
            second.learn(&mut known, &cut);
            for &loss in losses(&cut) {
                if random.f64() >= share {
                    continue;
                }
                tally.points += 1;
                let again = Point { position: cut.position(), loss };
                self.one_crash(&cut, again, &second, &known, tally)
                    .map_err(|(_, what, recent)| (vec![point, again], what, recent))?;
            }
            if !cut.advance() {
                return Ok(());
            }
        }
    }

    fn second_life(
        &self,
        images: Vec<MemoryDevice>,
        earlier: &Arc<Life>,
        known: &Known,
        seed: u64,
        tally: &mut Tally,
    ) -> Result<Life, String> {
        let script = self.script;
        // Above all numbers of the first life.
        let number = 1 << 32;
        let mut life = Life::after(earlier, known, number);
        let survivor = recover(script, images, earlier, known, Some(&life.marks))?;
        let Survivor { stage, opened, found, ssd_blocks } = survivor;
        tally.ssd_blocks += ssd_blocks;
        life.see(&found);
        let mut random = fastrand::Rng::with_seed(seed);
        let (steps, closes) = (random.usize(..=STEPS_OF_A_SECOND_LIFE), random.bool());
        let mut actor = Actor::new(script, stage, life, opened, random);
        actor.number = number;
        without_panic(|| actor.act(steps)).map_err(|what| format!("after a crash: {what}"))?;
        if closes {
            actor.close().map_err(|error| format!("after a crash it does not close: {error}"))?;
        }
        Ok(actor.life)
    }

    /// What each device holds then: the SSD, the disks, their marks.
    fn images(&self, cut: &Cut, point: Point) -> Vec<MemoryDevice> {
        let mut images = cut.images(point.loss, self.loss_seed(point));
        if self.forgets {
            let disks = 1..=self.script.modes.len();
            let emptied = images.iter_mut().enumerate().filter(|(index, _)| !disks.contains(index));
            emptied.for_each(|(_, device)| *device = MemoryDevice::new(device.len_bytes()));
        }
        images
    }

    /// What is lost at a point does not depend on what was checked before it.
    fn loss_seed(&self, point: Point) -> u64 {
        let mixed = (self.seed ^ point.position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29 ^ point.loss as u64
    }
}

/// Nothing, or where the power failed, what is wrong and what was done before.
type Checked = Result<(), (Vec<Point>, String, Vec<String>)>;

/// Events that a violation shows.
const RECENT: usize = 24;

/// The losses that differ at this cut.
fn losses(cut: &Cut) -> &'static [Loss] {
    if cut.unsettled_count() == 0 { &[Loss::All] } else { &Loss::ALL }
}

fn count_points(life: &Life) -> usize {
    let mut cut = life.marks.journal.first_cut();
    let mut points = losses(&cut).len();
    while cut.advance() {
        points += losses(&cut).len();
    }
    points
}

/// What all threads of a sweep share.
#[derive(Default)]
struct Shared {
    points: AtomicU64,
    runs: AtomicU64,
    is_over: AtomicBool,
}

/// Sweeps the runs that `run` gives for 0, 1, ... on two threads, until `wanted` crash points are checked or one fails.
pub(crate) fn sweep(wanted: u64, run: impl Fn(u64) -> Run + Sync) -> (Tally, Vec<Violation>) {
    let shared = Shared::default();
    let work = || {
        let (mut tally, mut violations) = (Tally::default(), Vec::new());
        while shared.points.load(Ordering::Relaxed) < wanted && !shared.is_over.load(Ordering::Relaxed) {
            let before = tally.points;
            let run = run(shared.runs.fetch_add(1, Ordering::Relaxed));
            if let Err(violation) = run.sweep(&|stage| stage, &mut tally) {
                shared.is_over.store(true, Ordering::Relaxed);
                violations.push(*violation);
            }
            shared.points.fetch_add(tally.points - before, Ordering::Relaxed);
        }
        (tally, violations)
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        let mut all = (Tally::default(), Vec::new());
        for thread in threads {
            let (tally, violations) = thread.join().expect("a check that panics is a violation");
            all.0.add(&tally);
            all.1.extend(violations);
        }
        all
    })
}

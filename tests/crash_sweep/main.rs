//! The power fails after every single operation on any device: what was promised is there, and nothing old comes back.
//!
//! A [`script::Script`] is run once on a real cache over recorded devices (`actor`), which tell what they hold after a
//! power failure at any place of the run. For every place and every pattern of loss (`sweep`) a new cache is opened on
//! that and read (`check`), and an oracle (`history`) says of each sector of 512 bytes whether it may be so:
//!
//! 1. It is the last value that was flushed, or one written later. Of a volume with a log so is each block.
//! 2. What was read after a crash stays until it is overwritten: a part of the runs goes on after the crash and is cut
//!    again.
//! 3. Where the log goes below epoch by epoch, the backing store alone is what some flush left, with a part of what came
//!    until the next.
//! 4. In the modes that write below, the backing store alone holds to 1, and no copy above it differs from it.
//!
//! | variable                | meaning                                                                          |
//! |-------------------------|----------------------------------------------------------------------------------|
//! | `TERRACE_CRASH_POINTS`  | how many; 100,000 in release mode, fewer in debug mode                             |
//! | `TERRACE_SEED`          | the seed of the first run                                                         |
//! | `TERRACE_CRASH_ONLY`    | `script`, `script:seed` or `script:seed:position`: only that, again and again       |

mod actor;
mod broken;
mod check;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod history;
mod script;
mod scripts;
mod sweep;

use std::sync::Mutex;

use broken::{BROKEN, Broken, Flaw, WITHSTOOD};
use script::{Script, Step, outlives_process};
use scripts::SCRIPTS;
use sweep::{Run, Tally, sweep};

fn points_wanted() -> u64 {
    match std::env::var("TERRACE_CRASH_POINTS") {
        Ok(points) => points.parse().expect("TERRACE_CRASH_POINTS is a number"),
        Err(_) if cfg!(debug_assertions) => 1500,
        Err(_) => 100_000,
    }
}

/// What `TERRACE_CRASH_ONLY` names.
struct Only {
    script: &'static Script,
    seed: Option<u64>,
    position: Option<usize>,
}

fn only_run() -> Option<Only> {
    let only = std::env::var("TERRACE_CRASH_ONLY").ok()?;
    let mut parts = only.split(':');
    let script = script_called(parts.next()?);
    let seed = parts.next().map(|seed| seed.parse().expect("a seed is a number"));
    let position = parts.next().map(|position| position.parse().expect("a position is a number"));
    Some(Only { script, seed, position })
}

fn script_called(name: &str) -> &'static Script {
    SCRIPTS.iter().find(|script| script.name == name).expect("a script of this name")
}

/// Held while broken devices are swept: what the sweep found comes last.
static SWEEPING_BROKEN: Mutex<()> = Mutex::new(());

#[test]
#[expect(clippy::print_stdout, reason = "the sweep says what it did")]
fn what_was_promised_survives_every_power_failure() {
    let (wanted, first_seed, only) = (points_wanted(), common::seed(), only_run());
    let scripts = SCRIPTS.len() as u64;
    let (tally, violations) = sweep(wanted, |number| {
        let seed = first_seed.wrapping_add(number);
        match &only {
            Some(Only { script, seed: only_seed, position }) => Run {
                script,
                seed: only_seed.unwrap_or(seed),
                position: *position,
                points: u64::MAX,
                forgets: false,
            },
            None => {
                let script = &SCRIPTS[(number % scripts) as usize];
                Run { script, seed, position: None, points: (wanted / scripts / 2).max(1), forgets: false }
            }
        }
    });
    drop(SWEEPING_BROKEN.lock());
    for violation in &violations {
        println!("{violation}");
    }
    let Tally { runs, points, second_lives, ssd_blocks, blocks_reinserted, blocks_evicted, voids } = tally;
    println!(
        "runs: {runs}, and after a crash: {second_lives}; blocks read from the SSD after a crash: {ssd_blocks}"
    );
    println!("voids: {voids}, blocks evicted: {blocks_evicted}, kept: {blocks_reinserted}");
    println!("crash points: {points}, violations: {}", violations.len());
    assert!(violations.is_empty(), "{}", violations[0]);
    let happened = [second_lives, ssd_blocks, blocks_reinserted, blocks_evicted, voids];
    assert!(
        points < POINTS_THAT_COVER || only.is_some() || !happened.contains(&0),
        "what happened: {happened:?}"
    );
}

/// A discard is durable when it is flushed, in all modes; a write is at once in some, and who dies is held to that.
#[test]
fn no_script_lets_processes_die_whose_writes_outlive_them_and_whose_discards_do_not() {
    for script in SCRIPTS {
        let has = |wanted: Step| script.mixture.iter().any(|&(_, step)| step == wanted);
        let outlives = script.modes.iter().chain(script.changes).any(|&mode| outlives_process(mode));
        assert!(!has(Step::Die) || !outlives || !has(Step::Discard) && !has(Step::Forget), "{}", script.name);
    }
}

/// In so many crash points everything happens that the scripts are there for.
const POINTS_THAT_COVER: u64 = 50_000;

/// Crash points in which a broken device must have been caught. The one that hides best takes some 10,000 on average, and
/// so one time in a hundred more than 50,000.
const POINTS_TO_CATCH: u64 = 250_000;
/// And those in which one that is withstood must do no harm.
const POINTS_TO_WITHSTAND: u64 = if cfg!(debug_assertions) { 150 } else { 2000 };

/// Sweeps the script of `broken` with it; what was found, and in how many crash points.
fn sweep_broken(broken: &Broken, first_seed: u64, points_max: u64) -> (Option<String>, u64) {
    let script = script_called(broken.script);
    let mut tally = Tally::default();
    for number in 0.. {
        let (seed, forgets) = (first_seed.wrapping_add(number), broken.flaw == Flaw::Forgotten);
        let run = Run { script, seed, position: None, points: 300, forgets };
        if let Err(violation) = run.sweep(&|stage| broken.stage(script, stage), &mut tally) {
            return (Some(violation.to_string()), tally.points);
        }
        if tally.points > points_max {
            break;
        }
    }
    (None, tally.points)
}

#[test]
#[expect(clippy::print_stdout, reason = "it says what was caught where")]
fn every_broken_device_is_caught() {
    let _sweeping = SWEEPING_BROKEN.lock();
    let seed = common::seed();
    for broken in BROKEN {
        let (caught, points) = sweep_broken(broken, seed, POINTS_TO_CATCH);
        let (part, flaw, promise) = (broken.part, broken.flaw, broken.promise);
        let caught =
            caught.unwrap_or_else(|| panic!("{part:?} {flaw:?} is not caught in {points} crash points"));
        let what = caught.lines().next().unwrap_or_default();
        println!("{part:?} {flaw:?}, against \"{promise}\": caught at crash point {points}\n  {what}");
    }
}

#[test]
fn an_ssd_that_loses_tears_or_delays_clean_copies_costs_no_more_than_hits() {
    let seed = common::seed();
    for broken in WITHSTOOD {
        let (caught, _) = sweep_broken(broken, seed, POINTS_TO_WITHSTAND);
        assert!(caught.is_none(), "{:?}: {caught:?}", broken.flaw);
    }
}

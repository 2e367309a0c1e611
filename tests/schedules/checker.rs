//! Runs a scenario under many schedules.

use shuttle::Runner;
use shuttle::scheduler::{PctScheduler, RandomScheduler};

/// Schedules that share a seed.
const BATCH: usize = 100;
/// Steps at which a batch of priorities changes them.
const CHANGES: usize = 3;
/// All scenarios together run 100,000 schedules in the slow part.
const SLOW_SCHEDULES: usize = 5300;
const SCHEDULES: usize = 200;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

/// Names the seed of a batch that fails.
struct Named<'a>(&'a str, u64);

impl Drop for Named<'_> {
    #[expect(clippy::print_stderr, reason = "a failing test names its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails with TERRACE_SEED={} TERRACE_SCHEDULES={BATCH}", self.0, self.1);
        }
    }
}

#[expect(clippy::print_stdout, reason = "how much was run is the result")]
pub(super) fn explore(name: &str, scenario: fn()) {
    let usual = if std::env::var_os("TERRACE_SLOW").is_some() { SLOW_SCHEDULES } else { SCHEDULES };
    let schedules = number_from("TERRACE_SCHEDULES").map_or(usual, |number| number as usize);
    let first = number_from("TERRACE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{name}: {schedules} schedules from seed {first} on");
    for batch in 0..schedules.div_ceil(BATCH) {
        let seed = first.wrapping_add(batch as u64);
        let _named = Named(name, seed);
        let mut config = shuttle::Config::new();
        config.stack_size = 256 << 10;
        config.silence_warnings = true;
        if seed.is_multiple_of(2) {
            Runner::new(RandomScheduler::new_from_seed(seed, BATCH), config).run(scenario);
        } else {
            Runner::new(PctScheduler::new_from_seed(seed, CHANGES, BATCH), config).run(scenario);
        }
    }
}

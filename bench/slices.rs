//! What something costs that can be switched on and off while callers go on: short slices with it and without, in turns.
//!
//! Whole runs differ by several percent, for what else the machine does meanwhile. A slice is over before that changes,
//! and so are its neighbours. Slices come in rounds of four, `with, without, without, with` or the other way around by
//! chance, so that what gets steadily better or worse counts on both sides alike. A round gives one ratio; the estimate is
//! the mean of the middle half of them, which a few spoiled rounds do not move, and its interval is that of the bootstrap
//! (Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979).
//!
//! A slice that is switched on ends when it is switched off again: what was put off until then counts.

use std::fmt;
use std::time::{Duration, Instant};

use crate::instructions::Instructions;
use crate::processor::processor_seconds;

/// Draws of the bootstrap.
const DRAWS: usize = 2000;

/// How slices are made.
#[derive(Clone, Copy, Debug)]
pub struct Slices {
    pub rounds: usize,
    pub length: Duration,
    /// Left out behind each switching on, and as much without; none: switching on counts too.
    pub settle: Option<Duration>,
}

/// What was done in one slice.
#[derive(Clone, Copy, Debug)]
struct Done {
    /// Operations a second.
    rate: f64,
    /// Seconds of processors for an operation, those of all threads of the process.
    processor: f64,
    /// Instructions for an operation; 0 where they are not counted.
    instructions: f64,
}

/// How far everything is.
struct Mark {
    at: Instant,
    operations: u64,
    processor_seconds: f64,
    instructions: u64,
}

/// One round: two slices with it and two without.
type Round = [[Done; 2]; 2];

/// What slices with it are to those without.
#[derive(Clone, Debug)]
pub struct Switched {
    rounds: Vec<Round>,
}

/// A ratio, and the interval that has the true one in 95 of 100 cases.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

impl Slices {
    /// Callers are at work all the while, and `operations` tells how many operations they have done; `switch` switches on
    /// and off what is measured, which is off before and after. `counter`, if there is one, counts for all threads.
    pub fn run(
        &self,
        counter: Option<&Instructions>,
        operations: impl Fn() -> u64,
        mut switch: impl FnMut(bool),
    ) -> Switched {
        let mark = || Mark {
            at: Instant::now(),
            operations: operations(),
            processor_seconds: processor_seconds(),
            instructions: counter.map_or(0, Instructions::count),
        };
        let mut random = fastrand::Rng::with_seed(1);
        let rounds = (0..self.rounds).map(|_| {
            let mut slice = |is_with| self.slice(is_with, &mark, &mut switch);
            if random.bool() {
                let (first, [second, third]) = (slice(true), [slice(false), slice(false)]);
                [[first, slice(true)], [second, third]]
            } else {
                let (first, [second, third]) = (slice(false), [slice(true), slice(true)]);
                [[second, third], [first, slice(false)]]
            }
        });
        Switched { rounds: rounds.collect() }
    }

    fn slice(&self, is_with: bool, mark: &impl Fn() -> Mark, switch: &mut impl FnMut(bool)) -> Done {
        let mut before = mark();
        if is_with {
            switch(true);
        }
        if let Some(settle) = self.settle {
            std::thread::sleep(settle);
            before = mark();
        }
        std::thread::sleep(self.length);
        if is_with {
            switch(false);
        }
        let after = mark();
        let operations = (after.operations - before.operations).max(1) as f64;
        Done {
            rate: operations / (after.at - before.at).as_secs_f64(),
            processor: (after.processor_seconds - before.processor_seconds) / operations,
            instructions: after.instructions.saturating_sub(before.instructions) as f64 / operations,
        }
    }
}

impl Switched {
    /// Of operations a second.
    pub fn rate(&self) -> Estimate {
        self.estimate(|done| done.rate)
    }

    /// Of the processor time that an operation takes, that of all threads of the process.
    pub fn processor(&self) -> Estimate {
        self.estimate(|done| done.processor)
    }

    /// Of the instructions that an operation takes; none where they are not counted.
    pub fn instructions(&self) -> Option<Estimate> {
        let all = || self.rounds.iter().flatten().flatten();
        all().all(|done| done.instructions > 0.0).then(|| self.estimate(|done| done.instructions))
    }

    /// Seconds of processors for an operation without it.
    pub fn processor_without(&self) -> f64 {
        self.without(|done| done.processor)
    }

    /// Instructions for an operation without it.
    pub fn instructions_without(&self) -> f64 {
        self.without(|done| done.instructions)
    }

    fn without(&self, of: impl Fn(&Done) -> f64) -> f64 {
        middle_mean(&mut self.rounds.iter().flat_map(|[_, without]| without).map(of).collect::<Vec<_>>())
    }

    fn estimate(&self, of: impl Fn(&Done) -> f64) -> Estimate {
        let ln = |slices: &[Done; 2]| slices.iter().map(|done| of(done).ln()).sum::<f64>() / 2.0;
        Estimate::of(&self.rounds.iter().map(|[with, without]| ln(with) - ln(without)).collect::<Vec<_>>())
    }
}

impl Estimate {
    /// Of the logarithms of ratios, one a round.
    fn of(logarithms: &[f64]) -> Self {
        let mut random = fastrand::Rng::with_seed(2);
        let mut draw = || {
            let mut drawn: Vec<f64> =
                logarithms.iter().map(|_| logarithms[random.usize(..logarithms.len())]).collect();
            middle_mean(&mut drawn)
        };
        let mut draws: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        draws.sort_by(f64::total_cmp);
        Self {
            ratio: middle_mean(&mut logarithms.to_vec()).exp(),
            low: draws[DRAWS / 40].exp(),
            high: draws[DRAWS - 1 - DRAWS / 40].exp(),
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.4} ({:.4} to {:.4})", self.ratio, self.low, self.high)
    }
}

/// The mean of what is left without the lowest and the highest quarter.
fn middle_mean(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let aside = values.len() / 4;
    let middle = &values[aside..values.len() - aside];
    middle.iter().sum::<f64>() / middle.len() as f64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Rounds of a machine whose speed drifts by half, with noise of 2 % a slice and one slice of twenty spoiled.
    fn rounds(cost: f64, random: &mut fastrand::Rng) -> Switched {
        let mut time = 0.0;
        let mut slice = |is_with: bool| {
            time += 0.01;
            let noise = 1.0 + 0.02 * (random.f64() + random.f64() - 1.0);
            let spoiled = if random.u8(..20) == 0 { 0.5 } else { 1.0 };
            let rate = 1e5 * (1.0 + 0.5 * f64::sin(time)) * noise * spoiled;
            let rate = if is_with { rate / (1.0 + cost) } else { rate };
            Done { rate, processor: 2.0 / rate, instructions: 0.0 }
        };
        let rounds = (0..200).map(|_| {
            let (first, [second, third]) = (slice(true), [slice(false), slice(false)]);
            [[first, slice(true)], [second, third]]
        });
        Switched { rounds: rounds.collect() }
    }

    #[test]
    fn two_percent_are_told_from_none_on_a_machine_that_drifts_and_stumbles() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held = 0;
        for _ in 0..20 {
            let (none, two) = (rounds(0.0, &mut random), rounds(0.02, &mut random));
            for estimate in [none.rate(), none.processor()] {
                assert!((estimate.ratio - 1.0).abs() < 0.008, "seed {seed}: {estimate}");
            }
            assert!(two.rate().high < 0.99 && two.processor().low > 1.01, "seed {seed}: {}", two.rate());
            held += u32::from(none.rate().low <= 1.0 && none.rate().high >= 1.0);
        }
        // 95 of 100, less what a chance of one in a million takes.
        assert!(held > 11, "seed {seed}: {held} of 20 intervals have the true ratio");
    }

    #[test]
    fn a_slice_is_on_for_all_of_its_time_and_off_before_the_next() {
        let (is_on, switched, operations) = (Cell::new(false), Cell::new(0), Cell::new(0));
        let slices = Slices { rounds: 5, length: Duration::ZERO, settle: None };
        let done = slices.run(
            None,
            || {
                assert!(!is_on.get(), "it begins and ends off");
                operations.set(operations.get() + 10);
                operations.get()
            },
            |on| {
                assert_ne!(is_on.replace(on), on);
                switched.set(switched.get() + 1);
            },
        );
        assert_eq!((done.rounds.len(), switched.get()), (5, 20), "on and off, in two of four slices");
        assert_eq!(operations.get(), 5 * 4 * 2 * 10);
        assert!(done.instructions().is_none(), "nobody counted");
    }
}

//! Measuring: callers that start together, and two sides in turns.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How long `callers` threads take together, each running `work` with its number: from the first that starts, when all
/// are there, to the last that ends.
pub fn time_callers(callers: usize, work: impl Fn(usize) + Sync) -> Duration {
    let start = Barrier::new(callers);
    let run = |caller| {
        start.wait();
        let began = Instant::now();
        work(caller);
        (began, Instant::now())
    };
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|caller| {
                let run = &run;
                scope.spawn(move || run(caller))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a caller that panicked has said why"))
            .collect()
    });
    let began = spans.iter().map(|span| span.0).min().expect("there is a caller");
    let ended = spans.iter().map(|span| span.1).max().expect("there is a caller");
    ended - began
}

/// The rates of two sides that were measured in turns.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    pairs: Vec<(f64, f64)>,
}

impl Turns {
    /// Runs `ours` and `floor` in turns, `rounds` times each; both give a rate. The one that starts changes each
    /// round, so that neither always comes second.
    pub fn run(rounds: usize, mut ours: impl FnMut() -> f64, mut floor: impl FnMut() -> f64) -> Self {
        let pairs = (0..rounds).map(|round| {
            if round % 2 == 0 {
                let first = ours();
                (first, floor())
            } else {
                let first = floor();
                (ours(), first)
            }
        });
        Self { pairs: pairs.collect() }
    }

    /// The median of the rounds' ratios: what slows both sides for a while does not show in it.
    pub fn ratio(&self) -> f64 {
        median(self.pairs.iter().map(|(ours, floor)| ours / floor))
    }

    /// The ratio of the best rounds of either side: what the machine gives when nobody disturbs. Strangers who want
    /// the processors slow the side down more that needs them more.
    pub fn best_ratio(&self) -> f64 {
        let best = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
        best(&mut self.pairs.iter().map(|pair| pair.0)) / best(&mut self.pairs.iter().map(|pair| pair.1))
    }

    /// The median rate of ours.
    pub fn ours(&self) -> f64 {
        median(self.pairs.iter().map(|pair| pair.0))
    }

    /// The median rate of the floor.
    pub fn floor(&self) -> f64 {
        median(self.pairs.iter().map(|pair| pair.1))
    }
}

/// The middle one of `values`, of which there is at least one; of an even number the upper one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

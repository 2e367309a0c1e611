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

/// Nanoseconds that the calling thread has had a processor; 0 where the system does not tell.
pub fn thread_nanoseconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0.0)
}

/// Seconds that all threads of this process have had a processor, also those that ended.
pub fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and has room for what is written, and nothing of it is kept.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every process has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds that the threads of this process with this name have had a processor; those that ended do not count.
pub fn processor_seconds_of(name: &str) -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let read = |file| std::fs::read_to_string(thread.path().join(file)).ok();
        let is_one = read("comm")?.trim_end() == name;
        is_one.then_some(read("schedstat")?.split(' ').next()?.parse::<f64>().ok()?)
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// How long this thread is on a processor while it runs `work` so many times: what others have of the machine does not
/// count, as in time by the clock it would.
pub fn time_on_processor(times: u64, mut work: impl FnMut()) -> Duration {
    let clock = Instant::now();
    let before = on_processor();
    (0..times).for_each(|_| work());
    before.zip(on_processor()).map_or(clock.elapsed(), |(before, after)| after - before)
}

/// Of this thread so far; none where the system does not tell.
fn on_processor() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
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

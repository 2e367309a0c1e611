//! `terrace trace generate`: requests made from a seed. The same arguments make the same trace.

use super::super::write::Sink;
use super::super::{Kind, Request, Span};
use super::{GenerateArgs, Pattern, produce};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::units::show_count;

/// A table of chances takes 8 bytes a block: 128 MiB.
const BLOCKS_MAX: u64 = 1 << 24;
/// One request in so many begins a scan in [`Pattern::Mix`].
const SCAN_EVERY: u32 = 2000;

pub(super) fn run(args: &GenerateArgs, print: impl Fn(&str)) -> Result<()> {
    let mut workload = Workload::new(args)?;
    produce(&args.output.output, args.output.how, print, |sink: &mut Sink| {
        let progress = Progress::new("generating", args.requests);
        let position = std::sync::atomic::AtomicU64::new(0);
        for number in 0..args.requests {
            if number.is_multiple_of(4096) {
                position.store(number, std::sync::atomic::Ordering::Relaxed);
                progress.show(&position);
            }
            sink.write(&workload.next_request())?;
        }
        Ok(Vec::new())
    })
}

struct Workload {
    random: fastrand::Rng,
    choice: Choice,
    blocks: u64,
    block_bytes: u64,
    /// Blocks of a request, the fewest and the most.
    length: (u64, u64),
    write_share: f64,
    flush_every: Option<u64>,
    writes_since_flush: u64,
    mean_gap_ns: f64,
    time_ns: f64,
}

enum Choice {
    Zipf(Ranks),
    Uniform,
    Scan { next: u64 },
    Loop { order: Vec<u32>, next: usize },
    Mix { ranks: Ranks, scan: Option<(u64, u64)> },
}

impl Workload {
    fn new(args: &GenerateArgs) -> Result<Self> {
        let blocks = args.size / args.block_size;
        let (least, most) = args.request_size;
        let length = (least.div_ceil(args.block_size), most.div_ceil(args.block_size));
        if blocks < length.1 || blocks > BLOCKS_MAX {
            return Err(Failure::input(format!(
                "a --size of {} blocks is not from the longest request, {}, to {}",
                show_count(blocks),
                show_count(length.1),
                show_count(BLOCKS_MAX)
            ))
            .remedy("choose another --size, --block-size or --request-size"));
        }
        let mut random = fastrand::Rng::with_seed(args.seed);
        let choice = match args.pattern {
            Pattern::Zipf => Choice::Zipf(Ranks::new(blocks, args.skew)),
            Pattern::Uniform => Choice::Uniform,
            Pattern::Scan => Choice::Scan { next: 0 },
            Pattern::Loop => {
                let count = u32::try_from((blocks / 10).max(1)).expect("less than BLOCKS_MAX");
                let mut order: Vec<u32> = (0..count).collect();
                random.shuffle(&mut order);
                Choice::Loop { order, next: 0 }
            }
            Pattern::Mix => Choice::Mix { ranks: Ranks::new(blocks, args.skew), scan: None },
        };
        Ok(Self {
            random,
            choice,
            blocks,
            block_bytes: args.block_size,
            length,
            write_share: args.write_share,
            flush_every: args.flush_every,
            writes_since_flush: 0,
            mean_gap_ns: 1e9 / args.rate,
            time_ns: 0.0,
        })
    }

    fn next_request(&mut self) -> Request {
        // Gaps of a Poisson process.
        self.time_ns -= self.mean_gap_ns * (1.0 - self.random.f64()).ln();
        let time_ns = Some(self.time_ns as u64);
        if self.flush_every.is_some_and(|every| self.writes_since_flush >= every) {
            self.writes_since_flush = 0;
            return Request { volume: 0, kind: Kind::Flush, span: Span::NOTHING, time_ns };
        }
        let count = self.random.u64(self.length.0..=self.length.1);
        let first = self.block(count).min(self.blocks - count);
        let kind = if self.random.f64() < self.write_share { Kind::Write } else { Kind::Read };
        self.writes_since_flush += u64::from(kind == Kind::Write);
        let span = Span::Bytes { offset: first * self.block_bytes, bytes: count * self.block_bytes };
        Request { volume: 0, kind, span, time_ns }
    }

    /// Where the next request of `count` blocks begins.
    fn block(&mut self, count: u64) -> u64 {
        let (blocks, random) = (self.blocks, &mut self.random);
        match &mut self.choice {
            Choice::Zipf(ranks) => ranks.scattered(random),
            Choice::Uniform => random.u64(..blocks),
            Choice::Scan { next } => {
                let first = if *next + count > blocks { 0 } else { *next };
                *next = first + count;
                first
            }
            Choice::Loop { order, next } => {
                let block = u64::from(order[*next]);
                *next = (*next + 1) % order.len();
                block
            }
            Choice::Mix { ranks, scan } => {
                if scan.is_none() && random.u32(..SCAN_EVERY) == 0 {
                    let first = random.u64(..blocks);
                    *scan = Some((first, (first + blocks / 100 + 1).min(blocks)));
                }
                match *scan {
                    // Every other request, so that it disturbs and does not stop the rest.
                    Some((first, end)) if random.bool() => {
                        let next = first + count;
                        *scan = (next < end).then_some((next, end));
                        first
                    }
                    _ => ranks.scattered(random),
                }
            }
        }
    }
}

/// Ranks drawn by Zipf's law: a rank's chance falls with its number to the power of the skew.
pub(crate) struct Ranks {
    /// For each rank, the chance of it or a lower one, times a constant.
    chances: Vec<f64>,
    stride: u64,
}

impl Ranks {
    /// Ranks below `count`, which is not 0.
    pub(crate) fn new(count: u64, skew: f64) -> Self {
        let mut sum = 0.0;
        let chance = |rank: u64| {
            sum += (rank as f64).powf(-skew);
            sum
        };
        let chances = (1..=count).map(chance).collect();
        // No common factor with the count: every rank has its own place.
        let shares_factor = |stride: &u64| {
            let (mut a, mut b) = (*stride, count);
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a > 1
        };
        let stride = (2_657..).find(|stride| !shares_factor(stride)).expect("a prime above the count is one");
        Self { chances, stride }
    }

    /// A rank at a place of its own: neighbours in rank are not neighbours on the disk.
    pub(crate) fn scattered(&self, random: &mut fastrand::Rng) -> u64 {
        let total = self.chances[self.chances.len() - 1];
        let point = random.f64() * total;
        let rank = self.chances.partition_point(|&chance| chance < point) as u64;
        rank * self.stride % self.chances.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn requests(arguments: &str, count: usize) -> Vec<Request> {
        let line = Line::parse_from(format!("generate out {arguments}").split_whitespace());
        let mut workload = Workload::new(&line.args).unwrap_or_else(|failure| panic!("{failure}"));
        (0..count).map(|_| workload.next_request()).collect()
    }

    fn blocks(requests: &[Request]) -> Vec<u64> {
        requests.iter().map(|request| request.span.parts().0 / 4096).collect()
    }

    #[test]
    fn the_same_arguments_make_the_same_trace_and_another_seed_another() {
        for pattern in ["zipf", "uniform", "mix", "loop"] {
            let of = |seed: u32| requests(&format!("--pattern {pattern} --size 4MiB --seed {seed}"), 3000);
            assert_eq!(of(1), of(1), "{pattern}");
            assert_ne!(of(1), of(2), "{pattern}");
        }
    }

    #[test]
    fn every_request_lies_in_the_size_and_times_never_go_back() {
        for pattern in ["zipf", "uniform", "scan", "loop", "mix"] {
            let all = requests(&format!("--pattern {pattern} --size 1MiB --request-size 4KiB-64KiB"), 5000);
            let mut lengths = HashSet::new();
            for pair in all.windows(2) {
                assert!(pair[0].time_ns <= pair[1].time_ns);
            }
            for request in &all {
                let (offset, bytes) = request.span.parts();
                assert!(offset + bytes <= 1 << 20 && offset % 4096 == 0, "{pattern}: {request:?}");
                lengths.insert(bytes);
            }
            assert_eq!(lengths.len(), 16, "{pattern}");
        }
    }

    #[test]
    fn shares_of_writes_flushes_and_the_rate_are_as_asked_for() {
        let all = requests("--write-share 0.5 --flush-every 10 --rate 100 --size 4MiB", 20_000);
        let count = |kind| all.iter().filter(|request| request.kind == kind).count();
        let (writes, flushes) = (count(Kind::Write), count(Kind::Flush));
        assert!((9_000..10_500).contains(&writes), "{writes}");
        assert_eq!(flushes, writes / 10);
        let seconds = all[19_999].time_ns.expect("it has times") as f64 / 1e9;
        assert!((190.0..210.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn patterns_do_what_they_are_called() {
        assert_eq!(blocks(&requests("--pattern scan --size 16KiB", 6)), [0, 1, 2, 3, 0, 1]);
        let looped = blocks(&requests("--pattern loop --size 400KiB", 30));
        assert_eq!(looped[..10], looped[10..20]);
        assert_eq!(looped[..10].iter().collect::<HashSet<_>>().len(), 10);
        let mut counts: HashMap<u64, u32> = HashMap::new();
        for block in blocks(&requests("--pattern zipf --skew 1 --size 4MiB", 50_000)) {
            *counts.entry(block).or_default() += 1;
        }
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // The first of 1024 ranks has a chance of 1 in 7.5, the second half of that.
        assert!(
            (6_000..7_400).contains(&counts[0]) && (3_000..3_700).contains(&counts[1]),
            "{:?}",
            &counts[..2]
        );
    }
}

//! The policies against the miss counts of others (see `replay::oracle_tests` for where they are found).
//!
//! Exactly: LRU, FIFO, Belady's optimum, adaptive replacement, and the two-tier figures. Within a point, or a stated
//! number of points where our variant differs: the others.

use std::path::Path;

use clap::ValueEnum;

use super::PolicyName;
use super::two_tiers::{self, Counts, Kind, Mode};
use crate::replay::oracle_tests::{
    CLOUD, CLOUD_IDS, Case, LIRS, MQSIM, MSR, OLTP, P3, P12, dense, points, traces,
};

fn names(policy: PolicyName) -> &'static str {
    match policy {
        PolicyName::Arc => "ARC",
        PolicyName::Lru => "LRU",
        PolicyName::Fifo => "FIFO",
        PolicyName::Clock => "Clock",
        PolicyName::S3Fifo => "S3FIFO",
        PolicyName::Sieve => "Sieve",
        PolicyName::TwoQ => "TwoQ",
        PolicyName::Lirs => "LIRS",
        PolicyName::WTinyLfu => "WTinyLFU",
        PolicyName::Belady => "Belady",
    }
}

/// Whether checks that take minutes are asked for.
fn is_slow_run() -> bool {
    std::env::var_os("TERRACE_SLOW").is_some()
}

/// How many points of misses a policy may be off at any size.
///
/// The figures for W-TinyLFU are of a variant that does not count uses in the window, counts what is about to leave it
/// once more, shares counters by hash and halves them three times as seldom. Ours counts every use, as the paper does: it
/// misses 5 points less on OLTP and P3, and 7 points more where a loop barely fits (CloudPhysics in 131,072 blocks).
fn points_off_max(policy: PolicyName) -> f64 {
    match policy {
        PolicyName::Arc | PolicyName::Lru | PolicyName::Fifo | PolicyName::Belady => 0.0,
        PolicyName::WTinyLfu => 8.0,
        _ => 1.0,
    }
}

#[expect(clippy::print_stdout, reason = "the distances are worth a look")]
fn hold(cases: &[Case], policies: &[PolicyName]) {
    let Some(directory) = traces() else { return };
    for &case in cases {
        let trace = dense(&directory, case);
        for &policy in policies {
            let mut worst: (f64, u64) = (0.0, 0);
            for point in points(&directory, case.name, names(policy)) {
                let found = policy.misses(&trace, point.blocks);
                let off = (found as f64 - point.misses as f64) * 100.0 / trace.references().len() as f64;
                if off.abs() >= worst.0.abs() {
                    worst = (off, point.blocks);
                }
            }
            let allowed = points_off_max(policy);
            println!(
                "{}, {policy:?}: at most {:+.3} points off, with {} blocks",
                case.name, worst.0, worst.1
            );
            assert!(worst.0.abs() <= allowed, "{}, {policy:?}: {worst:?}", case.name);
        }
    }
}

const EXACT: [PolicyName; 4] = [PolicyName::Arc, PolicyName::Lru, PolicyName::Fifo, PolicyName::Belady];

#[test]
fn lru_fifo_arc_and_the_optimum_miss_as_often_as_published_to_the_miss() {
    hold(&[OLTP, P3, CLOUD, CLOUD_IDS], &EXACT);
    hold(&LIRS, &EXACT);
    hold(&MSR, &EXACT);
    hold(&[MQSIM], &EXACT);
}

#[test]
fn on_the_longest_trace_they_do_too() {
    if !is_slow_run() {
        return;
    }
    hold(&[P12], &EXACT);
}

#[test]
fn the_other_policies_miss_about_as_often_as_in_another_implementation() {
    let others: Vec<PolicyName> =
        PolicyName::value_variants().iter().copied().filter(|name| !EXACT.contains(name)).collect();
    hold(&[OLTP, P3, CLOUD, MQSIM], &others);
    // Below 100 blocks the other W-TinyLFU has no window and keeps nothing.
    let others: Vec<PolicyName> = others.into_iter().filter(|&name| name != PolicyName::WTinyLfu).collect();
    hold(&[CLOUD_IDS], &others);
    hold(&LIRS, &others);
    hold(&MSR, &others);
}

/// A line of the two-tier figures.
struct Line {
    upper: (Kind, u32),
    lower: (Kind, u32),
    mode: Mode,
    counts: Counts,
}

/// Those of the trace that the figures call `name`.
fn two_tier_lines(directory: &Path, name: &str) -> Vec<Line> {
    let csv =
        std::fs::read_to_string(directory.join("oracle_two_tier.csv")).expect("the figures can be read");
    let kind = |text: &str| match text {
        "LRU" => Kind::Lru,
        "FIFO" => Kind::Fifo,
        _ => Kind::Arc,
    };
    let mode = |text: &str| match text {
        "fill" => Mode::Fill,
        "demote" => Mode::Demote,
        _ => Mode::Victim,
    };
    let parse = |line: &str| {
        let columns: Vec<&str> = line.split(',').collect();
        let number = |index: usize| columns[index].parse::<u64>().expect("a number");
        let counts = || Counts {
            upper_hits: number(7),
            lower_hits: number(8),
            misses: number(9),
            lower_writes: number(10),
        };
        (columns[0] == name).then(|| {
            let (upper, lower) = ((kind(columns[3]), number(1) as u32), (kind(columns[4]), number(2) as u32));
            Line { upper, lower, mode: mode(columns[5]), counts: counts() }
        })
    };
    csv.lines().filter_map(parse).collect()
}

#[test]
fn two_tiers_count_what_another_implementation_counts_in_every_mode() {
    let Some(directory) = traces() else { return };
    // All 384 lines in the slow run.
    let cases = if is_slow_run() { &[OLTP, P3, CLOUD, LIRS[2]][..] } else { &[LIRS[2]] };
    for &case in cases {
        let trace = dense(&directory, case);
        let lines = two_tier_lines(&directory, case.name);
        assert!(!lines.is_empty(), "{}", case.name);
        for Line { upper, lower, mode, counts: wanted } in lines {
            let found = two_tiers::run(trace.references(), trace.unique(), upper, lower, mode);
            assert_eq!(found, wanted, "{}: {upper:?} over {lower:?}, {mode:?}", case.name);
        }
    }
}

#[test]
fn lru_over_lru_that_takes_what_leaves_is_one_lru_of_both_sizes() {
    let Some(directory) = traces() else { return };
    for case in [OLTP, LIRS[6]] {
        let trace = dense(&directory, case);
        for (a, b) in [(1, 1), (100, 1), (1, 100), (1000, 3000), (2000, 500)] {
            let (upper, lower) = ((Kind::Lru, a), (Kind::Lru, b));
            let both = two_tiers::run(trace.references(), trace.unique(), upper, lower, Mode::Demote);
            let one = PolicyName::Lru.misses(&trace, u64::from(a + b));
            assert_eq!(both.misses, one, "{}: {a} over {b}", case.name);
        }
    }
}

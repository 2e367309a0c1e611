//! What a replay found out: the object that `--json` prints, and the text that explains its keys.
//!
//! Keys and their explanation stand side by side here; `--help` is made of them, and a test holds that every key
//! that is printed is explained and every explained key printed.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use terrace::Stats;

use super::latency::{Class, LatencySummary, OpenSummary, Percentiles, Timings};
use super::live::Recorded;
use super::pace::HeldBack;
use super::predict::{self, Prediction};
use crate::memory::memory_peak_bytes;
use crate::mode::Mode;

/// Counters that the library keeps: the key, where [`Stats`] has it, and what it says.
macro_rules! counters {
    ($($key:ident = $($path:ident).+, $text:literal;)+) => {
        /// A copy of what [`Stats`] counts, under the names of the report; all of them sums.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub(crate) struct Counters { $(pub(crate) $key: u64,)+ }

        impl Counters {
            pub(crate) fn of(stats: &Stats) -> Self {
                Self { $($key: stats.$($path).+,)+ }
            }

            pub(crate) fn plus(self, other: Self) -> Self {
                Self { $($key: self.$key + other.$key,)+ }
            }

            /// What was counted since `earlier`.
            pub(crate) fn since(self, earlier: Self) -> Self {
                Self { $($key: self.$key.saturating_sub(earlier.$key),)+ }
            }
        }

        const COUNTER_KEYS: &[(&str, &str)] = &[$((stringify!($key), $text),)+];
    };
}

counters! {
    references = references, "blocks touched by all requests; reads + writes";
    reads = reads, "of these, by reads; read_ram_hits + ssd_hits + disk_reads";
    writes = writes, "of these, by writes";
    ram_hits = ram_hits, "references to blocks in RAM, reads and writes alike";
    read_ram_hits = read_ram_hits, "of these, by reads";
    write_ram_hits = write_ram_hits, "of these, by writes";
    ssd_hits = read_ssd_hits, "reads of blocks answered by the SSD (also as read_ssd_hits)";
    disk_reads = disk_reads, "reads of blocks answered by the backing store";
    ssd_blocks_written = ssd.blocks_written, "blocks that went from RAM to the SSD";
    ssd_blocks_reinserted = ssd.blocks_reinserted, "blocks written again so that they stay on the SSD";
    ssd_bytes_written = ssd.bytes_written, "bytes written to the SSD: all blocks, and what is needed to find them";
    ssd_log_bytes_written = ssd.record_bytes_written, "of these, records in the log of mode back-ssd";
    ssd_bytes_prepared = ssd.bytes_prepared, "bytes written once to a new cache file; not in ssd_bytes_written";
    ssd_read_bytes = ssd_read_bytes, "bytes read from the SSD";
    ssd_read_operations = ssd_read_operations, "in so many operations";
    ssd_write_operations = ssd_write_operations, "writes to the SSD";
    ssd_syncs = ssd_syncs, "syncs of the SSD";
    disk_read_bytes = disk_read_bytes, "bytes read from the backing store";
    disk_read_operations = disk_read_operations, "in so many operations";
    disk_write_bytes = disk_write_bytes, "bytes written to the backing store";
    disk_write_operations = disk_write_operations, "in so many operations";
    disk_syncs = disk_syncs, "syncs of the backing store";
    demotions_dropped = demotions_dropped, "blocks that left RAM without a place on the SSD because it was busy";
}

const SETUP_KEYS: &[(&str, &str)] = &[
    ("trace", "what was replayed"),
    ("format", "its format"),
    ("units", "in what its addresses, sizes and times are counted"),
    ("duration_seconds", "from its earliest time to its latest; null without times"),
    ("aligning_shift_bytes", "the --shift that aligns most requests with pages; null when nothing is won"),
    ("simulated", "true with --simulate"),
    ("policy", "the replacement policy of RAM that --policy named; null for the cache as it is"),
    ("block_bytes", "bytes of a block"),
    ("ram_bytes, ram_blocks", "size of the RAM tier; the one that was not given is null"),
    ("ssd_bytes, ssd_blocks", "size of the SSD tier; both null without one"),
    ("write_mode", "around, through, back or back-ssd"),
    ("ordered", "true with --ordered"),
    ("speed", "how many times as fast as it was recorded; null for as fast as answers came"),
    ("threads", "threads that asked; with a speed, requests that could be under way at once"),
    ("seed", "seed of all content"),
    ("volumes", "volumes of the trace"),
    (
        "skipped_commands",
        "commands of the trace that were passed over: what moves and orders nothing, and discards with --as-reads",
    ),
];

const MEASURE_KEYS: &[(&str, &str)] = &[
    ("requests", "requests of the trace, however many blocks each"),
    ("read_ssd_hits", "the same as ssd_hits"),
    ("wrong_blocks", "blocks read with bytes that were never written there; not 0: exit code 1"),
    ("ssd_write_amplification", "ssd_bytes_written over the bytes of ssd_blocks_written; null without any"),
    ("seconds", "time to the last answer"),
    ("requests_per_second", "requests over seconds"),
    ("settle_seconds", "time from there until everything was durable"),
    ("memory_peak_bytes", "the most memory the process had until then; null where the system does not tell"),
    (
        "latency_us",
        "from the submission: ram, ssd, disk (by where a read's slowest block came from), write, flush, discard and all: \
         count of requests, and mean, p50, p90, p99, p99_9, max in microseconds; an entry is null when it has none, all is \
         null with --simulate",
    ),
    (
        "latency_from_deadline_us",
        "the same from when each request was due, so that a stall counts for all who wanted something in it; null without \
         a speed",
    ),
    (
        "lateness_us",
        "from when requests were due to their submission: as in latency_us; null without a speed",
    ),
    (
        "distribution",
        "requests by lateness, latency and latency_from_deadline: those under up_to_us (null: all others) and in no entry \
         before; null without a speed",
    ),
    (
        "held_back, first_held_back_seconds",
        "requests that were due while as many as may be were under way, so that the loop was not open; and how long into the \
         run the first was due, null when there is none",
    ),
];

const PASS_KEYS: &[(&str, &str)] = &[
    (
        "passes",
        "one object a pass, with all keys from references on; those outside it are totals of all passes",
    ),
    ("first_requests", "in each pass: the counters after its first 10,000 requests, or all if it has fewer"),
    ("prediction", "with --predict, for all passes together, an object with the keys below; else null"),
];

const LIVE_KEYS: &[(&str, &str)] = &[
    (
        "recorded",
        "with --record: its path; requests in its files, and requests_lost that found no room; files and bytes there now; \
         failure, why it ended early, or null. Else null",
    ),
    (
        "what_if",
        "with --what-if: the object that `terrace tune --json` prints, told by the cache itself; null without, and when it \
         was asked for too little to tell",
    ),
];

/// Early in a pass: what a cache that was just opened again still knows.
pub(crate) const FIRST_REQUESTS: u64 = 10_000;

#[derive(Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) setup: Setup,
    #[serde(flatten)]
    pub(crate) total: Measures,
    pub(crate) passes: Vec<PassReport>,
    pub(crate) prediction: Option<Prediction>,
    pub(crate) recorded: Option<Recorded>,
    pub(crate) what_if: Option<crate::tune::Report>,
    /// It was asked for, and there is none.
    #[serde(skip)]
    pub(crate) is_what_if_short: bool,
}

#[derive(Clone, Serialize)]
pub(crate) struct Setup {
    pub(crate) trace: String,
    pub(crate) format: String,
    pub(crate) units: String,
    pub(crate) duration_seconds: Option<f64>,
    pub(crate) aligning_shift_bytes: Option<u64>,
    pub(crate) simulated: bool,
    pub(crate) policy: Option<crate::policies::PolicyName>,
    pub(crate) block_bytes: u64,
    pub(crate) ram_bytes: Option<u64>,
    pub(crate) ram_blocks: Option<u64>,
    pub(crate) ssd_bytes: Option<u64>,
    pub(crate) ssd_blocks: Option<u64>,
    pub(crate) write_mode: Mode,
    pub(crate) ordered: bool,
    pub(crate) speed: Option<f64>,
    pub(crate) threads: u32,
    pub(crate) seed: u64,
    pub(crate) volumes: usize,
    pub(crate) skipped_commands: u64,
}

#[derive(Clone, Serialize)]
pub(crate) struct Measures {
    #[serde(flatten)]
    pub(crate) counters: Counters,
    read_ssd_hits: u64,
    pub(crate) requests: u64,
    pub(crate) wrong_blocks: u64,
    pub(crate) ssd_write_amplification: Option<f64>,
    pub(crate) seconds: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) settle_seconds: f64,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) latency_us: Option<LatencySummary>,
    pub(crate) latency_from_deadline_us: Option<LatencySummary>,
    pub(crate) lateness_us: Option<Percentiles>,
    pub(crate) distribution: Option<Vec<Class>>,
    pub(crate) held_back: u64,
    pub(crate) first_held_back_seconds: Option<f64>,
}

#[derive(Serialize)]
pub(crate) struct PassReport {
    #[serde(flatten)]
    pub(crate) measures: Measures,
    pub(crate) first_requests: FirstRequests,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct FirstRequests {
    pub(crate) requests: u64,
    #[serde(flatten)]
    pub(crate) counters: Counters,
}

/// One pass as it was measured.
pub(crate) struct Pass {
    pub(crate) counters: Counters,
    pub(crate) first: FirstRequests,
    pub(crate) requests: u64,
    pub(crate) wrong_blocks: u64,
    pub(crate) took: Duration,
    pub(crate) settled_in: Duration,
    pub(crate) memory_peak_bytes: Option<u64>,
    /// None in a simulation.
    pub(crate) timings: Option<Timings>,
    pub(crate) held_back: HeldBack,
}

impl Pass {
    /// One without data, begun at `begun`; `first` when it got that far.
    pub(super) fn simulated(
        counters: Counters,
        first: Option<FirstRequests>,
        requests: u64,
        begun: Instant,
    ) -> Self {
        Self {
            counters,
            first: first.unwrap_or(FirstRequests { requests, counters }),
            requests,
            wrong_blocks: 0,
            took: begun.elapsed(),
            settled_in: Duration::ZERO,
            memory_peak_bytes: memory_peak_bytes(),
            timings: None,
            held_back: HeldBack::default(),
        }
    }

    fn measures(&self, block_bytes: u64) -> Measures {
        let seconds = self.took.as_secs_f64();
        let written = self.counters.ssd_blocks_written * block_bytes;
        let open: Option<OpenSummary> = self.timings.as_ref().and_then(Timings::open);
        Measures {
            counters: self.counters,
            read_ssd_hits: self.counters.ssd_hits,
            requests: self.requests,
            wrong_blocks: self.wrong_blocks,
            ssd_write_amplification: (written > 0)
                .then(|| self.counters.ssd_bytes_written as f64 / written as f64),
            seconds,
            requests_per_second: if seconds > 0.0 { self.requests as f64 / seconds } else { 0.0 },
            settle_seconds: self.settled_in.as_secs_f64(),
            memory_peak_bytes: self.memory_peak_bytes,
            latency_us: self.timings.as_ref().map(Timings::latency),
            latency_from_deadline_us: open.as_ref().map(|open| open.from_deadline.clone()),
            lateness_us: open.as_ref().and_then(|open| open.lateness),
            distribution: open.map(|open| open.distribution),
            held_back: self.held_back.requests,
            first_held_back_seconds: self.held_back.first_ns.map(|ns| ns as f64 / 1e9),
        }
    }

    fn plus(mut self, other: &Self) -> Self {
        self.counters = self.counters.plus(other.counters);
        self.requests += other.requests;
        self.wrong_blocks += other.wrong_blocks;
        self.took += other.took;
        self.settled_in += other.settled_in;
        self.memory_peak_bytes = self.memory_peak_bytes.max(other.memory_peak_bytes);
        self.held_back = self.held_back.plus(other.held_back);
        if let (Some(ours), Some(theirs)) = (&mut self.timings, &other.timings) {
            ours.add(theirs);
        }
        self
    }
}

impl Report {
    /// The report on `passes`, of which there is at least one.
    pub(crate) fn new(setup: Setup, passes: Vec<Pass>, prediction: Option<Prediction>) -> Self {
        let block_bytes = setup.block_bytes;
        let report =
            |pass: &Pass| PassReport { measures: pass.measures(block_bytes), first_requests: pass.first };
        let reports = passes.iter().map(report).collect();
        let mut rest = passes.into_iter();
        let first = rest.next().expect("a replay has at least one pass");
        let total = rest.fold(first, |total, pass| total.plus(&pass)).measures(block_bytes);
        let (recorded, what_if, is_what_if_short) = (None, None, false);
        Self { setup, total, passes: reports, prediction, recorded, what_if, is_what_if_short }
    }
}

/// The last part of `terrace replay --help`.
pub(crate) fn json_help() -> String {
    let mut help = String::from(
        "JSON: --json prints one object with these keys, all of them always. Counts are blocks unless another unit is \
         named, and begin at 0 when the cache opens.\n\n",
    );
    for (key, text) in
        SETUP_KEYS.iter().chain(COUNTER_KEYS).chain(MEASURE_KEYS).chain(PASS_KEYS).chain(LIVE_KEYS)
    {
        writeln!(help, "  {key}: {text}").expect("a string takes everything");
    }
    help.push_str("\nOf the prediction:\n\n");
    for (key, text) in predict::KEYS {
        writeln!(help, "  {key}: {text}").expect("a string takes everything");
    }
    help.push_str(
        "\nExit codes: 0, every byte was right; 1, a wrong byte was read; 2, bad input or environment.",
    );
    help
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pass(references: u64) -> Pass {
        let counters =
            Counters { references, ssd_blocks_written: 1, ssd_bytes_written: 8192, ..Counters::default() };
        Pass {
            counters,
            first: FirstRequests { requests: 1, counters },
            requests: references,
            wrong_blocks: 0,
            took: Duration::from_secs(2),
            settled_in: Duration::ZERO,
            memory_peak_bytes: None,
            timings: None,
            held_back: HeldBack::default(),
        }
    }

    fn report() -> Report {
        let setup = Setup {
            trace: "t".into(),
            format: "ids".into(),
            units: "ids".into(),
            duration_seconds: None,
            aligning_shift_bytes: None,
            simulated: true,
            policy: None,
            block_bytes: 4096,
            ram_bytes: None,
            ram_blocks: Some(1),
            ssd_bytes: None,
            ssd_blocks: None,
            write_mode: Mode::Through,
            ordered: false,
            speed: None,
            threads: 1,
            seed: 1,
            volumes: 1,
            skipped_commands: 0,
        };
        Report::new(setup, vec![pass(10), pass(4)], Some(predict::tests::prediction()))
    }

    #[test]
    fn every_key_that_is_printed_is_explained_and_every_explained_key_is_printed() {
        let json = serde_json::to_value(report()).expect("plain data");
        let object = json.as_object().expect("an object");
        let mut printed: BTreeSet<String> = object.keys().cloned().collect();
        let first = json["passes"][0].as_object().expect("an object");
        assert!(first.contains_key("first_requests") && first["first_requests"]["ram_hits"] == 0);
        printed.insert("first_requests".into());
        let tables =
            SETUP_KEYS.iter().chain(COUNTER_KEYS).chain(MEASURE_KEYS).chain(PASS_KEYS).chain(LIVE_KEYS);
        let explained: BTreeSet<String> =
            tables.flat_map(|(keys, _)| keys.split(", ")).map(String::from).collect();
        assert_eq!(printed, explained);
        let predicted: BTreeSet<&str> =
            json["prediction"].as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(predicted, predict::KEYS.iter().flat_map(|(keys, _)| keys.split(", ")).collect());
    }

    #[test]
    fn keys_outside_the_passes_are_their_totals() {
        let json = serde_json::to_value(report()).expect("plain data");
        assert_eq!(
            (json["references"].as_u64(), json["passes"][1]["references"].as_u64()),
            (Some(14), Some(4))
        );
        assert_eq!(json["ssd_write_amplification"].as_f64(), Some(2.0));
        assert_eq!(json["requests_per_second"].as_f64(), Some(3.5));
    }
}

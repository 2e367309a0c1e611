//! The goals of `lib.rs`, both sides measured in turns within one run; the medians, and the best rounds, which say
//! more on a machine that others use as well.
//!
//!     cargo bench -p terrace-bench --bench ratios
//!
//! With a word, only the lines that contain it: `cargo bench -p terrace-bench --bench ratios -- ssd/read`.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use terrace::RecordConfig;
use terrace_bench::instructions::Instructions;
use terrace_bench::is_trial;
use terrace_bench::measure::{Turns, median};
use terrace_bench::processor::{processor_seconds, processor_seconds_of, thread_nanoseconds};
use terrace_bench::scenes::append::{Demotions, source};
use terrace_bench::scenes::flush::{Destage, Flushes, Places};
use terrace_bench::scenes::ram::{resident, zipf_offsets};
use terrace_bench::scenes::read::SsdReads;
use terrace_bench::scenes::recover::{CacheFile, DIRTY_PERCENT, Left};
use terrace_bench::scenes::whole::Whole;
use terrace_bench::scenes::{BLOCK_BYTES, append_file_bytes, recover_blocks, temporary_folder};
use terrace_bench::slices::{Slices, Switched};

/// What a run costs: rounds of each pair, and how much one side does in a round.
struct Effort {
    rounds: usize,
    hits: usize,
    append_bytes: usize,
    /// Short rounds and many: one round of many callers is 15 % off to either side.
    read_rounds: usize,
    reads: usize,
    flushes: usize,
    slices: Slices,
    long_slices: Slices,
}

impl Effort {
    fn of_this_run() -> Self {
        let millis = Duration::from_millis;
        if is_trial() {
            Self {
                rounds: 1,
                hits: 1 << 13,
                append_bytes: 16 << 20,
                read_rounds: 1,
                reads: 256,
                flushes: 64,
                slices: Slices { rounds: 1, length: millis(5), settle: Some(millis(1)) },
                long_slices: Slices { rounds: 1, length: millis(5), settle: None },
            }
        } else {
            Self {
                rounds: 21,
                hits: 1 << 23,
                append_bytes: 512 << 20,
                read_rounds: 63,
                reads: 4096,
                flushes: 256,
                slices: Slices { rounds: 140, length: millis(250), settle: Some(millis(20)) },
                long_slices: Slices { rounds: 12, length: millis(3000), settle: None },
            }
        }
    }
}

/// Hits that are timed together: so few that most of such times have no other thread in them.
const HITS_TIMED: usize = 1 << 10;

/// Blocks in one plain append: as many as the cache takes together when it has them.
const APPEND_BLOCKS: usize = 32;

type Part = fn(&Effort);

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let parts: [(&str, Part); 9] = [
        ("ram/hit", ram_hit),
        ("ram/recorded", ram_recorded),
        ("whole/control", whole_control),
        ("whole/recorded", whole_recorded),
        ("whole/watched", whole_watched),
        ("ssd/append", ssd_append),
        ("ssd/read", ssd_read),
        ("flush/back_ssd", flush_back_ssd),
        ("ssd/recover", ssd_recover),
    ];
    for (name, part) in parts {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str())) {
            part(&Effort::of_this_run());
        }
    }
}

fn ram_hit(effort: &Effort) {
    let (_cache, volume) = resident();
    let offsets = zipf_offsets();
    let mut requests = offsets.iter().cycle();
    let mut buffer = vec![0; BLOCK_BYTES];
    let (mut by_reference, mut copied) = (Vec::new(), Vec::new());
    for _ in 0..effort.hits / HITS_TIMED {
        by_reference.push(time_each(HITS_TIMED, || {
            let _ = black_box(volume.read_ref(*requests.next().expect("endless"), BLOCK_BYTES));
        }));
    }
    for _ in 0..effort.hits / HITS_TIMED / 8 {
        copied.push(time_each(HITS_TIMED, || {
            let _ = volume.read(*requests.next().expect("endless"), &mut buffer);
            black_box(&mut buffer);
        }));
    }
    println!("ram/hit by reference: {:.0} ns", median(by_reference.into_iter()));
    println!("ram/hit copied out: {:.0} ns", median(copied.into_iter()));
}

/// Pure hits in RAM on one thread: what a recording adds to the least that a request can take.
fn ram_recorded(effort: &Effort) {
    let (cache, volume) = resident();
    let folder = temporary_folder();
    let (offsets, config) = (zipf_offsets(), RecordConfig::new(folder.path().join("record")));
    let requests = RefCell::new(offsets.iter().cycle());
    let hits = effort.hits / 8;
    // The caller's own time, so that what the recorder's thread and strangers take is not in it.
    let own = RefCell::new([Vec::new(), Vec::new()]);
    let round = |side: usize| {
        let mut requests = requests.borrow_mut();
        let before = thread_nanoseconds();
        let took = time_each(hits, || {
            let _ = black_box(volume.read_ref(*requests.next().expect("endless"), BLOCK_BYTES));
        });
        own.borrow_mut()[side].push((thread_nanoseconds() - before) / hits as f64);
        1e9 / took
    };
    let mut lost = 0;
    let recorded = || {
        cache.start_recording(&config).expect("the folder can be written");
        let rate = round(0);
        lost += cache.stop_recording().map_or(0, |status| status.requests_lost);
        rate
    };
    let turns = Turns::run(effort.rounds, recorded, || round(1));
    print_ratio("ram/hit recorded", "the same without", &turns, "hits/s");
    let [ours, floor] = own.into_inner();
    println!(
        "ram/hit recorded: a hit takes its caller {:.1} ns, {:.1} without; {:.1} % of the requests found no room",
        median(ours.into_iter()),
        median(floor.into_iter()),
        100.0 * lost as f64 / (hits * effort.rounds) as f64
    );
}

/// What is known to take 2 % shows as that: then the next two can be believed.
fn whole_control(effort: &Effort) {
    let counter = Instructions::from_here();
    let folder = temporary_folder();
    Whole::new(folder.path()).while_busy(|_, callers| {
        let before = (callers.made(), processor_seconds());
        std::thread::sleep(8 * effort.slices.length);
        let requests = (callers.made() - before.0).max(1) as f64;
        let nanoseconds = 0.02 * 1e9 * (processor_seconds() - before.1) / requests;
        let slices = Slices { rounds: effort.slices.rounds.div_ceil(2), ..effort.slices };
        for (what, nanoseconds) in [("and 2 % by hand", nanoseconds), ("and nothing more", 0.0)] {
            let spin = |on| callers.make_dearer_by(if on { nanoseconds as u64 } else { 0 });
            print_switched(what, &slices.run(counter.as_ref().ok(), || callers.made(), spin));
        }
    });
}

fn whole_recorded(effort: &Effort) {
    // Before there is a thread: those that this one starts count too, the recorder's among them.
    let counter = Instructions::from_here();
    let folder = temporary_folder();
    // Little memory for requests on their way: asking for it and giving it back would count in every slice, and in a
    // recording of hours it does not.
    let config = RecordConfig { buffer_bytes: 1 << 20, ..RecordConfig::new(folder.path().join("record")) };
    let (mut requests, mut lost, mut bytes) = (0, 0, 0);
    let (switched, own) = Whole::new(folder.path()).while_busy(|whole, callers| {
        let record = |on| {
            if on {
                whole.start_recording(&config);
            } else {
                let status = whole.stop_recording();
                (requests, lost) = (requests + status.requests, lost + status.requests_lost);
                bytes = status.bytes;
            }
        };
        let switched = effort.slices.run(counter.as_ref().ok(), || callers.made(), record);
        // The thread alone over whole blocks, at one go.
        whole.start_recording(&config);
        std::thread::sleep(4 * effort.long_slices.length);
        let own = processor_seconds_of("terrace-record");
        (switched, own / whole.stop_recording().requests.max(1) as f64)
    });
    print_switched("recorded", &switched);
    if let Err(error) = counter {
        println!("whole/zipf recorded: SKIPPED its instructions: this system counts none for us: {error}");
    }
    println!(
        "whole/zipf recorded: {:.1} bytes a request; {lost} of {requests} found no room; the recorder's thread takes \
         {:.0} ns of processor for each",
        bytes as f64 / requests.max(1) as f64,
        own * 1e9
    );
}

/// In slices of seconds: the watcher works now and then, and pauses for what it took to begin.
fn whole_watched(effort: &Effort) {
    let folder = temporary_folder();
    let (mut own, mut watched) = (0.0, 0.0);
    let switched = Whole::new(folder.path()).while_busy(|whole, callers| {
        let mut watcher = None;
        let watch = |on: bool| {
            if let Some((_, began)) = &watcher {
                own += processor_seconds_of("terrace-what-if");
                watched += Instant::elapsed(began).as_secs_f64();
            }
            watcher = on.then(|| (whole.watch(), Instant::now()));
        };
        effort.long_slices.run(None, || callers.made(), watch)
    });
    print_switched("watched", &switched);
    println!("whole/zipf watched: the watcher's thread took {:.2} % of one processor", 100.0 * own / watched);
}

fn print_switched(what: &str, switched: &Switched) {
    let (rate, processor) = (switched.rate(), switched.processor());
    let without_us = switched.processor_without() * 1e6;
    println!("whole/zipf {what}: {rate} times the requests a second of the same without");
    println!(
        "whole/zipf {what}: {processor} times the processor time, which is {without_us:.2} us a request"
    );
    if let Some(instructions) = switched.instructions() {
        println!(
            "whole/zipf {what}: {instructions} times the instructions, which are {:.0} a request",
            switched.instructions_without()
        );
    }
}

/// Nanoseconds of one of `count` runs of `work`.
fn time_each(count: usize, mut work: impl FnMut()) -> f64 {
    time(|| (0..count).for_each(|_| work())).as_nanos() as f64 / count as f64
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn ssd_append(effort: &Effort) {
    let (folder, source, bytes) = (temporary_folder(), source(), append_file_bytes());
    let mut cache = Demotions::new(&folder.path().join("ssd"), bytes);
    let mut plain = cache.plain(&source);
    let blocks = effort.append_bytes / BLOCK_BYTES;
    let rate = |took: Duration| effort.append_bytes as f64 / took.as_secs_f64() / 1e6;
    let mut blocks_a_write = Vec::new();
    let turns = Turns::run(
        effort.rounds,
        || {
            let took = time(|| blocks_a_write.push(cache.append(blocks as u64)));
            cache.settle();
            rate(took)
        },
        || rate(time(|| (0..blocks / APPEND_BLOCKS).for_each(|_| plain.append(APPEND_BLOCKS)))),
    );
    print_ratio("ssd/append", "plain pwritev of 512 KiB", &turns, "MB/s");
    println!(
        "ssd/append: {:.0} KiB a write",
        median(blocks_a_write.into_iter()) * BLOCK_BYTES as f64 / 1024.0
    );
}

fn ssd_read(effort: &Effort) {
    let folder = temporary_folder();
    let reads = SsdReads::new(folder.path());
    for callers in [1, 4, 16] {
        let rate = |took: Duration| effort.reads as f64 / took.as_secs_f64();
        let turns = Turns::run(
            effort.read_rounds,
            || rate(reads.time_cached(callers, effort.reads)),
            || rate(reads.time_plain(callers, effort.reads)),
        );
        print_ratio(&format!("ssd/read {callers} callers"), "plain preadv", &turns, "reads/s");
    }
}

fn flush_back_ssd(effort: &Effort) {
    let scenes = [
        (Places::Apart, 4, Destage::Later),
        (Places::Apart, 16, Destage::Later),
        (Places::Apart, 64, Destage::Later),
        (Places::Apart, 1024, Destage::Later),
        (Places::Apart, 16, Destage::Beside),
        (Places::InARow, 16, Destage::Later),
        (Places::InARow, 1024, Destage::Later),
    ];
    for (places, kib, destage) in scenes {
        let folder = temporary_folder();
        let scene = Flushes::new(folder.path(), kib << 10, places, destage);
        // Short turns, where threads that start together do not count: what slows both sides shows in both.
        for (callers, rounds, flushes) in
            [(1, effort.rounds * 8, effort.flushes / 8), (8, effort.rounds, effort.flushes)]
        {
            let rate = |took: Duration| flushes as f64 / took.as_secs_f64();
            let mut syncs = Vec::new();
            let ours = || {
                let before = scene.syncs();
                let took = scene.time_flushes(callers, flushes);
                syncs.push((scene.syncs() - before) as f64 / flushes as f64);
                rate(took)
            };
            let turns = Turns::run(rounds, ours, || rate(scene.time_plain(callers, flushes)));
            let what = format!("flush/back_ssd {kib} KiB {places:?} destage {destage:?} {callers} callers");
            print_ratio(&what, "plain pwritev and fdatasync", &turns, "flushes/s");
            println!(
                "{what}: {:.2} times as long as plain, {:.2} syncs a flush",
                1.0 / turns.ratio(),
                median(syncs.into_iter())
            );
        }
    }
}

fn print_ratio(what: &str, floor: &str, turns: &Turns, unit: &str) {
    let (ratio, best, ours, other) = (turns.ratio(), turns.best_ratio(), turns.ours(), turns.floor());
    println!("{what}: {ratio:.2} of {floor} ({ours:.0} of {other:.0} {unit}; best rounds {best:.2})");
}

fn ssd_recover(effort: &Effort) {
    let folder = temporary_folder();
    let file = CacheFile::new(folder.path(), recover_blocks(), DIRTY_PERCENT);
    for left in [Left::InOrder, Left::Open] {
        println!("{}", file.describe(left, &file.best_of(effort.rounds.min(7), left)));
    }
}

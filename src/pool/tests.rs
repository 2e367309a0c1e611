use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use terrace_tiers::ram::frames::Frames;
use terrace_tiers::testing::{Fault, MemoryDevice, Operation};

use super::*;

const FRAME_BYTES: usize = 4096;
const FRAME: u64 = FRAME_BYTES as u64;

/// A pool with one lane over one device.
struct Bench {
    pool: Pool,
    lane: Lane,
    device: Arc<MemoryDevice>,
    frames: Frames,
    answers: (Sender<Answer>, Receiver<Answer>),
}

/// What came of one request: its label, its first byte when it read, or its error.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    label: u64,
    result: Result<Option<u8>, String>,
}

impl Bench {
    fn new(threads: u32) -> Self {
        let pool = Pool::new();
        let lane = pool.lane(config(threads));
        let device = Arc::new(MemoryDevice::new(1 << 30));
        let frames = Frames::new(FRAME_BYTES, 512).expect("2 MiB can be mapped");
        Self { pool, lane, device, frames, answers: channel() }
    }

    /// Reads block `block`, one frame long; the answer's label is its number.
    fn read_request(&self, priority: Priority, block: u64) -> ReadRequest {
        let frames = vec![self.frames.alloc().expect("fewer requests than frames are under way")];
        let sender = self.answers.0.clone();
        let done: ReadDone = Box::new(move |frames, result| {
            let result = result.map(|()| Some(frames[0][0])).map_err(|error| error.to_string());
            sender.send(Answer { label: block, result }).expect("the test waits for it");
        });
        ReadRequest { priority, device: self.device.clone(), offset: block * FRAME, frames, done }
    }

    fn write_request(&self, priority: Priority, block: u64) -> WriteRequest {
        let mut frame = self.frames.alloc().expect("fewer requests than frames are under way");
        frame.fill(block as u8);
        let pieces = vec![WritePiece { frame: frame.freeze(), range: 0..FRAME_BYTES }];
        let sender = self.answers.0.clone();
        let done: WriteDone = Box::new(move |result| {
            let result = result.map(|()| None).map_err(|error| error.to_string());
            sender.send(Answer { label: block, result }).expect("the test waits for it");
        });
        WriteRequest { priority, device: self.device.clone(), offset: block * FRAME, pieces, done }
    }

    /// The next `count` answers.
    fn answers(&self, count: usize) -> Vec<Answer> {
        let next =
            || self.answers.1.recv_timeout(Duration::from_secs(60)).expect("every request is answered");
        (0..count).map(|_| next()).collect()
    }

    fn labels(&self, count: usize) -> Vec<u64> {
        self.answers(count).into_iter().map(|answer| answer.label).collect()
    }

    /// Keeps the only worker busy until the guard goes.
    fn hold_worker(&self) -> Sender<()> {
        let (release, held) = channel::<()>();
        let (started, is_started) = channel();
        let job = move || {
            started.send(()).expect("the test waits for it");
            // An error says that the guard went, which is what this waits for.
            let _ = held.recv();
        };
        self.lane.task(Priority::Foreground, Box::new(job));
        is_started.recv().expect("the worker runs it");
        release
    }
}

fn config(threads: u32) -> LaneConfig {
    LaneConfig { name: "test".into(), threads, queue_max: 8, merge_bytes_max: 1 << 20 }
}

#[test]
fn requests_that_lie_side_by_side_are_one_call_when_the_worker_comes_to_them() {
    let bench = Bench::new(1);
    let held = bench.hold_worker();
    for block in [5, 3, 4, 9, 6] {
        bench.lane.write(bench.write_request(Priority::Foreground, block));
    }
    for block in [20, 21] {
        bench.lane.read(bench.read_request(Priority::Foreground, block));
    }
    drop(held);
    assert_eq!(bench.labels(7), [3, 4, 5, 6, 9, 20, 21], "in order of address within a call");
    assert_eq!((bench.device.counters().writes, bench.device.counters().reads), (2, 1));
    let stats = bench.lane.stats();
    assert_eq!((stats.write_operations, stats.write_bytes), (2, 5 * FRAME));
    assert_eq!((stats.read_operations, stats.read_bytes), (1, 2 * FRAME));
    assert_eq!(stats.merged, 4);
    bench.lane.run_read(bench.read_request(Priority::Foreground, 4));
    assert_eq!(bench.answers(1)[0].result, Ok(Some(4)));
}

#[test]
fn a_call_grows_no_longer_than_its_bound_and_takes_no_less_urgent_neighbours() {
    let bench = Bench::new(1);
    let lane = bench.pool.lane(LaneConfig { merge_bytes_max: 2 * FRAME_BYTES, ..config(1) });
    let bench = Bench { lane, ..bench };
    let held = bench.hold_worker();
    for block in 0..5 {
        bench.lane.read(bench.read_request(Priority::Foreground, block));
    }
    drop(held);
    bench.answers(5);
    assert_eq!(bench.device.counters().reads, 3);
    let held = bench.hold_worker();
    bench.lane.read(bench.read_request(Priority::Background, 10));
    bench.lane.read(bench.read_request(Priority::Foreground, 11));
    drop(held);
    assert_eq!(bench.labels(2), [11, 10]);
    assert_eq!(bench.device.counters().reads, 5);
}

#[test]
fn an_error_hits_only_the_part_of_a_merged_call_that_it_belongs_to() {
    let bench = Bench::new(1);
    for operation in [Operation::Read, Operation::Write] {
        bench.device.fail(Fault::every(operation).within(FRAME..FRAME + 1));
    }
    let held = bench.hold_worker();
    for block in 0..3 {
        bench.lane.read(bench.read_request(Priority::Foreground, block));
        bench.lane.write(bench.write_request(Priority::Foreground, block));
    }
    drop(held);
    for answer in bench.answers(6) {
        assert_eq!(answer.result.is_err(), answer.label == 1, "{answer:?}");
    }
    let stats = bench.lane.stats();
    assert_eq!((stats.read_operations, stats.write_operations, stats.merges_failed), (4, 4, 2));
    assert_eq!(
        stats.read_operations + stats.write_operations + stats.merged - stats.merges_failed,
        6,
        "the law"
    );
}

#[test]
fn the_more_urgent_goes_first_and_writes_nobody_waits_for_sweep_by_address() {
    let bench = Bench::new(1);
    let held = bench.hold_worker();
    for block in [50, 10, 30] {
        bench.lane.write(bench.write_request(Priority::Background, block));
    }
    bench.lane.read(bench.read_request(Priority::Prefetch, 2));
    bench.lane.read(bench.read_request(Priority::Foreground, 90));
    bench.lane.read(bench.read_request(Priority::Foreground, 70));
    drop(held);
    assert_eq!(bench.labels(6), [90, 70, 2, 10, 30, 50]);
}

#[test]
fn background_work_goes_on_under_a_stream_of_reads() {
    let bench = Bench::new(1);
    let held = bench.hold_worker();
    bench.lane.write(bench.write_request(Priority::Background, 1000));
    for block in 0..100 {
        bench.lane.read(bench.read_request(Priority::Foreground, block * 2));
    }
    drop(held);
    let labels = bench.labels(101);
    let position = labels.iter().position(|&label| label == 1000).expect("it is answered");
    assert!(position <= 8, "after {position} reads");
}

#[test]
fn a_full_queue_holds_callers_back_but_never_a_completion() {
    let bench = Bench::new(1);
    let held = bench.hold_worker();
    for block in 0..8 {
        bench.lane.wait_for_room();
        bench.lane.read(bench.read_request(Priority::Foreground, block * 2));
    }
    let is_through = Arc::new(AtomicBool::new(false));
    let caller = std::thread::spawn({
        let (lane, is_through) = (bench.lane.clone(), is_through.clone());
        move || {
            lane.wait_for_room();
            is_through.store(true, Ordering::SeqCst);
        }
    });
    // A completion that waits for room and submits more than the queue holds.
    let (submitted, is_submitted) = channel();
    let lane = bench.lane.clone();
    let job = move || {
        for _ in 0..20 {
            lane.wait_for_room();
            let submitted = submitted.clone();
            lane.task(Priority::Foreground, Box::new(move || submitted.send(()).expect("the test waits")));
        }
    };
    bench.lane.task(Priority::Foreground, Box::new(job));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!is_through.load(Ordering::SeqCst), "the queue is full");
    drop(held);
    bench.answers(8);
    for _ in 0..20 {
        is_submitted.recv_timeout(Duration::from_secs(60)).expect("the completion is not held back");
    }
    caller.join().expect("the caller does not fail");
    bench.lane.wait_idle();
    assert_eq!(bench.lane.depth(), 0);
}

#[test]
fn a_shutdown_completes_what_is_queued_and_what_that_submits_to_other_lanes() {
    let bench = Bench::new(2);
    let other = bench.pool.lane(config(1));
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        let (other, again, count) = (other.clone(), bench.lane.clone(), count.clone());
        let last = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let second = move || again.task(Priority::Background, Box::new(last));
        let first = move || {
            std::thread::sleep(Duration::from_micros(100));
            other.task(Priority::Background, Box::new(second));
        };
        bench.lane.task(Priority::Background, Box::new(first));
    }
    bench.pool.shutdown();
    assert_eq!(count.load(Ordering::SeqCst), 100);
    bench.pool.shutdown();
}

#[test]
fn after_the_shutdown_requests_are_answered_with_an_error_and_tasks_still_run() {
    let bench = Bench::new(1);
    bench.pool.shutdown();
    bench.lane.read(bench.read_request(Priority::Foreground, 1));
    bench.lane.write(bench.write_request(Priority::Foreground, 2));
    bench.lane.run_read(bench.read_request(Priority::Foreground, 3));
    for (answer, label) in bench.answers(3).into_iter().zip([1, 2, 3]) {
        assert_eq!(answer.label, label);
        assert!(answer.result.is_err());
    }
    let is_run = Arc::new(AtomicBool::new(false));
    let set = is_run.clone();
    bench.lane.task(Priority::Foreground, Box::new(move || set.store(true, Ordering::SeqCst)));
    assert!(is_run.load(Ordering::SeqCst));
    assert_eq!(bench.lane.stats().refused, 4);
    bench.lane.wait_for_room();
    let late = bench.pool.lane(config(1));
    late.task(Priority::Foreground, Box::new(|| ()));
}

#[test]
fn the_last_owner_of_a_pool_may_be_one_of_its_own_completions() {
    let Bench { pool, lane, .. } = Bench::new(1);
    let (ended, is_ended) = channel();
    let job = move || {
        drop(pool);
        ended.send(()).expect("the test waits for it");
    };
    lane.task(Priority::Foreground, Box::new(job));
    is_ended.recv_timeout(Duration::from_secs(60)).expect("it does not wait for itself");
}

#[test]
fn a_panic_ends_neither_the_worker_nor_the_other_parts_of_a_call() {
    let bench = Bench::new(1);
    let held = bench.hold_worker();
    let mut bad = bench.read_request(Priority::Foreground, 0);
    bad.done = Box::new(|_, _| panic!("a panic that belongs to the test"));
    bench.lane.read(bad);
    bench.lane.read(bench.read_request(Priority::Foreground, 1));
    bench.lane.task(Priority::Background, Box::new(|| panic!("a panic that belongs to the test")));
    drop(held);
    assert_eq!(bench.labels(1), [1]);
    bench.lane.wait_idle();
    assert_eq!(bench.lane.stats().panics, 2);
    bench.lane.read(bench.read_request(Priority::Foreground, 2));
    assert_eq!(bench.labels(1), [2]);
}

/// A device that panics when it is read.
struct Panicking;

impl Device for Panicking {
    fn name(&self) -> String {
        "panicking".into()
    }
    fn len_bytes(&self) -> u64 {
        FRAME
    }
    fn read(&self, _: u64, _: &mut [io::IoSliceMut<'_>]) -> Result<()> {
        panic!("a panic that belongs to the test")
    }
    fn write(&self, _: u64, _: &[io::IoSlice<'_>]) -> Result<()> {
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_device_that_panics_answers_with_an_error() {
    let bench = Bench::new(1);
    let request = ReadRequest { device: Arc::new(Panicking), ..bench.read_request(Priority::Foreground, 0) };
    bench.lane.read(request);
    let error = bench.answers(1)[0].result.clone().expect_err("it cannot have read");
    assert!(error.contains("of panicking"), "{error}");
    bench.lane.wait_idle();
    assert_eq!(bench.frames.free_count(), bench.frames.count());
}

#[test]
fn a_single_request_wakes_a_single_thread() {
    let bench = Bench::new(8);
    bench.lane.wait_idle();
    for block in 0..50 {
        bench.lane.read(bench.read_request(Priority::Foreground, block));
        bench.answers(1);
    }
    assert!(bench.lane.stats().wake_ups <= 50, "{:?}", bench.lane.stats());
}

#[test]
fn many_callers_over_many_threads_get_every_answer_and_the_right_bytes() {
    let seed = fastrand::u64(..);
    let bench = Bench::new(4);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let bench = (&bench.lane, &bench.device, &bench.frames);
            scope.spawn(move || hammer(bench, caller, seed));
        }
    });
    bench.lane.wait_idle();
    let stats = bench.lane.stats();
    let run = stats.read_operations + stats.write_operations + stats.merged - stats.merges_failed;
    assert_eq!(run, 8 * 300, "seed {seed}");
    assert_eq!(bench.frames.free_count(), bench.frames.count());
}

/// 300 writes and reads of blocks of its own, one after the other.
fn hammer((lane, device, frames): (&Lane, &Arc<MemoryDevice>, &Frames), caller: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ caller);
    let mut twin = [0u8; 64];
    for _ in 0..300 {
        let index = random.usize(..64);
        let offset = (caller * 64 + index as u64) * FRAME;
        let (device, priority) = (device.clone() as Arc<dyn Device>, Priority::Foreground);
        let mut frame = frames.alloc().expect("each caller holds one frame");
        let (sender, answer) = channel();
        lane.wait_for_room();
        if random.bool() {
            twin[index] = random.u8(..);
            frame.fill(twin[index]);
            let pieces = vec![WritePiece { frame: frame.freeze(), range: 0..FRAME_BYTES }];
            let done: WriteDone =
                Box::new(move |result| sender.send((None, result.is_ok())).expect("waited for"));
            lane.write(WriteRequest { priority, device, offset, pieces, done });
        } else {
            let done: ReadDone = Box::new(move |frames, result| {
                sender.send((Some(frames[0][7]), result.is_ok())).expect("waited for");
            });
            lane.read(ReadRequest { priority, device, offset, frames: vec![frame], done });
        }
        let (found, is_ok) = answer.recv_timeout(Duration::from_secs(60)).expect("every request is answered");
        assert!(is_ok && found.is_none_or(|byte| byte == twin[index]), "seed {seed}");
    }
}

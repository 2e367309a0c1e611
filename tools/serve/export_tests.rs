//! The export over a volume on a device in memory.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::MemoryDevice;
use terrace::{BlockSize, Cache, Config, Device, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

use super::*;

const BLOCK: usize = 4096;
const DISK_BYTES: u64 = 4 << 20;

struct Bench {
    cache: Cache,
    device: Arc<MemoryDevice>,
    volume: Volume,
    export: VolumeExport,
}

impl Bench {
    fn new(mode: WriteMode, read_only: bool) -> Self {
        Self::of_size(16, mode, read_only)
    }

    fn of_size(blocks: u64, mode: WriteMode, read_only: bool) -> Self {
        Self::over(None, blocks, mode, read_only)
    }

    /// The first blocks are on the SSD alone.
    fn with_copies_on_the_ssd() -> (Self, Arc<MemoryDevice>) {
        let layout = Geometry::for_blocks(block_size(), 1024).expect("a layout");
        let ssd = Arc::new(MemoryDevice::new(layout.file_bytes()));
        let on_ssd = SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(1024));
        let bench = Self::over(Some(on_ssd), 16, WriteMode::Through, false);
        for block in 0..64 {
            bench.volume.read_ref(block * BLOCK as u64, BLOCK).expect("memory does not fail");
            bench.cache.settle().expect("the cache settles");
        }
        (bench, ssd)
    }

    fn over(ssd: Option<SsdConfig>, blocks: u64, mode: WriteMode, read_only: bool) -> Self {
        Self::of_disk(DISK_BYTES, ssd, blocks, mode, read_only)
    }

    fn of_disk(
        disk_bytes: u64,
        ssd: Option<SsdConfig>,
        blocks: u64,
        mode: WriteMode,
        read_only: bool,
    ) -> Self {
        let mut config = Config::new(RamSize::Blocks(blocks));
        config.block_size = block_size();
        (config.shards, config.slack_blocks, config.frame_wait_ms) = (Some(1), Some(4), 10);
        (config.ssd, config.ssd_threads) = (ssd, 1);
        let cache = Cache::open(&config).expect("the cache opens");
        let device = Arc::new(MemoryDevice::new(disk_bytes));
        let volume = cache.attach("disk", device.clone(), mode).expect("the volume attaches");
        let workers = Workers::new().expect("threads");
        let about = About { description: String::new(), read_only };
        let export = VolumeExport::new(volume.clone(), about, workers);
        Self { cache, device, volume, export }
    }

    /// Gives the device bytes that tell where they are from.
    fn fill(&self, bytes: u64) -> Vec<u8> {
        let content: Vec<u8> = (0..bytes).map(|at| (at ^ (at >> 9) ^ (at >> 18)) as u8).collect();
        self.device.write(0, &[std::io::IoSlice::new(&content)]).expect("memory does not fail");
        content
    }

    fn stored(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.device.read(offset, &mut [std::io::IoSliceMut::new(&mut buffer)]).expect("memory does not fail");
        buffer
    }

    /// How often each operation went well, and failed.
    fn counted(&self, operation: Operation) -> (u64, u64) {
        let snapshot = self.export.meter().snapshot().swap_remove(operation as usize);
        (snapshot.latency.count, snapshot.errors)
    }
}

fn block_size() -> BlockSize {
    BlockSize::new(BLOCK as u64).expect("a block size")
}

/// The end of a request, and where it says so.
fn done<T: Send + 'static>() -> (Done<T>, Receiver<Result<T>>) {
    let (sender, answers) = channel();
    (Done::call(move |answer| drop(sender.send(answer))), answers)
}

fn bytes_of(data: &Data) -> Vec<u8> {
    data.parts().flatten().copied().collect()
}

#[test]
fn a_read_that_finds_no_frame_waits_for_one_and_is_no_error() {
    let bench = Bench::new(WriteMode::Through, false);
    let last = DISK_BYTES - BLOCK as u64;
    bench.device.write(last, &[std::io::IoSlice::new(&[7; BLOCK])]).expect("memory does not fail");
    // Readers hold every frame there is.
    let mut held = Vec::new();
    while let Ok(blocks) = bench.volume.read_ref(held.len() as u64 * BLOCK as u64, BLOCK) {
        held.push(blocks);
    }
    let (done, answers) = done();
    bench.export.read(last, BLOCK as u32, done);
    assert!(answers.try_recv().is_err(), "there is no frame for it");
    drop(held);
    let data = answers.recv().expect("it is answered").expect("it is no error");
    assert_eq!(bytes_of(&data), [7; BLOCK]);
}

#[test]
fn a_read_larger_than_the_cache_is_answered_whole() {
    let bench = Bench::new(WriteMode::Back, false);
    let (done, answers) = done();
    bench.export.read(0, DISK_BYTES as u32, done);
    assert_eq!(answers.recv().expect("it is answered").expect("it is read").len_bytes() as u64, DISK_BYTES);
}

/// The helpers were the only ones to make a long read: four of them, and whoever waited for a frame waited for those too.
#[test]
fn a_long_read_needs_no_helper_wherever_its_blocks_are() {
    const LONG: u64 = 2 * LENT_BYTES_MAX as u64 + 3 * BLOCK as u64;
    let bench = Bench::of_disk(LONG, None, 2 * LONG / BLOCK as u64, WriteMode::Through, false);
    let content = bench.fill(LONG);
    let (go_on, waits) = channel::<()>();
    let waits = Arc::new(parking_lot::Mutex::new(waits));
    for _ in 0..PATIENT_THREADS {
        let waits = waits.clone();
        // Until the test has ended.
        bench.export.workers.patient.run(move || waits.lock().recv().unwrap_or(()));
    }
    for operation in [Operation::ReadDisk, Operation::ReadRam] {
        let (done, answers) = done();
        bench.export.read(1, LONG as u32 - 1, done);
        let data = if operation == Operation::ReadRam {
            answers.try_recv().expect("RAM has it")
        } else {
            answers.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for no helper")
        };
        assert!(bytes_of(&data.expect("it is read")) == content[1..]);
        assert_eq!(bench.counted(operation), (1, 0));
    }
    drop(go_on);
}

#[test]
fn a_long_read_that_finds_no_frame_for_a_piece_goes_on_with_that_one() {
    const LONG: u64 = 3 * LENT_BYTES_MAX as u64;
    const PIECE_BLOCKS: u64 = LENT_BYTES_MAX as u64 / BLOCK as u64;
    let bench = Bench::of_disk(LONG, None, PIECE_BLOCKS * 5 / 4, WriteMode::Through, false);
    let content = bench.fill(LONG);
    // Of the first piece a reader holds so many blocks that there are frames for the rest of it, and for no other piece.
    let held: Vec<_> = (0..PIECE_BLOCKS * 3 / 4)
        .map(|block| bench.volume.read_ref(block * BLOCK as u64, BLOCK).expect("there is a frame"))
        .collect();
    let (done, answers) = done();
    bench.export.read(0, LONG as u32, done);
    while bench.cache.stats().disk_reads < PIECE_BLOCKS {
        std::thread::yield_now();
    }
    assert!(answers.try_recv().is_err(), "there are no frames for the second piece");
    drop(held);
    let data = answers.recv().expect("it is answered").expect("it is read");
    assert!(bytes_of(&data) == content);
    assert_eq!(bench.counted(Operation::ReadDisk), (1, 0));
}

#[test]
fn reads_are_counted_by_where_they_were_answered() {
    let bench = Bench::new(WriteMode::Through, false);
    assert!(bench.export.try_read(0, 512).is_none(), "it is not in RAM yet");
    let (done, answers) = done();
    bench.export.read(0, 512, done);
    answers.recv().expect("it is answered").expect("it is read");
    assert_eq!(bench.counted(Operation::ReadDisk), (1, 0));
    let data = bench.export.try_read(100, 100).expect("it is in RAM").expect("it is no error");
    assert_eq!(data.len_bytes(), 100);
    assert_eq!(bench.counted(Operation::ReadRam), (1, 0));
}

#[test]
fn a_read_that_is_alone_needs_no_worker_for_what_the_ssd_has_and_one_of_several_waits_for_one() {
    let (bench, ssd) = Bench::with_copies_on_the_ssd();
    let (alone, one_of_several) = (done(), done());
    std::thread::scope(|scope| {
        // The only worker of the SSD writes what leaves RAM.
        ssd.stall(terrace::tiers::testing::Operation::Write);
        (0..16).for_each(|block| drop(bench.volume.read_ref((200 + block) * BLOCK as u64, BLOCK)));
        scope.spawn(|| bench.cache.settle().expect("the cache settles"));
        ssd.wait_until_held(1);
        bench.export.read_alone(0, 512, alone.0);
        bench.export.read(2 * BLOCK as u64, 512, one_of_several.0);
        let are_answered = [&alone.1, &one_of_several.1].map(|answers| answers.try_recv().is_ok());
        ssd.resume();
        assert_eq!(are_answered, [true, false]);
    });
    assert_eq!(one_of_several.1.recv().expect("it is answered").expect("it is read").len_bytes(), 512);
    assert_eq!((bench.counted(Operation::ReadSsd), bench.counted(Operation::ReadRam)), ((2, 0), (0, 0)));
}

#[test]
fn a_change_with_fua_is_answered_when_it_is_durable_and_one_without_may_be_before() {
    let bench = Bench::new(WriteMode::Back, false);
    let ended = |answers: Receiver<Result<()>>| answers.recv().expect("it is answered").expect("it is done");
    let (plain, answers) = done();
    bench.export.write(0, vec![1; 1000].into(), false, plain);
    ended(answers);
    let (sure, answers) = done();
    bench.export.write(8192, vec![2; 1000].into(), true, sure);
    ended(answers);
    assert!(bench.device.counters().syncs > 0);
    assert_eq!(bench.stored(8192, 1000), [2; 1000]);
    assert_eq!(bench.stored(0, 1000), [1; 1000], "a flush is of all that was acknowledged");
    let syncs = bench.device.counters().syncs;
    let (sure, answers) = done();
    bench.export.trim(8192, 4096, true, sure);
    ended(answers);
    assert!(bench.device.counters().syncs > syncs);
    assert_eq!(bench.stored(8192, 1000), [0; 1000]);
    let (sure, answers) = done();
    bench.export.write_zeroes(100, 500, Zeroing { fua: true, no_hole: true, fast: false }, sure);
    ended(answers);
    assert_eq!(bench.stored(0, 1000), [&[1; 100][..], &[0; 500], &[1; 400]].concat());
}

#[test]
fn a_device_that_fails_is_an_error_of_the_protocol_and_is_counted() {
    use terrace::tiers::testing::{Fault, Operation as On};
    let bench = Bench::new(WriteMode::Through, false);
    bench.device.fail(Fault { kind: std::io::ErrorKind::StorageFull, ..Fault::every(On::Write) });
    let (refused, answers) = done();
    bench.export.write(0, vec![1; 512].into(), false, refused);
    let failure = answers.recv().expect("it is answered").expect_err("there is no room");
    assert_eq!(failure.code, ErrorCode::NoSpace, "{failure}");
    assert_eq!(bench.counted(Operation::Write), (0, 1));
}

#[test]
fn what_is_done_piece_by_piece_ends_when_nobody_waits_for_it_any_more() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let bench = Bench::of_size(DISK_BYTES / BLOCK as u64, WriteMode::Through, false);
    let full = vec![7; DISK_BYTES as usize];
    bench.device.write(0, &[std::io::IoSlice::new(&full)]).expect("memory does not fail");
    let long = |begin: &dyn Fn(Done<()>)| {
        let (sender, answers) = channel();
        // It hangs up while the second of four pieces is under way.
        let asked = AtomicU64::new(0);
        let is_wanted = move || asked.fetch_add(1, Ordering::Relaxed) < 1;
        begin(Done::call_while(is_wanted, move |answer| drop(sender.send(answer))));
        let failure = answers.recv().expect("it ends").expect_err("it is not done");
        assert_eq!(failure.code, ErrorCode::Shutdown, "{failure}");
    };
    let how = Zeroing { fua: false, no_hole: true, fast: false };
    long(&|done| bench.export.write_zeroes(0, DISK_BYTES, how, done));
    let stored = bench.stored(0, DISK_BYTES as usize);
    let (zeroed, rest) = stored.split_at(2 * PIECE_BYTES as usize);
    assert!(zeroed.iter().all(|&byte| byte == 0) && rest.iter().all(|&byte| byte == 7));
    long(&|done| bench.export.cache(0, DISK_BYTES, done));
    assert_eq!(bench.counted(Operation::WriteZeroes), (0, 1));
    assert_eq!(bench.counted(Operation::Prefetch), (0, 1));
}

#[test]
fn zeros_that_wait_for_a_disk_hold_up_nobody_elses_questions() {
    use terrace::tiers::testing::Operation as On;
    let bench = Bench::of_size(DISK_BYTES / BLOCK as u64, WriteMode::Through, false);
    let how = Zeroing { fua: false, no_hole: true, fast: false };
    bench.device.stall(On::Write);
    let zeroed: Vec<_> = (0..2 * SLOW_THREADS as u64)
        .map(|piece| {
            let (done, answers) = done();
            bench.export.write_zeroes(piece * BLOCK as u64, BLOCK as u64, how, done);
            answers
        })
        .collect();
    bench.device.wait_until_held(1);
    let (asked, answers) = done();
    let query = StatusQuery { contexts: &[0, 1], offset: 0, bytes: DISK_BYTES, extents_max: 10 };
    bench.export.block_status(&query, asked);
    let answer = answers.recv_timeout(std::time::Duration::from_secs(20));
    bench.device.resume();
    assert_eq!(answer.expect("nobody waits for the disk").expect("it is no error").len(), 2);
    zeroed.iter().for_each(|answers| answers.recv().expect("it is answered").expect("it is done"));
}

#[test]
fn the_map_of_tiers_tells_ram_the_ssd_and_the_disk_apart() {
    const TIER: usize = 1;
    let (bench, _ssd) = Bench::with_copies_on_the_ssd();
    let first = || {
        let (asked, answers) = done();
        let query = StatusQuery { contexts: &[TIER], offset: 0, bytes: DISK_BYTES, extents_max: 100 };
        bench.export.block_status(&query, asked);
        let lists = answers.recv().expect("it is answered").expect("it is no error");
        assert_eq!(lists[0].iter().map(|extent| extent.bytes).sum::<u64>(), DISK_BYTES);
        // Nothing but these blocks was ever read.
        assert_eq!(lists[0].last().map(|extent| extent.flags), Some(0));
        lists[0][0]
    };
    let (ram, ssd, dirty) = (1, 2, 4);
    assert_eq!(first().flags, ssd);
    bench.volume.read_ref(0, BLOCK).expect("memory does not fail");
    assert_eq!(first(), Extent { bytes: BLOCK as u64, flags: ram | ssd });
    bench.volume.write(0, &[1; BLOCK]).expect("memory does not fail");
    assert_eq!(first().flags, ram | dirty, "what the SSD has is older, and no sync covers what the disk has");
    bench.volume.flush().expect("memory does not fail");
    assert_eq!(first().flags, ram);
}

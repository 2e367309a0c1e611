//! The three entries are one engine: the same bytes and errors, each answer once, and no more I/O than is needed.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use common::{BLOCK, block_on, bytes_of, content, eventually, held, seed, small, stored, without_hanging};
use terrace::tiers::testing::{MemoryDevice, Operation};
use terrace::{Answer, Blocks, Cache, Config, Error, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;
const MODES: [WriteMode; 3] = [WriteMode::Around, WriteMode::Through, WriteMode::Back];

fn open(config: &Config, device: &Arc<MemoryDevice>, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), mode).expect("the volume attaches");
    (cache, volume)
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Blocking,
    Callback,
    Future,
}

const ENTRIES: [Entry; 3] = [Entry::Blocking, Entry::Callback, Entry::Future];

impl Entry {
    fn read(self, volume: &Volume, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        let gather = |blocks: Blocks| {
            let mut buffer = vec![0; blocks.len_bytes()];
            blocks.copy_to(&mut buffer);
            buffer
        };
        match self {
            Self::Blocking => {
                let mut buffer = vec![0; bytes];
                volume.read(offset, &mut buffer).map(|_| buffer)
            }
            Self::Callback => once(|done| volume.read_with(offset, bytes, done)).map(gather),
            Self::Future => block_on(volume.read_async(offset, bytes)).map(gather),
        }
    }

    fn write(self, volume: &Volume, offset: u64, data: &[u8]) -> Result<Answer, Error> {
        match self {
            Self::Blocking => volume.write(offset, data),
            Self::Callback => once(|done| volume.write_with(offset, data.to_vec(), done)),
            Self::Future => block_on(volume.write_async(offset, data.to_vec())),
        }
    }

    fn flush(self, volume: &Volume) -> Result<(), Error> {
        match self {
            Self::Blocking => volume.flush(),
            Self::Callback => once(|done| volume.flush_with(done)),
            Self::Future => block_on(volume.flush_async()),
        }
    }
}

/// The answer of a callback; the channel closes when the callback is gone, so a second answer or none shows.
fn once<T: Send + 'static>(start: impl FnOnce(Box<dyn FnOnce(Result<T, Error>) + Send>)) -> Result<T, Error> {
    let (sender, receiver) = mpsc::channel();
    start(Box::new(move |answer| sender.send(answer).expect("it is waited for")));
    let answer = receiver.recv_timeout(Duration::from_secs(60)).expect("an answer comes");
    assert!(receiver.recv().is_err(), "one answer");
    answer
}

#[test]
fn the_three_entries_give_the_same() {
    let seed = seed();
    for mode in MODES {
        // A tail that is no whole block and no whole sector.
        let bytes = 100 * BLOCK + 1234;
        let device = Arc::new(MemoryDevice::patterned(bytes as u64, seed));
        let (cache, volume) = open(&small(32), &device, mode);
        let mut model = stored(&*device, 0, bytes);
        let mut random = fastrand::Rng::with_seed(seed);
        for step in 0..600 {
            let entry = ENTRIES[random.usize(..3)];
            let start = random.usize(..=bytes);
            let length = random.usize(..3 * BLOCK).min(bytes - start);
            match random.u8(..12) {
                0..5 => {
                    let fill: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                    model[start..start + length].copy_from_slice(&fill);
                    entry.write(&volume, start as u64, &fill).expect("a write succeeds");
                }
                5..10 => {
                    let found = entry.read(&volume, start as u64, length).expect("a read succeeds");
                    assert!(found == model[start..start + length], "seed {seed} step {step} {entry:?}");
                }
                10 => {
                    let past = bytes - start + 1;
                    let read = entry.read(&volume, start as u64, past);
                    assert!(matches!(read, Err(Error::OutOfRange { .. })), "{entry:?}");
                    let write = entry.write(&volume, start as u64, &vec![0; past]);
                    assert!(matches!(write, Err(Error::OutOfRange { .. })), "{entry:?}");
                }
                _ => {
                    entry.flush(&volume).expect("a flush succeeds");
                    assert!(stored(&*device, 0, bytes) == model, "seed {seed} step {step} {entry:?}");
                }
            }
        }
        volume.flush().expect("a flush succeeds");
        cache.assert_quiet();
    }
}

#[test]
fn a_hit_completes_before_the_call_returns() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (_cache, volume) = open(&held(32), &device, WriteMode::Back);
    bytes_of(&volume, 0, 4 * BLOCK);
    let is_done = Arc::new(AtomicBool::new(false));
    let set = |is_done: &Arc<AtomicBool>| {
        let is_done = is_done.clone();
        move || is_done.store(true, Ordering::SeqCst)
    };
    let done = set(&is_done);
    volume.read_with(0, 4 * BLOCK, move |answer| {
        assert_eq!(answer.expect("a read succeeds").answer().ram_blocks, 4);
        done();
    });
    assert!(is_done.swap(false, Ordering::SeqCst), "read");
    let done = set(&is_done);
    volume.write_with(0, content(0, 1), move |_| done());
    assert!(is_done.swap(false, Ordering::SeqCst), "write");
    let reads = device.counters().reads;
    assert_eq!(block_on(volume.read_async(0, BLOCK)).expect("a read succeeds").answer().ram_blocks, 1);
    assert_eq!(device.counters().reads, reads);
}

#[test]
fn many_threads_that_miss_one_block_read_it_once() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (cache, volume) = open(&small(32), &device, WriteMode::Back);
    device.stall(Operation::Read);
    let started = Barrier::new(17);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (volume, started, device) = (&volume, &started, &device);
            scope.spawn(move || {
                started.wait();
                let found = ENTRIES[thread % 3].read(volume, 7 * BLOCK_U64, BLOCK).expect("a read succeeds");
                assert!(found == stored(&**device, 7 * BLOCK_U64, BLOCK));
            });
        }
        started.wait();
        device.wait_until_held(1);
        device.resume();
    });
    // Each thread looked once itself.
    assert_eq!(device.counters().reads, 1 + 16);
    assert_eq!(cache.stats().disk_read_operations, 1);
    cache.assert_quiet();
}

#[test]
fn neighbours_that_one_call_misses_are_one_read() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (_cache, volume) = open(&small(32), &device, WriteMode::Back);
    let wanted = stored(&*device, 100, 12 * BLOCK);
    for (entry, reads) in ENTRIES.into_iter().zip([1, 0, 0]) {
        let before = device.counters().reads;
        assert!(entry.read(&volume, 100, 12 * BLOCK).expect("a read succeeds") == wanted);
        assert_eq!(device.counters().reads - before, reads, "{entry:?}");
    }
    let before = device.counters().reads;
    assert!(Entry::Future.read(&volume, 20 * BLOCK_U64, 8 * BLOCK).is_ok());
    assert_eq!(device.counters().reads - before, 1);
}

#[test]
fn a_sequential_fill_goes_below_in_runs_of_the_longest_length() {
    for mode in MODES {
        let device = Arc::new(MemoryDevice::new(512 * BLOCK_U64));
        let config = Config { run_bytes_max: 16 * BLOCK, ..held(512) };
        let (cache, volume) = open(&config, &device, mode);
        let bytes: Vec<u8> = (0..400).flat_map(|block| content(block, 1)).collect();
        match mode {
            WriteMode::Back => bytes.chunks(BLOCK).zip(0..).for_each(|(block, number)| {
                volume.write(number * BLOCK_U64, block).expect("a write succeeds");
            }),
            WriteMode::Through | WriteMode::Around | WriteMode::BackSsd => {
                volume.write(0, &bytes).expect("a write succeeds");
            }
        }
        volume.flush().expect("a flush succeeds");
        assert!(stored(&*device, 0, bytes.len()) == bytes);
        assert_eq!(device.counters().writes, 400 / 16, "{mode:?}");
        cache.assert_quiet();
    }
}

#[test]
fn bytes_within_a_sector_are_merged_with_what_is_around_them() {
    for mode in MODES {
        let bytes = 8 * BLOCK + 700;
        let device = Arc::new(MemoryDevice::patterned(bytes as u64, 3));
        let mut model = stored(&*device, 0, bytes);
        for length in 1..512 {
            // A cache of its own for each, so that nothing of the block is there.
            let (_cache, volume) = open(&held(16), &device, mode);
            let offset = (length * 67) % (bytes - length);
            model[offset..offset + length].fill(length as u8);
            volume.write(offset as u64, &model[offset..offset + length]).expect("a write succeeds");
            volume.flush().expect("a flush succeeds");
        }
        assert!(stored(&*device, 0, bytes) == model, "{mode:?}");
    }
}

#[test]
fn the_tail_of_a_volume_of_any_size_is_read_and_written_whole() {
    for mode in MODES {
        for tail in [1, 511, 512, 513, BLOCK - 1] {
            let bytes = 3 * BLOCK + tail;
            let device = Arc::new(MemoryDevice::patterned(bytes as u64, 5));
            let (cache, volume) = open(&small(16), &device, mode);
            let mut model = stored(&*device, 0, bytes);
            assert!(bytes_of(&volume, 0, bytes) == model, "{tail}");
            model[bytes - 1] ^= 1;
            volume.write(bytes as u64 - 1, &model[bytes - 1..]).expect("the last byte can be written");
            volume.flush().expect("a flush succeeds");
            assert!(stored(&*device, 0, bytes) == model, "{tail}");
            model[2 * BLOCK..].fill(9);
            volume.write(2 * BLOCK_U64, &model[2 * BLOCK..]).expect("the tail can be written");
            volume.flush().expect("a flush succeeds");
            assert!(stored(&*device, 0, bytes) == model, "{tail}");
            let past = volume.write(bytes as u64, &[0]);
            assert!(matches!(past, Err(Error::OutOfRange { .. })));
            cache.assert_quiet();
        }
    }
}

#[test]
fn many_callbacks_and_futures_at_once_are_each_answered_once() {
    without_hanging(|| {
        let device = Arc::new(MemoryDevice::patterned(512 * BLOCK_U64, 1));
        let (cache, volume) = open(&small(256), &device, WriteMode::Back);
        let answers = Arc::new(AtomicU64::new(0));
        for call in 0..2000u64 {
            let answers = answers.clone();
            let done = move || answers.fetch_add(1, Ordering::SeqCst);
            let block = call * 37 % 200;
            match call % 3 {
                0 => volume.write_with(block * BLOCK_U64, content(block, call), move |answer| {
                    answer.expect("a write succeeds");
                    done();
                }),
                1 => volume.flush_with(move |answer| {
                    answer.expect("a flush succeeds");
                    done();
                }),
                _ => volume.read_with(block * BLOCK_U64, BLOCK, move |answer| {
                    answer.expect("a read succeeds");
                    done();
                }),
            }
        }
        eventually("all are answered", || answers.load(Ordering::SeqCst) >= 2000);
        // All at once under one executor thread.
        let futures: Vec<_> =
            (0..200).map(|block| Box::pin(volume.read_async(block * BLOCK_U64, BLOCK))).collect();
        for (block, future) in (0..).zip(futures) {
            assert_eq!(block_on(future).expect("a read succeeds").len_bytes(), BLOCK, "{block}");
        }
        volume.flush().expect("a flush succeeds");
        assert_eq!(answers.load(Ordering::SeqCst), 2000);
        cache.assert_quiet();
    });
}

#[test]
fn a_read_that_is_tried_answers_what_is_in_ram_and_counts_nothing_else() {
    let device = Arc::new(MemoryDevice::new(8 * BLOCK_U64));
    let (cache, volume) = open(&held(8), &device, WriteMode::Back);
    for block in [0, 1, 3] {
        volume.write(block * BLOCK_U64, &content(block, 1)).expect("a write succeeds");
    }
    volume.write(2 * BLOCK_U64, &[5; 512]).expect("a write succeeds");
    let before = cache.stats();
    let uses = || (cache.stats().references, cache.stats().disk_read_operations);
    assert!(volume.try_read(0, 4 * BLOCK).is_none(), "most of block 2 is not there");
    assert!(volume.try_read(4 * BLOCK_U64, BLOCK).is_none());
    assert!(volume.try_read(0, 9 * BLOCK).is_none() && volume.try_read(u64::MAX, 2).is_none());
    assert_eq!(uses(), (before.references, 0), "nothing was read");

    let blocks = volume.try_read(100, 2 * BLOCK + 300).expect("it ends with the part that was written");
    assert_eq!(blocks.answer(), Answer { ram_blocks: 3, ..Answer::default() });
    let mut bytes = vec![0; blocks.len_bytes()];
    blocks.copy_to(&mut bytes);
    let all = [content(0, 1), content(1, 1), vec![5; 512]].concat();
    assert!(bytes == all[100..2 * BLOCK + 400]);
    assert_eq!(cache.stats().read_ram_hits, before.read_ram_hits + 3);
}

//! What a cache records of its callers, read again from the files.

mod broken;
#[path = "../common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{BLOCK, block_on, seed, small};
use terrace::tiers::testing::MemoryDevice;
use terrace::{Cache, Config, Error, RecordConfig, Volume, WriteMode};
use terrace_recording::{Kind, Lost, Reader, Request, Span};

const BLOCKS: u64 = 4096;

/// A folder for recordings.
struct Ground(tempfile::TempDir);

/// All that the files of a recording give.
#[derive(Default)]
struct Found {
    requests: Vec<Request>,
    /// What the volume of each request is called.
    names: Vec<String>,
    lost: Lost,
    /// How the last file ends, when that is not in order.
    end: Option<terrace_recording::Error>,
}

impl Ground {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("record")
    }

    fn config(&self) -> RecordConfig {
        RecordConfig::new(self.path())
    }

    fn found(&self) -> Found {
        found_at(&self.path())
    }
}

fn found_at(path: &Path) -> Found {
    let mut found = Found::default();
    for number in 1.. {
        let Ok(file) = File::open(format!("{}.{number}", path.display())) else { break };
        let mut reader = Reader::new(BufReader::new(file)).expect("a recording");
        loop {
            match reader.next_request() {
                Ok(Some(request)) => {
                    found.names.push(reader.volumes()[request.volume as usize].clone());
                    found.requests.push(request);
                }
                Ok(None) => break,
                Err(error) => {
                    found.end = Some(error);
                    break;
                }
            }
        }
        found.lost.add(reader.lost());
    }
    found
}

fn open(config: &Config) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = attach(&cache, "disk");
    (cache, volume)
}

fn attach(cache: &Cache, name: &str) -> Volume {
    let disk = Arc::new(MemoryDevice::new(BLOCKS * BLOCK as u64));
    cache.attach(name, disk, WriteMode::Back).expect("the volume attaches")
}

/// A request without its time and volume.
type Asked = (Kind, u64, u64);

fn asked(request: &Request) -> Asked {
    let Span::Bytes { offset, bytes } = request.span else { panic!("{request:?} counts ids") };
    (request.kind, offset, bytes)
}

/// Asks for something by one of the entries; what it was.
fn ask(volume: &Volume, random: &mut fastrand::Rng) -> Asked {
    let kind =
        [Kind::Read, Kind::Read, Kind::Read, Kind::Write, Kind::Discard, Kind::Flush][random.usize(..6)];
    // From parts of a block to more than one call takes at a time.
    let bytes = if random.u8(..10) == 0 { random.usize(1..100 * BLOCK) } else { random.usize(1..BLOCK) };
    let offset = random.u64(..(BLOCKS - 100) * BLOCK as u64);
    let (sender, receiver) = std::sync::mpsc::channel();
    let entry = random.u8(..4);
    let told = |result: terrace::Result<()>| result.expect("a memory device never fails");
    let done = move |result: terrace::Result<()>| sender.send(result).expect("it is waited for");
    match (kind, entry) {
        (Kind::Read, 0) => told(volume.read(offset, &mut vec![0; bytes]).map(drop)),
        (Kind::Read, 1) => {
            let bytes = bytes.min(8 * BLOCK);
            told(volume.read_ref(offset, bytes).map(drop));
            return (kind, offset, bytes as u64);
        }
        (Kind::Read, 2) => {
            let bytes = bytes.min(8 * BLOCK);
            // What is not answered from RAM was not asked.
            if volume.try_read(offset, bytes).is_none() {
                told(volume.read_ref(offset, bytes).map(drop));
            }
            return (kind, offset, bytes as u64);
        }
        (Kind::Read, _) => {
            let bytes = bytes.min(8 * BLOCK);
            // When no frame is free it says so, and was asked all the same.
            volume.read_with(offset, bytes, move |read| done(read.map(drop)));
            assert!(matches!(receiver.recv().expect("it ends"), Ok(()) | Err(Error::WouldBlock)));
            return (kind, offset, bytes as u64);
        }
        (Kind::Write, 0) => told(volume.write(offset, &vec![7; bytes]).map(drop)),
        (Kind::Write, 1) => {
            volume.write_with(offset, vec![7; bytes], move |written| done(written.map(drop)));
            told(receiver.recv().expect("it ends"));
        }
        (Kind::Write, _) => told(block_on(volume.write_async(offset, vec![7; bytes])).map(drop)),
        (Kind::Discard, 0) => told(volume.discard(offset, bytes as u64)),
        (Kind::Discard, _) => told(block_on(volume.discard_async(offset, bytes as u64))),
        (Kind::Flush, 0) => told(volume.flush()),
        (Kind::Flush, _) => told(block_on(volume.flush_async())),
    }
    if kind == Kind::Flush { (kind, 0, 0) } else { (kind, offset, bytes as u64) }
}

fn times_never_fall(found: &Found) {
    let times: Vec<u64> = found.requests.iter().filter_map(|request| request.time_ns).collect();
    assert_eq!(times.len(), found.requests.len());
    assert!(times.is_sorted());
}

#[test]
fn what_many_callers_ask_is_recorded_once_each() {
    let (seed, ground) = (seed(), Ground::new());
    let config = Config { shards: Some(5), record: Some(ground.config()), ..small(400) };
    let (cache, volume) = open(&config);
    let callers = std::thread::scope(|scope| {
        let run = |caller: u64| {
            let volume = &volume;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ caller);
                (0..2000).map(|_| ask(volume, &mut random)).collect::<Vec<_>>()
            })
        };
        let callers: Vec<_> = (0..4).map(run).collect();
        callers.into_iter().map(|caller| caller.join().expect("no caller panics")).collect::<Vec<_>>()
    });
    let status = cache.stop_recording().expect("it runs");
    assert_eq!((status.requests, status.requests_lost, status.files), (8000, 0, 1), "{status:?}");
    assert!(!status.is_running && status.failure.is_none(), "{status:?}");
    let found = ground.found();
    times_never_fall(&found);
    assert!(found.end.is_none() && found.names.iter().all(|name| name == "disk"));
    let mut counts: HashMap<Asked, i64> = HashMap::new();
    callers.iter().flatten().for_each(|asked| *counts.entry(*asked).or_default() += 1);
    found.requests.iter().for_each(|request| *counts.entry(asked(request)).or_default() -= 1);
    counts.retain(|_, count| *count != 0);
    assert!(counts.is_empty(), "made and not found, or found and not made: {counts:?}");
    // After its end nothing is recorded any more.
    volume.flush().expect("a memory device never fails");
    drop((volume, cache));
    assert_eq!(ground.found().requests.len(), 8000);
}

#[test]
fn recorded_times_never_fall_and_are_those_of_the_calls() {
    let ground = Ground::new();
    let (cache, volume) = open(&Config { shards: Some(7), ..small(400) });
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let before = now().as_nanos() as u64;
    cache.start_recording(&ground.config()).expect("the folder can be written");
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let volume = &volume;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(caller);
                // Hits in RAM among them, which come close together.
                for _ in 0..50_000 {
                    let offset = random.u64(..200) * BLOCK as u64;
                    volume.read_ref(offset, BLOCK).expect("a memory device never fails");
                }
            });
        }
    });
    let status = cache.stop_recording().expect("it runs");
    let after = now().as_nanos() as u64;
    let found = ground.found();
    assert_eq!((found.requests.len(), status.requests_lost), (200_000, 0));
    times_never_fall(&found);
    let time = |request: &Request| request.time_ns.expect("checked above");
    // The clock of the system may be moved meanwhile, by a little.
    let slack = 1_000_000_000;
    assert!(time(&found.requests[0]) + slack >= before && time(&found.requests[199_999]) <= after + slack);
}

#[test]
fn one_caller_finds_his_requests_in_order() {
    let (seed, ground) = (seed(), Ground::new());
    let (cache, volume) = open(&Config { shards: Some(6), ..small(400) });
    let config = RecordConfig { stamp_every: 1, ..ground.config() };
    cache.start_recording(&config).expect("the folder can be written");
    let mut random = fastrand::Rng::with_seed(seed);
    let made: Vec<Asked> = (0..5000).map(|_| ask(&volume, &mut random)).collect();
    cache.close().expect("a memory device never fails");
    let found = ground.found();
    assert!(found.requests.iter().map(asked).eq(made));
    assert!(found.end.is_none(), "a close ends the recording in order");
}

#[test]
fn what_is_refused_at_once_is_not_recorded() {
    let ground = Ground::new();
    let (cache, volume) = open(&Config { record: Some(ground.config()), ..small(400) });
    let other = attach(&cache, "other");
    let end = BLOCKS * BLOCK as u64;
    assert!(volume.read(end, &mut [0]).is_err());
    assert!(volume.read_ref(u64::MAX, 2).is_err());
    assert!(volume.write(end - 1, &[0; 2]).is_err());
    assert!(volume.discard(end, 1).is_err());
    other.detach().expect("nothing is dirty");
    assert!(other.read(0, &mut [0]).is_err() && other.flush().is_err());
    volume.read(end - 1, &mut [0]).expect("the last byte");
    cache.close().expect("nothing is dirty");
    assert!(volume.read(0, &mut [0]).is_err());
    assert_eq!(ground.found().requests.iter().map(asked).collect::<Vec<_>>(), [(Kind::Read, end - 1, 1)]);
}

#[test]
fn a_volume_that_comes_back_is_the_same_in_the_recording() {
    let ground = Ground::new();
    let (cache, first) = open(&Config { record: Some(ground.config()), ..small(400) });
    let second = attach(&cache, "second");
    first.read(0, &mut [0]).expect("a memory device never fails");
    second.read(0, &mut [0]).expect("a memory device never fails");
    while cache.record_status().expect("it runs").requests < 2 {
        std::thread::yield_now();
    }
    first.detach().expect("nothing is dirty");
    attach(&cache, "disk").read(0, &mut [0]).expect("a memory device never fails");
    cache.close().expect("nothing is dirty");
    let found = ground.found();
    assert_eq!(found.names, ["disk", "second", "disk"]);
    assert_eq!(found.requests.iter().map(|request| request.volume).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn what_finds_no_room_is_lost_counted_and_dated() {
    let ground = Ground::new();
    let (cache, volume) = open(&small(400));
    let config = RecordConfig { buffer_bytes: 0, ..ground.config() };
    cache.start_recording(&config).expect("the folder can be written");
    let mut made = 0;
    // Faster than the recorder empties a stock of one chunk; in the end it is.
    while cache.record_status().expect("it runs").requests_lost == 0 {
        (0..10_000).for_each(|_| drop(volume.read_ref(0, BLOCK).expect("a memory device never fails")));
        made += 10_000;
    }
    let status = cache.stop_recording().expect("it runs");
    assert_eq!(status.requests + status.requests_lost, made, "{status:?}");
    let found = ground.found();
    assert_eq!((found.requests.len() as u64, found.lost.requests), (status.requests, status.requests_lost));
    let (from, to) = found.lost.times_ns.expect("some were lost");
    assert!(from <= to && from >= found.requests[0].time_ns.expect("it has times"));
}

#[test]
fn a_recording_begins_again_behind_the_last_one_and_one_runs_at_a_time() {
    let ground = Ground::new();
    let (cache, volume) = open(&small(400));
    assert_eq!((cache.record_status(), cache.stop_recording()), (None, None));
    for life in 1..=3 {
        cache.start_recording(&ground.config()).expect("the folder can be written");
        let refused = cache.start_recording(&ground.config());
        assert!(matches!(refused, Err(Error::Config(what)) if what.contains("stop it first")));
        volume.read(life * BLOCK as u64, &mut [0]).expect("a memory device never fails");
        let status = cache.stop_recording().expect("it ran");
        assert_eq!((status.requests, status.files), (1, life));
        assert_eq!(cache.record_status(), Some(status.clone()));
        assert_eq!(cache.stop_recording(), Some(status), "a second stop changes nothing");
        volume.flush().expect("a memory device never fails");
    }
    let wanted = [1, 2, 3].map(|life| (Kind::Read, life * BLOCK as u64, 1));
    assert_eq!(ground.found().requests.iter().map(asked).collect::<Vec<_>>(), wanted);
}

#[test]
fn what_cannot_be_recorded_is_refused_with_the_remedy_and_leaves_nothing() {
    let ground = Ground::new();
    let away = RecordConfig::new(ground.0.path().join("no/such/folder"));
    let refused = Cache::open(&Config { record: Some(away.clone()), ..small(400) });
    let Err(error) = refused else { panic!("there is no such folder") };
    assert!(error.to_string().contains("no/such/folder"), "{error}");
    let (cache, _volume) = open(&small(400));
    assert!(cache.start_recording(&away).is_err());
    let tiny = RecordConfig { bytes_max: 1 << 20, ..ground.config() };
    assert!(matches!(cache.start_recording(&tiny), Err(Error::Config(what)) if what.contains("33554432")));
    let unstamped = RecordConfig { stamp_every: 0, ..ground.config() };
    assert!(matches!(cache.start_recording(&unstamped), Err(Error::Config(_))));
    assert_eq!(std::fs::read_dir(ground.0.path()).expect("our folder").count(), 0);
    // What failed does not stand in the way of what works.
    cache.start_recording(&ground.config()).expect("the folder can be written");
    cache.close().expect("nothing is dirty");
    assert!(matches!(cache.start_recording(&ground.config()), Err(Error::Closed)));
}

//! What the tests of the whole cache share.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

mod hanging;

use std::future::Future;
use std::io::IoSliceMut;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use terrace::tiers::backing::file::FileBacking;
use terrace::tiers::ssd::Geometry;
use terrace::{BlockSize, Config, Device, RamSize, Volume};

pub(crate) use hanging::without_hanging;

/// A folder for one test: a backing file and a cache file, gone when it ends.
pub(crate) struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub(crate) fn ssd(&self) -> PathBuf {
        self.folder.path().join("ssd")
    }

    /// The backing file, made with `bytes` zeros when it is not there.
    pub(crate) fn backing(&self, bytes: u64) -> FileBacking {
        if !self.disk().exists() {
            return FileBacking::create(self.disk(), bytes).expect("the backing file can be made");
        }
        FileBacking::open(self.disk()).expect("the backing file can be opened")
    }
}

/// A seed that varies from run to run, or the one in `TERRACE_SEED`; printed, and so shown when the test fails.
#[expect(clippy::print_stdout, reason = "a failing test names its seed")]
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("TERRACE_SEED") {
        Ok(seed) => seed.parse().expect("TERRACE_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("seed {seed}");
    seed
}

/// Blocks of these tests, in bytes.
pub(crate) const BLOCK: usize = 4096;

/// A cache of `ram_blocks` small blocks in one shard.
pub(crate) fn small(ram_blocks: u64) -> Config {
    let mut config = Config::new(RamSize::Blocks(ram_blocks));
    config.block_size = BlockSize::new(BLOCK as u64).expect("a block size");
    config.shards = Some(1);
    config
}

/// As [`small`], with write-back that waits until it is asked: nobody sees an hour pass.
pub(crate) fn held(ram_blocks: u64) -> Config {
    Config { writeback_delay_ms: 3_600_000, dirty_high: 0.9, dirty_low: 0.9, ..small(ram_blocks) }
}

/// A device for a cache file of `blocks` small blocks, of any content.
pub(crate) fn ssd_bytes(blocks: u64) -> u64 {
    let size = BlockSize::new(BLOCK as u64).expect("a block size");
    Geometry::for_blocks(size, blocks).expect("a layout").file_bytes()
}

/// The bytes of `device` as they are now.
pub(crate) fn stored(device: &dyn Device, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    device.read(offset, &mut [IoSliceMut::new(&mut buffer)]).expect("the device reads");
    buffer
}

/// What `volume` reads as.
pub(crate) fn bytes_of(volume: &Volume, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    volume.read(offset, &mut buffer).expect("a read succeeds");
    buffer
}

/// The number `number` of block `block`'s contents.
pub(crate) fn content(block: u64, number: u64) -> Vec<u8> {
    let word = (block << 32 | number).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK).collect()
}

/// Waits for what other threads do in their own time; the limit is there against hangs alone.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(60)),
        }
    }
}

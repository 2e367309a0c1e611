//! Reading from the SSD tier through the cache: all blocks are there and RAM holds next to none of them. And the same
//! places of the same file, read plainly.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use terrace::{Cache, Config, RamSize, SsdConfig, SsdSize, Volume, WriteMode};
use terrace_tiers::ram::frames::Frames;

use super::{BLOCK_BYTES, NoDisk};
use crate::measure::time_callers;
use crate::plain::PlainFile;
use crate::workload::{Pattern, Workload};

/// Blocks on the SSD; 192 MiB.
const BLOCKS: u32 = 12 << 10;
/// Blocks in RAM: fewer than pass between two requests for the same block, by far.
const RAM_BLOCKS: u64 = 64;

/// Frames of either side beyond those of the resident blocks. 8 MiB in all, so that huge pages back them: a block is
/// one piece for the device then.
const SLACK_FRAMES: u32 = 448;
/// Frames that the plain side fills in turn: a cache fills another frame each time, too, and memory that was just
/// used would flatter the floor.
const FRAMES: u32 = RAM_BLOCKS as u32 + SLACK_FRAMES;

pub struct SsdReads {
    cache: Cache,
    volume: Volume,
    /// Every block once, in a random order; all callers walk it together, round and round.
    order: Vec<u64>,
    next: AtomicUsize,
    plain: PlainFile,
    plain_frames: Frames,
    /// As many places in the file, in a random order of their own.
    places: Vec<u64>,
    next_place: AtomicUsize,
}

impl SsdReads {
    /// `folder` gets the cache file.
    pub fn new(folder: &Path) -> Self {
        let path = folder.join("ssd-read");
        let (cache, volume) = open(&path);
        fill(&cache, &volume);
        Self {
            cache,
            volume,
            order: Workload::new(Pattern::Shuffled, BLOCKS, 1).offsets(BLOCKS as usize, BLOCK_BYTES),
            next: AtomicUsize::new(0),
            plain: PlainFile::open(&path),
            plain_frames: touched_frames(),
            // The log is written from the start of the file, so these are places with blocks in them.
            places: Workload::new(Pattern::Shuffled, BLOCKS, 2).offsets(BLOCKS as usize, BLOCK_BYTES),
            next_place: AtomicUsize::new(0),
        }
    }

    /// `count` reads through the cache by `callers` threads together.
    pub fn time_cached(&self, callers: usize, count: usize) -> Duration {
        let ssd_blocks = AtomicU64::new(0);
        let before = self.cache.stats();
        let took = time_callers(callers, |caller| {
            let mut mine = 0;
            for _ in share(count, callers, caller) {
                let offset = self.order[self.next.fetch_add(1, Ordering::Relaxed) % self.order.len()];
                let blocks = self.volume.read_ref(offset, BLOCK_BYTES).expect("the SSD can be read");
                mine += u64::from(blocks.answer().ssd_blocks);
            }
            ssd_blocks.fetch_add(mine, Ordering::Relaxed);
        });
        let ssd_blocks = ssd_blocks.into_inner();
        assert_eq!(ssd_blocks, count as u64, "every block came from the SSD");
        let stats = self.cache.stats();
        assert_eq!(
            stats.ssd_read_operations - before.ssd_read_operations,
            count as u64,
            "by a read of its own"
        );
        took
    }

    /// As many reads of the same file without a cache.
    pub fn time_plain(&self, callers: usize, count: usize) -> Duration {
        let held_max = FRAMES as usize / callers - 1;
        time_callers(callers, |caller| {
            let mut held = VecDeque::with_capacity(held_max);
            for _ in share(count, callers, caller) {
                let mut buffer = self.plain_frames.alloc().expect("each caller holds its share at most");
                let place = self.next_place.fetch_add(1, Ordering::Relaxed) % self.places.len();
                self.plain.read(self.places[place], &mut [IoSliceMut::new(&mut buffer)]);
                held.push_back(buffer);
                if held.len() == held_max {
                    held.pop_front();
                }
            }
        })
    }
}

/// Frames that the kernel has given memory to, as those of a cache that is in use.
fn touched_frames() -> Frames {
    let frames = Frames::new(BLOCK_BYTES, FRAMES).expect("the frames fit RAM");
    let mut all: Vec<_> = (0..FRAMES).map(|_| frames.alloc().expect("all are free")).collect();
    all.iter_mut().for_each(|frame| frame.fill(1));
    drop(all);
    frames
}

/// The part of `count` that caller number `caller` of `callers` does.
fn share(count: usize, callers: usize, caller: usize) -> std::ops::Range<usize> {
    count * caller / callers..count * (caller + 1) / callers
}

fn open(path: &Path) -> (Cache, Volume) {
    let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
    config.slack_blocks = Some(SLACK_FRAMES);
    config.ssd = Some(SsdConfig::new(PathBuf::from(path), SsdSize::Blocks(u64::from(BLOCKS) * 5 / 4)));
    let cache = Cache::open(&config).expect("the cache opens");
    let len_bytes = u64::from(BLOCKS) * BLOCK_BYTES as u64;
    let disk = NoDisk { len_bytes, content_bytes: len_bytes };
    let volume = cache.attach("bench", Arc::new(disk), WriteMode::Through).expect("a volume attaches");
    (cache, volume)
}

/// Reads until the SSD has every block: those that are evicted from RAM go there.
fn fill(cache: &Cache, volume: &Volume) {
    for round in 0.. {
        assert!(round < 20, "{} of {BLOCKS} blocks are on the SSD", cache.stats().ssd.cached_blocks);
        // The first blocks once more: they drive the last ones out of RAM.
        for block in (0..u64::from(BLOCKS)).chain(0..2 * RAM_BLOCKS) {
            volume.read_ref(block * BLOCK_BYTES as u64, BLOCK_BYTES).expect("the SSD can be read");
            if block % 32 == 0 {
                // So many at a time find room on their way to the SSD; what finds none is dropped.
                cache.settle().expect("nothing is dirty");
            }
        }
        if cache.stats().ssd.cached_blocks == u64::from(BLOCKS) {
            break;
        }
    }
    assert!(cache.stats().ssd_direct, "the temporary folder has direct I/O; TMPDIR names another one");
}

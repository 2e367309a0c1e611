//! Which parts of a volume are holes, as a copy tool asks: no data is ever denied, whatever is still on its way.

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, OnceLock};

use common::{BLOCK, Files, bytes_of, held, seed, small, ssd_bytes};
use terrace::tiers::Result as TierResult;
use terrace::tiers::device::Extent;
use terrace::tiers::testing::MemoryDevice;
use terrace::{Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;
const DISK_BLOCKS: u64 = 64;

const HOLE: bool = true;
const DATA: bool = false;

fn open_on_file(files: &Files, config: &Config, mode: WriteMode) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let disk = Arc::new(files.backing(DISK_BLOCKS * BLOCK_U64));
    let volume = cache.attach("disk", disk, mode).expect("the volume attaches");
    (cache, volume)
}

/// What is said of each block, asked in one call and, where that ends early, in more.
fn kinds(volume: &Volume, blocks: std::ops::Range<u64>) -> Vec<bool> {
    let (mut at, end) = (blocks.start * BLOCK_U64, blocks.end * BLOCK_U64);
    let mut kinds = Vec::new();
    while at < end {
        let extents = volume.extents(at, end - at, 1000).expect("the volume answers");
        assert!(!extents.is_empty(), "at least one");
        assert!(extents.windows(2).all(|pair| pair[0].is_hole != pair[1].is_hole), "joined: {extents:?}");
        for extent in extents {
            assert!(extent.bytes > 0 && extent.bytes % BLOCK_U64 == 0, "{extent:?} at {at}");
            kinds.extend((0..extent.bytes / BLOCK_U64).map(|_| extent.is_hole));
            at += extent.bytes;
        }
    }
    assert_eq!(at, end, "nothing beyond what was asked");
    kinds
}

#[test]
fn what_is_dirty_in_ram_is_data_and_what_was_discarded_is_a_hole_before_the_disk_knows() {
    let files = Files::new();
    let (cache, volume) = open_on_file(&files, &held(32), WriteMode::Back);
    assert_eq!(kinds(&volume, 0..8), [HOLE; 8], "the file is sparse");
    volume.write(BLOCK_U64, &[1; BLOCK]).expect("a write succeeds");
    volume.write(3 * BLOCK_U64 + 512, &[1; 512]).expect("a write succeeds");
    assert_eq!(kinds(&volume, 0..5), [HOLE, DATA, HOLE, DATA, HOLE]);
    volume.flush().expect("the disk takes all");
    assert_eq!(kinds(&volume, 0..5), [HOLE, DATA, HOLE, DATA, HOLE]);
    volume.discard(BLOCK_U64, 2 * BLOCK_U64).expect("a discard succeeds");
    assert_eq!(kinds(&volume, 0..5), [HOLE, HOLE, HOLE, DATA, HOLE]);
    volume.write(2 * BLOCK_U64, &[2; 512]).expect("a write succeeds");
    assert_eq!(kinds(&volume, 0..5), [HOLE, HOLE, DATA, DATA, HOLE], "written since");
    volume.flush().expect("the disk takes all");
    assert_eq!(kinds(&volume, 0..5), [HOLE, HOLE, DATA, DATA, HOLE]);
    cache.close().expect("nothing is dirty");
    assert!(matches!(volume.extents(0, BLOCK_U64, 1), Err(Error::Closed)));
}

#[test]
fn what_only_the_log_has_is_data_and_a_discard_in_it_is_a_hole() {
    let files = Files::new();
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(1024)).named("ssd"));
    let ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(1024)));
    let (cache, volume) = open_on_file(&files, &Config { ssd, ..small(32) }, WriteMode::BackSsd);
    for block in 0..4 {
        volume.write(block * BLOCK_U64, &[1; BLOCK]).expect("a write succeeds");
    }
    volume.flush().expect("the log takes all");
    assert_eq!(kinds(&volume, 0..5), [DATA, DATA, DATA, DATA, HOLE]);
    volume.discard(BLOCK_U64, BLOCK_U64).expect("a discard succeeds");
    volume.flush().expect("the log takes it");
    assert_eq!(kinds(&volume, 0..5), [DATA, HOLE, DATA, DATA, HOLE]);
    volume.set_mode(WriteMode::Through).expect("the log is destaged");
    volume.flush().expect("the disk takes all");
    assert_eq!(kinds(&volume, 0..5), [DATA, HOLE, DATA, DATA, HOLE]);
    cache.close().expect("nothing is dirty");
}

/// A device of holes and data by block that, when asked, answers as of now and then has its volume flushed: by the time the
/// answer is there, nothing is dirty any more.
struct Racing {
    device: MemoryDevice,
    volume: OnceLock<Volume>,
}

impl Device for Racing {
    fn name(&self) -> String {
        "racing".into()
    }

    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> TierResult<()> {
        self.device.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> TierResult<()> {
        self.device.write(offset, buffers)
    }

    fn sync(&self) -> TierResult<()> {
        self.device.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> TierResult<()> {
        self.device.discard(offset, bytes)
    }

    fn extents(&self, offset: u64, bytes: u64, _count_max: usize) -> TierResult<Vec<Extent>> {
        let is_hole = |at: u64| common::stored(&self.device, at, BLOCK).iter().all(|&byte| byte == 0);
        let extent = |index| Extent { bytes: BLOCK_U64, is_hole: is_hole(offset + index * BLOCK_U64) };
        let found = (0..bytes / BLOCK_U64).map(extent).collect();
        self.volume.get().expect("it was attached").flush().expect("memory does not fail");
        Ok(found)
    }
}

#[test]
fn a_hole_below_that_is_filled_before_the_tiers_are_asked_is_data() {
    let cache = Cache::open(&held(32)).expect("the cache opens");
    let device = MemoryDevice::new(DISK_BLOCKS * BLOCK_U64);
    let device = Arc::new(Racing { device, volume: OnceLock::new() });
    let volume = cache.attach("disk", device.clone(), WriteMode::Back).expect("the volume attaches");
    assert!(device.volume.set(volume.clone()).is_ok());
    volume.write(2 * BLOCK_U64, &[1; BLOCK]).expect("a write succeeds");
    assert_eq!(kinds(&volume, 0..4), [HOLE, HOLE, DATA, HOLE], "dirty when it was asked");
    assert_eq!(kinds(&volume, 0..4), [HOLE, HOLE, DATA, HOLE], "below since");
    volume.discard(2 * BLOCK_U64, BLOCK_U64).expect("a discard succeeds");
    assert_eq!(kinds(&volume, 0..4), [HOLE; 4]);
}

#[test]
fn whatever_is_written_and_discarded_on_a_real_file_no_data_is_called_a_hole() {
    let mut random = fastrand::Rng::with_seed(seed());
    for mode in [WriteMode::Back, WriteMode::Through, WriteMode::Around, WriteMode::BackSsd] {
        let files = Files::new();
        let ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(1024)));
        let config = Config { ssd, writeback_delay_ms: 0, ..small(16) };
        let (_cache, volume) = open_on_file(&files, &config, mode);
        for step in 0..300 {
            let offset = random.u64(..DISK_BLOCKS * BLOCK_U64 - 1);
            let bytes = random.u64(1..=(DISK_BLOCKS * BLOCK_U64 - offset).min(3 * BLOCK_U64));
            match random.u8(..8) {
                0 => volume.flush().expect("the disk takes all"),
                1 | 2 => volume.discard(offset, bytes).expect("a discard succeeds"),
                _ => drop(volume.write(offset, &vec![7; bytes as usize]).expect("a write succeeds")),
            }
            let count_max = random.usize(1..5);
            let extents = volume.extents(offset, bytes, count_max).expect("the volume answers");
            assert!((1..=count_max).contains(&extents.len()), "step {step} in {mode:?}: {extents:?}");
            let mut at = offset;
            for extent in extents {
                assert!(extent.bytes > 0);
                let found = bytes_of(&volume, at, extent.bytes as usize);
                let has_data = found.iter().any(|&byte| byte != 0);
                assert!(!(extent.is_hole && has_data), "step {step} in {mode:?}: {extent:?} at {at}");
                at += extent.bytes;
            }
            assert!(at <= offset + bytes, "nothing beyond what was asked");
        }
    }
}

#[test]
fn an_answer_has_at_most_so_many_pieces_and_ends_with_the_volume() {
    let files = Files::new();
    let (_cache, volume) = open_on_file(&files, &held(64), WriteMode::Back);
    for block in (0..DISK_BLOCKS).step_by(2) {
        volume.write(block * BLOCK_U64, &[1; BLOCK]).expect("a write succeeds");
    }
    let all = volume.extents(0, DISK_BLOCKS * BLOCK_U64, 5).expect("the volume answers");
    assert_eq!(all.len(), 5);
    volume.flush().expect("the disk takes all");
    for count_max in 1..5 {
        let below = volume.extents(0, DISK_BLOCKS * BLOCK_U64, count_max).expect("the volume answers");
        assert_eq!(below, all[..count_max], "the disk is asked for no more");
    }
    let one = volume.extents(BLOCK_U64 + 100, 50, 5).expect("the volume answers");
    assert_eq!(one, [Extent { bytes: 50, is_hole: true }]);
    let past = volume.extents(DISK_BLOCKS * BLOCK_U64 - 10, 20, 5);
    assert!(matches!(past, Err(Error::OutOfRange { .. })), "{past:?}");
}

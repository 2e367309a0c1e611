//! An SSD that is away, or comes back: whoever opens the volume without it is told what it has, and an SSD that something
//! was written past is not believed (rule 8).

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use common::{BLOCK, Files, bytes_of, content, eventually, small, ssd_bytes, stored};
use terrace::tiers::device::Identity;
use terrace::tiers::mark::{DeviceMark, Mark, MarkPlace};
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{
    AttachOptions, Background, Cache, Config, Device, Error, SsdConfig, SsdSize, StaleSsd, Volume, WriteMode,
};

const BLOCK_U64: u64 = BLOCK as u64;
const SSD_BLOCKS: u64 = 256;
const DISK_BLOCKS: u64 = 300;
const MODES: [WriteMode; 4] = [WriteMode::Around, WriteMode::Through, WriteMode::Back, WriteMode::BackSsd];

/// A disk that always looks the same, as a raw one: nothing but the mark tells that it was written.
struct Raw(Arc<MemoryDevice>);

impl Device for Raw {
    fn name(&self) -> String {
        self.0.name()
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> terrace::tiers::Result<()> {
        self.0.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> terrace::tiers::Result<()> {
        self.0.write(offset, buffers)
    }

    fn sync(&self) -> terrace::tiers::Result<()> {
        self.0.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> terrace::tiers::Result<()> {
        self.0.discard(offset, bytes)
    }

    fn identity(&self) -> Option<Identity> {
        self.0.identity().map(|identity| Identity { modified_ns: 0, ..identity })
    }
}

fn new_ssd() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd"))
}

/// A device with the same bytes.
fn copy_of(device: &MemoryDevice) -> Arc<MemoryDevice> {
    let copy = MemoryDevice::new(device.len_bytes());
    let bytes = stored(device, 0, device.len_bytes() as usize);
    copy.write(0, &[IoSlice::new(&bytes)]).expect("no fault is set");
    Arc::new(copy)
}

/// A disk and the device of its mark; SSDs come and go.
struct World {
    disk: Arc<MemoryDevice>,
    mark: Arc<MemoryDevice>,
}

impl World {
    fn new() -> Self {
        Self {
            disk: Arc::new(MemoryDevice::new(DISK_BLOCKS * BLOCK_U64).named("disk")),
            mark: Arc::new(MemoryDevice::new(DeviceMark::BYTES).named("mark")),
        }
    }

    fn config(ssd: Option<&Arc<MemoryDevice>>) -> Config {
        let mut config = small(32);
        config.writeback_delay_ms = 2;
        config.ssd = ssd.map(|ssd| SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        config
    }

    fn cache(ssd: Option<&Arc<MemoryDevice>>) -> Cache {
        Cache::open(&Self::config(ssd)).expect("the cache opens")
    }

    fn attach(&self, cache: &Cache, mode: WriteMode, stale_ssd: StaleSsd) -> Result<Volume, Error> {
        let place: Arc<dyn MarkPlace> = Arc::new(DeviceMark::new(self.mark.clone()));
        let options = AttachOptions { mark: Some(place), stale_ssd, ..AttachOptions::default() };
        cache.attach_with("disk", Arc::new(Raw(self.disk.clone())), mode, &options)
    }

    fn open(&self, ssd: Option<&Arc<MemoryDevice>>, mode: WriteMode) -> (Cache, Volume) {
        let cache = Self::cache(ssd);
        let volume = self.attach(&cache, mode, StaleSsd::Refuse).expect("the volume attaches");
        (cache, volume)
    }

    fn mark(&self) -> Option<Mark> {
        DeviceMark::new(self.mark.clone()).load().expect("the mark is whole")
    }

    /// Has the SSD alone have blocks 0 to 8, as `1`.
    fn with_newer_blocks_on(&self, ssd: &Arc<MemoryDevice>) {
        self.put_on(ssd, 1);
    }

    /// Blocks 0 to 8 as `number`, which stay on the SSD: nothing is destaged unless it is asked for.
    fn put_on(&self, ssd: &Arc<MemoryDevice>, number: u64) {
        let mut config = Self::config(Some(ssd));
        config.background = Background::OnSettle;
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = self.attach(&cache, WriteMode::BackSsd, StaleSsd::Refuse).expect("the volume attaches");
        write_all(&volume, 0..8, number);
        volume.flush().expect("the log is there");
        cache.close().expect("the log has all of it");
    }
}

fn write_all(volume: &Volume, blocks: std::ops::Range<u64>, number: u64) {
    for block in blocks {
        volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
    }
}

/// Reads everything, little at a time, so that no demotion is dropped.
fn fill_ssd(cache: &Cache, volume: &Volume) {
    for first in (0..DISK_BLOCKS).step_by(10) {
        (first..first + 10).for_each(|block| drop(bytes_of(volume, block * BLOCK_U64, BLOCK)));
        cache.settle().expect("the cache settles");
    }
}

fn check_all(volume: &Volume, blocks: std::ops::Range<u64>, number: u64) {
    for block in blocks {
        assert!(bytes_of(volume, block * BLOCK_U64, BLOCK) == content(block, number), "block {block}");
    }
}

fn is_missing(result: &Result<Volume, Error>) -> bool {
    matches!(result, Err(Error::SsdMissing { .. }))
}

fn is_older(result: &Result<Volume, Error>) -> bool {
    matches!(result, Err(Error::SsdOlder { .. }))
}

#[test]
fn a_volume_whose_newer_blocks_are_on_an_absent_ssd_is_refused_in_every_mode() {
    let (world, ssd) = (World::new(), new_ssd());
    world.with_newer_blocks_on(&ssd);
    for other in [None, Some(new_ssd())] {
        let cache = World::cache(other.as_ref());
        for mode in MODES {
            if mode != WriteMode::BackSsd || other.is_some() {
                assert!(is_missing(&world.attach(&cache, mode, StaleSsd::Refuse)), "{mode:?}");
                assert!(
                    is_missing(&world.attach(&cache, mode, StaleSsd::Believe)),
                    "there is nothing to believe"
                );
            }
        }
        assert!(stored(&*world.disk, 0, BLOCK) == vec![0; BLOCK], "nothing was written");
        cache.close().expect("the cache closes");
    }
    let (cache, volume) = world.open(Some(&ssd), WriteMode::Back);
    check_all(&volume, 0..8, 1);
    cache.close().expect("the cache closes");
    let (_cache, volume) = world.open(None, WriteMode::Back);
    check_all(&volume, 0..8, 1);
}

#[test]
fn an_ssd_that_was_given_up_comes_back_and_serves_nothing_until_it_is_told_to() {
    for choice in [StaleSsd::Forget, StaleSsd::Believe] {
        for mode in MODES {
            let (world, ssd) = (World::new(), new_ssd());
            world.with_newer_blocks_on(&ssd);
            let without = World::cache(None);
            let volume = world.attach(&without, WriteMode::Back, StaleSsd::Forget).expect("it was chosen");
            write_all(&volume, 0..4, 2);
            without.close().expect("the cache closes");
            for _ in 0..3 {
                let cache = World::cache(Some(&ssd));
                assert!(is_older(&world.attach(&cache, mode, StaleSsd::Refuse)), "each time");
                cache.close().expect("the cache closes");
            }
            assert!(stored(&*world.disk, 0, BLOCK) == content(0, 2));
            assert!(stored(&*world.disk, 4 * BLOCK_U64, BLOCK) == vec![0; BLOCK], "nothing was destaged");
            let cache = World::cache(Some(&ssd));
            let volume = world.attach(&cache, mode, choice).expect("it was chosen");
            if choice == StaleSsd::Believe {
                check_all(&volume, 0..8, 1);
            } else {
                check_all(&volume, 0..4, 2);
                assert!(bytes_of(&volume, 4 * BLOCK_U64, BLOCK) == vec![0; BLOCK]);
            }
            write_all(&volume, 0..8, 3);
            cache.settle().expect("the cache settles");
            cache.close().expect("the cache closes");
            let (_cache, volume) = world.open(Some(&ssd), mode);
            check_all(&volume, 0..8, 3);
        }
    }
}

/// The clean copies on the SSD are those of a disk that nobody can tell from the one of today.
#[test]
fn clean_copies_of_before_something_was_written_past_the_ssd_are_dropped() {
    for mode in MODES {
        let (world, ssd) = (World::new(), new_ssd());
        let (cache, volume) = world.open(Some(&ssd), mode);
        write_all(&volume, 0..100, 1);
        fill_ssd(&cache, &volume);
        cache.close().expect("the cache closes");
        // Warm, when nothing was written.
        let (cache, volume) = world.open(None, WriteMode::Back);
        check_all(&volume, 0..8, 1);
        cache.close().expect("the cache closes");
        let (cache, volume) = world.open(Some(&ssd), mode);
        cache.settle().expect("all that the file holds is found");
        check_all(&volume, 0..100, 1);
        assert!(
            cache.stats().read_ssd_hits > 0,
            "{mode:?}: it was left in order, and nothing was written since"
        );
        cache.close().expect("the cache closes");
        let (cache, volume) = world.open(None, WriteMode::Through);
        write_all(&volume, 0..100, 2);
        cache.close().expect("the cache closes");
        let (cache, volume) = world.open(Some(&ssd), mode);
        cache.settle().expect("all that the file holds is found");
        check_all(&volume, 0..100, 2);
        assert_eq!(cache.stats().read_ssd_hits, 0);
    }
}

#[test]
fn an_ssd_that_fails_and_works_again_in_the_next_process_is_not_believed() {
    for mode in MODES {
        for closes in [false, true] {
            let (world, ssd) = (World::new(), new_ssd());
            let (cache, volume) = world.open(Some(&ssd), mode);
            write_all(&volume, 0..100, 1);
            fill_ssd(&cache, &volume);
            cache.close().expect("the cache closes");
            drop((cache, volume));
            // It fails before the first write to it, so that it does not even learn that the volume is in use.
            let cache = World::cache(Some(&ssd));
            let left = copy_of(&ssd);
            ssd.fail(Fault::every(Operation::Write));
            let attached = world.attach(&cache, mode, StaleSsd::Refuse);
            if mode == WriteMode::BackSsd {
                assert!(attached.is_err(), "the mode needs an SSD that works");
                continue;
            }
            let volume = attached.expect("the volume attaches");
            write_all(&volume, 0..100, 2);
            volume.flush().expect("a flush needs no SSD");
            if closes {
                cache.close().expect("the cache closes");
            }
            // The disk is the same, and looks as it did.
            let again = World { disk: world.disk.clone(), mark: copy_of(&world.mark) };
            let cache = World::cache(Some(&left));
            let volume = again.attach(&cache, mode, StaleSsd::Refuse).expect("it has nothing newer");
            check_all(&volume, 0..100, 2);
        }
    }
}

#[test]
fn a_log_that_was_left_and_written_past_is_not_destaged_by_the_next_process() {
    let (world, ssd) = (World::new(), new_ssd());
    let (cache, volume) = world.open(Some(&ssd), WriteMode::BackSsd);
    world.disk.fail(Fault::every(Operation::Write));
    write_all(&volume, 0..8, 1);
    volume.flush().expect("the log is there");
    ssd.fail(Fault::every(Operation::Write));
    write_all(&volume, 0..4, 2);
    world.disk.clear_faults();
    eventually("a flush succeeds", || volume.flush().is_ok());
    // The power fails: nothing is closed.
    let left = World { disk: copy_of(&world.disk), mark: copy_of(&world.mark) };
    let cache_again = World::cache(Some(&copy_of(&ssd)));
    assert!(is_older(&left.attach(&cache_again, WriteMode::BackSsd, StaleSsd::Refuse)));
    assert!(is_older(&left.attach(&cache_again, WriteMode::Back, StaleSsd::Refuse)));
    let volume = left.attach(&cache_again, WriteMode::Back, StaleSsd::Forget).expect("it was chosen");
    check_all(&volume, 0..4, 2);
    check_all(&volume, 4..8, 1);
    cache.close().expect("the log was left in order");
    assert_eq!(
        world.mark().and_then(|mark| mark.holder),
        None,
        "whoever comes without the SSD misses nothing"
    );
}

#[test]
fn an_old_copy_of_the_cache_file_is_refused_however_often_it_is_tried() {
    let (world, ssd) = (World::new(), new_ssd());
    world.with_newer_blocks_on(&ssd);
    let old = copy_of(&ssd);
    world.put_on(&ssd, 2);
    for _ in 0..4 {
        let cache = World::cache(Some(&old));
        assert!(is_older(&world.attach(&cache, WriteMode::BackSsd, StaleSsd::Refuse)));
        cache.close().expect("the cache closes");
    }
    let (_cache, volume) = world.open(Some(&ssd), WriteMode::BackSsd);
    check_all(&volume, 0..8, 2);
}

#[test]
fn without_a_durable_mark_nothing_goes_to_the_log_and_nothing_below_past_the_ssd() {
    let (world, ssd) = (World::new(), new_ssd());
    world.mark.fail(Fault::every(Operation::Sync));
    let cache = World::cache(Some(&ssd));
    assert!(world.attach(&cache, WriteMode::BackSsd, StaleSsd::Refuse).is_err());
    let volume = world.attach(&cache, WriteMode::Back, StaleSsd::Refuse).expect("it needs no mark yet");
    fill_ssd(&cache, &volume);
    // Copies on the SSD have to be void first.
    ssd.fail(Fault::every(Operation::Write));
    write_all(&volume, 100..108, 2);
    let refused = volume.flush();
    assert!(matches!(refused, Err(Error::StillDirty { .. })), "{refused:?}");
    assert!(stored(&*world.disk, 100 * BLOCK_U64, BLOCK) == vec![0; BLOCK]);
    world.mark.clear_faults();
    eventually("a flush succeeds", || volume.flush().is_ok());
    assert!(stored(&*world.disk, 100 * BLOCK_U64, BLOCK) == content(100, 2));
    cache.close().expect("the cache closes");
}

#[test]
fn a_backing_file_has_its_mark_beside_it() {
    let files = Files::new();
    let (ssd, beside) = (new_ssd(), files.disk().with_file_name("disk.terrace"));
    let backing = || Arc::new(files.backing(DISK_BLOCKS * BLOCK_U64));
    let cache = World::cache(Some(&ssd));
    cache
        .attach("disk", backing(), WriteMode::Back)
        .expect("the volume attaches")
        .detach()
        .expect("detaches");
    assert!(!beside.exists(), "nothing has to be marked");
    let volume = cache.attach("disk", backing(), WriteMode::BackSsd).expect("the volume attaches");
    assert!(beside.exists());
    write_all(&volume, 0..8, 1);
    volume.flush().expect("the log is there");
    // The process dies; the next one has no SSD.
    let without = World::cache(None);
    assert!(is_missing(&without.attach("disk", backing(), WriteMode::Back)));
    std::fs::write(&beside, b"rubbish").expect("it can be written");
    let damaged = without.attach("disk", backing(), WriteMode::Back);
    assert!(matches!(damaged, Err(Error::Tier(_))), "a mark that cannot be read is not gone");
}

//! An SSD that is detached and attached while the cache is in use.

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{BLOCK, Files, bytes_of, content, held, seed, small, ssd_bytes, stored, without_hanging};
use terrace::tiers::mark::{DeviceMark, MarkPlace};
use terrace::tiers::ssd::{Geometry, Ssd, SsdPolicy};
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{
    AttachOptions, Background, BlockSize, Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode,
};

const BLOCK_U64: u64 = BLOCK as u64;
/// Room for everything several times: a file that has been full takes only what has earned it.
const SSD_BLOCKS: u64 = 2048;
const DISK_BLOCKS: u64 = 300;

fn new_ssd() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd"))
}

fn new_disk() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(DISK_BLOCKS * BLOCK_U64).named("disk"))
}

fn on(ssd: &Arc<MemoryDevice>) -> SsdConfig {
    SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS))
}

fn open(config: Config, ssd: Option<&Arc<MemoryDevice>>) -> Cache {
    Cache::open(&Config { ssd: ssd.map(on), ..config }).expect("the cache opens")
}

fn attach(cache: &Cache, disk: &Arc<MemoryDevice>, mode: WriteMode) -> Volume {
    cache.attach("disk", disk.clone(), mode).expect("the volume attaches")
}

fn write(volume: &Volume, blocks: std::ops::Range<u64>, number: u64) {
    for block in blocks {
        volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
    }
}

fn check(volume: &Volume, blocks: std::ops::Range<u64>, number: u64) {
    for block in blocks {
        assert!(bytes_of(volume, block * BLOCK_U64, BLOCK) == content(block, number), "block {block}");
    }
}

/// Reads everything, little at a time, so that no demotion is dropped.
fn read_all(cache: &Cache, volume: &Volume) {
    for first in (0..DISK_BLOCKS).step_by(10) {
        (first..first + 10).for_each(|block| drop(bytes_of(volume, block * BLOCK_U64, BLOCK)));
        cache.settle().expect("the cache settles");
    }
}

#[test]
fn a_cache_whose_ssd_is_detached_goes_on_and_lets_the_device_go() {
    for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
        let (ssd, disk) = (new_ssd(), new_disk());
        let cache = open(small(16), Some(&ssd));
        let volume = attach(&cache, &disk, mode);
        read_all(&cache, &volume);
        write(&volume, 0..8, 1);
        cache.detach_ssd().expect("nothing needs it");
        assert!(!cache.stats().ssd_in_use);
        assert_eq!(Arc::strong_count(&ssd), 1, "nobody else has the device");
        let counters = ssd.counters();
        read_all(&cache, &volume);
        write(&volume, 4..12, 2);
        check(&volume, 0..4, 1);
        check(&volume, 4..12, 2);
        cache.detach_ssd().expect("there is none");
        assert_eq!(ssd.counters(), counters, "nothing is asked of it");
        cache.attach_ssd(&on(&ssd)).expect("it comes back");
        assert!(matches!(cache.attach_ssd(&on(&new_ssd())), Err(Error::Config(_))), "there is one");
        write(&volume, 8..16, 3);
        read_all(&cache, &volume);
        read_all(&cache, &volume);
        assert!(cache.stats().ssd.blocks_written > 0, "it is used again");
        assert!(cache.stats().read_ssd_hits > 0);
        check(&volume, 0..4, 1);
        check(&volume, 4..8, 2);
        check(&volume, 8..16, 3);
        cache.settle().expect("the cache settles");
        cache.assert_quiet();
        cache.close().expect("the cache closes");
    }
}

#[test]
fn an_ssd_that_a_volume_writes_back_to_stays_until_that_volume_is_detached() {
    let (ssd, disk) = (new_ssd(), new_disk());
    let cache = open(small(16), Some(&ssd));
    let volume = attach(&cache, &disk, WriteMode::BackSsd);
    write(&volume, 0..8, 1);
    let refused = cache.detach_ssd();
    assert!(matches!(refused, Err(Error::SsdInUse { .. })), "{refused:?}");
    assert!(cache.stats().ssd_in_use);
    volume.flush().expect("the log is there");
    volume.detach().expect("the volume detaches");
    let volume = attach(&cache, &disk, WriteMode::Back);
    cache.detach_ssd().expect("the log is drained");
    check(&volume, 0..8, 1);
    assert!(stored(&*disk, 0, BLOCK) == content(0, 1));
}

/// RAM has newer blocks than the backing store, and the file older ones than both.
#[test]
fn an_ssd_is_attached_with_dirty_blocks_in_ram_and_serves_nothing_older() {
    for mode in [WriteMode::Through, WriteMode::Back] {
        let (ssd, disk) = (new_ssd(), new_disk());
        let cache = open(small(16), Some(&ssd));
        let volume = attach(&cache, &disk, mode);
        write(&volume, 0..100, 1);
        read_all(&cache, &volume);
        cache.close().expect("the cache closes");
        drop((cache, volume));
        let cache = open(held(64), None);
        let volume = attach(&cache, &disk, mode);
        write(&volume, 20..60, 2);
        cache.attach_ssd(&on(&ssd)).expect("it attaches");
        write(&volume, 40..60, 3);
        volume.flush().expect("a flush succeeds");
        read_all(&cache, &volume);
        read_all(&cache, &volume);
        check(&volume, 0..20, 1);
        check(&volume, 20..40, 2);
        check(&volume, 40..60, 3);
        check(&volume, 60..100, 1);
        cache.close().expect("the cache closes");
        let cache = open(small(16), Some(&ssd));
        let volume = attach(&cache, &disk, mode);
        check(&volume, 20..40, 2);
        check(&volume, 40..60, 3);
    }
}

#[test]
fn a_detached_ssd_is_warm_in_the_next_process_if_nothing_was_written_since() {
    for writes in [false, true] {
        let (ssd, disk) = (new_ssd(), new_disk());
        let mark: Arc<dyn MarkPlace> =
            Arc::new(DeviceMark::new(Arc::new(MemoryDevice::new(DeviceMark::BYTES))));
        let attach_marked = |cache: &Cache| {
            let options = AttachOptions { mark: Some(mark.clone()), ..AttachOptions::default() };
            cache
                .attach_with("disk", disk.clone(), WriteMode::Through, &options)
                .expect("the volume attaches")
        };
        let cache = open(small(16), Some(&ssd));
        let volume = attach_marked(&cache);
        write(&volume, 0..100, 1);
        volume.flush().expect("a flush succeeds");
        read_all(&cache, &volume);
        cache.detach_ssd().expect("nothing needs it");
        if writes {
            write(&volume, 0..100, 2);
        }
        cache.close().expect("the cache closes");
        let cache = open(small(16), Some(&ssd));
        let volume = attach_marked(&cache);
        check(&volume, 0..100, if writes { 2 } else { 1 });
        read_all(&cache, &volume);
        assert_eq!(cache.stats().read_ssd_hits > 0 && !writes, !writes);
    }
}

#[test]
fn an_ssd_with_newer_blocks_of_a_volume_or_under_its_number_is_not_attached_beside_it() {
    let (ssd, disk) = (new_ssd(), new_disk());
    let config = Config { background: Background::OnSettle, ..small(16) };
    let cache = open(config, Some(&ssd));
    write(&attach(&cache, &disk, WriteMode::BackSsd), 0..8, 1);
    cache.close().expect("the log has all of it");
    for name in ["disk", "another"] {
        let cache = open(small(16), None);
        let volume = cache.attach(name, new_disk(), WriteMode::Back).expect("the volume attaches");
        let refused = cache.attach_ssd(&on(&ssd));
        assert!(matches!(refused, Err(Error::SsdHasNewer { dirty_blocks: 8, .. })), "{name}: {refused:?}");
        write(&volume, 0..8, 2);
        cache.close().expect("the cache goes on without it");
    }
    let cache = open(small(16), Some(&ssd));
    check(&attach(&cache, &disk, WriteMode::BackSsd), 0..8, 1);
}

/// Versions of a cache that had another SSD before are higher than those of the file.
#[test]
fn what_goes_to_the_log_of_an_ssd_that_was_attached_late_is_there_after_a_crash() {
    let (young, old, disk) = (new_ssd(), new_ssd(), new_disk());
    for _ in 0..5 {
        open(small(16), Some(&old)).close().expect("the cache closes");
    }
    for (first, second) in [(&young, &old), (&old, &young)] {
        let cache = open(small(16), Some(first));
        let bystander = cache.attach("bystander", new_disk(), WriteMode::Back).expect("the volume attaches");
        write(&bystander, 0..20, 1);
        cache.detach_ssd().expect("nothing needs it");
        cache.attach_ssd(&on(second)).expect("it attaches");
        let volume = attach(&cache, &disk, WriteMode::BackSsd);
        disk.fail(Fault::every(Operation::Write));
        write(&volume, 0..8, 1);
        volume.flush().expect("the log is there");
        write(&volume, 0..4, 2);
        volume.flush().expect("the log is there");
        // The process is gone without a word.
        let image = Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)));
        let bytes = stored(&**second, 0, ssd_bytes(SSD_BLOCKS) as usize);
        image.write(0, &[IoSlice::new(&bytes)]).expect("no fault is set");
        disk.clear_faults();
        let again = open(small(16), Some(&image));
        let found = attach(&again, &disk, WriteMode::BackSsd);
        check(&found, 0..4, 2);
        check(&found, 4..8, 1);
    }
}

#[test]
fn no_version_of_a_cache_comes_again_in_a_later_opening_of_an_ssd_that_was_attached_to_it() {
    let (young, old) = (new_ssd(), new_ssd());
    for _ in 0..5 {
        open(small(16), Some(&old)).close().expect("the cache closes");
    }
    let size = BlockSize::new(BLOCK_U64).expect("a size");
    let geometry = Geometry::for_blocks(size, SSD_BLOCKS).expect("a layout");
    let first_version = |ssd: &Arc<MemoryDevice>| {
        Ssd::open(&**ssd, geometry, SsdPolicy::default()).expect("it opens").first_version()
    };
    let cache = open(small(16), Some(&old));
    cache.detach_ssd().expect("nothing needs it");
    cache.attach_ssd(&on(&young)).expect("it attaches");
    cache.close().expect("the cache closes");
    assert!(first_version(&young) > first_version(&old), "versions of the old one were given out before");
}

#[test]
fn a_cache_file_is_let_go_by_a_detach_and_taken_again() {
    let files = Files::new();
    let config = SsdConfig::new(files.ssd(), SsdSize::Blocks(SSD_BLOCKS));
    let cache = Cache::open(&Config { ssd: Some(config.clone()), ..small(16) }).expect("the cache opens");
    let disk = new_disk();
    let volume = attach(&cache, &disk, WriteMode::Back);
    for round in 0..5 {
        read_all(&cache, &volume);
        write(&volume, 0..20, round);
        cache.detach_ssd().expect("nothing needs it");
        check(&volume, 0..20, round);
        cache.attach_ssd(&config).expect("nobody holds it");
        check(&volume, 0..20, round);
    }
    cache.settle().expect("the cache settles");
    cache.assert_quiet();
    cache.close().expect("the cache closes");
}

#[test]
fn an_ssd_that_failed_is_detached_and_another_one_takes_its_place() {
    without_hanging(|| {
        let (ssd, disk) = (new_ssd(), new_disk());
        let cache = open(small(16), Some(&ssd));
        let volume = attach(&cache, &disk, WriteMode::BackSsd);
        write(&volume, 0..8, 1);
        volume.flush().expect("the log is there");
        ssd.fail(Fault::every(Operation::Write));
        write(&volume, 0..4, 2);
        common::eventually("a flush succeeds", || volume.flush().is_ok());
        cache.detach_ssd().expect("it was switched off, and its log left");
        cache.attach_ssd(&on(&new_ssd())).expect("another one");
        assert!(cache.stats().ssd_in_use);
        volume.detach().expect("the volume detaches");
        let volume = attach(&cache, &disk, WriteMode::BackSsd);
        check(&volume, 0..4, 2);
        check(&volume, 4..8, 1);
        write(&volume, 0..8, 3);
        volume.flush().expect("the log is there");
        check(&volume, 0..8, 3);
        cache.settle().expect("the cache settles");
        cache.assert_quiet();
    });
}

#[test]
fn traffic_does_not_notice_an_ssd_that_comes_and_goes() {
    let seed = seed();
    for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
        let (ssd, disk) = (new_ssd(), new_disk());
        let cache = open(Config { writeback_delay_ms: 1, ..small(48) }, Some(&ssd));
        let volume = attach(&cache, &disk, mode);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (volume, is_over) = (&volume, &is_over);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed ^ thread);
                    let mut now = [0; 100];
                    let first = thread * 100;
                    while !is_over.load(Ordering::Relaxed) {
                        let block = random.usize(..100);
                        let at = first + block as u64;
                        if random.u8(..3) == 0 {
                            now[block] += 1;
                            write(volume, at..at + 1, now[block]);
                        } else if now[block] > 0 {
                            check(volume, at..at + 1, now[block]);
                        }
                        if random.u8(..50) == 0 {
                            volume.flush().expect("a flush succeeds");
                        }
                    }
                    (0..100).filter(|&block| now[block] > 0).for_each(|block| {
                        let at = first + block as u64;
                        check(volume, at..at + 1, now[block]);
                    });
                });
            }
            for _ in 0..40 {
                cache.detach_ssd().expect("nothing needs it");
                assert_eq!(Arc::strong_count(&ssd), 1);
                cache.attach_ssd(&on(&ssd)).expect("it comes back");
            }
            is_over.store(true, Ordering::Relaxed);
        });
        cache.settle().expect("the cache settles");
        cache.assert_quiet();
        let seen = bytes_of(&volume, 0, (DISK_BLOCKS * BLOCK_U64) as usize);
        cache.close().expect("the cache closes");
        assert!(seen == stored(&*disk, 0, seen.len()), "{mode:?}");
    }
}

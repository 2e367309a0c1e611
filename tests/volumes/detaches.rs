//! Volumes that are detached alone, and come back.

use std::io::IoSlice;
use std::sync::{Arc, mpsc};

use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::{AttachOptions, Cache, Config, Device, Error, SsdConfig, SsdSize, WriteMode};

use crate::common::{BLOCK, block_on, content, eventually, held, seed, small, ssd_bytes, without_hanging};
use crate::{BLOCK_U64, answered, below, open, read, with_ssd, write};

#[test]
fn a_volume_that_was_detached_comes_back_warm_and_others_go_on() {
    let (one, other) = (
        Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1)),
        Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 2)),
    );
    let (config, _ssd) = with_ssd(held(32), 200);
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("one", one.clone(), WriteMode::Back).expect("it attaches");
    let stays = cache.attach("other", other.clone(), WriteMode::Back).expect("it attaches");
    for _ in 0..2 {
        (0..64).for_each(|block| drop(read(&volume, block)));
    }
    write(&stays, 3, 1);
    (60..64).for_each(|block| write(&volume, block, 1));
    cache.settle().expect("the cache settles");
    (56..60).for_each(|block| write(&volume, block, 1));
    volume.detach().expect("it is detached");
    (56..64).for_each(|block| assert!(below(&one, block) == content(block, 1), "it was flushed"));
    assert!(read(&stays, 3) == content(3, 1));
    write(&stays, 4, 1);

    let old = volume;
    assert!(matches!(old.read_ref(0, BLOCK), Err(Error::Detached { .. })));
    assert!(matches!(old.write(0, &[1; 700]), Err(Error::Detached { .. })));
    assert!(matches!(block_on(old.read_async(0, BLOCK)), Err(Error::Detached { .. })));
    assert!(matches!(block_on(old.write_async(0, [1; 700])), Err(Error::Detached { .. })));
    assert!(matches!(old.flush(), Err(Error::Detached { .. })));
    assert!(matches!(block_on(old.flush_async()), Err(Error::Detached { .. })));
    assert!(matches!(old.discard(0, BLOCK_U64), Err(Error::Detached { .. })));
    assert!(matches!(old.forget(0, BLOCK_U64), Err(Error::Detached { .. })));
    assert!(matches!(old.set_mode(WriteMode::Around), Err(Error::Detached { .. })));
    assert!(matches!(old.detach(), Err(Error::Detached { .. })));

    let volume = cache.attach("one", one.clone(), WriteMode::Back).expect("it attaches again");
    let (before, reads) = (cache.stats().read_ssd_hits, one.counters().reads);
    (0..64).for_each(|block| drop(read(&volume, block)));
    assert!(cache.stats().read_ssd_hits - before >= 16, "its copies are believed");
    assert!(
        one.counters().reads - reads >= 8,
        "what was written was not on the SSD, and nothing stayed in RAM"
    );
    for block in 0..64 {
        assert!(read(&volume, block) == below(&one, block), "block {block}");
    }
    assert!(matches!(old.read_ref(0, BLOCK), Err(Error::Detached { .. })));
    // Changed while it was away: nothing is believed.
    volume.detach().expect("it is detached");
    one.write(0, &[IoSlice::new(&content(0, 9))]).expect("a write succeeds");
    let volume = cache.attach("one", one.clone(), WriteMode::Back).expect("it attaches again");
    let before = cache.stats().read_ssd_hits;
    assert!(read(&volume, 0) == content(0, 9));
    (1..20).for_each(|block| drop(read(&volume, block)));
    assert_eq!(cache.stats().read_ssd_hits, before);
    cache.settle().expect("the cache settles");
    cache.assert_quiet();
    cache.close().expect("the cache closes");
}

/// A device whose time of change is another one each time: only the caller knows whether it changed.
#[test]
fn a_volume_that_its_caller_numbers_comes_back_warm_with_the_same_number_alone() {
    let disk = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (config, _ssd) = with_ssd(held(32), 200);
    let cache = Cache::open(&config).expect("the cache opens");
    let attach = |generation, mode| {
        // Zeros over zeros, and when it fails too.
        let _ = disk.write(0, &[IoSlice::new(&[0; 512])]);
        let options = AttachOptions { generation, ..AttachOptions::default() };
        cache.attach_with("disk", disk.clone(), mode, &options)
    };
    // Those of the first pass, which finds what an earlier life left.
    let ssd_hits = |generation| {
        let volume = attach(generation, WriteMode::Back).expect("it attaches");
        let before = cache.stats().read_ssd_hits;
        (0..64).for_each(|block| drop(read(&volume, block)));
        let hits = cache.stats().read_ssd_hits - before;
        for _ in 0..2 {
            cache.settle().expect("the cache settles");
            (0..64).for_each(|block| drop(read(&volume, block)));
        }
        volume.detach().expect("it is detached");
        hits
    };
    assert_eq!(ssd_hits(Some(7)), 0);
    assert!(ssd_hits(Some(7)) >= 16, "the same number");
    assert_eq!(ssd_hits(Some(8)), 0, "another one");
    assert!(ssd_hits(Some(8)) >= 16, "that again");
    assert_eq!(ssd_hits(None), 0, "none");
    // Newer blocks in the log are of the store as it was.
    disk.fail(Fault::every(Operation::Write));
    let volume = attach(Some(9), WriteMode::BackSsd).expect("it attaches");
    write(&volume, 5, 1);
    volume.detach().expect("the log has it");
    assert!(attach(Some(10), WriteMode::BackSsd).is_err() && attach(None, WriteMode::BackSsd).is_err());
    let volume = attach(Some(9), WriteMode::BackSsd).expect("it attaches");
    assert!(read(&volume, 5) == content(5, 1));
    disk.clear_faults();
    cache.close().expect("the cache closes");
}

#[test]
fn a_volume_with_blocks_that_cannot_be_written_is_detached_only_when_they_are_forgotten() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    device.fail(Fault::every(Operation::Write));
    (0..3).for_each(|block| write(&volume, block, 1));
    assert!(matches!(volume.detach(), Err(Error::StillDirty { blocks: 3, .. })));
    assert!(read(&volume, 1) == content(1, 1), "it works as before");
    write(&volume, 5, 1);
    volume.forget(0, 64 * BLOCK_U64).expect("a forget succeeds");
    volume.detach().expect("it is detached");
    let again = cache.attach("disk", device.clone(), WriteMode::Back).expect("the name is free");
    (0..8).for_each(|block| assert!(read(&again, block) == below(&device, block)));
    cache.assert_quiet();
}

#[test]
fn detaching_waits_for_reads_under_way_and_holds_up_no_other_volume() {
    let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Back);
    let stays = cache.attach("other", Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 2)), WriteMode::Back);
    let stays = stays.expect("it attaches");
    // Both have the device number 0 and share four threads.
    device.stall(Operation::Read);
    let (sender, receiver) = mpsc::channel();
    let done = sender.clone();
    volume.read_with(5 * BLOCK_U64, BLOCK, move |answer| drop(done.send(answer.map(drop))));
    device.wait_until_held(1);
    let detaching = {
        let volume = volume.clone();
        std::thread::spawn(move || volume.detach())
    };
    eventually("it takes no calls", || {
        matches!(volume.set_mode(WriteMode::Back), Err(Error::Detached { .. }))
    });
    write(&stays, 3, 1);
    read(&stays, 4);
    stays.flush().expect("a flush succeeds");
    assert!(matches!(
        cache.attach("disk", device.clone(), WriteMode::Back),
        Err(Error::AlreadyAttached { .. })
    ));
    assert!(!detaching.is_finished(), "a read is under way");
    device.resume();
    answered(&receiver).expect("the read succeeds");
    detaching.join().expect("it ends").expect("it is detached");
    cache.assert_quiet();
}

#[test]
fn what_was_acknowledged_before_or_beside_a_detach_is_below() {
    let seed = seed();
    for mode in [WriteMode::Back, WriteMode::Through, WriteMode::Around] {
        let cache = without_hanging(move || {
            let device = Arc::new(MemoryDevice::new(256 * BLOCK_U64));
            let config = Config { writeback_delay_ms: 1, shards: Some(2), ..small(24) };
            let (config, _ssd) = with_ssd(config, 200);
            let cache = Cache::open(&config).expect("the cache opens");
            let mut last = vec![0u64; 256];
            for round in 1..=20 {
                let volume = cache.attach("disk", device.clone(), mode).expect("it attaches");
                std::thread::scope(|scope| {
                    for (thread, last) in last.chunks_mut(64).enumerate() {
                        let volume = volume.clone();
                        let mut random =
                            fastrand::Rng::with_seed(seed.wrapping_add(round * 10 + thread as u64));
                        scope.spawn(move || {
                            for number in 1.. {
                                let block = random.usize(..64);
                                let offset = (thread * 64 + block) as u64 * BLOCK_U64;
                                let number = round << 20 | number;
                                match volume.write(offset, &content(block as u64, number)) {
                                    Ok(_) => last[block] = number,
                                    Err(Error::Detached { .. }) => return,
                                    Err(error) => panic!("{error}"),
                                }
                                match volume.read_ref(random.u64(..256) * BLOCK_U64, BLOCK) {
                                    Ok(_) => {}
                                    Err(Error::Detached { .. }) => return,
                                    Err(error) => panic!("{error}"),
                                }
                            }
                        });
                    }
                    let writes = device.counters().writes;
                    eventually("they are at it", || device.counters().writes > writes + 10);
                    volume.detach().expect("it is detached");
                });
                for (block, &number) in last.iter().enumerate() {
                    let wanted =
                        if number == 0 { vec![0; BLOCK] } else { content(block as u64 % 64, number) };
                    let found = below(&device, block as u64);
                    assert!(found == wanted, "seed {seed} {mode:?} round {round} block {block}");
                }
            }
            cache
        });
        cache.assert_quiet();
    }
}

#[test]
fn a_crash_after_a_detach_leaves_the_volume_warm_and_one_after_it_came_back_and_changed_does_not_lie() {
    let seed = seed();
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, seed).recorded_in(&journal));
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(400)).recorded_in(&journal));
    let config = |ssd| Config { ssd: Some(SsdConfig::on_device(ssd, SsdSize::Blocks(400))), ..held(32) };
    let cache = Cache::open(&config(ssd)).expect("the cache opens");
    let volume = cache.attach("disk", device.clone(), WriteMode::Back).expect("it attaches");
    (0..256).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    (0..8).for_each(|block| write(&volume, block, 1));
    volume.detach().expect("it is detached");
    journal.mark(1);
    let volume = cache.attach("disk", device, WriteMode::Back).expect("it attaches again");
    for number in 2..6 {
        (0..64).step_by(5).for_each(|block| write(&volume, block, number));
        volume.discard((100 + number) * BLOCK_U64, 20 * BLOCK_U64).expect("a discard succeeds");
        volume.flush().expect("a flush succeeds");
    }
    let (mut ssd_hits, mut cut) = (0, journal.first_cut());
    loop {
        if cut.marks().contains(&1) {
            for loss in Loss::ALL {
                let devices = cut.images(loss, seed);
                let [disk, ssd] = <[MemoryDevice; 2]>::try_from(devices).ok().expect("two are recorded");
                let disk = Arc::new(disk);
                let cache = Cache::open(&config(Arc::new(ssd))).expect("the cache opens");
                let volume = cache.attach("disk", disk.clone(), WriteMode::Back).expect("it attaches");
                for block in (0..256).step_by(3) {
                    let is_right = read(&volume, block) == below(&disk, block);
                    assert!(is_right, "seed {seed} {loss:?} cut {}: block {block}", cut.position());
                }
                ssd_hits += cache.stats().read_ssd_hits;
            }
        }
        if !cut.advance() {
            break;
        }
    }
    assert!(ssd_hits > 0, "nothing was warm");
}

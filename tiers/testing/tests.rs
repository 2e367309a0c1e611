use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use super::*;
use crate::device::Device;

fn write(device: &MemoryDevice, offset: u64, data: &[u8]) {
    device.write(offset, &[IoSlice::new(data)]).expect("no fault is set");
}

fn read(device: &MemoryDevice, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    device.read(offset, &mut [IoSliceMut::new(&mut buffer)]).expect("no fault is set");
    buffer
}

/// The images at every cut of `journal`, with every loss and a few seeds; one device.
fn images(journal: &Journal) -> Vec<(usize, Vec<u64>, Loss, MemoryDevice)> {
    let mut all = Vec::new();
    let mut cut = journal.first_cut();
    loop {
        for loss in Loss::ALL {
            for seed in 0..20 {
                let image = cut.images(loss, seed).pop().expect("one device is recorded");
                all.push((cut.position(), cut.marks().to_vec(), loss, image));
            }
        }
        if !cut.advance() {
            return all;
        }
    }
}

#[test]
fn a_far_byte_of_a_large_device_is_what_was_written_there_and_the_rest_is_the_pattern() {
    let device = MemoryDevice::patterned(8 << 40, 7);
    let twin = MemoryDevice::patterned(8 << 40, 7);
    let far = (8 << 40) - 5000;
    write(&device, far, &[9; 4097]);
    assert_eq!(read(&device, far, 4097), [9; 4097]);
    assert_eq!(read(&device, far - 1000, 1000), read(&twin, far - 1000, 1000));
    assert_ne!(read(&device, 0, 64), read(&device, 64, 64));
    device.discard(far + 1, 4000).expect("no fault is set");
    assert_eq!(read(&device, far, 4002), [&[9][..], &[0; 4000], &[9]].concat());
}

#[test]
fn what_was_synced_survives_every_cut_and_what_was_not_issued_is_in_none() {
    let journal = Arc::new(Journal::default());
    let device = MemoryDevice::new(1 << 20).recorded_in(&journal);
    write(&device, 1000, &[1; 3000]);
    device.sync().expect("no fault is set");
    journal.mark(1);
    write(&device, 2000, &[2; 1000]);
    write(&device, 2500, &[3; 1000]);
    let mut seen = std::collections::HashSet::new();
    for (position, marks, loss, image) in images(&journal) {
        let found = read(&image, 1000, 3000);
        if marks.contains(&1) {
            assert!(found[..1000].iter().all(|&byte| byte == 1), "cut {position}, {loss:?}");
            assert!(found[1000..].iter().all(|&byte| byte != 0), "cut {position}, {loss:?}");
            seen.insert((found[1000], found[1499], found[1500], found[2499]));
        } else {
            assert!(found.iter().all(|&byte| byte <= 1), "cut {position}, {loss:?}");
        }
        assert_eq!(read(&image, 0, 1000), [0; 1000]);
    }
    // Kept alone, lost alone, reordered, torn: many different outcomes of two overlapping writes.
    assert!(
        seen.contains(&(1, 1, 1, 1)) && seen.contains(&(2, 2, 3, 3)) && seen.contains(&(1, 1, 3, 3)),
        "{seen:?}"
    );
    assert!(seen.len() > 4, "{seen:?}");
}

#[test]
fn a_write_tears_between_sectors_only() {
    let journal = Arc::new(Journal::default());
    let device = MemoryDevice::new(1 << 20).recorded_in(&journal);
    write(&device, 0, &[1; 2048]);
    let mut is_torn = false;
    for (_, _, loss, image) in images(&journal) {
        let found = read(&image, 0, 2048);
        let sectors: Vec<u8> = found.chunks(512).map(|sector| sector[0]).collect();
        assert!(found.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])), "{loss:?}");
        is_torn |= sectors.contains(&0) && sectors.contains(&1);
    }
    assert!(is_torn);
}

#[test]
fn after_a_failed_sync_only_writing_again_makes_durable() {
    let journal = Arc::new(Journal::default());
    let device = MemoryDevice::new(1 << 20).recorded_in(&journal);
    device.fail(Fault::nth(Operation::Sync, 0));
    write(&device, 0, &[1; 512]);
    assert!(device.sync().is_err());
    assert!(device.sync().is_ok());
    journal.mark(1);
    write(&device, 0, &[2; 512]);
    device.sync().expect("the fault is over");
    journal.mark(2);
    let all = images(&journal);
    let firsts = |mark: u64| -> Vec<u8> {
        let at_mark = all.iter().filter(|(_, marks, ..)| marks.last() == Some(&mark));
        at_mark.map(|(_, _, _, image)| read(image, 0, 1)[0]).collect()
    };
    assert!(firsts(1).contains(&0) && firsts(1).contains(&1), "the second sync covers nothing");
    assert!(firsts(2).iter().all(|&byte| byte == 2), "and never comes back over what is durable");
}

#[test]
fn a_sync_does_not_cover_a_write_that_was_still_under_way() {
    let journal = Arc::new(Journal::default());
    let device = Arc::new(MemoryDevice::new(1 << 20).recorded_in(&journal));
    device.set_latency(Operation::Write, std::time::Duration::from_millis(50));
    let writer = std::thread::spawn({
        let device = device.clone();
        move || write(&device, 0, &[1; 512])
    });
    while device.counters().writes == 0 {
        std::thread::yield_now();
    }
    device.sync().expect("no fault is set");
    writer.join().expect("the writer does not fail");
    let all = images(&journal);
    let last = all.last().map(|(position, ..)| *position);
    let at_the_end = all.iter().filter(|(position, ..)| Some(*position) == last);
    assert!(at_the_end.map(|(.., image)| read(image, 0, 1)[0]).any(|byte| byte == 0));
}

#[test]
fn devices_of_one_journal_are_cut_at_one_moment() {
    let journal = Arc::new(Journal::default());
    let first = MemoryDevice::new(4096).recorded_in(&journal);
    let second = MemoryDevice::new(4096).recorded_in(&journal);
    for round in 1..=5 {
        write(&first, 0, &[round; 512]);
        first.sync().expect("no fault is set");
        write(&second, 0, &[round; 512]);
        second.sync().expect("no fault is set");
    }
    let mut cut = journal.first_cut();
    while cut.advance() {
        let found: Vec<u8> = cut.images(Loss::All, 1).iter().map(|image| read(image, 0, 1)[0]).collect();
        assert!(found[0] == found[1] || found[0] == found[1] + 1, "{found:?}");
    }
    let images = cut.images(Loss::All, 1);
    assert_eq!(images[0].identity(), first.identity(), "a device is itself again");
    assert_ne!(images[0].identity(), second.identity());
}

#[test]
fn a_cut_says_what_came_before_it_and_how_much_hangs_on_the_loss() {
    let journal = Arc::new(Journal::default());
    let device = MemoryDevice::new(1 << 20).recorded_in(&journal);
    write(&device, 4096, &[1; 512]);
    device.discard(0, 512).expect("no fault is set");
    device.sync().expect("no fault is set");
    let mut cut = journal.first_cut();
    let mut counts = vec![cut.unsettled_count()];
    while cut.advance() {
        counts.push(cut.unsettled_count());
    }
    assert_eq!(counts, [0, 1, 2, 0]);
    let recent = cut.recent(5);
    assert_eq!(recent[0], "1: 0 returns");
    assert_eq!(recent[1], "2: device 0 discards 512 bytes at 0");
    assert_eq!(recent[4], "5: device 0 is synced since 4");
    assert_eq!(cut.recent(100).len(), 6);
}

#[test]
fn faults_come_where_and_when_they_were_asked_for() {
    let device = MemoryDevice::new(1 << 20);
    device.fail(Fault::nth(Operation::Read, 1).within(4096..8192));
    let outcomes: Vec<bool> = [0, 4096, 4000, 5000, 5000]
        .map(|offset| device.read(offset, &mut [IoSliceMut::new(&mut [0; 512])]).is_ok())
        .to_vec();
    assert_eq!(outcomes, [true, true, false, true, true]);
    device.fail(Fault { kind: io::ErrorKind::StorageFull, ..Fault::every(Operation::Write) });
    let failed = device.write(0, &[IoSlice::new(&[1])]).expect_err("every write fails");
    assert!(failed.to_string().contains("write 1 bytes at offset 0 of memory"), "{failed}");
    device.clear_faults();
    write(&device, 0, &[0b100]);
    device.flip_bit(0, 2);
    assert_eq!(read(&device, 0, 1), [0]);
    assert_eq!(
        device.counters(),
        Counters { reads: 6, read_bytes: 2561, writes: 2, write_bytes: 2, ..Counters::default() }
    );
}

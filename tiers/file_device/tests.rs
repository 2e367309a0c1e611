use std::fs;

use super::*;
use crate::block::PAGE_BYTES;

/// A file of `bytes` zeros in a folder of its own.
fn device(bytes: u64, direct: bool) -> (tempfile::TempDir, FileDevice) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let options = FileOptions { create: Some(bytes), direct, ..FileOptions::new(folder.path().join("file")) };
    let device = FileDevice::open(&options).expect("a file can be made");
    (folder, device)
}

fn read(device: &FileDevice, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = PageBuf::zeroed(bytes);
    device.read(offset, &mut [IoSliceMut::new(&mut buffer)]).expect("the file can be read");
    buffer.to_vec()
}

fn write(device: &FileDevice, offset: u64, data: &[u8]) {
    let mut buffer = PageBuf::zeroed(data.len());
    buffer.copy_from_slice(data);
    device.write(offset, &[IoSlice::new(&buffer)]).expect("the file can be written");
}

#[test]
fn direct_and_buffered_calls_see_each_other_in_any_order() {
    for direct in [true, false] {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        // A tail that is no whole page.
        let mut twin = vec![0u8; (64 << 10) + 777];
        let (_folder, device) = device(twin.len() as u64, direct);
        for step in 0..500 {
            let grain = [1, 512, PAGE_BYTES][random.usize(..3)];
            let offset = random.usize(..twin.len()) / grain * grain;
            let bytes = random.usize(..=(twin.len() - offset).min(20_000)) / grain * grain;
            match random.u8(..5) {
                0 | 1 => {
                    let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
                    write(&device, offset as u64, &data);
                    twin[offset..offset + bytes].copy_from_slice(&data);
                }
                2 if random.bool() => device.sync().expect("the file can be synced"),
                2 => {
                    device.discard(offset as u64, bytes as u64).expect("a hole can be made");
                    twin[offset..offset + bytes].fill(0);
                }
                _ => {
                    let found = read(&device, offset as u64, bytes);
                    assert_eq!(
                        found,
                        twin[offset..offset + bytes],
                        "seed {seed}, step {step}, direct {direct}"
                    );
                }
            }
        }
    }
}

#[test]
fn only_calls_aligned_in_offset_length_and_memory_go_direct() {
    let (_folder, device) = device(1 << 20, true);
    if !device.is_direct() {
        return;
    }
    let buffer = PageBuf::zeroed(8192);
    let is_direct = |offset, pieces: &[&[u8]]| device.direct_for(offset, pieces.iter().copied()).is_some();
    assert!(is_direct(4096, &[&buffer[..4096]]));
    assert!(is_direct(0, &[&buffer[..4096], &buffer[4096..]]));
    assert!(is_direct(0, &[]));
    assert!(!is_direct(512, &[&buffer[..4096]]));
    assert!(!is_direct(0, &[&buffer[..512]]));
    assert!(!is_direct(0, &[&buffer[1..4097]]));
    assert!(!is_direct(0, &[&buffer[..100], &buffer[100..4096]]));
}

#[test]
fn more_buffers_than_one_call_takes_are_filled_in_order() {
    for direct in [true, false] {
        let count = 2 * system::BUFFERS_MAX + 3;
        let (_folder, device) = device((count * PAGE_BYTES) as u64, direct);
        let mut data = PageBuf::zeroed(count * PAGE_BYTES);
        for (number, page) in data.chunks_mut(PAGE_BYTES).enumerate() {
            page.fill(number as u8);
        }
        let pieces: Vec<IoSlice<'_>> = data.chunks(PAGE_BYTES).map(IoSlice::new).collect();
        device.write(0, &pieces).expect("the file can be written");
        let mut found = PageBuf::zeroed(count * PAGE_BYTES);
        let mut pieces: Vec<IoSliceMut<'_>> = found.chunks_mut(PAGE_BYTES).map(IoSliceMut::new).collect();
        pieces.insert(5, IoSliceMut::new(&mut []));
        device.read(0, &mut pieces).expect("the file can be read");
        assert!(found[..] == data[..]);
    }
}

#[test]
fn offsets_beyond_32_bits_reach_their_own_bytes() {
    let (_folder, device) = device(8 << 40, true);
    for (offset, byte) in [((8 << 40) - 4096, 1), (1 << 32, 2), (0, 3)] {
        write(&device, offset, &[byte; 4096]);
    }
    device.sync().expect("the file can be synced");
    assert_eq!(read(&device, (8 << 40) - 4096, 4096), [1; 4096]);
    assert_eq!(read(&device, 1 << 32, 4096), [2; 4096]);
    assert_eq!(read(&device, 0, 4097), [&[3; 4096][..], &[0]].concat());
    device.discard((8 << 40) - 4000, 4000).expect("a hole can be made");
    assert_eq!(read(&device, (8 << 40) - 4096, 4096), [&[1; 96][..], &[0; 4000]].concat());
}

#[test]
fn a_call_past_the_end_is_refused_and_a_file_that_was_cut_short_says_where_it_ends() {
    let (folder, device) = device(10_000, true);
    let past = device.read(9_999, &mut [IoSliceMut::new(&mut [0; 2])]).expect_err("it is past the end");
    assert!(matches!(past, Error::OutOfRange { end: 10_000, .. }), "{past}");
    assert!(device.write(u64::MAX, &[IoSlice::new(&[1])]).is_err());
    let file = OpenOptions::new().write(true).open(folder.path().join("file")).expect("it is there");
    file.set_len(6_000).expect("it can be cut");
    let mut buffer = PageBuf::zeroed(8192);
    match device.read(0, &mut [IoSliceMut::new(&mut buffer)]).expect_err("the file is shorter") {
        Error::Device { action: "read", offset: 0, bytes: 8192, source, .. } => {
            assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
            assert!(source.to_string().contains("6000"), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_locked_file_is_refused_to_a_second_owner_until_the_first_goes() {
    let (folder, _unlocked) = device(4096, false);
    let options = FileOptions { lock: true, ..FileOptions::new(folder.path().join("file")) };
    let first = FileDevice::open(&options).expect("the lock is free");
    assert!(matches!(FileDevice::open(&options), Err(Error::Locked { .. })));
    drop(first);
    assert!(FileDevice::open(&options).is_ok());
}

#[test]
fn a_file_with_content_is_never_resized_and_one_opened_for_reading_never_changed() {
    let (folder, device) = device(5000, true);
    write(&device, 0, &[1; 5000]);
    let path = folder.path().join("file");
    let again = FileDevice::open(&FileOptions { create: Some(9000), ..FileOptions::new(&path) })
        .expect("it is there");
    assert_eq!(again.len_bytes(), 5000);
    assert_eq!(again.identity(), device.identity());
    let reader =
        FileDevice::open(&FileOptions { read_only: true, ..FileOptions::new(&path) }).expect("it is there");
    assert!(reader.write(0, &[IoSlice::new(&[2])]).is_err());
    assert!(reader.discard(0, 100).is_err());
    assert_eq!(read(&reader, 0, 5000), [1; 5000]);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for path in [folder.path().join("missing"), folder.path().to_owned()] {
        match FileDevice::open(&FileOptions::new(&path)).err() {
            Some(Error::Path { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn allocating_takes_the_space_and_more_than_there_is_takes_the_new_file_away_again() {
    let (folder, small) = device(0, true);
    small.allocate(3 << 20).expect("there is room for 3 MiB");
    assert_eq!(small.len_bytes(), 3 << 20);
    let found = fs::metadata(folder.path().join("file")).expect("it is there");
    assert!(found.blocks() * 512 >= 3 << 20, "{} blocks", found.blocks());
    assert_eq!(read(&small, (3 << 20) - 10, 10), [0; 10]);
    let (folder, large) = device(0, true);
    let error = large.allocate(1 << 60).expect_err("the disk is smaller");
    assert!(error.to_string().contains("free some or ask for less"), "{error}");
    assert!(!folder.path().join("file").exists());
}

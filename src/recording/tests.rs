//! Recordings written and read again, whole, cut, changed and made up.

use std::io::Cursor;

use fastrand::Rng;

use crate::{BLOCK_REQUESTS, Error, Kind, Lost, Reader, Request, Span, Writer};

fn seed() -> u64 {
    let given = std::env::var("TERRACE_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// Requests of all kinds, some in order as disks are asked, some anywhere.
fn requests(random: &mut Rng, count: usize, has_times: bool) -> Vec<Request> {
    let mut time = random.u64(..u64::MAX / 2);
    let mut place = 0;
    let request = |_| {
        time = if random.u8(..50) == 0 {
            random.u64(..u64::MAX)
        } else {
            time.saturating_add(random.u64(..2_000_000))
        };
        let (start_bits, length_bits) = (random.u32(1..64), random.u32(1..20));
        let start = if random.bool() { place } else { random.u64(..1 << start_bits) };
        let length = random.u64(..1 << length_bits);
        let start = start.min(u64::MAX - length);
        place = start + length;
        let span = if random.u8(..4) == 0 {
            Span::Ids { first: start, count: length }
        } else {
            Span::Bytes { offset: start, bytes: length }
        };
        let volume = if random.u8(..10) == 0 { random.u32(..) } else { 3 };
        let kind = Kind::ALL[random.usize(..4)];
        Request { volume, kind, span, time_ns: has_times.then_some(time.min(u64::MAX - 1)) }
    };
    (0..count).map(request).collect()
}

fn written(requests: &[Request]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("in memory");
    requests.iter().for_each(|request| writer.write(request).expect("in memory"));
    writer.finish(&["sda".into(), "sdb".into()]).expect("in memory")
}

/// All requests up to the end or an error, and the error.
fn read(bytes: &[u8]) -> (Vec<Request>, Option<Error>) {
    let mut found = Vec::new();
    let mut reader = match Reader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (found, Some(error)),
    };
    loop {
        match reader.next_request() {
            Ok(Some(request)) => found.push(request),
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
    }
}

#[test]
fn whatever_is_written_is_read_again() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    for count in [0, 1, 1000, BLOCK_REQUESTS, BLOCK_REQUESTS + 1] {
        let mut given = requests(&mut random, count, true);
        given.extend(requests(&mut random, count / 3, false));
        let (found, error) = read(&written(&given));
        assert!(error.is_none(), "seed {seed}: {error:?}");
        assert!(found == given, "seed {seed}: {count} requests came back changed");
    }
}

#[test]
fn volumes_keep_their_names() {
    let bytes = written(&[]);
    let mut reader = Reader::new(&bytes[..]).expect("it was just written");
    assert_eq!(reader.next_request().expect("it is whole"), None);
    assert_eq!(reader.volumes(), ["sda", "sdb"]);
}

#[test]
fn every_block_can_be_gone_to_and_the_index_says_what_it_holds() {
    let mut random = Rng::with_seed(5);
    let given = requests(&mut random, 2 * BLOCK_REQUESTS + 10, true);
    let bytes = written(&given);
    let mut reader = Reader::new(Cursor::new(&bytes)).expect("it was just written");
    let index = reader.index().expect("it is whole").expect("it was closed");
    assert_eq!(index.blocks.len(), 3);
    for block in index.blocks.iter().rev() {
        reader.go_to(block).expect("in memory");
        let first = block.requests_before as usize;
        let wanted = &given[first..first + block.requests as usize];
        for request in wanted {
            assert_eq!(reader.next_request().expect("it is whole").as_ref(), Some(request));
        }
        let times = || wanted.iter().filter_map(|request| request.time_ns);
        assert_eq!(block.times_ns, times().min().zip(times().max()));
    }
    // The last that was gone to is the first block: the next one follows it.
    assert_eq!(reader.next_request().expect("it is whole"), Some(given[BLOCK_REQUESTS]));
}

#[test]
fn a_recording_cut_anywhere_gives_a_prefix_and_then_says_so() {
    let mut random = Rng::with_seed(6);
    let given = requests(&mut random, 300, true);
    let mut writer = Writer::new(Vec::new()).expect("in memory");
    for (number, request) in given.iter().enumerate() {
        writer.write(request).expect("in memory");
        if number % 100 == 99 {
            writer.end_block().expect("in memory");
        }
    }
    let whole = writer.finish(&[]).expect("in memory");
    for kept in 0..whole.len() {
        let (found, error) = read(&whole[..kept]);
        assert_eq!(found, given[..found.len()], "{kept} bytes kept");
        match error {
            Some(Error::CutShort { at, whole_requests }) => {
                assert_eq!((at, whole_requests), (kept as u64, found.len() as u64));
            }
            Some(Error::NotARecording { .. }) => assert!(kept < 16),
            other => panic!("{kept} bytes kept: {other:?}"),
        }
        let mut reader = match Reader::new(Cursor::new(&whole[..kept])) {
            Ok(reader) => reader,
            Err(_) => continue,
        };
        assert_eq!(reader.index().expect("in memory"), None, "{kept} bytes have no tail");
    }
}

/// Two blocks of 50 requests of volumes 0 and 1, named as they come; 7 requests are lost ahead of the second.
fn noted() -> (Vec<u8>, Vec<Request>) {
    let mut given = requests(&mut Rng::with_seed(7), 100, true);
    let mut writer = Writer::new(Vec::new()).expect("in memory");
    for (number, request) in given.iter_mut().enumerate() {
        request.volume = u32::from(number >= 50);
        if number % 50 == 0 {
            writer.end_block().expect("in memory");
            writer.name_volume(["first", "second"][number / 50].into());
        }
        if number == 60 {
            writer.lose(Lost { requests: 3, times_ns: Some((200, 300)) });
            writer.lose(Lost { requests: 4, times_ns: Some((100, 250)) });
        }
        writer.write(request).expect("in memory");
    }
    (writer.finish(&[]).expect("in memory"), given)
}

#[test]
fn names_and_losses_are_known_where_the_recording_is_cut() {
    let (whole, given) = noted();
    let mut counts = std::collections::BTreeSet::new();
    for kept in 16..=whole.len() {
        let mut reader = Reader::new(&whole[..kept]).expect("the header is whole");
        let mut found = Vec::new();
        while let Ok(Some(request)) = reader.next_request() {
            assert!((request.volume as usize) < reader.volumes().len(), "{kept} bytes kept");
            found.push(request);
        }
        assert_eq!(found, given[..found.len()], "{kept} bytes kept");
        if found.len() > 50 {
            assert_eq!(reader.lost(), Lost { requests: 7, times_ns: Some((100, 300)) });
            assert_eq!(reader.volumes(), ["first", "second"]);
        }
        counts.insert(found.len());
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [0, 50, 100]);
}

#[test]
fn a_reader_that_goes_back_takes_no_name_twice_and_counts_losses_from_there() {
    let (whole, given) = noted();
    let mut reader = Reader::new(Cursor::new(&whole)).expect("it was just written");
    let index = reader.index().expect("it is whole").expect("it was closed");
    for _ in 0..2 {
        reader.go_to(&index.blocks[0]).expect("in memory");
        let found: Vec<Request> =
            std::iter::from_fn(|| reader.next_request().expect("it is whole")).collect();
        assert_eq!(found, given);
        assert_eq!(reader.volumes(), ["first", "second"]);
        assert_eq!(reader.lost().requests, 7);
    }
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let (whole, given) = noted();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        let (found, error) = read(&changed);
        assert!(error.is_some(), "byte {at} was changed, and nothing was said");
        assert_eq!(found, given[..found.len()], "byte {at} was changed");
    }
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let whole = [written(&requests(&mut random, 200, true)), noted().0];
    for number in 0..4000 {
        let whole = &whole[number % 2];
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..=bytes.len()));
        let (found, _) = read(&bytes);
        assert!(found.len() <= 200, "seed {seed}");
        if let Ok(mut reader) = Reader::new(Cursor::new(&bytes)) {
            let _ = reader.index();
        }
    }
}

/// What the stored recordings have, two blocks: places that are no whole sectors, a flush, ids, numbers of every width.
fn stored() -> [Vec<Request>; 2] {
    let bytes = |time_ns, volume, kind, offset, bytes| Request {
        volume,
        kind,
        span: Span::Bytes { offset, bytes },
        time_ns: Some(time_ns),
    };
    let ids = Span::Ids { first: u64::MAX - 9, count: 9 };
    let first = vec![
        bytes(1_700_000_000_000_000_000, 0, Kind::Read, 4096, 4096),
        bytes(1_700_000_000_000_000_250, 0, Kind::Write, 1 << 45, 1 << 20),
        bytes(1_700_000_000_000_000_250, 1, Kind::Flush, 0, 0),
        bytes(1_700_000_000_000_070_000, 0, Kind::Discard, 1 << 20, 1 << 41),
        bytes(1_700_000_005_000_000_000, 0, Kind::Read, 8192, 512),
    ];
    let second = vec![
        bytes(1_700_000_005_000_000_001, 1, Kind::Read, 1, 3),
        Request { volume: 1, kind: Kind::Write, span: ids, time_ns: Some(1_700_000_005_000_000_000) },
        bytes(1_700_000_005_000_000_007, 0, Kind::Read, 77_777_777_777, 251),
    ];
    [first, second]
}

fn stored_bytes() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("in memory");
    for (block, name) in stored().iter().zip(["sda", "sdb"]) {
        writer.name_volume(name.into());
        block.iter().for_each(|request| writer.write(request).expect("in memory"));
        writer.lose(Lost { requests: 2, times_ns: Some((1, 2)) });
        writer.end_block().expect("in memory");
    }
    writer.finish(&[]).expect("in memory")
}

#[test]
fn a_recording_of_an_earlier_version_is_read_as_it_was() {
    let versions = [(2, &include_bytes!("stored/version-2")[..]), (3, include_bytes!("stored/version-3"))];
    for (version, bytes) in versions {
        assert_eq!(bytes[8], version);
        let mut reader = Reader::new(Cursor::new(bytes)).expect("an older version is read");
        let mut found = Vec::new();
        while let Some(request) = reader.next_request().expect("it is whole") {
            found.push(request);
        }
        assert_eq!(found, stored().concat(), "version {version}");
        assert_eq!(reader.volumes(), ["sda", "sdb"]);
        assert_eq!(reader.lost(), Lost { requests: 4, times_ns: Some((1, 2)) });
        let index = reader.index().expect("it is whole").expect("it was closed");
        reader.go_to(&index.blocks[1]).expect("in memory");
        assert_eq!(reader.next_request().expect("it is whole"), Some(stored()[1][0]), "version {version}");
    }
    // What is written now is of the latest.
    assert_eq!(stored_bytes()[8], versions.len() as u8 + 1);
}

#[test]
fn a_disks_whole_sectors_take_no_more_bytes_than_their_numbers() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let request = |number: u64| Request {
        volume: 0,
        kind: Kind::Read,
        span: Span::Bytes { offset: random.u64(..1 << 28) << 12, bytes: 4096 },
        time_ns: Some(number),
    };
    let given: Vec<Request> = (0..10_000).map(request).collect();
    let bytes = written(&given);
    // 28 bits and the sign are in four bytes; times, lengths and kinds are all alike.
    assert!(bytes.len() < 10_000 * 9 / 2, "seed {seed}: {} bytes", bytes.len());
    assert!(read(&bytes).0 == given, "seed {seed}");
}

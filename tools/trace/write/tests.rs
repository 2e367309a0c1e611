//! What is written in a format is read again from it, as far as the format can say it.

use std::path::Path;

use super::super::{Options, Source};
use super::*;

fn seed() -> u64 {
    let given = std::env::var("TERRACE_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// Requests of every kind on two volumes, in the order of time, some of one place again and again.
fn requests(seed: u64, count: usize) -> Vec<Request> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut time = random.u64(..1 << 40);
    let request = |number| {
        time += random.u64(..3_000_000_000);
        let kind = Kind::ALL[random.usize(..4)];
        let length = 512 * random.u64(1..256);
        let offset = if random.bool() { 4096 * random.u64(..50) } else { 512 * random.u64(..1 << 30) };
        let span = if kind == Kind::Flush { Span::NOTHING } else { Span::Bytes { offset, bytes: length } };
        // The first is of volume 0, so that numbers by appearance are those given here.
        let volume = if number == 0 { 0 } else { random.u32(..2) };
        Request { volume, kind, span, time_ns: Some(time) }
    };
    (0..count).map(request).collect()
}

/// What comes back of `requests` through a file in `target`, and how many were left out.
fn round_trip(target: Target, requests: &[Request], options: &Options) -> (Vec<Request>, u64) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("trace");
    let mut sink = Sink::create(&path, target, 512).expect("a new file");
    requests.iter().for_each(|request| sink.write(request).unwrap_or_else(|failure| panic!("{failure}")));
    let left_out = sink.left_out;
    sink.finish(&[]).expect("room for it");
    (read(&path, options), left_out)
}

fn read(path: &Path, options: &Options) -> Vec<Request> {
    let source = Source::open(path, options).unwrap_or_else(|failure| panic!("{failure}"));
    let (mut reader, _) = source.reader().expect("it was just written");
    let next = || reader.next_request().unwrap_or_else(|failure| panic!("{failure}"));
    std::iter::from_fn(next).collect()
}

#[test]
fn our_own_format_and_csv_keep_everything() {
    let seed = seed();
    let given = requests(seed, 3000);
    for target in [Target::Terrace, Target::Csv] {
        let (found, left_out) = round_trip(target, &given, &Options::default());
        assert!(found == given && left_out == 0, "{target:?}, seed {seed}");
    }
    let untimed: Vec<Request> = given.iter().map(|request| Request { time_ns: None, ..*request }).collect();
    for target in [Target::Terrace, Target::Csv] {
        assert!(round_trip(target, &untimed, &Options::default()).0 == untimed, "{target:?}, seed {seed}");
    }
}

#[test]
fn fio_keeps_everything_but_what_is_finer_than_a_microsecond_and_when_it_began() {
    let seed = seed();
    let given = requests(seed, 3000);
    let first = given[0].time_ns.expect("it has");
    let wanted: Vec<Request> = given
        .iter()
        .map(|request| Request {
            time_ns: request.time_ns.map(|time| (time - first) / 1000 * 1000),
            ..*request
        })
        .collect();
    assert!(round_trip(Target::Fio, &given, &Options::default()).0 == wanted, "seed {seed}");
}

#[test]
fn object_formats_keep_places_sizes_seconds_and_lcs_operations() {
    let seed = seed();
    let mut given = requests(seed, 3000);
    given.iter_mut().for_each(|request| request.volume = 0);
    let options = Options { id_bytes: Some(512), ..Options::default() };
    for target in [Target::OracleGeneral, Target::Lcs] {
        let is_kept = |request: &&Request| match target {
            Target::Lcs => request.kind != Kind::Flush,
            _ => matches!(request.kind, Kind::Read | Kind::Write),
        };
        let kept: Vec<&Request> = given.iter().filter(is_kept).collect();
        let first = kept[0].time_ns.expect("it has");
        let back = |request: &&Request| Request {
            kind: if target == Target::Lcs { request.kind } else { Kind::Read },
            time_ns: request.time_ns.map(|time| (time - first) / 1_000_000_000 * 1_000_000_000),
            ..**request
        };
        let wanted: Vec<Request> = kept.iter().map(back).collect();
        let (found, left_out) = round_trip(target, &given, &options);
        assert!(found == wanted, "{target:?}, seed {seed}");
        assert_eq!(left_out as usize, given.len() - kept.len());
    }
}

/// The next uses that a file in oracleGeneral says.
fn next_uses(path: &Path) -> Vec<i64> {
    let bytes = std::fs::read(path).expect("it was just written");
    bytes.chunks_exact(24).map(|record| i64::from_le_bytes(record[16..].try_into().expect("8"))).collect()
}

#[test]
fn next_uses_are_right_also_when_they_come_long_after_the_record_was_written() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("trace");
    let mut sink = Sink::create(&path, Target::OracleGeneral, 512).expect("a new file");
    // Twice more than the window: object 0, then others that come once, then 0 and 1 again.
    let count = 2_200_000u64;
    let objects = (0..count).chain([0, 1, 0]);
    for object in objects {
        let span = Span::Ids { first: object, count: 1 };
        let request = Request { volume: 0, kind: Kind::Read, span, time_ns: None };
        sink.write(&request).unwrap_or_else(|failure| panic!("{failure}"));
    }
    sink.finish(&[]).expect("room for it");
    let found = next_uses(&path);
    let last = count as usize;
    assert_eq!((found[0], found[1]), (count as i64 + 1, count as i64 + 2));
    assert_eq!(found[last..], [count as i64 + 3, -1, -1]);
    assert!(found[2..last].iter().all(|&next| next == -1));
}

#[test]
fn what_cannot_be_said_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let request = |span| Request { volume: 0, kind: Kind::Read, span, time_ns: None };
    let refused = |target, name: &str, span| {
        let mut sink = Sink::create(&folder.path().join(name), target, 512).expect("a new file");
        sink.write(&request(span)).expect_err("it cannot be said").to_string()
    };
    let id = Span::Ids { first: 1, count: 1 };
    assert!(refused(Target::Fio, "a", id).contains("--id-size"));
    assert!(refused(Target::Csv, "b", id).contains("--id-size"));
    assert!(refused(Target::Lcs, "c", Span::Bytes { offset: 100, bytes: 1 }).contains("--unit"));
    let Err(failure) = Sink::create(&folder.path().join("a"), Target::Csv, 512) else {
        panic!("it is there")
    };
    assert!(failure.to_string().contains("cannot make"), "{failure}");
}

#[test]
fn volumes_are_apart_in_the_upper_bits_of_objects_and_lcs_names_the_tenant() {
    let span = Span::Bytes { offset: 4096, bytes: 512 };
    let given: Vec<Request> =
        (0..2).map(|volume| Request { volume, kind: Kind::Read, span, time_ns: None }).collect();
    let (found, _) = round_trip(Target::Lcs, &given, &Options::default());
    let objects: Vec<u64> = found.iter().map(|request| request.span.parts().0).collect();
    assert_eq!(objects, [8, 1 << 40 | 8]);
}

//! Readers on recordings that others published: what is known of them comes out.
//!
//! They are looked for as in `replay/oracle_tests.rs`; without them a test says `skipped`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::profile::Profile;
use super::super::{Format, Kind, Options, Request, Source, Span};

#[expect(clippy::print_stdout, reason = "a test that skips says so")]
fn recorded(file: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let path = std::env::var_os("TERRACE_TRACES").map_or(beside, PathBuf::from).join(file);
    if path.is_file() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "no recorded trace {}", path.display());
    println!("skipped: no recorded trace {}", path.display());
    None
}

fn requests(path: &Path, format: Format, options: &Options) -> Vec<Request> {
    let source = Source::open(path, options).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(source.format(), format, "{}", path.display());
    let (mut reader, _) = source.reader().expect("it can be opened");
    let next = || reader.next_request().unwrap_or_else(|failure| panic!("{failure}"));
    std::iter::from_fn(next).collect()
}

fn profile(path: &Path, format: Format) -> Profile {
    let source = Source::open(path, &Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(source.format(), format, "{}", path.display());
    let (mut reader, _) = source.reader().expect("it can be opened");
    Profile::of(&mut *reader, 4096, || ()).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn one_recording_in_four_formats_is_one_stream() {
    let Some(vscsi) = recorded("cloudphysics/cloudPhysicsIO.vscsi.zst") else { return };
    let beside = |name: &str| vscsi.with_file_name(name);
    let sectors = Options { id_bytes: Some(512), ..Options::default() };
    let wanted = requests(&vscsi, Format::Vscsi, &Options::default());
    let csv = requests(&beside("cloudPhysicsIO.csv.zst"), Format::Csv, &Options::default());
    let oracle = requests(&beside("cloudPhysicsIO.oracleGeneral.bin.zst"), Format::OracleGeneral, &sectors);
    let lcs = requests(&beside("cloudPhysicsIO.vscsi.lcs.zst"), Format::Lcs, &sectors);
    assert_eq!(wanted.len(), 113_872);
    assert_eq!([csv.len(), oracle.len(), lcs.len()], [wanted.len(); 3]);
    let second = |request: &Request| request.time_us().expect("all have times") / 1_000_000;
    let begins = |requests: &[Request]| second(&requests[0]);
    let (from, from_csv, from_oracle, from_lcs) =
        (begins(&wanted), begins(&csv), begins(&oracle), begins(&lcs));
    let mut first_sizes = HashMap::new();
    for (number, wanted) in wanted.iter().enumerate() {
        let (csv, oracle, lcs) = (&csv[number], &oracle[number], &lcs[number]);
        assert_eq!([csv.span, lcs.span], [wanted.span; 2], "request {number}");
        // In oracleGeneral an object has one size, that of the first request for it.
        let (offset, bytes) = wanted.span.parts();
        let first_bytes = *first_sizes.entry(offset).or_insert(bytes);
        assert_eq!(oracle.span, Span::Bytes { offset, bytes: first_bytes }, "request {number}");
        // Neither oracleGeneral nor lcs version 1 has operations.
        assert_eq!(
            [csv.kind, oracle.kind, lcs.kind],
            [wanted.kind, Kind::Read, Kind::Read],
            "request {number}"
        );
        let since = [second(csv) - from_csv, second(oracle) - from_oracle, second(lcs) - from_lcs]
            .map(|s| s.abs_diff(second(wanted) - from));
        assert!(since.iter().all(|&off| off <= 1), "request {number} is off by {since:?} seconds");
    }
}

#[test]
fn the_cloudphysics_recording_is_off_by_one_sector_and_the_shift_makes_fewer_blocks() {
    let Some(path) = recorded("cloudphysics/cloudPhysicsIO.vscsi.zst") else { return };
    let as_is = profile(&path, Format::Vscsi);
    assert_eq!((as_is.requests, as_is.reads, as_is.writes), (113_872, 46_974, 66_898));
    assert_eq!((as_is.references, as_is.touched.count(), as_is.touched.error()), (1_141_869, 269_210, 0.0));
    let (shift, share) = as_is.alignment.shift().expect("it is off");
    assert!(shift == 512 && (0.79..0.81).contains(&share), "{shift}, {share}");
    let source = Source::open(&path, &Options { shift_bytes: shift, ..Options::default() }).expect("good");
    let (mut reader, _) = source.reader().expect("good");
    let shifted = Profile::of(&mut *reader, 4096, || ()).expect("good");
    assert_eq!(shifted.references, 1_053_519);
}

#[test]
fn counts_of_recordings_are_those_that_are_known() {
    for (file, format, requests, reads, references, unique) in [
        ("mqsim/wsrch-small.trace.zst", Format::DiskSim, 24_783, 24_779, 93_312, 93_029),
        ("msr/msr.cut.per_10k.rw_20_80.105.trace.zst", Format::TraceRar, 10_000, 2_020, 16_551, 7_385),
        ("msr/msr.cut.per_10k.rw_40_60.1370.trace.zst", Format::TraceRar, 10_000, 4_054, 15_696, 8_968),
        ("arc/OLTP.lis.zst", Format::Arc, 914_145, 914_145, 914_145, 186_880),
        ("arc/P3.lis.zst", Format::Arc, 238_578, 238_578, 3_912_296, 762_543),
        ("lirs/multi2.trc.zst", Format::Ids, 26_311, 26_311, 26_311, 5_684),
        ("lirs/sprite.trc.zst", Format::Ids, 133_996, 133_996, 133_996, 7_075),
    ] {
        let Some(path) = recorded(file) else { return };
        let found = profile(&path, format);
        assert_eq!((found.requests, found.reads), (requests, reads), "{file}");
        assert_eq!((found.references, found.touched.count()), (references, unique), "{file}");
    }
}

#[test]
fn a_recording_of_blktrace_gives_the_requests_that_were_queued() {
    let Some(path) = recorded("blktrace/sample.blktrace.0.zst") else { return };
    let found = requests(&path, Format::Blktrace, &Options::default());
    assert_eq!(found.len(), 963);
    assert!(found.iter().all(|request| request.kind == Kind::Read && request.volume == 0));
    assert!(found.iter().all(|request| matches!(request.span, Span::Bytes { bytes: 512.., .. })));
    let times: Vec<u64> = found.iter().filter_map(|request| request.time_ns).collect();
    let (first, last) = (times.iter().min().expect("some"), times.iter().max().expect("some"));
    assert!((last - first) / 1_000_000 < 400, "{first} to {last}");
}

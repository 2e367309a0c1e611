//! The keys are those that are explained, and the sentence says what the keys say.

use std::collections::BTreeSet;
use std::io::Write as _;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: TuneArgs,
}

/// A report on a small trace: popular blocks, and a scan now and then.
pub(crate) fn report(more: &[&str]) -> Report {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut random = fastrand::Rng::with_seed(1);
    for step in 0..30_000u64 {
        let page = if step % 1000 < 300 { 5000 + step } else { (random.f64().powi(3) * 3000.0) as u64 };
        let kind = if step % 10 == 0 { "Write" } else { "Read" };
        let (filetime, offset) = (128_166_386_787_582_087 + step * 10_000_000, page * 4096);
        writeln!(file, "{filetime},host,0,{kind},{offset},4096,1").expect("room for a small file");
    }
    let path = file.path().to_str().expect("a path of text");
    let line =
        Line::try_parse_from([&["tune", path, "--block-size", "4k"], more].concat()).expect("good arguments");
    make(file.path(), &line.args).expect("a good trace")
}

#[test]
fn every_key_that_is_printed_is_explained_and_every_explained_key_is_printed() {
    for report in [report(&[]), super::super::report_of_a_small_cache()] {
        let json = serde_json::to_value(report).expect("plain data");
        let printed: BTreeSet<String> = json.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(printed, explained());
    }
}

#[test]
fn the_surface_has_every_pair_and_more_of_either_tier_never_waits_much_more_for_the_disk() {
    let report = report(&[]);
    let cells: Vec<_> = report.surface.iter().map(|one| one.cell).collect();
    let ssds = cells.iter().filter(|cell| cell.ram_bytes == cells[0].ram_bytes).count();
    assert!(ssds >= 3 && cells.len() % ssds == 0, "{}", cells.len());
    for (index, cell) in cells.iter().enumerate() {
        assert!((cell.ram_share + cell.ssd_share + cell.disk_share - 1.0).abs() < 1e-9);
        let without = &cells[index / ssds * ssds];
        assert!(cell.disk_share <= without.disk_share + 1e-9, "{cell:?}");
        assert!((cell.ram_share - without.ram_share).abs() < 1e-9, "RAM does not depend on the SSD");
    }
}

#[test]
fn the_sentence_names_the_recommended_sizes_and_a_refusal_says_why() {
    let some = report(&[]);
    let taken = some.recommendation.expect("nothing forbids one");
    assert!(
        some.sentence().contains(&sizes(taken.cell.ram_bytes, taken.cell.ssd_bytes)),
        "{}",
        some.sentence()
    );
    assert_ne!(some.runner_up, Some(taken));
    let none = report(&["--budget", "0.000001"]);
    assert!(
        none.recommendation.is_none() && none.sentence().contains("--budget is kept by 0"),
        "{}",
        none.sentence()
    );
}

#[test]
fn every_candidate_that_is_recommended_keeps_the_constraints() {
    for more in
        [&["--ram-max", "2MiB"][..], &["--life-years", "3"], &["--p99", "10ms"], &["--budget", "0.01"]]
    {
        let report = report(more);
        if let Some(taken) = &report.recommendation {
            assert!(report.constraints.keeps(taken), "{more:?}: {taken:?}");
        }
    }
}

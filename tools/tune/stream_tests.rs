//! What is counted of a trace while it is read, beside what is counted of one that is kept.

use std::fmt::Write as _;

use terrace::BlockSize;

use super::super::curves::CurvePoint;
use super::super::surface::tests::compare;
use super::*;
use crate::mode::Mode;
use crate::replay::Addressing;
use crate::trace::Options;

const PAGE_BYTES: u64 = 4096;

fn grid() -> Grid {
    let block_size = BlockSize::new(PAGE_BYTES).expect("a good size");
    let addressing = Addressing { block_size, one_block_each: false, writes_as_reads: false };
    Grid { addressing, shift_bytes: 0 }
}

/// So many requests of one page to three: popular ones of so many, and scans over as many in between.
fn trace(requests: u64, pages: u64, seed: u64) -> (tempfile::NamedTempFile, Source) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = String::from("time_us,operation,offset,bytes\n");
    for step in 0..requests {
        let page = match step / 2000 % 3 {
            0 => pages + step % pages,
            _ => (random.f64().powi(3) * pages as f64) as u64,
        };
        let (kind, count) = (if step % 7 == 0 { "write" } else { "read" }, 1 + step % 3);
        writeln!(text, "{},{kind},{},{}", step * 100, page * PAGE_BYTES, count * PAGE_BYTES)
            .expect("a string takes everything");
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("room for it");
    let options = Options {
        columns: Some("time:us,op,offset,size".parse().expect("good columns")),
        ..Options::default()
    };
    let source = Source::open(file.path(), &options).expect("it can be opened");
    (file, source)
}

fn sizes(blocks: u64) -> Sizes {
    let bytes = |share: u64| blocks * PAGE_BYTES / share;
    Sizes {
        ram_bytes: [64, 16, 4, 2].map(bytes).to_vec(),
        ssd_bytes: vec![0, bytes(8).max(16 << 20), bytes(2).max(32 << 20), bytes(1).max(64 << 20)],
        ssd_write_budget: None,
        write: Mode::BackSsd,
    }
}

fn streamed(source: &Source, survey: &Survey, sizes: &Sizes) -> (f64, Answer) {
    let question = Question { grid: grid(), survey, sizes, has_curves: true };
    let counting = Counting::new(question).expect("sizes that work");
    let rate = counting.sample.is_some().then_some(rate(survey, sizes));
    let mut answers = answer(source, vec![counting], &Work { is_shown: false }).expect("a good trace");
    (rate.unwrap_or(1.0), answers.remove(0))
}

/// The same of the trace in memory.
fn kept(source: &Source, survey: &Survey, sizes: &Sizes) -> Answer {
    let work = Work { is_shown: false };
    let recording = Recording::load(source, &grid(), survey, &work).expect("a good trace");
    let profile = Profile::of(&recording.dense(), &recording, survey);
    let curves = Curves::of(recording.dense(), recording.block_size, &work);
    let surface = Surface::simulate(&recording, sizes, 1.0, &work).expect("sizes that work");
    Answer { surface, more: Some(More { curves, curve_errors: None, profile }) }
}

fn survey(source: &Source) -> Survey {
    let [survey] = Survey::of(source, &[grid()], &Work { is_shown: false }).expect("a good trace");
    survey
}

#[test]
fn a_trace_of_few_blocks_is_counted_as_if_it_were_kept() {
    let seed = fastrand::u64(..);
    // Of several chunks.
    let (_file, source) = trace(300_000, 1500, seed);
    let survey = survey(&source);
    assert!(survey.references > CHUNK_REFERENCES as u64 && survey.blocks < 2 * BLOCKS_MIN, "{survey:?}");
    let sizes = sizes(survey.blocks);
    let (rate, found) = streamed(&source, &survey, &sizes);
    let wanted = kept(&source, &survey, &sizes);
    assert_eq!((rate, found.surface.samples), (1.0, 1));
    assert_eq!(found.surface.cells, wanted.surface.cells, "seed {seed}");
    let (found, wanted) = (found.more.expect("asked for"), wanted.more.expect("made"));
    assert_eq!((found.curves.lru, found.curves.arc), (wanted.curves.lru, wanted.curves.arc), "seed {seed}");
    assert_eq!(found.curve_errors, None);
    let json = |profile| serde_json::to_value::<Profile>(profile).expect("plain data");
    assert_eq!(json(found.profile), json(wanted.profile), "seed {seed}");
}

#[test]
fn a_trace_of_many_blocks_is_sampled_and_error_bars_hold_the_whole() {
    let seed = fastrand::u64(..);
    let (_file, source) = trace(150_000, 50_000, seed);
    let survey = survey(&source);
    let sizes = sizes(survey.blocks);
    let (rate, found) = streamed(&source, &survey, &sizes);
    let wanted = kept(&source, &survey, &sizes);
    assert!(rate < 0.5 && found.surface.samples == SAMPLES, "{rate}");
    let (mean, _, outside) = compare(&wanted.surface, &found.surface);
    assert!(mean < 0.03, "seed {seed}: {mean}");
    assert!(outside <= sizes.ram_bytes.len() * sizes.ssd_bytes.len() / 5, "seed {seed}: {outside} outside");
    let (found, wanted) = (found.more.expect("asked for"), wanted.more.expect("made"));
    assert_eq!(found.curves.unique_blocks, wanted.curves.unique_blocks);
    let errors = found.curve_errors.expect("there are samples");
    let last = |points: &[CurvePoint]| points.last().expect("a point").miss_ratio;
    let off = (last(&found.curves.lru) - last(&wanted.curves.lru)).abs();
    assert!(off <= 2.0 * errors.lru.last().expect("a point"), "seed {seed}: {off}, {errors:?}");
    let counted: u64 = found.profile.windows.iter().map(|window| window.references).sum();
    let share = counted as f64 / survey.references as f64;
    assert!((0.8..1.2).contains(&share), "seed {seed}: windows are of the whole trace: {share}");
}

#[test]
fn as_many_blocks_are_in_as_tell_something_fit_memory_and_take_no_longer_than_reading() {
    let sizes = Sizes {
        ram_bytes: (0..10).map(|power| 1 << (21 + power)).collect(),
        ssd_bytes: (0..9).map(|power| 1 << (24 + power)).collect(),
        ssd_write_budget: None,
        write: Mode::BackSsd,
    };
    let kept = |blocks: u64| {
        let survey = Survey { blocks, references: 220_000_000, ..Survey::default() };
        (rate(&survey, &sizes) * blocks as f64).round() as u64
    };
    assert_eq!(kept(4 << 20), BLOCKS_MAX);
    assert_eq!(kept(1 << 16), 6554, "a tenth");
    assert_eq!(kept(10_000), BLOCKS_MIN);
    assert_eq!(kept(3000), 3000, "half of them would be no less work");
    assert_eq!((kept(1), kept(0)), (1, 0));
}

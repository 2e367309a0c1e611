//! A trace that is too long to be kept: what is asked of it is counted while it is read, and nothing of it stays.
//!
//! ```text
//! requests ──> blocks that are in, numbered off ──> a chunk ──┬──> columns   a RAM size and a part: all SSD sizes at once
//!                                                             ├──> curves    a part: LRU and ARC in every size
//!                                                             └──> windows   working set and reuse over time
//! ```
//!
//! Memory follows from the blocks that are in, however often they are asked for; so there are [`BLOCKS_MAX`] of them at the
//! most. Time follows from the references to them: of a trace of few blocks that is long, as many are in as let simulation
//! take about as long as reading ([`STEPS_PER_REFERENCE`]), and [`BLOCKS_MIN`] at the least. When that is half of all it is
//! all of them, and every count exact.
//!
//! Blocks that are in fall into [`SAMPLES`] parts, each a sample of the trace for itself and none of them sharing a block: so
//! what their mean misses by chance is what they tell by how they differ.

use std::sync::{Mutex, PoisonError};

use terrace::simulate::{DenseTrace, Sample};

use super::bands::{CurveErrors, SampleCurve, combine};
use super::curves::Curves;
use super::load::{Grid, Parts, Recording, Survey, read};
use super::profile::{Profile, Windows};
use super::surface::{Column, SAMPLES, Sizes, Surface};
use super::work::Work;
use crate::failure::{Failure, Result};
use crate::trace::{Request, Source};

/// A simulation of each part below each RAM size keeps a few hundred bytes for each of its blocks, all sizes of the SSD
/// together, and their sum is some 80 MiB.
const BLOCKS_MAX: u64 = 1 << 14;
/// Fewer make samples that lie too far apart to tell anything.
const BLOCKS_MIN: u64 = 1 << 11;
/// Steps of simulation for each reference of the trace, in or not: that takes two processors about as long as it takes them
/// to read a line of text.
const STEPS_PER_REFERENCE: f64 = 10.0;
/// References that are looked at together.
const CHUNK_REFERENCES: usize = 1 << 19;

/// What is asked of a trace.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) grid: Grid,
    pub(super) survey: &'a Survey,
    pub(super) sizes: &'a Sizes,
    /// Whether curves and windows are wanted too.
    pub(super) has_curves: bool,
}

/// What was found.
pub(super) struct Answer {
    pub(super) surface: Surface,
    pub(super) more: Option<More>,
}

/// Curves and windows.
pub(super) struct More {
    pub(super) curves: Curves,
    pub(super) curve_errors: Option<CurveErrors>,
    pub(super) profile: Profile,
}

/// A question while its trace is read.
pub(super) struct Counting<'a> {
    question: Question<'a>,
    /// The share of the blocks that is in each part.
    part_rate: f64,
    sample: Option<Sample>,
    parts: Parts,
    /// Of ids beyond every block number.
    renumbers: Option<DenseTrace>,
    numbers: DenseTrace,
    /// Numbers are below this.
    numbers_max: u32,
    chunk: Chunk,
    tasks: Vec<Mutex<Task<'a>>>,
}

/// What came last.
struct Chunk {
    recording: Recording,
    /// By touch.
    parts: Vec<u8>,
    /// By block of each touch.
    numbers: Vec<u32>,
    /// Of the trace, in or not: before the chunk, and up to its end.
    references: (u64, u64),
}

/// What a thread does with a chunk.
enum Task<'a> {
    Column { ram: usize, part: u8, column: Box<Column<'a>> },
    Curve { part: u8, curve: Box<SampleCurve> },
    Windows(Box<Windows>),
}

/// The share of the blocks that is in.
fn rate(survey: &Survey, sizes: &Sizes) -> f64 {
    let in_time = survey.blocks as f64 * STEPS_PER_REFERENCE / sizes.columns() as f64;
    let blocks = in_time.clamp(BLOCKS_MIN as f64, BLOCKS_MAX as f64);
    let rate = blocks / survey.blocks.max(1) as f64;
    if rate < 0.5 { rate } else { 1.0 }
}

impl<'a> Counting<'a> {
    /// # Errors
    /// When the sizes do not fit the size of blocks.
    pub(super) fn new(question: Question<'a>) -> Result<Self> {
        let Question { grid, survey, sizes, has_curves } = question;
        let rate = rate(survey, sizes);
        let parts = if rate < 1.0 { SAMPLES } else { 1 };
        let part_rate = rate / parts as f64;
        let block_size = grid.addressing.block_size;
        // Eight standard deviations of chance, and what the survey's count may be off.
        let kept = survey.blocks as f64 * rate;
        let numbers_max = (kept * 1.05 + 8.0 * kept.sqrt()) as u32 + 64;
        let mut tasks = Vec::new();
        for part in 0..parts as u8 {
            for (ram, &bytes) in sizes.ram_bytes.iter().enumerate() {
                let column = Box::new(Column::new(block_size, part_rate, sizes, bytes)?);
                tasks.push(Task::Column { ram, part, column });
            }
            if has_curves {
                let curve = Box::new(SampleCurve::new(survey, part_rate, numbers_max));
                tasks.push(Task::Curve { part, curve });
            }
        }
        if has_curves {
            tasks.push(Task::Windows(Box::new(Windows::new(survey, block_size, numbers_max, rate))));
        }
        Ok(Self {
            question,
            part_rate,
            sample: (rate < 1.0).then(|| Sample::new(rate, 0)),
            parts: Parts::new(parts, 1.0 / parts as f64, 1),
            renumbers: survey.renumbers.then(DenseTrace::default),
            numbers: DenseTrace::default(),
            numbers_max,
            chunk: Chunk {
                recording: Recording::empty(block_size, rate),
                parts: Vec::new(),
                numbers: Vec::new(),
                references: (0, 0),
            },
            tasks: tasks.into_iter().map(Mutex::new).collect(),
        })
    }

    fn add(&mut self, request: &Request) -> Result<()> {
        let Self { question, sample, chunk, renumbers, .. } = self;
        let before = chunk.recording.touches.len();
        chunk.recording.add(request, &question.grid, sample.as_ref(), renumbers.as_mut());
        chunk.references.1 += question.grid.blocks(request).1;
        for touch in &chunk.recording.touches[before..] {
            // One block each, unless all are in one part.
            chunk.parts.push(self.parts.part_of(touch.first).unwrap_or(0) as u8);
            chunk.numbers.extend(touch.blocks().map(|block| self.numbers.number(block)));
        }
        if self.numbers.unique() > self.numbers_max {
            return Err(Failure::input("the trace has become another one while it was read")
                .remedy("tell it again when nobody writes to it"));
        }
        if chunk.numbers.len() >= CHUNK_REFERENCES {
            self.count_chunk();
        }
        Ok(())
    }

    fn count_chunk(&mut self) {
        let chunk = &self.chunk;
        let work = Work { is_shown: false };
        work.share(
            "counting",
            &self.tasks,
            |_| 1,
            |task, _| task.lock().unwrap_or_else(PoisonError::into_inner).count(chunk),
        );
        let chunk = &mut self.chunk;
        chunk.recording.touches.clear();
        chunk.parts.clear();
        chunk.numbers.clear();
        chunk.references.0 = chunk.references.1;
    }

    /// What the whole trace gave.
    fn finish(mut self) -> Result<Answer> {
        self.count_chunk();
        let Question { grid, survey, sizes, .. } = self.question;
        let block_size = grid.addressing.block_size;
        let mut columns = vec![Vec::new(); sizes.ram_bytes.len()];
        let (mut samples, mut windows) = (Vec::new(), None);
        for task in self.tasks {
            match task.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Task::Column { ram, column, .. } => columns[ram].push(column.counts()),
                Task::Curve { curve, .. } => samples.push(*curve),
                Task::Windows(counted) => windows = Some(*counted),
            }
        }
        let more = windows.map(|windows| {
            let (curves, curve_errors) = combine(&samples, survey, self.part_rate, block_size);
            More { curves, curve_errors, profile: Profile::with(windows.finish(), survey) }
        });
        let surface = Surface::of_columns(
            sizes,
            block_size,
            &columns,
            (survey.read_references, survey.logged),
            self.part_rate,
        )?;
        Ok(Answer { surface, more })
    }
}

impl Task<'_> {
    fn count(&mut self, chunk: &Chunk) {
        let touches = || chunk.recording.touches.iter().zip(&chunk.parts);
        match self {
            Self::Column { part, column, .. } => {
                let part = &*part;
                column.advance(touches().filter(|&(_, of)| of == part).map(|(touch, _)| touch));
            }
            Self::Curve { part, curve } => {
                let part = &*part;
                let mut numbers = &chunk.numbers[..];
                let mut own = Vec::with_capacity(numbers.len());
                for (touch, of) in touches() {
                    let blocks;
                    (blocks, numbers) = numbers.split_at(touch.count as usize);
                    if of == part {
                        own.extend_from_slice(blocks);
                    }
                }
                curve.advance(&own);
            }
            Self::Windows(windows) => {
                let mut numbers = &chunk.numbers[..];
                let (first, end) = chunk.references;
                let step = (end - first) as f64 / numbers.len().max(1) as f64;
                let all = numbers.len();
                for (touch, _) in touches() {
                    let before = first as f64 + step * (all - numbers.len()) as f64;
                    let blocks;
                    (blocks, numbers) = numbers.split_at(touch.count as usize);
                    windows.count(blocks, touch.time_us, before);
                }
            }
        }
    }
}

/// Reads `source` once and answers all.
pub(super) fn answer(source: &Source, mut all: Vec<Counting<'_>>, work: &Work) -> Result<Vec<Answer>> {
    if !all.is_empty() {
        read(source, "simulating", work, |request| {
            all.iter_mut().try_for_each(|counting| counting.add(request))
        })?;
    }
    all.into_iter().map(Counting::finish).collect()
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;

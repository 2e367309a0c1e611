//! What the trace is like: sizes of requests, and over time how far apart uses lie and how much is in use.

use serde::Serialize;
use terrace::BlockSize;
use terrace::simulate::{DenseTrace, StackDistances};

use super::load::{Recording, SIZES, Survey};

/// Columns of the plots over time.
const WINDOWS: usize = 48;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Profile {
    pub(crate) request_sizes: Vec<SizeClass>,
    pub(crate) windows: Vec<Window>,
    /// Whether windows are of equal time; else of equal numbers of references.
    pub(crate) windows_by_time: bool,
    pub(crate) better_shift_bytes: Option<u64>,
    /// Requests that begin where that shift would put on a page.
    pub(crate) misaligned_share: f64,
}

/// Requests of more than half of `bytes_max` and at most that.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SizeClass {
    pub(crate) bytes_max: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

/// A stretch of the trace.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Window {
    /// Where it ends: seconds from the trace's beginning, or references.
    pub(crate) end: f64,
    pub(crate) references: u64,
    /// Bytes of all blocks touched in it.
    pub(crate) working_set_bytes: u64,
    /// Bytes of all blocks touched up to its end.
    pub(crate) footprint_bytes: u64,
    /// References by the power of two of blocks used since the last use of the same block: the first entry is up to 1, the
    /// next 2, then 4 and so on.
    pub(crate) reuse_distances: Vec<u64>,
    pub(crate) first_uses: u64,
}

impl Profile {
    pub(super) fn of(trace: &DenseTrace, recording: &Recording, survey: &Survey) -> Self {
        let mut windows = Windows::new(survey, recording.block_size, trace.unique(), 1.0);
        let (mut done, mut references) = (0, trace.references());
        for touch in &recording.touches {
            let blocks;
            (blocks, references) = references.split_at(touch.count as usize);
            windows.count(blocks, touch.time_us, done as f64);
            done += u64::from(touch.count);
        }
        Self::with(windows.finish(), survey)
    }

    pub(super) fn with(windows: Vec<Window>, survey: &Survey) -> Self {
        let shift = survey.alignment.shift();
        Self {
            request_sizes: request_sizes(survey),
            windows,
            windows_by_time: survey.times_us.is_some(),
            better_shift_bytes: shift.map(|(bytes, _)| bytes),
            misaligned_share: shift.map_or(0.0, |(_, share)| share),
        }
    }
}

/// From the smallest class with requests to the largest.
fn request_sizes(survey: &Survey) -> Vec<SizeClass> {
    let class = |index: usize| SizeClass {
        bytes_max: 512 << index,
        reads: survey.sizes[0][index],
        writes: survey.sizes[1][index],
    };
    let all: Vec<SizeClass> = (0..SIZES).map(class).collect();
    let is_used = |class: &SizeClass| class.reads + class.writes > 0;
    let first = all.iter().position(is_used).unwrap_or(0);
    let last = all.iter().rposition(is_used).unwrap_or(0);
    all[first..=last].to_vec()
}

/// Counts one window after another.
struct Counter {
    stack: StackDistances,
    /// By block: the window of its last use, counted from 1.
    used_in: Vec<u32>,
    footprint: u64,
    working_set: u64,
    window: Window,
    /// A scaled-down trace counts for more.
    scale: f64,
    block_bytes: u64,
}

impl Counter {
    fn count(&mut self, block: u32, number: u32) {
        self.window.references += 1;
        if self.used_in[block as usize] != number {
            self.working_set += 1;
            self.footprint += u64::from(self.used_in[block as usize] == 0);
            self.used_in[block as usize] = number;
        }
        match self.stack.reference(block) {
            None => self.window.first_uses += 1,
            Some(depth) => {
                let depth = (f64::from(depth) * self.scale) as u64;
                let class = (u64::BITS - depth.saturating_sub(1).leading_zeros()) as usize;
                if self.window.reuse_distances.len() <= class {
                    self.window.reuse_distances.resize(class + 1, 0);
                }
                self.window.reuse_distances[class] += 1;
            }
        }
    }

    fn finish(&mut self, end: f64) -> Window {
        let scaled = |count: u64| (count as f64 * self.scale).round() as u64;
        let bytes = |blocks: u64| scaled(blocks) * self.block_bytes;
        let mut window = std::mem::replace(&mut self.window, empty());
        window.end = end;
        window.references = scaled(window.references);
        window.first_uses = scaled(window.first_uses);
        window.reuse_distances.iter_mut().for_each(|count| *count = scaled(*count));
        window.working_set_bytes = bytes(std::mem::take(&mut self.working_set));
        window.footprint_bytes = bytes(self.footprint);
        window
    }
}

fn empty() -> Window {
    Window {
        end: 0.0,
        references: 0,
        working_set_bytes: 0,
        footprint_bytes: 0,
        reuse_distances: Vec::new(),
        first_uses: 0,
    }
}

/// Windows over a trace that is told in order.
pub(super) struct Windows {
    counter: Counter,
    windows: Vec<Window>,
    /// Where the first window begins and the last one ends: microseconds, or references.
    span: (f64, f64),
    by_time: bool,
}

impl Windows {
    /// Of the trace that `survey` is of, or of a share `rate` of its blocks; these have numbers below `blocks`.
    pub(super) fn new(survey: &Survey, block_size: BlockSize, blocks: u32, rate: f64) -> Self {
        let counter = Counter {
            stack: StackDistances::new(blocks),
            used_in: vec![0; blocks as usize],
            footprint: 0,
            working_set: 0,
            window: empty(),
            scale: 1.0 / rate,
            block_bytes: block_size.bytes() as u64,
        };
        let (first, last) = survey.times_us.unwrap_or((0, survey.references));
        let by_time = survey.times_us.is_some();
        Self { counter, windows: Vec::new(), span: (first as f64, last as f64), by_time }
    }

    /// Counts references to `blocks`, at this time and with so many references of the trace before them.
    pub(super) fn count(&mut self, blocks: &[u32], time_us: u64, references_before: f64) {
        let (first, last) = self.span;
        let at = if self.by_time { time_us as f64 } else { references_before };
        let along = ((at - first) / (last - first).max(1.0)).clamp(0.0, 1.0);
        let wanted = ((along * WINDOWS as f64) as usize).min(WINDOWS - 1);
        while self.windows.len() < wanted {
            self.end_window();
        }
        blocks.iter().for_each(|&block| self.counter.count(block, self.windows.len() as u32 + 1));
    }

    fn end_window(&mut self) {
        let along = (self.windows.len() + 1) as f64 / WINDOWS as f64 * (self.span.1 - self.span.0);
        let end = if self.by_time { along / 1e6 } else { along };
        self.windows.push(self.counter.finish(end));
    }

    pub(super) fn finish(mut self) -> Vec<Window> {
        self.end_window();
        self.windows
    }
}

#[cfg(test)]
mod tests {
    use terrace::BlockId;

    use super::super::load::Touch;
    use super::*;

    #[test]
    fn windows_count_what_is_used_in_them_and_how_far_apart_uses_lie() {
        // Half of the time two blocks in turn, then a scan.
        let id = |step: u64| if step < 4800 { step % 2 } else { step };
        let touches = (0..9600).map(|step| Touch {
            first: BlockId::from_u64(id(step)),
            count: 1,
            is_write: false,
            skipped_pages: [0, 0],
            time_us: step,
        });
        let block_size = BlockSize::new(4096).expect("a good size");
        let recording = Recording { touches: touches.collect(), rate: 1.0, block_size };
        for times_us in [Some((0, 9599)), None] {
            let survey = Survey { times_us, references: 9600, ..Survey::default() };
            let windows = Profile::of(&recording.dense(), &recording, &survey).windows;
            assert_eq!(windows.len(), WINDOWS);
            assert_eq!(windows.iter().map(|window| window.references).sum::<u64>(), 9600);
            let (early, late) = (&windows[10], &windows[40]);
            assert_eq!(early.working_set_bytes, 2 * 4096);
            assert_eq!((early.reuse_distances.as_slice(), early.first_uses), (&[0, early.references][..], 0));
            assert_eq!(late.first_uses, late.references);
            assert_eq!(windows[WINDOWS - 1].footprint_bytes, 4802 * 4096);
        }
    }
}

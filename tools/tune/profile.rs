//! What the trace is like: sizes of requests, and over time how far apart uses lie and how much is in use.

use serde::Serialize;
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
        let shift = survey.alignment.shift();
        Self {
            request_sizes: request_sizes(survey),
            windows: windows(trace, recording, survey.time_us.is_some()),
            windows_by_time: survey.time_us.is_some(),
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
        let bytes = |blocks: u64| (blocks as f64 * self.scale) as u64 * self.block_bytes;
        let mut window = std::mem::replace(&mut self.window, empty());
        window.end = end;
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

fn windows(trace: &DenseTrace, recording: &Recording, by_time: bool) -> Vec<Window> {
    let mut counter = Counter {
        stack: StackDistances::new(trace.unique()),
        used_in: vec![0; trace.unique() as usize],
        footprint: 0,
        working_set: 0,
        window: empty(),
        scale: 1.0 / recording.rate,
        block_bytes: recording.block_size.bytes() as u64,
    };
    let (first, last) = ends(recording);
    let all = trace.references().len() as f64;
    let mut references = trace.references().iter();
    let (mut windows, mut done) = (Vec::new(), 0u64);
    for touch in &recording.touches {
        let along = if by_time {
            touch.time_us.saturating_sub(first) as f64 / (last - first).max(1) as f64
        } else {
            done as f64 / all
        };
        let wanted = ((along * WINDOWS as f64) as usize).min(WINDOWS - 1);
        while windows.len() < wanted {
            windows.push(counter.finish(end(windows.len() + 1, by_time, last - first, all)));
        }
        for &block in references.by_ref().take(touch.count as usize) {
            counter.count(block, windows.len() as u32 + 1);
        }
        done += u64::from(touch.count);
    }
    windows.push(counter.finish(end(windows.len() + 1, by_time, last - first, all)));
    windows
}

/// Where so many windows end.
fn end(count: usize, by_time: bool, span_us: u64, references: f64) -> f64 {
    let share = count as f64 / WINDOWS as f64;
    share * if by_time { span_us as f64 / 1e6 } else { references }
}

fn ends(recording: &Recording) -> (u64, u64) {
    let times = || recording.touches.iter().map(|touch| touch.time_us);
    (times().min().unwrap_or(0), times().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use terrace::{BlockId, BlockSize};

    use super::super::load::{Logged, Touch};
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
        let recording =
            Recording { touches: touches.collect(), rate: 1.0, block_size, logged: Logged::default() };
        for by_time in [true, false] {
            let windows = windows(&recording.dense(), &recording, by_time);
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

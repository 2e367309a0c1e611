//! Other block sizes, and another alignment, at one pair of sizes: what they would read from the disk.

use serde::Serialize;
use terrace::BlockSize;

use super::args::Effort;
use super::load::{Grid, Recording, Survey};
use super::stream::{self, Counting, Question};
use super::surface::{Sizes, Surface, rate_for};
use super::work::Work;
use crate::failure::Result;
use crate::trace::Source;

/// One block size, or one shift, at the recommended sizes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Variant {
    pub(crate) block_bytes: u64,
    /// What is added to every address, of the trace's own shift on top.
    pub(crate) shift_bytes: u64,
    /// Blocks that requests touch.
    pub(crate) references: u64,
    /// Blocks read from the disk for a thousand requests.
    pub(crate) disk_reads_per_1000_requests: f64,
    pub(crate) disk_bytes_read: f64,
    pub(crate) ssd_bytes_written: f64,
    pub(crate) index_bytes: u64,
}

/// What to vary: block sizes, and a shift of so many sectors at the block size of `grid`.
pub(super) struct Sweep<'a> {
    pub(super) source: &'a Source,
    pub(super) grid: Grid,
    pub(super) block_sizes: &'a [BlockSize],
    pub(super) better_shift: Option<u64>,
    pub(super) effort: Effort,
}

impl Sweep<'_> {
    /// At `sizes`, of which there is one pair. Block sizes that do not fit them are left out.
    ///
    /// Reads the trace once to count it in every way, once for each way in which it can be kept, and once for all others.
    pub(super) fn run(&self, sizes: &Sizes, work: &Work) -> Result<Vec<Variant>> {
        let by_size = self.block_sizes.iter().map(|&block_size| self.grid.with_block_size(block_size));
        let shifted = self.better_shift.map(|shift_bytes| Grid { shift_bytes, ..self.grid });
        let grids: Vec<Grid> = by_size.chain(shifted).collect();
        let surveys = Survey::of_all(self.source, &grids, work)?;
        let (mut surfaces, mut long) = (Vec::new(), Vec::new());
        for (&grid, survey) in grids.iter().zip(&surveys) {
            let question = Question { grid, survey, sizes, has_curves: false };
            if self.effort.limits().keep(survey) {
                surfaces.push(self.whole(&question, work)?);
            } else {
                surfaces.push(None);
                long.extend(Counting::new(question).ok().map(|counting| (surfaces.len() - 1, counting)));
            }
        }
        let (places, long): (Vec<usize>, Vec<Counting<'_>>) = long.into_iter().unzip();
        for (place, answer) in places.into_iter().zip(stream::answer(self.source, long, work)?) {
            surfaces[place] = Some(answer.surface);
        }
        let all = grids.iter().zip(&surveys).zip(surfaces);
        Ok(all.filter_map(|((grid, survey), surface)| Some(variant(grid, survey, &surface?))).collect())
    }

    fn whole(&self, question: &Question<'_>, work: &Work) -> Result<Option<Surface>> {
        let Question { grid, survey, sizes, .. } = question;
        let recording = Recording::load(self.source, grid, survey, work)?;
        let rate = rate_for(&recording, survey.blocks, sizes, self.effort);
        Ok(Surface::simulate(&recording, sizes, rate, work).ok())
    }
}

fn variant(grid: &Grid, survey: &Survey, surface: &Surface) -> Variant {
    let (block_size, cell) = (grid.addressing.block_size, &surface.cells[0]);
    let disk_reads = cell.disk_share * survey.read_references as f64;
    Variant {
        block_bytes: block_size.bytes() as u64,
        shift_bytes: grid.shift_bytes,
        references: survey.references,
        disk_reads_per_1000_requests: disk_reads * 1000.0 / survey.requests as f64,
        disk_bytes_read: disk_reads * block_size.bytes() as f64,
        ssd_bytes_written: cell.ssd_bytes_written,
        index_bytes: cell.index_bytes,
    }
}

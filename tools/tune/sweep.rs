//! Other block sizes, and another alignment, at one pair of sizes: what they would read from the disk.

use serde::Serialize;
use terrace::BlockSize;

use super::args::Effort;
use super::load::{Grid, Recording, Survey};
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
    pub(super) fn run(&self, sizes: &Sizes, work: &Work) -> Result<Vec<Variant>> {
        let by_size = self.block_sizes.iter().map(|&block_size| self.grid.with_block_size(block_size));
        let shifted = self.better_shift.map(|shift_bytes| Grid { shift_bytes, ..self.grid });
        let mut variants = Vec::new();
        for grid in by_size.chain(shifted) {
            variants.extend(self.variant(&grid, sizes, work)?);
        }
        Ok(variants)
    }

    fn variant(&self, grid: &Grid, sizes: &Sizes, work: &Work) -> Result<Option<Variant>> {
        let block_size = grid.addressing.block_size;
        let survey = Survey::of(self.source, grid, work)?;
        let recording = Recording::load(self.source, grid, &survey, self.effort.limits(), work)?;
        let rate = rate_for(&recording, recording.dense().unique().into(), sizes, self.effort);
        let Ok(surface) = Surface::simulate(&recording, sizes, rate, work) else { return Ok(None) };
        let cell = &surface.cells[0];
        let reads =
            recording.touches.iter().filter(|touch| !touch.is_write).map(|touch| u64::from(touch.count));
        let disk_reads = cell.disk_share * reads.sum::<u64>() as f64 / recording.rate;
        Ok(Some(Variant {
            block_bytes: block_size.bytes() as u64,
            shift_bytes: grid.shift_bytes,
            references: survey.references,
            disk_reads_per_1000_requests: disk_reads * 1000.0 / survey.requests as f64,
            disk_bytes_read: disk_reads * block_size.bytes() as f64,
            ssd_bytes_written: cell.ssd_bytes_written,
            index_bytes: cell.index_bytes,
        }))
    }
}

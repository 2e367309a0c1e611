//! Hits by tier for every RAM size over every SSD size, by the cache's own policies.
//!
//! *Exactly*, by [`Simulation`] of the whole trace, where that takes seconds: one pass for each RAM size, over all SSD sizes
//! at once. Else by *miniature simulation*: the same passes over [`SAMPLES`] samples of the blocks, no block in two, with all
//! sizes scaled alike.
//!
//! Two estimates come from a sample: its own shares of hits, or its counts over what a sample of that rate should have
//! (Waldspurger and others' adjustment, which books what a sample has too much or too little of as hits in RAM). Both are
//! fair; which one varies less depends on how much of the traffic the hottest blocks carry. Taken is the one whose samples
//! agree better over the whole surface.
//!
//! The error is the half width of the 95 % confidence interval of the samples' mean, and [`SCALING_ERROR`] for what
//! scaling itself changes. Samples that shared blocks would err alike, and their mean by more than they tell.

use terrace::tiers::ssd::Geometry;
use terrace::{BlockSize, Config, RamSize, Simulation, SsdConfig, SsdSize};

use super::args::Effort;
use super::load::{Logged, Recording, Touch};
use super::work::Work;
use crate::failure::Result;
use crate::mode::Mode;

/// Samples of a sampled surface.
pub(super) const SAMPLES: u64 = 4;
/// Student's t for a mean of four, two-sided 95 %, over the root of four.
const T_OVER_ROOT: f64 = 3.182 / 2.0;
/// A scaled-down cache has fewer segments, and no requests of many blocks.
const SCALING_ERROR: f64 = 0.005;
/// Blocks that a sample should have: fewer miss whole groups of popular blocks.
const SAMPLE_BLOCKS: u64 = 1 << 16;
/// Steps of simulation that are seconds: references times SSD sizes.
const EXACT_STEPS_MAX: u64 = 150_000_000;

/// The sizes that are tried; of the SSD, 0 is none.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) ram_bytes: Vec<u64>,
    pub(super) ssd_bytes: Vec<u64>,
    pub(super) ssd_write_budget: Option<u64>,
    pub(super) write: Mode,
}

/// One pair of sizes, and what it would answer. Shares are of all reads.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Cell {
    pub(crate) ram_bytes: u64,
    pub(crate) ssd_bytes: u64,
    pub(crate) ssd_blocks: u64,
    pub(crate) ram_share: f64,
    pub(crate) ssd_share: f64,
    pub(crate) disk_share: f64,
    pub(crate) ram_share_error: f64,
    pub(crate) disk_share_error: f64,
    /// RAM of the SSD's index: on top of the RAM for blocks.
    pub(crate) index_bytes: u64,
    /// Over the whole trace.
    pub(crate) ssd_bytes_written: f64,
    /// Those over the bytes of the blocks that came from RAM, and of the pages that were written to the log.
    pub(crate) write_amplification: Option<f64>,
}

#[derive(Clone, Debug)]
pub(super) struct Surface {
    pub(super) cells: Vec<Cell>,
    /// The share of the blocks in each sample; 1 when it is exact.
    pub(super) rate: f64,
    pub(super) samples: u64,
}

/// What one simulation counted, over one SSD size.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    reads: f64,
    ssd_hits: f64,
    disk_reads: f64,
    /// Without records of the log.
    ssd_bytes_written: f64,
    ssd_bytes_demoted: f64,
    record_bytes: f64,
}

impl Sizes {
    fn config(&self, block_size: BlockSize, ram: RamSize) -> Config {
        let mut config = Config::new(ram);
        config.block_size = block_size;
        config
    }

    /// RAM tiers, and the tiers below each of them: steps of simulation for a reference.
    pub(super) fn columns(&self) -> u64 {
        self.ram_bytes.len() as u64 * (1 + self.ssd_bytes.len() as u64)
    }

    /// How an SSD of `bytes` is laid out; 0 is none.
    fn layout(block_size: BlockSize, bytes: u64) -> Result<Option<Geometry>> {
        Ok(if bytes == 0 { None } else { Some(Geometry::for_bytes(block_size, bytes)?) })
    }
}

/// RAM of the index of an SSD with this layout, at the most.
pub(super) fn index_bytes(layout: &Geometry, mode: Mode) -> u64 {
    match mode {
        Mode::BackSsd => layout.index_bytes_max(),
        Mode::Around | Mode::Through | Mode::Back => layout.index_bytes_without_log(),
    }
}

impl Surface {
    /// Of `recording`, of which a share of `rate` is simulated for each sample; 1: all of it, once.
    pub(super) fn simulate(recording: &Recording, sizes: &Sizes, rate: f64, work: &Work) -> Result<Self> {
        let sampled = if rate < 1.0 { recording.sampled(SAMPLES, rate) } else { Vec::new() };
        let parts: Vec<&Recording> =
            if sampled.is_empty() { vec![recording] } else { sampled.iter().collect() };
        // The larger ones first, so that no thread is left alone with one at the end.
        let mut tasks: Vec<(usize, usize)> = (0..sizes.ram_bytes.len())
            .flat_map(|ram| (0..parts.len()).map(move |part| (ram, part)))
            .collect();
        tasks.sort_by_key(|&(_, part)| std::cmp::Reverse(parts[part].touches.len()));
        let steps = |&(_, part): &(usize, usize)| parts[part].touches.len() as u64;
        let counts: Vec<Result<_>> = work.share("simulating", &tasks, steps, |&(ram, part), done| {
            let part = parts[part];
            let mut column = Column::new(part.block_size, part.rate, sizes, sizes.ram_bytes[ram])?;
            for touches in part.touches.chunks(part.touches.len() / 64 + 1) {
                column.advance(touches);
                done(touches.len() as u64);
            }
            Ok(column.counts())
        });
        let mut columns: Vec<Vec<Vec<Counts>>> = vec![Vec::new(); sizes.ram_bytes.len()];
        for (&(ram, _), counts) in tasks.iter().zip(counts) {
            columns[ram].push(counts?);
        }
        let reads =
            recording.touches.iter().filter(|touch| !touch.is_write).map(|touch| u64::from(touch.count));
        Self::of_columns(sizes, recording.block_size, &columns, (reads.sum(), Logged::of(recording)), rate)
    }

    /// By RAM size and sample what was counted over each SSD size. All samples are of a share `rate` of a trace that has so
    /// many `reads` of blocks, and of which so much would be `logged`.
    pub(super) fn of_columns(
        sizes: &Sizes,
        block_size: BlockSize,
        columns: &[Vec<Vec<Counts>>],
        (reads, logged): (u64, Logged),
        rate: f64,
    ) -> Result<Self> {
        let cells = cells(sizes, block_size, columns, (reads as f64 * rate, logged), rate)?;
        Ok(Self { cells, rate, samples: columns.first().map_or(1, Vec::len) as u64 })
    }
}

/// The share of the blocks of `recording`, of which there are `unique`, to simulate for each sample; 1: all, once.
pub(super) fn rate_for(recording: &Recording, unique: u64, sizes: &Sizes, effort: Effort) -> f64 {
    let steps = || recording.references() * sizes.columns();
    let sampled = SAMPLE_BLOCKS as f64 / unique.max(1) as f64;
    match effort {
        Effort::Exact => 1.0,
        Effort::Auto if steps() <= EXACT_STEPS_MAX => 1.0,
        // Samples would together be half as long as the trace.
        _ if sampled * SAMPLES as f64 >= 0.5 => 1.0,
        _ => sampled,
    }
}

/// One RAM size over all SSD sizes, of one sample.
pub(super) struct Column<'a> {
    simulation: Simulation,
    sizes: &'a Sizes,
    block_size: BlockSize,
}

impl<'a> Column<'a> {
    /// Of a sample that has the share `rate` of all blocks.
    pub(super) fn new(block_size: BlockSize, rate: f64, sizes: &'a Sizes, ram_bytes: u64) -> Result<Self> {
        let whole = sizes.config(block_size, RamSize::Bytes(ram_bytes));
        let scale = |blocks: u64, least: u64| ((blocks as f64 * rate).round() as u64).max(least);
        let config = if rate < 1.0 {
            sizes.config(block_size, RamSize::Blocks(scale(whole.ram_blocks()?, 8)))
        } else {
            whole
        };
        let mut ssds = Vec::new();
        for &bytes in sizes.ssd_bytes.iter().filter(|&&bytes| bytes > 0) {
            let size = if rate < 1.0 {
                let layout = Sizes::layout(block_size, bytes)?.expect("one of some bytes");
                SsdSize::Blocks(scale(layout.capacity_blocks(), 16))
            } else {
                SsdSize::Bytes(bytes)
            };
            let mut ssd = SsdConfig::new("simulated", size);
            ssd.policy.write_budget_bytes_per_day =
                sizes.ssd_write_budget.map(|bytes| (bytes as f64 * rate) as u64);
            ssds.push(ssd);
        }
        Ok(Self { simulation: Simulation::over(&config, &ssds)?, sizes, block_size })
    }

    pub(super) fn advance<'t>(&mut self, touches: impl IntoIterator<Item = &'t Touch>) {
        for touch in touches {
            let (count, sectors) = (u64::from(touch.count), touch.sectors(self.block_size));
            if touch.is_write {
                self.simulation.write_in(self.sizes.write.into(), touch.first, sectors, touch.time_us);
            } else {
                self.simulation.read(touch.first, count, touch.time_us);
            }
        }
    }

    /// Over each SSD size, so far.
    pub(super) fn counts(&self) -> Vec<Counts> {
        let mut ssd_index = 0..;
        let block_bytes = self.block_size.bytes() as f64;
        let counts = self.sizes.ssd_bytes.iter().map(|&bytes| {
            let index = if bytes > 0 { ssd_index.next() } else { None };
            let stats = self.simulation.stats_over(index.unwrap_or(0));
            let all = Counts {
                reads: stats.reads as f64,
                disk_reads: stats.disk_reads as f64,
                ..Counts::default()
            };
            match index {
                // Without an SSD what it would have answered comes from the disk.
                None => Counts { disk_reads: (stats.disk_reads + stats.read_ssd_hits) as f64, ..all },
                Some(_) => Counts {
                    ssd_hits: stats.read_ssd_hits as f64,
                    ssd_bytes_written: (stats.ssd.bytes_written - stats.ssd.record_bytes_written) as f64,
                    ssd_bytes_demoted: stats.ssd.blocks_written as f64 * block_bytes,
                    record_bytes: stats.ssd.record_bytes_written as f64,
                    ..all
                },
            }
        });
        counts.collect()
    }
}

/// Shares of the SSD and of the disk, by one sample: as they are in it, or over the reads that it should have.
fn shares(counts: &Counts, reads: f64) -> (f64, f64) {
    (counts.ssd_hits / reads.max(1.0), counts.disk_reads / reads.max(1.0))
}

fn cells(
    sizes: &Sizes,
    block_size: BlockSize,
    columns: &[Vec<Vec<Counts>>],
    (wanted_reads, logged): (f64, Logged),
    rate: f64,
) -> Result<Vec<Cell>> {
    let estimate =
        |counts: &Counts, adjusted: bool| shares(counts, if adjusted { wanted_reads } else { counts.reads });
    let spread = |adjusted: bool| -> f64 {
        let of_cell = |samples: &Vec<Vec<Counts>>, ssd: usize| {
            deviation(&samples.iter().map(|counts| estimate(&counts[ssd], adjusted).1).collect::<Vec<_>>())
        };
        columns
            .iter()
            .flat_map(|samples| (0..sizes.ssd_bytes.len()).map(move |ssd| of_cell(samples, ssd)))
            .sum()
    };
    let adjusted = rate < 1.0 && spread(true) < spread(false);
    let mut cells = Vec::new();
    for (&ram_bytes, counts) in sizes.ram_bytes.iter().zip(columns) {
        for (ssd, &ssd_bytes) in sizes.ssd_bytes.iter().enumerate() {
            let samples: Vec<Counts> = counts.iter().map(|counts| counts[ssd]).collect();
            let of = |of: &dyn Fn(&Counts) -> f64| samples.iter().map(of).collect::<Vec<f64>>();
            let ssd_shares = of(&|counts| estimate(counts, adjusted).0);
            let disk_shares = of(&|counts| estimate(counts, adjusted).1);
            let ram_shares: Vec<f64> =
                ssd_shares.iter().zip(&disk_shares).map(|(ssd, disk)| 1.0 - ssd - disk).collect();
            let layout = Sizes::layout(block_size, ssd_bytes)?;
            let has_log = layout.is_some() && sizes.write == Mode::BackSsd;
            let (page_bytes, record_bytes) = match logged {
                _ if !has_log => (0.0, 0.0),
                // A sample has a record for each block, and knows no better.
                Logged { page_bytes, record_bytes } if rate < 1.0 => (page_bytes as f64, record_bytes as f64),
                Logged { page_bytes, .. } => (page_bytes as f64, mean(&of(&|counts| counts.record_bytes))),
            };
            let written = mean(&of(&|counts| counts.ssd_bytes_written)) / rate + record_bytes;
            let given = mean(&of(&|counts| counts.ssd_bytes_demoted)) / rate + page_bytes;
            cells.push(Cell {
                ram_bytes,
                ssd_bytes,
                ssd_blocks: layout.as_ref().map_or(0, Geometry::capacity_blocks),
                index_bytes: layout.as_ref().map_or(0, |layout| index_bytes(layout, sizes.write)),
                ram_share: mean(&ram_shares).clamp(0.0, 1.0),
                ssd_share: mean(&ssd_shares).clamp(0.0, 1.0),
                disk_share: mean(&disk_shares).clamp(0.0, 1.0),
                ram_share_error: error(&ram_shares),
                disk_share_error: error(&disk_shares),
                ssd_bytes_written: written,
                write_amplification: (given > 0.0).then(|| written / given),
            });
        }
    }
    Ok(cells)
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation; 0 of a single value.
pub(super) fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0).max(1.0)).sqrt()
}

/// See the head of this file; 0 when all was simulated.
pub(super) fn error(values: &[f64]) -> f64 {
    if values.len() == 1 { 0.0 } else { T_OVER_ROOT * deviation(values) + SCALING_ERROR }
}

#[cfg(test)]
#[path = "surface_tests.rs"]
pub(super) mod tests;

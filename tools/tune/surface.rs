//! Hits by tier for every RAM size over every SSD size, by the cache's own policies.
//!
//! *Exactly*, by [`Simulation`] of the whole trace, where that takes seconds: one pass for each RAM size, over all SSD sizes
//! at once. Else by *miniature simulation*: the same passes over [`SALTS`] samples of the blocks, with all sizes scaled
//! alike.
//!
//! Two estimates come from a sample: its own shares of hits, or its counts over what a sample of that rate should have
//! (Waldspurger and others' adjustment, which books what a sample has too much or too little of as hits in RAM). Both are
//! fair; which one varies less depends on how much of the traffic the hottest blocks carry. Taken is the one whose samples
//! agree better over the whole surface.
//!
//! The error is the half width of the 95 % confidence interval of the samples' mean, and [`SCALING_ERROR`] for what
//! scaling itself changes. A recording that was thinned is a sample of its own. Of it each sample takes a quarter at the
//! most: their means then vary by more than the recording as a whole does around what it was taken from.

use terrace::tiers::ssd::Geometry;
use terrace::{BlockSize, Config, RamSize, Simulation, SsdConfig, SsdSize};

use super::args::Effort;
use super::load::{Recording, Touch};
use super::work::Work;
use crate::failure::Result;
use crate::mode::Mode;

/// Samples of a sampled surface.
pub(super) const SALTS: u64 = 4;
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
    /// 1 when it is exact.
    pub(super) rate: f64,
    pub(super) salts: u64,
}

/// What one simulation counted, over one SSD size.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
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
    /// Of `recording`, of which a share of `rate` is simulated for each salt; 1: all of it, once.
    pub(super) fn simulate(recording: &Recording, sizes: &Sizes, rate: f64, work: &Work) -> Result<Self> {
        let salts = if rate < 1.0 { SALTS } else { 1 };
        let sampled: Vec<Recording> =
            (0..salts).filter(|_| rate < 1.0).map(|salt| recording.sampled(rate, salt + 1)).collect();
        let parts: Vec<&Recording> =
            if sampled.is_empty() { vec![recording] } else { sampled.iter().collect() };
        // The larger ones first, so that no thread is left alone with one at the end.
        let mut tasks: Vec<(usize, usize)> = (0..sizes.ram_bytes.len())
            .flat_map(|ram| (0..parts.len()).map(move |part| (ram, part)))
            .collect();
        tasks.sort_by_key(|&(_, part)| std::cmp::Reverse(parts[part].touches.len()));
        let steps = |&(_, part): &(usize, usize)| parts[part].touches.len() as u64;
        let counts = work.share("simulating", &tasks, steps, |&(ram, part), done| {
            column(parts[part], sizes, sizes.ram_bytes[ram], done)
        });
        let mut columns: Vec<Vec<Vec<Counts>>> = vec![Vec::new(); sizes.ram_bytes.len()];
        for (&(ram, _), counts) in tasks.iter().zip(counts) {
            columns[ram].push(counts?);
        }
        let reads =
            recording.touches.iter().filter(|touch| !touch.is_write).map(|touch| u64::from(touch.count));
        let wanted_reads = reads.sum::<u64>() as f64 * rate;
        let cells = cells(sizes, recording, &columns, wanted_reads, rate)?;
        Ok(Self { cells, rate: rate * recording.rate, salts })
    }
}

/// The share of the blocks of `recording`, of which there are `unique`, to simulate for each sample; 1: all, once.
pub(super) fn rate_for(recording: &Recording, unique: u64, sizes: &Sizes, effort: Effort) -> f64 {
    let steps = || recording.references() * sizes.ram_bytes.len() as u64 * (1 + sizes.ssd_bytes.len() as u64);
    let sampled = SAMPLE_BLOCKS as f64 / unique.max(1) as f64;
    match effort {
        Effort::Exact => 1.0,
        // It is a sample already, and how far off that may be only samples of it tell.
        _ if recording.rate < 1.0 => sampled.min(1.0 / SALTS as f64),
        Effort::Auto if steps() <= EXACT_STEPS_MAX => 1.0,
        // Samples would together be half as long as the trace.
        _ if sampled * SALTS as f64 >= 0.5 => 1.0,
        _ => sampled,
    }
}

/// One RAM size over all SSD sizes.
fn column(part: &Recording, sizes: &Sizes, ram_bytes: u64, done: &dyn Fn(u64)) -> Result<Vec<Counts>> {
    let whole = sizes.config(part.block_size, RamSize::Bytes(ram_bytes));
    let scale = |blocks: u64, least: u64| ((blocks as f64 * part.rate).round() as u64).max(least);
    let config = if part.rate < 1.0 {
        sizes.config(part.block_size, RamSize::Blocks(scale(whole.ram_blocks()?, 8)))
    } else {
        whole
    };
    let mut ssds = Vec::new();
    for &bytes in sizes.ssd_bytes.iter().filter(|&&bytes| bytes > 0) {
        let size = if part.rate < 1.0 {
            let layout = Sizes::layout(part.block_size, bytes)?.expect("one of some bytes");
            SsdSize::Blocks(scale(layout.capacity_blocks(), 16))
        } else {
            SsdSize::Bytes(bytes)
        };
        let mut ssd = SsdConfig::new("simulated", size);
        ssd.policy.write_budget_bytes_per_day =
            sizes.ssd_write_budget.map(|bytes| (bytes as f64 * part.rate) as u64);
        ssds.push(ssd);
    }
    let mut simulation = Simulation::over(&config, &ssds)?;
    for touches in part.touches.chunks(part.touches.len() / 64 + 1) {
        touches.iter().for_each(|touch| simulate(&mut simulation, touch, part.block_size, sizes.write));
        done(touches.len() as u64);
    }
    let mut ssd_index = 0..;
    let block_bytes = part.block_size.bytes() as f64;
    let counts = sizes.ssd_bytes.iter().map(|&bytes| {
        let index = if bytes > 0 { ssd_index.next() } else { None };
        let stats = simulation.stats_over(index.unwrap_or(0));
        let all =
            Counts { reads: stats.reads as f64, disk_reads: stats.disk_reads as f64, ..Counts::default() };
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
    Ok(counts.collect())
}

fn simulate(simulation: &mut Simulation, touch: &Touch, block_size: BlockSize, mode: Mode) {
    if touch.is_write {
        simulation.write_in(mode.into(), touch.first, touch.sectors(block_size), touch.time_us);
    } else {
        simulation.read(touch.first, touch.count.into(), touch.time_us);
    }
}

/// Shares of the SSD and of the disk, by one sample: as they are in it, or over the reads that it should have.
fn shares(counts: &Counts, reads: f64) -> (f64, f64) {
    (counts.ssd_hits / reads.max(1.0), counts.disk_reads / reads.max(1.0))
}

fn cells(
    sizes: &Sizes,
    recording: &Recording,
    columns: &[Vec<Vec<Counts>>],
    wanted_reads: f64,
    rate: f64,
) -> Result<Vec<Cell>> {
    let estimate =
        |counts: &Counts, adjusted: bool| shares(counts, if adjusted { wanted_reads } else { counts.reads });
    let spread = |adjusted: bool| -> f64 {
        let of_cell = |salts: &Vec<Vec<Counts>>, ssd: usize| {
            deviation(&salts.iter().map(|counts| estimate(&counts[ssd], adjusted).1).collect::<Vec<_>>())
        };
        columns.iter().flat_map(|salts| (0..sizes.ssd_bytes.len()).map(move |ssd| of_cell(salts, ssd))).sum()
    };
    let adjusted = rate < 1.0 && spread(true) < spread(false);
    let mut cells = Vec::new();
    for (&ram_bytes, salts) in sizes.ram_bytes.iter().zip(columns) {
        for (ssd, &ssd_bytes) in sizes.ssd_bytes.iter().enumerate() {
            let samples: Vec<Counts> = salts.iter().map(|counts| counts[ssd]).collect();
            let of = |of: &dyn Fn(&Counts) -> f64| samples.iter().map(of).collect::<Vec<f64>>();
            let ssd_shares = of(&|counts| estimate(counts, adjusted).0);
            let disk_shares = of(&|counts| estimate(counts, adjusted).1);
            let ram_shares: Vec<f64> =
                ssd_shares.iter().zip(&disk_shares).map(|(ssd, disk)| 1.0 - ssd - disk).collect();
            let whole = rate * recording.rate;
            let layout = Sizes::layout(recording.block_size, ssd_bytes)?;
            let has_log = layout.is_some() && sizes.write == Mode::BackSsd;
            let (page_bytes, record_bytes) = match recording.logged {
                _ if !has_log => (0.0, 0.0),
                // A sample has a record for each block, and knows no better.
                logged if whole < 1.0 => (logged.page_bytes as f64, logged.record_bytes as f64),
                logged => (logged.page_bytes as f64, mean(&of(&|counts| counts.record_bytes))),
            };
            let written = mean(&of(&|counts| counts.ssd_bytes_written)) / whole + record_bytes;
            let given = mean(&of(&|counts| counts.ssd_bytes_demoted)) / whole + page_bytes;
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

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation; 0 of a single value.
fn deviation(values: &[f64]) -> f64 {
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
mod tests;

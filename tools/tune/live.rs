//! What a cache that runs says of other sizes ([`terrace::WhatIf`]), as a report like that of a trace.
//!
//! The surface is the cache's own; latency, wear, price and the recommendation follow from it as they do from a trace, so
//! table, JSON and page are the same. What only a trace can tell (curves, request sizes, working sets) is left out.

use terrace::{BlockSize, Outlook};

use super::args::TuneArgs;
use super::candidate::{Candidate, World};
use super::choose::choose;
use super::report::{Report, constraints, probe_devices};
use super::surface::Cell;
use crate::failure::{Failure, Result};

/// The answer of a cache.
pub(crate) struct Live<'a> {
    /// What the cache is called.
    pub(crate) name: &'a str,
    pub(crate) block_size: BlockSize,
    /// By RAM and then by SSD, as [`terrace::WhatIf::outlooks`] gives them.
    pub(crate) outlooks: &'a [Outlook],
    /// Blocks that it is asked for in a day; none: nobody knows, and nothing is said of wear.
    pub(crate) references_a_day: Option<f64>,
}

/// The report of `live`, with devices, prices and constraints as `args` have them.
///
/// # Errors
/// When the cache has seen too little to say anything, or a device cannot be measured.
pub(crate) fn live_report(live: &Live<'_>, args: &TuneArgs) -> Result<Report> {
    let Some(first) = live.outlooks.first() else {
        return Err(Failure::input(format!("{} was asked for too little to tell yet", live.name))
            .remedy("ask again when it has seen more"));
    };
    // A day is what is counted in.
    let mut world = World { trace_days: live.references_a_day.map(|_| 1.0), ..World::of(args, None) };
    probe_devices(args, &mut world)?;
    let constraints = constraints(args);
    let cells: Vec<Cell> = live.outlooks.iter().map(|outlook| live.cell(outlook)).collect();
    let choice = choose(&cells, &world, &constraints);
    let present = live.outlooks.iter().position(|outlook| outlook.is_present);
    let mut report = Report {
        trace: live.name.into(),
        format: None,
        requests: None,
        references: first.references,
        unique_blocks: None,
        bytes_read: None,
        bytes_written: None,
        lost_requests: 0,
        trace_seconds: None,
        block_bytes: live.block_size.bytes() as u64,
        shift_bytes: 0,
        method: "live",
        sample_rate: first.rate,
        samples: first.samples,
        constraints,
        surface: cells.iter().map(|cell| Candidate::of(cell, &world)).collect(),
        recommendation: choice.recommendation,
        runner_up: choice.runner_up,
        fastest: choice.fastest,
        present: present.map(|index| Candidate::of(&cells[index], &world)),
        refusal: choice.refusal,
        changes: choice.changes,
        curves: None,
        profile: None,
        variants: Vec::new(),
        warnings: Vec::new(),
        uncached_mean_us: world.uncached_mean_us(),
        world,
    };
    report.warnings = vec![
        "These are the sizes from half to four times of what the cache has; a recording of it (`terrace tune`) can be \
         asked for any."
            .into(),
    ];
    Ok(report)
}

impl Live<'_> {
    fn cell(&self, outlook: &Outlook) -> Cell {
        let block_bytes = self.block_size.bytes() as u64;
        let (ssd_share, disk_share) = (outlook.read_ssd_ratio, outlook.read_disk_ratio);
        Cell {
            ram_bytes: outlook.size.ram_blocks * block_bytes,
            ssd_bytes: outlook.size.ssd_blocks * block_bytes,
            ssd_blocks: outlook.size.ssd_blocks,
            ram_share: (1.0 - ssd_share - disk_share).max(0.0),
            ssd_share,
            disk_share,
            ram_share_error: outlook.read_ram_ratio_error,
            disk_share_error: outlook.read_disk_ratio_error,
            ssd_bytes_written: self.references_a_day.unwrap_or(0.0) * outlook.ssd_writes * block_bytes as f64,
            write_amplification: None,
        }
    }
}

//! The requests of a replay through the policies alone: no data, no devices, no time.

use std::time::Instant;

use terrace::tiers::block::SECTOR_BYTES;
use terrace::{Config, Simulation};

use super::args::ReplayArgs;
use super::content::block_id;
use super::feeder::{Feeder, Piece};
use super::job::Job;
use super::report::{Counters, FIRST_REQUESTS, FirstRequests, Pass};
use super::run::ssd_config;
use crate::failure::Result;
use crate::mode::Mode;
use crate::trace::Kind;

/// A pass without data.
pub(super) struct Simulated {
    pub(super) pass: Pass,
    /// Reads by where the slowest of their blocks came from: RAM, SSD, disk.
    pub(super) slowest: [u64; 3],
}

/// The passes that `args` ask for.
pub(super) fn simulate(args: &ReplayArgs, job: &Job) -> Result<Vec<Simulated>> {
    let mut config = Config::new(args.ram()?);
    config.block_size = args.block_size;
    config.shards = args.shards;
    config.ssd = args.ssd()?.map(|size| ssd_config(args, "simulated".into(), size));
    let mut simulation = Simulation::new(&config)?;
    let mut passes = Vec::new();
    for number in 0..args.passes {
        if number > 0 {
            simulation.reopen();
        }
        let progress = job.progress("simulating");
        passes.push(simulate_pieces(&mut simulation, &job.feeder(&progress)?, args.write)?);
    }
    Ok(passes)
}

/// Runs what `feeder` deals out through `simulation`; counts from where it stands.
pub(super) fn simulate_pieces(
    simulation: &mut Simulation,
    feeder: &Feeder<'_>,
    mode: Mode,
) -> Result<Simulated> {
    let before = Counters::of(&simulation.stats());
    let begun = Instant::now();
    let (mut requests, mut slowest) = (0, [0; 3]);
    let mut first = None;
    while let Some(piece) = feeder.next_piece()? {
        match piece.kind {
            Kind::Read => slowest[read(simulation, &piece)] += 1,
            Kind::Write => {
                let first = block_id(piece.volume, piece.first);
                let sectors = piece.bytes / SECTOR_BYTES as u64;
                simulation.write_in(mode.into(), first, 0..sectors, now_us(&piece));
            }
            Kind::Discard => discard(simulation, &piece, feeder.block_bytes()),
            // What is dirty when is nothing that a simulation knows.
            Kind::Flush => {}
        }
        requests += u64::from(piece.is_last);
        if piece.is_last && requests == FIRST_REQUESTS {
            let counters = Counters::of(&simulation.stats()).since(before);
            first = Some(FirstRequests { requests, counters });
        }
    }
    let counters = Counters::of(&simulation.stats()).since(before);
    Ok(Simulated { pass: Pass::simulated(counters, first, requests, begun), slowest })
}

fn now_us(piece: &Piece) -> u64 {
    piece.time_us.unwrap_or(0)
}

/// Gives where the slowest block came from: 0 is RAM, 1 the SSD, 2 the disk.
fn read(simulation: &mut Simulation, piece: &Piece) -> usize {
    let before = simulation.stats();
    simulation.read(block_id(piece.volume, piece.first), piece.count, now_us(piece));
    let after = simulation.stats();
    match (after.disk_reads > before.disk_reads, after.read_ssd_hits > before.read_ssd_hits) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }
}

/// As the cache does it: blocks that are discarded in part are written, the last before the first. There they are in part
/// in RAM, and the next read of the rest is a miss; here, where blocks are whole, it is a hit.
fn discard(simulation: &mut Simulation, piece: &Piece, block_bytes: u64) {
    let end = piece.offset + piece.bytes;
    let (first, last) = (piece.offset.div_ceil(block_bytes), end / block_bytes);
    let has_head = first * block_bytes > piece.offset;
    // One block, and its begin is not discarded: its head is all there is.
    let has_tail = end > last * block_bytes && !(has_head && last < first);
    let mut write = |number| simulation.write(block_id(piece.volume, number), 1, now_us(piece));
    if has_tail {
        write(last);
    }
    if has_head {
        write(first - 1);
    }
    if last > first {
        simulation.discard(block_id(piece.volume, first), last - first);
    }
}

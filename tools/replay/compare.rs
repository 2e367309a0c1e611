//! A simulation of RAM alone with another policy: the trace's blocks, numbered off once, through one of `policies`.
//!
//! Memory grows with the different blocks of a trace, some 30 bytes each, and not with its length: what a block's number is
//! is looked up again for each reference. Only Belady's optimum has to know all references ahead, 12 bytes each.

use std::ops::Range;
use std::time::Instant;

use terrace::Config;
use terrace::simulate::DenseTrace;

use super::args::ReplayArgs;
use super::content::block_id;
use super::feeder::{Feeder, Piece};
use super::job::Job;
use super::report::{Counters, FIRST_REQUESTS, FirstRequests, Pass};
use crate::failure::Result;
use crate::policies::PolicyName;
use crate::trace::Kind;

/// What other policies do when a block is discarded, nobody says: the blocks are not touched then.
fn touched(piece: &Piece) -> Range<u64> {
    let count = if piece.kind == Kind::Discard { 0 } else { piece.count };
    piece.first..piece.first + count
}

/// The blocks of a trace numbered off; with `keeps_references`, all of its references too.
pub(crate) fn numbered(feeder: &Feeder<'_>, keeps_references: bool) -> Result<DenseTrace> {
    let mut trace = DenseTrace::default();
    while let Some(piece) = feeder.next_piece()? {
        for number in touched(&piece) {
            let block = block_id(piece.volume, number);
            if keeps_references {
                trace.push(block);
            } else {
                trace.number(block);
            }
        }
    }
    Ok(trace)
}

/// One pass of what `feeder` deals out, whose blocks are those of `trace`, from an empty cache of `blocks` blocks.
fn pass(policy: PolicyName, trace: &mut DenseTrace, blocks: u64, feeder: &Feeder<'_>) -> Result<Pass> {
    let begun = Instant::now();
    let mut cache = policy.cache(trace, blocks);
    let (mut counters, mut requests, mut first) = (Counters::default(), 0, None);
    while let Some(piece) = feeder.next_piece()? {
        for number in touched(&piece) {
            let is_hit = cache.request(trace.number(block_id(piece.volume, number)));
            count(&mut counters, piece.kind, is_hit);
        }
        requests += u64::from(piece.is_last);
        if piece.is_last && requests == FIRST_REQUESTS {
            first = Some(FirstRequests { requests, counters });
        }
    }
    Ok(Pass::simulated(counters, first, requests, begun))
}

fn count(counters: &mut Counters, kind: Kind, is_hit: bool) {
    counters.references += 1;
    counters.ram_hits += u64::from(is_hit);
    match kind {
        Kind::Read => {
            counters.reads += 1;
            counters.read_ram_hits += u64::from(is_hit);
            counters.disk_reads += u64::from(!is_hit);
        }
        Kind::Write => {
            counters.writes += 1;
            counters.write_ram_hits += u64::from(is_hit);
        }
        Kind::Flush | Kind::Discard => unreachable!("they are no references"),
    }
}

/// The passes that `args` ask for, each from an empty cache, since RAM is lost in a restart.
pub(super) fn simulate(policy: PolicyName, args: &ReplayArgs, job: &Job) -> Result<Vec<Pass>> {
    let mut config = Config::new(args.ram()?);
    config.block_size = args.block_size;
    let blocks = config.ram_blocks()?;
    let mut trace = DenseTrace::default();
    let mut passes = Vec::new();
    // Once to number its blocks off, then for each pass.
    for number in 0..=args.passes {
        let progress = job.progress(if number == 0 { "reading" } else { "simulating" });
        let feeder = job.feeder(&progress)?;
        if number == 0 {
            trace = numbered(&feeder, policy.knows_the_future())?;
        } else {
            passes.push(pass(policy, &mut trace, blocks, &feeder)?);
        }
    }
    Ok(passes)
}

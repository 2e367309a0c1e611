//! A simulation of RAM alone with another policy: the trace's blocks, numbered off once, through one of `policies`.

use std::time::{Duration, Instant};

use terrace::Config;
use terrace::simulate::DenseTrace;

use super::args::ReplayArgs;
use super::content::block_id;
use super::feeder::Feeder;
use super::job::Job;
use super::pace::HeldBack;
use super::report::{Counters, FIRST_REQUESTS, FirstRequests, Pass};
use crate::failure::Result;
use crate::memory::memory_peak_bytes;
use crate::policies::PolicyName;
use crate::trace::Kind;

/// Every block that a trace touches, one after another.
pub(crate) struct References {
    pub(crate) trace: DenseTrace,
    /// By reference.
    kinds: Vec<Kind>,
    /// By request: one more than its last reference.
    ends: Vec<usize>,
}

impl References {
    pub(crate) fn of(feeder: &Feeder<'_>) -> Result<Self> {
        let (mut trace, mut kinds, mut ends) = (DenseTrace::default(), Vec::new(), Vec::new());
        while let Some(piece) = feeder.next_piece()? {
            // What other policies do when a block is discarded, nobody says.
            let count = if piece.kind == Kind::Discard { 0 } else { piece.count };
            for number in piece.first..piece.first + count {
                trace.push(block_id(piece.volume, number));
                kinds.push(piece.kind);
            }
            if piece.is_last {
                ends.push(kinds.len());
            }
        }
        Ok(Self { trace: trace.finished(), kinds, ends })
    }

    /// One pass from an empty cache of `blocks` blocks.
    fn pass(&self, policy: PolicyName, blocks: u64) -> Pass {
        let begun = Instant::now();
        let mut counters = Counters::default();
        let first_requests = FIRST_REQUESTS.min(self.ends.len() as u64);
        let first_end = self.ends.get(first_requests as usize - 1).copied().unwrap_or(0);
        let mut first = counters;
        for (number, (is_hit, &kind)) in policy.run(&self.trace, blocks).zip(&self.kinds).enumerate() {
            count(&mut counters, kind, is_hit);
            if number + 1 == first_end {
                first = counters;
            }
        }
        Pass {
            counters,
            first: FirstRequests { requests: first_requests, counters: first },
            requests: self.ends.len() as u64,
            wrong_blocks: 0,
            took: begun.elapsed(),
            settled_in: Duration::ZERO,
            memory_peak_bytes: memory_peak_bytes(),
            timings: None,
            held_back: HeldBack::default(),
        }
    }
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
    let progress = job.progress("reading");
    let references = References::of(&job.feeder(&progress)?)?;
    Ok((0..args.passes).map(|_| references.pass(policy, blocks)).collect())
}

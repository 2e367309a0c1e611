//! `terrace replay`: a recorded trace through the cache, every byte checked.
//!
//! ```text
//! trace ──> job: scan (once, to see sizes and errors)
//!   └─────> feeder ──> session: workers ──────────> Cache        ──> report ──> table, or JSON
//!                │       └─ pace, latency             └─> live        ▲  ▲
//!                │       └─ checker ── content, versions, ranges      │  └─ predict: both side by side
//!                ├──> simulated ────────────────> Simulation   ──────┤
//!                └──> compare ──────────────────> policies     ──────┘
//! ```
//!
//! Nothing is made on disk before the arguments were checked and the trace was read to its end once; what a run that
//! fails has made, `places` removes.

mod args;
mod backing;
mod blocks;
mod checker;
mod compare;
mod content;
mod demo;
mod feeder;
mod job;
mod latency;
mod live;
#[cfg(test)]
pub(crate) mod oracle_tests;
mod pace;
mod places;
mod predict;
mod ranges;
mod report;
mod run;
mod scan;
mod session;
mod simulated;
mod table;
mod versions;
mod worker;

pub(crate) use args::ReplayArgs;
pub(crate) use blocks::Addressing;
pub(crate) use content::block_id;
pub(crate) use report::Counters;
pub(crate) use scan::Scan;

use crate::failure::Result;

/// Runs the subcommand; `print` takes what goes to standard output.
pub(crate) fn main(args: &ReplayArgs, print: impl Fn(&str)) -> Result<()> {
    if args.demo {
        return demo::run(args, print);
    }
    let outcome = run::run(args)?;
    if args.json {
        print(&serde_json::to_string_pretty(&outcome.report).expect("plain data always serialises"));
    } else {
        print(&table::show(&outcome.report));
    }
    outcome.failure.map_or(Ok(()), Err)
}

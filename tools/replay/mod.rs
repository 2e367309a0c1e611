//! `terrace replay`: a recorded trace through the cache, every byte checked.
//!
//! ```text
//! trace ──> blocks::Scan (once, to see sizes and errors)
//!   └─────> blocks::Feeder ──> session (threads) ──> Cache        ──> report ──> table, or JSON
//!                         │      └─ checker ── content                ▲
//!                         │                          └─> live: records itself, asks itself for other sizes
//!                         ├──> run::simulate ────> Simulation   ──────┤
//!                         └──> compare ──────────> policies     ──────┘
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
mod latency;
mod live;
#[cfg(test)]
pub(crate) mod oracle_tests;
mod places;
mod report;
mod run;
mod session;
mod table;

pub(crate) use args::ReplayArgs;
pub(crate) use blocks::{Addressing, Scan};
pub(crate) use content::block_id;

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

//! `terrace tune`: what each size of RAM and SSD would give, wear out and cost, and which one to take.
//!
//! ```text
//! trace ──> load::Recording ──> profile   what the trace is like, over time
//!       │         │   ├───────> curves    misses of RAM alone: LRU for every size, ARC for some, exactly
//!       │         │   └───────> surface   hits by tier for each RAM size over each SSD size: exact, or sampled
//!       └─> stream: profile, bands (curves, and how far off they are) and surface of a trace that is too long to be kept
//!                 │                │
//!   devices ──────┼───────────> candidate   latency, wear, price of each
//!   prices        │                │
//!                 └──> sweep    choose    constraints, the rule, the runner-up, what would change the answer
//!                        │         │
//!                        └─────> report ──> table, JSON, HTML, SVG
//! ```
//!
//! A cache that runs knows its surface itself (`terrace::WhatIf`); `live` makes the same report of that, and asks a service
//! for it.
//!
//! Everything below `surface` is arithmetic on counts: other prices or devices need no new simulation, and that is how
//! `choose` tells what would change the answer.

mod args;
mod bands;
mod candidate;
mod choose;
mod curves;
mod devices;
mod live;
mod load;
mod measured;
mod probe;
mod profile;
mod report;
mod stream;
mod surface;
mod sweep;
mod table;
mod work;

pub(crate) use args::TuneArgs;
pub(crate) use bands::CurveErrors;
pub(crate) use candidate::Candidate;
pub(crate) use curves::{CurvePoint, Curves};
pub(crate) use devices::{Latency, Mixture};
#[cfg(test)]
pub(crate) use live::tests::report as report_of_a_small_cache;
pub(crate) use live::{Live, OutlookReport, ProgressReport, live_report};
pub(crate) use measured::Measured;
#[cfg(test)]
pub(crate) use measured::Shares;
pub(crate) use profile::{Profile, Window};
#[cfg(test)]
pub(crate) use report::tests::report as report_of_a_small_trace;
pub(crate) use report::{Report, sizes};
pub(crate) use sweep::Variant;
pub(crate) use table::{MEASURED_HEAD, changes, measured_row, recorded, show, show_years, traffic};

use crate::failure::{Failure, Result};

/// Runs the subcommand; `print` takes what goes to standard output.
pub(crate) fn main(args: &TuneArgs, print: impl Fn(&str)) -> Result<()> {
    check_places(args)?;
    let report = match (&args.live, &args.trace) {
        (Some(socket), _) => live::report_of_service(socket, args)?,
        (None, trace) => report::make(trace.as_deref().expect("one of both is demanded"), args)?,
    };
    // First: it may be the answer of minutes, and a disk may be full.
    if args.json {
        print(&serde_json::to_string_pretty(&report).expect("plain data always serialises"));
    } else {
        print(&table::show(&report));
    }
    if let Some(path) = &args.report {
        crate::page::write(&report, path)?;
    }
    if let Some(directory) = &args.svg {
        crate::page::write_plots(&report, directory)?;
    }
    Ok(())
}

/// Whether what is to be written has a place, which is not that of something that is read.
fn check_places(args: &TuneArgs) -> Result<()> {
    if let Some(page) = &args.report {
        crate::page::check_place(page)?;
        let there = page.canonicalize().ok();
        let mut read = args.trace.iter().chain(&args.measured);
        if let Some(read) = read.find(|read| there.is_some() && read.canonicalize().ok() == there) {
            return Err(Failure::input(format!("the page would take the place of {}", read.display()))
                .remedy("name another file by --report"));
        }
    }
    args.svg.as_deref().map_or(Ok(()), crate::page::check_directory)
}

//! `terrace inspect`: what a cache file holds, whether it is whole, why a block is read from where it is, and how to
//! empty it.
//!
//! | question  | file      | writes                                     |
//! |-----------|-----------|--------------------------------------------|
//! | `info`    | `info`    | nothing                                    |
//! | `verify`  | `verify`  | nothing                                    |
//! | `explain` | `explain` | nothing                                    |
//! | `drain`   | `drain`   | the file and the backing stores it is given |
//!
//! A file that a process owns is refused: what is in it changes while it is read, and half of it is in that process.
//! The lock is shared, so that several may look at once, and nobody opens the file meanwhile.

mod drain;
mod explain;
mod info;
mod keys;
mod marks;
mod verify;

use std::path::Path;

use clap::{Args, Subcommand};
use terrace::tiers::Error;
use terrace::tiers::file_device::{FileDevice, FileOptions};
use terrace::tiers::ssd::VolumeInfo;

use crate::failure::{Failure, Result};
use crate::units::{show_bytes, show_count};

/// Look into a cache file that nobody has open: what it holds, whether it is whole, and how to empty it
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand, Debug)]
enum Question {
    Info(info::InfoArgs),
    Verify(verify::VerifyArgs),
    Explain(explain::ExplainArgs),
    Drain(drain::DrainArgs),
}

/// Runs the subcommand; `print` takes what goes to standard output.
pub(crate) fn main(args: &InspectArgs, print: impl Fn(&str)) -> Result<()> {
    match &args.question {
        Question::Info(args) => info::main(args, print),
        Question::Verify(args) => verify::main(args, print),
        Question::Explain(args) => explain::main(args, print),
        Question::Drain(args) => drain::main(args, print),
    }
}

/// The cache file at `path`, for reading, with the lock that keeps owners away.
fn open_file(path: &Path) -> Result<FileDevice> {
    let options = FileOptions { read_only: true, lock: true, ..FileOptions::new(path) };
    FileDevice::open(&options).map_err(|error| match error {
        Error::Locked { path } => {
            let shown = path.display();
            Failure::input(format!("{shown} is in use, and what it holds changes while it is read"))
                .remedy("stop the process that has it open; its own counters say what it has until then")
        }
        error @ Error::Path { .. } => {
            Failure::caused("no cache file to look at", error).remedy("name one that you may read")
        }
        error => Failure::from(error),
    })
}

/// What the file has of `volume` that its backing store lacks, in words.
fn dirt(volume: &VolumeInfo) -> String {
    let blocks =
        format!("{} dirty blocks ({})", show_count(volume.dirty_blocks), show_bytes(volume.dirty_bytes));
    let ranges = format!("{} discarded ranges", show_count(volume.discarded_ranges));
    match (volume.dirty_blocks, volume.discarded_ranges) {
        (_, 0) => blocks,
        (0, _) => ranges,
        _ => format!("{blocks} and {ranges}"),
    }
}

/// Why the file at `path` cannot be looked at.
fn unreadable(path: &Path, error: Error) -> Failure {
    let shown = path.display();
    match error {
        Error::Damaged { .. } => Failure::caused(format!("cannot open {shown}"), error)
            .remedy(format!("see `terrace inspect verify {shown}` for what is left of it")),
        error @ Error::NotACacheFile { .. } => Failure::input(error.to_string()),
        error @ Error::Mismatch { .. } => Failure::input(format!("{shown}: {error}")),
        error => {
            Failure::caused(format!("cannot read {shown}"), error).remedy("look at the device that it is on")
        }
    }
}

//! The command `terrace`: puts the library's cache to work.
//!
//! Subcommands have a folder each; `trace` also reads recorded traces for all of them, `failure` is where causes become
//! exit codes. Results go to standard output, everything else to standard error.

#![deny(unsafe_code)]

mod ctl;
mod failure;
mod inspect;
mod man;
mod memory;
mod mode;
mod page;
mod policies;
mod progress;
mod replay;
mod serve;
mod table;
mod top;
mod trace;
mod tune;
mod units;

#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use trace::{bench, fuzz};

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::{Failure, Result};

/// A tiered block cache: RAM, a log on an SSD, and the disk behind them
#[derive(Parser)]
#[command(name = "terrace", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ctl(ctl::CtlArgs),
    Inspect(inspect::InspectArgs),
    Man(man::ManArgs),
    Replay(Box<replay::ReplayArgs>),
    Serve(Box<serve::ServeArgs>),
    Top(top::TopArgs),
    Trace(Box<trace::command::TraceArgs>),
    Tune(Box<tune::TuneArgs>),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(failure) => {
            // When even this cannot be written there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "terrace: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return Err(usage(&error)),
        Err(help) => {
            // A closed pipe (`| head`) is no failure of ours.
            let _ = help.print();
            return Ok(ExitCode::SUCCESS);
        }
    };
    let done = match arguments.command {
        Command::Ctl(args) => return ctl::main(&args, print),
        Command::Inspect(args) => inspect::main(&args, print),
        Command::Man(args) => man::main(&args, Arguments::command(), print),
        Command::Replay(args) => replay::main(&args, print),
        Command::Serve(args) => serve::main(&args, print),
        Command::Top(args) => top::main(&args, print),
        Command::Trace(args) => trace::command::main(&args, print),
        Command::Tune(args) => tune::main(&args, print),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// A result for standard output.
fn print(text: &str) {
    // A closed pipe (`| head`) is no failure of ours.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// What clap has to say about the arguments, in one line.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or(&text).split("\n\nFor more").next().unwrap_or(&text);
    let words: Vec<&str> = said.trim_start_matches("error:").split_whitespace().collect();
    let is_help = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let said = if is_help { "a subcommand is missing".to_string() } else { words.join(" ") };
    let mut command = Arguments::command();
    let asked = std::env::args().nth(1).filter(|name| command.find_subcommand_mut(name).is_some());
    let asked = asked.map_or_else(String::new, |name| format!(" {name}"));
    Failure::input(said).remedy(format!("see `terrace{asked} --help`"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        super::Arguments::command().debug_assert();
    }
}

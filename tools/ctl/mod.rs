//! `terrace ctl`: asks a service that runs, over its control socket (`../serve/control.rs` has the protocol).

mod show;

pub(crate) use show::read;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::serve::control::Command;
use crate::serve::report::{Report, Unplug};

/// Where a service is asked by default.
pub(crate) const SOCKET: &str = "/run/terrace/control.sock";
/// A service that takes longer to tell its statistics does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ask or change a service that runs
#[derive(Args, Debug)]
#[command(
    after_long_help = "Exit codes: 0, it is done, or the answer is yes; 1, the answer of safe-to-unplug is no; 2, the \
                             service refused, or gave no answer."
)]
pub(crate) struct CtlArgs {
    /// The control socket of the service; only its owner may use it
    #[arg(long, value_name = "PATH", default_value = SOCKET, global = true)]
    socket: PathBuf,

    /// One JSON value in place of tables
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

/// A line of the service.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Result(Value),
    Error(String),
}

/// The exit code when the answer is no, as that of grep when nothing matches.
const NO: u8 = 1;

pub(crate) fn main(args: &CtlArgs, print: impl Fn(&str)) -> Result<ExitCode> {
    let mut command = args.command.clone();
    if let Command::AttachSsd { file, .. } | Command::Record { file, .. } = &mut command
        && let Ok(absolute) = std::path::absolute(&*file)
    {
        // The service has another working folder.
        *file = absolute;
    }
    let value = ask(&args.socket, &command)?;
    let is_no = command == Command::SafeToUnplug && !read::<Unplug>(value.clone())?.safe;
    if args.json {
        print(&serde_json::to_string_pretty(&value).expect("plain data always serialises"));
    } else {
        print(&show::show(&command, value)?);
    }
    Ok(if is_no { ExitCode::from(NO) } else { ExitCode::SUCCESS })
}

/// What the service at `socket` answers to `command`.
///
/// # Errors
/// When there is no answer, or the service refuses.
pub(crate) fn ask(socket: &Path, command: &Command) -> Result<Value> {
    let reply = talk(socket, command).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "name the socket that `terrace serve` told"
            }
            io::ErrorKind::PermissionDenied => "ask as the user that the service runs as",
            _ => "see whether the service still runs",
        };
        Failure::caused(format!("no answer at {}", socket.display()), error).remedy(remedy)
    })?;
    match reply {
        Reply::Error(what) => Err(Failure::input(what)),
        Reply::Result(value) => Ok(value),
    }
}

/// The statistics of the service at `socket`.
///
/// # Errors
/// As [`ask`].
pub(crate) fn report(socket: &Path) -> Result<Report> {
    read(ask(socket, &Command::Stats)?)
}

fn talk(socket: &Path, command: &Command) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    // What changes something may take hours.
    let patience = matches!(command, Command::Stats).then_some(PATIENCE);
    stream.set_read_timeout(patience)?;
    let line = serde_json::to_string(command).expect("plain data always serialises");
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the service hung up"));
    }
    serde_json::from_str(&answer).map_err(io::Error::other)
}

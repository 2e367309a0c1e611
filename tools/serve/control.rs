//! The control socket: commands of the owner, one JSON object a line, and one answer a line.
//!
//! ```text
//! > {"command": "set-mode", "mode": "back", "export": "disk"}
//! < {"result": "disk writes in mode back"}
//! > {"command": "flush", "export": "dusk"}
//! < {"error": "there is no export dusk; there are disk"}
//! ```
//!
//! [`Command`] has every command with its arguments; sizes are bytes. `result` is text for people, but of `stats`, `exports`,
//! `connections`, `what-if`, `lost` and `safe-to-unplug`, which answer with objects (see `report.rs`). A connection may send any
//! number of commands; each waits for the one before, and other connections do not. Who may open the socket is who may do
//! all of this: it is made with mode 0600.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use terrace_nbd::remove_abandoned;

use super::report;
use super::service::Service;
use crate::failure::{Failure, Result};
use crate::mode::Mode;
use crate::units::{parse_size, show_bytes};

/// A longer line is no command.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Connections at a time: a thread each.
const CONNECTIONS_MAX: usize = 16;
/// How long the listener rests when the system has no descriptor for a connection.
const REST: Duration = Duration::from_millis(100);

/// What can be asked of a service that runs.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Command {
    /// What the tiers and the exports do: hits, bytes, latencies, what is dirty
    Stats,
    /// The disks that are served
    Exports,
    /// The clients that are connected
    Connections,
    /// Make everything durable that was written so far
    Flush {
        /// One export; all without it
        export: Option<String>,
    },
    /// Change when a write is acknowledged. Leaving back-ssd waits until the disk has all that the SSD has
    SetMode {
        /// around, through, back or back-ssd
        #[arg(value_enum)]
        mode: Mode,
        /// One export; all without it
        export: Option<String>,
    },
    /// Give RAM another size, up to 16 times what it began with
    ResizeRam {
        /// Such as 2GiB
        #[arg(value_name = "SIZE", value_parser = parse_size)]
        bytes: u64,
    },
    /// Give the cache file another size
    ResizeSsd {
        /// Such as 200GiB
        #[arg(value_name = "SIZE", value_parser = parse_size)]
        bytes: u64,
    },
    /// Let the SSD go; the service goes on with RAM alone. Exports in mode back-ssd need another mode first
    DetachSsd,
    /// Take an SSD in
    AttachSsd {
        /// The cache file or device, as the service finds it
        file: PathBuf,
        /// Its size, such as 200GiB
        #[arg(value_name = "SIZE", value_parser = parse_size)]
        bytes: u64,
    },
    /// Wait until the disks durably have everything
    Drain,
    /// Blocks that were acknowledged and nobody can give any more: reads of them fail, and so does every flush of their
    /// export, until each is written whole, trimmed or forgotten
    Lost {
        /// One export; all without it
        export: Option<String>,
    },
    /// Drop what the tiers have of a range, for good, also what the disk lacks: for a disk that was changed behind the
    /// service, or never will take it. The disk stays as it is
    Forget {
        /// Its name
        export: String,
        /// Where the range begins, in bytes or with a unit; between two blocks, as its end is
        #[arg(value_parser = parse_size)]
        offset: u64,
        /// How long it is
        #[arg(value_name = "SIZE", value_parser = parse_size)]
        bytes: u64,
    },
    /// Whether the SSD can be pulled out now, without a loss: exit code 0 when it can, 1 when not, 2 when nobody says
    SafeToUnplug,
    /// What more or less RAM and SSD would give, from a sample of the traffic
    WhatIf,
    /// Record what clients ask for, without the bytes, in files FILE.1, FILE.2 and so on, for `terrace trace` and `tune`
    Record {
        /// As the service finds it
        file: PathBuf,
        /// All files together never take more; the oldest go [default: 1GiB]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// End the recording
    StopRecording,
}

/// The control socket, beside that of clients.
pub(super) fn beside(socket: &Path) -> PathBuf {
    let mut name: OsString = socket.into();
    name.push(".control");
    name.into()
}

/// An open control socket. Its file goes with it.
pub(super) struct ControlListener {
    listener: UnixListener,
    file: File,
}

/// Removes the socket when the service ends.
pub(super) struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // Someone may have removed it.
        let _ = fs::remove_file(&self.0);
    }
}

impl File {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl ControlListener {
    /// Replaces what a service left there that is gone.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opened = remove_abandoned(path).and_then(|()| bind_private(path));
        let listener = opened.map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => "another service is there; name another path by --control",
                io::ErrorKind::NotFound => "make its folder first",
                _ => "name a path that this user may use by --control",
            };
            Failure::caused(format!("cannot make the control socket {}", path.display()), error)
                .remedy(remedy)
        })?;
        Ok(Self { listener, file: File(path.to_owned()) })
    }

    /// Answers from now on, until the process ends.
    pub(super) fn serve(self, service: &Arc<Service>) -> io::Result<File> {
        let (listener, service) = (self.listener, service.clone());
        thread::Builder::new()
            .name("terrace-control".into())
            .spawn(move || accept_all(&listener, &service))?;
        Ok(self.file)
    }
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let descriptor = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&descriptor, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before it listens.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(&descriptor, CONNECTIONS_MAX as i32)?;
    Ok(descriptor.into())
}

fn accept_all(listener: &UnixListener, service: &Arc<Service>) {
    let here = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the owner could not be let in");
                // It would come again at once, for as long as there is no descriptor.
                thread::sleep(REST);
                continue;
            }
        };
        let place = Place::take(&here);
        let service = service.clone();
        let talk = move || {
            let _place = place;
            // The owner went away; a command that was begun is done.
            let _ = talk(&stream, &service);
        };
        if here.load(Ordering::Relaxed) <= CONNECTIONS_MAX {
            // Without a thread the connection closes, and whoever asked sees that.
            let _ = thread::Builder::new().name("terrace-control".into()).spawn(talk);
        }
    }
}

/// One of the connections that are here.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(here: &Arc<AtomicUsize>) -> Self {
        here.fetch_add(1, Ordering::Relaxed);
        Self(here.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn talk(mut stream: &UnixStream, service: &Service) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_slice::<Command>(&line) {
            Ok(command) => match execute(service, &command) {
                Ok(result) => json!({ "result": result }),
                Err(failure) => json!({ "error": failure.to_string() }),
            },
            Err(error) => {
                json!({ "error": format!("that is no command: {error}; see `terrace ctl --help`") })
            }
        };
        stream.write_all(format!("{answer}\n").as_bytes())?;
    }
}

fn execute(service: &Service, command: &Command) -> Result<Value> {
    Ok(match command {
        Command::Stats => value(&report::Report::of(&service.snapshot())),
        Command::Exports => value(&report::Report::of(&service.snapshot()).exports),
        Command::Connections => value(&report::Report::of(&service.snapshot()).connections),
        Command::WhatIf => value(&report::WhatIfReport::of(&service.snapshot())),
        Command::SafeToUnplug => value(&report::Unplug::of(&service.snapshot())),
        Command::Lost { export } => value(&service.lost(export.as_deref())?),
        Command::Forget { export, offset, bytes } => {
            service.forget(export, *offset, *bytes)?;
            format!("{bytes} bytes at {offset} of {export} are what the disk has").into()
        }
        Command::Flush { export } => {
            service.flush(export.as_deref())?;
            "everything written before is durable".into()
        }
        Command::SetMode { mode, export } => {
            service.set_mode(export.as_deref(), *mode)?;
            let which = export.as_deref().unwrap_or("every export");
            format!("{which} writes in mode {mode}").into()
        }
        Command::ResizeRam { bytes } => {
            let blocks = service.resize_ram(*bytes)?;
            format!("RAM has {} and room for {blocks} blocks", show_bytes(*bytes)).into()
        }
        Command::ResizeSsd { bytes } => {
            let blocks = service.resize_ssd(*bytes)?;
            format!("the SSD has {} and room for {blocks} blocks", show_bytes(*bytes)).into()
        }
        Command::DetachSsd => {
            service.detach_ssd()?;
            "the SSD is detached and may be pulled out".into()
        }
        Command::AttachSsd { file, bytes } => {
            service.attach_ssd(file, *bytes)?;
            format!("{} is attached", file.display()).into()
        }
        Command::Record { file, bytes } => {
            service.record(file, *bytes)?;
            format!("recording to {}.1 and on", file.display()).into()
        }
        Command::StopRecording => {
            let recorded = service.stop_recording()?;
            format!("{} requests were recorded, {} lost", recorded.requests, recorded.requests_lost).into()
        }
        Command::Drain => {
            service.drain()?;
            "the disks durably have everything".into()
        }
    })
}

fn value(report: &impl Serialize) -> Value {
    serde_json::to_value(report).expect("plain data always serialises")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_the_head_of_this_file_writes_them() {
        let read = |text: &str| serde_json::from_str::<Command>(text).map_err(|error| error.to_string());
        let command = read(r#"{"command": "set-mode", "mode": "back-ssd", "export": "disk"}"#);
        assert_eq!(command, Ok(Command::SetMode { mode: Mode::BackSsd, export: Some("disk".into()) }));
        assert_eq!(read(r#"{"command": "flush"}"#), Ok(Command::Flush { export: None }));
        for text in ["", "{}", r#"{"command": "format"}"#, r#"{"command": "resize-ram", "bytes": -1}"#, "[1]"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

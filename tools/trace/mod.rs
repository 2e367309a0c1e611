//! Recorded traces: what each request asked for, streamed from any of the formats we read.
//!
//! | file             | format           | a request is                       | writes | times |
//! |------------------|------------------|------------------------------------|--------|-------|
//! | `arc`            | ARC `.lis`       | a run of ids                       | no     | no    |
//! | `ids`            | one id a line    | one id                             | no     | no    |
//! | `msr`            | MSR Cambridge    | bytes of a host's disk             | yes    | yes   |
//! | `oracle_general` | oracleGeneral    | one id                             | no     | yes   |
//! | `vscsi`          | vscsi v1         | 512-byte sectors                   | yes    | yes   |
//!
//! A reader holds one buffer, whatever the trace's length; only the names of volumes add to it. A new format is one
//! file here, one line in [`Format`] and one in [`detect`].

mod arc;
mod buffer;
mod detect;
mod ids;
mod input;
mod msr;
mod oracle_general;
mod vscsi;

use crate::failure::Result;

pub(crate) use input::Source;

/// What one request touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Span {
    /// Bytes of a volume: every block they overlap.
    Bytes { offset: u64, bytes: u64 },
    /// Ids, one block each.
    Ids { first: u64, count: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// One request of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// Devices and hosts of the trace, numbered from 0 as they appear.
    pub(crate) volume: u32,
    pub(crate) kind: Kind,
    pub(crate) span: Span,
    /// Microseconds since some fixed moment; none when the trace has no times.
    pub(crate) time_us: Option<u64>,
}

/// A stream of requests.
pub(crate) trait TraceReader: Send {
    /// The next request, or none at the end.
    fn next_request(&mut self) -> Result<Option<Request>>;

    /// Commands so far that neither read nor write, and were passed over.
    fn skipped_commands(&self) -> u64 {
        0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
pub(crate) enum Format {
    /// The ARC paper's traces: `start count ignored sequence`, a run of ids a line
    #[value(name = "arc")]
    #[serde(rename = "arc")]
    Arc,
    /// One id a line; `*` and empty lines are passed over (LIRS traces)
    #[value(name = "ids")]
    #[serde(rename = "ids")]
    Ids,
    /// MSR Cambridge CSV: time, host, disk, Read or Write, offset, size, response time
    #[value(name = "msr")]
    #[serde(rename = "msr")]
    Msr,
    /// libCacheSim oracleGeneral, 24 bytes a request: taken as ids, all of them reads
    #[value(name = "oracleGeneral")]
    #[serde(rename = "oracleGeneral")]
    OracleGeneral,
    /// CloudPhysics vscsi version 1, 32 bytes a request: sectors, reads and writes
    #[value(name = "vscsi")]
    #[serde(rename = "vscsi")]
    Vscsi,
}

impl Format {
    fn reader(self, input: input::Input) -> Box<dyn TraceReader> {
        match self {
            Self::Arc => Box::new(arc::ArcReader::new(input)),
            Self::Ids => Box::new(ids::IdsReader::new(input)),
            Self::Msr => Box::new(msr::MsrReader::new(input)),
            Self::OracleGeneral => Box::new(oracle_general::OracleGeneralReader::new(input)),
            Self::Vscsi => Box::new(vscsi::VscsiReader::new(input)),
        }
    }
}

/// What the readers' tests share: every request of hand-made bytes, or the error as the user sees it.
#[cfg(test)]
fn read_all(format: Format, bytes: &[u8]) -> std::result::Result<Vec<Request>, String> {
    let mut reader = format.reader(input::Input::from_bytes(bytes));
    let mut requests = Vec::new();
    loop {
        match reader.next_request() {
            Ok(Some(request)) => requests.push(request),
            Ok(None) => return Ok(requests),
            Err(failure) => return Err(failure.to_string()),
        }
    }
}

//! Traces in the formats that we write: our own, and those that others' tools read.
//!
//! | format          | has                              | cannot say                        | memory            |
//! |-----------------|----------------------------------|-----------------------------------|-------------------|
//! | `terrace`       | everything                       |                                   | one block         |
//! | `oracleGeneral` | id, size, second, next use       | operations, flushes, discards     | 16 bytes a block  |
//! | `lcs` (v2)      | the same, operation, volume      | flushes                           | 16 bytes a block  |
//! | `fio` (v3)      | everything, in microseconds      | ids                               | -                 |
//! | `csv`           | everything                       | ids                               | -                 |
//!
//! What a format cannot say is left out and counted, so that the user is told.

mod csv;
mod fio;
mod objects;
mod recording;

use std::fs::File;
use std::path::Path;

use super::{Kind, Request, Span};
use crate::failure::{Failure, Result};

/// A format that we write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    /// Our own: packed, checked, with an index
    Terrace,
    /// libCacheSim oracleGeneral: ids are addresses in units of --unit, times are seconds since the first request
    #[value(name = "oracleGeneral")]
    OracleGeneral,
    /// libCacheSim lcs, version 2: the same, with operations
    Lcs,
    /// fio iolog version 3
    Fio,
    /// `time_ns,volume,operation,offset,bytes`
    Csv,
}

/// Where the requests of a trace go, one by one.
pub(crate) trait TraceWriter {
    fn write(&mut self, request: &Request) -> Result<()>;

    /// Ends the trace, whose volumes are called `volumes` as far as they have names.
    fn finish(self: Box<Self>, volumes: &[String]) -> Result<()>;
}

/// A trace that is being written.
pub(crate) struct Sink {
    writer: Box<dyn TraceWriter>,
    pub(crate) written: u64,
    /// Requests that the format cannot say.
    pub(crate) left_out: u64,
    target: Target,
}

impl Sink {
    /// A new file at `path`; `unit` is what ids count, where the format has ids.
    pub(crate) fn create(path: &Path, target: Target, unit: u64) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(|error| {
            let failure = Failure::caused(format!("cannot make {name}"), error);
            failure.remedy("name a file that is not there yet, in a directory that you may write")
        })?;
        let writer: Box<dyn TraceWriter> = match target {
            Target::Terrace => Box::new(recording::RecordingWriter::new(file, name)?),
            Target::OracleGeneral | Target::Lcs => {
                let layout =
                    if target == Target::Lcs { objects::Layout::Lcs } else { objects::Layout::OracleGeneral };
                Box::new(objects::ObjectWriter::new(file, name, layout, unit)?)
            }
            Target::Fio => Box::new(fio::FioWriter::new(file, name)?),
            Target::Csv => Box::new(csv::CsvWriter::new(file, name)?),
        };
        Ok(Self { writer, written: 0, left_out: 0, target })
    }

    pub(crate) fn write(&mut self, request: &Request) -> Result<()> {
        let is_said = match self.target {
            Target::OracleGeneral => matches!(request.kind, Kind::Read | Kind::Write),
            Target::Lcs => request.kind != Kind::Flush,
            Target::Terrace | Target::Fio | Target::Csv => true,
        };
        if !is_said {
            self.left_out += 1;
            return Ok(());
        }
        self.written += 1;
        self.writer.write(request)
    }

    pub(crate) fn finish(self, volumes: &[String]) -> Result<()> {
        self.writer.finish(volumes)
    }
}

/// Writing to the file `name` failed.
fn cannot_write(name: &str, error: std::io::Error) -> Failure {
    Failure::caused(format!("cannot write {name}"), error).remedy("see that there is room for it")
}

/// The bytes that a request touches, for formats that know nothing else.
fn bytes_of(request: &Request, format: &str) -> Result<(u64, u64)> {
    match request.span {
        Span::Bytes { offset, bytes } => Ok((offset, bytes)),
        Span::Ids { .. } => Err(Failure::input(format!("the trace has ids, and {format} has addresses"))
            .remedy("say how many bytes an id is with --id-size")),
    }
}

/// What a volume is called in formats of text, where a name is one word.
fn volume_name(volume: u32) -> String {
    format!("volume-{volume}")
}

#[cfg(test)]
mod tests;

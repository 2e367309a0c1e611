//! Our own format: `terrace-recording` writes it.

use std::fs::File;
use std::io::BufWriter;

use terrace_recording::Writer;

use super::{Request, TraceWriter, cannot_write};
use crate::failure::Result;

pub(super) struct RecordingWriter {
    name: String,
    writer: Writer<BufWriter<File>>,
}

fn failed(name: &str, error: terrace_recording::Error) -> crate::failure::Failure {
    match error {
        terrace_recording::Error::Io(error) => cannot_write(name, error),
        other => cannot_write(name, std::io::Error::other(other)),
    }
}

impl RecordingWriter {
    pub(super) fn new(file: File, name: String) -> Result<Self> {
        let writer = Writer::new(BufWriter::new(file)).map_err(|error| failed(&name, error))?;
        Ok(Self { name, writer })
    }
}

impl TraceWriter for RecordingWriter {
    fn write(&mut self, request: &Request) -> Result<()> {
        self.writer.write(request).map_err(|error| failed(&self.name, error))
    }

    fn finish(self: Box<Self>, volumes: &[String]) -> Result<()> {
        let Self { name, writer } = *self;
        writer.finish(volumes).map(|_| ()).map_err(|error| failed(&name, error))
    }
}

//! Our table: `time_ns,volume,operation,offset,bytes`, times in nanoseconds or empty.

use std::fs::File;
use std::io::{BufWriter, Write};

use super::{Kind, Request, TraceWriter, bytes_of, cannot_write, volume_name};
use crate::failure::Result;
use crate::trace::formats::csv::HEADING;

pub(super) struct CsvWriter {
    name: String,
    out: BufWriter<File>,
}

impl CsvWriter {
    pub(super) fn new(file: File, name: String) -> Result<Self> {
        let mut out = BufWriter::new(file);
        writeln!(out, "{HEADING}").map_err(|error| cannot_write(&name, error))?;
        Ok(Self { name, out })
    }
}

impl TraceWriter for CsvWriter {
    fn write(&mut self, request: &Request) -> Result<()> {
        let (offset, bytes) = bytes_of(request, "csv")?;
        let operation = match request.kind {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Flush => "flush",
            Kind::Discard => "discard",
        };
        let time = request.time_ns.map_or(String::new(), |time| time.to_string());
        let volume = volume_name(request.volume);
        writeln!(self.out, "{time},{volume},{operation},{offset},{bytes}")
            .map_err(|error| cannot_write(&self.name, error))
    }

    fn finish(mut self: Box<Self>, _: &[String]) -> Result<()> {
        self.out.flush().map_err(|error| cannot_write(&self.name, error))
    }
}

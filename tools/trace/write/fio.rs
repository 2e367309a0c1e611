//! fio's I/O log, version 3: files are added and opened when they first come, and closed at the end.
//!
//! fio waits from the start of its job to each stamp, so that times are counted from the first request. A request without
//! a time is stamped as the one before it. fio does not take a stamp that goes back: the latest so far stands for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};

use super::{Kind, Request, TraceWriter, bytes_of, cannot_write, volume_name};
use crate::failure::Result;

pub(super) struct FioWriter {
    name: String,
    out: BufWriter<File>,
    volumes: BTreeSet<u32>,
    first_ns: Option<u64>,
    latest_us: u64,
}

impl FioWriter {
    pub(super) fn new(file: File, name: String) -> Result<Self> {
        let mut out = BufWriter::new(file);
        writeln!(out, "fio version 3 iolog").map_err(|error| cannot_write(&name, error))?;
        Ok(Self { name, out, volumes: BTreeSet::new(), first_ns: None, latest_us: 0 })
    }

    fn put(&mut self, request: &Request, (offset, bytes): (u64, u64)) -> io::Result<()> {
        if let Some(time) = request.time_ns {
            let first = *self.first_ns.get_or_insert(time);
            self.latest_us = self.latest_us.max(time.saturating_sub(first) / 1000);
        }
        let (at, file) = (self.latest_us, volume_name(request.volume));
        if self.volumes.insert(request.volume) {
            writeln!(self.out, "{at} {file} add\n{at} {file} open")?;
        }
        match request.kind {
            Kind::Read => writeln!(self.out, "{at} {file} read {offset} {bytes}"),
            Kind::Write => writeln!(self.out, "{at} {file} write {offset} {bytes}"),
            Kind::Discard => writeln!(self.out, "{at} {file} trim {offset} {bytes}"),
            Kind::Flush => writeln!(self.out, "{at} {file} sync 0 0"),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let at = self.latest_us;
        for &volume in &self.volumes {
            writeln!(self.out, "{at} {} close", volume_name(volume))?;
        }
        self.out.flush()
    }
}

impl TraceWriter for FioWriter {
    fn write(&mut self, request: &Request) -> Result<()> {
        let place = bytes_of(request, "fio")?;
        self.put(request, place).map_err(|error| cannot_write(&self.name, error))
    }

    fn finish(mut self: Box<Self>, _: &[String]) -> Result<()> {
        self.end().map_err(|error| cannot_write(&self.name, error))
    }
}

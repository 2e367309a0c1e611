//! oracleGeneral and lcs version 2, for libCacheSim: every object with the number of the request that uses it next.
//!
//! The next use is not known when a request is written. It is put into the earlier record when it comes: in memory as long
//! as that record is in the [`WINDOW_RECORDS`] last ones, and later in the file. For that the last use of every object is
//! remembered, 16 bytes each, so that memory grows with the objects of a trace, not with its requests.
//!
//! An object is the place where a request begins, in units of `unit` bytes, or an id. Volumes have the upper bits, 2^40
//! units each, so that places of different volumes stay apart. Next uses are counted from 1; -1 (lcs: the largest
//! number) says that there is none.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Kind, Request, Span, TraceWriter, cannot_write};
use crate::failure::{Failure, Result};
use crate::trace::formats::lcs;

/// 24 or 28 MiB of records; most uses come again within it.
const WINDOW_RECORDS: usize = 1 << 20;
const VOLUME_SHIFT: u32 = 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    OracleGeneral,
    Lcs,
}

impl Layout {
    fn header_bytes(self) -> usize {
        if self == Self::Lcs { lcs::HEADER_BYTES } else { 0 }
    }

    fn record_bytes(self) -> usize {
        if self == Self::Lcs { 28 } else { 24 }
    }

    fn never(self) -> i64 {
        if self == Self::Lcs { i64::MAX } else { -1 }
    }
}

pub(super) struct ObjectWriter {
    name: String,
    file: File,
    layout: Layout,
    unit: u64,
    /// The records from number `written` on, counted from 0.
    window: Vec<u8>,
    written: u64,
    requests: u64,
    last_use: HashMap<u64, u64>,
    first_ns: Option<u64>,
    last_second: u32,
    totals: Totals,
}

/// What lcs says of the whole trace.
#[derive(Default)]
struct Totals {
    bytes: u64,
    first_bytes: u64,
    reads: u64,
    writes: u64,
    deletes: u64,
}

impl ObjectWriter {
    pub(super) fn new(file: File, name: String, layout: Layout, unit: u64) -> Result<Self> {
        Ok(Self {
            name,
            file,
            layout,
            unit,
            window: Vec::with_capacity(WINDOW_RECORDS * layout.record_bytes()),
            written: 0,
            requests: 0,
            last_use: HashMap::new(),
            first_ns: None,
            last_second: 0,
            totals: Totals::default(),
        })
    }

    fn object(&self, volume: u32, number: u64) -> Result<u64> {
        if number >> VOLUME_SHIFT != 0 && volume > 0 || volume >> (64 - VOLUME_SHIFT) != 0 {
            let what = format!("{number} of volume {volume} is too far for an object's number");
            return Err(Failure::input(what).remedy("choose a larger --unit, or cut one volume"));
        }
        Ok(u64::from(volume) << VOLUME_SHIFT | number)
    }

    fn put(&mut self, request: &Request, object: u64, size: u32) -> io::Result<()> {
        if self.window.len() == WINDOW_RECORDS * self.layout.record_bytes() {
            self.write_half()?;
        }
        if let Some(time) = request.time_ns {
            let first = *self.first_ns.get_or_insert(time);
            let second = u32::try_from(time.saturating_sub(first) / 1_000_000_000).unwrap_or(u32::MAX);
            // Their readers want times that do not go back.
            self.last_second = self.last_second.max(second);
        }
        let number = self.requests;
        self.requests += 1;
        self.window.extend(self.last_second.to_le_bytes());
        self.window.extend(object.to_le_bytes());
        self.window.extend(size.to_le_bytes());
        if self.layout == Layout::Lcs {
            let tenant = request.volume & 0xff_ffff;
            self.window.extend((tenant << 8 | u32::from(lcs::operation(request.kind))).to_le_bytes());
        }
        self.window.extend(self.layout.never().to_le_bytes());
        let earlier = self.last_use.insert(object, number);
        self.count(request.kind, size, earlier.is_none());
        match earlier {
            Some(earlier) => self.set_next(earlier, number + 1),
            None => Ok(()),
        }
    }

    fn count(&mut self, kind: Kind, size: u32, is_first: bool) {
        let totals = &mut self.totals;
        totals.bytes += u64::from(size);
        totals.first_bytes += if is_first { u64::from(size) } else { 0 };
        match kind {
            Kind::Read => totals.reads += 1,
            Kind::Write => totals.writes += 1,
            Kind::Discard => totals.deletes += 1,
            Kind::Flush => {}
        }
    }

    /// Record `number`, from 0, is used again by the request `next`, from 1.
    fn set_next(&mut self, number: u64, next: u64) -> io::Result<()> {
        let record = self.layout.record_bytes();
        let next = next.to_le_bytes();
        match number.checked_sub(self.written) {
            Some(ahead) => {
                let end = (ahead as usize + 1) * record;
                self.window[end - next.len()..end].copy_from_slice(&next);
                Ok(())
            }
            None => {
                let end = self.layout.header_bytes() as u64 + (number + 1) * record as u64;
                self.file.write_all_at(&next, end - next.len() as u64)
            }
        }
    }

    /// Writes the older half of the window, so that the newer stays within reach.
    fn write_half(&mut self) -> io::Result<()> {
        self.write_records(WINDOW_RECORDS / 2)
    }

    fn write_records(&mut self, records: usize) -> io::Result<()> {
        let record = self.layout.record_bytes();
        let at = self.layout.header_bytes() as u64 + self.written * record as u64;
        self.file.write_all_at(&self.window[..records * record], at)?;
        self.window.drain(..records * record);
        self.written += records as u64;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.write_records(self.window.len() / self.layout.record_bytes())?;
        if self.layout == Layout::Lcs {
            self.file.write_all_at(&self.lcs_header(), 0)?;
        }
        Ok(())
    }

    fn lcs_header(&self) -> Vec<u8> {
        let totals = &self.totals;
        let mut header = lcs::MAGIC.to_vec();
        let statistics = [
            1,
            self.requests,
            self.last_use.len() as u64,
            totals.bytes,
            totals.first_bytes,
            0,
            u64::from(self.last_second),
            totals.reads,
            totals.writes,
            totals.deletes,
        ];
        header.extend(2u64.to_le_bytes());
        statistics.iter().for_each(|number| header.extend(number.to_le_bytes()));
        header.resize(lcs::HEADER_BYTES - lcs::MAGIC.len(), 0);
        header.extend(lcs::MAGIC);
        header
    }
}

impl TraceWriter for ObjectWriter {
    fn write(&mut self, request: &Request) -> Result<()> {
        let failed = |name: &str, error| Err(cannot_write(name, error));
        match request.span {
            Span::Ids { first, count } => {
                for index in 0..count {
                    let object = self.object(request.volume, first + index)?;
                    // libCacheSim counts objects of size 1 as so many.
                    if let Err(error) = self.put(request, object, 1) {
                        return failed(&self.name, error);
                    }
                }
                Ok(())
            }
            Span::Bytes { offset, bytes } if !offset.is_multiple_of(self.unit) => {
                let (number, unit) = (self.requests + 1, self.unit);
                Err(Failure::input(format!(
                    "request {number} begins at byte {offset} with {bytes} bytes, which is inside a unit of {unit}"
                ))
                .remedy("choose a --unit that all requests begin on"))
            }
            Span::Bytes { offset, bytes } => {
                let object = self.object(request.volume, offset / self.unit)?;
                let size = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.put(request, object, size).or_else(|error| failed(&self.name, error))
            }
        }
    }

    fn finish(mut self: Box<Self>, _: &[String]) -> Result<()> {
        self.end().map_err(|error| cannot_write(&self.name, error))
    }
}

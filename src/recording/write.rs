//! Writing a recording, from its header to its tail, without going back.

use std::io::Write;

use crate::encoding::{BLOCK_REQUESTS, Packer, Rows, StoredEntry, StoredIndex, StoredNames};
use crate::error::{Error, Result};
use crate::format::{Frame, FrameKind, HEADER_BYTES, NO_TIME, crc, header, tail};
use crate::request::{Lost, Request};

/// Takes requests one by one; holds the requests of one block, plain and packed, and 40 bytes for each block written.
///
/// Without [`Self::finish`] the recording has no tail, and says so when it is read.
pub struct Writer<W: Write> {
    out: W,
    packer: Packer,
    rows: Rows,
    /// Of the block that is being filled.
    earliest_ns: u64,
    latest_ns: u64,
    has_times: bool,
    /// Where the next frame goes.
    at: u64,
    written_requests: u64,
    index: StoredIndex,
    /// Names of the index that notes have.
    noted_names: usize,
    /// Of no note so far.
    lost: Lost,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    pub fn new(mut out: W) -> Result<Self> {
        out.write_all(&header())?;
        Ok(Self {
            out,
            packer: Packer::new()?,
            rows: Rows::default(),
            earliest_ns: NO_TIME,
            latest_ns: 0,
            has_times: false,
            at: HEADER_BYTES as u64,
            written_requests: 0,
            index: StoredIndex::default(),
            noted_names: 0,
            lost: Lost::default(),
        })
    }

    /// The next request. The last nanosecond of all stands for no time, and is taken for the one before.
    #[inline]
    pub fn write(&mut self, request: &Request) -> Result<()> {
        let has_times = request.time_ns.is_some();
        if self.rows.len() == BLOCK_REQUESTS || (self.rows.len() > 0 && has_times != self.has_times) {
            self.end_block()?;
        }
        self.has_times = has_times;
        let time_ns = request.time_ns.map_or(0, |time| time.min(NO_TIME - 1));
        if has_times {
            self.earliest_ns = self.earliest_ns.min(time_ns);
            self.latest_ns = self.latest_ns.max(time_ns);
        }
        self.rows.push(request, time_ns);
        Ok(())
    }

    /// The volume after those that were named before is called so; noted ahead of the block that is being filled, so that
    /// it is known wherever the recording is cut.
    pub fn name_volume(&mut self, name: String) {
        self.index.volumes.push(name);
    }

    /// So many requests more were made and are not given to [`Self::write`]; noted ahead of the block that is being filled.
    pub fn lose(&mut self, lost: Lost) {
        self.lost.add(lost);
    }

    /// Writes what was taken so far, as a block that may be shorter than others. A recorder calls it now and then.
    pub fn end_block(&mut self) -> Result<()> {
        self.put_notes()?;
        if self.rows.len() == 0 {
            return Ok(());
        }
        let count = u32::try_from(self.rows.len()).expect("at most BLOCK_REQUESTS");
        let latest_ns = if self.has_times { self.latest_ns } else { NO_TIME };
        let entry = StoredEntry {
            at: self.at,
            requests_before: self.written_requests,
            requests: count,
            earliest_ns: self.earliest_ns,
            latest_ns,
        };
        let plain_bytes =
            self.packer.pack_rows(&self.rows, self.has_times).expect("a block of the widest numbers fits");
        self.put(FrameKind::Block, count, (self.earliest_ns, latest_ns), plain_bytes)?;
        self.index.blocks.push(entry);
        self.written_requests += u64::from(count);
        self.rows.clear();
        (self.earliest_ns, self.latest_ns) = (NO_TIME, 0);
        Ok(())
    }

    /// Ends the recording with its index; `volumes` are the names of the volumes in order, or fewer, or none: those that
    /// were named by [`Self::name_volume`].
    pub fn finish(mut self, volumes: &[String]) -> Result<W> {
        self.end_block()?;
        if !volumes.is_empty() {
            self.index.volumes = volumes.to_vec();
        }
        let count = u32::try_from(self.index.blocks.len()).unwrap_or(u32::MAX);
        let plain_bytes = self.packer.pack(&self.index).ok_or_else(|| too_large("index"))?;
        let index_at = self.at;
        self.put(FrameKind::Index, count, (NO_TIME, NO_TIME), plain_bytes)?;
        self.out.write_all(&tail(index_at))?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Bytes of the recording so far, without what is in the block that is being filled.
    pub fn bytes(&self) -> u64 {
        self.at
    }

    /// Blocks written so far: so many entries the index will have.
    pub fn blocks(&self) -> usize {
        self.index.blocks.len()
    }

    /// Requests in the block that is being filled.
    pub fn unwritten(&self) -> usize {
        self.rows.len()
    }

    /// What was named and lost since the last note; several notes if it is more than one can count.
    fn put_notes(&mut self) -> Result<()> {
        while self.noted_names < self.index.volumes.len() || self.lost.requests > 0 {
            let first = u32::try_from(self.noted_names).map_err(|_| too_large("names of the volumes"))?;
            let names = self.index.volumes[self.noted_names..].to_vec();
            let packed = self.packer.pack(&StoredNames { first, names });
            let plain_bytes = packed.ok_or_else(|| too_large("names of the volumes"))?;
            let count = u32::try_from(self.lost.requests).unwrap_or(u32::MAX);
            let times = self.lost.times_ns.unwrap_or((NO_TIME, NO_TIME));
            self.put(FrameKind::Note, count, times, plain_bytes)?;
            (self.noted_names, self.lost.requests) =
                (self.index.volumes.len(), self.lost.requests - u64::from(count));
        }
        self.lost = Lost::default();
        Ok(())
    }

    /// Writes what was packed last.
    fn put(
        &mut self,
        kind: FrameKind,
        count: u32,
        (earliest_ns, latest_ns): (u64, u64),
        plain_bytes: u32,
    ) -> Result<()> {
        let packed = self.packer.packed();
        let frame = Frame {
            kind,
            packed_bytes: u32::try_from(packed.len()).expect("checked by `pack`"),
            plain_bytes,
            count,
            requests_before: self.written_requests,
            earliest_ns,
            latest_ns,
            payload_crc: crc(packed),
        };
        let header = frame.bytes();
        self.out.write_all(&header)?;
        self.out.write_all(packed)?;
        self.at += (header.len() + packed.len()) as u64;
        Ok(())
    }
}

fn too_large(what: &str) -> Error {
    std::io::Error::other(format!("the {what} of the recording is too large")).into()
}

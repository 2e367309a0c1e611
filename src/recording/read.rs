//! Reading a recording: from its beginning, or from any block that its index names.

use std::io::{self, Read, Seek, SeekFrom};

use crate::encoding::{Columns, StoredIndex, StoredNames, unpack};
use crate::error::{Error, Result};
use crate::format::{
    FRAME_BYTES, Frame, FrameKind, HEADER_BYTES, NO_TIME, PAYLOAD_BYTES_MAX, SHIFT_VERSION, TAIL_BYTES, crc,
    header_version, parse_tail,
};
use crate::request::{Lost, Request};

/// Gives the requests one by one; holds those of one block.
pub struct Reader<R: Read> {
    input: R,
    version: u32,
    /// Where the next frame begins.
    at: u64,
    /// Requests in the frames before it.
    requests_before: u64,
    block: std::vec::IntoIter<Request>,
    packed: Vec<u8>,
    volumes: Vec<String>,
    lost: Lost,
    /// Of the names that notes gave: no more than an index may have.
    noted_bytes: usize,
    is_at_end: bool,
}

/// What lies where in a recording.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Index {
    pub blocks: Vec<BlockEntry>,
    /// The names of the volumes in order, as far as they have one.
    pub volumes: Vec<String>,
}

/// One block of a recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockEntry {
    at: u64,
    pub requests_before: u64,
    pub requests: u32,
    /// The earliest and the latest time in it; none in a recording without times.
    pub times_ns: Option<(u64, u64)>,
}

impl<R: Read> Reader<R> {
    /// A recording from its beginning.
    pub fn new(mut input: R) -> Result<Self> {
        let mut header = [0; HEADER_BYTES];
        let filled = fill(&mut input, &mut header)?;
        let version =
            if filled < HEADER_BYTES { Err(format!("{filled} bytes")) } else { header_version(&header) };
        Ok(Self {
            input,
            version: version.map_err(|found| Error::NotARecording { found })?,
            at: HEADER_BYTES as u64,
            requests_before: 0,
            block: Vec::new().into_iter(),
            packed: Vec::new(),
            volumes: Vec::new(),
            lost: Lost::default(),
            noted_bytes: 0,
            is_at_end: false,
        })
    }

    /// The next request, or none at the end.
    pub fn next_request(&mut self) -> Result<Option<Request>> {
        loop {
            if let Some(request) = self.block.next() {
                return Ok(Some(request));
            }
            if self.is_at_end || !self.next_block()? {
                return Ok(None);
            }
        }
    }

    /// The names of the volumes; known once the end was reached, or the index read, and before that as far as they were
    /// noted: those of the requests that were read so far.
    pub fn volumes(&self) -> &[String] {
        &self.volumes
    }

    /// Requests that were lost up to here, since the reader began or last went elsewhere.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// Reads the next block; false when the index comes in its place.
    fn next_block(&mut self) -> Result<bool> {
        loop {
            let frame = self.frame()?;
            match frame.kind {
                FrameKind::Note => self.take_note(&frame)?,
                FrameKind::Block => return self.take_block(&frame).map(|()| true),
                FrameKind::Index => return self.take_end(&frame).map(|()| false),
            }
        }
    }

    fn take_note(&mut self, frame: &Frame) -> Result<()> {
        let damaged = Error::Damaged { at: self.at, what: "the note cannot be read" };
        let stored: Option<StoredNames> = unpack(&self.packed, frame.plain_bytes);
        // One that was noted before: the index was read, or the reader went back.
        let known = |stored: &StoredNames| self.volumes.len().checked_sub(stored.first as usize);
        let Some((stored, known)) = stored.and_then(|stored| known(&stored).map(|known| (stored, known)))
        else {
            return Err(damaged);
        };
        let noted: Vec<String> = stored.names.into_iter().skip(known).collect();
        self.noted_bytes += noted.iter().map(|name| name.len() + size_of::<String>()).sum::<usize>();
        if self.noted_bytes > PAYLOAD_BYTES_MAX {
            return Err(damaged);
        }
        self.volumes.extend(noted);
        let times_ns = (frame.latest_ns != NO_TIME).then_some((frame.earliest_ns, frame.latest_ns));
        self.lost.add(Lost { requests: frame.count.into(), times_ns });
        self.at += FRAME_BYTES as u64 + u64::from(frame.packed_bytes);
        Ok(())
    }

    fn take_end(&mut self, frame: &Frame) -> Result<()> {
        let (at, index) = (self.at, self.index_of(frame)?);
        self.at += FRAME_BYTES as u64 + u64::from(frame.packed_bytes);
        let mut tail = [0; TAIL_BYTES];
        let filled = fill(&mut self.input, &mut tail)?;
        if filled < TAIL_BYTES {
            return Err(self.cut_short(filled));
        }
        if parse_tail(&tail) != Some(at) {
            return Err(Error::Damaged { at: self.at, what: "the tail does not lead to the index" });
        }
        (self.volumes, self.is_at_end) = (index.volumes, true);
        Ok(())
    }

    fn take_block(&mut self, frame: &Frame) -> Result<()> {
        let (at, what) = (self.at, "the requests are not those that were counted");
        let unpacked: Option<(u8, Columns)> = if self.version >= SHIFT_VERSION {
            unpack(&self.packed, frame.plain_bytes)
        } else {
            unpack(&self.packed, frame.plain_bytes).map(|columns| (0, columns))
        };
        let (shift, columns) = unpacked.ok_or(Error::Damaged { at, what })?;
        let mut requests = Vec::with_capacity(columns.len());
        if frame.requests_before != self.requests_before
            || columns.requests(frame.count as usize, shift, &mut requests).is_none()
        {
            return Err(Error::Damaged { at, what });
        }
        self.requests_before += u64::from(frame.count);
        self.at += FRAME_BYTES as u64 + u64::from(frame.packed_bytes);
        self.block = requests.into_iter();
        Ok(())
    }

    /// The frame at `at`, its payload in `packed`; `at` stays.
    fn frame(&mut self) -> Result<Frame> {
        let mut header = [0; FRAME_BYTES];
        let filled = fill(&mut self.input, &mut header)?;
        if filled < FRAME_BYTES {
            return Err(self.cut_short(filled));
        }
        let damaged = |what| Error::Damaged { at: self.at, what };
        let frame = Frame::parse(&header).ok_or_else(|| damaged("no block and no index begins here"))?;
        self.packed.resize(frame.packed_bytes as usize, 0);
        let filled = fill(&mut self.input, &mut self.packed)?;
        if filled < self.packed.len() {
            return Err(self.cut_short(FRAME_BYTES + filled));
        }
        if crc(&self.packed) != frame.payload_crc {
            return Err(Error::Damaged { at: self.at, what: "the checksum of the block does not hold" });
        }
        Ok(frame)
    }

    fn index_of(&self, frame: &Frame) -> Result<Index> {
        let damaged = Error::Damaged { at: self.at, what: "the index cannot be read" };
        let stored: StoredIndex = unpack(&self.packed, frame.plain_bytes).ok_or(damaged)?;
        let entry = |stored: &crate::encoding::StoredEntry| BlockEntry {
            at: stored.at,
            requests_before: stored.requests_before,
            requests: stored.requests,
            times_ns: (stored.latest_ns != NO_TIME).then_some((stored.earliest_ns, stored.latest_ns)),
        };
        Ok(Index { blocks: stored.blocks.iter().map(entry).collect(), volumes: stored.volumes })
    }

    fn cut_short(&self, more: usize) -> Error {
        Error::CutShort { at: self.at + more as u64, whole_requests: self.requests_before }
    }
}

impl<R: Read + Seek> Reader<R> {
    /// The index; none when the recording was not closed. The reader then stands at the end: see [`Self::go_to`].
    pub fn index(&mut self) -> Result<Option<Index>> {
        let length = self.input.seek(SeekFrom::End(0))?;
        let Some(tail_at) = length.checked_sub(TAIL_BYTES as u64) else { return Ok(None) };
        self.input.seek(SeekFrom::Start(tail_at))?;
        let mut tail = [0; TAIL_BYTES];
        self.input.read_exact(&mut tail)?;
        let Some(index_at) = parse_tail(&tail) else { return Ok(None) };
        self.input.seek(SeekFrom::Start(index_at))?;
        self.at = index_at;
        let frame = self.frame()?;
        if frame.kind != FrameKind::Index {
            return Err(Error::Damaged { at: index_at, what: "expected the index" });
        }
        let index = self.index_of(&frame)?;
        self.volumes.clone_from(&index.volumes);
        (self.is_at_end, self.block) = (true, Vec::new().into_iter());
        Ok(Some(index))
    }

    /// Goes on with the first request of `block`.
    pub fn go_to(&mut self, block: &BlockEntry) -> Result<()> {
        self.input.seek(SeekFrom::Start(block.at))?;
        (self.at, self.requests_before) = (block.at, block.requests_before);
        (self.is_at_end, self.block, self.lost) = (false, Vec::new().into_iter(), Lost::default());
        Ok(())
    }
}

/// Fills `buffer` as far as there are bytes.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

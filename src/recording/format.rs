//! Header, frames and tail of a recording, byte by byte; little-endian.
//!
//! | header | bytes  | holds                                                  |
//! |--------|--------|--------------------------------------------------------|
//! |        | 0..8   | [`MAGIC`]                                              |
//! |        | 8..12  | version, from [`OLDEST_VERSION`] to [`VERSION`]        |
//! |        | 12..16 | CRC32C of bytes 0..12                                  |
//!
//! | frame  | bytes  | holds                                                  |
//! |--------|--------|--------------------------------------------------------|
//! |        | 0..4   | `BLCK`: requests; `INDX`: the index; `NOTE`: a note    |
//! |        | 4..8   | bytes of the payload behind this header, packed        |
//! |        | 8..12  | bytes of the payload, unpacked                         |
//! |        | 12..16 | requests of the block; blocks of the index; requests lost |
//! |        | 16..24 | requests before this frame                             |
//! |        | 24..32 | earliest time in it, nanoseconds; all ones: no times   |
//! |        | 32..40 | latest time in it; all ones: no times                  |
//! |        | 40..44 | CRC32C of the packed payload                           |
//! |        | 44..48 | CRC32C of bytes 0..44                                  |
//!
//! | tail   | bytes  | holds                                                  |
//! |--------|--------|--------------------------------------------------------|
//! |        | 0..8   | where the index begins                                 |
//! |        | 8..12  | `TAIL`                                                 |
//! |        | 12..16 | CRC32C of bytes 0..12                                  |
//!
//! A note is what is known from here on: names of volumes in its payload, and how many requests were lost when, in its
//! header. Version 1 has none. Blocks of version 3 begin with a shift (`encoding`), those before have none.
//!
//! A frame may be trusted when both checksums hold and its requests follow those before it. The index is trusted when
//! the tail leads to it. Nothing is ever written twice: whatever was written stays, however the writing ends.

use crc_fast::{CrcAlgorithm, checksum};

/// What a recording begins with.
pub const MAGIC: [u8; 8] = *b"TerraceR";
pub(crate) const VERSION: u32 = 3;
/// The first whose blocks have a shift.
pub(crate) const SHIFT_VERSION: u32 = 3;
pub(crate) const OLDEST_VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const FRAME_BYTES: usize = 48;
pub(crate) const TAIL_BYTES: usize = 16;

/// In place of a time where there is none.
pub(crate) const NO_TIME: u64 = u64::MAX;
/// More than [`crate::BLOCK_REQUESTS`] rows of the widest numbers take, and than the index of a trace of 10^10 requests.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameKind {
    Block,
    Index,
    Note,
}

/// The header of a block, of the index or of a note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) packed_bytes: u32,
    pub(crate) plain_bytes: u32,
    pub(crate) count: u32,
    pub(crate) requests_before: u64,
    pub(crate) earliest_ns: u64,
    pub(crate) latest_ns: u64,
    pub(crate) payload_crc: u32,
}

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("a CRC32C has 32 bits")
}

/// `bytes` and the checksum of them behind.
fn sealed<const BYTES: usize>(parts: &[&[u8]]) -> [u8; BYTES] {
    let mut all = parts.concat();
    all.extend(crc(&all).to_le_bytes());
    all.try_into().expect("the parts fill it but for the checksum")
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes.split_last_chunk().is_some_and(|(covered, seal)| crc(covered) == u32::from_le_bytes(*seal))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside the header"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the header"))
}

pub(crate) fn header() -> [u8; HEADER_BYTES] {
    sealed(&[&MAGIC, &VERSION.to_le_bytes()])
}

/// The version that a header is of, or what it is in place of a header.
pub(crate) fn header_version(bytes: &[u8; HEADER_BYTES]) -> Result<u32, String> {
    if !bytes.starts_with(&MAGIC) {
        return Err("other data".into());
    }
    if !is_sealed(bytes) {
        return Err("a damaged header".into());
    }
    let version = u32_at(bytes, 8);
    if (OLDEST_VERSION..=VERSION).contains(&version) {
        Ok(version)
    } else {
        Err(format!("version {version}"))
    }
}

impl Frame {
    pub(crate) fn bytes(&self) -> [u8; FRAME_BYTES] {
        let magic = match self.kind {
            FrameKind::Block => b"BLCK",
            FrameKind::Index => b"INDX",
            FrameKind::Note => b"NOTE",
        };
        sealed(&[
            magic,
            &self.packed_bytes.to_le_bytes(),
            &self.plain_bytes.to_le_bytes(),
            &self.count.to_le_bytes(),
            &self.requests_before.to_le_bytes(),
            &self.earliest_ns.to_le_bytes(),
            &self.latest_ns.to_le_bytes(),
            &self.payload_crc.to_le_bytes(),
        ])
    }

    /// The frame that `bytes` are the header of; none when they are of none, or of one larger than any.
    pub(crate) fn parse(bytes: &[u8; FRAME_BYTES]) -> Option<Self> {
        let kind = match &bytes[..4] {
            b"BLCK" => FrameKind::Block,
            b"INDX" => FrameKind::Index,
            b"NOTE" => FrameKind::Note,
            _ => return None,
        };
        let frame = Self {
            kind,
            packed_bytes: u32_at(bytes, 4),
            plain_bytes: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            requests_before: u64_at(bytes, 16),
            earliest_ns: u64_at(bytes, 24),
            latest_ns: u64_at(bytes, 32),
            payload_crc: u32_at(bytes, 40),
        };
        let fits = |bytes: u32| bytes as usize <= PAYLOAD_BYTES_MAX;
        (is_sealed(bytes) && fits(frame.packed_bytes) && fits(frame.plain_bytes)).then_some(frame)
    }
}

pub(crate) fn tail(index_at: u64) -> [u8; TAIL_BYTES] {
    sealed(&[&index_at.to_le_bytes(), b"TAIL"])
}

/// Where the index begins, if `bytes` are a tail.
pub(crate) fn parse_tail(bytes: &[u8; TAIL_BYTES]) -> Option<u64> {
    (&bytes[8..12] == b"TAIL" && is_sealed(bytes)).then(|| u64_at(bytes, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_frame_and_tail_lie_as_the_tables_say() {
        let header = header();
        assert_eq!(&header[..12], b"TerraceR\x03\0\0\0");
        assert_eq!(header_version(&header), Ok(3));
        let frame = Frame {
            kind: FrameKind::Block,
            packed_bytes: 1,
            plain_bytes: 2,
            count: 3,
            requests_before: 4,
            earliest_ns: 5,
            latest_ns: NO_TIME,
            payload_crc: 6,
        };
        let bytes = frame.bytes();
        let mut wanted = b"BLCK\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0".to_vec();
        wanted.extend([0xff; 8]);
        wanted.extend([6, 0, 0, 0]);
        assert_eq!(bytes[..44], wanted);
        assert_eq!(Frame::parse(&bytes), Some(frame));
        assert_eq!(&tail(7)[..12], b"\x07\0\0\0\0\0\0\0TAIL");
        assert_eq!(parse_tail(&tail(7)), Some(7));
    }

    #[test]
    fn a_later_version_is_named_and_an_older_one_is_read() {
        let older: [u8; HEADER_BYTES] = sealed(&[&MAGIC, &OLDEST_VERSION.to_le_bytes()]);
        assert_eq!(header_version(&older), Ok(OLDEST_VERSION));
        let later: [u8; HEADER_BYTES] = sealed(&[&MAGIC, &9u32.to_le_bytes()]);
        assert_eq!(header_version(&later), Err("version 9".into()));
    }
}

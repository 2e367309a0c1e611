//! For fuzz targets: bytes with the checksums that a recording of this shape would have.

use crate::format::{FRAME_BYTES, HEADER_BYTES, TAIL_BYTES, crc};

/// Makes every checksum right that is where the lengths in `bytes` put it.
pub fn repair(bytes: &mut [u8]) {
    if let Some(header) = bytes.get_mut(..HEADER_BYTES) {
        seal(header);
    }
    let mut at = HEADER_BYTES;
    while let Some(frame) = bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME_BYTES) {
        let (header, rest) = frame.split_at_mut(FRAME_BYTES);
        let packed_bytes = u32::from_le_bytes(*header[4..].first_chunk().expect("inside the header"));
        if let Some(payload) = rest.get(..packed_bytes as usize) {
            header[40..44].copy_from_slice(&crc(payload).to_le_bytes());
        }
        seal(header);
        at = at.saturating_add(FRAME_BYTES + packed_bytes as usize);
    }
    if let Some(tail) = bytes.len().checked_sub(TAIL_BYTES).and_then(|at| bytes.get_mut(at..)) {
        seal(tail);
    }
}

/// The last four bytes become the checksum of those before.
fn seal(part: &mut [u8]) {
    let (covered, sum) = part.split_at_mut(part.len() - 4);
    sum.copy_from_slice(&crc(covered).to_le_bytes());
}

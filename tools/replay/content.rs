//! What a block must hold: a function of the seed, the block and its version, so that nothing needs remembering but
//! versions.
//!
//! | bytes  | holds                                                                    |
//! |--------|--------------------------------------------------------------------------|
//! | 0..8   | the block: volume and number, in clear                                   |
//! | 8..16  | the version, in clear                                                    |
//! | 16..   | words of 8 bytes, each one step on from the last, from a start of its own |
//!
//! Version 0 is what a new sparse file reads as: zeros.

use terrace::{BlockId, VolumeId};

/// An odd constant with no pattern in its bits (2^64 over the golden ratio).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy)]
pub(crate) struct Content {
    seed: u64,
}

impl Content {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `bytes`, one whole block, with `version` of `block`.
    pub(crate) fn fill(self, block: BlockId, version: u32, bytes: &mut [u8]) {
        if version == 0 {
            bytes.fill(0);
            return;
        }
        let (words, _) = bytes.as_chunks_mut::<8>();
        let mut word = self.start(block, version);
        for bytes in words.iter_mut() {
            *bytes = scramble(word).to_le_bytes();
            word = word.wrapping_add(STEP);
        }
        words[0] = block.as_u64().to_le_bytes();
        words[1] = u64::from(version).to_le_bytes();
    }

    /// Where `bytes` first differ from `version` of `block`, as an offset; none when they are it.
    pub(crate) fn first_difference(self, block: BlockId, version: u32, bytes: &[u8]) -> Option<usize> {
        let (words, _) = bytes.as_chunks::<8>();
        if version == 0 {
            // In pieces, so that the compiler compares many words at once.
            let is_zero = bytes.chunks(256).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0);
            return if is_zero { None } else { bytes.iter().position(|&byte| byte != 0) };
        }
        let head = [block.as_u64(), u64::from(version)];
        for (index, expected) in head.into_iter().enumerate() {
            if u64::from_le_bytes(words[index]) != expected {
                return Some(index * 8);
            }
        }
        let first = self.start(block, version).wrapping_add(STEP.wrapping_mul(2));
        let mut word = first;
        let mut differences = 0;
        for bytes in &words[2..] {
            differences |= u64::from_le_bytes(*bytes) ^ scramble(word);
            word = word.wrapping_add(STEP);
        }
        if differences == 0 {
            return None;
        }
        let expected = |index: usize| scramble(first.wrapping_add(STEP.wrapping_mul(index as u64)));
        let wrong = |(index, bytes): (usize, &[u8; 8])| u64::from_le_bytes(*bytes) != expected(index);
        words[2..].iter().enumerate().position(wrong).map(|index| (index + 2) * 8)
    }

    /// The block and version that `bytes` claim to be, whoever wrote them; none for zeros.
    pub(crate) fn claim(bytes: &[u8]) -> Option<(BlockId, u64)> {
        let (words, _) = bytes.as_chunks::<8>();
        let (block, version) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        (version != 0).then_some((BlockId::from_u64(block), version))
    }

    /// The stream's first word: far from that of any other block, version or seed.
    fn start(self, block: BlockId, version: u32) -> u64 {
        let mut mixed = self.seed ^ block.as_u64().wrapping_mul(STEP) ^ u64::from(version).rotate_left(40);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Spreads the upper bits into the lower ones, which a plain sum leaves with short periods.
#[inline]
fn scramble(word: u64) -> u64 {
    word ^ (word >> 29)
}

/// The id under which the checker knows a block of the trace; the cache may number its volumes otherwise.
pub(crate) fn block_id(volume: u32, number: u64) -> BlockId {
    BlockId::new(VolumeId::new(volume), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_itself_and_no_other_block_version_or_seed() {
        let content = Content::new(7);
        let mut bytes = vec![0xaa; 4096];
        for (number, version) in [(0, 0), (0, 1), (5, 1), (5, 2), (1 << 39, u32::MAX)] {
            let block = block_id(3, number);
            content.fill(block, version, &mut bytes);
            assert_eq!(content.first_difference(block, version, &bytes), None);
            assert_eq!(Content::claim(&bytes), (version > 0).then_some((block, u64::from(version))));
            let other = block_id(3, number + 1);
            assert_eq!(content.first_difference(other, version, &bytes), (version > 0).then_some(0));
            assert!(content.first_difference(block, version ^ 9, &bytes).is_some());
            assert_eq!(Content::new(8).first_difference(block, version, &bytes).is_some(), version > 0);
        }
    }

    #[test]
    fn any_flipped_bit_is_found_at_its_word() {
        let (content, block) = (Content::new(1), block_id(0, 9));
        for version in [0, 4] {
            let mut bytes = vec![0; 4096];
            content.fill(block, version, &mut bytes);
            for at in (0..4096).step_by(61).chain([0, 8, 16, 4095]) {
                bytes[at] ^= 0x10;
                let found = content.first_difference(block, version, &bytes).expect("flipped");
                assert_eq!(found / 8, at / 8, "version {version}");
                bytes[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn sectors_that_changed_places_are_found() {
        let (content, block) = (Content::new(1), block_id(0, 9));
        let mut bytes = vec![0; 4096];
        content.fill(block, 1, &mut bytes);
        let (left, right) = bytes.split_at_mut(2048);
        left[512..1024].swap_with_slice(&mut right[..512]);
        assert_eq!(content.first_difference(block, 1, &bytes), Some(512));
    }
}

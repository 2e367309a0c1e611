//! The words for one block: its id, its size, its version, and which of its sectors are meant.

use std::fmt;

use crate::error::{Error, Result};

/// The grain of validity and of tearing: a device writes one sector whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// The grain of memory and of direct I/O: every frame and every offset in the cache file is a multiple of it.
pub const PAGE_BYTES: usize = 4096;

/// One linear address space of blocks over one backing store; at most 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VolumeId(u32);

impl VolumeId {
    /// One more than the largest volume id.
    pub const LIMIT: u32 = 1 << 24;

    /// The volume with this number.
    ///
    /// # Panics
    /// When `number` is not below [`Self::LIMIT`].
    pub fn new(number: u32) -> Self {
        assert!(number < Self::LIMIT, "volume {number} does not fit 24 bits");
        Self(number)
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

/// A volume and a block number in it, 24 and 40 bits: the order of ids is the order of addresses in a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u64);

impl BlockId {
    /// One more than the largest block number: 40 bits, 4 PiB of the smallest blocks.
    pub const NUMBER_LIMIT: u64 = 1 << 40;

    /// Block `number` of `volume`.
    ///
    /// # Panics
    /// When `number` is not below [`Self::NUMBER_LIMIT`]; volumes are held to it when they are attached.
    #[inline]
    pub fn new(volume: VolumeId, number: u64) -> Self {
        assert!(number < Self::NUMBER_LIMIT, "block {number} does not fit 40 bits");
        Self(u64::from(volume.0) << 40 | number)
    }

    #[inline]
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    #[inline]
    pub fn as_u64(self) -> u64 {
        self.0
    }

    #[inline]
    pub fn volume(self) -> VolumeId {
        VolumeId((self.0 >> 40) as u32)
    }

    #[inline]
    pub fn number(self) -> u64 {
        self.0 & (Self::NUMBER_LIMIT - 1)
    }

    /// Where the block starts in its volume, in bytes.
    #[inline]
    pub fn byte_offset(self, size: BlockSize) -> u64 {
        self.number() << size.shift
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume().0, self.number())
    }
}

/// The unit of caching: a power of two from 4 KiB to 1 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSize {
    shift: u8,
}

impl BlockSize {
    pub const MIN_BYTES: usize = 4 << 10;
    pub const MAX_BYTES: usize = 1 << 20;
    /// 16 KiB: a torrent's block, and four pages, so that the index costs 0.12 % of what it indexes.
    pub const DEFAULT: Self = Self { shift: 14 };

    /// A block of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::BlockSize`] when it is no power of two from 4 KiB to 1 MiB.
    pub fn new(bytes: u64) -> Result<Self> {
        let fits = bytes >= Self::MIN_BYTES as u64 && bytes <= Self::MAX_BYTES as u64;
        if !fits || !bytes.is_power_of_two() {
            return Err(Error::BlockSize { bytes });
        }
        Ok(Self { shift: bytes.trailing_zeros() as u8 })
    }

    #[inline]
    pub fn bytes(self) -> usize {
        1 << self.shift
    }

    #[inline]
    pub fn shift(self) -> u32 {
        u32::from(self.shift)
    }

    #[inline]
    pub fn sectors(self) -> usize {
        self.bytes() / SECTOR_BYTES
    }

    /// The words of a sector mask of one block (see [`mask`]).
    #[inline]
    pub fn mask_words(self) -> usize {
        self.sectors().div_ceil(64)
    }

    /// How many blocks cover `bytes` bytes.
    #[inline]
    pub fn blocks_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes() as u64)
    }
}

/// Orders the contents of one block in time: a number from one sequence for each cache file, never used twice.
///
/// The upper 24 bits count the openings of the cache file and the lower 40 the writes since then, so that a
/// number given out before a crash is never given out again: the opening is counted durably before the first write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Version(u64);

impl Version {
    /// Older than every version that is given out.
    pub const ZERO: Self = Self(0);

    /// The first version of the opening numbered `opening` (from 1).
    pub fn first_of_opening(opening: u32) -> Self {
        assert!(opening < 1 << 24, "the cache file was opened more than 2^24 times");
        Self(u64::from(opening) << 40)
    }

    /// The opening that gave it out.
    pub fn opening(self) -> u32 {
        (self.0 >> 40) as u32
    }

    #[inline]
    pub fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    #[inline]
    pub fn as_u64(self) -> u64 {
        self.0
    }

    #[inline]
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Sets of the sectors of one block, as words of 64 bits, the lowest bit first.
///
/// They lie side by side in arrays (one stretch of [`BlockSize::mask_words`] words a block), so these are functions
/// over slices and not a type of their own.
pub mod mask {
    use std::ops::Range;

    /// Adds the sectors of `range`.
    pub fn set(words: &mut [u64], range: Range<usize>) {
        for (index, bits) in pieces(range) {
            words[index] |= bits;
        }
    }

    /// Takes the sectors of `range` out.
    pub fn clear(words: &mut [u64], range: Range<usize>) {
        for (index, bits) in pieces(range) {
            words[index] &= !bits;
        }
    }

    /// Whether every sector of `range` is in.
    pub fn contains(words: &[u64], range: Range<usize>) -> bool {
        pieces(range).all(|(index, bits)| words[index] & bits == bits)
    }

    /// Whether any sector of `range` is in.
    pub fn contains_any(words: &[u64], range: Range<usize>) -> bool {
        pieces(range).any(|(index, bits)| words[index] & bits != 0)
    }

    /// Whether any sector of `other` is in.
    pub fn shares_any(words: &[u64], other: &[u64]) -> bool {
        words.iter().zip(other).any(|(&word, &wanted)| wanted & word != 0)
    }

    /// Whether every sector of `other` is in.
    pub fn covers(words: &[u64], other: &[u64]) -> bool {
        words.iter().zip(other).all(|(&word, &wanted)| wanted & !word == 0)
    }

    /// Whether no sector is in.
    pub fn is_empty(words: &[u64]) -> bool {
        words.iter().all(|&word| word == 0)
    }

    /// Adds every sector of `other`.
    pub fn add(words: &mut [u64], other: &[u64]) {
        for (word, bits) in words.iter_mut().zip(other) {
            *word |= bits;
        }
    }

    /// The runs of sectors that are in, in ascending order, of a block of `sectors` sectors.
    pub fn runs(words: &[u64], sectors: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = find(words, next, sectors, true)?;
            let end = find(words, start, sectors, false).unwrap_or(sectors);
            next = end;
            Some(start..end)
        })
    }

    /// The first sector at or after `from`, below `sectors`, that is in (or out).
    fn find(words: &[u64], from: usize, sectors: usize, is_in: bool) -> Option<usize> {
        let mut at = from;
        while at < sectors {
            let word = if is_in { words[at / 64] } else { !words[at / 64] };
            let rest = word >> (at % 64);
            if rest != 0 {
                let found = at + rest.trailing_zeros() as usize;
                return (found < sectors).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// `range` cut at word boundaries: word index and the bits of it.
    fn pieces(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let index = at / 64;
            let end = range.end.min((index + 1) * 64);
            let count = end - at;
            let bits = (u64::MAX >> (64 - count)) << (at % 64);
            at = end;
            Some((index, bits))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_id_gives_back_its_volume_and_number_at_both_ends_of_the_range() {
        for (volume, number) in [(0, 0), (VolumeId::LIMIT - 1, BlockId::NUMBER_LIMIT - 1), (7, 12345)] {
            let block = BlockId::new(VolumeId::new(volume), number);
            assert_eq!((block.volume().number(), block.number()), (volume, number));
        }
        let far = BlockId::new(VolumeId::new(1), (8 << 40) >> 14);
        assert_eq!(far.byte_offset(BlockSize::DEFAULT), 8 << 40, "beyond 32 bits");
    }

    #[test]
    fn only_powers_of_two_from_4_kib_to_1_mib_are_block_sizes() {
        for bytes in [4 << 10, 16 << 10, 1 << 20] {
            assert_eq!(BlockSize::new(bytes).map(BlockSize::bytes).ok(), Some(bytes as usize));
        }
        for bytes in [0, 1, 512, 2048, 4097, 12 << 10, 2 << 20, u64::MAX] {
            assert!(BlockSize::new(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn masks_agree_with_a_set_of_sectors() {
        let sectors = 200;
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut words = vec![0u64; 4];
        let mut twin = vec![false; sectors];
        for _ in 0..2000 {
            let start = random.usize(..sectors);
            let range = start..random.usize(start..=sectors);
            if random.bool() {
                mask::set(&mut words, range.clone());
                twin[range.clone()].fill(true);
            } else {
                mask::clear(&mut words, range.clone());
                twin[range.clone()].fill(false);
            }
            let listed: Vec<usize> = mask::runs(&words, sectors).flatten().collect();
            let wanted: Vec<usize> = (0..sectors).filter(|&sector| twin[sector]).collect();
            assert_eq!(listed, wanted, "seed {seed}");
            let mut of_twin = twin[range.clone()].iter();
            let all = of_twin.clone().all(|&is_in| is_in);
            assert_eq!(mask::contains(&words, range.clone()), all, "seed {seed}");
            let any = of_twin.any(|&is_in| is_in);
            assert_eq!(mask::contains_any(&words, range.clone()), any, "seed {seed}");
            let mut other = vec![0; 4];
            mask::set(&mut other, range);
            assert_eq!(mask::covers(&words, &other), all, "seed {seed}");
            assert_eq!(mask::shares_any(&words, &other), any, "seed {seed}");
            assert_eq!(mask::is_empty(&words), wanted.is_empty(), "seed {seed}");
        }
    }
}

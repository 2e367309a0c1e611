//! From requests to blocks: which blocks a request touches.

use terrace::BlockSize;
use terrace::tiers::block::SECTOR_BYTES;

use crate::trace::{Kind, Span};

/// A request longer than this is asked for in several calls.
const PIECE_BLOCKS_MAX: u64 = 1024;
/// The same for large blocks: a caller's buffer is not to be larger than the smallest sensible RAM tier.
const PIECE_BYTES_MAX: u64 = 64 << 20;

/// How requests become blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressing {
    pub(crate) block_size: BlockSize,
    /// One block a request, sizes ignored.
    pub(crate) one_block_each: bool,
    /// And discards as nothing.
    pub(crate) writes_as_reads: bool,
}

impl Addressing {
    pub(crate) fn piece_blocks_max(&self) -> u64 {
        PIECE_BLOCKS_MAX.min(PIECE_BYTES_MAX >> self.block_size.shift())
    }

    /// What a request of this kind is taken as; none when it is passed over.
    pub(crate) fn kind(&self, kind: Kind) -> Option<Kind> {
        match kind {
            Kind::Write if self.writes_as_reads => Some(Kind::Read),
            Kind::Discard if self.writes_as_reads => None,
            kind => Some(kind),
        }
    }

    /// The first block and the number of blocks that a request touches.
    pub(crate) fn blocks(&self, span: Span) -> (u64, u64) {
        match span {
            Span::Ids { first, .. } if self.one_block_each => (first, 1),
            Span::Ids { first, count } => (first, count),
            Span::Bytes { offset, .. } if self.one_block_each => (offset / SECTOR_BYTES as u64, 1),
            Span::Bytes { offset, bytes } => {
                let first = offset >> self.block_size.shift();
                let last = (offset + (bytes.max(1) - 1)) >> self.block_size.shift();
                (first, last - first + 1)
            }
        }
    }

    pub(crate) fn has_ids(&self, span: Span) -> bool {
        self.one_block_each || matches!(span, Span::Ids { .. })
    }
}

//! Adaptive replacement by the cache's own type, over ids in an array.

use terrace::BlockId;
use terrace::tiers::ram::arc_policy::{Access, ArcPolicy, DenseLists};

use super::Policy;

pub(super) struct Own(ArcPolicy<DenseLists>);

impl Own {
    pub(super) fn new(capacity: u32, ids: u32) -> Self {
        Self(ArcPolicy::dense(capacity, ids))
    }
}

impl Policy for Own {
    fn request(&mut self, block: u32) -> bool {
        matches!(self.0.reference(BlockId::from_u64(block.into())), Access::Hit(_))
    }

    #[cfg(test)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}

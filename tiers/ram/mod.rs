//! L1: where blocks live in RAM ([`frames`]) and which of them leaves next ([`arc_policy`]).

pub mod arc_policy;
mod block_lists;
pub mod frames;
mod id_lists;
mod rings;
mod timeline;

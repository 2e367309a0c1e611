//! The backing tier: where all blocks live.

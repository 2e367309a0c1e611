//! The backing tier: where all blocks live.
//!
//! | file   | what is behind the device  |
//! |--------|----------------------------|
//! | `file` | one file or block device   |

pub mod file;
pub mod file_set;
pub mod slow;

//! The backing tier: where all blocks live.
//!
//! | file       | what is behind the device                                                            |
//! |------------|--------------------------------------------------------------------------------------|
//! | `file`     | one file or block device                                                             |
//! | `file_set` | many files in a row as one address space, opened through a bounded pool of handles   |
//! | `slow`     | another device, made as slow as a model of a disk                                    |

pub mod file;
pub mod file_set;
pub mod slow;

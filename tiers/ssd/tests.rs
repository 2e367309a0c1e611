//! The tier as a whole: on a device in memory that loses what was not synced, and beside its simulated twin.

mod crash;
mod device;
mod dirty;
mod driver;
mod format;
mod ghosts;
mod header_pages;
mod inspect;
mod install;
mod journal;
mod kept;
mod log_chains;
mod log_gap;
mod log_reads;
mod log_writer;
mod opening;
mod races;
mod scan;

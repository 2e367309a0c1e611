//! One file a format, or a family of them: what its bytes mean, from its specification.

pub(super) mod arc;
pub(super) mod biosnoop;
pub(super) mod blkparse;
pub(super) mod blktrace;
pub(super) mod clouds;
pub(super) mod csv;
pub(super) mod disksim;
pub(super) mod etw;
pub(super) mod fio;
pub(super) mod fiu;
pub(super) mod ids;
pub(super) mod lcs;
pub(super) mod msr;
pub(super) mod oracle_general;
pub(super) mod recording;
pub(super) mod spc;
pub(super) mod systor;
pub(super) mod vscsi;

#[cfg(test)]
mod recorded_tests;

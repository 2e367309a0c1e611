//! The command `terrace`: puts the library's cache in front of recorded traces.

#![forbid(unsafe_code)]

mod failure;
mod trace;
mod units;
fn main() {}

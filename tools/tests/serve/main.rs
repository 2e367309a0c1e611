//! `terrace serve`, `terrace ctl` and `terrace top`: the real binary, real files and sockets, and the clients that people use.
//!
//! A client that is not installed makes a test say that it is skipped; where `CI` is set it must be there.

#[path = "../common/mod.rs"]
mod common;

mod browser;
mod clients;
mod control;
mod crashes;
mod exposition;
mod filesystems;
mod harness;
mod http;
mod life;
mod managed;
mod outlook;
mod page;
mod probe;
mod raw;
mod refusals;
mod reloading;
mod slow_disk;
mod soak;
mod stopping;
mod tls;
mod top;

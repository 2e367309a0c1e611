//! Whole caches under a checker of schedules: a few threads on a few blocks, in as many orders as time allows.
//!
//! Built only with `--cfg terrace_shuttle`, which has `src/sync.rs` take the checker's locks, atomics and threads; so
//! every step of the cache and of its pool is one that the checker orders. Frames and simulated devices are not: what
//! they do is one step with what came before it. ARCHITECTURE.md has the command.
//!
//! Each scenario runs under batches of schedules, half of them chosen at random at every step, half by priorities that
//! change at a few random steps. A failure names the seed of its batch: with that as `TERRACE_SEED` and
//! `TERRACE_SCHEDULES=100` the same batch runs again.

#![cfg(terrace_shuttle)]
mod checker;
mod faults;
mod live;
mod reads;
mod world;
mod writes;

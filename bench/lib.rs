//! What the benchmarks share: workloads, scenes to measure in, and the floor to measure against.
//!
//! | command                                         | what it tells                                                |
//! |-------------------------------------------------|--------------------------------------------------------------|
//! | `cargo bench -p terrace-bench --bench ratios`   | the goals below, both sides in turns in one run              |
//! | `cargo bench -p terrace-bench --bench serve`    | those of `serve`, against servers of others, by fio          |
//! | `cargo bench -p terrace-bench`                  | criterion's groups and their history, and the ratios         |
//! | `cargo bench -p terrace-bench -- --test`        | nothing: that every benchmark runs, once                     |
//!
//! | group              | goal                                                                                   |
//! |--------------------|----------------------------------------------------------------------------------------|
//! | `ram/hit`          | by reference: no allocation, no system call, at most 100 ns on one thread              |
//! | `ram/insert_evict` | -                                                                                      |
//! | `ssd/append`       | at least 0.9 of plain sequential `pwritev` by one thread, in calls of the same size    |
//! | `ssd/read`         | by 1, 4 and 16 blocking callers: at least 0.9 of plain `preadv` by as many             |
//! | `flush/back_ssd`   | one write of 4 KiB and its flush: at most 1.2 times plain `pwritev` and `fdatasync`,   |
//! |                    | whatever the block; by 8 threads: fewer syncs than flushes                             |
//! | `ssd/recover`      | 1 TB of 16 KiB blocks warm in 3 s on two processors; the first answer in 200 ms with   |
//! |                    | 1 % of it dirty                                                                        |
//! | `whole/zipf`       | recorded, and watched by `WhatIf`: at least 0.99 of the same without; in slices that   |
//! |                    | take turns (`slices.rs`), and 2 % more by hand say whether the machine is quiet enough |
//! | `whole/recorded`   | at most 1.01 times the instructions of the same without, all threads together          |
//! |                    | (`instructions.rs`): a busy machine does not change them; skipped where none are counted |
//! | `parse`            | 200 MB of text a second of one processor, whatever the format                          |
//! | `simulate`         | 100 million references a second of ARC over dense ids, 20 million of LRU's whole curve |
//! | `sweep`            | ARC at 64 sizes of a trace of 13 million references in 8 s on two processors           |
//! | `serve`            | hits in RAM: at least nbdkit's memory plugin; on the SSD: 0.9 of `qemu-nbd --cache=none` |
//! |                    | there; before a slow disk: 20 times nbdkit's cache filter with the same RAM; p99 of    |
//! |                    | hits while 4 GiB are destaged: at most twice that of idle                              |
//!
//! Look at ratios, not at figures: a machine that others use as well is twice as fast a minute later. Nothing here is
//! a test of time; `tests/no_allocation.rs` holds the part of the goals that does not depend on the machine.
//!
//! Files lie in a temporary folder (`TMPDIR` says where): put it on the disk that is meant, with a file system that
//! has direct I/O. A run needs 7 GiB there, one of `serve` 13 GiB, with `--test` 1 GiB.

pub mod instructions;
pub mod measure;
pub mod plain;
pub mod processor;
pub mod scenes;
pub mod slices;
pub mod workload;

use std::env::args;

/// Whether this run only has to show that the benchmarks work: as criterion decides it.
pub fn is_trial() -> bool {
    args().any(|argument| argument == "--test") || !args().any(|argument| argument == "--bench")
}

//! Replacement policies beside our own, for comparison: what `terrace replay --simulate --policy` runs.
//!
//! | file         | policy     | source                                                              | variant                       |
//! |--------------|------------|---------------------------------------------------------------------|-------------------------------|
//! | `lru`        | LRU        | -                                                                   | -                             |
//! | `fifo`       | FIFO       | -                                                                   | -                             |
//! | `clock`      | CLOCK      | Corbató, MIT Project MAC, 1968                                      | one bit                       |
//! | `s3_fifo`    | S3-FIFO    | Yang, Zhang, Qiu, Yue and Vigfusson, SOSP 2023                      | 10 % small, 90 % ghosts       |
//! | `sieve`      | SIEVE      | Zhang, Yang, Yue, Vigfusson and Rashmi, NSDI 2024                   | -                             |
//! | `two_q`      | 2Q         | Johnson and Shasha, VLDB 1994                                       | full version, 25 % and 50 %   |
//! | `lirs`       | LIRS       | Jiang and Zhang, SIGMETRICS 2002                                    | 1 % HIR, stack of twice the size |
//! | `w_tiny_lfu` | W-TinyLFU  | Einziger, Friedman and Manes, ACM Transactions on Storage 2017      | 1 % window, counts by id      |
//! | `belady`     | MIN        | Belady, IBM Systems Journal 1966                                    | knows the future              |
//! | `own`        | ARC        | [`terrace::tiers::ram::arc_policy`]: the cache's very type          | one directory, no shards      |
//!
//! All run on dense ids ([`terrace::simulate::DenseTrace`]) and keep their lists in arrays by id ([`lists`]). Ghosts hold
//! ids only and take none of the capacity. Every access counts, from an empty cache on.
//!
//! Invariants, tested for all of them on random traces (`tests`): a policy never holds more than its capacity; a hit is
//! of a block that was inserted and did not leave since; none misses less than MIN; with room for all blocks only first
//! references miss.

mod belady;
mod clock;
mod fifo;
mod lirs;
mod lists;
mod lru;
mod marked_queue;
#[cfg(test)]
mod oracle_tests;
mod own;
mod s3_fifo;
mod sieve;
#[cfg(test)]
mod tests;
mod two_q;
#[cfg(test)]
mod two_tiers;
mod w_tiny_lfu;

use clap::ValueEnum;
use terrace::simulate::DenseTrace;

/// A cache of ids.
pub(crate) trait Policy {
    /// One reference; whether the block was there. It is there afterwards, or as good as: a policy may refuse it.
    fn request(&mut self, block: u32) -> bool;

    /// Blocks held.
    #[cfg(test)]
    fn len(&self) -> u32;
}

/// The policies that can be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PolicyName {
    /// Adaptive replacement, the cache's own, in one directory
    Arc,
    /// Least recently used
    Lru,
    /// First in, first out
    Fifo,
    /// A second chance for what was used, one bit
    Clock,
    /// Three queues: small, main, ghosts
    S3Fifo,
    /// A hand over a queue
    Sieve,
    /// In, out and main
    #[value(name = "2q")]
    #[serde(rename = "2q")]
    TwoQ,
    /// By the recency between two uses
    Lirs,
    /// A window, and admission by frequency
    WTinyLfu,
    /// Belady's optimum, which knows the future: no policy can do better
    Belady,
}

impl PolicyName {
    /// The name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Arc => "ARC",
            Self::Lru => "LRU",
            Self::Fifo => "FIFO",
            Self::Clock => "CLOCK",
            Self::S3Fifo => "S3-FIFO",
            Self::Sieve => "SIEVE",
            Self::TwoQ => "2Q",
            Self::Lirs => "LIRS",
            Self::WTinyLfu => "W-TinyLFU",
            Self::Belady => "Belady's optimum",
        }
    }

    /// Whether it must be given the references of a trace before the first of them.
    pub(crate) fn knows_the_future(self) -> bool {
        self == Self::Belady
    }

    /// An empty cache of `capacity` blocks for those of `trace`; of its references only Belady's optimum takes notice.
    pub(crate) fn cache(self, trace: &DenseTrace, capacity: u64) -> Box<dyn Policy> {
        let ids = trace.unique();
        // With room for all, a larger cache is the same to all policies but in the sizes of their parts.
        let capacity = capacity.clamp(1, u64::from(terrace::tiers::ram::arc_policy::ArcPolicy::CAPACITY_MAX));
        let capacity = capacity as u32;
        match self {
            Self::Arc => Box::new(own::Own::new(capacity, ids)),
            Self::Lru => Box::new(lru::Lru::new(capacity, ids)),
            Self::Fifo => Box::new(fifo::Fifo::new(capacity, ids)),
            Self::Clock => Box::new(clock::new(capacity, ids)),
            Self::S3Fifo => Box::new(s3_fifo::S3Fifo::new(capacity, ids)),
            Self::Sieve => Box::new(sieve::new(capacity, ids)),
            Self::TwoQ => Box::new(two_q::TwoQ::new(capacity, ids)),
            Self::Lirs => Box::new(lirs::Lirs::new(capacity, ids)),
            Self::WTinyLfu => Box::new(w_tiny_lfu::WTinyLfu::new(capacity, ids)),
            Self::Belady => Box::new(belady::Belady::new(capacity, trace.references(), ids)),
        }
    }

    /// References that miss, in a cache of `capacity` blocks.
    #[cfg(test)]
    fn misses(self, trace: &DenseTrace, capacity: u64) -> u64 {
        let mut cache = self.cache(trace, capacity);
        trace.references().iter().filter(|&&block| !cache.request(block)).count() as u64
    }
}

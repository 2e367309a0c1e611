//! What holds for every policy, on random traces, and what each is known for, on traces made for it.

use clap::ValueEnum;
use terrace::BlockId;
use terrace::simulate::{DenseTrace, LruCurve};

use super::PolicyName;

fn trace(ids: impl IntoIterator<Item = u64>) -> DenseTrace {
    ids.into_iter().map(BlockId::from_u64).collect()
}

/// Some blocks more often than others, with scans and a shift of what is popular.
fn random_trace(seed: u64, references: usize) -> DenseTrace {
    let mut random = fastrand::Rng::with_seed(seed);
    let id = |step: usize| match step / 500 % 4 {
        0 => 1000 + step as u64,
        1 => step as u64 % 150,
        phase => (random.f64() * random.f64() * 400.0) as u64 + phase as u64 * 20,
    };
    trace((0..references).map(id))
}

/// The slow obvious twin of what all have in common: a set of what may be there.
#[test]
fn no_policy_holds_more_than_its_capacity_hits_what_it_never_saw_or_beats_the_optimum() {
    let seed = fastrand::u64(..);
    let trace = random_trace(seed, 20_000);
    for capacity in [1, 2, 3, 10, 64, 100, 150, 333] {
        let optimum = PolicyName::Belady.misses(&trace, capacity.into());
        for &name in PolicyName::value_variants() {
            let context = format!("seed {seed}, {name:?} of {capacity} blocks");
            let (mut cache, mut misses) = (name.cache(&trace, capacity.into()), 0);
            let mut seen = vec![false; trace.unique() as usize];
            for &block in trace.references() {
                let is_hit = cache.request(block);
                assert!(!is_hit || seen[block as usize], "{context}: a hit of what never came");
                assert!(cache.len() <= capacity, "{context} holds {}", cache.len());
                seen[block as usize] = true;
                misses += u64::from(!is_hit);
            }
            assert!(misses >= optimum, "{context}: {misses} misses, the optimum {optimum}");
        }
    }
}

#[test]
fn with_room_for_all_only_first_references_miss() {
    let trace = random_trace(1, 5000);
    let unique = u64::from(trace.unique());
    for &name in PolicyName::value_variants() {
        // What passes through a part of the cache needs room there.
        let capacity = unique * 20;
        assert_eq!(name.misses(&trace, capacity), unique, "{name:?}");
    }
}

#[test]
fn lru_misses_what_its_curve_says_for_every_size() {
    let seed = fastrand::u64(..);
    let trace = random_trace(seed, 10_000);
    let curve = LruCurve::of(trace.references(), trace.unique());
    for capacity in (1..=u64::from(trace.unique())).step_by(97) {
        let found = PolicyName::Lru.misses(&trace, capacity);
        assert_eq!(found, curve.misses(capacity), "seed {seed}, {capacity} blocks");
    }
}

/// Each with vectors in place of lists, and searches in place of arrays.
mod twins {
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(super) enum Kind {
        Fifo,
        Clock,
        Sieve,
        Belady,
    }

    pub(super) struct Twin {
        pub(super) kind: Kind,
        pub(super) capacity: usize,
        /// The coldest first, with whether each was used.
        pub(super) queue: Vec<(u32, bool)>,
        /// SIEVE's: on this block.
        pub(super) hand: Option<u32>,
        pub(super) future: Vec<u32>,
    }

    impl Twin {
        pub(super) fn request(&mut self, block: u32) -> bool {
            self.future.remove(0);
            if let Some(one) = self.queue.iter_mut().find(|one| one.0 == block) {
                one.1 = true;
                return true;
            }
            if self.queue.len() == self.capacity {
                self.evict();
            }
            self.queue.push((block, false));
            false
        }

        fn evict(&mut self) {
            match self.kind {
                Kind::Fifo => _ = self.queue.remove(0),
                Kind::Clock => {
                    while self.queue[0].1 {
                        let (block, _) = self.queue.remove(0);
                        self.queue.push((block, false));
                    }
                    self.queue.remove(0);
                }
                Kind::Sieve => {
                    let mut at = self.hand.map_or(0, |hand| self.place(hand));
                    while self.queue[at].1 {
                        self.queue[at].1 = false;
                        at = (at + 1) % self.queue.len();
                    }
                    self.queue.remove(at);
                    self.hand = self.queue.get(at).map(|one| one.0);
                }
                Kind::Belady => {
                    let next = |block| self.future.iter().position(|&other| other == block);
                    let far = |one: &(u32, bool)| next(one.0).unwrap_or(usize::MAX);
                    let at = (0..self.queue.len()).max_by_key(|&at| far(&self.queue[at])).expect("full");
                    self.queue.remove(at);
                }
            }
        }

        fn place(&self, block: u32) -> usize {
            self.queue.iter().position(|one| one.0 == block).expect("the hand is on a block that is there")
        }
    }
}

#[test]
fn fifo_clock_sieve_and_the_optimum_agree_with_twins_of_plain_vectors() {
    use twins::{Kind, Twin};
    let seed = fastrand::u64(..);
    let trace = random_trace(seed, 3000);
    for (name, kind) in [
        (PolicyName::Fifo, Kind::Fifo),
        (PolicyName::Clock, Kind::Clock),
        (PolicyName::Sieve, Kind::Sieve),
        (PolicyName::Belady, Kind::Belady),
    ] {
        for capacity in [1, 2, 30, 120] {
            let future = trace.references().to_vec();
            let mut twin = Twin { kind, capacity, queue: Vec::new(), hand: None, future };
            let wanted = trace.references().iter().filter(|&&block| !twin.request(block)).count() as u64;
            let found = name.misses(&trace, capacity as u64);
            assert_eq!(found, wanted, "seed {seed}, {kind:?} of {capacity} blocks");
        }
    }
}

#[test]
fn a_loop_longer_than_the_cache_defeats_lru_and_not_lirs_or_2q() {
    let trace = trace((0..20_000).map(|step| step % 200));
    assert_eq!(PolicyName::Lru.misses(&trace, 150), 20_000);
    // LIRS keeps 149 of the 200 from the first round on.
    assert!(PolicyName::Lirs.misses(&trace, 150) < 20_000 * 3 / 10);
    assert!(PolicyName::TwoQ.misses(&trace, 150) < 20_000);
}

#[test]
fn a_scan_does_not_drive_out_what_is_used_often_but_in_lru_fifo_and_clock() {
    let often = || (0..20).flat_map(|_| 0..50);
    let scan = |round: u64| (0..1000).map(move |id| 10_000 + round * 1000 + id);
    let ids: Vec<u64> = (0..30).flat_map(|round| often().chain(scan(round))).collect();
    let trace = trace(ids);
    let compulsory = u64::from(trace.unique());
    for &name in PolicyName::value_variants() {
        let more = name.misses(&trace, 100) - compulsory;
        match name {
            PolicyName::Lru | PolicyName::Fifo | PolicyName::Clock => assert_eq!(more, 29 * 50, "{name:?}"),
            // Their bits, or lists of what left, are worn out by scans ten times as long as the cache.
            PolicyName::Sieve | PolicyName::S3Fifo | PolicyName::TwoQ => {
                assert!(more <= 29 * 50, "{name:?}: {more}");
            }
            _ => assert!(more < 200, "{name:?}: {more}"),
        }
    }
}

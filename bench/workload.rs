//! Seeded workloads: which block is asked for next. The same seed gives the same blocks in every run.
//!
//! Source of the zipf numbers: Hörmann and Derflinger, "Rejection-Inversion to Generate Variates from Monotone
//! Discrete Distributions", ACM TOMACS 6(3), 1996. Exact for every exponent above 0, in constant time and without a
//! table: the weight `k^-s` of rank k is covered by the integral H of `x^-s` over `k - 1/2 .. k + 1/2`, which is
//! inverted; what the integral has too much is rejected, rarely.

use fastrand::Rng;

/// How the next of a number of blocks is chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pattern {
    /// The k-th most popular block with a probability in proportion to `k^-exponent`. Blocks alike in popularity are
    /// strangers in address.
    Zipf { exponent: f64 },
    /// All blocks alike.
    Uniform,
    /// Ascending, from the first to the last and again from the first.
    Scan,
    /// In a random order, always the same one: a block comes back when all others have come.
    Shuffled,
}

/// An endless sequence of block numbers.
#[derive(Clone, Debug)]
pub struct Workload {
    blocks: u32,
    random: Rng,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    Zipf { ranks: Zipf, block_of_rank: Vec<u32> },
    Uniform,
    Scan { next: u32 },
    Shuffled { order: Vec<u32>, next: u32 },
}

impl Workload {
    /// Numbers below `blocks`, which is at least 1.
    pub fn new(pattern: Pattern, blocks: u32, seed: u64) -> Self {
        assert!(blocks > 0, "a workload needs a block");
        let mut random = Rng::with_seed(seed);
        let mut shuffled = || {
            let mut order: Vec<u32> = (0..blocks).collect();
            random.shuffle(&mut order);
            order
        };
        let choice = match pattern {
            Pattern::Zipf { exponent } => {
                Choice::Zipf { ranks: Zipf::new(blocks, exponent), block_of_rank: shuffled() }
            }
            Pattern::Uniform => Choice::Uniform,
            Pattern::Scan => Choice::Scan { next: 0 },
            Pattern::Shuffled => Choice::Shuffled { order: shuffled(), next: 0 },
        };
        Self { blocks, random, choice }
    }

    /// Goes on with other draws over the same blocks: what was popular stays so.
    pub fn reseed(&mut self, seed: u64) {
        self.random = Rng::with_seed(seed);
    }

    /// The next block.
    pub fn block(&mut self) -> u32 {
        match &mut self.choice {
            Choice::Zipf { ranks, block_of_rank } => block_of_rank[ranks.rank(&mut self.random) as usize],
            Choice::Uniform => self.random.u32(..self.blocks),
            Choice::Scan { next } => step(next, self.blocks),
            Choice::Shuffled { order, next } => order[step(next, self.blocks) as usize],
        }
    }

    /// The next `count` blocks as offsets in bytes.
    pub fn offsets(&mut self, count: usize, block_bytes: usize) -> Vec<u64> {
        (0..count).map(|_| u64::from(self.block()) * block_bytes as u64).collect()
    }
}

/// The number at `next`, which goes on to the one after it, and from the last to 0.
fn step(next: &mut u32, count: u32) -> u32 {
    let now = *next;
    *next = if now + 1 == count { 0 } else { now + 1 };
    now
}

/// Ranks from 0 on, rank k with a probability in proportion to `(k + 1)^-exponent`.
#[derive(Clone, Debug)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    /// H at the lower end: what of it lies below rank 1 weighs exactly as much as rank 1 does.
    integral_first: f64,
    integral_last: f64,
    /// A number this little above its inversion, or less, is accepted unseen.
    sure_distance: f64,
}

impl Zipf {
    /// Ranks below `count`.
    pub fn new(count: u32, exponent: f64) -> Self {
        assert!(count > 0 && exponent > 0.0, "zipf of {count} ranks with the exponent {exponent}");
        let mut zipf = Self {
            count: f64::from(count),
            exponent,
            integral_first: 0.0,
            integral_last: 0.0,
            sure_distance: 0.0,
        };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.count + 0.5);
        zipf.sure_distance = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    pub fn rank(&self, random: &mut Rng) -> u32 {
        loop {
            let height = self.integral_last + random.f64() * (self.integral_first - self.integral_last);
            let place = self.inverse(height);
            let rank = place.round().clamp(1.0, self.count);
            if rank - place <= self.sure_distance || height >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u32 - 1;
            }
        }
    }

    fn weight(&self, rank: f64) -> f64 {
        rank.powf(-self.exponent)
    }

    /// H: the integral of `x^-exponent` from 1 to `to`.
    fn integral(&self, to: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 { to.ln() } else { (to.ln() * power).exp_m1() / power }
    }

    fn inverse(&self, height: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 { height.exp() } else { ((height * power).ln_1p() / power).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_as_often_as_their_weight_says() {
        for (count, exponent) in [(1, 0.9), (2, 0.9), (50, 0.5), (50, 0.9), (50, 1.0), (50, 1.3)] {
            let zipf = Zipf::new(count, exponent);
            let mut random = Rng::with_seed(7);
            let draws = 400_000;
            let mut drawn = vec![0u32; count as usize];
            for _ in 0..draws {
                drawn[zipf.rank(&mut random) as usize] += 1;
            }
            let weights: Vec<f64> = (1..=count).map(|rank| f64::from(rank).powf(-exponent)).collect();
            let total: f64 = weights.iter().sum();
            for (rank, (&drawn, weight)) in drawn.iter().zip(&weights).enumerate() {
                let (share, wanted) = (f64::from(drawn) / f64::from(draws), weight / total);
                let deviation = (wanted * (1.0 - wanted) / f64::from(draws)).sqrt();
                assert!(
                    (share - wanted).abs() <= 5.0 * deviation + 1e-12,
                    "rank {rank} of {count}, exponent {exponent}: {share} instead of {wanted}"
                );
            }
        }
    }

    #[test]
    fn a_shuffled_workload_brings_every_block_before_any_comes_again() {
        let mut workload = Workload::new(Pattern::Shuffled, 1000, 3);
        let mut round = || (0..1000).map(|_| workload.block()).collect::<Vec<_>>();
        let (first, second) = (round(), round());
        assert_eq!(first, second);
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_seed_gives_one_workload_and_another_seed_another() {
        for pattern in [Pattern::Zipf { exponent: 0.9 }, Pattern::Uniform, Pattern::Shuffled] {
            let offsets = |seed| Workload::new(pattern, 5000, seed).offsets(100, 4096);
            assert_eq!(offsets(1), offsets(1), "{pattern:?}");
            assert_ne!(offsets(1), offsets(2), "{pattern:?}");
            assert!(offsets(1).iter().all(|&offset| offset < 5000 * 4096), "{pattern:?}");
        }
    }

    #[test]
    fn a_scan_starts_again_at_the_first_block() {
        let mut scan = Workload::new(Pattern::Scan, 3, 0);
        assert_eq!((0..7).map(|_| scan.block()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0]);
    }
}

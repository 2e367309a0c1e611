//! Which candidate to take, by a stated rule, and what would change the answer.
//!
//! The rule: of the candidates that keep every constraint, the cheapest whose mean read latency is at most `within` percent
//! above that of the best. Of equal prices the faster one. The *runner-up* is what the same rule takes when the chosen one
//! is not to be had.
//!
//! What would change the answer is found by asking again with one price or latency halved, or doubled, and so on up to a
//! factor of eight: counts do not depend on them, so nothing is simulated again.

use serde::Serialize;

use super::candidate::{Candidate, World};
use super::surface::Cell;

/// What a candidate must keep.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Constraints {
    pub(crate) budget: Option<f64>,
    pub(crate) ram_bytes_max: Option<u64>,
    pub(crate) life_years_min: Option<f64>,
    pub(crate) read_p99_us_max: Option<f64>,
    pub(crate) within_percent: f64,
}

impl Constraints {
    fn keeps_budget(&self, candidate: &Candidate) -> bool {
        self.budget.is_none_or(|budget| candidate.price <= budget)
    }

    fn keeps_ram(&self, candidate: &Candidate) -> bool {
        self.ram_bytes_max.is_none_or(|bytes| candidate.ram_bytes_total <= bytes)
    }

    /// Without an SSD none wears out.
    fn keeps_life(&self, candidate: &Candidate) -> bool {
        candidate.cell.ssd_bytes == 0
            || self.life_years_min.is_none_or(|years| candidate.life_years.is_some_and(|life| life >= years))
    }

    fn keeps_p99(&self, candidate: &Candidate) -> bool {
        self.read_p99_us_max.is_none_or(|us| candidate.read_p99_us <= us)
    }

    pub(crate) fn keeps(&self, candidate: &Candidate) -> bool {
        self.keeps_budget(candidate)
            && self.keeps_ram(candidate)
            && self.keeps_life(candidate)
            && self.keeps_p99(candidate)
    }

    /// For each constraint that is set, how many of `candidates` keep it.
    fn kept_by(&self, candidates: &[Candidate]) -> Vec<(&'static str, usize)> {
        type Keeps = fn(&Constraints, &Candidate) -> bool;
        let all: [(&str, bool, Keeps); 4] = [
            ("--budget", self.budget.is_some(), Self::keeps_budget),
            ("--ram-max", self.ram_bytes_max.is_some(), Self::keeps_ram),
            ("--life-years", self.life_years_min.is_some(), Self::keeps_life),
            ("--p99", self.read_p99_us_max.is_some(), Self::keeps_p99),
        ];
        let count = |keeps: Keeps| candidates.iter().filter(|candidate| keeps(self, candidate)).count();
        all.into_iter().filter(|one| one.1).map(|(name, _, keeps)| (name, count(keeps))).collect()
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Choice {
    pub(crate) recommendation: Option<Candidate>,
    pub(crate) runner_up: Option<Candidate>,
    /// The fastest that keeps the constraints: what the others are measured by.
    pub(crate) fastest: Option<Candidate>,
    /// Why there is no recommendation.
    pub(crate) refusal: Option<String>,
    pub(crate) changes: Vec<Change>,
}

/// One thing that would change the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    pub(crate) what: String,
    /// By how much it would have to be more or less.
    pub(crate) factor: f64,
    pub(crate) ram_bytes: u64,
    pub(crate) ssd_bytes: u64,
}

/// The rule. `without` is not to be had.
fn take(
    candidates: &[Candidate],
    constraints: &Constraints,
    without: Option<&Candidate>,
) -> Option<Candidate> {
    let allowed = || candidates.iter().filter(|one| constraints.keeps(one) && Some(*one) != without);
    let best = allowed().map(|one| one.read_mean_us).min_by(f64::total_cmp)?;
    let limit = best * (1.0 + constraints.within_percent / 100.0);
    let order = |one: &&Candidate, other: &&Candidate| {
        one.price.total_cmp(&other.price).then(one.read_mean_us.total_cmp(&other.read_mean_us))
    };
    allowed().filter(|one| one.read_mean_us <= limit).min_by(order).copied()
}

/// The answer for `cells` in `world`.
pub(super) fn choose(cells: &[Cell], world: &World, constraints: &Constraints) -> Choice {
    let candidates: Vec<Candidate> = cells.iter().map(|cell| Candidate::of(cell, world)).collect();
    let recommendation = take(&candidates, constraints, None);
    let kept = || candidates.iter().filter(|one| constraints.keeps(one));
    let fastest = kept().min_by(|one, other| one.read_mean_us.total_cmp(&other.read_mean_us)).copied();
    Choice {
        runner_up: recommendation.and_then(|taken| take(&candidates, constraints, Some(&taken))),
        fastest,
        refusal: recommendation.is_none().then(|| refusal(&candidates, constraints)),
        changes: recommendation.map_or(Vec::new(), |taken| changes(cells, world, constraints, &taken)),
        recommendation,
    }
}

fn refusal(candidates: &[Candidate], constraints: &Constraints) -> String {
    let counts = constraints.kept_by(candidates);
    let all = candidates.len();
    let said: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} is kept by {count} of {all}")).collect();
    format!("no pair of sizes keeps every constraint: {}", said.join(", "))
}

/// Another world in which one thing is `factor` times what it is.
type Variation = fn(&mut World, f64);

fn changes(cells: &[Cell], world: &World, constraints: &Constraints, taken: &Candidate) -> Vec<Change> {
    let variations: [(&str, Variation); 4] = [
        ("the price of RAM", |world, factor| world.ram_price *= factor),
        ("the price of the SSD", |world, factor| world.ssd_price *= factor),
        ("the latency of the SSD", |world, factor| world.ssd_latency = world.ssd_latency.times(factor)),
        ("the latency of the disk", |world, factor| world.disk_latency = world.disk_latency.times(factor)),
    ];
    let same = |other: &Candidate| {
        (other.cell.ram_bytes, other.cell.ssd_bytes) == (taken.cell.ram_bytes, taken.cell.ssd_bytes)
    };
    let mut changes = Vec::new();
    for (what, vary) in variations {
        for direction in [1.0, -1.0] {
            let change = [1.0f64, 2.0, 3.0].iter().find_map(|step| {
                let factor = (direction * step).exp2();
                let mut other_world = *world;
                vary(&mut other_world, factor);
                let candidates: Vec<Candidate> =
                    cells.iter().map(|cell| Candidate::of(cell, &other_world)).collect();
                let other = take(&candidates, constraints, None).filter(|other| !same(other))?;
                let (ram_bytes, ssd_bytes) = (other.cell.ram_bytes, other.cell.ssd_bytes);
                Some(Change { what: what.into(), factor, ram_bytes, ssd_bytes })
            });
            changes.extend(change);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::super::candidate::tests::{cell, world};
    use super::*;

    /// More of either is faster; of RAM it costs 40 times as much.
    fn cells() -> Vec<Cell> {
        vec![
            cell(1, 0, 0.4, 0.0),
            cell(8, 0, 0.7, 0.0),
            cell(1, 64, 0.4, 0.5),
            cell(8, 64, 0.7, 0.2),
            cell(1, 256, 0.4, 0.55),
            cell(8, 256, 0.7, 0.25),
        ]
    }

    fn sizes(candidate: Option<Candidate>) -> Option<(u64, u64)> {
        candidate.map(|candidate| (candidate.cell.ram_bytes >> 30, candidate.cell.ssd_bytes >> 30))
    }

    #[test]
    fn the_cheapest_that_is_near_the_best_is_taken_and_the_next_is_the_runner_up() {
        let within = |within_percent| Constraints { within_percent, ..Constraints::default() };
        let choice = choose(&cells(), &world(), &within(15.0));
        assert_eq!(sizes(choice.recommendation), Some((1, 256)));
        assert_eq!(sizes(choice.runner_up), Some((8, 256)));
        assert_eq!(sizes(choice.fastest), Some((8, 256)));
        let choice = choose(&cells(), &world(), &within(120.0));
        assert_eq!(sizes(choice.recommendation), Some((1, 64)), "further from the best, cheaper");
    }

    #[test]
    fn every_constraint_rules_out_what_breaks_it() {
        let any = Constraints { within_percent: 10.0, ..Constraints::default() };
        let taken = |constraints| sizes(choose(&cells(), &world(), &constraints).recommendation);
        assert_eq!(taken(Constraints { budget: Some(12.0), ..any }), Some((1, 64)));
        assert_eq!(taken(Constraints { ram_bytes_max: Some((1 << 30) + (90 << 20)), ..any }), Some((1, 64)));
        assert_eq!(
            taken(Constraints { life_years_min: Some(1e6), within_percent: 1.0, ..any }),
            Some((8, 0))
        );
        assert_eq!(taken(Constraints { read_p99_us_max: Some(1.0), ..any }), None);
    }

    #[test]
    fn when_nothing_keeps_them_all_each_constraint_says_how_many_keep_it() {
        let constraints =
            Constraints { budget: Some(1.0), ram_bytes_max: Some(2 << 30), ..Constraints::default() };
        let choice = choose(&cells(), &world(), &constraints);
        assert_eq!(choice.runner_up, None);
        let refusal = choice.refusal.expect("a reason");
        assert!(refusal.contains("--budget is kept by 0 of 6, --ram-max is kept by 3 of 6"), "{refusal}");
    }

    #[test]
    fn what_would_change_the_answer_changes_it() {
        let constraints = Constraints { budget: Some(12.0), within_percent: 10.0, ..Constraints::default() };
        let choice = choose(&cells(), &world(), &constraints);
        let taken = sizes(choice.recommendation);
        assert!(!choice.changes.is_empty());
        for change in &choice.changes {
            assert_ne!(Some((change.ram_bytes >> 30, change.ssd_bytes >> 30)), taken, "{change:?}");
        }
        let is_cheaper = |change: &Change| change.what.contains("price of the SSD") && change.factor < 1.0;
        assert!(choice.changes.iter().any(is_cheaper), "256 GiB for the price of 64");
    }
}

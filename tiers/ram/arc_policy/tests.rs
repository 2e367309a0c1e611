//! The policy against two slow twins: one straight from the paper, one with removal, refusal and resize.

use super::*;

fn block(id: u64) -> BlockId {
    BlockId::from_u64(id)
}

fn ids(policy: &ArcPolicy, list: List) -> Vec<u64> {
    policy.list(list).map(BlockId::as_u64).collect()
}

/// The four lists, T1 T2 B1 B2, and p.
fn state(policy: &ArcPolicy) -> ([Vec<u64>; 4], f64) {
    let lists = [List::Recent, List::Frequent, List::RecentGhost, List::FrequentGhost];
    (lists.map(|list| ids(policy, list)), policy.recent_target())
}

fn run(capacity: u32, sequence: &[u64]) -> ArcPolicy {
    let mut policy = ArcPolicy::new(capacity);
    for &id in sequence {
        policy.request(block(id), |_| true).expect("all may leave");
        policy.assert_invariants();
    }
    policy
}

fn full_of(capacity: u32) -> ArcPolicy {
    run(capacity, &(0..u64::from(capacity)).collect::<Vec<_>>())
}

/// Another capacity, and everything that may leave until it is reached.
fn resize(
    policy: &mut ArcPolicy,
    capacity: u32,
    may_leave: impl FnMut(Slot) -> bool,
    gone: &mut Vec<Evicted>,
) {
    policy.set_capacity(capacity);
    policy.shrink_excess(usize::MAX, may_leave, gone);
}

fn slot(policy: &ArcPolicy, id: u64) -> Slot {
    policy.lookup(block(id)).expect("resident")
}

/// Figure 4 of the paper, line by line; the front of a list is its least recently used end.
#[derive(Clone)]
struct Figure4 {
    c: usize,
    p: f64,
    t1: Vec<u64>,
    t2: Vec<u64>,
    b1: Vec<u64>,
    b2: Vec<u64>,
}

fn take(list: &mut Vec<u64>, x: u64) -> bool {
    let before = list.len();
    list.retain(|&other| other != x);
    list.len() < before
}

impl Figure4 {
    fn new(c: usize) -> Self {
        Self { c, p: 0.0, t1: vec![], t2: vec![], b1: vec![], b2: vec![] }
    }

    fn request(&mut self, x: u64) {
        if self.t1.contains(&x) || self.t2.contains(&x) {
            // Case I.
            take(&mut self.t1, x);
            take(&mut self.t2, x);
            self.t2.push(x);
        } else if self.b1.contains(&x) {
            // Case II.
            let (b1, b2) = (self.b1.len() as f64, self.b2.len() as f64);
            let delta = if b1 >= b2 { 1.0 } else { b2 / b1 };
            self.p = (self.p + delta).min(self.c as f64);
            self.replace(x);
            take(&mut self.b1, x);
            self.t2.push(x);
        } else if self.b2.contains(&x) {
            // Case III.
            let (b1, b2) = (self.b1.len() as f64, self.b2.len() as f64);
            let delta = if b2 >= b1 { 1.0 } else { b1 / b2 };
            self.p = (self.p - delta).max(0.0);
            self.replace(x);
            take(&mut self.b2, x);
            self.t2.push(x);
        } else {
            // Case IV.
            let l1 = self.t1.len() + self.b1.len();
            let all = l1 + self.t2.len() + self.b2.len();
            if l1 == self.c {
                if self.t1.len() < self.c {
                    self.b1.remove(0);
                    self.replace(x);
                } else {
                    self.t1.remove(0);
                }
            } else if all >= self.c {
                if all == 2 * self.c {
                    self.b2.remove(0);
                }
                self.replace(x);
            }
            self.t1.push(x);
        }
    }

    fn replace(&mut self, x: u64) {
        let t1 = self.t1.len() as f64;
        if !self.t1.is_empty() && (t1 > self.p || (self.b2.contains(&x) && t1 == self.p)) {
            self.b1.push(self.t1.remove(0));
        } else {
            self.b2.push(self.t2.remove(0));
        }
    }
}

#[test]
fn the_tie_rule_takes_from_recent_when_it_is_just_as_long_as_wanted() {
    let policy = run(3, &[0, 0, 1, 2, 3, 1, 2, 0]);
    assert_eq!(state(&policy), ([vec![], vec![1, 2, 0], vec![3], vec![]], 1.0));
}

#[test]
fn the_target_moves_by_real_ratios_of_ghost_lists() {
    let policy = run(6, &[2, 5, 0, 3, 6, 14, 3, 16, 6, 5, 2, 0, 1, 22, 23, 24, 3, 1]);
    assert_eq!(state(&policy), ([vec![24], vec![5, 2, 0, 3, 1], vec![14, 16, 22, 23], vec![6]], 1.5));
}

#[test]
fn every_short_sequence_agrees_with_figure_4_in_every_list_and_the_target() {
    // New ids come in ascending order: any other sequence is one of these with its ids renamed.
    for (capacity, ids, length) in [(1, 4, 9), (2, 5, 10), (3, 6, 10), (3, 8, 9)] {
        descend(capacity, &mut Vec::new(), ids, length);
    }

    fn descend(capacity: u32, sequence: &mut Vec<u64>, ids: u64, length: usize) {
        if sequence.len() == length {
            let mut policy = ArcPolicy::new(capacity);
            let mut twin = Figure4::new(capacity as usize);
            for &id in &*sequence {
                policy.request(block(id), |_| true).expect("all may leave");
                twin.request(id);
                assert_agrees(&policy, &twin, &|| format!("{sequence:?} to {id}"));
            }
            policy.assert_invariants();
            return;
        }
        let known = sequence.iter().max().map_or(0, |max| max + 1);
        for id in 0..ids.min(known + 1) {
            sequence.push(id);
            descend(capacity, sequence, ids, length);
            sequence.pop();
        }
    }
}

fn assert_agrees(policy: &ArcPolicy, twin: &Figure4, context: &dyn Fn() -> String) {
    let listed = |list, ids: &Vec<u64>| policy.list(list).map(BlockId::as_u64).eq(ids.iter().copied());
    let agrees = listed(List::Recent, &twin.t1)
        && listed(List::Frequent, &twin.t2)
        && listed(List::RecentGhost, &twin.b1)
        && listed(List::FrequentGhost, &twin.b2)
        && policy.recent_target() == twin.p;
    let twin_state = ([&twin.t1, &twin.t2, &twin.b1, &twin.b2], twin.p);
    assert!(agrees, "{}: {:?}, Figure 4 {twin_state:?}", context(), state(policy));
}

#[test]
fn long_random_runs_agree_with_figure_4() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let capacity = random.usize(1..40);
        let mut policy = ArcPolicy::new(capacity as u32);
        let mut twin = Figure4::new(capacity);
        for step in 0..4000 {
            // Squared: some ids much more often than others; the phase moves which.
            let spread = random.f64() * random.f64();
            let id = (spread * 3.0 * capacity as f64) as u64 + step / 500 * 7;
            policy.request(block(id), |_| true).expect("all may leave");
            twin.request(id);
            assert_agrees(&policy, &twin, &|| format!("seed {seed}, capacity {capacity}, step {step}"));
        }
        policy.assert_invariants();
    }
}

/// The rules at the head of `arc_policy.rs`, removal, refusal and resize included. A side is its chain and, before
/// it, what was set aside.
struct Twin {
    capacity: usize,
    target: f64,
    chain: [Vec<u64>; 2],
    aside: [Vec<u64>; 2],
    ghosts: [Vec<u64>; 2],
}

impl Twin {
    fn side(&self, side: usize) -> usize {
        self.chain[side].len() + self.aside[side].len()
    }

    fn resident(&self) -> usize {
        self.side(0) + self.side(1)
    }

    fn take_resident(&mut self, x: u64) -> bool {
        self.chain.iter_mut().chain(&mut self.aside).any(|list| take(list, x))
    }

    fn victim(&mut self, side: usize, pinned: &[u64]) -> Option<(u64, usize)> {
        for side in [side, 1 - side] {
            while !self.chain[side].is_empty() {
                let x = self.chain[side].remove(0);
                if !pinned.contains(&x) {
                    self.chain[side].insert(0, x);
                    return Some((x, side));
                }
                self.aside[side].push(x);
            }
        }
        None
    }

    fn giver(&self, target: f64, ghost: Option<usize>) -> usize {
        let recent = self.side(0) as f64;
        let from_recent = recent > 0.0 && (recent > target || recent == target && ghost == Some(1));
        usize::from(!from_recent)
    }

    /// Hit, or the ghost list and the block evicted; nothing when no block may leave.
    fn request(&mut self, x: u64, pinned: &[u64]) -> Option<(bool, Option<usize>, Option<u64>)> {
        if self.take_resident(x) {
            self.chain[1].push(x);
            return Some((true, None, None));
        }
        let ghost = (0..2).find(|&side| self.ghosts[side].contains(&x));
        let [b1, b2] = [0, 1].map(|side| self.ghosts[side].len() as f64);
        let target = match ghost {
            None => self.target,
            Some(0) => (self.target + if b1 >= b2 { 1.0 } else { b2 / b1 }).min(self.capacity as f64),
            Some(_) => (self.target - if b2 >= b1 { 1.0 } else { b1 / b2 }).max(0.0),
        };
        let outright = ghost.is_none() && self.side(0) >= self.capacity;
        let mut victim = None;
        if self.resident() >= self.capacity {
            let side = if outright { 0 } else { self.giver(target, ghost) };
            victim = Some(self.victim(side, pinned)?);
        }
        self.target = target;
        if let Some(side) = ghost {
            take(&mut self.ghosts[side], x);
        } else if self.side(0) + self.ghosts[0].len() >= self.capacity {
            self.ghosts[0].drain(..self.ghosts[0].len().min(1));
        } else if self.resident() + self.ghosts[0].len() + self.ghosts[1].len() >= 2 * self.capacity {
            self.ghosts[1].drain(..self.ghosts[1].len().min(1));
        }
        if let Some((victim, side)) = victim {
            self.take_resident(victim);
            if !(outright && side == 0) {
                self.ghosts[side].push(victim);
            }
        }
        self.chain[if ghost.is_some() { 1 } else { 0 }].push(x);
        self.trim();
        Some((false, ghost, victim.map(|(victim, _)| victim)))
    }

    fn trim(&mut self) {
        while !self.ghosts[0].is_empty() && self.side(0) + self.ghosts[0].len() > self.capacity {
            self.ghosts[0].remove(0);
        }
        let ghosts = |twin: &Self| twin.ghosts[0].len() + twin.ghosts[1].len();
        while ghosts(self) > self.capacity || self.resident() + ghosts(self) > 2 * self.capacity {
            if ghosts(self) == 0 {
                break;
            }
            let side = usize::from(!self.ghosts[1].is_empty());
            self.ghosts[side].remove(0);
        }
    }

    fn shrink(&mut self, count_max: usize, pinned: &[u64]) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.resident() > self.capacity && gone.len() < count_max {
            let Some((victim, side)) = self.victim(self.giver(self.target, None), pinned) else { break };
            self.take_resident(victim);
            self.ghosts[side].push(victim);
            gone.push(victim);
            self.trim();
        }
        gone
    }

    fn release(&mut self, x: u64) {
        for side in 0..2 {
            if take(&mut self.aside[side], x) {
                self.chain[side].insert(0, x);
            }
        }
    }

    fn lists(&self) -> [Vec<u64>; 4] {
        let side = |side: usize| [&self.aside[side][..], &self.chain[side]].concat();
        [side(0), side(1), self.ghosts[0].clone(), self.ghosts[1].clone()]
    }
}

#[test]
fn removal_refusal_release_and_resize_in_any_order_agree_with_the_twin() {
    let seed = fastrand::u64(..);
    for round in 0..150 {
        random_life(seed.wrapping_add(round), 2500);
    }
}

/// One policy and its twin through `steps` random calls; the names in `slots` must follow the blocks.
fn random_life(seed: u64, steps: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let first = random.u32(1..12);
    let mut policy = ArcPolicy::new(first);
    let none = || [vec![], vec![]];
    let mut twin =
        Twin { capacity: first as usize, target: 0.0, chain: none(), aside: none(), ghosts: none() };
    let mut pinned: Vec<u64> = Vec::new();
    let mut slots: std::collections::BTreeMap<u64, Slot> = Default::default();
    let pin_share = random.f64();
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let x = (random.f64() * random.f64() * 40.0) as u64;
        let names: Vec<u64> = (0..policy.slot_limit() as u64).collect();
        let mut named = names;
        slots.iter().for_each(|(&id, slot)| named[slot.index()] = id);
        let may_leave = |slot: Slot| !pinned.contains(&named[slot.index()]);
        let mut gone = Vec::new();
        match random.u32(..100) {
            0..10 => {
                assert_eq!(policy.remove(block(x)), slots.remove(&x), "{context}");
                twin.take_resident(x);
                twin.ghosts.iter_mut().for_each(|list| _ = take(list, x));
            }
            10..25 if random.f64() < pin_share => pinned.push(x),
            25..45 => {
                pinned.retain(|&other| other != x);
                if let Some(&slot) = slots.get(&x) {
                    policy.release(slot);
                    twin.release(x);
                }
            }
            45 => {
                let capacity = random.u32(1..16);
                policy.set_capacity(capacity);
                twin.capacity = capacity as usize;
                twin.target = twin.target.min(f64::from(capacity));
                twin.trim();
            }
            46..49 => {
                let count_max = random.usize(..6);
                policy.shrink_excess(count_max, may_leave, &mut gone);
                let wanted = twin.shrink(count_max, &pinned);
                let left: Vec<u64> = gone.iter().map(|gone| gone.block.as_u64()).collect();
                assert_eq!(left, wanted, "{context}");
            }
            49 if policy.excess() == 0 => {
                let mut moves = Vec::new();
                policy.compact(|from, to| moves.push((from, to)));
                assert_eq!(moves.len(), slots.len(), "{context}");
                for slot in slots.values_mut() {
                    let moved = moves.iter().find(|(from, _)| from == slot);
                    *slot = moved.expect("every resident is told of").1;
                }
                assert_eq!(policy.slot_limit(), policy.capacity() as usize + 1, "{context}");
            }
            _ => {
                let answer = policy.request(block(x), may_leave);
                let wanted = twin.request(x, &pinned);
                match answer {
                    Err(NoVictim) => assert_eq!(wanted, None, "{context}"),
                    Ok(Access::Hit(slot)) => {
                        assert_eq!((wanted, slots[&x]), (Some((true, None, None)), slot), "{context}");
                    }
                    Ok(Access::Miss { slot, ghost, evicted }) => {
                        let ghost = ghost.map(|side| usize::from(side == Side::Frequent));
                        let left = evicted.map(|evicted| evicted.block.as_u64());
                        assert_eq!(wanted, Some((false, ghost, left)), "{context}");
                        assert!(evicted.is_none_or(|evicted| evicted.slot != slot), "{context}");
                        gone.extend(evicted);
                        slots.insert(x, slot);
                    }
                }
            }
        }
        for gone in gone {
            assert_eq!(slots.remove(&gone.block.as_u64()), Some(gone.slot), "{context}");
        }
        policy.assert_invariants();
        assert_eq!(state(&policy), (twin.lists(), twin.target), "{context}");
        for (&id, &slot) in &slots {
            assert_eq!(
                (policy.lookup(block(id)), policy.block_at(slot)),
                (Some(slot), block(id)),
                "{context}"
            );
            assert!(slot.index() < policy.slot_limit(), "{context}");
        }
    }
}

#[test]
fn a_block_used_twice_survives_a_scan_longer_than_the_cache() {
    let mut policy = run(8, &[100, 101, 100, 101]);
    for id in 0..100 {
        policy.request(block(id), |_| true).expect("all may leave");
    }
    assert_eq!(ids(&policy, List::Frequent), [100, 101]);
}

#[test]
fn a_cache_full_of_blocks_used_once_forgets_the_coldest_without_a_ghost() {
    let mut policy = full_of(4);
    let access = policy.request(block(9), |_| true).expect("all may leave");
    let Access::Miss { evicted: Some(evicted), ghost: None, .. } = access else { panic!("{access:?}") };
    assert_eq!((evicted.block, evicted.from), (block(0), Side::Recent));
    assert_eq!(state(&policy).0, [vec![1, 2, 3, 9], vec![], vec![], vec![]]);
}

#[test]
fn no_block_leaves_while_a_removal_left_room() {
    let mut policy = run(3, &[0, 0, 1, 2, 3]);
    assert_eq!(ids(&policy, List::RecentGhost), [1]);
    policy.remove(block(0));
    for id in [1, 4] {
        let expected = policy.len() < 3;
        let access = policy.request(block(id), |_| true).expect("all may leave");
        let Access::Miss { evicted, .. } = access else { panic!("{access:?}") };
        assert_eq!(evicted.is_none(), expected, "block {id}");
    }
    assert_eq!(policy.len(), 3);
}

#[test]
fn a_removed_block_is_absent_and_a_removed_ghost_is_a_plain_miss() {
    let mut policy = run(3, &[0, 0, 1, 2, 3]);
    assert_eq!(policy.remove(block(1)), None, "a ghost has no slot");
    let taken = slot(&policy, 2);
    assert_eq!(policy.remove(block(2)), Some(taken));
    assert_eq!((policy.lookup(block(2)), policy.remove(block(2))), (None, None));
    for id in [1, 2] {
        let access = policy.request(block(id), |_| true).expect("all may leave");
        assert!(matches!(access, Access::Miss { ghost: None, .. }), "block {id}: {access:?}");
    }
    assert_eq!(policy.recent_target(), 0.0);
}

#[test]
fn a_refused_block_is_asked_for_once_and_again_after_its_release() {
    let mut policy = full_of(4);
    let refused = slot(&policy, 0);
    let mut asked = Vec::new();
    for id in 10..13 {
        let access = policy.request(block(id), |slot| {
            asked.push(slot);
            slot != refused
        });
        assert!(access.is_ok());
    }
    assert_eq!(asked.iter().filter(|&&slot| slot == refused).count(), 1);
    assert!(policy.is_set_aside(refused));
    assert_eq!(policy.coldest(Side::Recent).next(), Some(refused), "the flusher sees it first");

    policy.release(refused);
    let access = policy.request(block(20), |_| true).expect("all may leave");
    assert!(matches!(access, Access::Miss { evicted: Some(Evicted { slot, .. }), .. } if slot == refused));
}

#[test]
fn a_hit_takes_a_block_that_was_set_aside_to_the_hot_end() {
    let mut policy = full_of(3);
    let refused = slot(&policy, 0);
    policy.request(block(5), |slot| slot != refused).expect("others may leave");
    assert_eq!(policy.request(block(0), |_| true), Ok(Access::Hit(refused)));
    assert_eq!((ids(&policy, List::Frequent), policy.is_set_aside(refused)), (vec![0], false));
    policy.release(refused);
    assert_eq!(ids(&policy, List::Frequent), [0], "a late release changes nothing");
}

#[test]
fn a_request_that_finds_no_victim_changes_nothing_and_succeeds_after_a_release() {
    let sequence = [2, 5, 0, 3, 6, 14, 3, 16, 6, 5, 2, 0, 1, 22, 23, 24, 3, 1];
    // Absent, in B1, in B2.
    for id in [99, 14, 6] {
        let mut policy = run(6, &sequence);
        let before = state(&policy);
        assert_eq!(policy.request(block(id), |_| false), Err(NoVictim));
        assert_eq!(state(&policy), before, "block {id}");
        assert_eq!(policy.request(block(id), |_| panic!("all were asked")), Err(NoVictim));
        assert_eq!(state(&policy), before, "block {id}");

        // From the hot end, so that the chains are as they were.
        for list in [List::Recent, List::Frequent] {
            for id in ids(&policy, list).into_iter().rev() {
                policy.release(slot(&policy, id));
            }
        }
        let access = policy.request(block(id), |_| true);
        let mut untouched = run(6, &sequence);
        assert!(untouched.request(block(id), |_| true).is_ok() && access.is_ok());
        assert_eq!(state(&policy), state(&untouched), "block {id}");
    }
}

#[test]
fn a_shrink_past_blocks_that_may_not_leave_is_finished_later() {
    let mut policy = full_of(8);
    let (mut evicted, limit) = (Vec::new(), policy.slot_limit());
    resize(&mut policy, 3, |slot| slot.index() % 2 == 0, &mut evicted);
    assert_eq!((evicted.len(), policy.len(), policy.excess()), (4, 4, 1));
    assert_eq!(policy.request(block(50), |_| false), Err(NoVictim));
    let held: Vec<Slot> = policy.coldest(Side::Recent).collect();
    policy.release(held[0]);
    let access = policy.request(block(50), |_| true).expect("one may leave");
    assert!(matches!(access, Access::Miss { evicted: Some(_), .. }), "one for one: {access:?}");
    assert_eq!(policy.excess(), 1);

    evicted.clear();
    policy.shrink_excess(usize::MAX, |_| true, &mut evicted);
    assert_eq!((evicted.len(), policy.len(), policy.slot_limit()), (1, 3, limit));
    policy.assert_invariants();
}

#[test]
fn a_cache_that_grows_but_not_to_its_excess_remembers_what_it_lets_go() {
    // A cache shrunk past blocks that could not leave and grown again by less had room for the ghosts of the smaller
    // size only, while blocks became ghosts for the larger.
    let mut policy = full_of(12);
    for id in 0..12 {
        policy.request(block(id), |_| true).expect("all may leave");
    }
    let mut evicted = Vec::new();
    resize(&mut policy, 2, |_| false, &mut evicted);
    assert_eq!((evicted.len(), policy.excess()), (0, 10));
    for id in 0..12 {
        policy.release(slot(&policy, id));
    }
    resize(&mut policy, 7, |_| true, &mut evicted);
    policy.assert_invariants();
    assert_eq!((evicted.len(), policy.excess(), ids(&policy, List::FrequentGhost).len()), (5, 0, 5));
}

#[test]
fn a_grown_cache_keeps_blocks_slots_ghosts_and_target() {
    let mut policy = run(6, &[2, 5, 0, 3, 6, 14, 3, 16, 6, 5, 2, 0, 1, 22, 23, 24, 3, 1]);
    let before = (state(&policy), slot(&policy, 24), slot(&policy, 3));
    resize(&mut policy, 60, |_| false, &mut Vec::new());
    assert_eq!((state(&policy), slot(&policy, 24), slot(&policy, 3)), before);
    for id in 100..154 {
        assert!(matches!(policy.request(block(id), |_| false), Ok(Access::Miss { evicted: None, .. })));
    }
    assert_eq!(policy.request(block(200), |_| false), Err(NoVictim));
}

#[test]
fn a_directory_takes_no_more_memory_than_it_says() {
    for capacity in [1, 2, 3, 57, 64, 1000, 65_536, 65_537] {
        let mut policy = ArcPolicy::new(capacity);
        let allowed = ArcPolicy::BYTES_PER_BLOCK * capacity as usize + ArcPolicy::FIXED_BYTES;
        for id in 0..5 * u64::from(capacity) {
            policy.request(block(id), |_| true).expect("all may leave");
            policy.request(block(id / 2), |_| true).expect("all may leave");
        }
        let used = policy.allocated_bytes() + size_of::<ArcPolicy>();
        assert!(used <= allowed, "{used} bytes for {capacity} blocks, {allowed} allowed");
    }
}

#[test]
fn a_directory_that_shrank_takes_what_a_new_one_of_its_size_takes() {
    let mut policy = full_of(5000);
    for id in 0..4000 {
        policy.request(block(id * 2), |_| true).expect("all may leave");
    }
    resize(&mut policy, 100, |_| true, &mut Vec::new());
    let before = state(&policy);
    policy.compact(|_, _| ());
    policy.assert_invariants();
    assert_eq!(state(&policy), before);
    assert_eq!(policy.allocated_bytes(), ArcPolicy::new(100).allocated_bytes());
}

const LISTS: [List; 4] = [List::Recent, List::Frequent, List::RecentGhost, List::FrequentGhost];

/// Ids in turns popular, in loops, and any, so that all lists fill and empty again.
fn mixed(random: &mut fastrand::Rng, step: u32, ids: u32) -> BlockId {
    let id = match step / 331 % 3 {
        0 => random.u32(..ids).min(random.u32(..ids)),
        1 => step % (ids / 2 + 1),
        _ => random.u32(..ids),
    };
    block(id.into())
}

#[test]
fn ids_in_an_array_or_hashed_give_the_same_answers() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for capacity in [1, 2, 7, 40] {
        let ids = capacity * 4;
        let (mut hashed, mut dense) = (ArcPolicy::new(capacity), ArcPolicy::dense(capacity, ids));
        for step in 0..5000 {
            let id = mixed(&mut random, step, ids);
            let context = || format!("seed {seed}, capacity {capacity}, step {step}");
            if random.u8(..20) == 0 {
                assert_eq!(hashed.remove(id).is_some(), dense.remove(id).is_some(), "{}", context());
            } else {
                let answers = (hashed.reference(id), dense.reference(id));
                assert_eq!(without_slots(answers.0), without_slots(answers.1), "{}", context());
            }
            for list in LISTS {
                assert!(hashed.list(list).eq(dense.list(list)), "{}, {list:?}", context());
            }
            assert_eq!(hashed.recent_target(), dense.recent_target(), "{}", context());
            dense.assert_invariants();
        }
    }
}

/// What blocks are called where each is named by the number of its last reference.
#[derive(Default)]
struct Numbers {
    last: std::collections::HashMap<BlockId, u64>,
    blocks: Vec<BlockId>,
}

impl Numbers {
    /// What `id` is called; a first reference has the number that comes.
    fn name(&self, id: BlockId) -> BlockId {
        block(self.last.get(&id).copied().unwrap_or(self.blocks.len() as u64))
    }

    fn refer(&mut self, id: BlockId) {
        self.last.insert(id, self.blocks.len() as u64);
        self.blocks.push(id);
    }

    fn block(&self, name: BlockId) -> BlockId {
        self.blocks[name.as_u64() as usize]
    }
}

#[test]
fn blocks_by_time_or_hashed_give_the_same_answers() {
    const STEPS: u32 = 4000;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for capacity in [1, 2, 3, 7, 40, 130] {
        let ids = capacity * random.u32(2..6);
        // Of every other one nothing is removed: then ghosts exist only when the cache is full.
        let removals = if random.bool() { 20 } else { u32::MAX };
        let (mut hashed, mut timed) = (ArcPolicy::new(capacity), ArcPolicy::over_time(capacity, STEPS));
        let mut numbers = Numbers::default();
        for step in 0..STEPS {
            let id = mixed(&mut random, step, ids);
            let context = || format!("seed {seed}, capacity {capacity}, step {step}");
            let name = numbers.name(id);
            assert_eq!(hashed.lookup(id).is_some(), timed.lookup(name).is_some(), "{}", context());
            if random.u32(..removals) == 0 {
                assert_eq!(hashed.remove(id).is_some(), timed.remove(name).is_some(), "{}", context());
            } else {
                let (wanted, found) = (hashed.reference(id), timed.reference(name));
                let found_blocks = without_slots(found)
                    .map(|(ghost, evicted)| (ghost, evicted.map(|(name, from)| (numbers.block(name), from))));
                assert_eq!(found_blocks, without_slots(wanted), "{}", context());
                numbers.refer(id);
                let (Access::Hit(slot) | Access::Miss { slot, .. }) = found;
                assert_eq!(numbers.block(timed.block_at(slot)), id, "{}", context());
            }
            for list in LISTS {
                let found = timed.list(list).map(|name| numbers.block(name));
                assert!(hashed.list(list).eq(found), "{}, {list:?}", context());
            }
            assert_eq!(hashed.recent_target(), timed.recent_target(), "{}", context());
            timed.assert_invariants();
        }
    }
}

#[test]
fn lists_by_time_take_a_quarter_of_a_byte_for_each_reference() {
    let policy = ArcPolicy::over_time(10, 1 << 20);
    assert!(policy.allocated_bytes() <= (1 << 18) + 64, "{} bytes", policy.allocated_bytes());
}

/// Of a miss: in which ghosts the block was, and what left from which side.
type Missed = (Option<Side>, Option<(BlockId, Side)>);

/// What an answer says besides the slots; none for a hit.
fn without_slots(access: Access) -> Option<Missed> {
    match access {
        Access::Hit(_) => None,
        Access::Miss { ghost, evicted, .. } => Some((ghost, evicted.map(|one| (one.block, one.from)))),
    }
}

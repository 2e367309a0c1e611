//! Chains stay short, and lists agree with plain vectors.

use super::*;

#[test]
fn ids_in_regular_patterns_make_short_chains() {
    let count = 1 << 15;
    let per_volume = |index: u64| ((index % 64) << 40) | (index / 64);
    let far_volumes = |index: u64| index << 40 | 5;
    for shift in [0, 1, 4, 8, 12, 20, 24] {
        check(count, &format!("stride 2^{shift}"), |index| index << shift);
        check(count, &format!("3 * 2^{shift}"), |index| (index * 3) << shift);
    }
    check(count, "64 volumes", per_volume);
    check(count, "a volume each", far_volumes);

    fn check(count: u32, name: &str, id: impl Fn(u64) -> u64) {
        let mut lists = IdLists::new(count, count);
        for index in 0..u64::from(count) {
            lists.insert(BlockId::from_u64(id(index)), Place::Recent);
            lists.insert(BlockId::from_u64(id(index + u64::from(count))), Place::RecentGhost);
        }
        let (longest, steps) = lists.chain_lengths();
        let mean = steps as f64 / f64::from(2 * count);
        // Random ids give 1.5, and about 8.
        assert!(mean < 1.6 && longest <= 12, "{name}: mean {mean}, longest {longest}");
    }
}

#[test]
fn random_moves_agree_with_plain_vectors() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lists = IdLists::new(12, 8);
    let mut twin: [Vec<u64>; 6] = Default::default();
    for step in 0..20_000 {
        let id = random.u64(..40);
        let block = BlockId::from_u64(id);
        let to = random.usize(..6);
        let place = Place::ALL[to];
        let in_kind = |twin: &[Vec<u64>; 6]| -> usize {
            let range = if place.is_resident() { 0..4 } else { 4..6 };
            twin[range].iter().map(Vec::len).sum()
        };
        let has_room = in_kind(&twin) < if place.is_resident() { 12 } else { 8 };
        let from = twin.iter().position(|list| list.contains(&id));
        assert_eq!(lists.find(block).map(|entry| lists.place(entry)), from.map(|from| Place::ALL[from]));
        match (lists.find(block), random.u8(..4)) {
            (None, _) if has_room => {
                lists.insert(block, place);
                twin[to].push(id);
            }
            (Some(entry), 0) => {
                lists.delete(entry, lists.place(entry));
                twin.iter_mut().for_each(|list| list.retain(|&other| other != id));
            }
            (Some(entry), kind) if lists.place(entry).is_resident() == place.is_resident() => {
                twin.iter_mut().for_each(|list| list.retain(|&other| other != id));
                if kind == 1 {
                    lists.move_cold(entry, place);
                    twin[to].insert(0, id);
                } else {
                    lists.move_hot(entry, place);
                    twin[to].push(id);
                }
            }
            (Some(entry), _) if has_room => {
                lists.convert(entry, lists.place(entry), place);
                twin.iter_mut().for_each(|list| list.retain(|&other| other != id));
                twin[to].push(id);
            }
            _ => {}
        }
        if step % 1000 == 999 {
            lists.rebuild(12, 8);
        }
        lists.assert_invariants();
        for (place, ids) in Place::ALL.into_iter().zip(&twin) {
            let listed: Vec<u64> = lists.iter(place).map(|entry| lists.id(entry).as_u64()).collect();
            assert_eq!(&listed, ids, "seed {seed}, step {step}, {place:?}");
        }
    }
}

//! The table beside a hash map, in tables that are full and with ids made to collide.

use std::collections::HashMap;

use super::*;

#[test]
fn a_full_table_agrees_with_a_hash_map_through_random_changes() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let slot_count = 1000;
    let mut index = Table::new(slot_count);
    let mut twin: HashMap<u64, (u32, u32)> = HashMap::new();
    for step in 0..200_000 {
        // Ids come in runs, and 0 and the largest are among them.
        let id = if random.bool() { random.u64(..1200) } else { u64::MAX - random.u64(..300) };
        let block = BlockId::from_u64(id);
        let (place, crc) = (random.u32(..PLACE_LIMIT), random.u32(..));
        let known = twin.get(&id).copied();
        assert_eq!(index.get(block), known.map(|(place, crc)| Found { place, crc }), "seed {seed}");
        if known.is_some() && random.u32(..4) == 0 {
            assert!(index.remove(block).is_some());
            twin.remove(&id);
        } else if let Some((place, _)) = known {
            assert!(index.confirm(block, place, crc) && !index.confirm(block, place + 1, crc));
            twin.insert(id, (place, crc));
        } else if index.len() < slot_count {
            index.insert(block, place, crc);
            twin.insert(id, (place, crc));
        }
        if step % 20_000 == 19_999 {
            index.remove_where(|block, _| block.as_u64() % 3 == 0);
            twin.retain(|id, _| id % 3 != 0);
            for (&id, &(place, crc)) in &twin {
                assert_eq!(index.get(BlockId::from_u64(id)), Some(Found { place, crc }), "seed {seed}");
            }
        }
        assert_eq!(index.len(), twin.len(), "seed {seed}");
    }
}

#[test]
fn removing_by_a_condition_shows_every_block_once_and_leaves_the_others() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut index = Table::new(40);
        let ids: Vec<u64> = (0..40).map(|n| n << 40 | random.u64(..1 << 40)).collect();
        for (place, &id) in ids.iter().enumerate() {
            index.insert(BlockId::from_u64(id), place as u32, 0);
        }
        let mut seen = Vec::new();
        index.remove_where(|block, found| {
            seen.push(block.as_u64());
            found.place % 2 == 0
        });
        seen.sort_unstable();
        assert_eq!(seen, ids, "seed {seed}");
        for (place, &id) in ids.iter().enumerate() {
            assert_eq!(index.get(BlockId::from_u64(id)).is_some(), place % 2 == 1, "seed {seed}");
        }
    }
}

/// Ids that all have the same two buckets in a table for `slot_count` blocks.
fn rivals(slot_count: usize, count: usize) -> Vec<u64> {
    let index = Table::new(slot_count);
    let buckets = |id: u64| (index.first_of(mix(id)), index.second_of(mix(id)));
    (0..).filter(|&id| buckets(id) == buckets(0)).take(count).collect()
}

#[test]
fn ids_made_to_share_their_buckets_are_all_found_and_leave_as_any_others() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let ids = rivals(60, 40);
    let (mut index, mut twin) = (Table::new(60), HashMap::new());
    let (mut outside, mut brought_in) = (0, 0);
    for step in 0..20_000 {
        let (id, place) = (ids[random.usize(..ids.len())], random.u32(..PLACE_LIMIT));
        let (block, before) = (BlockId::from_u64(id), index.outside.len());
        match random.u32(..8) {
            0 => {
                let is_out = |block: BlockId| block.as_u64().is_multiple_of(5);
                index.remove_where(|block, _| is_out(block));
                twin.retain(|&id, _| !is_out(BlockId::from_u64(id)));
            }
            1..4 => {
                assert_eq!(index.remove(block).map(|found| found.place), twin.remove(&id), "seed {seed}");
                brought_in += before.saturating_sub(index.outside.len());
            }
            _ => {
                let new = New { block, place, crc: 1 };
                let known = index.insert_new(&new).map(|found| found.place);
                assert_eq!(known, twin.get(&id).copied(), "seed {seed}");
                let place = *twin.entry(id).or_insert(place);
                assert!(index.confirm(block, place, 2) && !index.confirm(block, place ^ 1, 3));
            }
        }
        outside = outside.max(index.outside.len());
        assert_eq!(index.len(), twin.len(), "seed {seed} step {step}");
        for &id in &ids {
            let place = index.get(BlockId::from_u64(id)).map(|found| found.place);
            assert_eq!(place, twin.get(&id).copied(), "seed {seed} step {step}");
        }
    }
    assert!(outside > 8 && brought_in > 0, "seed {seed}: {outside} {brought_in}");
    let (mut cursor, mut taken) = (0, HashMap::new());
    while index.take_some(&mut cursor, 3, |block, found| {
        assert_eq!(taken.insert(block.as_u64(), found.place), None, "seed {seed}");
    }) {}
    assert_eq!(taken, twin, "seed {seed}");
}

#[test]
fn a_full_table_keeps_nothing_outside_after_any_number_of_changes() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for slot_count in [8, 100, 1000, 30_000] {
        let mut index = Table::new(slot_count);
        let mut ids: Vec<u64> = (0..slot_count as u64).map(|n| n << 20 | random.u64(..1 << 20)).collect();
        ids.iter().for_each(|&id| index.insert(BlockId::from_u64(id), 1, 2));
        for _ in 0..3 * slot_count {
            let at = random.usize(..slot_count);
            assert!(index.remove(BlockId::from_u64(ids[at])).is_some(), "seed {seed}");
            ids[at] = random.u64(1 << 50..);
            index.insert(BlockId::from_u64(ids[at]), 1, 2);
        }
        assert!(index.outside.is_empty(), "seed {seed}: {} of {slot_count}", index.outside.len());
    }
}

#[test]
fn blocks_added_together_are_as_if_added_one_by_one() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let shared = rivals(900, 12);
    for _ in 0..50 {
        let (mut together, mut twin) = (Table::new(900), HashMap::new());
        while twin.len() < 850 {
            let count = random.usize(1..200).min(900 - twin.len());
            let id = |random: &mut fastrand::Rng| match random.u32(..20) {
                0 => shared[random.usize(..shared.len())],
                _ => random.u64(..3000),
            };
            let news: Vec<New> = (0..count)
                .map(|_| (id(&mut random), random.u32(..1000)))
                .map(|(id, place)| New { block: BlockId::from_u64(id), place, crc: !place })
                .collect();
            let mut refused = Vec::new();
            together.insert_all(&news, |number, found| refused.push((number, found)));
            for (number, new) in news.iter().enumerate() {
                if refused.iter().all(|&(other, _)| other != number) {
                    let before = twin.insert(new.block, Found { place: new.place, crc: new.crc });
                    assert_eq!(before, None, "seed {seed}: {} is added twice", new.block);
                }
            }
            for (number, found) in refused {
                assert_eq!(twin.get(&news[number].block), Some(&found), "seed {seed}");
            }
        }
        assert_eq!(together.len(), twin.len(), "seed {seed}");
        for (&block, found) in &twin {
            assert_eq!(together.get(block), Some(*found), "seed {seed}");
        }
    }
}

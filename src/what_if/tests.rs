//! Samples against all blocks, and against a simulation of them.

use terrace_tiers::block::VolumeId;
use terrace_tiers::testing::MemoryDevice;

use super::*;

const REFERENCES: usize = 200_000;

fn config() -> Config {
    let mut config = Config::new(RamSize::Blocks(1024));
    config.shards = Some(1);
    config.ssd = Some(SsdConfig::new("", SsdSize::Blocks(4096)));
    config
}

/// Blocks of which a few are wanted often; every fifth reference writes, and half of those go past the tiers.
fn references(count: usize, seed: u64) -> impl Iterator<Item = Reference> {
    let mut random = fastrand::Rng::with_seed(seed);
    let volume = VolumeId::new(1);
    (0..count).map(move |_| {
        let number = (20_000.0 * random.f64().powi(3)) as u64;
        let kind = match random.u8(..10) {
            0 => ReferenceKind::Write,
            1 => ReferenceKind::Pass,
            _ => ReferenceKind::Read,
        };
        Reference { block: BlockId::new(volume, number), kind }
    })
}

fn outlooks_at(rate: f64, seed: u64) -> Vec<Outlook> {
    let mut miniatures = Miniatures::at_rate(&config(), rate).expect("the sizes work");
    let limit = (rate * 2f64.powi(64)) as u64;
    for reference in references(REFERENCES, seed) {
        miniatures.total += 1;
        if crate::sample::place(reference.block, 0) < limit {
            miniatures.reference(reference);
            miniatures.turn_window();
        }
    }
    assert!(miniatures.has_seen_enough());
    miniatures.outlooks()
}

#[test]
fn it_says_something_when_it_has_seen_what_it_wants() {
    let mut miniatures = Miniatures::at_rate(&config(), 1.0).expect("the sizes work");
    let window = miniatures.window;
    assert_eq!(miniatures.progress(), OutlookProgress { seen: 0, wanted: 2 * window });
    for reference in references(3 * window as usize, 7) {
        miniatures.reference(reference);
        // A batch at a time, which no window ends with.
        if miniatures.seen.is_multiple_of(1000) {
            miniatures.turn_window();
            let OutlookProgress { seen, wanted } = miniatures.progress();
            assert_eq!((seen, seen >= wanted), (miniatures.seen, miniatures.has_seen_enough()));
            assert!(wanted < 2 * window + 2000, "{wanted} of two windows of {window}");
        }
    }
    assert!(miniatures.has_seen_enough());
}

#[test]
fn with_all_blocks_sampled_the_size_that_is_there_is_simulated_exactly() {
    let seed = fastrand::u64(..);
    let mut whole = Simulation::new(&config()).expect("the sizes work");
    let window = Miniatures::at_rate(&config(), 1.0).expect("the sizes work").window as usize;
    let mut then = whole.stats();
    for (index, Reference { block, kind }) in references(REFERENCES, seed).enumerate() {
        // The ratios are of what came since the window before the last one began.
        if index == (REFERENCES / window - 1) * window {
            then = whole.stats();
        }
        match kind {
            ReferenceKind::Read => whole.read(block, 1, 0),
            ReferenceKind::Write => whole.write(block, 1, 0),
            ReferenceKind::Pass => {
                whole.write(block, 1, 0);
                whole.discard(block, 1);
            }
        }
    }
    let stats = whole.stats();
    let outlooks = outlooks_at(1.0, seed);
    let here = outlooks.iter().find(|outlook| outlook.is_present).expect("the own size is among them");
    assert!(here.size.ram_blocks == 1024 && here.size.ssd_blocks.abs_diff(4096) < 200, "{here:?}");
    assert_eq!(here.references, stats.references - then.references, "seed {seed}");
    let share = |now: u64, then: u64| (now - then) as f64 / here.references as f64;
    assert_eq!(here.ram_hit_ratio, share(stats.ram_hits, then.ram_hits), "seed {seed}");
    assert_eq!(here.ssd_hit_ratio, share(stats.read_ssd_hits, then.read_ssd_hits), "seed {seed}");
    let disk_of_reads = (stats.disk_reads - then.disk_reads) as f64 / (stats.reads - then.reads) as f64;
    assert_eq!(here.read_disk_ratio, disk_of_reads, "seed {seed}");
    assert_eq!((here.ram_hit_ratio_error, here.disk_ratio_error), (0.0, 0.0), "nothing is estimated");
}

#[test]
fn an_eighth_of_the_blocks_gives_nearly_what_all_of_them_give_at_every_size() {
    let seed = fastrand::u64(..);
    let (all, part) = (outlooks_at(1.0, seed), outlooks_at(1.0 / 8.0, seed));
    for (all, part) in all.iter().zip(&part) {
        assert_eq!(all.size, part.size);
        let error = (all.disk_ratio - part.disk_ratio).abs();
        assert!(error < 0.05, "seed {seed}: {all:?}, sampled {part:?}");
        let sum = part.ram_hit_ratio + part.ssd_hit_ratio + part.disk_ratio;
        assert!((sum - 1.0).abs() < 1e-9);
    }
}

#[test]
fn what_all_blocks_give_lies_within_the_stated_errors_as_often_as_they_say() {
    let (mut inside, mut all_of_them) = ([0; 3], 0);
    // Of one seed all sizes may err alike: it takes many.
    for seed in 0..6 {
        let (all, part) = (outlooks_at(1.0, seed), outlooks_at(1.0 / 8.0, seed));
        for (all, part) in all.iter().zip(&part) {
            let pairs = [
                (all.ram_hit_ratio, part.ram_hit_ratio, part.ram_hit_ratio_error),
                (all.disk_ratio, part.disk_ratio, part.disk_ratio_error),
                (all.read_disk_ratio, part.read_disk_ratio, part.read_disk_ratio_error),
            ];
            for (inside, (truth, said, error)) in inside.iter_mut().zip(pairs) {
                assert!(error < 0.2, "seed {seed}: {part:?}");
                *inside += u32::from((truth - said).abs() <= error);
            }
            all_of_them += 1;
        }
    }
    for inside in inside {
        assert!(f64::from(inside) >= 0.9 * f64::from(all_of_them), "{inside} of {all_of_them}");
    }
}

#[test]
fn more_ram_and_more_ssd_leave_less_for_the_disk_and_no_ssd_leaves_most() {
    let outlooks = outlooks_at(1.0, 7);
    let disk = |ram: usize, ssd: usize| outlooks[ram * SSD_TIMES.len() + ssd].disk_ratio;
    for index in 1..RAM_TIMES.len() {
        assert!(disk(index, 0) < disk(index - 1, 0));
    }
    for index in 1..SSD_TIMES.len() {
        assert!(disk(1, index) < disk(1, index - 1));
    }
    assert!(
        outlooks
            .iter()
            .filter(|outlook| outlook.size.ssd_blocks == 0)
            .all(|outlook| outlook.ssd_writes == 0.0)
    );
}

#[test]
fn halving_ends_where_hits_would_be_chance() {
    let mut miniatures = Miniatures::new(&config()).expect("the sizes work");
    (0..10).for_each(|_| miniatures.halve());
    // From 512 blocks to 128.
    assert_eq!(miniatures.rate, 0.25);
}

#[test]
fn a_batch_that_takes_too_long_is_cut_and_stands_for_as_many_as_its_rate_says() {
    let mut miniatures = Miniatures::at_rate(&config(), 0.25).expect("the sizes work");
    let sampled = || references(100, 1);
    let after = |count| {
        let mut asked = 0;
        move || {
            asked += 1;
            asked == count
        }
    };
    assert_eq!(miniatures.take(sampled(), Some(1000), after(10)), Batch::Cut);
    assert_eq!((miniatures.seen, miniatures.total), (10, 40));
    // What has an end when the time has is whole.
    assert_eq!(miniatures.take(sampled(), Some(1000), after(100)), Batch::Whole);
    assert_eq!((miniatures.seen, miniatures.total), (110, 1040));
    // Of references of which some found the queue full nobody knows how many they were.
    assert_eq!(miniatures.take(sampled(), None, || false), Batch::Whole);
    assert_eq!((miniatures.seen, miniatures.total), (210, 1440));
}

#[test]
fn a_cache_says_of_each_reference_whether_the_tiers_keep_it() {
    let cache = Cache::open(&Config { ssd: None, ..config() }).expect("the cache opens");
    let tap = cache.tap();
    tap.with(|tap, _| tap.set_rate(1.0)).expect("the cache is open");
    let mut kinds = Vec::new();
    for mode in [WriteMode::Through, WriteMode::Back, WriteMode::Around] {
        let disk = Arc::new(MemoryDevice::new(1 << 20));
        let volume = cache.attach(&format!("{mode:?}"), disk, mode).expect("the volume attaches");
        volume.write(0, &[1; 16 << 10]).expect("a memory device never fails");
        volume.read_ref(0, 1).expect("a memory device never fails");
        kinds.extend(std::iter::from_fn(|| tap.with(|tap, _| tap.next()).flatten()).map(|taken| taken.kind));
    }
    use ReferenceKind::{Pass, Read, Write};
    assert_eq!(kinds, [Write, Read, Write, Read, Pass, Read]);
}

//! The RAM that blocks in the log of the SSD take is what is charged for them, and has the bound that is told.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

use terrace_bench::scenes::NoDisk;
use terrace_tiers::block::{BlockId, BlockSize, mask};
use terrace_tiers::ssd::{Geometry, JournalPlan, NewCopy, SectorMask, Ssd, SsdPolicy};

static ALLOCATED_BYTES: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counting.
struct Counting;

fn count(bytes: i64) {
    ALLOCATED_BYTES.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: bounds   - every call goes to `System` with the caller's own arguments, and its answer comes back unchanged.
//         no alias - nothing here touches the memory; the counter is a static that was not allocated.
//         lifetime - as `System` has it: what it gave out is given back to it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are those of `System`; see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Which block is written next, and which of its sectors.
type Writes<'a> = &'a mut dyn FnMut(u64) -> (u64, SectorMask);

/// Puts copies into the log of an empty file until it takes no more: how many, and the most that one of them took on the
/// way, in bytes as they were allocated.
fn fill(geometry: Geometry, next: Writes<'_>) -> (u64, f64) {
    let device = NoDisk { len_bytes: geometry.file_bytes(), content_bytes: 0 };
    let mut ssd = Ssd::create(&device, geometry, SsdPolicy::default()).expect("nothing fails");
    let volume = ssd.attach_volume("disk", None).expect("it is new");
    while let JournalPlan::Write(write) = ssd.plan_journal() {
        ssd.finish_journal(&write, true);
    }
    let before = ALLOCATED_BYTES.load(Ordering::Relaxed);
    let (mut count, mut most) = (0, 0_f64);
    let mut version = ssd.first_version();
    loop {
        let copies: Vec<NewCopy> = (count..count + 64)
            .map(|number| {
                let (number, mask) = next(number);
                version = version.next();
                NewCopy { block: BlockId::new(volume, number), version, mask, epoch: 0 }
            })
            .collect();
        let Some(plan) = ssd.plan_record(&copies, 0) else { break };
        drop(copies);
        count += plan.block_count() as u64;
        ssd.finish_record(plan);
        let sync = ssd.plan_log_sync().expect("a record is written");
        ssd.finish_log_sync(sync);
        let bytes = (ALLOCATED_BYTES.load(Ordering::Relaxed) - before) as f64;
        // What a few take is what the first chunk takes.
        if count >= geometry.log_copies_max() / 8 {
            most = most.max(bytes / count as f64);
        }
    }
    assert!(ssd.stats().index_bytes <= geometry.index_bytes_max(), "{:?}", ssd.stats());
    (count, most)
}

/// A block number of 36 bits that looks drawn: another one for each of as many numbers, as a block that was drawn twice
/// would have a copy that counts no more.
fn scattered(number: u64, odd: u64) -> u64 {
    const MASK: u64 = (1 << 36) - 1;
    let product = number.wrapping_mul(odd) & MASK;
    (product ^ (product >> 18)).wrapping_mul(odd) & MASK
}

/// The copies are the only thing in this process that takes memory meanwhile: one test, one case after the other.
#[test]
#[expect(clippy::print_stdout, reason = "it says what a copy takes")]
fn a_copy_in_the_log_takes_no_more_ram_than_is_charged_and_there_are_as_many_as_may_be() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for (block_bytes, gib) in [(4 << 10, 4), (16 << 10, 8), (1 << 20, 32)] {
        let block_size = BlockSize::new(block_bytes).expect("a power of two");
        let geometry = Geometry::for_bytes(block_size, gib << 30).expect("it fits");
        let mut random = fastrand::Rng::with_seed(seed);
        let words = block_size.mask_words();
        let first_sector = || -> SectorMask { (0..words).map(|word| u64::from(word == 0)).collect() };
        let both_ends = || -> SectorMask {
            let mut sectors = vec![0; words];
            mask::set(&mut sectors, 0..1);
            mask::set(&mut sectors, block_size.sectors() - 1..block_size.sectors());
            sectors.into()
        };
        let mut neighbours = |number| (number, first_sector());
        let mut apart = |number| (number * 1000, first_sector());
        let odd = random.u64(..) | 1;
        let mut anywhere = |number| (scattered(number, odd), first_sector());
        let mut parts = |number| (number * 1000, both_ends());
        let cases: [(&str, Writes<'_>); 4] = [
            ("neighbours", &mut neighbours),
            ("blocks apart from each other", &mut apart),
            ("blocks anywhere", &mut anywhere),
            ("two sectors of each", &mut parts),
        ];
        for (what, next) in cases {
            let (count, most) = fill(geometry, next);
            let charged = geometry.log_copy_bytes_max();
            println!("{block_bytes}, {what}: {count} copies, {most:.1} of {charged} bytes each at the most");
            assert_eq!(count, geometry.log_copies_max(), "{what}");
            assert!(most <= charged as f64, "{what}");
        }
    }
}

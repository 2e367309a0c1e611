//! A hit in RAM that is handed out by reference allocates nothing, while it is recorded too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use terrace::{Cache, Config, RamSize, RecordConfig, WriteMode};
use terrace_bench::scenes::{BLOCK_BYTES, NoDisk};
use terrace_bench::workload::{Pattern, Workload};

thread_local! {
    /// Calls of this thread that gave out memory; the cache's own threads may do what they like.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

fn count() {
    // A thread that ends has no counter any more, and is none that is looked at.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: bounds   - every call goes to `System` with the caller's own arguments, and its answer comes back unchanged.
//         no alias - nothing here touches the memory; the counter is the thread's own and was not allocated.
//         lifetime - as `System` has it: what it gave out is given back to it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of `System`; see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`; `memory` came from `System`.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`; `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_hit_in_ram_by_reference_allocates_nothing() {
    let blocks = 256;
    let cache =
        Cache::open(&Config::new(RamSize::Blocks(2 * u64::from(blocks)))).expect("a cache in RAM opens");
    let disk = NoDisk { len_bytes: u64::from(blocks) * BLOCK_BYTES as u64, content_bytes: 0 };
    let volume = cache.attach("disk", Arc::new(disk), WriteMode::Through).expect("a volume attaches");
    let read = |offset| volume.read_ref(offset, BLOCK_BYTES).expect("no disk never fails");

    let all = Workload::new(Pattern::Scan, blocks, 0).offsets(blocks as usize, BLOCK_BYTES);
    let misses = allocations_of(|| all.iter().for_each(|&offset| drop(read(offset))));
    assert!(misses > 0, "a miss allocates, so the counter counts");

    let offsets = Workload::new(Pattern::Zipf { exponent: 0.9 }, blocks, 1).offsets(10_000, BLOCK_BYTES);
    let hits = allocations_of(|| {
        for &offset in &offsets {
            assert_eq!(read(offset).answer().ram_blocks, 1, "the block at {offset} is resident");
        }
    });
    assert_eq!(hits, 0, "allocations in 10,000 hits");

    // More than a shard has room for itself: chunks are exchanged, and with so little memory requests are lost too.
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for buffer_bytes in [16 << 20, 0] {
        let config = RecordConfig { buffer_bytes, ..RecordConfig::new(folder.path().join("record")) };
        cache.start_recording(&config).expect("the folder can be written");
        let recorded =
            allocations_of(|| offsets.iter().cycle().take(100_000).for_each(|&offset| drop(read(offset))));
        assert_eq!(recorded, 0, "allocations in 100,000 recorded hits");
        let status = cache.stop_recording().expect("it runs");
        assert_eq!(status.requests + status.requests_lost, 100_000);
    }
}

//! How much memory something takes, on the thread that it runs on: for tests that give code bytes of any kind.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread holds, may be negative where another thread's were freed; their highest; and the largest
    /// single one.
    static HELD: Cell<i64> = const { Cell::new(0) };
    static HELD_MAX: Cell<i64> = const { Cell::new(0) };
    static LARGEST: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, measuring.
struct Measuring;

fn took(bytes: usize) {
    // A thread that ends has no counters any more, and is none that is looked at.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes as i64);
        HELD_MAX.set(HELD_MAX.get().max(held.get()));
        LARGEST.set(LARGEST.get().max(bytes as u64));
    });
}

fn gave_back(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get() - bytes as i64));
}

// SAFETY: bounds   - every call goes to `System` with the caller's own arguments, and its answer comes back unchanged.
//         no alias - nothing here touches the memory; the counters are the thread's own and were not allocated.
//         lifetime - as `System` has it: what it gave out is given back to it.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are those of `System`; see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        took(bytes);
        gave_back(layout.size());
        // SAFETY: as in `alloc`; `memory` came from `System`.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        gave_back(layout.size());
        // SAFETY: as in `alloc`; `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// The most that was held at a time, and the largest single allocation.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Memory {
    pub(crate) held_max: u64,
    pub(crate) largest: u64,
}

/// What `work` answers, and the memory that it took.
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> (T, Memory) {
    let before = HELD.get();
    HELD_MAX.set(before);
    LARGEST.set(0);
    let answer = work();
    let held_max = u64::try_from(HELD_MAX.get() - before).expect("it rises only");
    (answer, Memory { held_max, largest: LARGEST.get() })
}

//! The bytes of L1: frames of one size in one anonymous mapping, lent out by reference count.
//!
//! ```text
//!  mapping      | frame 0 | frame 1 | frame 2 | ...      page aligned, huge pages advised
//!  references   |    0    |    3    |    1    | ...      0: free; 1 and more: that many handles; or retired
//!  next         |  none   |    -    |    -    | ...      free frames, linked from `top`
//!  top          | tag, frame |                           the frame freed last, whose bytes are warm
//! ```
//!
//! **A frame is immutable while anyone else holds it.** [`FrameMut`] is the only handle of its frame; [`FrameRef`]s
//! share theirs and read, and one that finds itself alone may write ([`FrameRef::get_mut`]). That makes reads
//! without a copy sound, keeps bytes still under I/O, and lets a block leave the directory while it is read.
//!
//! There may be more or fewer of them while they are used ([`Frames::set_count`]): the frames below `count` are lent, one
//! that is free at or above it is *retired*, and its memory goes back to the system. So what is left after a shrink are whole
//! huge pages at the front, and not holes that the system fills again. A handle of a frame above stays as good as any.
//!
//! Invariants:
//! 1. `references[f]` is the number of handles of frame f, or says that it is retired. Only a frame with none is in a
//!    free list, in one, once. A frame above the highest count so far (`lent`) was never anywhere.
//! 2. `holders` counts `Frames` handles and frames that are out. The last to go drops the pool, mapping and
//!    all, so a frame may outlive every `Frames`. Cloning and dropping a shared `FrameRef` touches `references` alone.
//! 3. No wake-up is lost: `want` stores `wanted` and then the caller's `alloc` loads the free lists; a free changes one
//!    and then loads `wanted`. All are `SeqCst`, so in their one order either the alloc sees the free frame, or the
//!    free sees the wish. Should a third thread have taken that frame meanwhile, its free sees the wish.
//! 4. No frame is lost to a growth: who retires a frame marks it and then loads `count`, who grows stores `count` and
//!    then looks for the mark. At least one of the two sees the other, and the one who takes the mark off frees the frame.
//!
//! No thread, no waiting, no clock; the one function called back is the caller's.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crate::block::PAGE_BYTES;
use crate::error::{Error, Result};

mod free_list;
mod handles;
mod memory;
#[cfg(test)]
mod tests;

use free_list::{FreeList, NO_FRAME};
pub use handles::{FrameMut, FrameRef};
use memory::{Counts, Memory};

/// One `Frames` handle in [`Pool::holders`]; a frame that is out counts 1.
const HANDLE: u64 = 1 << 32;

/// The most frames: half of what `holders` can count, since a frame may be lent anew before its free is counted.
const COUNT_MAX: u32 = 1 << 31;

/// In place of the references of a frame that is out of use.
const RETIRED: u32 = u32::MAX;

/// What all handles point to.
struct Pool {
    memory: Memory,
    frame_bytes: usize,
    /// One for each frame that there can ever be, as `next`.
    references: Counts,
    next: Counts,
    /// Frames below this are lent.
    count: AtomicU32,
    hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
    changing: Changing,
    resizing: Resizing,
}

/// What [`Frames::set_count`] knows.
struct Resizing {
    is_running: AtomicBool,
    /// The highest count so far.
    lent: AtomicU32,
    /// Frames below that which are retired.
    retired: AtomicU32,
    /// Who retires a frame gives its memory back.
    gives_back_at_once: AtomicBool,
}

/// What every `alloc` and free writes, away from what every read of a frame's bytes loads.
#[repr(align(128))]
struct Changing {
    free: FreeList,
    /// Takes the free frames that stay while those that go are looked for.
    sifted: FreeList,
    /// `Frames` handles in the upper half, frames that are out in the lower.
    holders: AtomicU64,
    wanted: AtomicBool,
}

/// All frames of one cache; a cheap handle (clone it freely).
pub struct Frames {
    pool: NonNull<Pool>,
}

// SAFETY: bounds   - not about memory ranges.
//         no alias - a shared `Pool` is changed by atomics and `OnceLock` alone; bytes belong to frame handles.
//         lifetime - `holders` counts this handle whatever thread it is on.
unsafe impl Send for Frames {}
// SAFETY: as for Send.
unsafe impl Sync for Frames {}

impl Frames {
    /// RAM this costs a frame beyond its bytes: a count and a link.
    pub const OVERHEAD_BYTES: usize = 2 * size_of::<AtomicU32>();

    /// Maps `count` frames of `frame_bytes` bytes each. The system gives the memory as frames are first written.
    ///
    /// # Errors
    /// [`Error::Size`] when `frame_bytes` is no multiple of a page, when there are no frames or more than 2^31, or when
    /// the system refuses the mapping.
    pub fn new(frame_bytes: usize, count: u32) -> Result<Self> {
        Self::growable(frame_bytes, count, count)
    }

    /// As [`Self::new`], with address space for `count_max` frames, so that there can be so many later.
    pub fn growable(frame_bytes: usize, count: u32, count_max: u32) -> Result<Self> {
        let size = |what, bytes: usize, remedy: String| Error::Size { what, bytes: bytes as u64, remedy };
        if frame_bytes == 0 || !frame_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(size("a frame", frame_bytes, format!("use a multiple of {PAGE_BYTES}")));
        }
        let count_max = count_max.max(count);
        let bytes = frame_bytes.saturating_mul(count as usize);
        if !(1..=COUNT_MAX).contains(&count) || count_max > COUNT_MAX {
            return Err(size("RAM for frames", bytes, format!("make it 1 to {COUNT_MAX} frames")));
        }
        let bytes_max = frame_bytes.saturating_mul(count_max as usize);
        let refused =
            |error: std::io::Error| size("RAM for frames", bytes_max, format!("ask for less ({error})"));
        let pool = Box::new(Pool {
            memory: Memory::map(bytes, bytes_max).map_err(refused)?,
            frame_bytes,
            references: Counts::map(count_max as usize).map_err(refused)?,
            next: Counts::map(count_max as usize).map_err(refused)?,
            count: AtomicU32::new(count),
            hook: OnceLock::new(),
            changing: Changing {
                free: FreeList::new(0),
                sifted: FreeList::new(NO_FRAME),
                holders: AtomicU64::new(HANDLE),
                wanted: AtomicBool::new(false),
            },
            resizing: Resizing {
                is_running: AtomicBool::new(false),
                lent: AtomicU32::new(count),
                retired: AtomicU32::new(0),
                gives_back_at_once: AtomicBool::new(false),
            },
        });
        for (frame, after) in (1..count).chain([NO_FRAME]).enumerate() {
            pool.next[frame].store(after, Relaxed);
        }
        Ok(Self { pool: NonNull::from(Box::leak(pool)) })
    }

    /// A frame that nobody else holds, its bytes whatever was in it last; none when all are held.
    pub fn alloc(&self) -> Option<FrameMut> {
        let pool = self.pool();
        loop {
            let frame = pool.pop()?;
            if frame < pool.count.load(SeqCst) {
                pool.references[frame as usize].store(1, Relaxed);
                pool.changing.holders.fetch_add(1, Relaxed);
                return Some(FrameMut::of(self.pool, frame));
            }
            pool.retire(frame);
        }
    }

    /// Lends `count` frames from now on. Of more, the new ones are free at once. Of fewer, those that are free go at once,
    /// the others when they are let go: see [`Self::surplus_count`] and [`FrameRef::is_surplus`]. O(frames).
    ///
    /// # Errors
    /// [`Error::Size`] when there are to be none, or more than there is address space for; nothing changed then.
    ///
    /// # Panics
    /// When another call runs.
    pub fn set_count(&self, count: u32) -> Result<()> {
        let (pool, count_max) = (self.pool(), self.count_max());
        if !(1..=count_max).contains(&count) {
            let bytes = u64::from(count) * pool.frame_bytes as u64;
            let bytes_max = u64::from(count_max) * pool.frame_bytes as u64;
            let remedy = format!("there is address space for {bytes_max} bytes; open it with more");
            return Err(Error::Size { what: "RAM for frames", bytes, remedy });
        }
        assert!(!pool.resizing.is_running.swap(true, SeqCst), "one change of the count at a time");
        pool.resizing.gives_back_at_once.store(false, SeqCst);
        let before = pool.count.swap(count, SeqCst);
        let lent = pool.resizing.lent.fetch_max(count, SeqCst);
        // The lowest are used first.
        for frame in (before..count).rev() {
            if frame >= lent {
                pool.changing.free.push(&pool.next, frame);
            } else {
                pool.take_back_into_use(frame);
            }
        }
        if count < before {
            pool.sift(count, lent);
        }
        pool.tell();
        pool.resizing.is_running.store(false, SeqCst);
        Ok(())
    }

    /// Gives the system the memory of all frames that have gone since [`Self::set_count`], many at once: so it takes whole
    /// huge pages, and gives such again. That of those which go later is given back as they go.
    ///
    /// # Panics
    /// When the count is being changed.
    pub fn give_memory_back(&self) {
        let pool = self.pool();
        assert!(!pool.resizing.is_running.swap(true, SeqCst), "not while the count changes");
        pool.resizing.gives_back_at_once.store(true, SeqCst);
        let (mut frame, lent) = (self.count(), pool.resizing.lent.load(SeqCst));
        let is_retired = |frame: &u32| pool.references[*frame as usize].load(SeqCst) == RETIRED;
        while frame < lent {
            let end = (frame..lent).find(|frame| !is_retired(frame)).unwrap_or(lent);
            // SAFETY: bounds   - `lent` frames are within the mapping.
            //         no alias - they are retired, and at or above the count: `alloc` gives such to nobody, and the
            //                    count stays while `is_running` is set.
            //         lifetime - the pool owns the memory.
            unsafe { pool.give_back(frame..end) };
            frame = (end..lent).find(is_retired).unwrap_or(lent);
        }
        pool.resizing.is_running.store(false, SeqCst);
    }

    /// Frames that go when they are let go, and are not let go yet; only a hint once other threads run.
    pub fn surplus_count(&self) -> u32 {
        let Resizing { lent, retired, .. } = &self.pool().resizing;
        lent.load(SeqCst).saturating_sub(self.count()).saturating_sub(retired.load(SeqCst))
    }

    pub fn frame_bytes(&self) -> usize {
        self.pool().frame_bytes
    }

    pub fn count(&self) -> u32 {
        self.pool().count.load(SeqCst)
    }

    /// How many there can be.
    pub fn count_max(&self) -> u32 {
        self.pool().references.len() as u32
    }

    /// Free right now; only a hint once other threads run.
    pub fn free_count(&self) -> u32 {
        let out = self.pool().changing.holders.load(Relaxed) as u32;
        self.count().saturating_sub(out)
    }

    /// Sets the one function that is called, from whatever thread frees it, at the first frame freed after each
    /// [`Self::want`].
    ///
    /// It is called inside the drop of a frame, with whatever the dropping thread has locked: let it note the event
    /// or wake someone, and no more. It must not own a `Frames`, which would keep the pool forever.
    ///
    /// # Panics
    /// When it was set before.
    pub fn on_free(&self, hook: Box<dyn Fn() + Send + Sync>) {
        assert!(self.pool().hook.set(hook).is_ok(), "the function called at a free is set once");
    }

    /// Asks for one call of the hook. Ask, then try `alloc` once more, then wait: no wake-up is lost.
    ///
    /// Wishes that no free came between are one wish, and the call may come before the wait begins: the hook must
    /// reach everyone who asked, and what it leaves must last until they look.
    pub fn want(&self) {
        self.pool().changing.wanted.store(true, SeqCst);
    }

    fn pool(&self) -> &Pool {
        // SAFETY: bounds   - the pointer is to a whole `Pool`, made by `Box::leak` in `new`.
        //         no alias - nobody makes a `&mut Pool`; the box is taken back only by the last holder.
        //         lifetime - `holders` counts this handle until its drop.
        unsafe { self.pool.as_ref() }
    }
}

impl Clone for Frames {
    fn clone(&self) -> Self {
        let before = self.pool().changing.holders.fetch_add(HANDLE, Relaxed);
        if before >= u64::MAX / 2 {
            // Leaked handles by the billion: an overflow would drop the pool under those left.
            std::process::abort();
        }
        Self { pool: self.pool }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let_go(self.pool, HANDLE);
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({} of {} bytes, {} free)", self.count(), self.frame_bytes(), self.free_count())
    }
}

/// Takes `share` out of `holders` and drops the pool with the last. The caller's pointer is dead afterwards.
fn let_go(pool: NonNull<Pool>, share: u64) {
    // SAFETY: bounds   - the pointer is to a whole `Pool`, made by `Box::leak` in `Frames::new`.
    //         no alias - nobody makes a `&mut Pool`.
    //         lifetime - `share` is still counted; the reference is not used after the subtraction.
    let before = unsafe { pool.as_ref() }.changing.holders.fetch_sub(share, Release);
    if before == share {
        // SAFETY: bounds   - as above.
        //         no alias - nobody else is counted, and only who is counted has the pointer; the acquire puts
        //                    everything others did with the pool before this.
        //         lifetime - `holders` reaches 0 once, since handles come from handles, so the box is dropped once.
        unsafe {
            pool.as_ref().changing.holders.load(Acquire);
            drop(Box::from_raw(pool.as_ptr()));
        }
    }
}

impl Pool {
    /// The frame freed last, out of the free lists.
    fn pop(&self) -> Option<u32> {
        let Changing { free, sifted, .. } = &self.changing;
        // Once more: what was in the second list may have gone back to the first.
        [free, sifted, free].into_iter().find_map(|list| list.pop(&self.next))
    }

    /// Takes back a frame without holders, and tells who asked.
    fn free(&self, frame: u32) {
        if frame < self.count.load(SeqCst) {
            self.changing.free.push(&self.next, frame);
            self.tell();
        } else {
            self.retire(frame);
        }
    }

    fn tell(&self) {
        if self.changing.wanted.load(SeqCst)
            && let Some(hook) = self.hook.get()
            && self.changing.wanted.swap(false, SeqCst)
        {
            hook();
        }
    }

    /// Takes a frame out of use that nobody holds and that is in no list.
    fn retire(&self, frame: u32) {
        if self.resizing.gives_back_at_once.load(SeqCst) {
            // SAFETY: bounds   - frames come from the free lists, whose numbers the mapping was made for.
            //         no alias - it has no handle and is in no list: nobody can have a reference before the mark below.
            //         lifetime - the pool owns the memory.
            unsafe { self.give_back(frame..frame + 1) };
        }
        self.resizing.retired.fetch_add(1, SeqCst);
        self.references[frame as usize].store(RETIRED, SeqCst);
        if frame < self.count.load(SeqCst) {
            self.take_back_into_use(frame);
        }
        self.tell();
    }

    /// # Safety
    /// They are within the mapping, and nobody has a reference to their bytes.
    unsafe fn give_back(&self, frames: Range<u32>) {
        let offset = frames.start as usize * self.frame_bytes;
        // SAFETY: the caller's promises are the same.
        unsafe { self.memory.give_back(offset, frames.len() * self.frame_bytes) };
    }

    /// Frees a frame that is retired, unless another does.
    fn take_back_into_use(&self, frame: u32) {
        let references = &self.references[frame as usize];
        if references.compare_exchange(RETIRED, 0, SeqCst, SeqCst).is_ok() {
            self.resizing.retired.fetch_sub(1, SeqCst);
            self.changing.free.push(&self.next, frame);
        }
    }

    /// Retires the free frames from `count` on, of `lent`. The others change lists one by one and back, so that
    /// whoever wants a frame meanwhile finds all but one.
    fn sift(&self, count: u32, lent: u32) {
        let Changing { free, sifted, .. } = &self.changing;
        for _ in 0..lent {
            let Some(frame) = free.pop(&self.next) else { break };
            if frame < count {
                sifted.push(&self.next, frame);
                self.tell();
            } else {
                self.retire(frame);
            }
        }
        while let Some(frame) = sifted.pop(&self.next) {
            free.push(&self.next, frame);
            self.tell();
        }
    }
}

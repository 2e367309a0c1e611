//! The bytes of L1: frames of one size in one anonymous mapping, lent out by reference count.
//!
//! ```text
//!  mapping      | frame 0 | frame 1 | frame 2 | ...      page aligned, huge pages advised
//!  references   |    0    |    3    |    1    | ...      0: free; 1 and more: that many handles
//!  next         |  none   |    -    |    -    | ...      free frames, linked from `top`
//!  top          | tag, frame |                           the frame freed last, whose bytes are warm
//! ```
//!
//! **A frame is immutable while anyone else holds it.** [`FrameMut`] is the only handle of its frame; [`FrameRef`]s
//! share theirs and read, and one that finds itself alone may write ([`FrameRef::get_mut`]). That makes reads
//! without a copy sound, keeps bytes still under I/O, and lets a block leave the directory while it is read.
//!
//! Invariants:
//! 1. `references[f]` is the number of handles of frame f. Only a frame with none is in the free list, once.
//! 2. `holders` counts `Frames` handles and frames that are out. The last to go drops the pool, mapping and
//!    all, so a frame may outlive every `Frames`. Cloning and dropping a shared `FrameRef` touches `references` alone.
//! 3. A pop of the free list reads `next` of a frame that another thread may be popping, using and pushing again.
//!    The tag counts every change of `top`, so that such a pop fails (until 2^32 changes happen within one pop).
//! 4. No wake-up is lost: `want` stores `wanted` and then the caller's `alloc` loads `top`; a free changes `top` and
//!    then loads `wanted`. All four are `SeqCst`, so in their one order either the alloc sees the free frame, or the
//!    free sees the wish. Should a third thread have taken that frame meanwhile, its free sees the wish.
//!
//! No thread, no waiting, no clock; the one function called back is the caller's.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use memmap2::MmapMut;

use crate::block::PAGE_BYTES;
use crate::error::{Error, Result};

/// No frame: the end of the free list.
const NO_FRAME: u32 = u32::MAX;

/// One `Frames` handle in [`Pool::holders`]; a frame that is out counts 1.
const HANDLE: u64 = 1 << 32;

/// The most frames: half of what `holders` can count, since a frame may be lent anew before its free is counted.
const COUNT_MAX: u32 = 1 << 31;

/// Above this many references something leaks them; far below an overflow, which would free a frame in use.
const REFERENCES_MAX: u32 = u32::MAX / 2;

/// What all handles point to.
struct Pool {
    /// Where the mapping begins; the bytes are reached through this alone, never through `_mapping`.
    base: NonNull<u8>,
    frame_bytes: usize,
    references: Box<[AtomicU32]>,
    next: Box<[AtomicU32]>,
    hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
    changing: Changing,
    _mapping: MmapMut,
}

/// What every `alloc` and free writes, away from what every read of a frame's bytes loads.
#[repr(align(128))]
struct Changing {
    /// Tag in the upper half, the first free frame in the lower.
    top: AtomicU64,
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
        let size = |what, bytes: usize, remedy: String| Error::Size { what, bytes: bytes as u64, remedy };
        if frame_bytes == 0 || !frame_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(size("a frame", frame_bytes, format!("use a multiple of {PAGE_BYTES}")));
        }
        let bytes = frame_bytes.saturating_mul(count as usize);
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(size("RAM for frames", bytes, format!("make it 1 to {COUNT_MAX} frames")));
        }
        let mut mapping = MmapMut::map_anon(bytes)
            .map_err(|error| size("RAM for frames", bytes, format!("ask for less ({error})")))?;
        // A system without huge pages refuses; frames then work as well, with more misses in the page tables.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = mapping.advise(memmap2::Advice::HugePage);

        let base = NonNull::new(mapping.as_mut_ptr()).expect("a mapping is never at address 0");
        let next = (1..count).chain([NO_FRAME]).map(AtomicU32::new).collect();
        let pool = Box::new(Pool {
            base,
            frame_bytes,
            references: (0..count).map(|_| AtomicU32::new(0)).collect(),
            next,
            hook: OnceLock::new(),
            changing: Changing {
                top: AtomicU64::new(0),
                holders: AtomicU64::new(HANDLE),
                wanted: AtomicBool::new(false),
            },
            _mapping: mapping,
        });
        Ok(Self { pool: NonNull::from(Box::leak(pool)) })
    }

    /// A frame that nobody else holds, its bytes whatever was in it last; none when all are held.
    pub fn alloc(&self) -> Option<FrameMut> {
        let pool = self.pool();
        let frame = pool.pop()?;
        pool.references[frame as usize].store(1, Relaxed);
        pool.changing.holders.fetch_add(1, Relaxed);
        Some(FrameMut { frame: Frame { pool: self.pool, frame } })
    }

    pub fn frame_bytes(&self) -> usize {
        self.pool().frame_bytes
    }

    pub fn count(&self) -> u32 {
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
    /// The frame freed last, out of the free list.
    fn pop(&self) -> Option<u32> {
        let mut top = self.changing.top.load(SeqCst);
        loop {
            let frame = top as u32;
            if frame == NO_FRAME {
                return None;
            }
            let next = self.next[frame as usize].load(Relaxed);
            // Acquire, within SeqCst: what the last holder did with the frame comes before what the next one does.
            match self.changing.top.compare_exchange_weak(top, retagged(top, next), SeqCst, SeqCst) {
                Ok(_) => return Some(frame),
                Err(now) => top = now,
            }
        }
    }

    fn push(&self, frame: u32) {
        let mut top = self.changing.top.load(Relaxed);
        loop {
            self.next[frame as usize].store(top as u32, Relaxed);
            match self.changing.top.compare_exchange_weak(top, retagged(top, frame), SeqCst, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Takes back a frame without holders, and tells who asked.
    fn free(&self, frame: u32) {
        self.push(frame);
        if self.changing.wanted.load(SeqCst)
            && let Some(hook) = self.hook.get()
            && self.changing.wanted.swap(false, SeqCst)
        {
            hook();
        }
    }
}

/// `top` after one more change, with `frame` first.
fn retagged(top: u64, frame: u32) -> u64 {
    ((top >> 32).wrapping_add(1) << 32) | u64::from(frame)
}

/// What both kinds of handle are; counted in `references` by who has it.
struct Frame {
    pool: NonNull<Pool>,
    frame: u32,
}

impl Frame {
    #[inline]
    fn pool(&self) -> &Pool {
        // SAFETY: bounds   - the pointer is to a whole `Pool`, made by `Box::leak` in `Frames::new`.
        //         no alias - nobody makes a `&mut Pool`.
        //         lifetime - the frame is out, so `holders` counts it, until its last handle is dropped.
        unsafe { self.pool.as_ref() }
    }

    #[inline]
    fn references(&self) -> &AtomicU32 {
        &self.pool().references[self.frame as usize]
    }

    /// The frame's bytes, `frame_bytes` of them.
    #[inline]
    fn bytes(&self) -> NonNull<u8> {
        let pool = self.pool();
        // SAFETY: bounds   - frames come from the free list, which holds numbers below the count that the mapping was
        //                    made for; so the offset ends within the mapping, whose size fits isize.
        //         no alias - no reference is made here.
        //         lifetime - the pool owns the mapping, and `pool` is alive.
        unsafe { pool.base.add(self.frame as usize * pool.frame_bytes) }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        // SAFETY: bounds   - see `bytes`; the system zeroed the mapping, so every byte is initialized.
        //         no alias - a `&mut [u8]` of this frame exists only while its handle, the only one, is borrowed
        //                    mutably; other frames do not overlap.
        //         lifetime - the slice borrows this handle, which keeps the frame out and the mapping alive.
        unsafe { std::slice::from_raw_parts(self.bytes().as_ptr(), self.pool().frame_bytes) }
    }

    /// The bytes to write; only for a handle that is the only one of its frame.
    ///
    /// # Safety
    /// This must be the only handle of its frame, for as long as the answer lives.
    #[inline]
    unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: bounds   - as in `as_slice`.
        //         no alias - the caller has the only handle, it is borrowed mutably, and slices live no longer
        //                    than the borrow of a handle.
        //         lifetime - as in `as_slice`.
        unsafe { std::slice::from_raw_parts_mut(self.bytes().as_ptr(), self.pool().frame_bytes) }
    }

    /// Ends the frame's life outside; its last handle is being dropped and does not touch it again.
    fn give_back(&self) {
        self.pool().free(self.frame);
        // Not earlier: until here the frame's own share keeps the pool alive.
        let_go(self.pool, 1);
    }
}

/// The only holder of a frame: may write it.
pub struct FrameMut {
    frame: Frame,
}

// SAFETY: bounds   - not about memory ranges.
//         no alias - the only handle of its frame; the rest of the pool is atomics.
//         lifetime - `references` and `holders` count it whatever thread it is on.
unsafe impl Send for FrameMut {}
// SAFETY: as for Send; a shared `FrameMut` only reads.
unsafe impl Sync for FrameMut {}

impl FrameMut {
    /// From here on the bytes do not change while anyone else holds them.
    pub fn freeze(self) -> FrameRef {
        let Frame { pool, frame } = self.frame;
        std::mem::forget(self);
        FrameRef { frame: Frame { pool, frame } }
    }
}

impl Deref for FrameMut {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.frame.as_slice()
    }
}

impl DerefMut for FrameMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: bounds   - see `as_mut_slice`.
        //         no alias - `alloc` took the frame out of the free list for this handle, which cannot be cloned.
        //         lifetime - see `as_mut_slice`.
        unsafe { self.frame.as_mut_slice() }
    }
}

impl Drop for FrameMut {
    fn drop(&mut self) {
        self.frame.references().store(0, Relaxed);
        self.frame.give_back();
    }
}

impl fmt::Debug for FrameMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameMut({})", self.frame.frame)
    }
}

/// One of the holders of a frame.
pub struct FrameRef {
    frame: Frame,
}

// SAFETY: bounds   - not about memory ranges.
//         no alias - handles that share a frame only read it; see `get_mut` for the only one.
//         lifetime - `references` and `holders` count it whatever thread it is on.
unsafe impl Send for FrameRef {}
// SAFETY: as for Send; what a `&FrameRef` can do is read and clone.
unsafe impl Sync for FrameRef {}

impl FrameRef {
    /// The bytes to change in place, when nobody else holds them.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        // Acquire: pairs with the release of every handle dropped, so that what its holder read is behind us.
        if self.frame.references().load(Acquire) != 1 {
            return None;
        }
        // SAFETY: bounds   - see `as_mut_slice`.
        //         no alias - one reference, and this is it: another could only come from cloning this handle, which
        //                    is borrowed mutably.
        //         lifetime - see `as_mut_slice`.
        Some(unsafe { self.frame.as_mut_slice() })
    }

    /// Whether both are the same frame.
    #[inline]
    pub fn same_frame(&self, other: &FrameRef) -> bool {
        self.frame.pool == other.frame.pool && self.frame.frame == other.frame.frame
    }
}

impl Clone for FrameRef {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: this handle keeps the frame, and whoever gets the clone gets it by something that synchronizes.
        if self.frame.references().fetch_add(1, Relaxed) > REFERENCES_MAX {
            std::process::abort();
        }
        Self { frame: Frame { pool: self.frame.pool, frame: self.frame.frame } }
    }
}

impl Deref for FrameRef {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.frame.as_slice()
    }
}

impl Drop for FrameRef {
    #[inline]
    fn drop(&mut self) {
        // Release: what was read here comes before the next holder's writes.
        if self.frame.references().fetch_sub(1, Release) == 1 {
            // Acquire: the last one hands on what all others released.
            self.frame.references().load(Acquire);
            self.frame.give_back();
        }
    }
}

impl fmt::Debug for FrameRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameRef({})", self.frame.frame)
    }
}

#[cfg(test)]
mod tests;

//! What a frame that is out is held by: [`FrameMut`], the only handle of its frame, and [`FrameRef`], which is shared.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::{Pool, let_go};

/// Above this many references something leaks them; far below an overflow, which would free a frame in use.
const REFERENCES_MAX: u32 = u32::MAX / 2;

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
        // SAFETY: bounds   - frames come from the free lists, which hold numbers below the count that the mapping was
        //                    made for; so the offset ends within the mapping, whose size fits isize.
        //         no alias - no reference is made here.
        //         lifetime - the pool owns the memory, and `pool` is alive.
        unsafe { pool.memory.base().add(self.frame as usize * pool.frame_bytes) }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        // SAFETY: bounds   - see `bytes`; the system zeroed the mapping, and zeroes what was given
        //                    back, so every byte is initialized.
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
    /// The handle of a frame that was taken out of the free lists and is counted as out.
    #[inline]
    pub(super) fn of(pool: NonNull<Pool>, frame: u32) -> Self {
        Self { frame: Frame { pool, frame } }
    }

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
        //         no alias - `alloc` took the frame out of its free list for this handle, which cannot be cloned.
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

    /// Whether the frame goes when it is let go: there are to be fewer ([`set_count`](super::Frames::set_count)).
    pub fn is_surplus(&self) -> bool {
        self.frame.frame >= self.frame.pool().count.load(SeqCst)
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

//! Where the bytes of frames lie, and what is counted of each: mappings that take memory only where they are written.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use memmap2::{MmapMut, MmapOptions};

/// Bytes of frames, and address space for more of them.
pub(super) struct Memory {
    base: NonNull<u8>,
    /// Of the system, in bytes: memory is given back by whole ones.
    page_bytes: usize,
    mapping: MmapMut,
}

impl Memory {
    /// Maps `bytes`, which the system must be ready to give, within `bytes_max` that it need not be able to give now.
    pub(super) fn map(bytes: usize, bytes_max: usize) -> std::io::Result<Self> {
        let mut mapping = MmapMut::map_anon(bytes)?;
        if bytes_max > bytes {
            mapping = map_unreserved(bytes_max)?;
        }
        // A system without huge pages refuses; frames then work as well, with more misses in the page tables.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        let base = NonNull::new(mapping.as_mut_ptr()).expect("a mapping is never at address 0");
        // SAFETY: bounds   - not about memory ranges; the name is one that every Unix has.
        //         no alias - nothing is passed.
        //         lifetime - the answer is a number.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
        Ok(Self { base, page_bytes: page_bytes.unwrap_or(usize::MAX), mapping })
    }

    /// Where it begins; bytes are reached through this alone, never through the mapping.
    #[inline]
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Gives the system the memory back that `bytes` bytes from `offset` on take; they read as whatever they were, or as
    /// zeros, and take memory again when they are written. What is not in whole pages of the system stays.
    ///
    /// # Safety
    /// They lie within the mapping, and nobody has a reference to any of them.
    pub(super) unsafe fn give_back(&self, offset: usize, bytes: usize) {
        // A page that others share must not be touched.
        if cfg!(miri) || !offset.is_multiple_of(self.page_bytes) || !bytes.is_multiple_of(self.page_bytes) {
            return;
        }
        // SAFETY: bounds   - the caller's promise; whole pages, so that no more than these bytes are meant.
        //         no alias - the caller's promise; anonymous memory reads as zeros then, so every byte is initialized.
        //         lifetime - the mapping is borrowed.
        let given =
            unsafe { self.mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes) };
        // A system that refuses keeps the memory: it is the mapping's all the same.
        drop(given);
    }
}

/// Address space that the system need not be able to back now.
fn map_unreserved(bytes: usize) -> std::io::Result<MmapMut> {
    let mut options = MmapOptions::new();
    options.len(bytes);
    // Miri knows only plain mappings.
    if !cfg!(miri) {
        options.no_reserve_swap();
    }
    options.map_anon()
}

/// Numbers that start as zeros.
pub(super) struct Counts {
    first: NonNull<AtomicU32>,
    len: usize,
    _mapping: MmapMut,
}

impl Counts {
    pub(super) fn map(len: usize) -> std::io::Result<Self> {
        let bytes = len.saturating_mul(size_of::<AtomicU32>());
        let mut mapping = map_unreserved(bytes)?;
        let first = NonNull::new(mapping.as_mut_ptr().cast()).expect("a mapping is never at address 0");
        Ok(Self { first, len, _mapping: mapping })
    }
}

impl Deref for Counts {
    type Target = [AtomicU32];

    #[inline]
    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: bounds   - the mapping was made for `len` of them, page aligned, and zeros are a value of theirs.
        //         no alias - the mapping is reached through this alone, by shared references to atomics.
        //         lifetime - the mapping is this value's own.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

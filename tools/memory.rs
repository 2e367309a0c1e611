//! How much memory this process takes, and what its allocator keeps of what was freed.
//!
//! By default glibc has eight arenas for each processor, keeps what lies below a piece in use at the end of one, and after
//! the first large piece that was freed it takes all of that size from arenas too. In a service whose connections are
//! threads that come and go, what it keeps grows for a long time, and a leak cannot be told from it. Other allocators have
//! no such settings, and are left alone. It is for a process to choose: the library changes nothing that others share.
//!
//! The one place of this package with unsafe code: nobody else has a safe way to the settings.

/// Threads that allocate at the same moment take turns for some nanoseconds; small pieces come from a thread's own store.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 1;
/// Pieces from this size on are mappings of their own, which go when they are freed. It is glibc's own value to begin with;
/// that it was set keeps it from growing to 32 MiB.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 128 << 10;
/// Free memory at the end of an arena, above which it is given back.
#[cfg(target_env = "gnu")]
const END_BYTES_MAX: libc::c_int = 128 << 10;

/// Has the allocator give back what is freed, for a process that is to run for long. Where that cannot be set it works as
/// ever. Threads that have allocated before keep their arenas: call it first.
pub(crate) fn give_back_what_is_freed() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, END_BYTES_MAX),
    ] {
        // SAFETY: the call takes two numbers and no memory, and takes the allocator's own lock.
        #[expect(unsafe_code, reason = "see the head of the file")]
        let _is_known = unsafe { libc::mallopt(setting, value) };
    }
}

/// The most memory that this process had in use so far, in bytes, as Linux tells it.
pub(crate) fn memory_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

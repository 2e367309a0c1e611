//! The system calls that the standard library lacks: vectored I/O at a position, allocation, holes and where they are.
//!
//! All unsafe code of this package's I/O is in this file; each function is one call, with `EINTR` retried.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// As many buffers as one call takes: `IOV_MAX` of Linux.
pub(super) const BUFFERS_MAX: usize = 1024;

// Offsets beyond 2 GiB need a 64-bit `off_t`; 32-bit targets without one are refused here, not in operation.
const _: () = assert!(size_of::<libc::off_t>() == 8);

/// Fills a prefix of `buffers` from `offset` on; how many bytes, zero only at the end of the file.
pub(super) fn read_at(file: &File, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = buffers.len().min(BUFFERS_MAX);
    let offset = signed(offset)?;
    // SAFETY: bounds   - `IoSliceMut` has the layout of `iovec` by contract of the standard library; the first
    //                    `count` of them exist, and the kernel writes no further than each one's length.
    //         no alias - the slices are borrowed mutably here.
    //         lifetime - the call is over before the borrow is; the descriptor is open as long as `file`.
    retried(|| unsafe { libc::preadv(file.as_raw_fd(), buffers.as_mut_ptr().cast(), count as i32, offset) })
}

/// Writes a prefix of `buffers` from `offset` on; how many bytes.
pub(super) fn write_at(file: &File, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = buffers.len().min(BUFFERS_MAX);
    let offset = signed(offset)?;
    // SAFETY: bounds   - `IoSlice` has the layout of `iovec` by contract of the standard library; the first `count`
    //                    of them exist, and the kernel reads no further than each one's length.
    //         no alias - the kernel only reads the bytes, which are borrowed shared.
    //         lifetime - the call is over before the borrow is; the descriptor is open as long as `file`.
    retried(|| unsafe { libc::pwritev(file.as_raw_fd(), buffers.as_ptr().cast(), count as i32, offset) })
}

/// Gives the first `bytes` bytes of the file their place on the disk; its length stays.
pub(super) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_KEEP_SIZE, 0, bytes)
}

/// Gives the space of a range back; it reads as zeros.
pub(super) fn punch_hole(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes)
}

/// Where data begins at `offset` or after it; none when a hole is all there is up to the end of the file.
pub(super) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match seek(file, offset, libc::SEEK_DATA) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        found => found.map(Some),
    }
}

/// Where a hole begins at `offset` or after it; the end of the file counts as one.
pub(super) fn next_hole(file: &File, offset: u64) -> io::Result<u64> {
    seek(file, offset, libc::SEEK_HOLE)
}

/// It moves the position of the descriptor, which no other call here looks at.
fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<u64> {
    let offset = signed(offset)?;
    // SAFETY: the call takes no memory; the descriptor is open as long as `file` is borrowed.
    retried(|| unsafe { libc::lseek(file.as_raw_fd(), offset, whence) } as isize).map(|at| at as u64)
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, bytes: u64) -> io::Result<()> {
    let (offset, bytes) = (signed(offset)?, signed(bytes)?);
    // SAFETY: the call takes no memory; the descriptor is open as long as `file` is borrowed.
    retried(|| unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) } as isize).map(drop)
}

/// What direct I/O needs, in bytes: the alignment of memory and of offsets. None when the kernel does not say
/// (before Linux 6.1) or has no direct I/O for this file.
pub(super) fn direct_alignment(file: &File) -> Option<(usize, usize)> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: bounds   - the kernel writes one `statx`, which is what `answer` has room for; the path is an empty
    //                    string with its end, which `AT_EMPTY_PATH` makes stand for the descriptor.
    //         no alias - `answer` is a local.
    //         lifetime - the call is over before it returns; the descriptor is open as long as `file` is borrowed.
    let result = unsafe {
        let fd = file.as_raw_fd();
        libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr())
    };
    if result != 0 {
        return None;
    }
    // SAFETY: all bits zero is a `statx`, and the kernel has overwritten it with another.
    let answer = unsafe { answer.assume_init() };
    let (memory, offset) = (answer.stx_dio_mem_align as usize, answer.stx_dio_offset_align as usize);
    let is_told = answer.stx_mask & libc::STATX_DIOALIGN != 0 && memory > 0 && offset > 0;
    is_told.then_some((memory, offset))
}

/// How many bytes are free on the file system of `file`, for one without privileges.
pub(super) fn free_bytes(file: &File) -> io::Result<u64> {
    let mut answer = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: bounds   - the kernel writes one `statvfs`, which is what `answer` has room for.
    //         no alias - `answer` is a local.
    //         lifetime - the call is over before it returns; the descriptor is open as long as `file` is borrowed.
    retried(|| unsafe { libc::fstatvfs(file.as_raw_fd(), answer.as_mut_ptr()) } as isize)?;
    // SAFETY: all bits zero is a `statvfs`, and the kernel has overwritten it with another.
    let answer = unsafe { answer.assume_init() };
    Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

fn retried(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

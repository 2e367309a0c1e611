//! Sockets that came with the process. The one place with unsafe code here: nothing but the environment says that a
//! number is a descriptor.

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::Kind;

/// The first descriptor that is passed, by convention.
const FIRST: i32 = 3;
/// More than anybody passes: a wrong number in the environment takes no time.
const COUNT_MAX: i32 = 256;

/// They are taken once in the life of a process.
static TAKEN: AtomicBool = AtomicBool::new(false);

pub(super) fn take() -> io::Result<Vec<Kind>> {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let is_for_us = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0);
    if !is_for_us || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count.min(COUNT_MAX)).map(adopt).collect()
}

fn adopt(descriptor: i32) -> io::Result<Kind> {
    // SAFETY: ours     - LISTEN_PID names this process, so by the convention LISTEN_FDS descriptors from 3 on were opened
    //                    for it, and nothing else of it has opened them.
    //         no alias - `TAKEN` lets this run once for each descriptor.
    #[allow(unsafe_code, reason = "see the head of the file")]
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    let is_listening =
        sockopt::socket_type(&descriptor)? == SocketType::STREAM && sockopt::socket_acceptconn(&descriptor)?;
    match sockopt::socket_domain(&descriptor)? {
        AddressFamily::UNIX if is_listening => Ok(Kind::Unix(descriptor.into())),
        AddressFamily::INET | AddressFamily::INET6 if is_listening => Ok(Kind::Tcp(descriptor.into())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a passed descriptor is no listening socket")),
    }
}

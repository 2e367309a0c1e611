//! A connected socket, calls on it that wait or do not, and the bell that wakes the one who waits.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, sockopt};

/// A Unix or TCP stream. Every call says whether it waits, so the descriptor stays a blocking one.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
}

/// What a Unix socket may hold for its client, which the system doubles for its own needs: several large replies, so that
/// the client takes some of them while others are copied. By default it is not even two of 128 KiB, and the two take turns.
/// TCP finds its own size.
const UNIX_SEND_BYTES: usize = 512 << 10;

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        let socket = Self { descriptor: stream.into() };
        // The system grants as much of it as it allows.
        if let Err(error) = sockopt::set_socket_send_buffer_size(&socket.descriptor, UNIX_SEND_BYTES) {
            tracing::debug!(%error, "a Unix socket keeps the system's settings");
        }
        socket
    }
}

impl From<TcpStream> for Socket {
    /// Small replies are not held back, and a peer that is gone without a word is found out.
    fn from(stream: TcpStream) -> Self {
        let socket = Self { descriptor: stream.into() };
        if let Err(error) = socket.tune_tcp() {
            tracing::debug!(%error, "a TCP connection keeps the system's settings");
        }
        socket
    }
}

impl Socket {
    fn tune_tcp(&self) -> io::Result<()> {
        // Two minutes of silence, then a probe each quarter of a minute, and after four of them the peer is gone.
        sockopt::set_tcp_nodelay(&self.descriptor, true)?;
        sockopt::set_socket_keepalive(&self.descriptor, true)?;
        sockopt::set_tcp_keepidle(&self.descriptor, Duration::from_secs(120))?;
        sockopt::set_tcp_keepintvl(&self.descriptor, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(&self.descriptor, 4)?;
        Ok(())
    }

    /// Puts what has come to the front of `into`; zero is the end of the stream.
    pub(crate) fn receive(&self, into: &mut [u8], waits: bool) -> io::Result<usize> {
        let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        loop {
            match recv(&self.descriptor, &mut *into, flags) {
                Ok((bytes, _)) => return Ok(bytes),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends as much of `slices` as goes without waiting.
    pub(crate) fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.descriptor, slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(bytes) => return Ok(bytes),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has whoever waits for bytes of this socket find its end, after those that have come.
    pub(crate) fn end_reading(&self) {
        // It fails when the peer is gone already.
        let _ = rustix::net::shutdown(&self.descriptor, Shutdown::Read);
    }

    pub(crate) fn cut(&self) {
        let _ = rustix::net::shutdown(&self.descriptor, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Wakes a thread that waits in [`wait`], also when it rings before the thread is there.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // It fails when it has rung 2^64 times and nobody heard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it silent.
    pub(crate) fn hear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What [`wait`] waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Interest {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// What [`wait`] found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) rung: bool,
    /// The peer is gone: nothing can be sent any more.
    pub(crate) gone: bool,
}

/// Waits until something of `interest` holds for `descriptor`, the bell rings or the time is up; then nothing is ready.
/// Without a descriptor only the bell and the time count.
pub(crate) fn wait(
    descriptor: Option<(BorrowedFd<'_>, Interest)>,
    bell: Option<&Bell>,
    until: Option<Instant>,
) -> io::Result<Ready> {
    let mut polled: smallvec::SmallVec<[PollFd<'_>; 2]> = smallvec::SmallVec::new();
    if let Some(bell) = bell {
        polled.push(PollFd::new(bell, PollFlags::IN));
    }
    if let Some((descriptor, interest)) = descriptor {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.readable);
        flags.set(PollFlags::OUT, interest.writable);
        polled.push(PollFd::from_borrowed_fd(descriptor, flags));
    }
    let timeout = until.map(|until| {
        let left = until.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(error.into()),
    }
    let mut ready = Ready::default();
    let mut found = polled.iter().map(PollFd::revents);
    if bell.is_some() {
        ready.rung = found.next().is_some_and(|flags| !flags.is_empty());
    }
    if let Some(flags) = found.next() {
        ready.readable = flags.contains(PollFlags::IN);
        ready.writable = flags.contains(PollFlags::OUT);
        ready.gone = flags.intersects(PollFlags::HUP | PollFlags::ERR);
    }
    Ok(ready)
}

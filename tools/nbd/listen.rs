//! Where clients come in: Unix sockets, TCP, and sockets that whoever started the process has opened.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::socket::Socket;

mod activated;

/// Clients that may wait to be let in, as many as the system allows by default.
const BACKLOG: i32 = 4096;

/// An open socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// The socket's file, which goes with the listener that made it.
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// A Unix socket at `path` with these permissions, from the first moment on. A file that a server left there which is
    /// gone is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when a server is there, or a file that is no socket.
    pub fn unix(path: &Path, permissions: u32) -> io::Result<Self> {
        remove_abandoned(path)?;
        let descriptor = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&descriptor, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(permissions))?;
        listen(&descriptor, BACKLOG)?;
        Ok(Self { kind: Kind::Unix(descriptor.into()), file: Some(path.to_owned()) })
    }

    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self { kind: Kind::Tcp(TcpListener::bind(address)?), file: None })
    }

    /// The sockets that the process was started with, as systemd passes them (`LISTEN_FDS`, `LISTEN_PID`); none, when it
    /// was not, and when this was called before.
    ///
    /// # Errors
    /// When one of them is no listening Unix or TCP socket.
    pub fn activated() -> io::Result<Vec<Self>> {
        let kinds = activated::take()?;
        Ok(kinds.into_iter().map(|kind| Self { kind, file: None }).collect())
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match &self.kind {
            Kind::Unix(_) => true,
            Kind::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
        }
    }

    /// Where a TCP listener listens.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Unix(_) => None,
            Kind::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// As people and clients write it: `unix:PATH` or `ADDRESS:PORT`.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or("unix:".into(), |path| format!("unix:{}", path.display()))
            }
            Kind::Tcp(_) => self.tcp_address().map_or("tcp".into(), |address| address.to_string()),
        }
    }

    /// The next client, and its name. Waits for one.
    pub(crate) fn accept(&self) -> io::Result<(Socket, String)> {
        match &self.kind {
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((stream.into(), self.name()))
            }
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((stream.into(), peer.to_string()))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(listener) => listener.as_fd(),
            Kind::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Someone may have removed it, or put another in its place before we closed.
            let _ = fs::remove_file(file);
        }
    }
}

/// Removes the file of a socket that nobody listens on; any other stays.
///
/// # Errors
/// When that file cannot be removed.
pub fn remove_abandoned(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let is_refused = || {
        let refused = UnixStream::connect(path).err();
        refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && is_refused() { fs::remove_file(path) } else { Ok(()) }
}

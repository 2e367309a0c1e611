//! The server over real sockets, asked byte by byte, and by the clients that people use.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(clippy::print_stdout, reason = "a test says its seed, and what it leaves out")]

mod client;
mod clients;
mod contexts;
mod disk;
mod handshake;
mod hostile;
mod listening;
mod shutdown;
mod tls;
mod transmission;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use terrace_nbd::{Exports, Limits, Listener, Server, TlsMode};

use disk::Disk;

/// A server on a Unix socket, with one export called `disk`.
struct Served {
    server: Option<Server>,
    exports: Arc<Exports>,
    socket: PathBuf,
    _folder: TempDir,
}

impl Served {
    fn new(disk: &Arc<Disk>) -> Self {
        Self::with(disk, Limits::default(), TlsMode::Off)
    }

    fn with(disk: &Arc<Disk>, limits: Limits, tls: TlsMode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd");
        let exports = Arc::new(Exports::default());
        exports.insert("disk", disk.clone());
        let server = Server::new(exports.clone(), limits);
        server.listen(Listener::unix(&socket, 0o600).unwrap(), tls).unwrap();
        Self { server: Some(server), exports, socket, _folder: folder }
    }

    fn path(&self) -> &Path {
        &self.socket
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Waits until so many clients are there.
    fn wait_for_connections(&self, count: usize) {
        while self.server().stats().connections != count {
            std::thread::yield_now();
        }
    }
}

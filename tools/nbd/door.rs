//! A way in for clients: a listener's thread, and whether its clients use TLS.
//!
//! A door closes alone, while others stay open; who came through it stays. TLS is looked at when a client comes, so that
//! another certificate counts for the next one and disturbs nobody.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::listen::Listener;
use crate::socket::{Bell, Interest, Socket, wait};
use crate::tls::TlsMode;

/// How long a listener rests when the system has no descriptor or memory for a client.
const REST: Duration = Duration::from_millis(100);

pub(crate) struct Door {
    tls: RwLock<Arc<TlsMode>>,
    is_closing: AtomicBool,
    /// Rings once, when the door is to close.
    bell: Bell,
}

impl Door {
    pub(crate) fn new(tls: TlsMode) -> io::Result<Self> {
        let tls = RwLock::new(Arc::new(tls));
        Ok(Self { tls, is_closing: AtomicBool::new(false), bell: Bell::new()? })
    }

    pub(crate) fn tls(&self) -> Arc<TlsMode> {
        self.tls.read().clone()
    }

    pub(crate) fn set_tls(&self, tls: TlsMode) {
        *self.tls.write() = Arc::new(tls);
    }

    /// Has [`Self::keep`] return.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Hands every client and its name to `welcome`, until the door closes.
    pub(crate) fn keep(&self, listener: &Listener, welcome: impl Fn(Socket, String) -> io::Result<()>) {
        let interest = Interest { readable: true, writable: false };
        loop {
            let Ok(ready) = wait(Some((listener.as_fd(), interest)), Some(&self.bell), None) else {
                return;
            };
            if self.is_closing.load(Ordering::SeqCst) {
                return;
            }
            if !ready.readable {
                continue;
            }
            let accepted = listener.accept().and_then(|(socket, peer)| welcome(socket, peer));
            if let Err(error) = accepted {
                if error.kind() == io::ErrorKind::ConnectionAborted {
                    continue;
                }
                tracing::warn!(%error, listener = listener.name(), "a client could not be let in");
                // It would come again at once, for as long as there is no room.
                let _ = wait(None, Some(&self.bell), Some(Instant::now() + REST));
            }
        }
    }
}

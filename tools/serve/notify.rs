//! What a service manager is told: sd_notify's protocol, a datagram of lines to the socket that NOTIFY_SOCKET names.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The way to a service manager; without one nothing is said.
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this process, if one did.
    pub(super) fn of_process() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| address(name.as_bytes()));
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| is_ours && usec > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// How often [`Self::alive`] is wanted, with room for one that comes late.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 3)
    }

    /// The service is still being opened, which may go on for `within` from now.
    pub(super) fn opening(&self, within: Duration) {
        self.tell(&format!(
            "STATUS=opening the cache and the disks\nEXTEND_TIMEOUT_USEC={}",
            within.as_micros()
        ));
    }

    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Until the next [`Self::ready`] the file is being read again; `systemctl reload` waits for that.
    pub(super) fn reloading(&self) {
        // With the time, systemd has `Type=notify-reload` from version 253 on tell this reload from those before.
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nSTATUS=reading the file again\nMONOTONIC_USEC={usec}"));
    }

    pub(super) fn stopping(&self, within: Duration) {
        // The manager's own patience may be shorter.
        self.tell(&format!(
            "STOPPING=1\nSTATUS=making everything durable\nEXTEND_TIMEOUT_USEC={}",
            within.as_micros()
        ));
    }

    pub(super) fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, what: &str) {
        if let Some((socket, address)) = &self.socket {
            // It may be gone; nobody else wants to know.
            let _ = socket.send_to_addr(what.as_bytes(), address);
        }
    }
}

/// A path, or a name in the abstract space behind an `@`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)).ok(),
    }
}

//! The server: lets clients in, knows who is here, and sends them away.
//!
//! A thread for each listener, a thread for each connection. What a connection does is bounded by [`Limits`], and no
//! thread of one waits for another connection's.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::exports::Exports;
use crate::input::Input;
use crate::limits::Limits;
use crate::listen::Listener;
use crate::negotiate::{End, Terms, negotiate};
use crate::outbox::{Outbox, Traffic};
use crate::reply::Style;
use crate::socket::{Bell, Interest, Socket, wait};
use crate::stream::Stream;
use crate::tls::TlsMode;
use crate::transmission::Transmission;

/// How long a listener rests when the system has no descriptor or memory for a client.
const REST: Duration = Duration::from_millis(100);

/// Serves exports to clients. Dropping it is [`Self::shutdown`] without patience.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    exports: Arc<Exports>,
    limits: Limits,
    here: Mutex<Here>,
    left: Condvar,
    is_draining: AtomicBool,
    /// Rings once, for all listeners, when they are to close.
    closing: Bell,
    accepted: AtomicU64,
    turned_away: AtomicU64,
    handshakes_failed: AtomicU64,
    breaches: AtomicU64,
}

#[derive(Default)]
struct Here {
    connections: BTreeMap<u64, Arc<Connection>>,
    next: u64,
    /// Of those that left.
    gone: TrafficStats,
}

/// A client from its first byte on.
struct Connection {
    peer: String,
    since: Instant,
    socket: Arc<Socket>,
    traffic: Arc<Traffic>,
    /// From the choice of an export on.
    chosen: OnceLock<Chosen>,
}

struct Chosen {
    export: String,
    has_tls: bool,
    outbox: Arc<Outbox>,
}

/// What went over connections.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TrafficStats {
    pub requests: u64,
    /// Requests answered with an error.
    pub failures: u64,
    /// To clients, heads of replies included.
    pub bytes_read: u64,
    /// Payloads of clients.
    pub bytes_written: u64,
}

/// Counts since the server began. `accepted` is who is here, who was, and who was `turned_away`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ServerStats {
    /// Here now, handshakes included.
    pub connections: usize,
    pub accepted: u64,
    /// Closed at once, as there were too many.
    pub turned_away: u64,
    /// Left or lost before they chose an export.
    pub handshakes_failed: u64,
    /// Closed for breaking the protocol.
    pub breaches: u64,
    /// Requests that are owed a reply now, of all connections.
    pub in_flight: usize,
    pub traffic: TrafficStats,
}

/// One client.
#[derive(Clone, Debug)]
pub struct ConnectionStats {
    /// In the order of coming; no other connection of this server has it.
    pub id: u64,
    pub peer: String,
    /// None: in the handshake.
    pub export: Option<String>,
    pub has_tls: bool,
    pub connected_for: Duration,
    /// Requests that are owed a reply now.
    pub in_flight: usize,
    pub traffic: TrafficStats,
}

/// How a shutdown went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Connections that ended with all they had begun answered.
    pub in_order: usize,
    /// Those that had to be cut off.
    pub cut: usize,
    /// Of these, the ones whose requests are still at their export.
    pub stuck: usize,
}

impl Server {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new(exports: Arc<Exports>, limits: Limits) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            exports,
            limits,
            here: Mutex::default(),
            left: Condvar::new(),
            is_draining: AtomicBool::new(false),
            closing: Bell::new()?,
            accepted: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            breaches: AtomicU64::new(0),
        });
        Ok(Self { shared, listeners: Mutex::default() })
    }

    /// Lets clients of `listener` in from now on.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn listen(&self, listener: Listener, tls: TlsMode) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("nbd-listener".into());
        let thread = thread.spawn(move || shared.accept_all(&listener, &Arc::new(tls)))?;
        self.listeners.lock().push(thread);
        Ok(())
    }

    /// Serves one client on this thread until it leaves.
    pub fn serve(&self, socket: Socket, tls: &TlsMode) {
        if let Some((id, connection)) = self.shared.admit(socket, "a socket that was given".into()) {
            self.shared.serve(id, &connection, tls);
        }
    }

    /// Sends away the clients of the export of this name, each when what it has begun is answered; more come only if it
    /// is still offered.
    pub fn disconnect(&self, export: &str) {
        for connection in self.shared.here.lock().connections.values() {
            if let Some(chosen) = connection.chosen.get().filter(|chosen| chosen.export == export) {
                chosen.outbox.drain();
            }
        }
    }

    pub fn stats(&self) -> ServerStats {
        let shared = &self.shared;
        let here = shared.here.lock();
        let mut traffic = here.gone;
        here.connections.values().for_each(|connection| traffic.add(connection.traffic.stats()));
        ServerStats {
            connections: here.connections.len(),
            accepted: shared.accepted.load(Ordering::Relaxed),
            turned_away: shared.turned_away.load(Ordering::Relaxed),
            handshakes_failed: shared.handshakes_failed.load(Ordering::Relaxed),
            breaches: shared.breaches.load(Ordering::Relaxed),
            in_flight: here.connections.values().map(|connection| connection.in_flight()).sum(),
            traffic,
        }
    }

    /// Who is here, in the order of coming.
    pub fn connections(&self) -> Vec<ConnectionStats> {
        let here = self.shared.here.lock();
        here.connections.iter().map(|(&id, connection)| connection.stats(id)).collect()
    }

    /// Lets nobody in any more, has everyone's requests answered, refuses new ones, and closes. Who is not done after
    /// `grace` is cut off; requests of theirs that are at an export then are waited for once more as long.
    pub fn shutdown(&self, grace: Duration) -> Drained {
        self.close(grace)
    }

    fn close(&self, grace: Duration) -> Drained {
        let shared = &self.shared;
        let (were_here, first_new) = shared.count();
        shared.is_draining.store(true, Ordering::SeqCst);
        shared.closing.ring();
        for listener in self.listeners.lock().drain(..) {
            // A panic of it was reported when it came.
            let _ = listener.join();
        }
        // Some came in the meantime, and some may have left.
        let count = were_here + (shared.count().1 - first_new) as usize;
        let connections: Vec<_> = shared.here.lock().connections.values().cloned().collect();
        connections.into_iter().for_each(|connection| connection.drain());
        let cut = shared.wait_until_empty(Instant::now() + grace);
        shared.here.lock().connections.values().for_each(|connection| connection.socket.cut());
        let stuck = shared.wait_until_empty(Instant::now() + grace);
        Drained { in_order: count - cut, cut, stuck }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &Listener, tls: &Arc<TlsMode>) {
        let interest = Interest { readable: true, writable: false };
        loop {
            let Ok(ready) = wait(Some((listener.as_fd(), interest)), Some(&self.closing), None) else {
                return;
            };
            if self.is_draining.load(Ordering::SeqCst) {
                return;
            }
            if !ready.readable {
                continue;
            }
            let accepted = listener.accept().and_then(|(socket, peer)| self.welcome(socket, peer, tls));
            if let Err(error) = accepted {
                if error.kind() == io::ErrorKind::ConnectionAborted {
                    continue;
                }
                tracing::warn!(%error, listener = listener.name(), "a client could not be let in");
                // It would come again at once, for as long as there is no room.
                let _ = wait(None, Some(&self.closing), Some(Instant::now() + REST));
            }
        }
    }

    fn welcome(self: &Arc<Self>, socket: Socket, peer: String, tls: &Arc<TlsMode>) -> io::Result<()> {
        let Some((id, connection)) = self.admit(socket, peer) else { return Ok(()) };
        let (shared, tls) = (self.clone(), tls.clone());
        let thread = thread::Builder::new().name("nbd-connection".into());
        let spawned = thread.spawn(move || shared.serve(id, &connection, &tls));
        spawned.map(drop).inspect_err(|_| self.dismiss(id))
    }

    /// Counts a client, if there is room for one more.
    fn admit(&self, socket: Socket, peer: String) -> Option<(u64, Arc<Connection>)> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut here = self.here.lock();
        if here.connections.len() >= self.limits.connections_max {
            drop(here);
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer, "a client was turned away: there are too many");
            return None;
        }
        let connection = Arc::new(Connection {
            peer,
            since: Instant::now(),
            socket: Arc::new(socket),
            traffic: Arc::default(),
            chosen: OnceLock::new(),
        });
        let id = here.next;
        here.next += 1;
        here.connections.insert(id, connection.clone());
        Some((id, connection))
    }

    /// How many are here, and the number of the next one.
    fn count(&self) -> (usize, u64) {
        let here = self.here.lock();
        (here.connections.len(), here.next)
    }

    fn dismiss(&self, id: u64) {
        let mut here = self.here.lock();
        if let Some(connection) = here.connections.remove(&id) {
            here.gone.add(connection.traffic.stats());
        }
        self.left.notify_all();
    }

    /// How many are here when nobody is, or the time is up.
    fn wait_until_empty(&self, deadline: Instant) -> usize {
        let mut here = self.here.lock();
        while !here.connections.is_empty() {
            if self.left.wait_until(&mut here, deadline).timed_out() {
                break;
            }
        }
        here.connections.len()
    }

    fn serve(&self, id: u64, connection: &Connection, tls: &TlsMode) {
        // Also after a panic of an export.
        let _dismissal = Dismissal { shared: self, id, socket: &connection.socket };
        let peer = connection.peer.as_str();
        match self.serve_to_the_end(connection, tls) {
            Ok(()) => tracing::debug!(peer, "a client left"),
            Err(end) => {
                let failed = connection.chosen.get().is_none();
                self.handshakes_failed.fetch_add(failed.into(), Ordering::Relaxed);
                match end {
                    End::Io(error) => tracing::debug!(peer, %error, "a client was lost"),
                    End::Breach(rule) => {
                        self.breaches.fetch_add(1, Ordering::Relaxed);
                        tracing::info!(peer, rule, "a client broke the protocol");
                    }
                }
            }
        }
    }

    fn serve_to_the_end(&self, connection: &Connection, tls: &TlsMode) -> Result<(), End> {
        let mut stream = Stream::plain(connection.socket.clone());
        let mut input = Input::new();
        let deadline = Instant::now() + self.limits.handshake_time;
        let terms = Terms { exports: &self.exports, tls, deadline, is_draining: &self.is_draining };
        let Some(session) = negotiate(&terms, &mut stream, &mut input)? else {
            stream.say_goodbye();
            return Ok(());
        };
        let style = Style { headers: session.headers, size_bytes: session.info.size_bytes };
        let outbox = Arc::new(Outbox::new(
            connection.socket.clone(),
            style,
            self.limits.clone(),
            stream.is_plain(),
            connection.traffic.clone(),
        )?);
        tracing::debug!(peer = connection.peer.as_str(), export = session.name, "a client chose an export");
        let (export, has_tls) = (session.name.clone(), !stream.is_plain());
        let _ = connection.chosen.set(Chosen { export, has_tls, outbox: outbox.clone() });
        // Who drains either finds the outbox there, or has said so before.
        if self.is_draining.load(Ordering::SeqCst) {
            outbox.drain();
        }
        Transmission::new(&mut stream, &mut input, &session, &outbox).run()
    }
}

struct Dismissal<'a> {
    shared: &'a Shared,
    id: u64,
    socket: &'a Socket,
}

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        // The client sees the end now, whoever else still has the socket.
        self.socket.cut();
        self.shared.dismiss(self.id);
    }
}

impl Connection {
    fn drain(&self) {
        match self.chosen.get() {
            Some(chosen) => chosen.outbox.drain(),
            None => self.socket.end_reading(),
        }
    }

    fn in_flight(&self) -> usize {
        self.chosen.get().map_or(0, |chosen| chosen.outbox.in_flight())
    }

    fn stats(&self, id: u64) -> ConnectionStats {
        ConnectionStats {
            id,
            peer: self.peer.clone(),
            export: self.chosen.get().map(|chosen| chosen.export.clone()),
            has_tls: self.chosen.get().is_some_and(|chosen| chosen.has_tls),
            connected_for: self.since.elapsed(),
            in_flight: self.in_flight(),
            traffic: self.traffic.stats(),
        }
    }
}

impl Traffic {
    fn stats(&self) -> TrafficStats {
        TrafficStats {
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}

impl TrafficStats {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

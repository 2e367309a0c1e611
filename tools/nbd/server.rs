//! The server: lets clients in, knows who is here, and sends them away.
//!
//! A thread for each listener, a thread for each connection. What a connection does is bounded by [`Limits`], and no
//! thread of one waits for another connection's.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::door::Door;
use crate::exports::Exports;
use crate::input::Input;
use crate::limits::Limits;
use crate::listen::Listener;
use crate::negotiate::{End, Terms, negotiate};
use crate::outbox::{Outbox, Traffic};
use crate::reply::Style;
use crate::socket::Socket;
use crate::stats::{ConnectionStats, Drained, ServerStats, TrafficStats};
use crate::stream::Stream;
use crate::tls::TlsMode;
use crate::transmission::Transmission;

/// For so long it is not said again that there are too many clients.
const QUIET: Duration = Duration::from_secs(60);

/// Serves exports to clients. Dropping it is [`Self::shutdown`] without patience.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Listeners>,
}

/// One of the listeners of a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ListenerId(u64);

#[derive(Default)]
struct Listeners {
    open: BTreeMap<ListenerId, (Arc<Door>, JoinHandle<()>)>,
    next: u64,
}

struct Shared {
    exports: Arc<Exports>,
    limits: RwLock<Limits>,
    here: Mutex<Here>,
    left: Condvar,
    is_draining: AtomicBool,
    accepted: AtomicU64,
    turned_away: AtomicU64,
    told_of_too_many: Mutex<Option<Instant>>,
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

impl Here {
    /// Cuts off the client that has been in its handshake for the longest, if that is at least `slow`; whether there was one.
    /// Its thread is at its end then.
    fn cut_a_slow_handshake(&mut self, slow: Duration) -> bool {
        let mut in_order = self.connections.iter();
        let oldest = in_order.find(|(_, connection)| connection.chosen.get().is_none());
        let Some((&id, connection)) = oldest.filter(|(_, oldest)| oldest.since.elapsed() >= slow) else {
            return false;
        };
        connection.socket.cut();
        self.connections.remove(&id);
        true
    }
}

impl Server {
    pub fn new(exports: Arc<Exports>, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            exports,
            limits: RwLock::new(limits),
            here: Mutex::default(),
            left: Condvar::new(),
            is_draining: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            told_of_too_many: Mutex::default(),
            handshakes_failed: AtomicU64::new(0),
            breaches: AtomicU64::new(0),
        });
        Self { shared, listeners: Mutex::default() }
    }

    /// Lets clients of `listener` in from now on.
    ///
    /// # Errors
    /// When there is no descriptor or thread for it, and when the server shuts down.
    pub fn listen(&self, listener: Listener, tls: TlsMode) -> io::Result<ListenerId> {
        let mut listeners = self.listeners.lock();
        // Whoever shuts down says so before it takes the lock.
        if self.shared.is_draining.load(Ordering::SeqCst) {
            return Err(io::Error::other("the server is shutting down"));
        }
        let door = Arc::new(Door::new(tls)?);
        let (shared, own) = (self.shared.clone(), door.clone());
        let thread = thread::Builder::new().name("nbd-listener".into());
        let thread = thread.spawn(move || {
            own.keep(&listener, |socket, peer| shared.welcome(socket, peer, own.tls()));
        })?;
        let id = ListenerId(listeners.next);
        listeners.next += 1;
        listeners.open.insert(id, (door, thread));
        Ok(id)
    }

    /// Closes that listener, if it is open; who came through it stays.
    pub fn stop_listening(&self, id: ListenerId) {
        let closed = self.listeners.lock().open.remove(&id);
        close_doors(closed);
    }

    /// Clients that come through that listener from now on meet this; a new certificate, for example.
    pub fn set_tls(&self, id: ListenerId, tls: TlsMode) {
        if let Some((door, _)) = self.listeners.lock().open.get(&id) {
            door.set_tls(tls);
        }
    }

    /// Bounds for those who come from now on. Who is here keeps what there was, also where it is more than there may be now.
    pub fn set_limits(&self, limits: Limits) {
        *self.shared.limits.write() = limits;
    }

    /// Serves one client on this thread until it leaves.
    pub fn serve(&self, socket: Socket, tls: &TlsMode) {
        if let Some((id, connection)) = self.shared.admit(socket, "a socket that was given".into()) {
            self.shared.serve(id, &connection, tls);
        }
    }

    /// Sends away the clients of the export of this name, each when what it has begun is answered; more come only if it
    /// is still offered. Who is just choosing an export that was taken away before this call is sent away too.
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
        let (mut requests_in_flight, mut bytes_in_flight) = (0, 0);
        for connection in here.connections.values() {
            traffic.add(connection.traffic.stats());
            let (requests, bytes) = connection.in_flight();
            requests_in_flight += requests;
            bytes_in_flight += bytes;
        }
        ServerStats {
            connections: here.connections.len(),
            accepted: shared.accepted.load(Ordering::Relaxed),
            turned_away: shared.turned_away.load(Ordering::Relaxed),
            handshakes_failed: shared.handshakes_failed.load(Ordering::Relaxed),
            breaches: shared.breaches.load(Ordering::Relaxed),
            requests_in_flight,
            bytes_in_flight,
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

    /// Cuts off who is here. With [`Self::shutdown`] under way on another thread it is what the end of its grace does.
    pub fn cut_all(&self) {
        self.shared.here.lock().connections.values().for_each(|connection| connection.socket.cut());
    }

    fn close(&self, grace: Duration) -> Drained {
        let shared = &self.shared;
        let (were_here, first_new) = shared.count();
        shared.is_draining.store(true, Ordering::SeqCst);
        let listeners = std::mem::take(&mut self.listeners.lock().open);
        close_doors(listeners.into_values());
        // Some came in the meantime, and some may have left.
        let count = were_here + (shared.count().1 - first_new) as usize;
        let connections: Vec<_> = shared.here.lock().connections.values().cloned().collect();
        connections.into_iter().for_each(|connection| connection.drain());
        let cut = shared.wait_until_empty(Instant::now() + grace);
        self.cut_all();
        let stuck = shared.wait_until_empty(Instant::now() + grace);
        Drained { in_order: count - cut, cut, stuck }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

/// Closes all, and then waits until they are.
fn close_doors(doors: impl IntoIterator<Item = (Arc<Door>, JoinHandle<()>)>) {
    let close = |(door, thread): (Arc<Door>, JoinHandle<()>)| {
        door.close();
        thread
    };
    let threads: Vec<_> = doors.into_iter().map(close).collect();
    for thread in threads {
        // A panic of it was reported when it came.
        let _ = thread.join();
    }
}

impl Shared {
    fn welcome(self: &Arc<Self>, socket: Socket, peer: String, tls: Arc<TlsMode>) -> io::Result<()> {
        let Some((id, connection)) = self.admit(socket, peer) else { return Ok(()) };
        let shared = self.clone();
        let thread = thread::Builder::new().name("nbd-connection".into());
        let spawned = thread.spawn(move || shared.serve(id, &connection, &tls));
        spawned.map(drop).inspect_err(|_| self.dismiss(id))
    }

    /// Counts a client, if there is room for one more.
    fn admit(&self, socket: Socket, peer: String) -> Option<(u64, Arc<Connection>)> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut here = self.here.lock();
        let (connections_max, handshake_time) = {
            let limits = self.limits.read();
            (limits.connections_max, limits.handshake_time)
        };
        if here.connections.len() >= connections_max && !here.cut_a_slow_handshake(handshake_time / 10) {
            drop(here);
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            self.tell_of_too_many(&peer);
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

    /// Once in a while: who comes again and again shall not fill the log.
    fn tell_of_too_many(&self, peer: &str) {
        let mut told = self.told_of_too_many.lock();
        if told.is_some_and(|told| told.elapsed() < QUIET) {
            return tracing::debug!(peer, "a client was turned away");
        }
        *told = Some(Instant::now());
        let turned_away = self.turned_away.load(Ordering::Relaxed);
        tracing::warn!(peer, turned_away, "a client was turned away: there are too many");
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
        let limits = self.limits.read().clone();
        let deadline = Instant::now() + limits.handshake_time;
        let terms = Terms { exports: &self.exports, tls, deadline, is_draining: &self.is_draining };
        let Some(session) = negotiate(&terms, &mut stream, &mut input)? else {
            stream.say_goodbye();
            return Ok(());
        };
        let style = Style { headers: session.headers, size_bytes: session.info.size_bytes };
        let outbox = Arc::new(Outbox::new(
            connection.socket.clone(),
            style,
            limits,
            stream.is_plain(),
            connection.traffic.clone(),
        )?);
        tracing::debug!(peer = connection.peer.as_str(), export = session.name, "a client chose an export");
        let (export, has_tls) = (session.name.clone(), !stream.is_plain());
        let _ = connection.chosen.set(Chosen { export, has_tls, outbox: outbox.clone() });
        // Who drains, or sends away an export's clients, either finds the outbox there, or has said so before.
        let is_offered = self.exports.offers(&session.name, &session.export);
        if self.is_draining.load(Ordering::SeqCst) || !is_offered {
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

    /// Requests and bytes.
    fn in_flight(&self) -> (usize, u64) {
        self.chosen.get().map_or((0, 0), |chosen| chosen.outbox.in_flight())
    }

    fn stats(&self, id: u64) -> ConnectionStats {
        ConnectionStats {
            id,
            peer: self.peer.clone(),
            export: self.chosen.get().map(|chosen| chosen.export.clone()),
            has_tls: self.chosen.get().is_some_and(|chosen| chosen.has_tls),
            connected_for: self.since.elapsed(),
            requests_in_flight: self.in_flight().0,
            traffic: self.traffic.stats(),
        }
    }
}

//! Where clients come in, as the plan names it, and with what certificates. Both change while clients are here.

use std::io;

use parking_lot::Mutex;
use terrace_nbd::{Listener, ListenerId, Server, Tls, TlsMode};

use super::plan::Address;
use crate::failure::{Failure, Result};

/// A socket that listens, before anybody is let in.
pub(super) struct Entrance {
    /// None: it was passed to the process.
    pub(super) address: Option<Address>,
    pub(super) listener: Listener,
}

/// The entrances that are open.
pub(super) struct Doors {
    state: Mutex<State>,
}

struct State {
    tls: Option<Tls>,
    open: Vec<Door>,
}

struct Door {
    address: Option<Address>,
    name: String,
    is_tcp: bool,
    is_local: bool,
    id: ListenerId,
}

impl Doors {
    /// None yet; `tls` is for all that will be.
    pub(super) fn new(tls: Option<Tls>) -> Self {
        Self { state: Mutex::new(State { tls, open: Vec::new() }) }
    }

    /// Lets clients in there.
    ///
    /// # Errors
    /// Those of [`Server::listen`].
    pub(super) fn open(&self, server: &Server, entrance: Entrance) -> io::Result<()> {
        let mut state = self.state.lock();
        let Entrance { address, listener } = entrance;
        let (is_tcp, is_local) = (listener.tcp_address().is_some(), listener.is_local());
        let name = listener.name();
        let id = server.listen(listener, tls_mode(is_tcp, state.tls.as_ref()))?;
        state.open.push(Door { address, name, is_tcp, is_local, id });
        Ok(())
    }

    /// Closes what was opened under this address; its clients stay.
    pub(super) fn close(&self, server: &Server, address: &Address) {
        let gone = |door: &mut Door| door.address.as_ref() == Some(address);
        let closed: Vec<Door> = self.state.lock().open.extract_if(.., gone).collect();
        closed.iter().for_each(|door| server.stop_listening(door.id));
    }

    /// Clients that come from now on meet these certificates, or none; whether they are others than before.
    pub(super) fn set_tls(&self, server: &Server, tls: Option<Tls>) -> bool {
        let mut state = self.state.lock();
        if state.tls == tls {
            return false;
        }
        for door in &state.open {
            server.set_tls(door.id, tls_mode(door.is_tcp, tls.as_ref()));
        }
        state.tls = tls;
        true
    }

    /// Refuses a plan without TLS while others than this machine reach a socket that was passed.
    pub(super) fn check_passed(&self, has_tls: bool, insecure: bool) -> Result<()> {
        let state = self.state.lock();
        let mut passed = state.open.iter().filter(|door| door.address.is_none());
        match passed.find(|door| !door.is_local && !has_tls && !insecure) {
            Some(door) => Err(open_to_all(&door.name)),
            None => Ok(()),
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.state.lock().open.iter().any(|door| door.address.is_none())
    }
}

fn tls_mode(is_tcp: bool, tls: Option<&Tls>) -> TlsMode {
    match tls {
        None => TlsMode::Off,
        Some(tls) if is_tcp => TlsMode::Required(tls.clone()),
        Some(tls) => TlsMode::Offered(tls.clone()),
    }
}

pub(super) fn open_to_all(address: &str) -> Failure {
    Failure::input(format!("whoever reaches {address} could read and write the disk"))
        .remedy("add --tls-cert and --tls-key, listen on 127.0.0.1, or accept that by --insecure")
}

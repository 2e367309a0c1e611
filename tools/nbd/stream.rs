//! The bytes of a connection: a socket, or TLS over it.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConnection;

use crate::socket::{Interest, Socket, wait};

/// Bytes to and from the client. Only [`Self::receive`] waits, and only when it is told to.
pub(crate) struct Stream {
    pub(crate) socket: Arc<Socket>,
    tls: Option<Box<ServerConnection>>,
}

impl Stream {
    pub(crate) fn plain(socket: Arc<Socket>) -> Self {
        Self { socket, tls: None }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Has the client and us agree on TLS, until `deadline` at most. From here on everything goes through it.
    pub(crate) fn start_tls(&mut self, mut tls: ServerConnection, deadline: Instant) -> io::Result<()> {
        while tls.is_handshaking() || tls.wants_write() {
            let is_writing = tls.wants_write();
            let mut raw = Raw { socket: &self.socket, waits: false };
            let moved = if is_writing { tls.write_tls(&mut raw) } else { tls.read_tls(&mut raw) };
            match moved {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if is_writing => {}
                Ok(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        // The alert that says why, if there is room for it.
                        let _ = push(&mut tls, &self.socket);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let interest = Interest { readable: !is_writing, writable: is_writing };
                    self.wait_until(interest, deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Puts what has come to the front of `into`, which is not empty; zero is the end of the stream.
    pub(crate) fn receive(&mut self, into: &mut [u8], waits: bool) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.receive(into, waits) };
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that just closes the socket: as good as one that says so before.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            tls.read_tls(&mut Raw { socket: &self.socket, waits })?;
            tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            push(tls, &self.socket)?;
        }
    }

    /// Sends as much of `slices` as goes without waiting. With TLS it may still be here then: see [`Self::push`].
    pub(crate) fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.send(slices) };
        let bytes = tls.writer().write_vectored(slices)?;
        push(tls, &self.socket)?;
        if bytes == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes) }
    }

    /// Sends what TLS still has; whether that was all.
    pub(crate) fn push(&mut self) -> io::Result<bool> {
        self.tls.as_mut().map_or(Ok(true), |tls| push(tls, &self.socket))
    }

    /// Says that nothing more comes, where there is a way to say so.
    pub(crate) fn say_goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Nobody waits for a client that does not take it.
            let _ = push(tls, &self.socket);
        }
    }

    /// # Errors
    /// `TimedOut` at the deadline.
    pub(crate) fn wait_until(&self, interest: Interest, deadline: Instant) -> io::Result<()> {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        wait(Some((self.socket.as_fd(), interest)), None, Some(deadline)).map(drop)
    }
}

/// Sends what `tls` has for the client, as far as the socket takes it; whether that was all.
fn push(tls: &mut ServerConnection, socket: &Socket) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(&mut Raw { socket, waits: false }) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The socket as TLS sees it.
struct Raw<'a> {
    socket: &'a Socket,
    waits: bool,
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer, self.waits)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.send(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

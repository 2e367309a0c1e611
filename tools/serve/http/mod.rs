//! Metrics and a page over HTTP/1.1, on one thread of their own: what the service does, for Prometheus and for people.
//!
//! Invariants:
//! 1. Nothing here changes anything. [`answer`] knows GET and HEAD; whatever a stranger's page makes a browser ask for is
//!    only read, and the stranger does not see it. Test: only_what_reads_is_answered.
//! 2. A connection has one request, and [`CONNECTION_TIME`] for all of it: whoever sends slowly, says nothing or takes
//!    nothing is gone then. At most [`CONNECTIONS_MAX`] are here at a time; one more is told so and closed.
//!    Tests: a_client_that_sends_slowly_is_cut_off_and_holds_up_nobody, who_is_one_too_many_is_told.
//! 3. A head is at most [`HEAD_BYTES_MAX`] long, and no body is read. Test: what_is_no_request_is_refused.
//! 4. No connection of NBD waits for any of this: what is shown is a [`super::service::Snapshot`].
//! 5. On a loopback address the request must name this machine: a name of somebody else's that leads here (DNS rebinding)
//!    is refused. Test: a_name_that_is_not_this_machines_is_refused.
//!
//! hyper does the protocol, and waits on tokio's runtime of one thread: a server of metrics needs no more.

mod answer;

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::history::{PERIOD, Watch};
use super::service::Service;

/// Of Prometheus and a few browsers, each a moment.
const CONNECTIONS_MAX: usize = 32;
/// A page of 200 kB takes no longer over a slow line.
const CONNECTION_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long the listener rests when the system has no descriptor for a client.
const REST: Duration = Duration::from_millis(100);

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n";

/// An address that is bound. Clients may connect, and wait until it is served.
pub(super) struct HttpListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpListener {
    /// Binds the first of `addresses` that can be.
    pub(super) fn open(addresses: &[SocketAddr]) -> io::Result<Self> {
        let listener = TcpListener::bind(addresses)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, until the process ends.
    pub(super) fn serve(self, service: &Arc<Service>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let watch = Arc::new(Watch::new(service.clone()));
        let listener = {
            // The runtime is where its descriptor is waited for.
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let is_local = self.address.ip().is_loopback();
        thread::Builder::new().name("terrace-http".into()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(look_on(watch.clone()));
                accept_all(&listener, &watch, is_local).await;
            });
        })?;
        Ok(())
    }
}

async fn look_on(watch: Arc<Watch>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        watch.look();
    }
}

async fn accept_all(listener: &tokio::net::TcpListener, watch: &Arc<Watch>, is_local: bool) {
    // Each connection holds one.
    let here = Arc::new(());
    loop {
        match listener.accept().await {
            Ok((stream, _)) if Arc::strong_count(&here) > CONNECTIONS_MAX => {
                // It fails when the client has gone; the buffer of a new socket takes it at once.
                let _ = stream.into_std().and_then(|mut stream| stream.write_all(TOO_MANY));
            }
            Ok((stream, _)) => {
                let (watch, here) = (watch.clone(), here.clone());
                tokio::spawn(async move {
                    let _here = here;
                    // Whoever breaks the protocol, goes away or takes too long is gone: there is nobody to tell.
                    let _ = timeout(CONNECTION_TIME, converse(stream, watch, is_local)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a client of metrics could not be let in");
                sleep(REST).await;
            }
        }
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, watch: Arc<Watch>, is_local: bool) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let answer = answer::answer(&request, &watch, is_local);
        async { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

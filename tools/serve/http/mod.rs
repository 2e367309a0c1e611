//! Metrics and a page over HTTP/1.1, on one thread of their own: what the service does, for Prometheus and for people.
//!
//! Invariants:
//! 1. Nothing here changes anything. [`answer`] knows GET and HEAD; whatever a stranger's page makes a browser ask for is
//!    only read, and the stranger does not see it. Test: only_what_reads_is_answered.
//! 2. A connection has one request, and [`CONNECTION_TIME`] for all of it: whoever sends slowly, says nothing or takes
//!    nothing is gone then. At most [`CONNECTIONS_MAX`] are here at a time; one more is told so, and when there will be
//!    room, and closed. Tests: a_client_that_sends_slowly_is_cut_off_and_holds_up_nobody, who_is_one_too_many_is_told,
//!    who_comes_again_when_told_to_finds_nobody_there_who_was_too_slow.
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

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
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

/// What is answered to a request.
type Answerer = Arc<dyn Fn(&Request<Incoming>) -> Response<String> + Send + Sync>;

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
        let (is_local, watched) = (self.address.ip().is_loopback(), watch.clone());
        let answerer: Answerer = Arc::new(move |request| answer::answer(request, &watched, is_local));
        thread::Builder::new().name("terrace-http".into()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(look_on(watch));
                accept_all(&listener, &answerer).await;
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

async fn accept_all(listener: &tokio::net::TcpListener, answerer: &Answerer) {
    // Each connection holds one.
    let here = Arc::new(());
    loop {
        match listener.accept().await {
            Ok((stream, _)) if Arc::strong_count(&here) > CONNECTIONS_MAX => {
                // It fails when the client has gone; the buffer of a new socket takes it at once.
                let _ = stream.into_std().and_then(|mut stream| stream.write_all(TOO_MANY));
            }
            Ok((stream, _)) => {
                let (answerer, here) = (answerer.clone(), here.clone());
                tokio::spawn(async move {
                    let _here = here;
                    // Whoever breaks the protocol, goes away or takes too long is gone: there is nobody to tell.
                    let _ = timeout(CONNECTION_TIME, converse(stream, answerer)).await;
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
async fn converse(stream: TcpStream, answerer: Answerer) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let answer = answerer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// How many seconds one too many is told to stay away.
    fn told_to_wait() -> u64 {
        let told = std::str::from_utf8(TOO_MANY).expect("text");
        let seconds = told.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("it is told");
        seconds.parse().expect("a number")
    }

    #[test]
    fn who_comes_again_when_told_to_finds_nobody_there_who_was_too_slow() {
        // While all wait for something, the clock moves on to the next time that anybody waits for.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("descriptors").block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("it is bound");
            let answerer: Answerer = Arc::new(|_| Response::new(String::new()));
            tokio::spawn(async move { accept_all(&listener, &answerer).await });
            for said in ["", "GET /metr", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
                let (client, since) =
                    (TcpStream::connect(address).await.expect("it listens"), Instant::now());
                client.writable().await.expect("it is open");
                assert_eq!(client.try_write(said.as_bytes()).ok(), Some(said.len()));
                client.readable().await.expect("it is open");
                // What was said and never read makes it an error.
                let answer = client.try_read(&mut [0; 1]);
                assert!(matches!(answer, Ok(0) | Err(_)), "{said:?} is no request: {answer:?}");
                let waited = since.elapsed();
                assert!(waited.as_secs() <= told_to_wait(), "{said:?} is here for {waited:?}");
            }
        });
    }
}

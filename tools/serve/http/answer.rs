//! What is answered to which request.

use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::serve::history::Watch;
use crate::serve::{metrics, page};

const TEXT: &str = "text/plain; charset=utf-8";

/// Headers of every answer: nothing is kept, and nothing but this server's own is loaded, run, framed or sent to.
const ALWAYS: [(header::HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::SERVER, "terrace"),
];

/// `is_local`: the server listens where this machine alone can reach it. Of the body of a request nothing is looked at.
pub(super) fn answer<B>(request: &Request<B>, watch: &Watch, is_local: bool) -> Response<String> {
    if let Err((status, told)) = check_host(request, is_local) {
        return plain(status, told);
    }
    match find(request.uri().path()) {
        None => plain(StatusCode::NOT_FOUND, "there is /, /metrics and /healthz\n"),
        Some(_) if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "everything here is only read\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        }
        Some(make) => make(watch),
    }
}

fn find(path: &str) -> Option<fn(&Watch) -> Response<String>> {
    Some(match path {
        "/" => |watch| with_type(StatusCode::OK, "text/html; charset=utf-8", page::page(&watch.parts())),
        "/live" => |watch| {
            let parts = serde_json::to_string(&*watch.parts()).expect("plain data always serialises");
            with_type(StatusCode::OK, "application/json", parts)
        },
        "/page.css" => |_| with_type(StatusCode::OK, "text/css; charset=utf-8", page::STYLE.into()),
        "/page.js" => |_| with_type(StatusCode::OK, "text/javascript; charset=utf-8", page::SCRIPT.into()),
        "/metrics" => |watch| with_type(StatusCode::OK, metrics::CONTENT_TYPE, watch.metrics()),
        "/healthz" => health,
        _ => return None,
    })
}

/// Whether clients are served.
fn health(watch: &Watch) -> Response<String> {
    if watch.is_serving() {
        plain(StatusCode::OK, "ok\n")
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    }
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    with_type(status, TEXT, text.into())
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A request names one host, and where only this machine can ask that is this machine: the browser of someone here shows
/// a page of a stranger's name what it reads under that name, whatever address the name leads to.
fn check_host<B>(request: &Request<B>, is_local: bool) -> Result<(), (StatusCode, &'static str)> {
    let refused = (StatusCode::BAD_REQUEST, "a request names one host\n");
    let mut named = request.headers().get_all(header::HOST).iter();
    let host = match (named.next(), named.next()) {
        (None, _) if request.version() < Version::HTTP_11 => return Ok(()),
        (Some(host), None) => host,
        _ => return Err(refused),
    };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()).ok_or(refused)?;
    // In absolute form the target says it again, and counts.
    let host = request.uri().host().unwrap_or(host.host());
    if is_local && !is_this_machine(host) {
        let told = "this is not the host that was asked for; ask 127.0.0.1 or localhost\n";
        return Err((StatusCode::MISDIRECTED_REQUEST, told));
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let is_address = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_address || host.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(version: Version, hosts: &[&str], target: &str) -> Result<(), StatusCode> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        check_host(&request.body(()).expect("a request"), true).map_err(|(status, _)| status)
    }

    #[test]
    fn a_request_must_name_this_machine() {
        for host in
            ["localhost", "localhost:10808", "LocalHost", "127.0.0.1", "127.3.2.1:80", "[::1]", "[::1]:9"]
        {
            assert_eq!(asked(Version::HTTP_11, &[host], "/"), Ok(()), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "127.0.0.1.example.org:80", "192.0.2.1", "[::2]"]
        {
            assert_eq!(asked(Version::HTTP_11, &[host], "/"), Err(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        for hosts in [&["", "localhost"][..], &["localhost", "localhost"], &["a b"], &["localhost/x"], &[]] {
            assert_eq!(asked(Version::HTTP_11, hosts, "/"), Err(StatusCode::BAD_REQUEST), "{hosts:?}");
        }
        assert_eq!(asked(Version::HTTP_10, &[], "/"), Ok(()), "older than the header");
        let elsewhere = asked(Version::HTTP_11, &["localhost"], "http://example.org/metrics");
        assert_eq!(elsewhere, Err(StatusCode::MISDIRECTED_REQUEST));
    }
}

//! What the service answers over HTTP; the page in a browser is in `page.rs`.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::common::Playground;
use crate::exposition::Exposition;
use crate::harness::{MIB, Server, have, make_disk, nbdsh, stats};

/// The address of the page and the metrics of `server`.
pub(crate) fn address(server: &Server) -> &str {
    let after = server.ready.split_once("http://").expect("it says where").1;
    after.split_once('/').expect("it is a whole address").0
}

/// An answer, its head by lines in lower case.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<String>,
    pub(crate) body: String,
}

/// What comes back for these bytes, until the end.
fn say(address: &str, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    // Who is refused early does not read it all.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    read(&answer)
}

fn read(answer: &[u8]) -> Option<Answer> {
    let answer = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: lines.map(str::to_lowercase).collect(), body: body.into() })
}

pub(crate) fn ask(address: &str, method: &str, path: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    say(address, request.as_bytes()).expect("there is an answer")
}

pub(crate) fn get(address: &str, path: &str) -> String {
    let answer = ask(address, "GET", path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

fn scrape(address: &str) -> Exposition {
    Exposition::read(&get(address, "/metrics"))
}

pub(crate) const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

#[test]
fn a_scrape_says_what_ctl_says_and_nothing_in_it_ever_falls() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 8 * MIB);
    let ssd =
        ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--ssd-write-budget", "1GiB", "--write", "back-ssd"];
    let server = Server::of_disk(&ground, &[&HTTP[..], &ssd].concat());
    let address = address(&server);
    let mut earlier = scrape(address);
    for round in 0..4 {
        let script = format!(
            "
for block in range(64):
    h.pwrite(bytes([block]) * 16384, block * 16384)
    h.pread(20000, (block * 7919 + {round}) % 300 * 16384)
h.flush()
h.set_strict_mode(0)
try:
    h.pread(4096, 8 << 20)
    raise SystemExit('beyond the end')
except nbd.Error:
    pass
"
        );
        nbdsh(&ground, &script);
        let now = scrape(address);
        now.check_nothing_fell_since(&earlier);
        earlier = now;
    }
    let stats = stats(&ground);
    // Nobody asked for anything in between.
    let scrape = scrape(address);
    let told =
        |path: &str| stats.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path}"));
    for (series, path) in [
        ("terrace_block_reads_total{tier=\"ram\"}", "/counters/read_ram_hits"),
        ("terrace_block_reads_total{tier=\"ssd\"}", "/counters/ssd_hits"),
        ("terrace_block_reads_total{tier=\"disk\"}", "/counters/disk_reads"),
        ("terrace_lane_read_bytes_total{lane=\"disk\"}", "/counters/disk_read_bytes"),
        ("terrace_tier_size_bytes{tier=\"ssd\"}", "/ssd_bytes"),
        ("terrace_ssd_write_budget_bytes_per_day", "/ssd_write_budget_bytes_per_day"),
        ("terrace_connections_accepted_total", "/clients/accepted"),
        ("terrace_requests_total", "/clients/requests"),
        ("terrace_requests_failed_total", "/clients/failures"),
        ("terrace_sent_bytes_total", "/clients/bytes_read"),
        ("terrace_received_bytes_total", "/clients/bytes_written"),
        ("terrace_requests_in_flight", "/clients/requests_in_flight"),
        ("terrace_export_size_bytes{export=\"disk\"}", "/exports/0/bytes"),
    ] {
        assert_eq!(scrape.value(series), told(path), "{series}");
    }
    assert!(told("/counters/disk_reads") > 0 && told("/clients/failures") == 4, "{stats}");
    for operation in stats["exports"][0]["operations"].as_array().expect("a list") {
        let labels = format!("{{export=\"disk\",operation={}}}", operation["operation"]);
        for (metric, key) in
            [("duration_seconds_count", "count"), ("bytes_total", "bytes"), ("errors_total", "errors")]
        {
            let series = format!("terrace_operation_{metric}{labels}");
            assert_eq!(Some(scrape.value(&series)), operation[key].as_u64(), "{series}");
        }
    }
    assert_eq!(scrape.value("terrace_ssd_in_use"), 1);
    assert_eq!(scrape.value("terrace_ssd_off{reason=\"journal\"}"), 0);
    assert!(scrape.has("terrace_build_info{version=\"0.1.0\"}"));
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_was_flushed_is_neither_dirty_nor_unsynced_nor_old() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 8 * MIB);
    let server = Server::of_disk(&ground, &[&HTTP[..], &["--write", "back"]].concat());
    let address = address(&server);
    let dirty = || scrape(address).value("terrace_export_dirty_bytes{export=\"disk\"}");
    assert_eq!(dirty(), 0);
    nbdsh(&ground, "h.pwrite(b'x' * 16384, 0)\nh.flush()");
    assert_eq!((dirty(), scrape(address).value("terrace_dirty_age_seconds{tier=\"ram\"}")), (0, 0));
    assert_eq!(scrape(address).value("terrace_unsynced_bytes"), 0);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn names_of_exports_stay_inside_their_labels() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let conf = "listen = [\"unix:nbd\"]\nhttp = \"127.0.0.1:0\"\n[cache]\nram-size = \"32MiB\"\n[[export]]\nbacking = \
                \"disk\"\nname = \"a\\\"b\\\\c\\nterrace_lost_bytes 1\"\n";
    ground.file("conf", conf.as_bytes());
    let server = Server::start(&ground, &["serve", "--config", "conf"]);
    let scrape = scrape(address(&server));
    assert_eq!(scrape.value("terrace_lost_bytes"), 0);
    assert!(scrape.has(r#"terrace_export_size_bytes{export="a\"b\\c\nterrace_lost_bytes 1"}"#), "{scrape:?}");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn only_what_reads_is_answered() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let server = Server::of_disk(&ground, &HTTP);
    let address = address(&server);
    assert_eq!(get(address, "/healthz"), "ok\n");
    for path in ["/", "/live", "/page.css", "/page.js", "/metrics", "/healthz"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FROB"] {
            let answer = ask(address, method, path);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains(&"allow: get, head".into()), "{:?}", answer.head);
        }
        let (whole, head) = (ask(address, "GET", path), ask(address, "HEAD", path));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let names = |answer: &Answer| {
            answer.head.iter().map(|line| line.split(':').next().map(String::from)).collect::<Vec<_>>()
        };
        assert_eq!(names(&whole), names(&head), "{path}");
        assert!(
            whole.head.iter().any(|line| line.starts_with("content-security-policy: default-src 'none'"))
        );
    }
    for path in ["/nothing", "/metrics/", "/../etc/passwd", "//metrics", "/METRICS"] {
        assert_eq!(ask(address, "GET", path).status, 404, "{path}");
        assert_eq!(ask(address, "POST", path).status, 404, "{path}");
    }
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_name_that_is_not_this_machines_is_refused() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let asked = |server: &Server, host: &str| {
        let port = address(server).rsplit(':').next().expect("there is a port");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        say(&format!("127.0.0.1:{port}"), request.as_bytes()).expect("an answer").status
    };
    let server = Server::of_disk(&ground, &HTTP);
    assert_eq!(asked(&server, "rebound.example.org"), 421);
    assert_eq!((asked(&server, "127.0.0.1"), asked(&server, "localhost")), (200, 200));
    assert_eq!(server.stop().code, Some(0));
    // Whom others may reach, they may call as they like.
    let server = Server::of_disk(&ground, &["--http", "0.0.0.0:0", "--insecure"]);
    assert_eq!(asked(&server, "terrace.example.org"), 200);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_is_no_request_is_refused() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let server = Server::of_disk(&ground, &HTTP);
    let address = address(&server);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "x: y\r\n".repeat(1000));
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(1 << 20));
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"GET\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: local\0host\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
        path.as_bytes(),
    ] {
        // The system may drop an answer to who still sends.
        let status = say(address, bytes).map(|answer| answer.status);
        assert!(status.is_none_or(|status| (400..600).contains(&status)), "{status:?}");
    }
    let mut random = fastrand::Rng::with_seed(crate::harness::seed());
    for _ in 0..100 {
        let mut bytes = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(&bytes).expect("it reads");
        // What is never whole ends here, and not when its time is up.
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(get(address, "/healthz"), "ok\n");
    let ended = server.stop();
    assert_eq!((ended.code, ended.stderr.contains("panic")), (Some(0), false), "{}", ended.stderr);
}

#[test]
fn a_client_that_sends_slowly_is_cut_off_and_holds_up_nobody() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let server = Server::of_disk(&ground, &HTTP);
    let address = address(&server);
    let begun = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(bytes).expect("it reads");
        stream
    };
    let slow = [begun(b""), begun(b"GET /metr"), begun(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n")];
    assert_eq!(get(address, "/healthz"), "ok\n");
    for mut stream in slow {
        // It ends; the test hangs where it does not.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(get(address, "/healthz"), "ok\n");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn who_is_one_too_many_is_told() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let server = Server::of_disk(&ground, &HTTP);
    let address = address(&server);
    let silent: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let mut refused = TcpStream::connect(address).expect("it listens");
    let mut answer = Vec::new();
    refused.read_to_end(&mut answer).expect("it is told");
    assert_eq!(read(&answer).map(|answer| answer.status), Some(503));
    drop(silent);
    // The server sees them go in its own time.
    while say(address, b"GET /healthz HTTP/1.0\r\n\r\n").is_none_or(|answer| answer.status != 200) {
        std::thread::yield_now();
    }
    assert_eq!(server.stop().code, Some(0));
}

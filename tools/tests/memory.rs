//! A trace of many gigabytes goes through every command within 200 MiB of memory.
//!
//! The slow run makes one of 1 GB, of as many as `TERRACE_TRACE_GB` says otherwise; the ordinary run a small one, so that
//! the test itself is known to work.

mod common;

use std::process::Stdio;

use common::{Playground, json};

const PEAK_BYTES_MAX: u64 = 200 << 20;
/// A line of the table that is made.
const LINE_BYTES: u64 = 45;

fn trace_bytes() -> u64 {
    let gigabytes = std::env::var("TERRACE_TRACE_GB").ok().map(|text| text.parse().expect("a whole number"));
    let is_slow = std::env::var_os("TERRACE_SLOW").is_some();
    gigabytes.or(is_slow.then_some(1)).map_or(2_000_000, |gigabytes: u64| gigabytes * 1_000_000_000)
}

/// The most memory that a command without a report had in use, as Linux tells it until it ends.
fn watched(ground: &Playground, arguments: &[&str]) -> u64 {
    let mut child = ground.command(arguments).stdout(Stdio::null()).spawn().expect("the binary was built");
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(&path).expect("a child that was not waited for has one");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        peak = kib.map_or(peak, |kib| kib << 10);
        if let Some(status) = child.try_wait().expect("it is ours") {
            assert!(status.success(), "{arguments:?}");
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// The same as the command itself reports.
fn reported(ground: &Playground, arguments: &[&str]) -> u64 {
    let report = json(&ground.terrace(arguments));
    let own = report.get("memory_peak_bytes").or_else(|| report["passes"][0].get("memory_peak_bytes"));
    own.and_then(serde_json::Value::as_u64).expect("it tells")
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are worth a look")]
fn a_trace_of_many_gigabytes_goes_through_every_command_within_200_mib() {
    let (ground, bytes) = (Playground::new(), trace_bytes());
    let requests = (bytes / LINE_BYTES).to_string();
    let generate = ["trace", "generate", "t.csv", "--as", "csv", "--size", "16GiB", "--pattern", "mix"];
    let mut peaks = vec![watched(&ground, &[&generate[..], &["--requests", &requests]].concat())];
    let made = std::fs::metadata(ground.path().join("t.csv")).expect("it was made").len();
    assert!(made > bytes * 9 / 10, "{made} bytes");
    peaks.push(reported(&ground, &["trace", "info", "t.csv", "--json"]));
    peaks.push(watched(&ground, &["trace", "convert", "t.csv", "t.trc"]));
    let replay = ["replay", "t.csv", "--simulate", "--json", "--ram-size", "1GiB"];
    peaks.push(reported(&ground, &[&replay[..], &["--ssd-size", "8GiB"]].concat()));
    peaks.push(reported(&ground, &[&replay[..], &["--policy", "s3-fifo"]].concat()));
    peaks.push(reported(&ground, &["tune", "t.trc", "--json", "--block-size", "4KiB"]));
    // As many requests for few blocks, one of which has a seventh of them.
    std::fs::remove_file(ground.path().join("t.csv")).expect("it is ours");
    let few = ["trace", "generate", "few.trc", "--size", "256MiB", "--skew", "1.1", "--requests", &requests];
    peaks.push(watched(&ground, &few));
    peaks.push(reported(&ground, &["tune", "few.trc", "--json", "--block-size", "4KiB"]));
    println!(
        "{made} bytes of trace; MiB at the most: {:?}",
        peaks.iter().map(|peak| peak >> 20).collect::<Vec<_>>()
    );
    assert!(peaks.iter().all(|&peak| peak > 0 && peak < PEAK_BYTES_MAX), "{peaks:?}");
}

//! The page of the service, in a browser.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::browser::Browser;
use crate::common::Playground;
use crate::harness::{MIB, Server, have, make_disk, uri};
use crate::http::address;

/// A client that reads and writes until it goes.
struct Load(Child);

impl Load {
    fn start(ground: &Playground) -> Self {
        let script = "
import random
while True:
    block = int(1500 * random.random() ** 3)
    if random.random() < 0.2:
        h.pwrite(bytes(16384), block * 16384)
    else:
        h.pread(16384, block * 16384)
";
        let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("nbdsh");
        command.args(["-u", &uri(ground, ""), "-c", script]).env("PATH", path).stdin(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().expect("nbdsh is there"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ROWS: &str = "document.querySelectorAll('#connections tbody tr').length";

/// Of each plot: its name, how many marks of it can be seen, and whether it is in the colours of its theme.
const PLOTS: &str = "[...document.querySelectorAll('figure svg')].map((svg) => [
    svg.parentElement.id,
    [...svg.querySelectorAll('polyline, polygon, circle')].filter((mark) => {
        const { width, height } = mark.getBoundingClientRect();
        return width + height > 0;
    }).length])";

#[test]
fn the_page_shows_live_what_a_client_does_in_both_themes_and_on_a_phone_without_an_error() {
    if !have(&["nbdsh", "mkfifo"]) {
        return;
    }
    let ground = Playground::new();
    let Some(mut browser) = Browser::start(&ground) else { return };
    make_disk(&ground, "disk", 32 * MIB);
    let ssd =
        ["--ssd-file", "ssd", "--ssd-size", "128MiB", "--ssd-write-budget", "10GiB", "--write", "back-ssd"];
    let server = Server::of_disk(&ground, &[&["--http", "127.0.0.1:0"], &ssd[..]].concat());
    browser.open(&format!("http://{}/", address(&server)));
    browser.until("document.getElementById('lead').textContent === 'Nobody reads at the moment'");
    let load = Load::start(&ground);
    browser.until("/% of reads come from RAM/.test(document.getElementById('lead').textContent)");
    browser.until(&format!("{ROWS} === 1"));
    for part in ["tiles", "reads", "connections", "exports"] {
        let text = browser.value(&format!("document.getElementById('{part}').innerHTML"));
        browser.until(&format!("document.getElementById('{part}').innerHTML !== {text}"));
    }
    let plots = browser.value(PLOTS);
    let names: Vec<&str> =
        plots.as_array().expect("a list").iter().filter_map(|plot| plot[0].as_str()).collect();
    assert_eq!(names, ["reads", "throughput", "latency", "dirty", "ssd"]);
    assert!(plots.as_array().expect("a list").iter().all(|plot| plot[1].as_u64() > Some(0)), "{plots}");
    let colors = ["light", "dark"].map(|theme| {
        let theme = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
        browser.tell("Emulation.setEmulatedMedia", &theme);
        let color = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg polyline')).stroke]";
        browser.value(color)
    });
    assert!(colors[0][0] != colors[1][0] && colors[0][1] != colors[1][1], "one theme: {colors:?}");
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true });
    browser.tell("Emulation.setDeviceMetricsOverride", &phone);
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 360, "it is wider than a phone");
    browser.value("document.getElementById('pause').click()");
    assert_eq!(browser.value("document.getElementById('pause').getAttribute('aria-pressed')"), "true");
    browser.value("document.getElementById('pause').click()");
    drop(load);
    browser.until(&format!("{ROWS} === 0"));
    browser.until("document.getElementById('lead').textContent === 'Nobody reads at the moment'");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
    assert_eq!(server.stop().code, Some(0));
    browser.until("!document.getElementById('gone').hidden");
}

#[test]
fn what_happened_before_the_page_was_opened_is_on_it_also_without_a_script() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 32 * MIB);
    let server = Server::of_disk(&ground, &["--http", "127.0.0.1:0"]);
    let page = || crate::http::get(address(&server), "/");
    let _load = Load::start(&ground);
    // The server looks once a second.
    while !page().contains("of reads come from RAM") {
        std::thread::yield_now();
    }
    let page = page();
    assert!(page.contains("<polyline") && page.contains("<th scope=\"row\">disk</th>"), "{page}");
    assert!(page.contains("<figure hidden>\n<h2>Written to the SSD</h2>"), "there is no SSD: {page}");
}

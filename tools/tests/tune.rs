//! `terrace tune` as its user sees it: text, JSON, files; and in the slow run the page in a browser.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Playground, is_slow_run, json, many_ids, recorded};
use serde_json::Value;

/// Popular pages of one disk, a scan now and then, a request each second.
fn lines(count: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(5);
    let line = |step: u64| {
        let page = if step % 1000 < 250 { 9000 + step } else { (random.f64().powi(3) * 4000.0) as u64 };
        let kind = if step.is_multiple_of(8) { "Write" } else { "Read" };
        let filetime = 128_166_386_787_582_087 + step * 10_000_000;
        format!("{filetime},host,0,{kind},{},4096,1\n", page * 4096).into_bytes()
    };
    (0..count).flat_map(line).collect()
}

#[test]
fn tables_json_page_and_plots_say_the_same() {
    let ground = Playground::new();
    ground.file("t", &lines(20_000));
    let tune = ["tune", "t", "--block-size", "4k"];
    let report =
        json(&ground.terrace(&[&tune[..], &["--json", "--report", "page.html", "--svg", "plots"]].concat()));
    let taken = &report["recommendation"];
    assert!(taken["ram_bytes"].as_u64() > Some(0) && report["runner_up"].is_object());
    assert!(report["surface"].as_array().expect("a list").iter().any(|one| one == taken));
    let page = std::fs::read_to_string(ground.path().join("page.html")).expect("the page is there");
    let said = format!("data-ram=\"{}\" data-ssd=\"{}\"", taken["ram_bytes"], taken["ssd_bytes"]);
    assert!(page.contains(&said), "{said}");
    assert_eq!(std::fs::read_dir(ground.path().join("plots")).expect("the plots are there").count(), 8);
    let text = ground.terrace(&tune);
    assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""));
    for words in ["recommended", "runner-up", "Take ", "no SSD", "simulated exactly"] {
        assert!(text.stdout.contains(words), "{words}: {}", text.stdout);
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_the_work_and_costs_no_answer_behind_it() {
    let ground = Playground::new();
    ground.file("t", &lines(2000));
    ground.file("proof", b"{}");
    let before = ground.listing();
    for place in [
        &["--report", "missing/page.html"][..],
        &["--report", "."],
        &["--report", "./t"],
        &["--report", "proof", "--measured", "proof"],
        &["--svg", "t"],
        &["--svg", "t/plots"],
    ] {
        let run = ground.terrace(&[&["tune", "t", "--block-size", "4k"], place].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{place:?}: {}", run.stderr);
        assert!(run.stderr.contains("; name "), "{}", run.stderr);
    }
    assert_eq!(ground.listing(), before);
    // Nobody can know that this disk is full.
    let run = ground.terrace(&["tune", "t", "--block-size", "4k", "--report", "/dev/full"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("cannot write /dev/full") && run.stdout.contains("Take "), "{}", run.stdout);
}

/// Ends that are counted from them are no numbers: debug builds ended there, and others passed such ids over.
#[test]
fn the_largest_id_is_one_like_any_other_and_the_last_byte_too_far_for_a_volume() {
    let ground = Playground::new();
    ground.file("ids", b"1\n18446744073709551615\n1\n18446744073709551615\n");
    let report = json(&ground.terrace(&["tune", "ids", "--block-size", "4k", "--json"]));
    assert_eq!((report["references"].as_u64(), report["unique_blocks"].as_u64()), (Some(4), Some(2)));
    ground.file("end", b"5,100,R,18446744073709551615,0\n5,101,R,0,4096\n");
    let run = ground.terrace(&["tune", "end"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("2^40 is the limit"), "{}", run.stderr);
}

#[test]
fn constraints_are_kept_and_a_trace_without_times_is_asked_for_its_length() {
    let ground = Playground::new();
    ground.file("ids", &many_ids(20_000));
    let tune = ["tune", "ids", "--block-size", "4k", "--life-years", "2"];
    let refused = ground.terrace(&tune);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("--trace-time"), "{}", refused.stderr);
    let report = json(&ground.terrace(&[&tune[..], &["--trace-time", "1d", "--json"]].concat()));
    let taken = &report["recommendation"];
    assert!(taken["ssd_bytes"] == 0 || taken["life_years"].as_f64() >= Some(2.0), "{taken}");
    let report = json(&ground.terrace(&["tune", "ids", "--block-size", "4k", "--within", "0", "--json"]));
    let [taken, fastest] = ["recommendation", "fastest"].map(|which| &report[which]["read_mean_us"]);
    assert!(taken.is_number() && taken == fastest, "no candidate may be faster: {taken}, {fastest}");
    let report = json(&ground.terrace(&["tune", "ids", "--block-size", "4k", "--ram-max", "1MiB", "--json"]));
    assert!(report["recommendation"]["ram_bytes_total"].as_u64() <= Some(1 << 20));
}

#[test]
fn each_mode_of_writing_has_its_own_hits_wear_and_latency() {
    let ground = Playground::new();
    ground.file("t", &lines(20_000));
    let sizes = ["--block-size", "4k", "--ram-sizes", "1MiB", "--ssd-sizes", "16MiB", "--json"];
    let tuned = ["around", "through", "back", "back-ssd"].map(|mode| {
        let report = json(&ground.terrace(&[&["tune", "t", "--write", mode], &sizes[..]].concat()));
        assert_eq!(report["world"]["write"], mode);
        let taken = &report["recommendation"];
        let number = |key: &str| taken[key].as_f64().expect("a number");
        [number("disk_share"), number("ssd_bytes_written"), number("write_mean_us"), number("index_bytes")]
    });
    let [around, through, back, log] = tuned;
    assert!(around[0] > through[0] && through[0] == back[0], "no tier keeps what goes around: {tuned:?}");
    assert_eq!(through[1..2], back[1..2], "only a log takes writes");
    // 2500 writes of a page, each with the page that says where it is.
    let logged = log[1] - back[1];
    assert!((logged / (2500.0 * 8192.0) - 1.0).abs() < 0.01, "{logged} bytes went to the log");
    assert!(
        around[2] == through[2] && through[2] > back[2] && back[2] == log[2],
        "who waits for the disk: {tuned:?}"
    );
    assert!(log[3] > back[3], "a log has books of its own: {tuned:?}");
}

#[test]
fn a_replay_proves_the_prediction_in_the_same_report() {
    let ground = Playground::new();
    ground.file("t", &lines(4000));
    let sizes = ["--block-size", "4k", "--ram-blocks", "300", "--ssd-blocks", "2000"];
    let replay = |more: &[&str]| {
        let run = ground.terrace(&[&["replay", "t", "--settle", "--json"], &sizes[..], more].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    };
    ground.file("proof", replay(&["--predict", "--disk-latency", "8ms"]).as_bytes());
    ground.file("no-proof", replay(&[]).as_bytes());
    let tune = ["tune", "t", "--block-size", "4k", "--measured"];
    let report = json(&ground.terrace(&[&tune[..], &["proof", "--report", "page.html", "--json"]].concat()));
    let one = &report["measured"][0];
    assert_eq!((one["ram_bytes"].as_u64(), one["ssd_bytes"].as_u64()), (Some(300 * 4096), Some(2000 * 4096)));
    // Settled, a replay does what the simulation does.
    assert_eq!(one["predicted"], one["measured"]);
    assert!(one["measured"]["ssd"].as_f64() > Some(0.01), "{one}");
    assert!(one["predicted_mean_us"].as_f64() > Some(1.0) && one["measured_mean_us"].as_f64() > Some(0.0));
    let page = std::fs::read_to_string(ground.path().join("page.html")).expect("the page is there");
    let share = format!("{:.2} %", one["measured"]["ram"].as_f64().expect("a number") * 100.0);
    assert!(page.contains(&format!("<td>{share}, {share} (+0.00)</td>")), "{share}");
    let text = ground.terrace(&[&tune[..], &["proof"]].concat()).stdout;
    assert!(text.contains("predicted and measured") && text.contains(&share), "{text}");
    for (file, says) in [
        ("no-proof", "without a prediction"),
        ("t", "is no replay's JSON"),
        ("missing", "cannot read missing"),
    ] {
        let run = ground.terrace(&[&tune[..], &[file]].concat());
        assert_eq!(run.code, Some(2), "{file}");
        assert!(run.stderr.contains(says) && run.stderr.contains("--predict --json"), "{}", run.stderr);
    }
}

#[test]
fn a_trace_of_writes_alone_is_no_ground_for_a_recommendation() {
    let ground = Playground::new();
    let writes: String =
        (0..1000).map(|number| format!("0,{},4096,w,{number}\n", number % 300 * 8)).collect();
    ground.file("t", writes.as_bytes());
    let tune = ["tune", "t", "--block-size", "4k"];
    let run = ground.terrace(&tune);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert!(run.stderr.contains("has no reads") && run.stderr.contains("--as-reads"), "{}", run.stderr);
    let taken = &json(&ground.terrace(&[&tune[..], &["--as-reads", "--json"]].concat()))["recommendation"];
    assert_eq!(taken["disk_share"].as_f64(), Some(0.3), "300 blocks of 1000: {taken}");
}

#[test]
fn a_report_says_how_its_trace_was_understood() {
    let ground = Playground::new();
    ground.file(
        "t",
        b"time_ns,volume,operation,offset,bytes\n0,a,read,0,4096\n7200000000000,b,read,4096,4096\n",
    );
    let tune = ["tune", "t", "--block-size", "4k"];
    let text = ground.terrace(&tune).stdout;
    assert!(
        text.starts_with("t (csv): 2 requests") && text.contains("as its columns say, 2 h 0 min, 2 volumes"),
        "{text}"
    );
    let report = json(&ground.terrace(&[&tune[..], &["--json"]].concat()));
    assert_eq!((report["units"].as_str(), report["volumes"].as_u64()), (Some("as its columns say"), Some(2)));
}

#[test]
fn bad_sizes_and_places_end_in_one_line_and_2() {
    let ground = Playground::new();
    ground.file("t", &many_ids(1000));
    for more in [
        &["--ram-sizes", "4k"][..],
        &["--ssd-sizes", "8k"],
        &["--report", "missing/page.html"],
        &["--report", "."],
        &["--trace-time", "0s"],
        &["--probe", "missing"],
        &["--within=-1"],
        &["--life-years", "0"],
        &["--life-years", "101"],
        &["--ssd-latency", "5ms,1ms"],
    ] {
        let run = ground.terrace(&[&["tune", "t", "--block-size", "4k"], more].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{more:?}: {}", run.stderr);
        assert!(run.stderr.lines().count() == 1 && run.stderr.contains("; "), "{more:?}: {}", run.stderr);
    }
}

#[test]
fn a_measured_device_stands_in_for_a_named_latency_and_nothing_stays_behind() {
    let ground = Playground::new();
    ground.file("t", &many_ids(2000));
    ground.file("disk", &vec![1; 4 << 20]);
    let before = ground.listing();
    let probe = ["tune", "t", "--block-size", "4k", "--probe", "disk=disk", "--json"];
    let report = json(&ground.terrace(&probe));
    let mean = report["world"]["disk_latency"]["mean_us"].as_f64().expect("a number");
    assert!(mean > 0.0 && mean != 8000.0, "{mean}");
    assert_eq!(ground.listing(), before);
}

/// A browser without a window; none, and a word about it, where there is none. Where `CI` is set there must be.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let runs =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|run| run.status.success());
    let found = names.into_iter().find(runs);
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "no browser: none of {names:?}");
    if found.is_none() {
        println!("skipped: no browser");
    }
    found
}

/// Runs after the page's own script: what it found goes into the title, where `--dump-dom` shows it.
const LOOK: &str = "<script>
const found = { errors: window.failures, plots: {}, tip: '' };
for (const figure of document.querySelectorAll('figure')) {
  const marks = figure.querySelectorAll('svg rect, svg polyline, svg polygon, svg circle, svg path, svg line');
  const seen = [...marks].filter((mark) => {
    const { width, height } = mark.getBoundingClientRect();
    return width + height > 0 && getComputedStyle(mark).visibility === 'visible';
  });
  found.plots[figure.id] = [seen.length, Number(figure.dataset.marks)];
}
const { ram, ssd } = document.getElementById('recommendation').dataset;
found.recommendation = [Number(ram), Number(ssd)];
const surface = document.querySelector('#surface svg');
const box = surface.getBoundingClientRect();
const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
surface.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: y, bubbles: true }));
found.tip = document.getElementById('tip').textContent;
document.title = 'FOUND' + JSON.stringify(found) + 'END';
</script>";

/// Opens `page` in `browser` and tells what a script finds on it.
fn look(browser: &str, page: &Path, home: &Path) -> (Value, String) {
    let watch = "<head>\n<script>window.failures = []; addEventListener('error', (event) => \
                 window.failures.push(event.message)); console.error = (...words) => \
                 window.failures.push(words.join(' '));</script>";
    let text = std::fs::read_to_string(page).expect("the page is there");
    let watched = text.replacen("<head>", watch, 1).replace("</body>", &format!("{LOOK}</body>"));
    let copy = home.join("watched.html");
    std::fs::write(&copy, watched).expect("a file in our directory");
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    let run = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0"])
        .args([&profile, "--window-size=1280,2400", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("file://{}", copy.display()))
        .output()
        .expect("the browser runs");
    let (dom, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let found = dom.split("FOUND").nth(1).and_then(|rest| rest.split("END").next());
    let found = found.unwrap_or_else(|| panic!("the script did not run: {log}")).replace("&amp;", "&");
    (serde_json::from_str(&found).expect("one JSON object"), log.into_owned())
}

#[test]
fn the_page_opens_in_a_browser_without_an_error_and_every_plot_has_its_marks() {
    let Some(browser) = Some(()).filter(|()| is_slow_run()).and_then(|()| browser()) else { return };
    let ground = Playground::new();
    ground.file("t", &lines(20_000));
    let mut traces = vec!["t".to_string()];
    traces.extend(recorded("cloudphysics/cloudPhysicsIO.vscsi.zst"));
    for trace in traces {
        let tune = ["tune", &trace, "--block-size", "16k", "--json", "--report", "page.html"];
        let report = json(&ground.terrace(&tune));
        let (found, log) = look(browser, &ground.path().join("page.html"), ground.path());
        assert_eq!(found["errors"], serde_json::json!([]), "{trace}");
        assert!(!log.contains("CONSOLE") || !log.to_lowercase().contains("error:console"), "{log}");
        let taken = &report["recommendation"];
        let wanted = serde_json::json!([taken["ram_bytes"], taken["ssd_bytes"]]);
        assert_eq!(found["recommendation"], wanted, "{trace}");
        let plots = found["plots"].as_object().expect("plots");
        assert_eq!(plots.len(), 8, "{found}");
        for (name, marks) in plots {
            let (seen, wanted) = (marks[0].as_u64(), marks[1].as_u64());
            assert!(wanted > Some(0) && seen >= wanted, "{trace}, {name}: {marks}");
        }
        let tip = found["tip"].as_str().expect("text");
        assert!(tip.contains("RAM ") && tip.contains("price"), "the pointer shows nothing: {tip}");
    }
}

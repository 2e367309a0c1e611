//! Who may import whom, and which words stand where: the walls inside the packages, held by reading the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below `folder`, with its path relative to the workspace.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder of a package can be read") {
            let path: PathBuf = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a source file is text")));
            }
        }
    }
    assert!(!found.is_empty(), "no source in {folder}");
    found
}

/// The code of a file: without comments and without its unit tests at the bottom.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    product.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Fails when a product file below `folder`, `except` those, has one of `words`.
fn forbid(folder: &str, except: &[&str], words: &[&str], why: &str) {
    for (name, text) in sources(folder) {
        let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
        if is_test || except.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let code = code(&text);
        for word in words {
            assert!(!code.contains(word), "{name} has `{word}`: {why}");
        }
    }
}

#[test]
fn the_places_never_name_each_other() {
    let why = "ram, ssd and backing stand side by side";
    forbid("tiers/ram", &[], &["crate::ssd", "crate::backing", "crate::device", "crate::file_device"], why);
    forbid("tiers/ssd", &[], &["crate::ram", "crate::backing", "crate::file_device"], why);
    forbid("tiers/backing", &[], &["crate::ram", "crate::ssd"], why);
}

#[test]
fn imports_point_down_to_device_and_block() {
    for (file, above) in [
        (
            "tiers/block.rs",
            &["crate::device", "crate::ram", "crate::ssd", "crate::backing", "crate::file_device"][..],
        ),
        ("tiers/mark.rs", &["crate::ram", "crate::ssd", "crate::backing", "crate::file_device"]),
        ("tiers/error.rs", &["crate::"]),
        ("tiers/device.rs", &["crate::ram", "crate::ssd", "crate::backing", "crate::file_device"]),
    ] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(root.join(file)).expect("the file is there");
        for word in above {
            assert!(!code(&text).contains(word), "{file} has `{word}`: imports point down");
        }
    }
    forbid("tiers", &[], &["terrace::"], "nothing imports upwards");
    forbid("src", &[], &["terrace_tools", "terrace_bench"], "nothing imports upwards");
    forbid("tools/nbd", &[], &["terrace::", "terrace_tiers"], "the server of NBD knows no cache");
    forbid("src/recording", &[], &["terrace::", "terrace_tiers"], "a recording knows no cache");
    let why = "the pool runs jobs and knows no cache";
    forbid("src/pool", &[], &["crate::cache", "crate::simulate", "crate::config"], why);
    forbid("src/cache", &[], &["crate::simulate"], "the cache does not know that it is simulated");
}

#[test]
fn a_tier_has_no_thread_no_lock_and_no_clock() {
    let devices = ["tiers/backing", "tiers/file_device", "tiers/testing"];
    let words =
        ["std::thread", "Mutex", "RwLock", "Condvar", "parking_lot", "Instant", "SystemTime", "sleep("];
    forbid("tiers", &devices, &words, "a tier is bookkeeping; only implementations of `Device` may wait");
}

#[test]
fn odd_dependencies_stay_behind_one_file() {
    forbid("tiers", &["tiers/ssd/encoding.rs"], &["bincode"], "bincode is behind tiers/ssd/encoding.rs");
    forbid(
        "src/recording",
        &["src/recording/encoding.rs"],
        &["bincode"],
        "bincode is behind src/recording/encoding.rs",
    );
    let unchecked = ["parking_lot", "shuttle", "std::sync::Mutex", "std::sync::atomic", "std::thread"];
    let why = "locks, atomics, threads and moments come from src/sync.rs, or no checker sees them";
    // What a caller sets is the caller's.
    forbid("src", &["src/sync", "src/config.rs"], &unchecked, why);
    forbid("src", &["src/sync"], &["std::time::Instant", "Duration, Instant"], why);
}

#[test]
fn unsafe_code_stays_where_it_is_proved() {
    let proved = [
        "tiers/ram/frames",
        "tiers/file_device",
        "bench/instructions.rs",
        "bench/plain.rs",
        "bench/processor.rs",
        "tools/memory.rs",
        "tools/nbd/listen/activated.rs",
    ];
    for folder in ["tiers", "src", "tools", "bench"] {
        forbid(
            folder,
            &proved,
            &["unsafe {", "unsafe fn", "unsafe impl"],
            "unsafe is for frames and system calls",
        );
    }
}

//! Bad input and a hostile environment: one line on standard error, exit code 2, nothing changed on disk.

mod common;

use std::fs;
use std::path::Path;

use common::{Playground, many_ids};

/// Runs `terrace replay` with `arguments` in `ground` and holds it to the rule; gives the line.
fn refused(ground: &Playground, arguments: &[&str]) -> String {
    let before = ground.listing();
    let run = ground.terrace(arguments);
    let (arguments, stderr) = (arguments.join(" "), &run.stderr);
    assert_eq!(run.code, Some(2), "{arguments}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments}: {stderr}");
    assert!(stderr.contains("; "), "a remedy is missing: {stderr}");
    assert_eq!(run.stdout, "", "{arguments}");
    assert_eq!(ground.listing(), before, "{arguments} changed the directory");
    stderr.clone()
}

#[test]
fn a_line_that_cannot_be_read_is_named_with_what_was_expected() {
    let ground = Playground::new();
    ground.file("t.lis", b"1 8 0 0\n9 sixteen 0 1\n");
    let line = refused(&ground, &["replay", "t.lis"]);
    assert!(line.contains("t.lis, line 2: expected `start count ignored sequence`"), "{line}");
    assert!(line.contains("found `9 sixteen 0 1`"), "{line}");
    refused(&ground, &["replay", "t.lis", "--ssd-file", "cache", "--backing", "disk"]);
    refused(&ground, &["replay", "t.lis", "--simulate"]);
}

#[test]
fn a_truncated_zstd_is_reported_as_such_with_the_byte() {
    let ground = Playground::new();
    let whole = zstd::encode_all(&many_ids(50_000)[..], 3).expect("in memory");
    let kept = whole.len() - 100;
    ground.file("t.zst", &whole[..kept]);
    let line = refused(&ground, &["replay", "t.zst", "--ssd-file", "cache"]);
    assert!(line.contains("truncated") && line.contains(&format!("byte {kept} ")), "{line}");
}

#[test]
fn a_trace_that_is_missing_empty_a_directory_or_of_no_known_format_is_refused() {
    let ground = Playground::new();
    ground.file("empty", b"");
    ground.file("marks", b"*\n\n*\n");
    ground.file("prose", b"It was a dark and stormy night.\n");
    ground.file("gzip", &[0x1f, 0x8b, 8, 0, 0, 0]);
    for trace in ["missing", "empty", "marks", "prose", "gzip", "."] {
        refused(&ground, &["replay", trace]);
    }
    refused(&ground, &["replay", "marks", "--format", "ids"]);
    refused(&ground, &["replay", "prose", "--format", "vscsi"]);
}

#[test]
fn sizes_that_do_not_fit_are_refused_before_anything_is_made() {
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    for arguments in [
        &["--block-size", "12KiB"][..],
        &["--block-size", "2MiB"],
        &["--block-size", "1k"],
        &["--ram-size", "0"],
        &["--ram-blocks", "0"],
        &["--ram-size", "8k"],
        &["--ram-size", "lots"],
        &["--ram-size", "1MiB", "--ram-blocks", "5"],
        &["--ssd-size", "0"],
        &["--ssd-file", "cache", "--ssd-size", "4k"],
        &["--threads", "0"],
        &["--passes", "0"],
        &["--disk-seek", "8"],
        &["--disk-iops", "0"],
        &["--speed", "fast"],
        &["--speed", "0x"],
        &["--in-flight", "8"],
        &["--limit", "0"],
        &["--overwrite"],
        &["--disk-latency", "8ms"],
        &["--predict", "--disk-latency", "8"],
        &["--ssd-admit", "all"],
        &["--frob"],
    ] {
        refused(&ground, &[&["replay", "t"], arguments].concat());
    }
    let line = refused(&ground, &["replay", "t", "--block-size", "12KiB"]);
    assert!(line.contains("12288 is not a power of two"), "{line}");
}

#[test]
fn order_is_refused_where_no_log_on_an_ssd_brings_blocks_to_the_disk() {
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    for mode in [&[][..], &["--write", "around"], &["--write", "through"], &["--write", "back"]] {
        let line = refused(&ground, &[&["replay", "t", "--ordered", "--ssd-size", "64MiB"], mode].concat());
        assert!(line.contains("only --write back-ssd has one"), "{line}");
    }
    refused(&ground, &["replay", "t", "--ordered", "--write", "back-ssd"]);
    refused(&ground, &["replay", "--demo", "--ordered"]);
}

#[test]
fn paths_that_cannot_be_used_are_refused() {
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    ground.file("full", b"do not touch");
    fs::create_dir(ground.path().join("directory")).expect("a new directory");
    for arguments in [
        &["--ssd-file", "directory"][..],
        &["--ssd-file", "missing/cache"],
        &["--ssd-file", "t"],
        &["--backing", "t"],
        &["--backing", "full"],
        &["--backing", "missing/disk"],
        &["--backing", "directory", "--overwrite"],
        &["--backing", "same", "--ssd-file", "./same"],
        // Nobody may make files there, not even root.
        &["--ssd-file", "/proc/cache"],
        &["--backing", "/proc/disk"],
        &["--ssd-file", "cache", "--backing", "/proc/disk"],
    ] {
        refused(&ground, &[&["replay", "t"], arguments].concat());
    }
}

#[test]
fn a_directory_without_rights_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    let locked = ground.path().join("locked");
    fs::create_dir(&locked).expect("a new directory");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).expect("it is ours");
    if fs::File::create(locked.join("probe")).is_ok() {
        let _ = fs::remove_file(locked.join("probe"));
        #[expect(clippy::print_stdout, reason = "a test that skips says so")]
        {
            println!("skipped: this user may write everywhere");
        }
        return;
    }
    refused(&ground, &["replay", "t", "--ssd-file", "locked/cache"]);
    refused(&ground, &["replay", "t", "--backing", "locked/disk"]);
}

#[test]
fn an_ssd_path_without_room_is_refused() {
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    refused(&ground, &["replay", "t", "--ssd-file", "cache", "--ssd-size", "7TiB"]);
    refused(&ground, &["replay", "t", "--ssd-size", "7TiB"]);
}

#[test]
fn a_cache_file_of_another_cache_or_format_is_refused_and_stays_as_it_is() {
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    ground.file("foreign", &vec![0x5a; 1 << 20]);
    refused(&ground, &["replay", "t", "--ssd-file", "foreign"]);
    let made = ground.terrace(&["replay", "t", "--ssd-file", "cache", "--ssd-size", "64MiB"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let line = refused(
        &ground,
        &["replay", "t", "--ssd-file", "cache", "--ssd-size", "64MiB", "--block-size", "4k"],
    );
    assert!(line.contains("16384") && line.contains("4096"), "{line}");
}

#[test]
fn an_existing_backing_file_is_taken_only_when_told_to() {
    let ground = Playground::new();
    ground.file("t", b"1\n2\n");
    ground.file("disk", b"precious");
    let line = refused(&ground, &["replay", "t", "--backing", "disk"]);
    assert!(line.contains("--overwrite"), "{line}");
    let run = ground.terrace(&["replay", "t", "--backing", "disk", "--overwrite"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(Path::new(&ground.path().join("disk")).exists(), "a path that was named stays");
}

#[test]
fn what_a_trace_does_not_have_cannot_be_asked_for() {
    let ground = Playground::new();
    ground.file("ids", b"1\n2\n");
    ground.file("t.spc", b"0,0,4096,r,1\n0,8,4096,w,2\n2,8,4096,w,3\n");
    for (arguments, says) in [
        (&["ids", "--speed", "1x"][..], "has no times"),
        (&["ids", "--from", "1s"], "has no times"),
        (&["t.spc", "--from", "2020-01-01"], "not a wall clock's"),
        (&["t.spc", "--from", "2s", "--to", "1s"], "ends before it begins"),
        (&["t.spc", "--from", "9s"], "holds no reads and no writes"),
        (&["t.spc", "--volume", "7"], "holds no reads and no writes"),
        (&["t.spc", "--volume", "1", "--volume", "7"], "volume 7"),
        (&["t.spc", "--map", "7=disk"], "volume 7"),
        (&["t.spc", "--map", "0=disk", "--to", "500ms", "--volume", "1"], "holds no reads and no writes"),
        (&["t.spc", "--map", "0=disk", "--volume", "1"], "volume 0"),
        (&["t.spc", "--map", "0=a", "--map", "0=b"], "volume 0 twice"),
        (&["t.spc", "--map", "0=same", "--map", "1=./same"], "same file"),
        (&["t.spc", "--map", "0=t.spc"], "exists"),
        (&["t.spc", "--map", "0=missing/disk"], "no directory"),
        (&["t.spc", "--map", "disk"], "expected NUMBER=PATH"),
        (&["t.spc", "--map", "0=disk", "--simulate"], "--simulate"),
        (&["t.spc", "--speed", "1x", "--threads", "4"], "--in-flight"),
        (&["t.spc", "--speed", "1x", "--settle"], "--settle"),
        (&["t.spc", "--speed", "1x", "--simulate"], "simulation"),
        (&["t.spc", "--predict", "--simulate"], "--simulate"),
    ] {
        let line = refused(&ground, &[&["replay"], arguments].concat());
        assert!(line.contains(says), "{says}: {line}");
    }
}

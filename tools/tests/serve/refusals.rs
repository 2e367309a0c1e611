//! Bad input: one line with the remedy, exit code 2, nothing changed on disk.

use std::io::{BufRead, BufReader};

use crate::common::{Playground, Run};
use crate::harness::{MIB, make_disk};

/// Runs the service to its end, which comes at once if it gets ready.
pub(crate) fn serve(ground: &Playground, arguments: &[&str]) -> Run {
    let mut child = ground.command(&[&["serve"], arguments].concat()).spawn().expect("it was built");
    let mut stdout = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe"));
    if lines.read_line(&mut stdout).expect("text") > 0 {
        child.kill().expect("it serves");
    }
    let output = child.wait_with_output().expect("it ends");
    Run { code: output.status.code(), stdout, stderr: String::from_utf8(output.stderr).expect("text") }
}

fn refused(ground: &Playground, arguments: &[&str]) -> String {
    let before = ground.listing();
    let run = serve(ground, arguments);
    let stderr = &run.stderr;
    assert_eq!(run.code, Some(2), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.contains("; "), "a remedy is missing: {stderr}");
    assert_eq!(run.stdout, "", "{arguments:?}");
    assert_eq!(ground.listing(), before, "{arguments:?} changed the directory");
    stderr.clone()
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_made() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    ground.file("empty", b"");
    ground.file("foreign", &vec![0x5a; 1 << 20]);
    let both = "listen = [\"unix:nbd\"]\n[[export]]\nbacking = \"disk\"\nexclusive = true\ngeneration = 1\n";
    ground.file("both", both.as_bytes());
    let listen = ["--listen", "unix:nbd"];
    for arguments in [
        &["--ram-size", "32MiB"][..],
        &["--backing", "missing"],
        &["--backing", "empty"],
        &["--backing", "."],
        &["--backing", "disk", "--ram-size", "0"],
        &["--backing", "disk", "--ram-size", "8k"],
        &["--backing", "disk", "--block-size", "12KiB"],
        &["--backing", "disk", "--write", "back-ssd"],
        &["--backing", "disk", "--write", "later"],
        &["--backing", "disk", "--ssd-file", "ssd"],
        &["--backing", "disk", "--ssd-size", "1GiB"],
        &["--backing", "disk", "--ssd-file", "ssd", "--ssd-size", "4k"],
        &["--backing", "disk", "--ssd-file", "ssd", "--ssd-size", "7TiB"],
        &["--backing", "disk", "--ssd-file", "foreign", "--ssd-size", "128MiB"],
        &["--backing", "disk", "--ssd-file", "disk", "--ssd-size", "128MiB"],
        &["--backing", "disk", "--ssd-file", "./disk", "--ssd-size", "128MiB"],
        &["--backing", "disk", "--ssd-file", "no/folder", "--ssd-size", "128MiB"],
        &["--backing", "disk", "--exclusive"],
        &["--backing", "disk", "--generation", "1"],
        &["--backing", "disk", "--ordered"],
        &["--backing", "disk", "--connections", "0"],
        &["--backing", "disk", "--stop-timeout", "0s"],
        &["--backing", "disk", "--stop-timeout", "5"],
        &["--backing", "disk", "--tls-cert", "foreign"],
        &["--backing", "disk", "--tls-cert", "foreign", "--tls-key", "foreign"],
        &["--backing", "disk", "--control", "disk"],
        &["--backing", "disk", "--control", "no/folder"],
        &["--config", "missing"],
        &["--config", "both"],
        &["--config", "foreign"],
    ] {
        let needs_address = !arguments.contains(&"--config");
        refused(&ground, &[arguments, if needs_address { &listen } else { &[] }].concat());
    }
}

#[test]
fn addresses_that_cannot_be_or_that_anybody_could_reach_are_refused() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let busy = busy.local_addr().expect("it has one").to_string();
    for address in
        ["nbd", "unix:", "unix:disk", "unix:no/folder", "127.0.0.1", "127.0.0.1:x", "192.0.2.1:10809", &busy]
    {
        refused(&ground, &["--backing", "disk", "--listen", address]);
    }
    refused(&ground, &["--backing", "disk"]);
    let to_see =
        |address: &str| refused(&ground, &["--backing", "disk", "--listen", "unix:nbd", "--http", address]);
    for address in ["127.0.0.1", "unix:http", "127.0.0.1:x", &busy] {
        to_see(address);
    }
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:10809"] {
        assert!(to_see(address).contains("--http on 127.0.0.1, or accept that by --insecure"));
        let line = refused(&ground, &["--backing", "disk", "--listen", address]);
        assert!(line.contains("--tls-cert") && line.contains("--insecure"), "{line}");
    }
}

#[test]
fn a_file_that_contradicts_itself_is_refused_with_what_is_wrong() {
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    ground.file("foreign", &vec![0x5a; 1 << 20]);
    let head = "listen = [\"unix:nbd\"]\n";
    for (text, said) in [
        ("", "there is nothing to serve"),
        ("[[export]]\nbacking = \"disk\"\n[[export]]\nbacking = \"disk\"", "two exports are named disk"),
        (
            "[[export]]\nbacking = \"disk\"\n[[export]]\nname = \"again\"\nbacking = \"./disk\"",
            "is the backing store of export again and export disk too",
        ),
        // What a mark takes the place of is gone.
        (
            "[[export]]\nbacking = \"disk\"\nmark = \"./disk\"",
            "is the mark of export disk, and export disk too",
        ),
        (
            "[cache]\nssd-file = \"foreign\"\nssd-size = \"128MiB\"\n[[export]]\nbacking = \"disk\"\nmark = \"foreign\"",
            "is the mark of export disk, and the cache file too",
        ),
        ("[[export]]\nbacking = \"disk\"\nmark = \"foreign\"", "it is no mark"),
        ("[[export]]\nbacking = \"disk\"\nwrite = \"back-ssd\"", "there is none"),
        ("[cache]\nssd-file = \"ssd\"\n[[export]]\nbacking = \"disk\"", "no size"),
        ("[[export]]\nbacking = \"disk\"\nreadonly = true", "line 4: unknown field `readonly`"),
        ("[limits]\nconnections = 0\n[[export]]\nbacking = \"disk\"", "lets no client in"),
        ("[tls]\ncert = \"x\"\nkey = \"y\"\n[[export]]\nbacking = \"disk\"", "TLS cannot be offered"),
    ] {
        ground.file("conf", format!("{head}{text}").as_bytes());
        let line = refused(&ground, &["--config", "conf"]);
        assert!(line.contains(said), "{text}: {line}");
    }
    refused(&ground, &["--config", "conf", "--backing", "disk"]);
}

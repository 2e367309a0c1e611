//! `terrace top`.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::Playground;
use crate::harness::{MIB, Server, have, make_disk, nbdsh};

const TOP: [&str; 5] = ["top", "--socket", "nbd.control", "--interval", "50ms"];

#[test]
fn one_frame_as_text_has_what_the_service_does() {
    if !have(&["nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &["--write", "back"]);
    nbdsh(&ground, "h.pwrite(b'x' * 4096, 0)\nh.pread(4096, 0)\nh.flush()");
    let run = ground.terrace(&[&TOP[..], &["--once"]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for word in ["terrace  RAM 32 MiB  no SSD", "block reads", "read ram", "flush", "disk ", "back"] {
        assert!(run.stdout.contains(word), "{word}: {}", run.stdout);
    }
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_cannot_be_watched_is_said_in_one_line() {
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &[]);
    for (arguments, said) in [
        (&["top", "--socket", "nowhere"][..], "name the socket that `terrace serve` told"),
        (&TOP[..], "is no terminal; ask for text by --once"),
        (&["top", "--socket", "nbd.control", "--interval", "0s", "--once"][..], "10ms at least"),
        (&["top", "--socket", "disk", "--once"][..], "no answer at disk"),
    ] {
        let run = ground.terrace(arguments);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(server.stop().code, Some(0));
}

/// The command in a terminal, killed when it goes.
struct Terminal {
    script: Child,
    keys: Option<ChildStdin>,
    screen: ChildStdout,
    seen: String,
}

impl Terminal {
    fn of(ground: &Playground) -> Self {
        let terrace = env!("CARGO_BIN_EXE_terrace");
        let top = format!("stty rows 24 cols 80; {terrace} {}; echo ended with $?; stty -a", TOP.join(" "));
        let mut script = Command::new("script")
            .args(["-q", "-e", "-c", &top, "/dev/null"])
            .current_dir(ground.path())
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it is there");
        let keys = script.stdin.take();
        let screen = script.stdout.take().expect("it is a pipe");
        Self { script, keys, screen, seen: String::new() }
    }

    fn until(&mut self, word: &str) {
        let mut bytes = [0; 4096];
        while !self.seen.contains(word) {
            let count = self.screen.read(&mut bytes).expect("it can be read");
            assert!(count > 0, "it ended without {word:?}: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.as_mut().expect("it has not ended").write_all(keys).expect("it reads");
    }

    /// All that was on the screen.
    fn ended(mut self) -> String {
        self.keys = None;
        let _ = self.screen.read_to_string(&mut self.seen);
        assert!(self.script.wait().expect("it ends").success(), "{:?}", self.seen);
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended when the test went well.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A service, and a terminal in which it is watched; none where there is no terminal to be had.
fn watched() -> Option<(Playground, Server, Terminal)> {
    if !have(&["script"]) {
        return None;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", 4 * MIB);
    let server = Server::of_disk(&ground, &[]);
    let terminal = Terminal::of(&ground);
    Some((ground, server, terminal))
}

#[test]
fn in_a_terminal_it_draws_outlives_the_service_and_leaves_the_terminal_as_it_was() {
    let Some((_ground, server, mut terminal)) = watched() else { return };
    terminal.until("terrace");
    terminal.until("operation");
    assert_eq!(server.stop().code, Some(0));
    terminal.until("no answer at");
    terminal.press(b"xq");
    terminal.until("ended with 0");
    terminal.until("echo");
    let seen = terminal.ended();
    let after = seen.split("ended with 0").nth(1).expect("it was seen");
    assert!(after.contains(" icanon") && after.contains(" echo"), "{after}");
    assert!(seen.contains("\u{1b}[?1049h") && seen.contains("\u{1b}[?1049l"), "the other screen: {seen:?}");
}

/// It waited for the answer, ten seconds long, before it looked at the keys.
#[test]
fn it_quits_at_once_while_the_service_hangs() {
    let Some((_ground, server, mut terminal)) = watched() else { return };
    terminal.until("operation");
    server.signal(Signal::STOP);
    // It asks meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    let since = Instant::now();
    terminal.press(b"q");
    terminal.until("ended with 0");
    assert!(since.elapsed() < Duration::from_secs(5), "after {:?}", since.elapsed());
    terminal.ended();
    server.signal(Signal::CONT);
    assert_eq!(server.stop().code, Some(0));
}

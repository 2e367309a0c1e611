//! The owner of the service, who changes it all the time while clients work.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::Playground;
use crate::harness::{MIB, Server};

/// The sizes that a round begins and ends with, and that memory is compared at.
const RAM: usize = 16 * MIB;
const SSD: usize = 128 * MIB;

/// A change follows the one before after so long at most: clients get to work in each state.
const PAUSE_MS_MAX: u64 = 200;

pub(super) struct Governor<'a> {
    pub(super) ground: &'a Playground,
    pub(super) server: &'a Server,
    pub(super) random: fastrand::Rng,
    /// Each export with its mode; the last is on the slow disk, and keeps its own.
    pub(super) modes: Vec<(String, &'static str)>,
    pub(super) has_ssd: bool,
    pub(super) changes: u64,
    pub(super) reloads: usize,
}

impl Governor<'_> {
    /// Changes this and that while `goes_on`, and leaves the sizes as they were.
    pub(super) fn govern(&mut self, goes_on: impl Fn() -> bool) {
        while goes_on() {
            self.change();
            self.changes += 1;
            std::thread::sleep(Duration::from_millis(self.random.u64(..PAUSE_MS_MAX)));
        }
        if !self.has_ssd {
            self.attach();
        }
        self.reload(false);
        self.tell(&["resize-ssd", &SSD.to_string()]);
        self.tell(&["resize-ram", &RAM.to_string()]);
        self.tell(&["drain"]);
    }

    fn change(&mut self) {
        match self.random.u8(..12) {
            0 | 1 => {
                let size = self.random.usize(8..32) * MIB;
                self.tell(&["resize-ram", &size.to_string()]);
            }
            2 if self.has_ssd => {
                let size = self.random.usize(96..256) * MIB;
                self.tell(&["resize-ssd", &size.to_string()]);
            }
            3..6 => self.set_mode(),
            6 if self.has_ssd => self.detach(),
            6 | 7 if !self.has_ssd => self.attach(),
            8 => {
                let is_more = self.random.bool();
                self.reload(is_more);
            }
            9 => drop(self.tell(&["flush"])),
            10 => drop(self.tell(&["drain"])),
            _ => drop(self.tell(&["stats"])),
        }
    }

    fn set_mode(&mut self) {
        let modes = ["around", "through", "back", "back-ssd"];
        let mode = modes[self.random.usize(..if self.has_ssd { 4 } else { 3 })];
        let index = self.random.usize(..self.modes.len() - 1);
        self.modes[index].1 = mode;
        let name = self.modes[index].0.clone();
        self.tell(&["set-mode", mode, &name]);
    }

    fn detach(&mut self) {
        for index in 0..self.modes.len() {
            if self.modes[index].1 == "back-ssd" {
                self.modes[index].1 = "back";
                let name = self.modes[index].0.clone();
                self.tell(&["set-mode", "back", &name]);
            }
        }
        self.tell(&["detach-ssd"]);
        self.has_ssd = false;
    }

    fn attach(&mut self) {
        self.tell(&["attach-ssd", "ssd", &SSD.to_string()]);
        self.has_ssd = true;
    }

    /// A file with other limits and sizes than are in force, and with one address more or not.
    fn reload(&mut self, is_more: bool) {
        let text = config(&self.modes, self.has_ssd, is_more, &mut self.random);
        self.ground.file("conf", text.as_bytes());
        self.reloads += 1;
        self.server.signal(Signal::HUP);
        // The service says what it did when it has done it.
        let said = || fs::read_to_string(self.ground.path().join("said")).expect("it is there");
        let reloads = |said: &str| said.lines().filter(|line| is_about_reload(line)).count();
        while reloads(&said()) < self.reloads {
            std::thread::yield_now();
        }
        let said = said();
        let last = said.lines().rfind(|line| is_about_reload(line)).expect("it is there");
        assert!(!last.contains("not "), "{last}");
    }

    fn tell(&self, arguments: &[&str]) -> String {
        let run = self.ground.terrace(&[&["ctl", "--socket", "nbd.control"], arguments].concat());
        assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
        run.stdout
    }

    pub(super) fn stats(&self) -> Value {
        serde_json::from_str(&self.tell(&["--json", "stats"])).expect("JSON")
    }
}

fn is_about_reload(line: &str) -> bool {
    line.starts_with("terrace: changed: ") || line.contains("the file ")
}

/// A file for the service, with any limits and sizes.
pub(super) fn config(
    modes: &[(String, &'static str)],
    has_ssd: bool,
    is_more: bool,
    random: &mut fastrand::Rng,
) -> String {
    let also = if is_more { ", \"unix:also\"" } else { "" };
    let mut text = format!(
        "listen = [\"unix:nbd\", \"127.0.0.1:0\"{also}]\nlog = \"error\"\nstop-timeout = \"600s\"\n\
         [limits]\nconnections = 200\nrequests = {}\nmemory = \"{}KiB\"\nhandshake-time = \"1s\"\n[cache]\nram-size = {}\n",
        random.u8(1..40),
        random.u32(16..4096),
        random.usize(8..32) * MIB,
    );
    if has_ssd {
        let _ = writeln!(text, "ssd-file = \"ssd\"\nssd-size = {}", random.usize(96..256) * MIB);
    }
    for (name, mode) in modes {
        let _ = writeln!(text, "[[export]]\nname = \"{name}\"\nbacking = \"{name}.img\"\nwrite = \"{mode}\"");
    }
    text
}

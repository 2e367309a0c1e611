//! What a service takes over from its file while clients are connected.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::common::Playground;
use crate::harness::{MIB, Server, contents, have, make_disk, noise, run, stats, try_run, uri};
use crate::raw::{Ask, Client, FLUSH, Heads, Place, READ};
use crate::tls::make_certificates;

const CONFIG: &str = r#"
listen = ["unix:nbd"]
[cache]
ram-size = "32MiB"
[[export]]
name = "one"
backing = "one.img"
"#;

#[test]
fn a_hangup_takes_over_what_can_change_and_names_what_cannot() {
    if !have(&["nbdinfo", "nbdsh"]) {
        return;
    }
    let ground = Playground::new();
    for name in ["one.img", "two.img"] {
        make_disk(&ground, name, MIB);
    }
    ground.file("conf", CONFIG.as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    let changed = CONFIG.replace("32MiB", "64MiB")
        + "write = \"back\"\n[[export]]\nname = \"two\"\nbacking = \"two.img\"\n";
    ground.file("conf", changed.replace("[cache]", "[cache]\nblock-size = \"32KiB\"").as_bytes());
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert_eq!(
        line,
        "terrace: changed: mode of one, ram-size, two is new; waits for the next start: block-size"
    );
    assert_eq!(run(&ground, "nbdinfo", &["--size", &uri(&ground, "two")]).trim(), MIB.to_string());
    let in_force = stats(&ground);
    assert_eq!(
        (&in_force["exports"][0]["mode"], &in_force["ram_bytes"]),
        (&"back".into(), &(64 << 20).into())
    );
    let nbd = Place::Unix(ground.path().join("nbd"));
    let [mut stays, goes] =
        ["one", "two"].map(|name| Client::of(&nbd, Heads::Simple, name).expect("it is let in"));
    ground.file("conf", b"nonsense");
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert!(line.contains("the file was not taken over: ") && line.contains("line 1"), "{line}");
    ground.file("conf", changed.replace("\"one\"", "\"two\"").as_bytes());
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert!(line.contains("two exports are named two"), "{line}");
    ground.file("conf", CONFIG.as_bytes());
    server.signal(Signal::HUP);
    let line = server.next_line();
    assert_eq!(line, "terrace: changed: two is gone, mode of one, ram-size");
    assert!(!try_run(&ground, "nbdinfo", &["--size", &uri(&ground, "two")]).status.success());
    goes.wait_for_end();
    assert!(stays.ask(&READ_ONE, &[]).is_ok());
    assert_eq!(stats(&ground)["exports"][0]["mode"], "through");
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: the file says what is in force");
    ground.file("conf", changed.as_bytes());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: changed: mode of one, ram-size, two is new", "it comes again");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_waits_for_the_next_start_is_named_and_stays_as_it_is() {
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    let config = CONFIG.replace("[cache]", "[cache]\nssd-file = \"ssd\"\nssd-size = \"128MiB\"");
    ground.file("conf", config.as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    let cache = "[cache]\nblock-size = \"32KiB\"\nssd-write-budget = \"1GiB\"\nordered = true";
    let changed = config.replace("\"ssd\"", "\"other-ssd\"").replace("[cache]", cache);
    let changed = format!(
        "socket-mode = \"0660\"\ncontrol = \"other\"\nhttp = \"127.0.0.1:0\"{changed}description = \"the first\"\n"
    );
    ground.file("conf", changed.as_bytes());
    for _ in 0..2 {
        server.signal(Signal::HUP);
        assert_eq!(
            server.next_line(),
            "terrace: waits for the next start: socket-mode, control, http, block-size, ssd-write-budget, ordered, \
             ssd-file, description of one"
        );
    }
    make_disk(&ground, "other.img", MIB);
    for (line, named) in [
        ("exclusive = true", "exclusive"),
        ("mark = \"one.mark\"", "mark"),
        ("generation = 2", "generation"),
        ("read-only = true\nexclusive = true", "read-only of one, exclusive"),
        ("backing = \"other.img\"", "backing"),
    ] {
        let backing = "backing = \"one.img\"";
        let of_one = if line.starts_with("backing") { line.into() } else { format!("{backing}\n{line}") };
        ground.file("conf", config.replace(backing, &of_one).as_bytes());
        server.signal(Signal::HUP);
        assert_eq!(server.next_line(), format!("terrace: waits for the next start: {named} of one"));
    }
    let in_force = stats(&ground);
    assert_eq!(in_force["block_bytes"], 16 << 10);
    assert_eq!(in_force["ssd_write_budget_bytes_per_day"], serde_json::Value::Null);
    assert!(["other", "other-ssd"].iter().all(|name| !ground.path().join(name).exists()));
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_disk_that_may_be_written_from_the_next_start_on_has_its_mode_from_then_on_too() {
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    ground.file("conf", format!("{CONFIG}read-only = true\n").as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    ground.file("conf", format!("{CONFIG}write = \"back\"\n").as_bytes());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: waits for the next start: read-only of one");
    assert_eq!(server.stop().code, Some(0));
}

const READ_ONE: Ask = Ask { command: READ, flags: 0, cookie: 7, offset: 0, length: 512 };

#[test]
fn addresses_and_limits_change_for_those_who_come_and_who_is_here_stays() {
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    ground.file("conf", CONFIG.as_bytes());
    // Without the line about the client that is turned away.
    let mut server = Server::start(&ground, &["serve", "--config", "conf", "--log", "error"]);
    let place = |name: &str| Place::Unix(ground.path().join(name));
    let mut early = Client::of(&place("nbd"), Heads::Extended, "one").expect("it is let in");
    let moved = CONFIG.replace("unix:nbd", "unix:other");
    ground.file("conf", (moved.clone() + "[limits]\nconnections = 1\n").as_bytes());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: changed: limits, unix:nbd is closed, unix:other is open");
    assert!(early.ask(&READ_ONE, &[]).is_ok());
    assert!(Client::silent(&place("nbd")).is_err() && !ground.path().join("nbd").exists());
    assert!(Client::of(&place("other"), Heads::Simple, "one").is_err(), "there is one client already");
    ground.file("conf", moved.as_bytes());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: changed: limits");
    let mut late = Client::of(&place("other"), Heads::Simple, "one").expect("it is let in");
    assert!(late.ask(&READ_ONE, &[]).is_ok() && early.ask(&READ_ONE, &[]).is_ok());
    assert_eq!(server.stop().code, Some(0));
    assert!(!ground.path().join("other").exists());
}

#[test]
fn an_ssd_that_the_file_names_comes_grows_and_goes_with_all_that_it_had() {
    let ground = Playground::new();
    let disk = make_disk(&ground, "one.img", 4 * MIB);
    ground.file("conf", CONFIG.as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    let with_ssd = |size: &str| {
        let tiers = format!("[cache]\nssd-file = \"ssd\"\nssd-size = \"{size}\"");
        CONFIG.replace("[cache]", &tiers) + "write = \"back-ssd\"\n"
    };
    let mut hang_up = |text: &str| {
        ground.file("conf", text.as_bytes());
        server.signal(Signal::HUP);
        server.next_line()
    };
    assert_eq!(hang_up(&with_ssd("128MiB")), "terrace: changed: ssd-file, mode of one");
    let mut client = Client::at(ground.path());
    let data = noise(1, MIB);
    assert_eq!(client.write(MIB as u64, &data, 0), Ok(vec![]));
    assert_eq!(client.ask(&Ask { command: FLUSH, ..Ask::default() }, &[]), Ok(vec![]));
    let capacity = || stats(&ground)["now"]["ssd_capacity_blocks"].as_u64().expect("a number");
    let before = capacity();
    assert_eq!(hang_up(&with_ssd("256MiB")), "terrace: changed: ssd-size");
    assert!(before > 0 && capacity() > before, "{before} blocks, then {}", capacity());
    assert_eq!(hang_up(CONFIG), "terrace: changed: mode of one, ssd-file");
    let now = stats(&ground);
    assert_eq!((&now["ssd_bytes"], &now["now"]["ssd_in_use"]), (&serde_json::Value::Null, &false.into()));
    // Nobody else has it any more.
    assert!(contents(&disk)[MIB..2 * MIB] == data, "what was flushed to the SSD went with it");
    assert!(client.ask(&READ_ONE, &[]).is_ok());
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_is_logged_changes_with_a_hangup() {
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    let config = |level: &str| format!("log = \"{level}\"\n{CONFIG}");
    ground.file("conf", config("error").as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    // What was said before it came into force.
    let mut hang_up = |level: &str| -> Vec<String> {
        ground.file("conf", config(level).as_bytes());
        server.signal(Signal::HUP);
        let lines = std::iter::repeat_with(|| server.next_line());
        lines.take_while(|line| !line.is_empty() && line != "terrace: changed: log").collect()
    };
    let tells = |lines: &[String]| lines.iter().any(|line| line.contains("a client chose an export"));
    // A client that is answered has been told of.
    let come = || assert!(Client::at(ground.path()).ask(&READ_ONE, &[]).is_ok());
    come();
    assert!(!tells(&hang_up("debug")));
    come();
    assert!(tells(&hang_up("error")));
    come();
    assert!(!tells(&[server.stop().stderr]));
}

#[test]
fn a_file_of_which_a_part_cannot_be_changes_nothing_and_says_why() {
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    ground.file("conf", CONFIG.as_bytes());
    ground.file("no.pem", b"nonsense");
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let busy = format!("\"{}\"", busy.local_addr().expect("it has one"));
    // All of them would change the size of RAM, the mode, and open an address.
    let changed = CONFIG.replace("32MiB", "64MiB").replace("\"unix:nbd\"", "\"unix:nbd\", \"unix:more\"");
    let changed = changed.as_str();
    for (text, said) in [
        (changed.to_string() + "[limits]\nconnections = 0\n", "lets no client in"),
        (changed.to_string() + "[tls]\ncert = \"no.pem\"\nkey = \"no.pem\"\n", "TLS cannot be offered"),
        (changed.to_string() + "[[export]]\nbacking = \"gone\"\n", "has no backing store"),
        (
            changed.to_string() + "[[export]]\nname = \"again\"\nbacking = \"one.img\"\n",
            "too; give each its own",
        ),
        (changed.replace("\"unix:more\"", &format!("\"unix:more\", {busy}")), "cannot listen on 127.0.0.1"),
        (changed.replace("\"unix:more\"", "\"unix:more\", \"0.0.0.0:0\""), "could read and write the disk"),
        (changed.replace("\"unix:nbd\", \"unix:more\"", ""), "there is no address to listen on"),
        (changed.replace("64MiB", "1k"), "the file was not taken over"),
    ] {
        ground.file("conf", text.as_bytes());
        server.signal(Signal::HUP);
        let line = server.next_line();
        assert!(line.contains("the file was not taken over: ") && line.contains(said), "{said}: {line}");
        assert!(!ground.path().join("more").exists(), "{said}: a socket is left");
    }
    ground.file("conf", CONFIG.as_bytes());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: the file says what is in force");
    assert!(Client::at(ground.path()).ask(&READ_ONE, &[]).is_ok());
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_socket_that_was_passed_and_that_all_reach_is_not_without_tls_by_a_hangup_either() {
    if !have(&["openssl"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    make_certificates(&ground, "pki");
    let open = CONFIG.replace("listen = [\"unix:nbd\"]", "");
    let closed = open.clone() + "[tls]\ncert = \"pki/server-cert.pem\"\nkey = \"pki/server-key.pem\"\n";
    let socket = || std::net::TcpListener::bind("0.0.0.0:0").expect("a port is free").into();
    ground.file("conf", open.as_bytes());
    let refused = started_with(&ground, socket()).output().expect("there is a shell");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("whoever reaches 0.0.0.0:"), "{stderr}");
    ground.file("conf", closed.as_bytes());
    let mut server = Server::spawn(&mut started_with(&ground, socket()));
    assert!(server.ready.contains("0.0.0.0:"), "{}", server.ready);
    let mut hang_up = |config: &str| {
        ground.file("conf", config.as_bytes());
        server.signal(Signal::HUP);
        server.next_line()
    };
    let line = hang_up(&open);
    assert!(line.contains("the file was not taken over: whoever reaches 0.0.0.0:"), "{line}");
    assert_eq!(hang_up(&closed), "terrace: the file says what is in force");
    assert_eq!(hang_up(&format!("insecure = true\n{open}")), "terrace: changed: tls");
    assert_eq!(server.stop().code, Some(0));
    // One that this machine alone reaches needs none.
    let own = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free").into();
    ground.file("conf", open.as_bytes());
    let mut server = Server::spawn(&mut started_with(&ground, own));
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: the file says what is in force");
    assert_eq!(server.stop().code, Some(0));
}

/// A service of `conf`, started with this socket as systemd does it: it is descriptor 3, and the variables name the process.
fn started_with(ground: &Playground, socket: OwnedFd) -> Command {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config conf";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_terrace")]).current_dir(ground.path());
    command.stdin(Stdio::from(socket)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn certificates_are_renewed_while_clients_are_connected() {
    if !have(&["nbdinfo", "openssl"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "one.img", MIB);
    make_certificates(&ground, "old");
    make_certificates(&ground, "new");
    fs::create_dir(ground.path().join("pki")).expect("a new folder");
    let install = |from: &str| {
        for name in ["server-cert.pem", "server-key.pem", "ca-cert.pem"] {
            fs::copy(ground.path().join(from).join(name), ground.path().join("pki").join(name))
                .expect("it is there");
        }
    };
    install("old");
    let tls =
        "[tls]\ncert = \"pki/server-cert.pem\"\nkey = \"pki/server-key.pem\"\nca = \"pki/ca-cert.pem\"\n";
    let config = CONFIG.replace("\"unix:nbd\"", "\"unix:nbd\", \"127.0.0.1:0\"");
    ground.file("conf", (config.clone() + tls).as_bytes());
    let mut server = Server::start(&ground, &["serve", "--config", "conf"]);
    let port = server.ready.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next());
    let port: u16 = port.expect("it listens there").parse().expect("a port");
    let address = |keys: &str| {
        let folder = ground.path().join(keys);
        format!("nbds://localhost:{port}/?tls-certificates={}", folder.display())
    };
    let (old, new) = (address("old"), address("new"));
    let gets_in = |address: &str| try_run(&ground, "nbdinfo", &["--size", address]).status.success();
    assert!(gets_in(&old) && !gets_in(&new));
    let mut early = Client::at(ground.path());
    // A renewal that is half done.
    fs::copy(ground.path().join("new/server-cert.pem"), ground.path().join("pki/server-cert.pem"))
        .expect("there");
    server.signal(Signal::HUP);
    assert!(server.next_line().contains("not taken over: TLS cannot be offered"));
    assert!(gets_in(&old));
    install("new");
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: changed: tls");
    assert!(gets_in(&new) && !gets_in(&old));
    assert!(early.ask(&READ_ONE, &[]).is_ok());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: the file says what is in force");
    // Without any, over the same address.
    ground.file("conf", config.as_bytes());
    server.signal(Signal::HUP);
    assert_eq!(server.next_line(), "terrace: changed: tls");
    assert_eq!(
        run(&ground, "nbdinfo", &["--size", &format!("nbd://localhost:{port}")]).trim(),
        MIB.to_string()
    );
    assert_eq!(server.stop().code, Some(0));
}

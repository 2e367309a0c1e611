//! What libnbd and QEMU find in the service, side by side with what they find in servers of others:
//!
//!     cargo test -p terrace-tools --test serve every_feature -- --nocapture
//!
//! A column for each server that is installed. Ours must hold; the others' are for looking at.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::Playground;
use crate::harness::{MIB, contents, have, make_disk, run};
use crate::tls::{KEYS, make_certificates};

type Table = BTreeMap<String, BTreeMap<String, Value>>;

const CONFIG: &str = r#"
listen = ["unix:probe.socket"]
[cache]
ram-size = "32MiB"
[[export]]
name = "disk"
backing = "disk"
write = "back"
[[export]]
name = "other"
backing = "other"
"#;

/// What is seen as a text; everything else is there or not.
const TOLD: [(&str, &str); 2] =
    [("block sizes", "1, 4096, 33554432"), ("contexts of its own", "x-terrace:tier")];
const FEATURES: usize = 29;

#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
fn every_feature_is_there_for_the_clients_of_others_and_a_table_shows_who_has_which() {
    if !have(&["nbdsh", "qemu-io", "qemu-img", "openssl"]) {
        return;
    }
    let ground = Playground::new();
    // Longer than lengths of 32 bits reach.
    make_disk(&ground, "disk", 6144 * MIB);
    make_disk(&ground, "other", MIB);
    ground.file("conf", CONFIG.as_bytes());
    make_certificates(&ground, "pki");
    let mut servers = vec![ours()];
    servers.extend(have(&["nbdkit"]).then(nbdkit));
    servers.extend(have(&["qemu-nbd"]).then(qemu_nbd));
    let script = format!("SERVERS = {}\n{}", Value::from(servers.clone()), include_str!("probe.py"));
    run(&ground, "nbdsh", &["-c", &script]);
    let found: Table = serde_json::from_slice(&contents(&ground.path().join("found"))).expect("JSON");
    let names: Vec<&str> = servers.iter().filter_map(|server| server["name"].as_str()).collect();
    let terrace = &found["terrace"];
    println!("{:34}{}", "", names.iter().map(|name| format!("{name:18}")).collect::<String>());
    for feature in terrace.keys() {
        let cells = names.iter().map(|&name| format!("{:18}", cell(found[name].get(feature))));
        println!("{feature:34}{}", cells.collect::<String>());
    }
    assert_eq!(terrace.len(), FEATURES, "{terrace:?}");
    for (feature, answer) in terrace {
        let told = TOLD.iter().find(|(told, _)| told == feature);
        assert_eq!(*answer, told.map_or(json!(true), |(_, text)| json!(text)), "{feature}");
    }
}

fn cell(answer: Option<&Value>) -> &str {
    match answer {
        Some(Value::Bool(true)) => "yes",
        Some(Value::String(text)) => text,
        _ => "-",
    }
}

fn command(parts: &[&[&'static str]]) -> Vec<&'static str> {
    parts.concat()
}

fn ours() -> Value {
    let terrace = env!("CARGO_BIN_EXE_terrace");
    let disk = [terrace, "serve", "--backing", "disk", "--ram-size", "32MiB"];
    json!({
        "name": "terrace",
        "export": "disk",
        "unix": [terrace, "serve", "--config", "conf"],
        "read-only": command(&[&disk, &["--read-only", "--listen", "unix:SOCKET"]]),
        "tls": command(&[&disk, &["--listen", "127.0.0.1:PORT"], &KEYS]),
        "activated": disk,
    })
}

fn nbdkit() -> Value {
    let unix = ["nbdkit", "--foreground", "--unix", "SOCKET"];
    let tls = [
        "--ipaddr",
        "127.0.0.1",
        "--port",
        "PORT",
        "--tls=require",
        "--tls-certificates=pki",
        "--tls-verify-peer",
    ];
    json!({
        "name": "nbdkit memory",
        "export": "",
        "unix": command(&[&unix, &["memory", "6G"]]),
        "read-only": command(&[&unix, &["--readonly", "memory", "6G"]]),
        "tls": command(&[&["nbdkit", "--foreground"], &tls, &["memory", "6G"]]),
        "activated": ["nbdkit", "--exit-with-parent", "memory", "6G"],
    })
}

fn qemu_nbd() -> Value {
    let server = ["qemu-nbd", "--format=raw", "--persistent", "--shared=8", "--discard=unmap"];
    let unix = ["--socket=SOCKET", "--export-name=disk"];
    let tls = [
        "--object=tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir=pki",
        "--tls-creds=tls",
        "--bind=127.0.0.1",
        "--port=PORT",
        "--export-name=disk",
        "disk",
    ];
    json!({
        "name": "qemu-nbd",
        "export": "disk",
        "unix": command(&[&server, &unix, &["disk"]]),
        "read-only": command(&[&server, &unix, &["--read-only", "disk"]]),
        "tls": command(&[&server, &tls]),
        "activated": ["qemu-nbd", "--format=raw", "--export-name=disk", "disk"],
    })
}

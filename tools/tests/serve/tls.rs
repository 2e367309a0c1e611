//! Clients over TCP with TLS.

use std::fs;

use crate::common::Playground;
use crate::harness::{MIB, Server, contents, have, make_disk, noise, run, seed, try_run};

/// Makes an authority and the certificates that it signs, of a server and of a client, in a new folder, by the names that
/// libnbd and QEMU look for.
pub(crate) fn make_certificates(ground: &Playground, folder: &str) {
    fs::create_dir(ground.path().join(folder)).expect("a new folder");
    ground.file("v3", b"subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    let openssl = |arguments: &[&[&str]]| drop(run(ground, "openssl", &arguments.concat()));
    let file = |name: &str| format!("{folder}/{name}");
    let key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
    let (authority, its_key) = (file("ca-cert.pem"), file("ca.key"));
    openssl(&[&key, &[&its_key, "-x509", "-days", "2", "-subj", "/CN=ca", "-out", &authority]]);
    let sign = ["x509", "-req", "-days", "2", "-CA", &authority, "-CAkey", &its_key, "-CAcreateserial"];
    for who in ["server", "client"] {
        let [own, request, cert] = ["-key.pem", ".csr", "-cert.pem"].map(|end| file(&format!("{who}{end}")));
        openssl(&[&key, &[&own, "-subj", "/CN=localhost", "-out", &request]]);
        openssl(&[&sign, &["-extfile", "v3", "-in", &request, "-out", &cert]]);
    }
}

/// Of a service whose certificates are in the folder `pki`.
pub(crate) const KEYS: [&str; 6] =
    ["--tls-cert", "pki/server-cert.pem", "--tls-key", "pki/server-key.pem", "--tls-ca", "pki/ca-cert.pem"];

/// Serves `disk` to clients that have a certificate; the port.
fn serve(ground: &Playground, more: &[&str]) -> (Server, String) {
    make_certificates(ground, "pki");
    let arguments = ["serve", "--backing", "disk", "--listen", "127.0.0.1:0"];
    let server = Server::start(ground, &[&arguments[..], &KEYS, more].concat());
    let port = server.ready.trim().rsplit(':').next().expect("a port").to_string();
    (server, port)
}

fn uri(ground: &Playground, port: &str) -> String {
    format!("nbds://localhost:{port}/?tls-certificates={}", ground.path().join("pki").display())
}

#[test]
fn only_clients_that_have_a_certificate_get_in() {
    if !have(&["nbdinfo", "openssl"]) {
        return;
    }
    let ground = Playground::new();
    make_disk(&ground, "disk", MIB);
    let (server, port) = serve(&ground, &[]);
    let address = uri(&ground, &port);
    assert_eq!(run(&ground, "nbdinfo", &["--size", &address]).trim(), MIB.to_string());
    let plain = try_run(&ground, "nbdinfo", &["--size", &format!("nbd://localhost:{port}")]);
    assert!(!plain.status.success(), "a client without TLS got in");
    fs::remove_file(ground.path().join("pki/client-cert.pem")).expect("it is ours");
    let nameless = try_run(&ground, "nbdinfo", &["--size", &address]);
    assert!(!nameless.status.success(), "a client without a certificate got in");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_comes_in_over_tls_comes_out_again_and_compares_equal() {
    if !have(&["nbdcopy", "qemu-img", "openssl"]) {
        return;
    }
    let (ground, seed) = (Playground::new(), seed());
    make_disk(&ground, "disk", 24 * MIB + 512);
    let data = noise(seed, 24 * MIB + 512);
    ground.file("in", &data);
    let (server, port) = serve(&ground, &["--write", "back", "--ram-size", "16MiB"]);
    let address = uri(&ground, &port);
    run(&ground, "nbdcopy", &["--connections=4", "--requests=32", "--flush", "in", &address]);
    assert!(contents(&ground.path().join("disk")) == data, "the disk has something else");
    run(&ground, "nbdcopy", &["--connections=4", "--requests=32", &address, "out"]);
    assert!(contents(&ground.path().join("out")) == data, "it came back changed");
    let tls = "tls-creds-x509,id=tls,endpoint=client,dir=pki";
    let image = format!("driver=nbd,host=localhost,port={port},export=disk,tls-creds=tls");
    run(
        &ground,
        "qemu-img",
        &["compare", "--object", tls, "--image-opts", &image, "driver=raw,file.driver=file,file.filename=in"],
    );
    assert_eq!(server.stop().code, Some(0));
}

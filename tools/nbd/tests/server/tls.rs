//! TLS: what is said before it counts for nothing, and without it nothing is said where it is required.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use terrace_nbd::{Limits, Listener, Tls, TlsMode};

use super::Served;
use super::client::{ACK, Ask, Client, EINVAL, ERROR, Heads, READ, STATUS, info_request, queries};
use super::disk::{Answers, Disk, content};

const POLICY: u32 = ERROR + 2;
const UNSUPPORTED: u32 = ERROR + 1;
const INVALID: u32 = ERROR + 3;
const TLS_REQUIRED: u32 = ERROR + 5;
const STARTTLS: u32 = 5;

/// Certificates as `nbdinfo` and qemu look for them.
pub(crate) struct Keys {
    pub(crate) folder: TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let put = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        put("ca-cert.pem", authority.pem());
        for who in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            put(&format!("{who}-cert.pem"), certificate.pem());
            put(&format!("{who}-key.pem"), key.serialize_pem());
        }
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// For the server; clients must have certificates when `asks`.
    pub(crate) fn tls(&self, asks: bool) -> Tls {
        let authority = self.path("ca-cert.pem");
        let authority = asks.then_some(authority.as_path());
        Tls::from_files(&self.path("server-cert.pem"), &self.path("server-key.pem"), authority).unwrap()
    }

    /// For a client, with a certificate when it `shows` one.
    fn client(&self, shows: bool) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca-cert.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        if !shows {
            return config.with_no_client_auth();
        }
        let certificate = CertificateDer::from_pem_file(self.path("client-cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("client-key.pem")).unwrap();
        config.with_client_auth_cert(vec![certificate], key).unwrap()
    }
}

fn served(disk: &Arc<Disk>, tls: TlsMode) -> Served {
    Served::with(disk, Limits::default(), tls)
}

/// Asks for TLS, and goes on over it.
fn secure(client: &mut Client, config: ClientConfig) {
    assert_eq!(client.ask_option(STARTTLS, &[]), [(ACK, vec![])]);
    let name = "localhost".try_into().unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    client.wire = Box::new(StreamOwned::new(tls, client.socket.try_clone().unwrap()));
}

fn secured(path: &Path, config: ClientConfig) -> Client {
    let mut client = Client::connect(path);
    secure(&mut client, config);
    client
}

#[test]
fn a_client_with_a_certificate_reads_and_writes_over_tls() {
    let keys = Keys::new();
    for answers in [Answers::AtOnce, Answers::Elsewhere] {
        let disk = Disk::filled(4 << 20, answers);
        let served = served(&disk, TlsMode::Required(keys.tls(true)));
        let mut client = secured(served.path(), keys.client(true));
        client.agree_on(Heads::Extended);
        client.go("disk");
        for offset in [0, 1000, 70_001] {
            assert_eq!(client.read(offset, 3 << 20), Ok(content(offset, 3 << 20)));
            client.write(offset, &content(7, 300_000)).unwrap();
            assert_eq!(disk.bytes(offset, 300_000), content(7, 300_000));
            client.write(offset, &content(offset, 300_000)).unwrap();
        }
        // Many at once: more than the socket takes.
        let ask = Ask { command: READ, length: 256 << 10, ..Ask::default() };
        for _ in 0..100 {
            client.send_request(ask);
        }
        for _ in 0..100 {
            assert_eq!(client.reply(ask), Ok(content(0, 256 << 10)));
        }
        assert!(served.server().connections()[0].has_tls);
    }
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_asked_for() {
    let keys = Keys::new();
    let disk = Disk::filled(4096, Answers::AtOnce);
    let asking = served(&disk, TlsMode::Required(keys.tls(true)));
    let foreign = Keys::new();
    for config in [keys.client(false), {
        // Signed by someone else, though it trusts the server.
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(keys.path("ca-cert.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let certificate = CertificateDer::from_pem_file(foreign.path("client-cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(foreign.path("client-key.pem")).unwrap();
        builder.with_root_certificates(roots).with_client_auth_cert(vec![certificate], key).unwrap()
    }] {
        let mut client = secured(asking.path(), config);
        let mut answer = [0; 1];
        let asked = client.wire.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
        assert!(asked.is_err() || client.wire.read_exact(&mut answer).is_err(), "nothing is answered");
    }
    asking.wait_for_connections(0);
    let trusting = served(&disk, TlsMode::Required(keys.tls(false)));
    let mut client = secured(trusting.path(), keys.client(false));
    client.go("disk");
    assert_eq!(client.read(0, 9), Ok(content(0, 9)));
}

#[test]
fn where_tls_is_required_nothing_is_said_without_it() {
    let keys = Keys::new();
    let disk = Disk::filled(4096, Answers::AtOnce);
    let served = served(&disk, TlsMode::Required(keys.tls(false)));
    let mut client = Client::connect(served.path());
    for kind in [3, 6, 7, 8, 9, 10, 11, 77] {
        assert_eq!(client.ask_for_one(kind, &info_request("disk", &[])), TLS_REQUIRED);
    }
    assert_eq!(client.ask_for_one(STARTTLS, b"x"), INVALID);
    secure(&mut client, keys.client(false));
    assert_eq!(client.ask_for_one(STARTTLS, &[]), INVALID, "it is in use");
    assert_eq!(client.ask_for_one(77, &[]), UNSUPPORTED);
    client.go("disk");
    assert_eq!(client.read(0, 9), Ok(content(0, 9)));

    let mut old = Client::connect(served.path());
    old.send_option(1, b"disk");
    old.expect_end();
    let mut leaving = Client::connect(served.path());
    assert_eq!(leaving.ask_option(2, &[]), [(ACK, vec![])]);
    leaving.expect_end();
}

#[test]
fn without_certificates_tls_is_refused_and_everything_else_goes_on() {
    let served = Served::new(&Disk::filled(4096, Answers::AtOnce));
    let mut client = Client::connect(served.path());
    assert_eq!(client.ask_for_one(STARTTLS, &[]), POLICY);
    client.go("disk");
    assert_eq!(client.read(0, 9), Ok(content(0, 9)));
}

/// CVE-2021-3716: what was agreed on before TLS, by whoever sits in between, was in force after it.
#[test]
fn what_was_agreed_on_before_tls_is_forgotten() {
    let keys = Keys::new();
    let disk = Disk::filled(4096, Answers::AtOnce);
    let served = served(&disk, TlsMode::Offered(keys.tls(false)));
    for heads in [Heads::Structured, Heads::Extended] {
        let mut client = Client::connect(served.path());
        client.agree_on(heads);
        client.set_contexts("disk", &["base:allocation"]);
        secure(&mut client, keys.client(false));
        client.heads = Heads::Simple;
        assert_eq!(client.ask_for_one(10, &queries("disk", &["base:allocation"])), INVALID);
        let (_, flags) = client.go("disk");
        assert_eq!(flags & (1 << 7 | 1 << 12), 0, "no flag of structured replies");
        assert_eq!(client.read(0, 9), Ok(content(0, 9)));
        assert_eq!(client.ask(Ask { command: STATUS, length: 9, ..Ask::default() }), Err(EINVAL));
    }
    let mut plain = Client::ready(served.path(), Heads::Structured);
    assert_eq!(plain.read(0, 9), Ok(content(0, 9)), "it was only offered");
}

#[test]
fn another_certificate_counts_for_who_comes_then_and_who_is_here_goes_on() {
    let (old, new) = (Keys::new(), Keys::new());
    let served = served(&Disk::filled(4096, Answers::AtOnce), TlsMode::Off);
    let path = served.path().with_file_name("secure");
    let listener = Listener::unix(&path, 0o600).unwrap();
    let id = served.server().listen(listener, TlsMode::Required(old.tls(true))).unwrap();
    let mut early = secured(&path, old.client(true));
    early.go("disk");
    assert!(
        old.tls(true) == old.tls(true) && old.tls(true) != old.tls(false) && old.tls(true) != new.tls(true)
    );
    served.server().set_tls(id, TlsMode::Required(new.tls(true)));
    let mut late = secured(&path, new.client(true));
    late.go("disk");
    assert_eq!(late.read(0, 9), Ok(content(0, 9)));
    assert_eq!(early.read(0, 9), Ok(content(0, 9)));
    let mut trusts_the_old = secured(&path, old.client(true));
    assert!(trusts_the_old.wire.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0").is_err());
    served.server().set_tls(id, TlsMode::Off);
    Client::connect(&path).go("disk");
}

#[test]
fn bytes_in_the_clear_behind_the_option_for_tls_end_the_connection() {
    let keys = Keys::new();
    let served = served(&Disk::filled(4096, Answers::AtOnce), TlsMode::Offered(keys.tls(false)));
    let mut client = Client::connect(served.path());
    // Slipped in so that it is taken for the first option of the secured client.
    client.send(b"IHAVEOPT\0\0\0\x05\0\0\0\0IHAVEOPT\0\0\0\x08\0\0\0\0");
    assert_eq!(client.answers(STARTTLS), [(ACK, vec![])]);
    client.expect_end();
    assert_eq!(served.server().stats().breaches, 1);
}

#[test]
fn what_is_no_tls_ends_the_connection_and_silence_too() {
    let keys = Keys::new();
    let limits = Limits { handshake_time: std::time::Duration::from_secs(2), ..Limits::default() };
    let disk = Disk::filled(4096, Answers::AtOnce);
    let served = Served::with(&disk, limits, TlsMode::Required(keys.tls(false)));
    let mut client = Client::connect(served.path());
    client.ask_option(STARTTLS, &[]);
    client.send(b"IHAVEOPT\0\0\0\x03\0\0\0\0 and more of it, so that it is a record");
    let mut alert = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.wire, &mut alert);
    assert!(alert.first().is_none_or(|&kind| kind == 21), "an alert at most: {alert:?}");
    let mut silent = Client::connect(served.path());
    silent.ask_option(STARTTLS, &[]);
    silent.expect_end();
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let keys = Keys::new();
    let (certificate, key) = (keys.path("server-cert.pem"), keys.path("server-key.pem"));
    let error = |certificate: &Path, key: &Path, authority: Option<&Path>| {
        Tls::from_files(certificate, key, authority).unwrap_err().to_string()
    };
    assert!(error(&keys.path("gone"), &key, None).contains("gone"));
    assert!(error(&key, &key, None).contains("server-key.pem: there is no certificate in it"));
    assert!(error(&certificate, &certificate, None).contains("server-cert.pem"));
    assert!(error(&certificate, &key, Some(&key)).contains("server-key.pem"));
    assert!(error(&certificate, &keys.path("client-key.pem"), None).contains("server-cert.pem"));
}

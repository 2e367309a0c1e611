//! Any bytes in place of a client's: an entry for fuzzing, over a real socket.
//!
//! The first byte says how far the client has come: in the handshake, or through it with one of the three kinds of heads;
//! what follows it sends as it is. Whatever that is, the connection ends, and the export is asked for nothing that it may
//! rely on not to be asked for (the head of `export.rs`).

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use crate::export::{Data, ErrorCode, Export, ExportInfo, Extent, Failure, StatusQuery, Zeroing};
use crate::wire::{Headers, command, flag, option};
use crate::{Done, Exports, Limits, Payload, Server, TlsMode};

const DISK_BYTES: usize = 64 << 10;
const BLOCK_BYTES_MAX: u32 = 16 << 10;
/// More than any input asks for: each request is 28 bytes, and has at most one largest answer.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// A disk in RAM that insists on its rights.
struct Strict {
    bytes: Mutex<Vec<u8>>,
    /// They end with the connection, so that nothing of one input is left at the next.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Strict {
    fn range(offset: u64, bytes: u64) -> std::ops::Range<usize> {
        let end = offset.checked_add(bytes).expect("a range has an end");
        assert!(bytes > 0 && end <= DISK_BYTES as u64, "{bytes} bytes at {offset}");
        offset as usize..end as usize
    }
}

impl Export for Strict {
    fn info(&self) -> ExportInfo {
        let mut info = ExportInfo::new(DISK_BYTES as u64);
        info.block_sizes.maximum = BLOCK_BYTES_MAX;
        info.contexts.push("x-terrace:tier".into());
        info
    }

    fn read(&self, offset: u64, bytes: u32, done: Done<Data>) {
        assert!(bytes <= BLOCK_BYTES_MAX);
        done.complete(Ok(self.bytes.lock()[Self::range(offset, bytes.into())].to_vec().into()));
    }

    fn write(&self, offset: u64, data: Payload, _fua: bool, done: Done<()>) {
        assert!(data.len() <= BLOCK_BYTES_MAX as usize);
        self.bytes.lock()[Self::range(offset, data.len() as u64)].copy_from_slice(&data);
        done.complete(Ok(()));
    }

    fn flush(&self, done: Done<()>) {
        // From elsewhere, so that replies come from two sides.
        self.threads.lock().push(thread::spawn(move || done.complete(Ok(()))));
    }

    fn trim(&self, offset: u64, bytes: u64, _fua: bool, done: Done<()>) {
        self.bytes.lock()[Self::range(offset, bytes)].fill(0);
        done.complete(Ok(()));
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, how: Zeroing, done: Done<()>) {
        let range = Self::range(offset, bytes);
        if how.fast {
            return done.complete(Err(Failure::new(ErrorCode::NotSupported, "not fast")));
        }
        self.bytes.lock()[range].fill(0);
        done.complete(Ok(()));
    }

    fn cache(&self, offset: u64, bytes: u64, _done: Done<()>) {
        // Unanswered.
        Self::range(offset, bytes);
    }

    fn block_status(&self, query: &StatusQuery<'_>, done: Done<Vec<Vec<Extent>>>) {
        assert!(!query.contexts.is_empty() && query.contexts.iter().all(|&context| context < 2));
        let range = Self::range(query.offset, query.bytes);
        // Far too many, and some of them wrong.
        let extent = |at: usize| Extent { bytes: (at % 3) as u64 * 512, flags: at as u32 / 7 };
        done.complete(Ok(query.contexts.iter().map(|_| range.clone().map(extent).collect()).collect()));
    }
}

fn put_option(script: &mut Vec<u8>, kind: u32, data: &[u8]) {
    script.extend(b"IHAVEOPT");
    script.extend(kind.to_be_bytes());
    script.extend((data.len() as u32).to_be_bytes());
    script.extend(data);
}

/// What a client sends until it has an export.
fn handshake(headers: Headers) -> Vec<u8> {
    let mut script = vec![0, 0, 0, 3];
    let queries = b"\0\0\0\x01d\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x0ex-terrace:tier";
    match headers {
        Headers::Simple => {}
        Headers::Structured => put_option(&mut script, option::STRUCTURED_REPLY, &[]),
        Headers::Extended => put_option(&mut script, option::EXTENDED_HEADERS, &[]),
    }
    if headers != Headers::Simple {
        put_option(&mut script, option::SET_META_CONTEXT, queries);
    }
    put_option(&mut script, option::GO, b"\0\0\0\x01d\0\x01\0\x03");
    script
}

/// The heads that the first byte of an input stands for.
fn headers_of(byte: u8) -> Option<Headers> {
    [None, Some(Headers::Simple), Some(Headers::Structured), Some(Headers::Extended)][usize::from(byte % 4)]
}

/// A connection on which a client sends `bytes`; how many bytes it was answered with.
///
/// # Panics
/// When the server breaks one of its rules.
pub fn connection(bytes: &[u8]) -> usize {
    let (&first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let prefix = headers_of(first).map(handshake).unwrap_or_default();
    let exports = Arc::new(Exports::default());
    let disk = Arc::new(Strict { bytes: Mutex::new(vec![1; DISK_BYTES]), threads: Mutex::default() });
    exports.insert("d", disk.clone());
    let limits = Limits { requests_max: 4, bytes_max: 40_000, ..Limits::default() };
    let server = Server::new(exports, limits);
    let (mut client, socket) = UnixStream::pair().expect("there are descriptors");
    let mut replies = client.try_clone().expect("there are descriptors");
    let taken = thread::scope(|scope| {
        scope.spawn(|| server.serve(socket.into(), &TlsMode::Off));
        let taken = scope.spawn(move || {
            let (mut buffer, mut taken) = ([0; 4096], 0);
            // A connection that is cut ends in an error.
            while let Ok(bytes @ 1..) = replies.read(&mut buffer) {
                taken += bytes;
            }
            taken
        });
        // The server may have ended it.
        let _ = client.write_all(&prefix).and_then(|()| client.write_all(rest));
        let _ = client.shutdown(Shutdown::Write);
        let taken = taken.join().expect("it only reads");
        assert!(taken <= REPLY_BYTES_MAX, "{taken} bytes for {}", bytes.len());
        taken
    });
    for thread in disk.threads.lock().drain(..) {
        thread.join().expect("it only answers");
    }
    taken
}

/// What a client may send, by chance, as an input of [`connection`].
pub fn valid(random: &mut fastrand::Rng) -> Vec<u8> {
    let first = random.u8(0..4);
    let mut script = vec![first];
    let headers = headers_of(first).unwrap_or_else(|| {
        let headers = [Headers::Simple, Headers::Structured, Headers::Extended][random.usize(0..3)];
        script.extend(&handshake(headers)[..4]);
        for kind in [option::LIST, option::LIST_META_CONTEXT, option::INFO, 99] {
            if random.bool() {
                put_option(&mut script, kind, &b"\0\0\0\x01d\0\0\0\0"[..random.usize(0..10)]);
            }
        }
        script.extend(&handshake(headers)[4..]);
        headers
    });
    for _ in 0..random.usize(0..12) {
        put_request(random, headers, &mut script);
    }
    script
}

fn put_request(random: &mut fastrand::Rng, headers: Headers, script: &mut Vec<u8>) {
    let kind = random.u16(0..8);
    let flags = [0, 0, flag::FUA, flag::DF, flag::REQ_ONE, flag::NO_HOLE][random.usize(0..6)];
    let length = [1, 512, 4096, random.u64(..20_000)][random.usize(0..4)];
    let mut payload = Vec::new();
    let mut flags = flags;
    if kind == command::WRITE {
        payload = vec![random.u8(..); length as usize];
        flags |= if headers == Headers::Extended { flag::PAYLOAD } else { 0 };
    }
    let mut length = length;
    if kind == command::BLOCK_STATUS && headers == Headers::Extended && random.bool() {
        flags |= flag::PAYLOAD;
        payload = [length.to_be_bytes().as_slice(), &[0, 0, 0, 1], &[0, 0, 0, 2]].concat();
        payload.truncate([0, 7, 12, 16][random.usize(0..4)]);
        length = payload.len() as u64;
    }
    let magic: u32 = if headers == Headers::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
    script.extend(magic.to_be_bytes());
    script.extend(flags.to_be_bytes());
    script.extend(kind.to_be_bytes());
    script.extend(random.u64(..).to_be_bytes());
    script.extend(random.u64(..DISK_BYTES as u64).to_be_bytes());
    match headers {
        Headers::Extended => script.extend(length.to_be_bytes()),
        _ => script.extend((length as u32).to_be_bytes()),
    }
    script.extend(payload);
}

//! The bytes of a trace as they were before someone packed them: zstd, gzip, xz or plain, told by their first bytes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::Failure;

/// As many bytes as tell the packings apart.
pub(super) const MAGIC_BYTES: u64 = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packing {
    Plain,
    Zstd,
    Gzip,
    Xz,
}

impl Packing {
    pub(super) fn of(begin: &[u8]) -> Self {
        match begin {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
        }
    }

    /// Several frames, members or streams in a row are one trace: so packers append, and join what they did in parts.
    pub(super) fn reader(self, packed: Counted) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Zstd => Box::new(zstd::Decoder::new(packed)?),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new(packed, true)),
        })
    }

    /// What to tell about `error`, which came after `at` packed and `out` unpacked bytes of the trace `name`.
    pub(super) fn explain(self, name: &str, at: u64, out: u64, error: io::Error) -> Failure {
        let packing = self.name();
        if self == Self::Plain {
            return Failure::caused(format!("cannot read {name} after byte {at}"), error);
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let what = format!(
                "{name} is truncated: the {packing} data end at byte {at} before they are whole, {out} bytes into the \
                 trace"
            );
            return Failure::input(what).remedy("fetch or copy the file again");
        }
        Failure::caused(format!("{name} cannot be decompressed near byte {at}"), error)
            .remedy(format!("check it with `{packing} -t` and fetch it again"))
    }
}

/// Counts what is read through it.
pub(super) struct Counted {
    pub(super) reader: Box<dyn Read + Send>,
    pub(super) position: Arc<AtomicU64>,
    /// The same for this reader alone.
    pub(super) own: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.position.fetch_add(count as u64, Ordering::Relaxed);
        self.own.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::{Format, read_all};

    fn text(lines: u64) -> Vec<u8> {
        let line = |line: u64| format!("{}\n", line.wrapping_mul(0x9e37_79b9) % 99_991);
        (0..lines).map(line).collect::<String>().into_bytes()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).expect("in memory");
        packer.finish().expect("in memory")
    }

    fn xz(text: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(0);
        let mut packer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("in memory");
        packer.write_all(text).expect("in memory");
        packer.finish().expect("in memory")
    }

    fn packed(text: &[u8]) -> [(&'static str, Vec<u8>); 3] {
        let zstd = zstd::encode_all(text, 1).expect("in memory");
        [("zstd", zstd), ("gzip", gzip(text)), ("xz", xz(text))]
    }

    #[test]
    fn a_packed_trace_gives_the_requests_of_the_plain_one_also_in_two_parts() {
        let plain = read_all(Format::Ids, &text(5000)).expect("good");
        assert_eq!(plain.len(), 5000);
        for (name, packed) in packed(&text(5000)) {
            assert_eq!(read_all(Format::Ids, &packed).as_ref(), Ok(&plain), "{name}");
            let twice = read_all(Format::Ids, &[packed.clone(), packed].concat()).expect("good");
            assert_eq!(twice.len(), 10_000, "{name}");
        }
    }

    #[test]
    fn a_packed_trace_cut_anywhere_is_reported_as_truncated_with_the_byte() {
        for (name, whole) in packed(&text(5000)) {
            for kept in [6, 7, 20, whole.len() / 2, whole.len() - 1] {
                let error = read_all(Format::Ids, &whole[..kept]).expect_err("cut");
                assert!(
                    error.contains("truncated")
                        && error.contains(name)
                        && error.contains(&format!("byte {kept} ")),
                    "{name} cut at {kept}: {error}"
                );
            }
        }
    }

    #[test]
    fn damaged_data_are_told_apart_from_truncated_ones() {
        for (name, mut damaged) in packed(&text(5000)) {
            let middle = damaged.len() / 2;
            damaged[middle..middle + 8].fill(0xff);
            match read_all(Format::Ids, &damaged) {
                Err(error) => assert!(!error.contains("truncated"), "{name}: {error}"),
                Ok(_) => panic!("{name}: damage went unnoticed"),
            }
        }
    }
}

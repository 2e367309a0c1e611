//! Bytes that nobody meant as a trace, at every reader: no panic, an end, and bounded memory.

use clap::ValueEnum;

use super::super::input::Input;
use super::super::{Format, Options, Span};
use super::blktrace::tests::{QUEUED_READ, event};

/// Good traces that the mutations start from.
fn samples() -> Vec<(Format, Vec<u8>)> {
    let text = |format, text: &str| (format, text.repeat(20).into_bytes());
    let mut samples = vec![
        text(Format::Alibaba, "0,R,126703661056,4096,1577808000000046\n"),
        text(Format::Arc, "1936993 8 0 0\n"),
        text(Format::Biosnoop, "0.000004 supervise 1950 vda W 13092560 4096 0.74\n"),
        text(Format::Blkparse, "8,0 1 1 0.000000000 697 Q W 223490 + 8 [kjournald]\n"),
        text(Format::Csv, "version,time,op,size,lbn\n1,5633898,2a,512,42932745\n"),
        text(Format::DiskSim, "11413000 0 657728 16 1\n"),
        text(Format::Etw, "DiskRead, 1, p ( 1), 2, 0x3, 0x200, 0x200, 1, 0\n"),
        text(Format::Fio, "fio version 3 iolog\n1 f add\n2 f read 0 512\n"),
        text(Format::Fiu, "89968195792462 20782 gzip 283193184 8 R 6 0 56f1\n"),
        text(Format::Ids, "17\n*\n"),
        text(Format::K5cloud, "9,7,R,4096,512\n"),
        text(Format::Msr, "128166386787582087,mds,1,Read,1211904,4608,1331\n"),
        text(Format::Spc, "0,20941264,8192,W,0.551706\n"),
        text(Format::Systor, "1455592511.103572000,0.000294,W,3,8192,4096\n"),
        text(Format::Tencent, "1538323199,1003027216,16,0,2313\n"),
        text(Format::TraceRar, "0.000 0 200626176 4096 0\n"),
        (Format::Blktrace, event(1, QUEUED_READ, 8, 512, 4).repeat(20)),
        (Format::OracleGeneral, vec![7; 24 * 20]),
        (Format::Vscsi, vec![1; 32 * 20]),
        (Format::Vscsi2, vec![2; 40 * 20]),
    ];
    let mut lcs = vec![0; 8192 + 28 * 20];
    lcs[..8].copy_from_slice(&super::lcs::MAGIC);
    lcs[8] = 2;
    lcs[8184..8192].copy_from_slice(&super::lcs::MAGIC);
    samples.push((Format::Lcs, lcs));
    let mut writer = terrace_recording::Writer::new(Vec::new()).expect("in memory");
    for number in 0..500 {
        let span = Span::Bytes { offset: number * 4096, bytes: 4096 };
        let request =
            super::super::Request { volume: 0, kind: super::super::Kind::Read, span, time_ns: Some(number) };
        writer.write(&request).expect("in memory");
    }
    samples.push((Format::Terrace, writer.finish(&[]).expect("in memory")));
    assert_eq!(samples.len(), Format::value_variants().len(), "a format has no sample");
    samples
}

/// Reads to the end or the first error; what comes is no more than the bytes can say, and no request is endless.
fn read(format: Format, bytes: &[u8], options: &Options) {
    let mut reader = format.reader(Input::from_bytes(bytes), options);
    let mut requests = 0;
    while let Ok(Some(request)) = reader.next_request() {
        requests += 1;
        assert!(requests <= bytes.len().max(500), "{format:?}");
        let (start, length) = request.span.parts();
        assert!(start.checked_add(length.saturating_sub(1)).is_some(), "{format:?}: {request:?}");
        let volumes = reader.volume_names().len();
        assert!(volumes == 0 || (request.volume as usize) < volumes, "{format:?}: {request:?}");
    }
}

fn mutated(random: &mut fastrand::Rng, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..bytes.len());
        match random.u8(..5) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u8(..8),
            2 => {
                bytes.remove(at);
            }
            3 => bytes.insert(at, b"0,. \n-9\xff\0"[random.usize(..9)]),
            _ => {
                let end = (at + random.usize(1..40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes.truncate(random.usize(1..=bytes.len()));
    bytes
}

#[test]
fn no_bytes_make_any_reader_or_the_detection_panic_or_go_on_for_ever() {
    let seed = std::env::var("TERRACE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds = if std::env::var_os("TERRACE_SLOW").is_some() { 20_000 } else { 300 };
    let columns = Some("volume,time,op:scsi,size,offset:512".parse().expect("good columns"));
    let all = [
        Options::default(),
        Options { id_bytes: Some(512), time_unit_ns: Some(1_000_000_000), columns, ..Options::default() },
    ];
    let run = std::panic::AssertUnwindSafe(|| {
        for (format, sample) in samples() {
            for _ in 0..rounds {
                let noise: Vec<u8> = (0..random.usize(..200)).map(|_| random.u8(..)).collect();
                for bytes in [mutated(&mut random, &sample), noise] {
                    all.iter().for_each(|options| read(format, &bytes, options));
                    let _ = super::super::detect::detect(&bytes, "test", &all[0]);
                }
            }
        }
    });
    if let Err(panic) = std::panic::catch_unwind(run) {
        eprint_seed(seed);
        std::panic::resume_unwind(panic);
    }
}

#[expect(clippy::print_stderr, reason = "a failing test says its seed")]
fn eprint_seed(seed: u64) {
    eprintln!("run again with TERRACE_SEED={seed}");
}

#[test]
fn every_sample_is_detected_as_what_it_is() {
    for (format, sample) in samples() {
        // Not everything that a reader takes looks like its format.
        if matches!(format, Format::OracleGeneral | Format::Vscsi | Format::Vscsi2) {
            continue;
        }
        let found = super::super::detect::detect(&sample, "test", &Options::default());
        assert_eq!(found.map_err(|failure| failure.to_string()), Ok(format));
    }
}

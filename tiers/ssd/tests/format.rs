//! The fixed layouts, byte for byte: a change of any of these is a new magic.

use crate::block::{BlockId, Version, VolumeId};

use super::super::format::{
    CHECKPOINT_MAGIC, FrameHeader, JOURNAL_MAGIC, Summary, Superblock, SuperblockFault, block_crc, crc32c,
};
use super::super::header_pages::HeaderPages;
use super::super::record::{RecordEntry, RecordHeader, RecordPlace};
use super::super::segment::Stream;
use super::super::*;
use super::device::MemoryDevice;
use super::driver::{block_size, geometry};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283, "the check value of the catalogue");
    let block = BlockId::new(VolumeId::new(1), 2);
    let seed = "0700000000000000020000000001000003000000";
    let seed: Vec<u8> =
        (0..20).map(|at| u8::from_str_radix(&seed[at * 2..][..2], 16).expect("hex")).collect();
    assert_eq!(
        block_crc(7, block, 3, b"data"),
        crc32c(&[&seed, b"data"]),
        "file id, block id, generation, data"
    );
}

#[test]
fn a_superblock_has_the_bytes_of_its_table() {
    let superblock = Superblock {
        file_id: 0x1112_1314_1516_1718,
        sequence: 2,
        geometry: geometry(1000),
        opening: 3,
        is_clean: true,
        checkpoint_area: 1,
        checkpoint_items: 4,
        checkpoint_number: 5,
        checkpoint_bytes: 8192,
    };
    let page = superblock.to_page();
    assert_eq!(&page[..8], b"TERRACE1");
    let golden = "181716151413121102000000000000000010000000000000009000000000000008000000a3000000\
                  7d00000031313132002000000000000000000100000000000020010000000000\
                  SIZES0300000001000000010000000400000005000000000000000020000000000000";
    let sizes = hex(&page[80..96]);
    assert_eq!(hex(&page[8..128]), golden.replace("SIZES", &sizes));
    assert!(page[128..4092].iter().all(|&byte| byte == 0));
    assert_eq!(page[4092..4096], crc32c(&[&page[..4092]]).to_le_bytes());
    assert_eq!(Superblock::from_page(&page), Ok(superblock));
    for at in 0..4096 {
        let mut bad = page.to_vec();
        bad[at] ^= 0x10;
        let fault = Superblock::from_page(&bad).expect_err("one bit is enough");
        assert_eq!(fault == SuperblockFault::Checksum, at > 7, "byte {at}");
    }
}

#[test]
fn a_frame_has_the_bytes_of_its_table() {
    let entry = encoding::void(BlockId::from_u64(1), Version::from_u64(2));
    let mut items = Vec::new();
    encoding::Item::put(&entry, &mut items);
    let (item_bytes, magic) = (items.len() as u32, JOURNAL_MAGIC);
    let header = FrameHeader { magic, file_id: 7, number: 8, first: 9, items: 1, item_bytes };
    let frame = header.frame(&items);
    assert_eq!(frame.len(), 4096);
    assert_eq!(frame.as_ptr() as usize % 4096, 0);
    assert_eq!(&frame[..8], b"TERRJRN1");
    assert_eq!(hex(&frame[8..40]), "0700000000000000080000000000000009000000000000000100000014000000");
    let crc = crc32c(&[&frame[..40], &[0; 4], &frame[44..84]]);
    assert_eq!(frame[40..44], crc.to_le_bytes());
    assert_eq!(hex(&frame[44..84]), format!("{}{}", "00".repeat(20), hex(&items)));
    assert_eq!(FrameHeader::from_bytes(&frame, JOURNAL_MAGIC, 7), Some(header));
    assert_eq!(FrameHeader::from_bytes(&frame, CHECKPOINT_MAGIC, 7), None);
    assert_eq!(FrameHeader::from_bytes(&frame, JOURNAL_MAGIC, 6), None);
    assert_eq!(header.items::<JournalEntry>(&frame), Some(vec![entry]));
    for at in 0..84 {
        let mut bad = frame.to_vec();
        bad[at] ^= 0x10;
        let header = FrameHeader::from_bytes(&bad, JOURNAL_MAGIC, 7);
        assert_eq!(header.and_then(|header| header.items::<JournalEntry>(&bad)), None, "byte {at}");
    }
}

#[test]
fn a_summary_has_the_bytes_of_its_table() {
    let block = BlockId::new(VolumeId::new(1), 2);
    let entry = Entry { block, version: Version::from_u64(3), crc: 4, slot: 5, flags: 2 };
    let summary = Summary {
        file_id: 7,
        segment: 8,
        generation: 9,
        sequence: 10,
        stream: Stream::Reinserted,
        slots_used: 6,
        entries: vec![entry],
    };
    let pages = summary.to_pages();
    assert_eq!(pages.len(), 4096);
    assert_eq!(&pages[..8], b"TERRSEG1");
    assert_eq!(
        hex(&pages[8..44]),
        "070000000000000008000000090000000a00000000000000010000000600000001000000"
    );
    let crc = crc32c(&[&pages[..44], &[0; 4], &pages[48..96]]);
    assert_eq!(pages[44..48], crc.to_le_bytes());
    assert!(pages[48..64].iter().all(|&byte| byte == 0));
    assert_eq!(hex(&pages[64..96]), "0200000000010000030000000000000004000000050000000200000000000000");
    assert_eq!(Summary::from_bytes(&pages, 7, 8, 8), Some(summary));
    assert_eq!(Summary::from_bytes(&pages, 7, 7, 8), None, "misdirected");
    assert_eq!(Summary::from_bytes(&pages, 6, 8, 8), None, "of another file");
    assert_eq!(Summary::from_bytes(&pages, 7, 8, 5), None, "more slots than there are");
    for at in 0..96 {
        let mut bad = pages.to_vec();
        bad[at] ^= 0x10;
        assert_eq!(Summary::from_bytes(&bad, 7, 8, 8), None, "byte {at}");
    }
}

#[test]
fn the_header_of_a_record_has_the_bytes_of_its_table() {
    let block = BlockId::new(VolumeId::new(1), 2);
    let entry = RecordEntry { block, version: Version::from_u64(3), crc: 4, mask: Box::new([0x0f]) };
    let header = RecordHeader {
        file_id: 7,
        segment: 8,
        generation: 9,
        sequence: 10,
        synced_through: 6,
        epoch: 12,
        written_s: 11,
        entries: vec![entry],
    };
    let mut memory = HeaderPages::new(4096);
    let pages = header.write_to(&mut memory, block_size());
    assert_eq!(pages.len(), 4096);
    assert_eq!(&pages[..8], b"TERRREC2");
    assert_eq!(
        hex(&pages[8..48]),
        "070000000000000008000000090000000a0000000000000006000000000000000100000002000000"
    );
    let crc = crc32c(&[&pages[..48], &[0; 4], &pages[52..96]]);
    assert_eq!(pages[48..52], crc.to_le_bytes());
    assert_eq!(hex(&pages[52..64]), "0c000000000000000b000000");
    assert_eq!(
        hex(&pages[64..96]),
        "02000000000100000300000000000000040000000100000\
                                     00f00000000000000"
    );
    let place = RecordPlace { file_id: 7, segment: 8, generation: Some(9), pages_left: 2 };
    assert_eq!(RecordHeader::from_bytes(pages, place, block_size()), Some(header));
    for wrong in [
        RecordPlace { file_id: 6, ..place },
        RecordPlace { segment: 7, ..place },
        RecordPlace { generation: Some(8), ..place },
        RecordPlace { pages_left: 1, ..place },
    ] {
        assert_eq!(RecordHeader::from_bytes(pages, wrong, block_size()), None, "{wrong:?}");
    }
    for at in 0..96 {
        let mut bad = pages.to_vec();
        bad[at] ^= 0x10;
        assert_eq!(RecordHeader::from_bytes(&bad, place, block_size()), None, "byte {at}");
    }
}

#[test]
fn a_file_with_one_structure_of_another_format_is_refused_with_that_structure() {
    let device = MemoryDevice::new(geometry(1000).file_bytes());
    Ssd::create(&device, geometry(1000), SsdPolicy::default()).expect("creates");
    let mut page = vec![0; 4096];
    device.read(0, &mut [IoSliceMut::new(&mut page)]).expect("in range");
    let formats = [
        (7, "format"),
        (52, "format of the journal"),
        (53, "format of the checkpoint"),
        (54, "format of summaries"),
        (55, "format of records"),
    ];
    for (at, name) in formats {
        // Of records two formats are read.
        let newest = if name == "format of records" { b'2' } else { b'1' };
        for format in [b'0', newest + 1] {
            let mut page = page.clone();
            page[at] = format;
            let crc = crc32c(&[&page[..4092]]);
            page[4092..].copy_from_slice(&crc.to_le_bytes());
            (0..2).for_each(|copy| device.write(copy * 4096, &[IoSlice::new(&page)]).expect("in range"));
            let error = Ssd::open(&device, geometry(1000), SsdPolicy::default()).err();
            let Some(Error::Mismatch { field, in_file, wanted, .. }) = error else { panic!("{error:?}") };
            let shown = char::from(format).to_string();
            assert_eq!((field, in_file, wanted), (name, shown, char::from(newest).to_string()));
        }
    }
}

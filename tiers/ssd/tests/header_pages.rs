//! The page of a header serves one record after another: nothing of one is found in the next.

use std::io::IoSliceMut;

use super::super::header_pages::HeaderPages;
use super::super::record::{RecordHeader, RecordPlace, RecordPlan, header_bytes};
use super::super::*;
use super::device::MemoryDevice;
use super::driver::IDENTITY;
use super::log_writer::size;

#[test]
fn a_page_that_is_used_again_has_no_byte_of_the_header_before() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut again = HeaderPages::new(PAGE_BYTES);
    for _ in 0..200 {
        let bytes = random.usize(1..=PAGE_BYTES);
        let header = again.begin(bytes);
        assert!(header.len() == bytes && header.iter().all(|&byte| byte == 0), "seed {seed}");
        header.fill(0xff);
        let (header, rest) = again.pages().split_at(bytes);
        assert!(header.iter().all(|&byte| byte == 0xff), "seed {seed}");
        assert!(rest.iter().all(|&byte| byte == 0), "seed {seed}: {bytes} bytes in the page");
    }
}

#[test]
fn a_record_has_nothing_of_another_one_also_when_several_are_written_at_once() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let geometry = Geometry::for_blocks(size(), 2048).expect("fits");
    let device = MemoryDevice::new(geometry.file_bytes());
    let mut ssd = Ssd::create(&device, geometry, SsdPolicy::default()).expect("creates");
    let volume = ssd.attach_volume("disk", Some(IDENTITY)).expect("attaches");
    let mut numbers = 0..;
    let (mut records, mut under_way) = (0, Vec::new());
    loop {
        // With a page for the header, and with two.
        let mut copies = || -> Vec<NewCopy> {
            let count = if random.bool() { random.usize(1..4) } else { random.usize(1..200) };
            let copy = |number| NewCopy {
                block: BlockId::new(volume, number),
                version: Version::from_u64(ssd.first_version().as_u64() + number),
                mask: Box::new([1]),
                epoch: 0,
            };
            numbers.by_ref().take(count).map(copy).collect()
        };
        let together: Vec<Vec<NewCopy>> = (0..4).map(|_| copies()).collect();
        let mut plans: Vec<RecordPlan> =
            together.iter().map_while(|copies| ssd.plan_record(copies, 0)).collect();
        if plans.is_empty() {
            break;
        }
        records += plans.len();
        random.shuffle(&mut plans);
        for plan in &mut plans {
            let blocks = vec![&[7; 16 << 10][..]; plan.block_count()];
            plan.run(&device, &blocks).expect("in range");
        }
        under_way.append(&mut plans);
        under_way.iter().for_each(|plan| check_header(&device, plan, seed));
        // The others stay under way while the next are planned.
        let finished = random.usize(..=under_way.len());
        under_way.drain(..finished).for_each(|plan| ssd.finish_record(plan));
        if let Some(sync) = ssd.plan_log_sync() {
            ssd.finish_log_sync(sync);
        }
    }
    assert!(records > 40, "seed {seed}: {records} records");
}

/// On the device are the header that was planned and zeros.
fn check_header(device: &MemoryDevice, plan: &RecordPlan, seed: u64) {
    let header = &plan.header;
    let end = header_bytes(header.entries.len(), size());
    let mut pages = vec![0; end.next_multiple_of(PAGE_BYTES)];
    device.read(plan.offset, &mut [IoSliceMut::new(&mut pages)]).expect("in range");
    let place = RecordPlace {
        file_id: header.file_id,
        segment: header.segment,
        generation: Some(header.generation),
        pages_left: u32::MAX,
    };
    let found = RecordHeader::from_bytes(&pages, place, size());
    assert_eq!(found.as_ref(), Some(header), "seed {seed}");
    assert!(pages[end..].iter().all(|&byte| byte == 0), "seed {seed}: behind record {}", header.sequence);
}

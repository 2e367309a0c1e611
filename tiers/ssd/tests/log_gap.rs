//! A segment of the log of which not even the first header is whole is not found: what lies behind that gap is not the
//! log's, unless the gap is what a segment left that was retired.

use super::super::format::block_crc_of;
use super::super::header_pages::HeaderPages;
use super::super::record::{RecordEntry, RecordHeader};
use super::super::*;
use super::device::MemoryDevice;
use super::log_writer::{Writer, geometry, size};

/// Whole blocks that fill a segment with one record.
const FILLING: usize = 8;

/// Puts so many records of a segment's length into the log, the first of block 0 on, and one block more; the segments
/// they are in.
fn fill(writer: &mut Writer, records: usize, syncs: bool) -> Vec<u32> {
    let first = writer.ssd.dirty.segments.len();
    for record in 0..records {
        let numbers = record * FILLING..(record + 1) * FILLING;
        numbers.clone().for_each(|number| writer.write(number, 0..size().sectors()));
        writer.log(numbers);
        if syncs {
            writer.sync();
        }
    }
    writer.write(2 * FILLING, 0..size().sectors());
    writer.log(2 * FILLING..2 * FILLING + 1);
    let segments: Vec<u32> =
        writer.ssd.dirty.segments.iter().skip(first).map(|segment| segment.segment).collect();
    assert_eq!(segments.len(), records + 1, "each record fills its segment");
    segments
}

/// The header that `segment` begins with is torn.
fn tear(writer: &Writer, segment: u32) {
    writer.device.change(geometry().segment_offset(segment), |bytes| bytes[40] ^= 1);
}

fn open(writer: &Writer) -> Result<Writer> {
    let device = MemoryDevice::holding(writer.device.bytes());
    let ssd = Ssd::open(&device, geometry(), SsdPolicy::default())?;
    let mut again = Writer::new();
    (again.ssd, again.device) = (ssd, device);
    Ok(again)
}

fn damage(writer: &Writer) -> Option<String> {
    open(writer).err().map(|error| error.to_string())
}

/// Of an empty log two segments were written and not synced, and the power failed. The first began with a torn header, so
/// that it was not found, and the whole record in the second was taken for the beginning of the log.
#[test]
fn nothing_behind_a_first_segment_with_a_torn_header_is_taken_for_the_log_which_goes_on_at_its_number() {
    for records in [1, 2] {
        for torn in 0..records {
            let mut writer = Writer::new();
            let begins_at = writer.ssd.dirty.next_sequence;
            let segments = fill(&mut writer, records, false);
            tear(&writer, segments[torn]);
            let mut again = open(&writer).expect("nothing is lost that was synced");
            let kept = torn * FILLING;
            assert_eq!(again.ssd.dirty_blocks(), kept as u64, "{torn} of {records}: the ones before");
            assert_eq!(again.ssd.dirty.next_sequence, begins_at + torn as u64);
            // What is forgotten is not found when the log has gone on over its numbers either.
            again.write(20, 0..size().sectors());
            again.log(20..21);
            again.sync();
            let last = open(&again).expect("it opens");
            assert_eq!(last.ssd.dirty_blocks(), kept as u64 + 1, "{torn} of {records}");
        }
    }
}

#[test]
fn a_first_segment_with_a_torn_header_is_damage_when_what_follows_says_that_it_was_synced() {
    for torn in 0..2 {
        let mut writer = Writer::new();
        let begins_at = writer.ssd.dirty.next_sequence;
        let segments = fill(&mut writer, 2, true);
        tear(&writer, segments[torn]);
        let message = damage(&writer).expect("records that were synced are missing");
        let missing = format!("record {} ", begins_at + torn as u64);
        assert!(message.contains(&missing), "{message}");
    }
}

/// The first record that is left was made before those of the retired segments were synced, and says so.
#[test]
fn what_is_left_behind_retired_segments_is_the_log_whatever_it_says_of_those() {
    for is_listed in [false, true] {
        let mut writer = Writer::new();
        if is_listed {
            // The first segment is in a checkpoint.
            (0..FILLING).for_each(|number| writer.write(number, 0..size().sectors()));
            writer.log(0..FILLING);
            writer.sync();
            writer.checkpoint();
        }
        fill(&mut writer, 2, false);
        writer.sync();
        let segments = writer.ssd.dirty.segments.len();
        (0..2 * FILLING).step_by(4).for_each(|number| writer.destage(number));
        assert!(writer.ssd.dirty.segments.len() < segments, "some are retired");
        let again = open(&writer).expect("it opens");
        assert_eq!(again.ssd.dirty_blocks(), 1, "listed: {is_listed}");
        assert_eq!(again.ssd.dirty.dirty_copies(again.block(2 * FILLING)).len(), 1);
    }
}

/// Nobody knows which records the retired segments had, so that the gap before the next one that is found is not seen. What
/// was in it was never synced, or it would not be torn, and what comes after it needs none of that.
#[test]
fn a_torn_segment_behind_retired_ones_is_forgotten_alone_and_what_was_synced_before_is_below() {
    for torn in [0, 1] {
        let mut writer = Writer::new();
        fill(&mut writer, 1, true);
        writer.sync();
        (0..3 * FILLING).step_by(4).for_each(|number| writer.destage(number));
        writer.settle_journal();
        assert!(writer.ssd.dirty.segments.is_empty(), "all are retired");
        let before = writer.ssd.dirty.next_sequence;
        let segments = fill(&mut writer, 2, false);
        tear(&writer, segments[torn]);
        let mut again = open(&writer).expect("nothing that was synced is missing");
        // Behind the first one that is found a gap is the end.
        let (kept, ends_at) = if torn == 0 { (FILLING + 1, before + 3) } else { (FILLING, before + 1) };
        assert_eq!(
            (again.ssd.dirty_blocks(), again.ssd.dirty.next_sequence),
            (kept as u64, ends_at),
            "{torn}"
        );
        again.write(20, 0..size().sectors());
        again.log(20..21);
        again.sync();
        let last = open(&again).expect("it opens");
        assert_eq!(last.ssd.dirty_blocks(), kept as u64 + 1, "{torn}");
    }
}

/// A sequence that was given up is used again, so that a record which an earlier use of the segment left behind the last
/// one may have just the number that comes next. Only its generation tells.
#[test]
fn a_record_of_an_earlier_generation_behind_the_last_one_is_not_the_logs_though_its_number_is_the_next() {
    for is_of_now in [true, false] {
        let mut writer = Writer::new();
        fill(&mut writer, 1, true);
        let last = writer.ssd.dirty.segments.back().expect("the log is not empty");
        let (segment, page) = (last.segment, last.next_page);
        let generation = if is_of_now { last.generation } else { last.generation - 1 };
        let (file_id, block, data) = (writer.ssd.file_id(), writer.block(20), vec![7; size().bytes()]);
        let crc = block_crc_of(file_id, block, generation, std::iter::once(&data[..]));
        let mask: SectorMask = vec![u64::MAX >> (64 - size().sectors())].into();
        let sequence = writer.ssd.dirty.next_sequence;
        let header = RecordHeader {
            file_id,
            segment,
            generation,
            sequence,
            synced_through: sequence - 1,
            epoch: 0,
            written_s: 0,
            entries: vec![RecordEntry { block, version: writer.version(), crc, mask }],
        };
        let bytes = [header.write_to(&mut HeaderPages::new(PAGE_BYTES), size()), &data].concat();
        let offset = geometry().segment_offset(segment) + u64::from(page) * PAGE_BYTES as u64;
        writer.device.change(offset, |there| there[..bytes.len()].copy_from_slice(&bytes));
        let again = open(&writer).expect("it opens");
        let wanted = FILLING as u64 + 1 + u64::from(is_of_now);
        assert_eq!(again.ssd.dirty_blocks(), wanted, "of now: {is_of_now}");
    }
}

/// A device wrote a record that is synced once more, behind the last one: right in all but its place. Taken for one of the
/// log it would be a gap, and the end of it.
#[test]
fn a_record_that_is_there_again_behind_the_last_one_is_not_the_logs_and_ends_nothing_before_it() {
    let mut writer = Writer::new();
    for number in 0..2 {
        writer.write(number, 0..size().sectors());
        writer.log(number..number + 1);
        writer.sync();
    }
    let (last, next_sequence) =
        (writer.ssd.dirty.segments.back().expect("the log is not empty"), writer.ssd.dirty.next_sequence);
    let start = geometry().segment_offset(last.segment) as usize;
    let end = start + last.next_page as usize * PAGE_BYTES;
    let bytes = writer.device.bytes();
    let first = &bytes[start..(start + end) / 2];
    writer.device.change(end as u64, |there| there[..first.len()].copy_from_slice(first));
    let again = open(&writer).expect("it opens");
    assert_eq!((again.ssd.dirty_blocks(), again.ssd.dirty.next_sequence), (2, next_sequence));
}

//! The items of the journal and of checkpoints as bytes: the only file that knows how they are encoded.
//!
//! bincode 2 with little-endian integers of fixed width: an enum is a u32 and its fields, a string or list a u64
//! count and its items. The tests below hold one of each against its bytes; a change of theirs is a new magic.
//!
//! Bytes are believed only inside a frame whose checksum holds (see `format`). Even so nothing here trusts a length:
//! an item that claims more than [`ITEM_BYTES_MAX`] is refused before anything is allocated.

use std::ops::Deref;

use bincode::config::{self, Config};
use bincode::de::{Decoder, read::Reader};
use bincode::enc::{Encoder, write::Writer};
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use crate::block::{BlockId, Version, VolumeId};
use crate::device::Identity;

/// No item takes more; the largest is a segment's record with its bits.
pub(super) const ITEM_BYTES_MAX: usize = 64 << 10;

fn format() -> impl Config {
    config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<ITEM_BYTES_MAX>()
}

/// Something that is stored one after the other in a frame.
pub(super) trait Item: Sized {
    fn put(&self, out: &mut Vec<u8>);
    /// The item at the start of `bytes` and how many bytes it took; none when there is none.
    fn take(bytes: &[u8]) -> Option<(Self, usize)>;
}

impl<T: Encode + Decode<()>> Item for T {
    fn put(&self, out: &mut Vec<u8>) {
        let before = out.len();
        bincode::encode_into_std_write(self, out, format()).expect("a vector takes every byte");
        // What is longer could not be read again.
        assert!(out.len() - before <= ITEM_BYTES_MAX, "an item of {} bytes", out.len() - before);
    }

    fn take(bytes: &[u8]) -> Option<(Self, usize)> {
        bincode::decode_from_slice(bytes, format()).ok()
    }
}

/// One entry of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) enum JournalEntry {
    /// No copy of the block older than the version is valid.
    Void { block: u64, version: u64 },
    /// The same for `count` blocks from `first` on.
    VoidRange { first: u64, count: u64, version: u64 },
    /// The copy in this place is bad.
    VoidSlot { segment: u32, generation: u32, slot: u32 },
    /// No clean copy in the region is valid; regions are counted from the start of the volume.
    RegionMark { volume: u32, region: u64 },
    /// The segment holds nothing any more.
    Retire { segment: u32, generation: u32 },
    /// The volume looks like this from now on.
    Volume(Box<VolumeEntry>),
    /// The volume is gone, and every copy of its blocks.
    VolumeDropped { volume: u32 },
    /// The number was given to a volume that is not recorded.
    VolumeUsed { volume: u32 },
    /// Of the volume's clean copies, those up to the version are covered by a sync of its backing store.
    SyncedThrough { volume: u32, version: u64 },
    /// No clean copy of the volume is valid in a segment of a lower generation.
    VolumeCold { volume: u32, generation: u32 },
    /// The file knows this mark of the volume (see `crate::mark`).
    VolumeMark { volume: u32, serial: u64 },
    /// `count` blocks from `first` on are zeros: no copy older than the version is valid, and the backing store is to
    /// discard them.
    Tombstone { first: u64, count: u64, version: u64, epoch: u64 },
    /// The backing store has all of the volume up to this epoch.
    Destaged { volume: u32, epoch: u64 },
}

/// One item of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) enum CheckpointItem {
    Counters(Counters),
    Volume(VolumeEntry),
    Segment(SegmentEntry),
    Ghosts(GhostEntry),
    DirtySegment(DirtySegmentEntry),
    /// After the volume: the mark of it that the file knows, unless that is 0.
    VolumeMark {
        volume: u32,
        serial: u64,
    },
    /// As [`JournalEntry::Tombstone`].
    Tombstone {
        first: u64,
        count: u64,
        version: u64,
        epoch: u64,
    },
    /// The backing store has all of the volume up to this epoch.
    Destaged {
        volume: u32,
        epoch: u64,
    },
}

/// A stretch of the list of ids lately refused or evicted, in a checkpoint of a file that was closed in order. Without
/// it a reopened cache would have to learn anew what earns a write.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) struct GhostEntry {
    /// Where the stretch starts in the list.
    pub(super) first: u64,
    pub(super) fingerprints: Vec<u16>,
}

/// Fingerprints in one [`GhostEntry`] at the most, so that it stays well below [`ITEM_BYTES_MAX`].
pub(super) const GHOSTS_PER_ENTRY: usize = 4096;

/// Whether the first item of a checkpoint's frame is a [`CheckpointItem::Ghosts`].
pub(super) fn begins_with_ghosts(items: &[u8]) -> bool {
    items.starts_with(&3_u32.to_le_bytes())
}

/// What is counted on from opening to opening; always the first item of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub(super) struct Counters {
    /// The journal entries up to this one are part of the checkpoint.
    pub(super) absorbed: u64,
    /// Frames of the journal with a lower generation are left over.
    pub(super) journal_generation: u64,
    pub(super) next_generation: u32,
    /// A summary of this generation or later is believed in a segment that the checkpoint does not list. The same as
    /// `next_generation`, but in a checkpoint that was made before all summaries were read.
    pub(super) believed_from: u32,
    pub(super) next_sequence: u64,
    pub(super) next_volume: u32,
    pub(super) next_record: u64,
    /// Every record up to this one is durable.
    pub(super) records_synced: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) struct VolumeEntry {
    volume: u32,
    pub(super) name: String,
    identity: Option<(u64, i128, u64, u64)>,
    pub(super) synced_through: u64,
}

impl VolumeEntry {
    pub(super) fn new(
        id: VolumeId,
        name: String,
        identity: Option<Identity>,
        synced_through: Version,
    ) -> Self {
        let identity = identity.map(|i| (i.bytes, i.modified_ns, i.inode, i.device));
        Self { volume: id.number(), name, identity, synced_through: synced_through.as_u64() }
    }

    /// None when the number is out of range.
    pub(super) fn id(&self) -> Option<VolumeId> {
        (self.volume < VolumeId::LIMIT).then(|| VolumeId::new(self.volume))
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity.map(|(bytes, modified_ns, inode, device)| Identity {
            bytes,
            modified_ns,
            inode,
            device,
        })
    }

    /// What an entry with a name of `name_bytes` takes at most in a checkpoint.
    pub(super) fn bytes_max(name_bytes: usize) -> u64 {
        // And its [`CheckpointItem::Destaged`].
        4 + 4 + 8 + name_bytes as u64 + 1 + 40 + 8 + VOLUME_MARK_BYTES + 16
    }
}

/// What [`CheckpointItem::VolumeMark`] takes.
const VOLUME_MARK_BYTES: u64 = 4 + 4 + 8;

/// A segment that may hold something, or that was written through.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) struct SegmentEntry {
    pub(super) segment: u32,
    /// Zero when it holds nothing.
    pub(super) generation: u32,
    pub(super) is_prepared: bool,
    /// A bit a slot: 0 when the copy there must not be used. Slots not written yet have a 1.
    pub(super) live: Words,
    /// Two bits a slot: how often it was hit.
    pub(super) hits: Words,
}

/// A segment of the dirty stream.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) struct DirtySegmentEntry {
    pub(super) segment: u32,
    pub(super) generation: u32,
    pub(super) first_sequence: u64,
    /// Nothing after this page belongs to it.
    pub(super) end_page: Option<u32>,
    /// A bit a copy, in their order: 1 when it must not be used. Copies after the last have a 0.
    pub(super) dead: Words,
}

/// Words of bits, as bincode has any list of numbers, but many at once: a checkpoint has millions of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Words(Vec<u64>);

const WORDS_AT_ONCE: usize = 64;

impl From<Vec<u64>> for Words {
    fn from(words: Vec<u64>) -> Self {
        Self(words)
    }
}

impl Deref for Words {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.0
    }
}

impl Encode for Words {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.0.len() as u64).encode(encoder)?;
        for words in self.0.chunks(WORDS_AT_ONCE) {
            let mut bytes = [[0; size_of::<u64>()]; WORDS_AT_ONCE];
            bytes.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
            encoder.writer().write(bytes[..words.len()].as_flattened())?;
        }
        Ok(())
    }
}

impl<Context> Decode<Context> for Words {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let count = usize::try_from(u64::decode(decoder)?).map_err(|_| DecodeError::LimitExceeded)?;
        decoder.claim_container_read::<u64>(count)?;
        let mut words = Vec::with_capacity(count);
        while words.len() < count {
            let mut bytes = [[0; size_of::<u64>()]; WORDS_AT_ONCE];
            let bytes = &mut bytes[..WORDS_AT_ONCE.min(count - words.len())];
            decoder.reader().read(bytes.as_flattened_mut())?;
            words.extend(bytes.iter().map(|bytes| u64::from_le_bytes(*bytes)));
        }
        Ok(Self(words))
    }
}

bincode::impl_borrow_decode!(Words);

/// The block and version of an entry, as the rest of the tier names them.
pub(super) fn void(block: BlockId, version: Version) -> JournalEntry {
    JournalEntry::Void { block: block.as_u64(), version: version.as_u64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<T: Item + PartialEq + std::fmt::Debug>(item: &T) -> String {
        let mut bytes = Vec::new();
        item.put(&mut bytes);
        assert_eq!(T::take(&bytes), Some((item_clone(&bytes), bytes.len())));
        assert_eq!(T::take(&bytes).as_ref().map(|(item, _)| item), Some(item));
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn item_clone<T: Item>(bytes: &[u8]) -> T {
        T::take(bytes).expect("it was just put").0
    }

    fn volume() -> VolumeEntry {
        let identity = Identity { bytes: 1, modified_ns: -2, inode: 3, device: 4 };
        VolumeEntry::new(VolumeId::new(7), "a".into(), Some(identity), Version::from_u64(5))
    }

    #[test]
    fn one_journal_entry_of_each_kind_has_the_bytes_it_always_had() {
        let golden = [
            (JournalEntry::Void { block: 1, version: 2 }, "0000000001000000000000000200000000000000"),
            (
                JournalEntry::VoidRange { first: 1, count: 2, version: 3 },
                "01000000010000000000000002000000000000000300000000000000",
            ),
            (
                JournalEntry::VoidSlot { segment: 1, generation: 2, slot: 3 },
                "02000000010000000200000003000000",
            ),
            (JournalEntry::RegionMark { volume: 1, region: 2 }, "03000000010000000200000000000000"),
            (JournalEntry::Retire { segment: 1, generation: 2 }, "040000000100000002000000"),
            (
                JournalEntry::Volume(Box::new(volume())),
                "050000000700000001000000000000006101010000000000000\
                 0feffffffffffffffffffffffffffffff030000000000000004000000000000000500000000000000",
            ),
            (JournalEntry::VolumeDropped { volume: 1 }, "0600000001000000"),
            (JournalEntry::VolumeUsed { volume: 1 }, "0700000001000000"),
            (JournalEntry::SyncedThrough { volume: 1, version: 2 }, "08000000010000000200000000000000"),
            (JournalEntry::VolumeCold { volume: 1, generation: 2 }, "090000000100000002000000"),
            (JournalEntry::VolumeMark { volume: 1, serial: 2 }, "0a000000010000000200000000000000"),
            (
                JournalEntry::Tombstone { first: 1, count: 2, version: 3, epoch: 4 },
                "0b0000000100000000000000020000000000000003000000000000000400000000000000",
            ),
            (JournalEntry::Destaged { volume: 1, epoch: 2 }, "0c000000010000000200000000000000"),
        ];
        for (entry, bytes) in golden {
            assert_eq!(hex(&entry), bytes, "{entry:?}");
        }
    }

    #[test]
    fn one_checkpoint_item_of_each_kind_has_the_bytes_it_always_had() {
        let counters = Counters {
            absorbed: 1,
            journal_generation: 2,
            next_generation: 3,
            believed_from: 8,
            next_sequence: 4,
            next_volume: 5,
            next_record: 6,
            records_synced: 7,
        };
        let segment = SegmentEntry {
            segment: 1,
            generation: 2,
            is_prepared: true,
            live: vec![3].into(),
            hits: vec![4, 5].into(),
        };
        let dirty = DirtySegmentEntry {
            segment: 1,
            generation: 2,
            first_sequence: 3,
            end_page: Some(4),
            dead: vec![5].into(),
        };
        let golden = [
            (
                CheckpointItem::Counters(counters),
                "0000000001000000000000000200000000000000030000000800000004000000000000000500000006000000000000000700000000000000",
            ),
            (
                CheckpointItem::Segment(segment),
                "0200000001000000020000000101000000000000000300000000000000\
                 020000000000000004000000000000000500000000000000",
            ),
            (
                CheckpointItem::DirtySegment(dirty),
                "0400000001000000020000000300000000000000010400000001000000000000000500000000000000",
            ),
            (CheckpointItem::VolumeMark { volume: 1, serial: 2 }, "05000000010000000200000000000000"),
            (
                CheckpointItem::Tombstone { first: 1, count: 2, version: 3, epoch: 4 },
                "060000000100000000000000020000000000000003000000000000000400000000000000",
            ),
            (CheckpointItem::Destaged { volume: 1, epoch: 2 }, "07000000010000000200000000000000"),
        ];
        for (item, bytes) in &golden {
            assert_eq!(hex(item), *bytes, "{item:?}");
        }
        assert!(hex(&CheckpointItem::Volume(volume())).starts_with("0100000007000000"));
        let ghosts = CheckpointItem::Ghosts(GhostEntry { first: 1, fingerprints: vec![2, 3] });
        let is_of_ghosts = |item: &CheckpointItem| {
            let mut bytes = Vec::new();
            item.put(&mut bytes);
            begins_with_ghosts(&bytes)
        };
        assert_eq!(hex(&ghosts), "030000000100000000000000020000000000000002000300");
        assert!(is_of_ghosts(&ghosts) && !golden.iter().any(|(item, _)| is_of_ghosts(item)));
    }

    #[test]
    fn words_have_the_bytes_of_any_list_of_numbers_however_many_there_are() {
        for count in [0, 1, WORDS_AT_ONCE - 1, WORDS_AT_ONCE, WORDS_AT_ONCE + 1, 3 * WORDS_AT_ONCE + 5] {
            let list: Vec<u64> = (0..count as u64).map(|word| word << 56 | (word + 1)).collect();
            let words = Words::from(list.clone());
            assert_eq!(hex(&words), hex(&list), "{count}");
            let mut bytes = Vec::new();
            words.put(&mut bytes);
            assert_eq!(Words::take(&bytes), Some((words, bytes.len())), "{count}");
            bytes.pop();
            assert_eq!(Words::take(&bytes), None, "{count}, without the last byte");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let mut bytes = vec![2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1];
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend([0; 64]);
        assert_eq!(CheckpointItem::take(&bytes), None);
        bytes[13..21].copy_from_slice(&(1u64 << 40).to_le_bytes());
        assert_eq!(CheckpointItem::take(&bytes), None);
    }

    #[test]
    fn random_bytes_never_panic() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..random.usize(..80)).map(|_| random.u8(..)).collect();
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(&random.u32(..12).to_le_bytes());
            }
            let _ = JournalEntry::take(&bytes);
            let _ = CheckpointItem::take(&bytes);
        }
    }
}

//! What every sector may read as after a kill.

use terrace::WriteMode;

use super::log::{Event, Record};
use super::{SECTOR, SECTORS, THREADS, VOLUMES};

/// Whether a write that was acknowledged outlives the process, though nobody flushed.
fn keeps_what_it_acknowledges(mode: WriteMode) -> bool {
    match mode {
        WriteMode::Through | WriteMode::Around => true,
        WriteMode::Back | WriteMode::BackSsd => false,
    }
}

/// `value` as a sector shows it.
pub(super) fn sector_of(volume: usize, sector: usize, value: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let place = ((volume as u64) << 32) | sector as u64;
    for pair in bytes.chunks_exact_mut(16) {
        pair[..8].copy_from_slice(&place.to_le_bytes());
        pair[8..].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The value that a sector shows; zero when nothing was ever written there.
pub(super) fn value_of(volume: usize, sector: usize, bytes: &[u8]) -> Result<u64, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let value = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    if bytes == sector_of(volume, sector, value) {
        return Ok(value);
    }
    Err(format!("sector {sector} of volume {volume} is torn or another's: {:02x?}", &bytes[..32]))
}

/// What every sector may read as.
pub(super) struct Oracle {
    /// For each sector the last value that is kept, and those begun after it. Values of a sector only rise.
    possible: [Vec<Vec<u64>>; VOLUMES],
}

/// What the log of one life says.
#[derive(Default)]
pub(super) struct Life {
    pub(super) acknowledged: u64,
    pub(super) flushes: u64,
    /// The volume was written below and then not closed: its copies on the SSD must not be believed.
    pub(super) is_cold: [bool; VOLUMES],
}

impl Oracle {
    pub(super) fn new() -> Self {
        Self { possible: std::array::from_fn(|_| vec![vec![0]; SECTORS]) }
    }

    /// Takes in what a life in these `modes` did.
    pub(super) fn replay(&mut self, log: &[Record], modes: [WriteMode; VOLUMES]) -> Life {
        let mut life = Life::default();
        // Acknowledged, and not kept before a flush that began later: where in the log, and what.
        let mut unflushed = [const { Vec::<(usize, Record)>::new() }; VOLUMES];
        let mut flushing = [[0; THREADS + 1]; VOLUMES];
        let mut is_open = false;
        for (at, &record) in log.iter().enumerate() {
            let (volume, thread) = (usize::from(record.volume), usize::from(record.thread));
            match record.event {
                Event::Opened => is_open = true,
                Event::Closing => (is_open, life.is_cold) = (false, [false; VOLUMES]),
                Event::Begun => {
                    record.sectors().for_each(|sector| self.possible[volume][sector].push(record.value));
                }
                Event::Acknowledged if keeps_what_it_acknowledges(modes[volume]) => {
                    self.keep(record);
                    life.acknowledged += 1;
                    life.is_cold[volume] = is_open;
                }
                Event::Acknowledged => {
                    unflushed[volume].push((at, record));
                    life.acknowledged += 1;
                }
                Event::Flushing => flushing[volume][thread] = at,
                Event::Flushed => {
                    let began = flushing[volume][thread];
                    let (kept, rest): (Vec<_>, Vec<_>) =
                        unflushed[volume].drain(..).partition(|&(at, _)| at < began);
                    unflushed[volume] = rest;
                    // What is flushed to the log is found there, and the rest is cold.
                    let is_below = modes[volume] != WriteMode::BackSsd;
                    life.is_cold[volume] |= is_open && is_below && !kept.is_empty();
                    kept.into_iter().for_each(|(_, record)| self.keep(record));
                    life.flushes += 1;
                }
            }
        }
        life
    }

    /// Nothing older than what `record` says can be read any more.
    fn keep(&mut self, record: Record) {
        for sector in record.sectors() {
            self.possible[usize::from(record.volume)][sector].retain(|&value| value >= record.value);
        }
    }

    /// Compares what was read from sector `first` on; what was seen once must stay.
    pub(super) fn check(&mut self, volume: usize, first: usize, bytes: &[u8]) -> Result<(), String> {
        for (index, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = first + index;
            let found = value_of(volume, sector, bytes)?;
            let possible = &mut self.possible[volume][sector];
            if !possible.contains(&found) {
                return Err(format!(
                    "sector {sector} of volume {volume} is {found:x}, one of {possible:x?} is right"
                ));
            }
            *possible = vec![found];
        }
        Ok(())
    }
}

#[test]
fn the_check_tells_what_was_lost_what_is_torn_and_what_changed_after_it_was_seen() {
    let begun = Record { first: 3, count: 2, value: 7, ..Record::of(Event::Begun, 0, 1) };
    let acknowledged = Record { event: Event::Acknowledged, ..begun };
    let late = Record { value: 8, ..begun };
    let (flushing, flushed) = (Record::of(Event::Flushing, 2, 1), Record::of(Event::Flushed, 2, 1));
    let replayed = |log: &[Record], mode| {
        let mut oracle = Oracle::new();
        oracle.replay(log, [mode; VOLUMES]);
        oracle
    };
    let holds = |oracle: &mut Oracle, value| {
        let data = [sector_of(1, 3, value), sector_of(1, 4, value)].concat();
        oracle.check(1, 3, if value == 0 { &[0; 2 * SECTOR] } else { &data }).is_ok()
    };
    let log = [begun, acknowledged, late];
    for (value, in_through, in_back) in
        [(0, false, true), (7, true, true), (8, true, true), (9, false, false)]
    {
        assert_eq!(holds(&mut replayed(&log, WriteMode::Through), value), in_through, "{value}");
        assert_eq!(holds(&mut replayed(&log, WriteMode::Back), value), in_back, "{value}");
    }
    let covered = [begun, acknowledged, flushing, flushed];
    assert!(!holds(&mut replayed(&covered, WriteMode::Back), 0), "a flush was told that it is kept");
    let too_early = [begun, flushing, acknowledged, flushed];
    assert!(holds(&mut replayed(&too_early, WriteMode::Back), 0), "the flush began before the write ended");

    let mut oracle = replayed(&log, WriteMode::Back);
    assert!(holds(&mut oracle, 7) && holds(&mut oracle, 7) && !holds(&mut oracle, 8), "seen once");
    let mut torn = sector_of(1, 3, 7);
    torn[SECTOR - 1] ^= 1;
    assert!(replayed(&log, WriteMode::Back).check(1, 3, &torn).is_err());
    assert!(replayed(&log, WriteMode::Back).check(1, 3, &sector_of(1, 4, 7)).is_err(), "another's");
}

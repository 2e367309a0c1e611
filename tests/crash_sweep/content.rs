//! What sectors hold: each says which sector it is and which write it is from.

pub(crate) const SECTOR: usize = 512;
const SECTOR_U64: u64 = SECTOR as u64;

/// What a sector was found to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Zeros,
    /// The bytes of the write with this number, all of them.
    Write(u64),
    /// Anything else.
    Rubbish,
}

/// The bytes of `count` sectors from `sector` on, as write `number` leaves them.
pub(crate) fn written(sector: u64, count: u64, number: u64) -> Vec<u8> {
    (sector..sector + count).flat_map(|sector| words(sector, number)).flat_map(u64::to_le_bytes).collect()
}

/// What the sectors of `bytes` hold, which are those from `sector` on.
pub(crate) fn found(sector: u64, bytes: &[u8]) -> impl Iterator<Item = Found> {
    (sector..).zip(bytes.chunks_exact(SECTOR)).map(|(sector, bytes)| found_in(sector, bytes))
}

fn found_in(sector: u64, bytes: &[u8]) -> Found {
    let mut stored = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    let number = stored.nth(1).expect("a sector has 64 words");
    if number == 0 && bytes.iter().all(|&byte| byte == 0) {
        return Found::Zeros;
    }
    let is_whole = stored.eq(words(sector, number).skip(2)) && bytes[..8] == sector.to_le_bytes();
    if is_whole { Found::Write(number) } else { Found::Rubbish }
}

fn words(sector: u64, number: u64) -> impl Iterator<Item = u64> {
    let mixed = (sector << 32 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let rest = (2..SECTOR_U64 / 8).map(move |word| mixed.wrapping_mul(2 * word + 1));
    [sector, number].into_iter().chain(rest)
}

#[test]
fn a_sector_tells_its_write_and_nothing_else_passes_for_one() {
    let bytes = written(7, 2, 3);
    assert!(found(7, &bytes).eq([Found::Write(3); 2]));
    assert!(found(8, &bytes).eq([Found::Rubbish; 2]), "it lies elsewhere");
    assert!(found(7, &[0; SECTOR]).eq([Found::Zeros]));
    for byte in 0..SECTOR {
        let mut torn = bytes[..SECTOR].to_vec();
        torn[byte] ^= 1;
        assert!(found(7, &torn).eq([Found::Rubbish]), "byte {byte}");
    }
}

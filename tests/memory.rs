//! What the process takes, in a process of its own.

#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;

use common::{BLOCK, Files};
use terrace::{BlockSize, Cache, Config, RamSize, WriteMode};

/// Bytes of this process that are in memory.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has one");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says how large it is");
    line.trim().split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[test]
fn a_shrunk_cache_gives_the_memory_of_frames_and_directory_back() {
    const MIB: u64 = 1 << 20;
    // Sparse, so that reads bring zeros; small blocks have the most to remember.
    let files = Files::new();
    let mut config = Config::new(RamSize::Bytes(256 * MIB));
    config.block_size = BlockSize::new(BLOCK as u64).expect("a block size");
    let cache = Cache::open(&config).expect("the cache opens");
    let before = resident_bytes();
    let volume = cache.attach("disk", Arc::new(files.backing(300 * MIB)), WriteMode::Back).expect("attaches");
    let fill = || {
        let mut bytes = vec![0; MIB as usize];
        (0..300).for_each(|mib| {
            volume.read(mib * MIB, &mut bytes).expect("a read succeeds");
        });
    };
    // What the process needs besides.
    let margin = 16 * MIB;
    for _ in 0..2 {
        cache.resize_ram(RamSize::Bytes(256 * MIB)).expect("there is address space");
        fill();
        let full = resident_bytes() - before;
        assert!(full > 240 * MIB && full < 256 * MIB + margin, "{} MiB", full / MIB);
        cache.resize_ram(RamSize::Bytes(16 * MIB)).expect("all may leave");
        let shrunk = resident_bytes().saturating_sub(before);
        assert!(shrunk < 16 * MIB + margin, "{} MiB are left", shrunk / MIB);
        fill();
        let used = resident_bytes().saturating_sub(before);
        assert!(used < 16 * MIB + margin, "{} MiB are used by 16", used / MIB);
    }
    cache.close().expect("the cache closes");
}

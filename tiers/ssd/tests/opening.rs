//! Closing and opening in order, and files that are not what was asked for.

use crate::block::{BlockSize, Version};
use crate::error::Error;

use super::super::*;
use super::device::MemoryDevice;
use super::driver::{Driver, block_size, geometry};

#[test]
fn everything_written_before_a_clean_close_is_there_after_it() {
    let mut driver = Driver::create(1000, SsdPolicy::default());
    let version = driver.ssd.first_version();
    for number in 0..700 {
        assert!(matches!(driver.demote(number, version), Demote::Append(_)));
    }
    let volume = driver.volume;
    let mut driver = driver.reopen();
    assert_eq!(driver.volume, volume, "the volume is what it was");
    assert!(driver.ssd.first_version() > version);
    for number in 0..700 {
        assert!(driver.read(number, version), "block {number}");
    }
    assert_eq!(driver.ssd.stats().hits, 700);
}

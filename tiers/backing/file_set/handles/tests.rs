use std::io::IoSlice;

use super::*;
use crate::testing::{Fault, MemoryDevice, Operation};

fn key(set: u64, file: u32) -> FileKey {
    FileKey { set, file }
}

/// A pool of two open files, and a way to write to them.
fn pool() -> Arc<HandlePool<MemoryDevice>> {
    HandlePool::new(2)
}

fn get(pool: &HandlePool<MemoryDevice>, key: FileKey) -> Handle<'_, MemoryDevice> {
    pool.get(key, || Ok(MemoryDevice::new(4096))).expect("memory can always be opened")
}

fn write(pool: &HandlePool<MemoryDevice>, key: FileKey) {
    let handle = get(pool, key);
    handle.file().write(0, &[IoSlice::new(&[1])]).expect("no fault is set");
    handle.set_written();
}

#[test]
fn a_file_with_unsynced_writes_is_synced_before_it_is_closed_and_its_error_is_told_by_the_next_sync_of_its_set()
 {
    let pool = pool();
    write(&pool, key(1, 0));
    get(&pool, key(1, 0)).file().fail(Fault::every(Operation::Sync));
    for file in 0..4 {
        drop(get(&pool, key(2, file)));
    }
    assert_eq!(pool.open_count(), 2, "and closed it is");
    assert!(pool.sync(2).is_ok(), "it is not this set's error");
    assert!(pool.sync(1).is_err());
    assert!(pool.sync(1).is_ok(), "told once");
}

#[test]
fn a_sync_visits_each_written_file_once_and_none_that_was_only_read() {
    let pool = HandlePool::new(8);
    write(&pool, key(1, 0));
    drop(get(&pool, key(1, 1)));
    write(&pool, key(2, 0));
    pool.sync(1).expect("no fault is set");
    pool.sync(1).expect("no fault is set");
    let syncs = |key| get(&pool, key).file().counters().syncs;
    assert_eq!((syncs(key(1, 0)), syncs(key(1, 1)), syncs(key(2, 0))), (1, 0, 0));
}

#[test]
fn a_file_in_use_stays_open_and_its_unsynced_write_is_found_by_a_sync() {
    let pool = pool();
    let held = get(&pool, key(1, 0));
    for file in 1..6 {
        drop(get(&pool, key(1, file)));
    }
    held.file().write(0, &[IoSlice::new(&[1])]).expect("no fault is set");
    held.set_written();
    pool.sync(1).expect("no fault is set");
    assert_eq!(held.file().counters().syncs, 1);
    drop(held);
    pool.close(1);
    assert_eq!(pool.open_count(), 0);
}

#[test]
fn a_sync_fails_with_one_of_the_same_file_that_fails_after_it_began() {
    let pool = HandlePool::new(8);
    write(&pool, key(1, 0));
    get(&pool, key(1, 0)).file().fail(Fault::nth(Operation::Sync, 0));
    let begun = pool.lock().unsynced(1);
    assert!(pool.sync(1).is_err());
    assert!(begun[0].sync().is_err(), "what it covers is lost");
    write(&pool, key(1, 0));
    assert!(pool.sync(1).is_ok());
}

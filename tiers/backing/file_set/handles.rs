//! Open files, shared by many file sets, no more at a time than a bound.
//!
//! Invariants:
//! 1. A handle that is in use is never closed. When all are, there may be more than the bound for that time.
//! 2. A handle with writes that no sync has covered is synced before it is closed. The error of that sync is kept
//!    for the next sync of the set that the file belongs to.
//! 3. No lock is held while a file is opened, synced or closed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::file_device::{FileDevice, SyncTurn};

#[cfg(test)]
mod tests;

/// Which file: the number of its set, and its own number there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct FileKey {
    pub(super) set: u64,
    pub(super) file: u32,
}

/// Keeps files open that were used lately; see the head of this file. One for all sets of a process is best.
pub struct HandlePool<F = FileDevice> {
    capacity: usize,
    state: Mutex<State<F>>,
}

struct State<F> {
    open: HashMap<FileKey, Entry<F>>,
    /// The open files by when they were last used.
    by_use: BTreeMap<u64, FileKey>,
    uses: u64,
    sets: u64,
    /// Errors of syncs that nobody asked for, by set.
    untold: HashMap<u64, Error>,
}

struct Entry<F> {
    opened: Arc<Opened<F>>,
    used: u64,
    /// Writes so far, and how many of them a sync has covered.
    writes: u64,
    synced: u64,
}

struct Opened<F> {
    file: F,
    sync_turn: SyncTurn,
}

/// A file that a sync is to visit.
struct Unsynced<F> {
    key: FileKey,
    opened: Arc<Opened<F>>,
    writes: u64,
    failures: u64,
}

impl<F: Device> Unsynced<F> {
    fn new(key: FileKey, entry: &Entry<F>) -> Self {
        let failures = entry.opened.sync_turn.failures();
        Self { key, opened: entry.opened.clone(), writes: entry.writes, failures }
    }

    fn sync(&self) -> Result<()> {
        let Opened { file, sync_turn } = &*self.opened;
        sync_turn.run(self.failures, file, || file.sync())
    }
}

/// A file in use.
pub(super) struct Handle<'a, F: Device> {
    pool: &'a HandlePool<F>,
    key: FileKey,
    /// None only while it is dropped.
    opened: Option<Arc<Opened<F>>>,
}

impl<F: Device> HandlePool<F> {
    /// At most `capacity` files stay open; each may take two descriptors. A quarter of the limit of the process
    /// leaves room for everything else.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity: capacity.max(1), state: Mutex::new(State::default()) })
    }

    /// How many files are open.
    pub fn open_count(&self) -> usize {
        self.lock().open.len()
    }

    /// A number for a new set.
    pub(super) fn new_set(&self) -> u64 {
        let mut state = self.lock();
        state.sets += 1;
        state.sets
    }

    /// The file, opened by `open` when it is not.
    pub(super) fn get(&self, key: FileKey, open: impl FnOnce() -> Result<F>) -> Result<Handle<'_, F>> {
        if let Some(opened) = self.lock().touch(key) {
            return Ok(Handle { pool: self, key, opened: Some(opened) });
        }
        let fresh = Arc::new(Opened { file: open()?, sync_turn: SyncTurn::default() });
        let opened = {
            let mut state = self.lock();
            // Another may have been faster; its handle may have writes that this one does not know of.
            match state.touch(key) {
                Some(opened) => opened,
                None => state.insert(key, fresh),
            }
        };
        let handle = Handle { pool: self, key, opened: Some(opened) };
        self.shrink();
        Ok(handle)
    }

    /// Syncs all files of `set` that need it; the first error. It fails, too, when another sync failed that nobody was
    /// told of, or that ran at the same time on one of the files: what that was to cover is lost to this one.
    pub(super) fn sync(&self, set: u64) -> Result<()> {
        let (unsynced, untold) = {
            let mut state = self.lock();
            (state.unsynced(set), state.untold.remove(&set))
        };
        let mut first = untold.map_or(Ok(()), Err);
        for file in unsynced {
            let synced = file.sync();
            self.lock().set_synced(&file);
            first = first.and(synced);
        }
        self.shrink();
        first
    }

    /// Syncs and closes all files of `set`.
    pub(super) fn close(&self, set: u64) {
        // Nobody is left to tell; who wanted to know has called `sync`.
        let _ = self.sync(set);
        let closed: Vec<Entry<F>> = {
            let mut state = self.lock();
            let keys: Vec<FileKey> = state.open.keys().filter(|key| key.set == set).copied().collect();
            state.untold.remove(&set);
            keys.into_iter().filter_map(|key| state.remove(key)).collect()
        };
        drop(closed);
    }

    /// Closes what was used longest ago until the bound holds, or all others are in use.
    fn shrink(&self) {
        loop {
            let file = {
                let mut state = self.lock();
                if state.open.len() <= self.capacity {
                    return;
                }
                let Some(key) = state.oldest_idle() else { return };
                let entry = &state.open[&key];
                if entry.writes == entry.synced {
                    let closed = state.remove(key);
                    drop(state);
                    drop(closed);
                    continue;
                }
                // It stays in the table, in use by this thread, so that a sync of its set finds it.
                Unsynced::new(key, entry)
            };
            let synced = file.sync();
            let mut state = self.lock();
            state.set_synced(&file);
            if let Err(error) = synced {
                state.untold.entry(file.key.set).or_insert(error);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Default for State<F> {
    fn default() -> Self {
        let (open, by_use, untold) = Default::default();
        Self { open, by_use, uses: 0, sets: 0, untold }
    }
}

impl<F: Device> State<F> {
    fn unsynced(&self, set: u64) -> Vec<Unsynced<F>> {
        let of_set = self.open.iter().filter(|(key, entry)| key.set == set && entry.writes > entry.synced);
        of_set.map(|(key, entry)| Unsynced::new(*key, entry)).collect()
    }

    /// The file, if it is open; now the one used last.
    fn touch(&mut self, key: FileKey) -> Option<Arc<Opened<F>>> {
        let entry = self.open.get_mut(&key)?;
        self.uses += 1;
        self.by_use.remove(&entry.used);
        self.by_use.insert(self.uses, key);
        entry.used = self.uses;
        Some(entry.opened.clone())
    }

    fn insert(&mut self, key: FileKey, opened: Arc<Opened<F>>) -> Arc<Opened<F>> {
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.open.insert(key, Entry { opened: opened.clone(), used: self.uses, writes: 0, synced: 0 });
        opened
    }

    fn remove(&mut self, key: FileKey) -> Option<Entry<F>> {
        let entry = self.open.remove(&key)?;
        self.by_use.remove(&entry.used);
        Some(entry)
    }

    /// References are made under the lock only, so that one that is alone stays so.
    fn oldest_idle(&self) -> Option<FileKey> {
        self.by_use.values().find(|key| Arc::strong_count(&self.open[*key].opened) == 1).copied()
    }

    /// Also after a failed sync: what it should have covered is lost to every later one, and whoever wrote it is told.
    fn set_synced(&mut self, file: &Unsynced<F>) {
        if let Some(entry) = self.open.get_mut(&file.key) {
            entry.synced = entry.synced.max(file.writes);
        }
    }
}

impl<F: Device> Handle<'_, F> {
    pub(super) fn file(&self) -> &F {
        &self.opened.as_ref().expect("it is there until the drop").file
    }

    /// Says that something was written, or may have been; after the write, so that no sync believes to cover it
    /// that started before.
    pub(super) fn set_written(&self) {
        if let Some(entry) = self.pool.lock().open.get_mut(&self.key) {
            entry.writes += 1;
        }
    }
}

impl<F: Device> Drop for Handle<'_, F> {
    fn drop(&mut self) {
        self.opened = None;
        if self.pool.open_count() > self.pool.capacity {
            self.pool.shrink();
        }
    }
}

//! SKELETON: shapes only.
use crate::block::BlockId;

/// Where a block's entry is while it is in the directory; stable as long as it is resident or a ghost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(u32);
impl Slot { pub fn index(self) -> usize { self.0 as usize } }

/// Which list a resident block is or was in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side { Recent, Frequent }

/// A block that left RAM. Its slot may already be that of a ghost, or free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evicted { pub block: BlockId, pub slot: Slot, pub from: Side }

/// What a request for a block found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It was resident.
    Hit(Slot),
    /// It was not, and is now; `ghost` tells the ghost list that remembered it.
    Miss { slot: Slot, ghost: Option<Side>, evicted: Option<Evicted> },
}

/// No resident block may leave: nothing was changed (blocks may have been set aside).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoVictim;

pub struct ArcPolicy {}

impl ArcPolicy {
    /// Room for `capacity` resident blocks (at least 1) and as many ghosts.
    pub fn new(_capacity: u32) -> Self { unimplemented!() }
    pub fn capacity(&self) -> u32 { unimplemented!() }
    /// Resident blocks.
    pub fn len(&self) -> u32 { unimplemented!() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
    /// Slots are below this, now and until the next `resize` to more.
    pub fn slot_limit(&self) -> usize { unimplemented!() }
    /// The slot of a resident block; changes nothing.
    pub fn lookup(&self, _block: BlockId) -> Option<Slot> { unimplemented!() }
    pub fn block_at(&self, _slot: Slot) -> BlockId { unimplemented!() }
    /// One reference to `block`, as in Figure 4 of the paper. `may_leave` says of a resident block whether it may be
    /// the victim; one that may not is set aside until `release`.
    pub fn request(&mut self, _block: BlockId, _may_leave: impl FnMut(Slot) -> bool) -> Result<Access, NoVictim> { unimplemented!() }
    /// A block that was refused as a victim may leave again. Nothing happens when it was not set aside.
    pub fn release(&mut self, _slot: Slot) { unimplemented!() }
    /// Takes a block out of whatever list it is in, ghosts too; its slot, if it was resident.
    pub fn remove(&mut self, _block: BlockId) -> Option<Slot> { unimplemented!() }
    /// Changes the capacity. Blocks that no longer fit are appended to `evicted`; when those left may not leave, the
    /// cache stays larger until later requests shrink it.
    pub fn resize(&mut self, _capacity: u32, _may_leave: impl FnMut(Slot) -> bool, _evicted: &mut Vec<Evicted>) { unimplemented!() }
    /// RAM that the directory takes for each block of capacity, ghosts and hash table included.
    pub const BYTES_PER_BLOCK: usize = 64;
}

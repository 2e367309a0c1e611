//! SKELETON: shapes only.
use crate::error::Result;
use std::ops::{Deref, DerefMut};

/// All frames of one cache; a cheap handle (clone it freely).
#[derive(Clone)]
pub struct Frames {}

impl Frames {
    /// Maps `count` frames of `frame_bytes` bytes each.
    pub fn new(_frame_bytes: usize, _count: u32) -> Result<Self> {
        unimplemented!()
    }
    /// A frame that nobody else holds, its bytes whatever was in it last; none when all are held.
    pub fn alloc(&self) -> Option<FrameMut> {
        unimplemented!()
    }
    pub fn frame_bytes(&self) -> usize {
        unimplemented!()
    }
    pub fn count(&self) -> u32 {
        unimplemented!()
    }
    /// Free right now; only a hint once other threads run.
    pub fn free_count(&self) -> u32 {
        unimplemented!()
    }
    /// Sets the one function that is called, from whatever thread frees it, at the first frame freed after each `want`.
    pub fn on_free(&self, _hook: Box<dyn Fn() + Send + Sync>) {
        unimplemented!()
    }
    /// Asks for one call of the hook. Ask, then try `alloc` once more, then wait: no wake-up is lost.
    pub fn want(&self) {
        unimplemented!()
    }
    /// RAM this costs a frame beyond its bytes.
    pub const OVERHEAD_BYTES: usize = 12;
}

/// The only holder of a frame: may write it.
pub struct FrameMut {}
impl FrameMut {
    /// From here on the bytes do not change while anyone else holds them.
    pub fn freeze(self) -> FrameRef {
        unimplemented!()
    }
}
impl Deref for FrameMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}
impl DerefMut for FrameMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        unimplemented!()
    }
}

/// One of the holders of a frame.
#[derive(Clone)]
pub struct FrameRef {}
impl FrameRef {
    /// The bytes to change in place, when nobody else holds them.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        unimplemented!()
    }
    /// Whether both are the same frame.
    pub fn same_frame(&self, _other: &FrameRef) -> bool {
        unimplemented!()
    }
}
impl Deref for FrameRef {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}

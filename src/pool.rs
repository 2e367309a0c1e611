use std::sync::Arc; use std::ops::Range;
use terrace_tiers::device::Device; use terrace_tiers::ram::frames::*;
use terrace_tiers::Error;
pub struct Pool;
impl Pool { pub fn new() -> Self { todo!() } pub fn lane(&self, _c: LaneConfig) -> Lane { todo!() } pub fn shutdown(&self) { todo!() } }
pub struct LaneConfig { pub name: String, pub threads: u32, pub queue_max: usize, pub merge_bytes_max: usize }
#[derive(Clone)] pub struct Lane;
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)] pub enum Priority { Foreground, Awaited, Prefetch, Background }
pub struct ReadRequest  { pub priority: Priority, pub device: Arc<dyn Device>, pub offset: u64, pub frames: Vec<FrameMut>, pub done: Box<dyn FnOnce(Vec<FrameMut>, Result<(), Arc<Error>>) + Send> }
pub struct WritePiece { pub frame: FrameRef, pub range: Range<usize> }
pub struct WriteRequest { pub priority: Priority, pub device: Arc<dyn Device>, pub offset: u64, pub pieces: Vec<WritePiece>, pub done: Box<dyn FnOnce(Result<(), Arc<Error>>) + Send> }
pub struct LaneStats { pub read_operations: u64, pub read_bytes: u64, pub write_operations: u64, pub write_bytes: u64 }
impl Lane {
  pub fn read(&self, _r: ReadRequest) {} pub fn write(&self, _r: WriteRequest) {}
  pub fn task(&self, _p: Priority, _j: Box<dyn FnOnce() + Send>) {}
  pub fn wait_for_room(&self) {}
  pub fn run_read(&self, _r: ReadRequest){} pub fn run_write(&self, _w: WriteRequest) {}
  pub fn stats(&self) -> LaneStats { todo!() }
}

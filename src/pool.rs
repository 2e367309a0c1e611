use std::sync::Arc; use std::ops::Range; use std::collections::VecDeque; use std::io::{IoSlice,IoSliceMut};
use terrace_tiers::device::Device; use terrace_tiers::ram::frames::*;
use terrace_tiers::Error;
use crate::sync::{Mutex,Condvar};
#[derive(Default)]
pub struct Pool { lanes: Mutex<Vec<(Lane, Vec<std::thread::JoinHandle<()>>)>> }
#[derive(Default)] struct Q { q: VecDeque<Box<dyn FnOnce()+Send>>, stop: bool }
struct L { q: Mutex<Q>, c: Condvar, s: Mutex<LaneStats> }
impl Pool { pub fn new() -> Self { Self::default() } pub fn lane(&self, c: LaneConfig) -> Lane { let l=Lane(Arc::new(L{q:Mutex::new(Q::default()),c:Condvar::new(),s:Mutex::new(LaneStats::default())}));
 let mut h=vec![]; for _ in 0..c.threads { let l=l.clone(); h.push(std::thread::spawn(move|| loop { let mut q=l.0.q.lock(); loop { if !q.q.is_empty(){break} if q.stop {return} l.0.c.wait(&mut q);} let j=q.q.pop_front().unwrap(); drop(q); j(); })); } self.lanes.lock().push((l.clone(),h)); l }
 pub fn shutdown(&self) { let v=std::mem::take(&mut *self.lanes.lock()); for (l,_) in &v { l.0.q.lock().stop=true; l.0.c.notify_all(); } for (_,h) in v { for h in h { if h.thread().id()!=std::thread::current().id() { let _=h.join(); } } } } }
pub struct LaneConfig { pub name: String, pub threads: u32, pub queue_max: usize, pub merge_bytes_max: usize }
#[derive(Clone)] pub struct Lane(Arc<L>);
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)] pub enum Priority { Foreground, Awaited, Prefetch, Background }
pub struct ReadRequest  { pub priority: Priority, pub device: Arc<dyn Device>, pub offset: u64, pub frames: Vec<FrameMut>, pub done: Box<dyn FnOnce(Vec<FrameMut>, Result<(), Arc<Error>>) + Send> }
pub struct WritePiece { pub frame: FrameRef, pub range: Range<usize> }
pub struct WriteRequest { pub priority: Priority, pub device: Arc<dyn Device>, pub offset: u64, pub pieces: Vec<WritePiece>, pub done: Box<dyn FnOnce(Result<(), Arc<Error>>) + Send> }
#[derive(Default,Clone,Copy)]
pub struct LaneStats { pub read_operations: u64, pub read_bytes: u64, pub write_operations: u64, pub write_bytes: u64 }
impl Lane {
  pub fn read(&self, r: ReadRequest) { let l=self.clone(); self.task(r.priority, Box::new(move|| l.run_read(r))); }
  pub fn task(&self, _p: Priority, j: Box<dyn FnOnce() + Send>) { self.0.q.lock().q.push_back(j); self.0.c.notify_one(); }
  pub fn wait_for_room(&self) {}
  pub fn run_read(&self, mut r: ReadRequest){ { let mut s=self.0.s.lock(); s.read_operations+=1; s.read_bytes+=r.frames.iter().map(|f|f.len() as u64).sum::<u64>(); } let x={ let mut v:Vec<_>=r.frames.iter_mut().map(|f|IoSliceMut::new(f)).collect(); r.device.read(r.offset,&mut v)}; (r.done)(r.frames, x.map_err(Arc::new)); }
  pub fn run_write(&self, w: WriteRequest) { { let mut s=self.0.s.lock(); s.write_operations+=1; s.write_bytes+=w.pieces.iter().map(|f|f.range.len() as u64).sum::<u64>(); } let x={ let v:Vec<_>=w.pieces.iter().map(|p|IoSlice::new(&p.frame[p.range.clone()])).collect(); w.device.write(w.offset,&v)}; drop(w.pieces); (w.done)(x.map_err(Arc::new)); }
  pub fn stats(&self) -> LaneStats { *self.0.s.lock() }
}

//! Who may read and write a frame and when, in one thread and in many.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use super::*;

const FRAME_BYTES: usize = PAGE_BYTES;

fn frames(count: u32) -> Frames {
    Frames::new(FRAME_BYTES, count).expect("a small mapping")
}

/// Under an interpreter the long runs are cut short.
const ROUNDS: usize = if cfg!(miri) { 60 } else { 40_000 };

#[test]
fn every_frame_is_page_aligned_zeroed_and_its_own() {
    let frames = Frames::new(3 * PAGE_BYTES, 5).expect("a small mapping");
    let mut all: Vec<FrameMut> = std::iter::from_fn(|| frames.alloc()).collect();
    assert_eq!((all.len(), frames.free_count(), frames.count()), (5, 0, 5));
    for (index, frame) in all.iter_mut().enumerate() {
        assert_eq!((frame.len(), frame.as_ptr() as usize % PAGE_BYTES), (3 * PAGE_BYTES, 0));
        assert!(frame.iter().all(|&byte| byte == 0));
        frame.fill(index as u8 + 1);
    }
    for (index, frame) in all.iter().enumerate() {
        assert!(frame.iter().all(|&byte| byte == index as u8 + 1), "frame {index}");
    }
    drop(all);
    assert_eq!(frames.free_count(), 5);
}

#[test]
fn sizes_that_cannot_work_are_refused_with_the_remedy() {
    for (frame_bytes, count) in [(0, 1), (100, 1), (PAGE_BYTES + 512, 1), (PAGE_BYTES, 0)] {
        let error = Frames::new(frame_bytes, count).expect_err("refused").to_string();
        assert!(error.contains(';'), "{error}");
    }
    assert!(Frames::new(1 << 62, 4).is_err(), "an overflow");
    assert!(Frames::new(1 << 60, 2).is_err(), "more than any system has");
}

#[test]
fn only_the_one_holder_of_a_frame_may_change_it() {
    let frames = frames(2);
    let mut first = frames.alloc().expect("free").freeze();
    first.get_mut().expect("alone")[0] = 7;
    let mut second = first.clone();
    assert!(first.get_mut().is_none() && second.get_mut().is_none());
    assert!(first.same_frame(&second) && second[0] == 7);
    let other = frames.alloc().expect("free").freeze();
    assert!(!first.same_frame(&other));
    drop(first);
    second.get_mut().expect("alone again")[0] = 8;
    assert_eq!(second[0], 8);
}

#[test]
fn the_frame_freed_last_is_used_first() {
    let frames = frames(4);
    let mut all: Vec<FrameRef> = (0..4).map(|_| frames.alloc().expect("free").freeze()).collect();
    let places: Vec<*const u8> = all.iter().map(|frame| frame.as_ptr()).collect();
    for index in [2, 0, 1] {
        let place = places[index];
        all.retain(|frame| frame.as_ptr() != place);
    }
    let again: Vec<FrameMut> = std::iter::from_fn(|| frames.alloc()).collect();
    let again: Vec<*const u8> = again.iter().map(|frame| frame.as_ptr()).collect();
    assert_eq!(again, [places[1], places[0], places[2]]);
}

#[test]
fn a_pop_that_began_before_its_frame_was_used_and_freed_fails() {
    let frames = frames(3);
    let free = &frames.pool().changing.free;
    let begun = free.top();
    let (first, second) = (frames.alloc(), frames.alloc());
    drop(second);
    drop(first);
    let now = free.top();
    assert_eq!(begun as u32, now as u32, "the same frame is first again");
    assert_ne!(begun, now);
}

#[test]
fn frames_outlive_every_handle_of_the_pool() {
    let frames = frames(3);
    let second_handle = frames.clone();
    let mut writer = frames.alloc().expect("free");
    let reader = second_handle.alloc().expect("free").freeze();
    drop(frames);
    drop(second_handle);
    writer.fill(5);
    let shared = reader.clone();
    drop(reader);
    assert!(writer.iter().all(|&byte| byte == 5) && shared.iter().all(|&byte| byte == 0));
    drop(writer);
    assert_eq!(shared.len(), FRAME_BYTES);
}

/// Counts its drops, to see when the pool goes.
struct Witness(Arc<AtomicUsize>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn the_pool_goes_once_with_the_last_holder_whoever_that_is() {
    for last_is_frame in [false, true] {
        let gone = Arc::new(AtomicUsize::new(0));
        let frames = frames(2);
        let witness = Witness(gone.clone());
        frames.on_free(Box::new(move || _ = &witness));
        let frame = frames.alloc().expect("free").freeze();
        let clone = frame.clone();
        if last_is_frame {
            drop(frames);
            drop(frame);
            assert_eq!(gone.load(SeqCst), 0);
            drop(clone);
        } else {
            drop(frame);
            drop(clone);
            assert_eq!(gone.load(SeqCst), 0);
            drop(frames);
        }
        assert_eq!(gone.load(SeqCst), 1);
    }
}

#[test]
fn the_hook_is_called_once_for_each_wish_at_the_next_free() {
    let frames = frames(2);
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    frames.on_free(Box::new(move || _ = seen.fetch_add(1, SeqCst)));
    drop(frames.alloc());
    assert_eq!(calls.load(SeqCst), 0, "nobody asked");
    let held = [frames.alloc().expect("free").freeze(), frames.alloc().expect("free").freeze()];
    assert!(frames.alloc().is_none());
    frames.want();
    frames.want();
    let [first, second] = held;
    let clone = first.clone();
    drop(first);
    assert_eq!(calls.load(SeqCst), 0, "still held");
    drop(clone);
    assert_eq!(calls.load(SeqCst), 1);
    drop(second);
    assert_eq!(calls.load(SeqCst), 1, "one wish, one call");
    assert_eq!(frames.free_count(), 2);
}

#[test]
fn who_asks_while_the_frame_is_freed_gets_it_or_is_called() {
    let frames = frames(1);
    // Half: the barrier is slow where other work keeps the second core.
    let rounds = ROUNDS / 2;
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    frames.on_free(Box::new(move || _ = seen.fetch_add(1, SeqCst)));
    let arrivals = AtomicUsize::new(0);
    // A barrier that spins, so that both go on within nanoseconds: only then can a store pass a load.
    let meet = |phase: usize| {
        arrivals.fetch_add(1, SeqCst);
        for spin in 1_u32.. {
            if arrivals.load(SeqCst) >= 2 * phase {
                break;
            }
            if spin.is_multiple_of(1000) { thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    // One is a little later than the other, by another little each round.
    let dawdle = |turns: usize| (0..turns).for_each(|_| std::hint::spin_loop());
    let mut lost = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                let frame = frames.alloc();
                meet(3 * round + 1);
                dawdle(round % 16);
                drop(frame);
                meet(3 * round + 2);
                meet(3 * round + 3);
            }
        });
        for round in 0..rounds {
            let before = calls.load(SeqCst);
            meet(3 * round + 1);
            dawdle(round / 16 % 16);
            frames.want();
            let frame = frames.alloc();
            meet(3 * round + 2);
            let was_called = calls.load(SeqCst) > before;
            lost += usize::from(frame.is_none() && !was_called);
            // Takes the wish back, if nobody heard it.
            drop(frame);
            meet(3 * round + 3);
        }
    });
    // Counted and not asserted above, where a panic would leave the other spinning.
    assert_eq!(lost, 0, "wake-ups lost in {rounds} rounds");
}

#[test]
fn a_shrunk_pool_lends_the_lowest_frames_and_takes_the_others_back_as_they_are_let_go() {
    let frames = Frames::growable(FRAME_BYTES, 8, 16).expect("a small mapping");
    let mut held: Vec<FrameRef> = (0..6).map(|_| frames.alloc().expect("free").freeze()).collect();
    held.iter_mut().for_each(|frame| frame.get_mut().expect("alone").fill(7));
    frames.set_count(3).expect("it fits");
    assert_eq!((frames.count(), frames.surplus_count()), (3, 3), "two of eight were free");
    assert!(held.iter().zip(0..).all(|(frame, index)| frame.is_surplus() == (index >= 3)));
    assert!(frames.alloc().is_none());
    assert!(held[5].iter().all(|&byte| byte == 7), "who holds one keeps its bytes");
    held.drain(..4);
    assert_eq!(frames.surplus_count(), 2);
    assert_eq!(std::iter::from_fn(|| frames.alloc()).collect::<Vec<_>>().len(), 3);

    frames.set_count(7).expect("it fits");
    assert_eq!(frames.surplus_count(), 0, "frames 4 and 5 stay where they are");
    assert_eq!(std::iter::from_fn(|| frames.alloc()).collect::<Vec<_>>().len(), 5);
    drop(held);
    let all: Vec<FrameMut> = std::iter::from_fn(|| frames.alloc()).collect();
    assert_eq!(all.len(), 7, "each of them once");
    assert!(frames.set_count(17).is_err() && frames.set_count(0).is_err());
    frames.set_count(16).expect("it fits");
    assert_eq!(std::iter::from_fn(|| frames.alloc()).collect::<Vec<_>>().len(), 9);
}

#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn a_shrunk_pool_gives_its_memory_back_and_a_grown_one_takes_only_what_is_written() {
    const MIB: usize = 1 << 20;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("a process has one");
        let pages = status.split(' ').nth(1).expect("its second number is the resident pages");
        pages.parse::<usize>().expect("a number") * PAGE_BYTES
    };
    let before = resident();
    let frames = Frames::growable(16 << 10, 8192, 1 << 22).expect("64 GiB of address space");
    let mut all: Vec<FrameMut> = std::iter::from_fn(|| frames.alloc()).collect();
    all.iter_mut().for_each(|frame| frame.fill(1));
    assert!(resident() >= before + 100 * MIB, "128 MiB are written");
    drop(all);
    frames.set_count(1024).expect("it fits");
    frames.give_memory_back();
    // Other tests of this process take some meanwhile.
    assert!(resident() < before + 80 * MIB, "16 MiB are left: {} and {}", before, resident());
    frames.set_count(8192).expect("it fits");
    assert!(resident() < before + 80 * MIB);
    let mut all: Vec<FrameMut> = std::iter::from_fn(|| frames.alloc()).collect();
    assert_eq!(all.len(), 8192);
    assert_eq!(all.iter().filter(|frame| frame[0] == 0).count(), 8192 - 1024, "given back is zeroed");
    all.iter_mut().for_each(|frame| frame.fill(2));
}

#[test]
fn no_frame_is_lost_or_lent_twice_while_the_count_changes_beside_other_threads() {
    let frames = Frames::growable(FRAME_BYTES, 9, 20).expect("a small mapping");
    let seed = fastrand::u64(..);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3u64 {
            let (frames, is_over) = (&frames, &is_over);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(thread));
                let mut held: Vec<(u64, FrameMut)> = Vec::new();
                while !is_over.load(SeqCst) {
                    if let Some(mut frame) = frames.alloc() {
                        let pattern = random.u64(..);
                        frame[..8].copy_from_slice(&pattern.to_le_bytes());
                        held.push((pattern, frame));
                    }
                    for (pattern, frame) in &held {
                        assert_eq!(frame[..8], pattern.to_le_bytes(), "seed {seed}");
                    }
                    let kept = random.usize(..4);
                    held.drain(..held.len().saturating_sub(kept));
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..ROUNDS / 20 {
            frames.set_count(random.u32(1..=20)).expect("it fits");
            if random.bool() {
                frames.give_memory_back();
            }
        }
        is_over.store(true, SeqCst);
    });
    for count in [1, 20] {
        frames.set_count(count).expect("it fits");
        let all: Vec<FrameMut> = std::iter::from_fn(|| frames.alloc()).collect();
        assert_eq!(all.len() as u32, count, "seed {seed}");
        assert_eq!(frames.surplus_count(), 0, "seed {seed}");
    }
}

#[test]
fn frames_held_by_one_thread_are_never_changed_by_another() {
    let frames = frames(9);
    let start = Barrier::new(4);
    let seed = fastrand::u64(..);
    thread::scope(|scope| {
        let (give, got): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::sync_channel::<FrameRef>(1)).unzip();
        for (thread, got) in got.into_iter().enumerate() {
            let (frames, start, give) = (&frames, &start, give.clone());
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(thread as u64));
                let mut held: Vec<(u64, FrameRef)> = Vec::new();
                start.wait();
                for _ in 0..ROUNDS {
                    churn(frames, &mut random, &mut held);
                    // References cross threads, so that the last one is often dropped elsewhere.
                    if let Some((_, frame)) = held.last() {
                        _ = give[random.usize(..4)].try_send(frame.clone());
                    }
                    if let Ok(frame) = got.try_recv() {
                        check(pattern_of(&frame), &frame, seed);
                        held.push((pattern_of(&frame), frame));
                    }
                    held.iter().for_each(|(pattern, frame)| check(*pattern, frame, seed));
                    held.drain(..held.len().saturating_sub(2));
                }
            });
        }
    });
    assert_eq!(frames.free_count(), 9, "seed {seed}");
    assert_eq!(std::iter::from_fn(|| frames.alloc()).collect::<Vec<_>>().len(), 9, "seed {seed}");

    fn churn(frames: &Frames, random: &mut fastrand::Rng, held: &mut Vec<(u64, FrameRef)>) {
        let pattern = random.u64(..);
        if let Some(mut frame) = frames.alloc() {
            fill(pattern, &mut frame);
            held.push((pattern, frame.freeze()));
        }
        let index = random.usize(..held.len().max(1));
        if let Some((old, frame)) = held.get_mut(index)
            && let Some(bytes) = frame.get_mut()
        {
            fill(pattern, bytes);
            *old = pattern;
        }
        if random.bool() && !held.is_empty() {
            held.swap_remove(random.usize(..held.len()));
        }
    }

    /// A pattern at both ends and in the middle: enough to see a foreign write, and quick.
    fn fill(pattern: u64, bytes: &mut [u8]) {
        for at in [0, FRAME_BYTES / 2, FRAME_BYTES - 8] {
            bytes[at..at + 8].copy_from_slice(&pattern.to_le_bytes());
        }
    }

    fn pattern_of(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))
    }

    fn check(pattern: u64, bytes: &[u8], seed: u64) {
        for at in [0, FRAME_BYTES / 2, FRAME_BYTES - 8] {
            assert_eq!(pattern_of(&bytes[at..]), pattern, "seed {seed}, byte {at}");
        }
    }
}

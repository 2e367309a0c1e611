//! A caller with nothing else to do reads what the SSD has itself, and waits for nothing slower.

mod common;

use std::sync::{Arc, mpsc};
use std::thread::{self, ThreadId};

use common::{BLOCK, bytes_of, held, ssd_bytes, stored, without_hanging};
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{Answer, BlockPlace, Blocks, Cache, Config, Result, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;
/// The only one of the first 64 that [`Bench::with_copies_on_the_ssd`] does not read.
const NEVER_READ: u64 = 8;
const ON_SSD: Answer = Answer { ram_blocks: 0, ssd_blocks: 1, disk_blocks: 0 };
const BELOW: Answer = Answer { ram_blocks: 0, ssd_blocks: 0, disk_blocks: 1 };

/// RAM for 16 blocks over an SSD and a disk.
struct Bench {
    cache: Cache,
    volume: Volume,
    ssd: Arc<MemoryDevice>,
    disk: Arc<MemoryDevice>,
}

/// What came of a read, with the thread that said it.
type Said = mpsc::Receiver<(ThreadId, Answer, Vec<u8>)>;

impl Bench {
    fn new(config: Config, mode: WriteMode) -> Self {
        let ssd = Arc::new(MemoryDevice::new(ssd_bytes(1024)).named("ssd"));
        let disk = Arc::new(MemoryDevice::patterned(128 * BLOCK_U64, 1).named("disk"));
        let on_ssd = SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(1024));
        let cache = Cache::open(&Config { ssd: Some(on_ssd), ..config }).expect("the cache opens");
        let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
        Self { cache, volume, ssd, disk }
    }

    /// What was read of the disk and left RAM is on the SSD.
    fn with_copies_on_the_ssd(config: Config) -> Self {
        let bench = Self::new(config, WriteMode::Through);
        for block in (0..64).filter(|&block| block != NEVER_READ) {
            bytes_of(&bench.volume, block * BLOCK_U64, BLOCK);
            bench.cache.settle().expect("the cache settles");
        }
        bench
    }

    /// The only one there is: it writes what leaves RAM, until the SSD is resumed.
    fn hold_the_ssds_worker<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        self.ssd.stall(Operation::Write);
        (64..80).for_each(|block| drop(bytes_of(&self.volume, block * BLOCK_U64, BLOCK)));
        scope.spawn(|| self.cache.settle().expect("the cache settles"));
        self.ssd.wait_until_held(1);
    }

    fn read_near(&self, block: u64, blocks: usize) -> Said {
        let (say, said) = teller();
        self.volume.read_near_with(block * BLOCK_U64, blocks * BLOCK, say);
        said
    }

    fn is_right(&self, bytes: &[u8], block: u64) -> bool {
        bytes == stored(&*self.disk, block * BLOCK_U64, bytes.len())
    }
}

fn teller() -> (impl FnOnce(Result<Blocks>) + Send + 'static, Said) {
    let (sender, said) = mpsc::channel();
    let say = move |read: Result<Blocks>| {
        let blocks = read.expect("a read succeeds");
        let mut bytes = vec![0; blocks.len_bytes()];
        blocks.copy_to(&mut bytes);
        drop(sender.send((thread::current().id(), blocks.answer(), bytes)));
    };
    (say, said)
}

#[test]
fn a_near_caller_reads_from_the_ssd_itself_and_does_not_wait_for_the_backing_store() {
    without_hanging(|| {
        let bench = Bench::with_copies_on_the_ssd(Config { ssd_threads: 1, ..held(16) });
        let Bench { ssd, disk, .. } = &bench;
        let said = thread::scope(|scope| {
            bench.hold_the_ssds_worker(scope);
            let said = bench.read_near(0, 1).try_recv();
            ssd.resume();
            said
        });
        let (thread, answer, bytes) = said.expect("it is answered before the call returns");
        assert_eq!((thread, answer), (thread::current().id(), ON_SSD));
        assert!(bench.is_right(&bytes, 0));

        for (block, why) in [(100, "the SSD has no copy"), (1, "the copy cannot be read")] {
            ssd.fail(Fault::every(Operation::Read));
            disk.stall(Operation::Read);
            let said = bench.read_near(block, 1);
            disk.wait_until_held(1);
            assert!(said.try_recv().is_err(), "{why}: the disk stands still");
            disk.resume();
            let (_, answer, bytes) = said.recv().expect("it is answered");
            assert_eq!(answer, BELOW, "{why}");
            assert!(bench.is_right(&bytes, block), "{why}");
            ssd.clear_faults();
        }

        // One of them by the pool, the other here.
        disk.stall(Operation::Read);
        let reads = ssd.counters().reads;
        let said = bench.read_near(NEVER_READ, 2);
        assert_eq!(ssd.counters().reads, reads + 1);
        assert!(said.try_recv().is_err(), "the disk stands still");
        disk.resume();
        let (_, answer, bytes) = said.recv().expect("it is answered");
        assert_eq!(answer, Answer { ssd_blocks: 1, ..BELOW });
        assert!(bench.is_right(&bytes, NEVER_READ));
        bench.cache.assert_quiet();
    });
}

#[test]
fn a_near_caller_does_not_stand_in_the_queue_of_the_backing_store() {
    without_hanging(|| {
        let bench = Bench::with_copies_on_the_ssd(Config { disk_threads: 1, queue_max: 1, ..held(16) });
        bench.disk.stall(Operation::Read);
        // One is under way, and another one fills the queue.
        let others = [100, 110].map(|block| {
            let (say, said) = teller();
            bench.volume.read_with(block * BLOCK_U64, BLOCK, say);
            bench.disk.wait_until_held(1);
            (block, said)
        });
        let (_, answer, bytes) = bench.read_near(0, 1).recv().expect("it is answered");
        assert_eq!(answer, ON_SSD);
        let below = bench.read_near(120, 1);
        assert!(below.try_recv().is_err(), "the disk stands still");
        bench.disk.resume();
        assert!(bench.is_right(&bytes, 0));
        for (block, said) in others.into_iter().chain([(120, below)]) {
            let (_, answer, bytes) = said.recv().expect("it is answered");
            assert!(answer == BELOW && bench.is_right(&bytes, block), "block {block}: {answer:?}");
        }
    });
}

#[test]
fn a_near_caller_does_not_wait_for_what_a_block_lacks_of_which_the_log_has_a_part() {
    without_hanging(|| {
        let bench = Bench::new(held(16), WriteMode::BackSsd);
        let before = stored(&*bench.disk, 0, BLOCK);
        // So that nothing is destaged.
        bench.disk.stall(Operation::Write);
        bench.volume.write(512, &[7; 512]).expect("a write succeeds");
        bench.volume.flush().expect("the log takes it");
        (1..64).for_each(|block| drop(bytes_of(&bench.volume, block * BLOCK_U64, BLOCK)));
        let places = bench.volume.places(0..1).expect("it is in the volume");
        assert_eq!(places, [BlockPlace { in_ram: false, on_ssd: true, is_dirty: true }]);
        bench.disk.stall(Operation::Read);
        let said = bench.read_near(0, 1);
        assert!(said.try_recv().is_err(), "the disk stands still");
        bench.disk.resume();
        let (_, answer, bytes) = said.recv().expect("it is answered");
        assert_eq!(answer, ON_SSD);
        assert!(bytes == [&before[..512], &[7; 512], &before[1024..]].concat());
    });
}

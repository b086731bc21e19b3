//! The steady state allocates nothing: an allocator that counts is the judge.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;

use datagram_queue::{DatagramQueue, Policy};

struct Counting;

thread_local! {
    /// Allocations of this thread: what the test harness does beside it does not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is also `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` by way of `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations `work` makes.
fn count(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_steady_state_allocates_nothing() {
    let peer = SocketAddr::from(([127, 0, 0, 1], 9));
    for policy in [Policy::Backpressure, Policy::DropNewest, Policy::DropOldest] {
        let mut queue = DatagramQueue::new(8, 1500, policy);
        let mut checksum = 0;
        let allocations = count(|| {
            for round in 0..10_000_usize {
                for _ in 0..10 {
                    let _ = queue.fill(|slot| {
                        slot[..round % 1501].fill(round as u8);
                        Ok(Some((round % 1501, peer)))
                    });
                }
                let _ = queue.drain(|_, _| Err(std::io::ErrorKind::WouldBlock.into()));
                let _ = queue.fill(|_| Ok(Some((0, peer))));
                while !queue.is_empty() {
                    let _ = queue.drain(|payload, _| {
                        checksum += payload.len();
                        Ok(payload.len())
                    });
                }
            }
        });
        assert!(checksum > 0);
        assert_eq!(allocations, 0, "{policy:?}");
    }
    // The counter does count.
    assert_eq!(count(|| drop(std::hint::black_box(vec![0_u8; 32]))), 1);
}

//! What std does for us when it makes a `Waker` of an `Arc<impl Wake>`: the same by hand, for the page.
//!
//! The library forbids unsafe code, so this stands in a test. `cargo miri test --test raw_waker` checks that what it
//! does with the pointer is sound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{RawWaker, RawWakerVTable, Wake, Waker};

/// Counts its wakes.
#[derive(Default)]
struct Task {
    wakes: AtomicUsize,
}

// region: vtable
/// A waker is a pointer and four functions. The pointer here is an `Arc<Task>` that has been taken apart.
static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop_waker);

fn by_hand(task: Arc<Task>) -> Waker {
    let pointer = Arc::into_raw(task).cast();
    // SAFETY: the four functions take the pointer for what it is, one share of an `Arc<Task>`, which may be used
    // and dropped on any thread.
    unsafe { Waker::new(pointer, &TABLE) }
}

/// One share more.
unsafe fn clone(pointer: *const ()) -> RawWaker {
    // SAFETY: the pointer came from `Arc::into_raw`, and the waker that is being cloned keeps its share.
    unsafe { Arc::increment_strong_count(pointer.cast::<Task>()) };
    RawWaker::new(pointer, &TABLE)
}

/// Wakes, and gives the share back.
unsafe fn wake(pointer: *const ()) {
    // SAFETY: as above; `Waker::wake` consumes the waker, and does not drop it after this.
    let task = unsafe { Arc::from_raw(pointer.cast::<Task>()) };
    task.wakes.fetch_add(1, Ordering::Relaxed);
}

/// Wakes, and keeps the share.
unsafe fn wake_by_ref(pointer: *const ()) {
    // SAFETY: as above; the waker outlives this reference.
    let task = unsafe { &*pointer.cast::<Task>() };
    task.wakes.fetch_add(1, Ordering::Relaxed);
}

/// Gives the share back.
unsafe fn drop_waker(pointer: *const ()) {
    // SAFETY: as above; this is the last that is heard of this waker.
    drop(unsafe { Arc::from_raw(pointer.cast::<Task>()) });
}
// endregion: vtable

// region: wake
/// The same, in safe code.
impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
}
// endregion: wake

#[test]
fn by_hand_it_does_what_std_does() {
    for make in [by_hand, Waker::from as fn(Arc<Task>) -> Waker] {
        let task = Arc::<Task>::default();
        let shares = || Arc::strong_count(&task);
        let waker = make(Arc::clone(&task));
        assert_eq!(shares(), 2);
        let other = waker.clone();
        assert_eq!(shares(), 3, "a clone is a share");
        assert!(waker.will_wake(&other));
        waker.wake_by_ref();
        assert_eq!(shares(), 3, "to wake by reference keeps the share");
        std::thread::spawn(move || other.wake()).join().unwrap();
        assert_eq!(shares(), 2, "to wake gives it back");
        drop(waker);
        assert_eq!(shares(), 1);
        assert_eq!(task.wakes.load(Ordering::Relaxed), 2);
    }
}

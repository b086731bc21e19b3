//! What the runtime that runs on this thread lends to the futures that it polls.

use std::cell::RefCell;
use std::rc::Rc;
use std::thread::LocalKey;

/// A thread's place for one part of the runtime that runs on it: its reactor, its timer, its tasks. Empty while none
/// runs, and at the end of the thread.
pub(crate) struct Current<T>(RefCell<Option<Rc<T>>>);

impl<T> Current<T> {
    pub(crate) const fn none() -> Self {
        Self(RefCell::new(None))
    }

    /// The part that is there.
    ///
    /// # Panics
    ///
    /// If no runtime runs on this thread.
    pub(crate) fn get(place: &'static LocalKey<Self>) -> Rc<T> {
        let part = place.try_with(|place| place.0.borrow().as_ref().map(Rc::clone));
        part.ok().flatten().expect("no runtime runs on this thread: call this within Runtime::block_on")
    }

    /// Puts a part in; returns what was there.
    pub(crate) fn replace(place: &'static LocalKey<Self>, part: Option<Rc<T>>) -> Option<Rc<T>> {
        place.try_with(|place| place.0.replace(part)).ok().flatten()
    }
}

//! A future that marks its polls and wakes.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

use crate::marks::{are_on, mark_of};

/// Gives every future the method `marked`.
pub trait Markable: Future + Sized {
    /// The same future, with marks at its polls and wakes, at its end, and where it is dropped unfinished. They
    /// carry `name`, which may hold blanks.
    fn marked(self, name: impl Into<Cow<'static, str>>) -> Marked<Self> {
        Marked { future: self, name: name.into(), stage: Stage::Unwoken }
    }
}

impl<F: Future> Markable for F {}

pin_project! {
    /// A future that marks its polls and wakes: what [`Markable::marked`] returns.
    pub struct Marked<F> {
        #[pin]
        future: F,
        name: Cow<'static, str>,
        stage: Stage,
    }

    impl<F> PinnedDrop for Marked<F> {
        fn drop(this: Pin<&mut Self>) {
            if !matches!(this.stage, Stage::Finished) {
                mark_of("drop", &this.name);
            }
        }
    }
}

enum Stage {
    /// Nobody has a waker of ours.
    Unwoken,
    /// Whoever will wake the future has this waker. It is kept, so that the next poll hands on the same one.
    Waiting(Arc<MarkingWaker>),
    Finished,
}

impl<F: Future> Future for Marked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !are_on() {
            let polled = this.future.poll(cx);
            if polled.is_ready() {
                *this.stage = Stage::Finished;
            }
            return polled;
        }
        mark_of("poll", &*this.name);
        let kept = match this.stage {
            Stage::Waiting(kept) if kept.inner.will_wake(cx.waker()) => Arc::clone(kept),
            _ => Arc::new(MarkingWaker { inner: cx.waker().clone(), name: this.name.clone() }),
        };
        *this.stage = Stage::Waiting(Arc::clone(&kept));
        let polled = this.future.poll(&mut Context::from_waker(&Waker::from(kept)));
        match polled {
            Poll::Pending => mark_of("pending", &*this.name),
            Poll::Ready(_) => {
                *this.stage = Stage::Finished;
                mark_of("ready", &*this.name);
            }
        }
        polled
    }
}

impl<F> fmt::Debug for Marked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marked").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Says that it was called before it calls the waker inside.
struct MarkingWaker {
    inner: Waker,
    name: Cow<'static, str>,
}

impl Wake for MarkingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        mark_of("wake", &self.name);
        self.inner.wake_by_ref();
    }
}

//! Making a stack current: for a closure, for each poll of a future, and for work that is carried
//! to another task or thread.

use super::{Context, Frame};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

/// Restores the previous stack when dropped, also when the code inside unwinds.
struct Entered(Option<Context>);

impl Entered {
    fn enter(context: Context) -> Self {
        Self(Some(context.replace_current()))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(previous) = self.0.take() {
            drop(previous.replace_current());
        }
    }
}

impl Context {
    /// Runs `f` with this stack as the current one, and returns its result.
    ///
    /// # Panics
    /// Panics only if `f` does. The previous stack is then restored.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = Entered::enter(self.clone());
        f()
    }

    /// Returns a future for which this stack is the current one whenever `future` is polled, and while it is dropped.
    /// Cancel safe if `future` is.
    pub fn scope<F: Future>(&self, future: F) -> Scoped<F> {
        Scoped {
            context: self.clone(),
            future: Some(future),
        }
    }
}

impl Frame {
    /// Runs `f` with this frame on top of the current stack, and returns its result.
    ///
    /// # Panics
    /// Panics only if `f` does.
    pub fn enter<R>(self, f: impl FnOnce() -> R) -> R {
        Context::current().push(self).enter(f)
    }

    /// Returns a future that runs `future` with this frame on top of the stack that is current at this call. Cancel
    /// safe if `future` is.
    ///
    /// ```
    /// use temporal_eventstore::context::Frame;
    /// # async fn start_workflow() {}
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// Frame::new().correlation_id("c-42").scope(start_workflow()).await;
    /// # }
    /// ```
    pub fn scope<F: Future>(self, future: F) -> Scoped<F> {
        Context::current().push(self).scope(future)
    }
}

pin_project! {
    /// A future with a context stack of its own; see [`Context::scope`].
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Scoped<F> {
        context: Context,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Scoped<F> {
        // What the future drops may publish; it must be seen as the code of this stack.
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = Entered::enter(this.context.clone());
            this.future.set(None);
        }
    }
}

impl<F> std::fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scoped")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = Entered::enter(this.context.clone());
        match this.future.as_pin_mut() {
            Some(future) => future.poll(cx),
            // Only `drop` empties the slot.
            None => Poll::Pending,
        }
    }
}

/// Attaches a context stack to a future, for `tokio::spawn` and similar functions.
pub trait InContext: Future + Sized {
    /// Returns this future with the stack that is current at this call.
    fn in_current_context(self) -> Scoped<Self> {
        Context::current().scope(self)
    }

    /// Returns this future with the given stack.
    fn in_context(self, context: &Context) -> Scoped<Self> {
        context.scope(self)
    }
}

impl<F: Future> InContext for F {}

/// Returns a closure that runs `f` with the stack that is current at this call. For `spawn_blocking` and threads.
pub fn carry<R>(f: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let context = Context::current();
    move || context.enter(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::RefCell,
        panic::{AssertUnwindSafe, catch_unwind},
        rc::Rc,
    };

    fn ids() -> Vec<String> {
        Context::current()
            .frames()
            .filter_map(|frame| match frame {
                super::super::StackFrame::User(user) => {
                    user.fields.get("id").and_then(|id| id.as_str())
                }
                _ => None,
            })
            .map(str::to_owned)
            .collect()
    }

    fn frame(id: &str) -> Frame {
        Frame::new().field("id", id)
    }

    #[test]
    fn enter_nests_and_restores() {
        frame("outer").enter(|| {
            assert_eq!(ids(), ["outer"]);
            frame("inner").enter(|| assert_eq!(ids(), ["inner", "outer"]));
            assert_eq!(ids(), ["outer"]);
        });
        assert!(ids().is_empty());
    }

    #[test]
    fn enter_restores_after_a_panic() {
        let result = catch_unwind(AssertUnwindSafe(|| {
            frame("x").enter(|| panic!("on purpose"))
        }));
        assert!(result.is_err());
        assert!(ids().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn futures_interleaved_on_one_thread_see_only_their_own_frames() {
        let one = frame("one").scope(async {
            for _ in 0..10 {
                assert_eq!(ids(), ["one"]);
                tokio::task::yield_now().await;
            }
        });
        let two = frame("two").scope(async {
            for _ in 0..10 {
                assert_eq!(ids(), ["two"]);
                tokio::task::yield_now().await;
            }
        });
        tokio::join!(one, two);
        assert!(ids().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn spawned_work_sees_the_frames_only_when_they_are_carried() {
        frame("x")
            .scope(async {
                assert!(tokio::spawn(async { ids() }).await.unwrap().is_empty());
                let carried = tokio::spawn(async { ids() }.in_current_context());
                assert_eq!(carried.await.unwrap(), ["x"]);
                assert!(tokio::task::spawn_blocking(ids).await.unwrap().is_empty());
                assert_eq!(
                    tokio::task::spawn_blocking(carry(ids)).await.unwrap(),
                    ["x"]
                );
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_future_drops_sees_its_frames() {
        struct Spy(Rc<RefCell<Vec<String>>>);
        impl Drop for Spy {
            fn drop(&mut self) {
                *self.0.borrow_mut() = ids();
            }
        }
        let seen = Rc::new(RefCell::new(Vec::new()));
        let spy = Spy(seen.clone());
        let future = frame("x").scope(async move {
            let _spy = spy;
            std::future::pending::<()>().await;
        });
        drop(future);
        assert_eq!(*seen.borrow(), ["x"]);
    }
}

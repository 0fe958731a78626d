//! The context stack: which worker, workflow and activity the code runs in.
//!
//! A [`Context`] is a stack of frames: the worker at the bottom, above it the workflow or the activity, and on top the
//! frames that application code adds with [`Frame`]. It is *current* only while code runs inside [`Context::enter`], or
//! while a future made with [`Context::scope`] is being polled. It is set again on every poll, so that two workflows
//! that share a thread never see each other's frames.
//!
//! The stack does not follow `tokio::spawn`, `spawn_blocking` or a new thread by itself. Pass it on explicitly, as you
//! would a `tracing` span:
//!
//! ```
//! use temporal_eventstore::context::{self, InContext};
//! # async fn work() {}
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! tokio::spawn(work().in_current_context());
//! tokio::task::spawn_blocking(context::carry(|| { /* the same frames here */ })).await.unwrap();
//! # }
//! ```
//!
//! This module knows nothing of events, stores or Temporal's SDK. Whatever else a publisher needs travels with the
//! stack as an opaque extension.

mod frame;
pub(crate) mod headers;
mod scope;

pub use frame::{ActivityFrame, Frame, StackFrame, WorkerFrame, WorkflowFrame};
pub use scope::{InContext, Scoped, carry};

use std::{
    any::Any,
    cell::RefCell,
    fmt,
    sync::{Arc, OnceLock},
};

thread_local! {
    static CURRENT: RefCell<Context> = const { RefCell::new(Context::empty()) };
}

/// An immutable stack of frames. Cloning and pushing are cheap, since stacks share their lower frames.
///
/// ```
/// use temporal_eventstore::{Frame, context::Context};
///
/// let context = Context::new().push(Frame::new().field("tenant", "acme"));
/// assert_eq!(context.enter(|| Context::current().frames().count()), 1);
/// ```
#[derive(Clone, Default)]
pub struct Context {
    top: Option<Arc<Node>>,
    extension: Option<Arc<dyn Any + Send + Sync>>,
}

struct Node {
    frame: StackFrame,
    below: Option<Arc<Node>>,
    // The cached result of `Context::folded` for this frame and those below it.
    made: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Context {
    const fn empty() -> Self {
        Self {
            top: None,
            extension: None,
        }
    }

    /// Creates a stack without frames.
    pub const fn new() -> Self {
        Self::empty()
    }

    /// Returns the current stack. Outside of any scope it is empty.
    pub fn current() -> Self {
        // `try_with` fails while a thread is being torn down, and `try_borrow` cannot fail, since
        // no code runs while the cell is borrowed; neither may panic in a user's worker.
        CURRENT
            .try_with(|current| current.try_borrow().map(|context| context.clone()).ok())
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Returns this stack with `frame` on top.
    #[must_use]
    pub fn push(&self, frame: impl Into<StackFrame>) -> Self {
        Self {
            top: Some(Arc::new(Node {
                frame: frame.into(),
                below: self.top.clone(),
                made: OnceLock::new(),
            })),
            extension: self.extension.clone(),
        }
    }

    /// Returns the frames, from the top of the stack to its bottom.
    pub fn frames(&self) -> impl Iterator<Item = &StackFrame> {
        std::iter::successors(self.top.as_deref(), |node| node.below.as_deref())
            .map(|node| &node.frame)
    }

    /// Returns whether the stack has no frames.
    pub fn is_empty(&self) -> bool {
        self.top.is_none()
    }

    /// Returns the innermost workflow frame, if there is one. In an activity of a workflow there is none: the
    /// [activity frame](Self::activity) names the workflow.
    pub fn workflow(&self) -> Option<&WorkflowFrame> {
        self.frames().find_map(|frame| match frame {
            StackFrame::Workflow(workflow) => Some(workflow),
            _ => None,
        })
    }

    /// Returns the innermost activity frame, if the code runs in an activity.
    pub fn activity(&self) -> Option<&ActivityFrame> {
        self.frames().find_map(|frame| match frame {
            StackFrame::Activity(activity) => Some(activity),
            _ => None,
        })
    }

    /// Returns the innermost worker frame, if the code runs on a worker.
    pub fn worker(&self) -> Option<&WorkerFrame> {
        self.frames().find_map(|frame| match frame {
            StackFrame::Worker(worker) => Some(worker),
            _ => None,
        })
    }

    /// This stack with an opaque value for whoever publishes from it.
    pub(crate) fn with_extension<T: Any + Send + Sync>(mut self, extension: Arc<T>) -> Self {
        self.extension = Some(extension);
        self
    }

    /// The value set by [`Self::with_extension`], if it is a `T`.
    pub(crate) fn extension<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.extension.clone()?.downcast().ok()
    }

    /// What `make` makes of the stack, from the bottom to the top: of each frame and of what it made of
    /// those below, if there are any. It is made once and kept with the frames, which never change, for
    /// all stacks that share them. There is room for one type: a second gets nothing, as does a stack
    /// without frames.
    pub(crate) fn folded<T: Any + Send + Sync>(
        &self,
        make: impl Fn(&StackFrame, Option<&T>) -> T,
    ) -> Option<&T> {
        let mut missing = Vec::new();
        let mut node = self.top.as_deref();
        let mut below = None;
        // A loop, since stacks may be deep.
        while let Some(it) = node {
            if let Some(made) = it.made.get() {
                below = Some(made.downcast_ref()?);
                break;
            }
            missing.push(it);
            node = it.below.as_deref();
        }
        for node in missing.into_iter().rev() {
            let made = node.made.get_or_init(|| Box::new(make(&node.frame, below)));
            below = Some(made.downcast_ref()?);
        }
        below
    }

    /// The stack as it is stored with an event that waits: frames only.
    pub(crate) fn without_extension(mut self) -> Self {
        self.extension = None;
        self
    }

    fn replace_current(self) -> Self {
        CURRENT
            .try_with(|current| {
                current
                    .try_borrow_mut()
                    .map(|mut slot| std::mem::replace(&mut *slot, self))
                    .ok()
            })
            .ok()
            .flatten()
            .unwrap_or_default()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.frames()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_any_scope_the_stack_is_empty() {
        assert!(Context::current().is_empty());
        assert!(Context::current().workflow().is_none());
    }

    #[test]
    fn frames_are_listed_from_top_to_bottom() {
        let context = Context::new()
            .push(WorkerFrame {
                task_queue: Some("orders".into()),
                ..WorkerFrame::default()
            })
            .push(Frame::new().field("correlation_id", "c-1"));
        let kinds: Vec<_> = context.frames().map(StackFrame::kind).collect();
        assert_eq!(kinds, ["user", "worker"]);
        assert_eq!(
            context.worker().and_then(|w| w.task_queue.as_deref()),
            Some("orders")
        );
    }

    #[test]
    fn pushing_leaves_the_lower_stack_as_it_was() {
        let base = Context::new().push(Frame::new().field("a", 1));
        let _above = base.push(Frame::new().field("b", 2));
        assert_eq!(base.frames().count(), 1);
    }

    #[test]
    fn an_extension_is_found_by_its_type() {
        let context = Context::new().with_extension(Arc::new(7_u32));
        assert_eq!(context.extension::<u32>().as_deref(), Some(&7));
        assert!(context.extension::<String>().is_none());
        assert!(context.without_extension().extension::<u32>().is_none());
    }

    #[test]
    fn what_is_made_of_a_frame_is_made_once() {
        let made = RefCell::new(Vec::new());
        let count = |context: &Context| {
            let make = |frame: &StackFrame, below: Option<&usize>| {
                made.borrow_mut().push(frame.kind());
                below.map_or(1, |below| below + 1)
            };
            context.folded(make).copied()
        };
        let base = Context::new().push(WorkerFrame::default());
        let above = base.push(WorkflowFrame::default()).push(Frame::new());
        assert_eq!(count(&Context::new()), None);
        assert_eq!(count(&above), Some(3));
        assert_eq!(count(&above), Some(3));
        assert_eq!(count(&base), Some(1));
        assert_eq!(count(&base.push(Frame::new())), Some(2));
        assert_eq!(*made.borrow(), ["worker", "workflow", "user", "user"]);
        // The room is taken.
        assert_eq!(above.folded(|_, _: Option<&String>| String::new()), None);
    }
}

//! Lifecycle events for Temporal workers.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

pub mod context;
pub mod event;
mod journal;

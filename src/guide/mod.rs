//! The guide: the pages of the repository's directory `docs/`.
//!
//! If you are new, start with the [front page](crate), which shows how to register the plugin and how to publish
//! events. Then read what is [guaranteed](guarantees), and how to [configure](configuration) the store.

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/configuration.md")]
pub mod configuration {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/context.md")]
pub mod context {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/events.md")]
pub mod events {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/handlers.md")]
pub mod handlers {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/program.md")]
pub mod program {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/reconciler.md")]
pub mod reconciler {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sqlite.md")]
pub mod sqlite {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks.md")]
pub mod sinks;

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/metrics.md")]
pub mod metrics {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/benchmarks.md")]
// The plot, which no page of rustdoc can have beside it.
#[doc = include_str!("../../docs/growth.svg")]
pub mod benchmarks {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/journal.md")]
pub mod journal {}

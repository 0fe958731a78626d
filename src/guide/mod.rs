//! The guide: the pages of the repository's directory `docs/`.
//!
//! If you are new, begin with [getting started](getting_started), from `cargo new` to a timeline in a browser. Then read
//! what is [guaranteed](guarantees), how to [configure](configuration) the store, and how to [operate](operating) it.
//! [Recipes](recipes) are small things that people want.

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

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/getting-started.md")]
pub mod getting_started {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/from-python.md")]
pub mod from_python {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/operating.md")]
pub mod operating {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/wire-format.md")]
pub mod wire_format {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/security.md")]
pub mod security {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/comparison.md")]
pub mod comparison {}

//! The only place that knows Temporal's SDK: interceptors that keep the context stack, stage, commit
//! and confirm events, and the plugin that installs them. Knows the store, and nothing of where the
//! store delivers.

mod activity;
mod client;
mod failure;
mod history;
#[cfg(test)]
mod history_fuzz;
mod interceptors;
mod payload;
#[cfg(feature = "plugin")]
mod plugin;
mod reconcile;
mod resolve;
mod run;
mod server;
#[cfg(feature = "plugin")]
mod worker;
mod workflow;

#[cfg(feature = "plugin")]
mod commit;

pub use interceptors::{ActivityEvents, EventInterceptors};
#[cfg(feature = "plugin")]
pub use plugin::EventStorePlugin;
pub use reconcile::{
    ReconcileError, Reconciled, Reconciler, ReconcilerOptions, ReconcilerOptionsBuilder,
    reconciler_options_builder,
};

/// The SDK as events name it.
pub(crate) const SDK_VERSION: &str = "temporalio-sdk 1.1";

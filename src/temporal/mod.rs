//! The only module that uses Temporal's SDK: the interceptors that maintain the context stack and that stage, commit
//! and confirm events, the plugin that installs them, and the reconciler. Knows the store, and not where the store
//! delivers events.
#![cfg_attr(
    not(feature = "plugin"),
    allow(
        dead_code,
        reason = "without the plugin no hook tells when a workflow task completes"
    )
)]

mod activity;
mod attempt;
mod client;
#[cfg(feature = "cli")]
mod connect;
mod failure;
mod held;
mod history;
#[cfg(test)]
mod history_fuzz;
mod holding;
#[cfg(test)]
mod holding_model;
mod interceptors;
mod local;
mod local_attempt;
#[cfg(feature = "plugin")]
mod metrics;
mod payload;
#[cfg(feature = "plugin")]
mod plugin;
mod reconcile;
#[cfg(feature = "plugin")]
mod registration;
mod request_error;
mod resolve;
mod run;
mod server;
mod source;
mod stage;
mod standalone;
mod task;
mod testimony;
mod time;
mod user_event;
#[cfg(feature = "plugin")]
mod worker;
mod workflow;

#[cfg(feature = "plugin")]
mod commit;

#[cfg(feature = "cli")]
pub(crate) use connect::{ConnectError, Connected, connect};
pub use interceptors::{ActivityEvents, EventInterceptors};
#[cfg(feature = "plugin")]
pub use plugin::EventStorePlugin;
pub use reconcile::{
    ReconcileError, Reconciled, Reconciler, ReconcilerOptions, ReconcilerOptionsBuilder,
    reconciler_options_builder,
};
#[cfg(feature = "cli")]
pub(crate) use temporalio_client::Client;

/// The SDK as events name it.
pub(crate) const SDK_VERSION: &str = "temporalio-sdk 1.1";

//! The sinks that speak HTTP: the promises of every sink, against stand-ins that answer as the
//! documented APIs do, and what is theirs alone.

use crate::support::{conformance, target_dapr, target_http};

mod auth;
mod dapr;
mod http;
mod segment;

conformance::conformance!(http_batched, target_http::HttpTarget<target_http::Batched>);
conformance::conformance!(
    http_structured,
    target_http::HttpTarget<target_http::Structured>
);
conformance::conformance!(http_binary, target_http::HttpTarget<target_http::Binary>);
conformance::conformance!(dapr_pubsub, target_dapr::DaprTarget<target_dapr::PubSub>);
conformance::conformance!(dapr_binding, target_dapr::DaprTarget<target_dapr::Binding>);

//! The sinks that speak HTTP: the promises of every sink, against stand-ins that answer as the
//! documented APIs do, and what is theirs alone.

#[path = "support/conformance.rs"]
mod conformance;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/stand_in.rs"]
mod stand_in;
#[path = "support/target_dapr.rs"]
mod target_dapr;
#[path = "support/target_http.rs"]
mod target_http;

mod http_sinks {
    mod auth;
    mod dapr;
    mod http;
    mod segment;
}

conformance::conformance!(http_batched, target_http::HttpTarget<target_http::Batched>);
conformance::conformance!(
    http_structured,
    target_http::HttpTarget<target_http::Structured>
);
conformance::conformance!(http_binary, target_http::HttpTarget<target_http::Binary>);
conformance::conformance!(dapr_pubsub, target_dapr::DaprTarget<target_dapr::PubSub>);
conformance::conformance!(dapr_binding, target_dapr::DaprTarget<target_dapr::Binding>);

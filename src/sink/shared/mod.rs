//! What sinks share: each file is one piece that more than one sink is made of. Knows no sink.

pub(super) mod address;
pub(super) mod attempt;
pub(super) mod attributes;
pub(super) mod auth;
pub(super) mod doubt;
pub(super) mod encoding;
pub(super) mod headers;
pub(super) mod hosts;
pub(super) mod http_client;
pub(super) mod parts;
pub(super) mod recent;
pub(super) mod route;
pub(super) mod template;
pub(super) mod tls;

// A page for each sink.

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/auth.md")]
pub mod auth {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/dapr.md")]
pub mod dapr {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/http.md")]
pub mod http {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/kafka.md")]
pub mod kafka {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/nats.md")]
pub mod nats {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/objects.md")]
pub mod objects {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/postgres.md")]
pub mod postgres {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/redis.md")]
pub mod redis {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/segment.md")]
pub mod segment {}

#[doc = include_str!("links.md")]
#[doc = include_str!("../../docs/sinks/stdout.md")]
pub mod stdout {}

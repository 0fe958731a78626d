//! Every sink against its real server: the same promises for all of them.

#[path = "support/conformance.rs"]
mod conformance;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/servers.rs"]
mod servers;

#[path = "support/target_nats.rs"]
mod target_nats;
#[path = "support/target_postgres.rs"]
mod target_postgres;
#[path = "support/target_redis.rs"]
mod target_redis;

conformance::conformance!(nats, target_nats::NatsTarget);
conformance::conformance!(postgres, target_postgres::PostgresTarget);
conformance::conformance!(redis, target_redis::RedisTarget);

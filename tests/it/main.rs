//! The tests that need servers, files or processes, as one program: each of its modules is about one promise or
//! one part. What they share is in `support`.

mod support;

mod activity_reset;
mod architecture;
mod chaos;
mod commit_protocol;
mod comparison;
mod conformance;
mod context;
mod crash_points;
mod credentials;
mod delivery;
mod end_to_end;
mod event_format;
mod handlers;
mod http_sinks;
mod interceptors;
mod invisible;
mod journal_under_fire;
mod kafka_sink;
mod lifecycle;
mod live;
mod lossy_line;
mod metrics;
mod nats_sink;
mod objects_sink;
mod once;
mod operated_sinks;
mod own_log;
mod postgres_sink;
mod programs;
mod reconcile;
mod redis_sink;
mod reference_examples;
mod registration;
mod removed_events;
mod routing;
mod run_fields;
mod sinks_tls;
mod stdout_sink;
mod valid_lifecycle;

//! What every sink has to do, whatever it delivers to: the suite that the sinks of this crate pass, for a
//! [`Sink`](crate::sink::Sink) of your own.
//!
//! Implement [`SinkUnderTest`] for your sink and the server behind it, and name it in
//! [`sink_conformance!`](crate::sink_conformance), which gives each promise a test of its own. Use a real server where
//! one can be had. `examples/own_sink.rs` is a sink with its suite.
//!
//! [`OperatedSink`] is for a sink whose server an operator fails over, and whose user he gives and takes rights:
//! `sink_conformance!(operated MySink)` makes its tests.
//!
//! The promises are also functions, for a test harness of your own. [`what_arrives_late`] needs a network that can hold
//! back what is on its way, and is not among the tests of the macro.
//!
//! The suite knows no sink, and no kind of server.

mod broken_promise;
mod declared;
mod events;
mod judged;
mod macros;
mod operated;
mod promises;
mod subject;

pub use broken_promise::BrokenPromise;
pub use declared::{begins_now, gives_up};
pub use events::{batch, event};
pub use judged::{refused_alike, refused_alone};
pub use operated::{OperatedSink, credential_rotates, failover, permission_lost_and_given_back};
pub use promises::{
    a_batch_that_comes_again, a_server_that_does_not_answer, cancellation_in_flight, check,
    order_per_workflow, outage_and_return, oversize, poison_is_rejected_alone,
    secrets_are_not_shown, several_sinks_at_once, what_arrives_late,
};
pub use subject::{Received, SinkUnderTest};

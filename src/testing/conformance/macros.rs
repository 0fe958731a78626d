//! The tests of the suite, as a user's own. Knows the names of the promises, and nothing else.

/// Makes one test per promise for a [`SinkUnderTest`](crate::testing::conformance::SinkUnderTest), in the module that it
/// stands in; with `operated` in front, for an [`OperatedSink`](crate::testing::conformance::OperatedSink). The tests use
/// `#[tokio::test]`.
///
/// ```ignore
/// mod my_sink {
///     temporal_eventstore::sink_conformance!(super::MySinkUnderTest);
/// }
/// ```
#[macro_export]
macro_rules! sink_conformance {
    (operated $subject:ty) => {
        $crate::sink_conformance!(
            @tests $subject:
            failover
            permission_lost_and_given_back
            credential_rotates
        );
    };
    ($subject:ty) => {
        $crate::sink_conformance!(
            @tests $subject:
            order_per_workflow
            a_batch_that_comes_again
            outage_and_return
            poison_is_rejected_alone
            refused_alone
            refused_alike
            begins_now
            gives_up
            oversize
            a_server_that_does_not_answer
            cancellation_in_flight
            several_sinks_at_once
            check
            secrets_are_not_shown
        );
    };
    (@tests $subject:ty: $($promise:ident)*) => {
        $(
            #[tokio::test]
            async fn $promise() -> Result<(), $crate::testing::conformance::BrokenPromise> {
                $crate::testing::conformance::$promise::<$subject>().await
            }
        )*
    };
}

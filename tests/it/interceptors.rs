//! The interceptors registered by hand, without the plugin.

use crate::support::{Ground, lifecycle, outcome, start, until, with_worker, workflows};
use std::time::Duration;
use temporal_eventstore::{EventInterceptors, Frame, Reconciler, ReconcilerOptions};
use temporalio_client::{ClientOptions, WorkflowGetResultOptions};
use temporalio_sdk::WorkerOptions;

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn they_emit_the_lifecycle_and_confirm_ends_by_asking() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let client = ground
        .connect(
            ClientOptions::new("default")
                .client_interceptors(vec![EventInterceptors::client()])
                .build(),
        )
        .await;
    let interceptors = EventInterceptors::new(&events, &client);
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<workflows::Order>()
        .unwrap()
        .register_workflow::<workflows::Fail>()
        .unwrap()
        .register_workflow::<workflows::Chain>()
        .unwrap()
        .register_workflow::<workflows::Local>()
        .unwrap()
        .workflow_interceptor(interceptors.workflow())
        .activity_inbound_interceptor(interceptors.activity())
        .build();
    with_worker(&client, options, async {
        let order = Frame::new()
            .correlation_id("c-1")
            .scope(client.start_workflow(workflows::Order::run, (), start("order")))
            .await
            .unwrap();
        order
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        outcome(&client, workflows::Fail::run, (), "fail")
            .await
            .unwrap_err();
        outcome(&client, workflows::Local::run, (), "local")
            .await
            .unwrap();
        let chain = client
            .start_workflow(workflows::Chain::run, 1_u64, start("chain"))
            .await
            .unwrap();
        chain
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        until("the ends are confirmed", || {
            events.stats().held == 0 && lifecycle(&ground.events(), "chain").len() == 4
        })
        .await;
    })
    .await;
    // History gives the same ids, those of the local activity too.
    let options = ReconcilerOptions::builder().grace(Duration::ZERO).build();
    let found = Reconciler::new(&events, &client, options).run_once().await;
    assert_eq!(found.unwrap().added(), 0);
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let order = lifecycle(&rows, "order");
    assert_eq!(order.len(), 10);
    assert_eq!(order[0], "workflow_start running");
    assert!(order.contains(&"workflow_end completed".to_owned()));
    assert_eq!(
        lifecycle(&rows, "fail"),
        ["workflow_start running", "workflow_end failed"]
    );
    let mut chain = lifecycle(&rows, "chain");
    chain.sort();
    assert_eq!(
        chain,
        [
            "workflow_end completed",
            "workflow_end continued_as_new",
            "workflow_start running",
            "workflow_start running",
        ]
    );
    for row in rows.iter().filter(|row| row.is_of("order")) {
        assert_eq!(row.metadata("correlation_id"), "c-1");
    }
    assert!(!rows.iter().any(|row| row.event_name == "worker_start"));
}

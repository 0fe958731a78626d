//! What the sample tells: a shop with orders, of which some fail, and everything that a timeline can show.

use super::{
    Draft, Event, EventStore,
    plan::{Notes, RunPlan, Start, Time, completed, failed, failure, later},
};
use crate::{
    context::{ActivityFrame, Context, Frame, WorkerFrame},
    event::{
        ActivityStatus, WorkflowState,
        lifecycle::{activity_end, activity_start, worker_end, worker_start},
    },
};
use serde_json::json;

const SECOND: f64 = 1000.0;
const MINUTE: f64 = 60.0 * SECOND;
/// How far orders are from each other.
const BETWEEN_ORDERS: f64 = 100.0 * SECOND;
/// How many events an order makes, about.
const PER_ORDER: usize = 27;

/// Returns the events of a sample that ends now, in the order of time.
pub(super) fn tell(store: &EventStore, events: usize, seed: u64, now: Time) -> Vec<Draft> {
    let mut notes = Notes::new(store.rules(), now, seed);
    let orders = (events / PER_ORDER).max(1);
    let span = (orders as f64 * BETWEEN_ORDERS).max(20.0 * MINUTE);
    let begin = later(now, -span);
    let workers = workers(&mut notes, begin, span);
    reminder(&mut notes, &workers[0], begin);
    import(&mut notes, &workers[1], later(begin, MINUTE));
    standalone(&mut notes, &workers[1], later(begin, 90.0 * SECOND));
    stuck(&mut notes, &workers[0], later(begin, 2.0 * MINUTE));
    ended_by_others(&mut notes, &workers, later(begin, 3.0 * MINUTE));
    let mut number = 0;
    while notes.len() < events || number < 3 {
        number += 1;
        // Nobody orders in a third of the time: what is idle can be folded.
        let share = (number as f64 / orders as f64).min(1.0);
        let share = if share < 0.5 {
            share * 0.66
        } else {
            0.34 + share * 0.66
        };
        let at = later(begin, share * span - notes.about(40.0 * SECOND));
        let worker = &workers[number % 2];
        order(&mut notes, worker, number, at);
    }
    notes.into_drafts()
}

fn workers(notes: &mut Notes, begin: Time, span: f64) -> [WorkerFrame; 2] {
    let frame = |identity: &str| WorkerFrame {
        namespace: Some("default".into()),
        task_queue: Some("orders".into()),
        worker_identity: Some(identity.into()),
        build_id: Some("2026.11.2".into()),
        sdk_version: Some("temporalio-sdk 1.1.1".into()),
    };
    let workers = [frame("7@shop-1"), frame("7@shop-2")];
    for (index, worker) in workers.iter().enumerate() {
        let context = Context::new().push(worker.clone());
        let begins = later(begin, -SECOND * (index + 1) as f64);
        let data = json!({ "task_queue": "orders", "namespace": "default" });
        let data = data.as_object().cloned().unwrap_or_default();
        notes.lifecycle(begins, worker_start(data.clone()), &context);
        if index == 1 {
            // It is deployed anew while nobody orders.
            let ends = later(begin, span * 0.5);
            let why = json!({ "reason": "shutdown", "duration_ms": span * 0.5 });
            let why = why.as_object().cloned().unwrap_or_default();
            notes.lifecycle(ends, worker_end(why), &context);
            notes.lifecycle(later(ends, 9.0 * SECOND), worker_start(data), &context);
        }
    }
    workers
}

/// An order: reserved, paid by a child, shipped by another.
fn order(notes: &mut Notes, worker: &WorkerFrame, number: usize, at: Time) {
    let dice = match number {
        // The first ones show the most.
        1 => 0.90,
        2 => 0.05,
        3 => 0.97,
        _ => notes.rng.f64(),
    };
    let customer = notes.rng.u32(100..999);
    let mut run = RunPlan::start(
        notes,
        Start {
            at,
            workflow_type: "Order",
            workflow_id: format!("order-{number}"),
            worker,
            fields: Some(Frame::new().correlation_id(format!("customer-{customer}"))),
            parent: None,
            continues: None,
        },
    );
    let amount = f64::from(notes.rng.u32(900..25_000)) / 100.0;
    let received = Event::new("order.received").name("OrderReceived");
    let items = notes.rng.u32(1..6);
    run.publish(
        notes,
        received.data(json!({ "amount": amount, "items": items })),
    );
    run.begin(notes, "check_address", vec![completed(1.5)], true);
    let busy = || {
        failed(
            2.0 * SECOND,
            "Unavailable",
            "the warehouse answered 503 Service Unavailable",
        )
    };
    let slow = || {
        failed(
            5.0 * SECOND,
            "Timeout",
            "the warehouse did not answer within 5 s",
        )
    };
    let reserve = match dice {
        dice if dice < 0.6 => vec![completed(240.0)],
        dice if dice < 0.85 => vec![slow(), completed(180.0)],
        _ => vec![slow(), busy(), busy(), completed(320.0)],
    };
    run.execute(notes, "reserve", reserve);
    if !pay(notes, worker, &mut run, number, dice) {
        let release = vec![completed(90.0)];
        run.execute(notes, "release_reservation", release);
        let refunded = Event::new("order.refunded").name("OrderRefunded");
        run.publish(notes, refunded.data(json!({ "amount": -amount })));
        let why = failure("PaymentFailed", "the order could not be paid", true);
        run.end(notes, WorkflowState::Failed, Some(&why));
        return;
    }
    ship(notes, worker, &mut run, number);
    if dice > 0.95 {
        run.pass(notes, 200.0);
        run.end(notes, WorkflowState::Cancelled, None);
        return;
    }
    let shipped = Event::new("order.shipped").name("OrderShipped");
    let parcels = notes.rng.u32(1..4);
    run.publish(notes, shipped.data(json!({ "parcels": parcels })));
    run.execute(notes, "send_mail", vec![completed(130.0)]);
    run.end(notes, WorkflowState::Completed, None);
}

/// Returns whether the order is paid.
fn pay(
    notes: &mut Notes,
    worker: &WorkerFrame,
    order: &mut RunPlan,
    number: usize,
    dice: f64,
) -> bool {
    let mut run = RunPlan::start(
        notes,
        Start {
            at: order.at,
            workflow_type: "Payment",
            workflow_id: format!("order-{number}/payment"),
            worker,
            fields: None,
            parent: Some(order),
            continues: None,
        },
    );
    run.execute(notes, "authorize", vec![completed(420.0)]);
    let is_declined = dice < 0.08;
    let charge = if is_declined {
        let declined = failure(
            "CardDeclined",
            "the bank declined the card ending in 4242",
            true,
        );
        let mut ending = failed(650.0, "", "");
        ending.failure = Some(declined);
        vec![ending]
    } else if dice > 0.88 {
        let lost = || {
            failed(
                3.0 * SECOND,
                "ConnectionReset",
                "connection reset by peer (os error 104)",
            )
        };
        vec![lost(), completed(510.0)]
    } else {
        vec![completed(480.0)]
    };
    run.execute(notes, "charge", charge);
    if is_declined {
        let why = failure(
            "CardDeclined",
            "the bank declined the card ending in 4242",
            true,
        );
        run.end(notes, WorkflowState::Failed, Some(&why));
    } else {
        let charged = Event::new("payment.charged").name("PaymentCharged");
        run.publish(notes, charged.data(json!({ "method": "card" })));
        run.end(notes, WorkflowState::Completed, None);
    }
    order.at = run.at;
    order.pass(notes, 15.0);
    !is_declined
}

/// Packs while it books a carrier, who answers later.
fn ship(notes: &mut Notes, worker: &WorkerFrame, order: &mut RunPlan, number: usize) {
    let mut run = RunPlan::start(
        notes,
        Start {
            at: order.at,
            workflow_type: "Shipment",
            workflow_id: format!("order-{number}/shipment"),
            worker,
            fields: None,
            parent: Some(order),
            continues: None,
        },
    );
    let packed = run.begin(notes, "pack", vec![completed(6.0 * SECOND)], false);
    let mut booking = completed(9.0 * SECOND);
    booking.status = ActivityStatus::WillCompleteAsync;
    let booked = run.begin(notes, "book_carrier", vec![booking], false);
    run.at = packed.max(booked);
    run.pass(notes, 20.0);
    run.execute(notes, "print_label", vec![completed(75.0)]);
    run.end(notes, WorkflowState::Completed, None);
    order.at = run.at;
    order.pass(notes, 15.0);
}

/// Sleeps most of the time, and is open.
fn reminder(notes: &mut Notes, worker: &WorkerFrame, at: Time) {
    let mut run = RunPlan::start(
        notes,
        Start {
            at,
            workflow_type: "Reminder",
            workflow_id: "reminder-weekly".to_owned(),
            worker,
            fields: None,
            parent: None,
            continues: None,
        },
    );
    for _ in 0..4 {
        run.execute(notes, "send_mail", vec![completed(140.0)]);
        run.pass(notes, 9.0 * MINUTE);
    }
    run.at = later(notes.now, -20.0 * SECOND);
    run.begin(
        notes,
        "render_report",
        vec![completed(10.0 * MINUTE)],
        false,
    );
}

/// A chain of runs, each of which continues as a new one.
fn import(notes: &mut Notes, worker: &WorkerFrame, at: Time) {
    let mut before: Option<RunPlan> = None;
    for page in 0..3 {
        let start = Start {
            at: before.as_ref().map_or(at, |run| run.at),
            workflow_type: "CatalogImport",
            workflow_id: "catalog-import".to_owned(),
            worker,
            fields: None,
            parent: None,
            continues: before.as_ref(),
        };
        let mut run = RunPlan::start(notes, start);
        // Pages are read side by side.
        let ends: Vec<Time> = (0..5)
            .map(|_| run.begin(notes, "import_page", vec![completed(2.0 * SECOND)], false))
            .collect();
        run.at = ends.into_iter().max().unwrap_or(run.at);
        let imported = Event::new("catalog.imported").name("CatalogImported");
        run.publish(
            notes,
            imported.data(json!({ "page": page, "products": 500 })),
        );
        let state = match page {
            2 => WorkflowState::Completed,
            _ => WorkflowState::ContinuedAsNew,
        };
        run.end(notes, state, None);
        before = Some(run);
    }
}

/// Activities without a workflow.
fn standalone(notes: &mut Notes, worker: &WorkerFrame, at: Time) {
    for (index, activity) in ["rotate_keys", "vacuum"].into_iter().enumerate() {
        let begins = later(at, index as f64 * MINUTE);
        let context = Context::new().push(worker.clone()).push(ActivityFrame {
            namespace: "default".into(),
            task_queue: worker.task_queue.clone(),
            activity_type: activity.into(),
            activity_id: format!("nightly-{activity}").into(),
            scheduled_time: Some(begins.into()),
            attempt: 1,
            ..ActivityFrame::default()
        });
        let ms = notes.about(3.0 * SECOND);
        notes.lifecycle(begins, activity_start(), &context);
        let end = activity_end(ActivityStatus::Completed, ms, None);
        notes.lifecycle(later(begins, ms), end, &context);
    }
    // Outside of any run.
    let deployed = Event::new("shop.deployed").name("ShopDeployed");
    notes.publish(
        at,
        deployed.data(json!({ "version": "2026.11.2" })),
        &Context::new(),
    );
}

/// Runs too long: an activity that fails again and again.
fn stuck(notes: &mut Notes, worker: &WorkerFrame, at: Time) {
    let mut run = RunPlan::start(
        notes,
        Start {
            at,
            workflow_type: "Invoice",
            workflow_id: "invoice-2026-11".to_owned(),
            worker,
            fields: None,
            parent: None,
            continues: None,
        },
    );
    let refused = || {
        failed(
            300.0,
            "Unauthorized",
            "the tax office answered 401: the token has expired",
        )
    };
    run.begin(
        notes,
        "file_taxes",
        (0..24).map(|_| refused()).collect(),
        false,
    );
}

/// Ends that no worker sees.
fn ended_by_others(notes: &mut Notes, workers: &[WorkerFrame; 2], at: Time) {
    let start = |workflow_id: &str, at| Start {
        at,
        workflow_type: "PriceWatch",
        workflow_id: workflow_id.to_owned(),
        worker: &workers[0],
        fields: None,
        parent: None,
        continues: None,
    };
    let mut run = RunPlan::start(notes, start("prices-eu", at));
    run.execute(notes, "fetch_prices", vec![completed(900.0)]);
    run.pass(notes, 3.0 * MINUTE);
    run.end_unseen(
        notes,
        WorkflowState::Terminated,
        Some("replaced by prices-world"),
    );
    let mut run = RunPlan::start(notes, start("prices-us", later(at, 20.0 * SECOND)));
    let timed_out = || {
        let mut ending = failed(30.0 * SECOND, "StartToClose", "activity timed out");
        ending.status = ActivityStatus::TimedOut;
        ending
    };
    run.begin(notes, "fetch_prices", vec![timed_out(), timed_out()], false);
    run.pass(notes, 100.0 * SECOND);
    run.end_unseen(notes, WorkflowState::TimedOut, None);
}

//! What who publishes waits for.

use crate::{
    Scale, allocations,
    events::{self, BYTES, Events, PATIENCE},
    figures::{Spread, at},
    process::Usage,
};
use std::{
    sync::Barrier,
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Durability, Event, EventStore,
    context::{ActivityFrame, Context, Frame, StackFrame, WorkerFrame},
};

/// Events that one thread publishes before the store is given time to write them.
const BURST: usize = 1000;

/// What one thread needed for one burst, for each event.
struct Burst {
    nanoseconds: f64,
    allocations: f64,
    bytes: f64,
}

/// Bursts of events that are made before, from some threads at once, into an idle store.
pub async fn not_awaited(scale: &Scale) -> anyhow::Result<()> {
    println!("| threads | context | ns per publish | allocations | bytes allocated |");
    println!("|---|---|---|---|---|");
    for threads in [1, 2, 8] {
        for (name, context) in [("none", Context::default()), ("activity", in_activity())] {
            let directory = tempfile::tempdir()?;
            let store = events::open(&events::url(&directory.path().join("events.db"))).await?;
            // What an event of an application holds itself.
            let event = Event::new("order.shipped")
                .name("OrderShipped")
                .data(serde_json::json!({ "parcels": 2 }));
            let bursts = scale.of(200, 20);
            let bursts = bursts_of(&store, &event, &context, threads, bursts)?;
            let stats = store.stats();
            anyhow::ensure!(stats.refused + stats.lost + stats.invalid == 0);
            let of = |figure: fn(&Burst) -> f64| Spread::of(bursts.iter().map(figure));
            println!(
                "| {threads} | {name} | {:.0} | {:.3} | {:.0} |",
                of(|burst| burst.nanoseconds),
                of(|burst| burst.allocations).median,
                of(|burst| burst.bytes).median,
            );
            store.shutdown(PATIENCE).await?;
        }
    }
    Ok(())
}

/// The stack in an activity that has a correlation id.
fn in_activity() -> Context {
    let mut worker = WorkerFrame::default();
    worker.worker_identity = Some("1234@orders".into());
    worker.sdk_version = Some("temporal-rust/1.1.1".into());
    let mut activity = ActivityFrame::default();
    activity.namespace = "default".into();
    activity.task_queue = Some("orders".into());
    activity.workflow_type = Some("OrderWorkflow".into());
    activity.workflow_id = Some("order-1".into());
    activity.workflow_run_id = Some("01a20750-58f5-75c7-af38-d0761a33cd63".into());
    activity.activity_type = "Orders::ship".into();
    activity.activity_id = "3".into();
    activity.attempt = 1;
    Context::default()
        .push(StackFrame::Worker(worker))
        .push(StackFrame::Activity(activity))
        .push(StackFrame::User(Frame::new().correlation_id("c-42")))
}

fn bursts_of(
    store: &EventStore,
    event: &Event,
    context: &Context,
    threads: usize,
    bursts: usize,
) -> anyhow::Result<Vec<Burst>> {
    let runtime = tokio::runtime::Handle::current();
    let barrier = Barrier::new(threads + 1);
    let publish = || {
        let mut done = Vec::with_capacity(bursts);
        for _ in 0..bursts {
            let events = vec![event.clone(); BURST];
            barrier.wait();
            let allocated = allocations::so_far();
            let began = Instant::now();
            for event in events {
                drop(store.publish(event));
            }
            let took = began.elapsed();
            let after = allocations::so_far();
            done.push(Burst {
                nanoseconds: took.as_nanos() as f64 / BURST as f64,
                allocations: (after.0 - allocated.0) as f64 / BURST as f64,
                bytes: (after.1 - allocated.1) as f64 / BURST as f64,
            });
            barrier.wait();
        }
        done
    };
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let publishing: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| context.enter(publish)))
                .collect();
            for _ in 0..bursts {
                barrier.wait();
                barrier.wait();
                runtime.block_on(store.flush(PATIENCE))?;
            }
            let mut all = Vec::new();
            for thread in publishing {
                all.extend(thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?);
            }
            // The first ones find cold caches and small queues.
            Ok(all.split_off(threads.min(all.len())))
        })
    })
}

/// Publishes and waits until the event is durable, then the next; by one task, and by eight at once.
pub async fn awaited(scale: &Scale) -> anyhow::Result<()> {
    print_waits_head();
    for (durability, tasks, count) in [
        (Durability::Process, 1, scale.of(50_000, 1000)),
        (Durability::Process, 8, scale.of(50_000, 1000)),
        (Durability::Power, 1, scale.of(2000, 100)),
        (Durability::Power, 8, scale.of(8000, 400)),
    ] {
        waits(durability, tasks, 1, count).await?;
    }
    Ok(())
}

/// What a workflow task waits for, and an activity's end: some events in one frame of the log. There is no
/// public call for it; events of which only the last is awaited go the same way, together.
pub async fn commit(scale: &Scale) -> anyhow::Result<()> {
    print_waits_head();
    for (durability, events, count) in [
        (Durability::Process, 2, scale.of(50_000, 1000)),
        (Durability::Process, 10, scale.of(20_000, 1000)),
        (Durability::Power, 2, scale.of(2000, 100)),
    ] {
        waits(durability, 1, events, count).await?;
    }
    Ok(())
}

fn print_waits_head() {
    println!(
        "| durability | tasks | events at once | median, µs | 99 % | 99.9 % | CPU, µs | sleeps of threads |"
    );
    println!("|---|---|---|---|---|---|---|---|");
}

async fn waits(
    durability: Durability,
    tasks: usize,
    at_once: usize,
    count: usize,
) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let store = EventStore::builder()
        .application_name("orders")
        .store(events::url(&directory.path().join("events.db")))
        .durability(durability)
        .build()
        .await?;
    wait_often(store.clone(), at_once, count.min(1000) / at_once).await?;
    store.flush(PATIENCE).await?;
    let before = Usage::of_this_process()?;
    let waiting: Vec<_> = (0..tasks)
        .map(|_| tokio::spawn(wait_often(store.clone(), at_once, count / tasks)))
        .collect();
    let mut waits = Vec::new();
    for task in waiting {
        waits.extend(task.await??);
    }
    let spent = Usage::of_this_process()?.since(&before);
    store.shutdown(PATIENCE).await?;
    let mut microseconds: Vec<f64> = waits.iter().map(|it| it.as_secs_f64() * 1e6).collect();
    microseconds.sort_by(f64::total_cmp);
    println!(
        "| {durability:?} | {tasks} | {at_once} | {:.1} | {:.1} | {:.1} | {:.1} | {:.3} |",
        at(&microseconds, 0.5),
        at(&microseconds, 0.99),
        at(&microseconds, 0.999),
        spent.cpu_ms * 1000.0 / waits.len() as f64,
        spent.sleeps / waits.len() as f64,
    );
    Ok(())
}

async fn wait_often(
    store: EventStore,
    at_once: usize,
    count: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut events = Events::of(BYTES).await?;
    let mut waits = Vec::with_capacity(count);
    for _ in 0..count {
        let made: Vec<Event> = (0..at_once).map(|_| events.next()).collect();
        let began = Instant::now();
        let mut last = None;
        for event in made {
            last = Some(store.publish(event));
        }
        if let Some(last) = last {
            last.await?;
        }
        waits.push(began.elapsed());
    }
    Ok(waits)
}

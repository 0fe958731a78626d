//! `eventstore drain`: delivers what waits in a journal, without a worker.

use super::{
    arguments::{Arguments, Drain, Format},
    failure::Failure,
    opened,
    screen::{Field, Progress, Screen, note},
};
use crate::store::{EventStore, SinkStats};
use comfy_table::Color;
use serde_json::{Value, json};
use std::time::Duration;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

pub(super) async fn run(
    arguments: &Arguments,
    drain: &Drain,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let store = opened::open(opened::options(arguments, &drain.sinks)?, drain.new).await?;
    let result = deliver(&store, drain, screen).await;
    opened::close(store).await?;
    result
}

async fn deliver(store: &EventStore, drain: &Drain, screen: &mut Screen) -> Result<(), Failure> {
    if store.stats().sinks.is_empty() {
        return Err(Failure::usage(
            "no sink is named, so that there is nothing to deliver to",
            "give --to URL, or set EVENTSTORE_URL as the worker has it",
        ));
    }
    let behind = |sinks: &[SinkStats]| {
        let waited_for = sinks.iter().filter(|sink| !sink.is_paused);
        waited_for.map(|sink| sink.behind).max().unwrap_or_default()
    };
    let bar = Progress::new("delivering", behind(&store.stats().sinks));
    let mut at_most = 0;
    let watch = async {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            let left = behind(&store.stats().sinks);
            at_most = at_most.max(left);
            bar.lengthen(at_most);
            bar.set(at_most - left);
            // A sink that somebody paused is not waited for.
            if left == 0 && store.stats().sinks.iter().any(|sink| sink.is_paused) {
                return;
            }
        }
    };
    tokio::select! {
        // Says by itself which sinks are behind: so do the numbers.
        _ = store.flush(drain.timeout) => {}
        () = watch => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    bar.end();
    let sinks = store.stats().sinks;
    say(&sinks, drain.output.output, screen)?;
    match behind(&sinks) {
        0 => Ok(()),
        _ => {
            note("what is left waits in the journal");
            Err(Failure::Unhealthy)
        }
    }
}

fn say(sinks: &[SinkStats], format: Format, screen: &mut Screen) -> Result<(), Failure> {
    if format != Format::Text {
        return screen.json(format, sinks.iter().map(document));
    }
    let rows = sinks.iter().map(|sink| {
        let mut why = Field::from(match sink.is_paused {
            true => "paused",
            false => sink.failing.as_deref().unwrap_or_default(),
        });
        why.color(Color::Red);
        vec![
            sink.name.clone().into(),
            Field::number(sink.delivered),
            Field::number(sink.rejected),
            Field::number(sink.behind),
            why,
        ]
    });
    let head = ["sink", "delivered", "dead letters", "behind", "failing"];
    screen.table(&head, rows.collect())
}

fn document(sink: &SinkStats) -> Value {
    json!({
        "sink": sink.name,
        "delivered": sink.delivered,
        "dead_letters": sink.rejected,
        "behind": sink.behind,
        "failing": sink.failing,
        "paused": sink.is_paused,
    })
}

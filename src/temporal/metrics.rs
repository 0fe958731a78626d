//! The store's numbers as metrics of the SDK: what [`EventStore::stats`] has is recorded on a meter every few seconds.
//! Knows the store's numbers, and nothing of events.

use crate::store::{EventStore, Health, SinkStats, Stats};
use std::{collections::HashMap, sync::Arc, time::Duration};
use temporalio_common::telemetry::metrics::{
    CoreMeter, Counter, Gauge, MetricAttributes, MetricKeyValue, MetricParameters, NewAttributes,
};
use tokio::sync::Mutex;

/// How often the numbers are recorded.
const EVERY: Duration = Duration::from_secs(5);

type Value<T> = fn(&T) -> u64;
/// A metric: its name, what it says, and its value.
type Of<T> = (&'static str, &'static str, Value<T>);

/// Names have no dots, which Prometheus does not take, and no `_total`, which the exporter adds where it is wanted.
const COUNTERS: [Of<Stats>; 19] = [
    (
        "eventstore_events_accepted",
        "Events queued for the journal",
        |it| it.accepted,
    ),
    (
        "eventstore_events_written",
        "Events written into the store",
        |it| it.written,
    ),
    (
        "eventstore_events_duplicate",
        "Events that the store had already",
        |it| it.duplicates,
    ),
    (
        "eventstore_events_invalid",
        "Events refused because they break a rule",
        |it| it.invalid,
    ),
    (
        "eventstore_events_trimmed",
        "Events stored without a field, or with a shorter one",
        |it| it.trimmed,
    ),
    (
        "eventstore_events_filtered",
        "Events that the filter dropped",
        |it| it.filtered,
    ),
    (
        "eventstore_events_refused",
        "Events refused because the queue or the log was full, or the store had stopped",
        |it| it.refused,
    ),
    (
        "eventstore_events_skipped",
        "Events skipped because of where they were published",
        |it| it.skipped,
    ),
    (
        "eventstore_events_staged",
        "Events of workflow code that waited for their workflow task",
        |it| it.staged,
    ),
    (
        "eventstore_events_lost",
        "Events and dead letters that were accepted and then lost",
        |it| it.lost,
    ),
    (
        "eventstore_holds_discarded",
        "Holds discarded because the server did not accept the task",
        |it| it.discarded,
    ),
    (
        "eventstore_reconciler_passes",
        "Passes of the reconciler",
        |it| it.reconciler_passes,
    ),
    (
        "eventstore_reconciler_failures",
        "Passes of the reconciler that failed",
        |it| it.reconciler_failures,
    ),
    (
        "eventstore_reconciler_looked_at",
        "Closed runs and standalone activities that the reconciler looked at",
        |it| it.reconciler_looked_at,
    ),
    (
        "eventstore_reconciler_added",
        "Events that the reconciler added",
        |it| it.reconciler_added,
    ),
    (
        "eventstore_reconciler_unreported_ends",
        "Ends of workflows, neither terminated nor timed out, that the reconciler added",
        |it| it.reconciler_unreported_ends,
    ),
    (
        "eventstore_commits",
        "Commits that a workflow task or an activity result waited for",
        |it| it.commits,
    ),
    (
        "eventstore_commit_timeouts",
        "Commits that took longer than the commit timeout",
        |it| it.commit_timeouts,
    ),
    (
        "eventstore_store_transactions",
        "Transactions of the store",
        |it| it.transactions,
    ),
];

/// A duration as a sum. The SDK's histograms count whole milliseconds, and a commit takes microseconds.
const COMMIT_WAIT: Of<Stats> = (
    "eventstore_commit_wait_microseconds",
    "The total time that commits were waited for",
    |it| micros(it.commit_wait),
);

const GAUGES: [Of<Stats>; 7] = [
    (
        "eventstore_held",
        "Holds that wait for the server's word",
        |it| it.held,
    ),
    (
        "eventstore_held_seconds",
        "How long the oldest hold has been waiting",
        |it| it.oldest_held.unwrap_or_default().as_secs(),
    ),
    (
        "eventstore_queued",
        "Events that wait to be appended to the log",
        |it| it.queued,
    ),
    (
        "eventstore_queued_bytes",
        "Memory that waiting events take",
        |it| it.queued_bytes,
    ),
    ("eventstore_journal_events", "Events in the store", |it| {
        it.journal_events
    }),
    (
        "eventstore_journal_bytes",
        "Bytes of the store's file that are in use",
        |it| it.journal_bytes,
    ),
    (
        "eventstore_degraded",
        "1 while one of the journal's files is not as it should be",
        |it| u64::from(it.degraded),
    ),
];

const SINK_COUNTERS: [Of<SinkStats>; 6] = [
    (
        "eventstore_sink_delivered",
        "Events that the sink took",
        |it| it.delivered,
    ),
    (
        "eventstore_sink_rejected",
        "Events that the sink rejected, and that became dead letters",
        |it| it.rejected,
    ),
    (
        "eventstore_sink_passed_over",
        "Events that the sink does not take, or that are not selected for it",
        |it| it.passed_over,
    ),
    (
        "eventstore_sink_retries",
        "Deliveries that failed and were tried again",
        |it| it.retries,
    ),
    (
        "eventstore_sink_batches",
        "Deliveries that succeeded",
        |it| it.batches,
    ),
    (
        "eventstore_sink_latency_microseconds",
        "The total time of the deliveries that succeeded",
        |it| micros(it.latency),
    ),
];

const SINK_GAUGES: [Of<SinkStats>; 4] = [
    (
        "eventstore_sink_behind",
        "Positions that the sink is behind the newest event",
        |it| it.behind,
    ),
    (
        "eventstore_sink_oldest_seconds",
        "How old the oldest event is that the sink does not have",
        |it| it.oldest.unwrap_or_default().as_secs(),
    ),
    (
        "eventstore_sink_failing",
        "1 while the sink takes nothing",
        |it| u64::from(it.failing.is_some()),
    ),
    (
        "eventstore_sink_failing_seconds",
        "For how long the sink has taken nothing",
        |it| it.failing_for.unwrap_or_default().as_secs(),
    ),
];

const HEALTHY: (&str, &str) = (
    "eventstore_healthy",
    "1 while the store and all of its sinks can do their work",
);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Records one store's numbers on one meter. Of the workers that share it, one records at a time.
pub(super) struct Metrics {
    store: EventStore,
    meter: Arc<dyn CoreMeter>,
    recorder: Mutex<Option<Recorder>>,
}

impl Metrics {
    pub(super) fn new(store: EventStore, meter: Arc<dyn CoreMeter>) -> Self {
        Self {
            store,
            meter,
            recorder: Mutex::new(None),
        }
    }

    /// Records until it is dropped, once nobody else does.
    pub(super) async fn run(&self, namespace: Option<&str>) {
        // Held on purpose: it says who records. Another worker goes on when this one ends.
        let mut recorder = self.recorder.lock().await;
        loop {
            self.recorder(&mut recorder, namespace).record(&self.store);
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Records once more, at the end of a worker, unless another worker records.
    pub(super) fn record(&self, namespace: Option<&str>) {
        if let Ok(mut recorder) = self.recorder.try_lock() {
            self.recorder(&mut recorder, namespace).record(&self.store);
        }
    }

    fn recorder<'a>(
        &self,
        recorder: &'a mut Option<Recorder>,
        namespace: Option<&str>,
    ) -> &'a mut Recorder {
        recorder.get_or_insert_with(|| Recorder::new(&self.meter, namespace))
    }
}

/// The instruments, and what they have counted so far.
struct Recorder {
    meter: Arc<dyn CoreMeter>,
    attributes: MetricAttributes,
    counters: Vec<(Counter, Value<Stats>)>,
    gauges: Vec<(Gauge, Value<Stats>)>,
    healthy: Gauge,
    sink_counters: Vec<(Counter, Value<SinkStats>)>,
    sink_gauges: Vec<(Gauge, Value<SinkStats>)>,
    counted: Stats,
    sinks: HashMap<String, (MetricAttributes, SinkStats)>,
}

impl Recorder {
    fn new(meter: &Arc<dyn CoreMeter>, namespace: Option<&str>) -> Self {
        let namespace = namespace.unwrap_or_default().to_owned();
        Self {
            attributes: meter.new_attributes(NewAttributes::from([MetricKeyValue::new(
                "namespace",
                namespace,
            )])),
            counters: COUNTERS
                .iter()
                .chain([&COMMIT_WAIT])
                .map(|(name, what, of)| (meter.counter(parameters(name, what)), *of))
                .collect(),
            gauges: GAUGES
                .iter()
                .map(|(name, what, of)| (meter.gauge(parameters(name, what)), *of))
                .collect(),
            healthy: meter.gauge(parameters(HEALTHY.0, HEALTHY.1)),
            sink_counters: SINK_COUNTERS
                .iter()
                .map(|(name, what, of)| (meter.counter(parameters(name, what)), *of))
                .collect(),
            sink_gauges: SINK_GAUGES
                .iter()
                .map(|(name, what, of)| (meter.gauge(parameters(name, what)), *of))
                .collect(),
            counted: Stats::default(),
            sinks: HashMap::new(),
            meter: meter.clone(),
        }
    }

    fn record(&mut self, store: &EventStore) {
        let stats = store.stats();
        for (counter, of) in &self.counters {
            // Also what is 0, so that a rate is there before the first one.
            let more = of(&stats).saturating_sub(of(&self.counted));
            counter.add(more, &self.attributes);
        }
        for (gauge, of) in &self.gauges {
            gauge.record(of(&stats), &self.attributes);
        }
        let is_healthy = matches!(store.health(), Health::Healthy | Health::ShutDown);
        self.healthy.record(u64::from(is_healthy), &self.attributes);
        for sink in &stats.sinks {
            let (attributes, counted) = self.sinks.entry(sink.name.clone()).or_insert_with(|| {
                let name = MetricKeyValue::new("sink", sink.name.clone());
                let attributes = self
                    .meter
                    .extend_attributes(self.attributes.clone(), NewAttributes::from([name]));
                (attributes, SinkStats::default())
            });
            for (counter, of) in &self.sink_counters {
                counter.add(of(sink).saturating_sub(of(counted)), attributes);
            }
            for (gauge, of) in &self.sink_gauges {
                gauge.record(of(sink), attributes);
            }
            *counted = sink.clone();
        }
        self.counted = stats;
    }
}

fn parameters(name: &'static str, description: &'static str) -> MetricParameters {
    MetricParameters::builder()
        .name(name)
        .description(description)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const PAGE: &str = include_str!("../../docs/metrics.md");
    const ALERTS: &str = include_str!("../../docs/metrics/alerts.yaml");
    const DASHBOARD: &str = include_str!("../../docs/metrics/dashboard.json");

    fn names() -> BTreeSet<&'static str> {
        let of_store = COUNTERS.iter().chain([&COMMIT_WAIT]).chain(&GAUGES);
        let of_sinks = SINK_COUNTERS.iter().chain(&SINK_GAUGES);
        let names = of_store.map(|it| it.0).chain(of_sinks.map(|it| it.0));
        names.chain([HEALTHY.0]).collect()
    }

    fn named_in(text: &str) -> BTreeSet<&str> {
        text.split(|c: char| !(c.is_ascii_alphabetic() || c == '_'))
            .filter(|word| word.starts_with("eventstore_") && *word != "eventstore_")
            .collect()
    }

    #[test]
    fn the_page_the_alerts_and_the_dashboard_name_what_there_is() {
        assert_eq!(named_in(PAGE), names());
        for text in [ALERTS, DASHBOARD] {
            let unknown: Vec<_> = named_in(text).difference(&names()).copied().collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn names_are_those_of_prometheus() {
        for name in names() {
            assert!(!name.contains('.') && !name.ends_with("_total"), "{name}");
        }
    }
}

//! `eventstore check`: whether a store is as it should be.

use super::{
    arguments::{Arguments, Check, Format},
    failure::Failure,
    load,
    model::{Time, milliseconds},
    opened,
    screen::{Screen, in_one_line},
    sinks::{lag, named},
    words::{self, DIM, RED, paint},
};
use crate::{
    reader::{Condition, SinkPosition},
    store::sinks_of,
};
use chrono::{DateTime, Utc};
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// Events wait in the log for about 50 ms. More than this shows that the file does not take them; events of
/// applications are refused at 128 MiB.
const MAX_LOG_BYTES: u64 = 64 * 1024 * 1024;
const GREEN: Style = AnsiColor::Green.on_default();

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: String,
    healthy: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn of(name: impl Into<String>, healthy: bool, found: impl Into<String>, advice: &str) -> Self {
        Self {
            name: name.into(),
            healthy,
            found: found.into(),
            advice: (!healthy).then(|| advice.to_owned()),
        }
    }
}

pub(super) async fn run(
    arguments: &Arguments,
    check: &Check,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open_journal(arguments).await?;
    let condition = reader.condition(check.thorough).await?;
    let sinks = reader.sinks().await?;
    let mut findings = findings(&condition, &sinks, check, Utc::now());
    if check.connect {
        findings.extend(reached(arguments, check).await?);
    }
    let healthy = findings.iter().all(|finding| finding.healthy);
    match check.output.output {
        Format::Text => {
            for finding in &findings {
                screen.line(&line(finding))?;
                if let Some(advice) = &finding.advice {
                    screen.line(&format!("  {}", paint(DIM, advice)))?;
                }
            }
        }
        Format::Json => {
            let url = reader.url();
            let document = json!({ "store": url, "healthy": healthy, "checks": findings });
            screen.document(Format::Json, &document)?;
        }
        Format::Jsonl => screen.json(Format::Jsonl, &findings)?,
    }
    match healthy {
        true => Ok(()),
        false => Err(Failure::Unhealthy),
    }
}

fn line(finding: &Finding) -> String {
    let sign = match finding.healthy {
        true => paint(GREEN, "✓ ok       "),
        false => paint(RED, "✗ unhealthy"),
    };
    format!("{sign} {}: {}", finding.name, in_one_line(&finding.found))
}

fn findings(
    condition: &Condition,
    sinks: &[SinkPosition],
    check: &Check,
    now: Time,
) -> Vec<Finding> {
    let events = usize::try_from(condition.events).unwrap_or(usize::MAX);
    let newest = condition.newest_at.as_deref();
    let newest = newest.map(|at| format!(", the newest stored at {at}"));
    let count = words::count(events, "event");
    let mut findings = vec![Finding::of(
        "store",
        true,
        format!("{count}{}", newest.unwrap_or_default()),
        "",
    )];
    if check.thorough {
        let damage = condition.damage.clone();
        findings.push(Finding::of(
            "structure",
            damage.is_none(),
            damage.unwrap_or_else(|| "no damage".to_owned()),
            "stop the worker, move the file with its -wal and -shm away, and start it again: a new one is \
             fed from the log (docs/sqlite.md)",
        ));
    }
    if let Some(bytes) = condition.log_bytes {
        findings.push(Finding::of(
            "log",
            bytes <= MAX_LOG_BYTES,
            format!("{} KiB beside the file", bytes / 1024),
            "the file does not take what is in the log: end the program that has it locked, or make room \
             on the disk",
        ));
    }
    findings.push(held(condition, check.max_lag, now));
    findings.extend(
        sinks
            .iter()
            .flat_map(|sink| of_sink(sink, check.max_lag, now)),
    );
    findings
}

/// Whether what is needed besides the file answers.
async fn reached(arguments: &Arguments, check: &Check) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for subscription in sinks_of(&opened::options(arguments, &check.sinks)?)? {
        let answer = subscription.sink.check().await;
        findings.push(Finding::of(
            format!("server of sink {}", subscription.name),
            answer.is_ok(),
            match answer {
                Ok(()) => "answers".to_owned(),
                Err(error) => error.to_string(),
            },
            "look at its address, its credentials and its own log; events wait in the journal meanwhile",
        ));
    }
    #[cfg(feature = "temporal")]
    {
        let server = &check.server;
        let answer =
            crate::temporal::connect(server.address.as_deref(), server.namespace.as_deref()).await;
        findings.push(Finding::of(
            "Temporal server",
            answer.is_ok(),
            match answer {
                Ok(connected) => format!("answers at {}", connected.address),
                Err(error) => error.to_string(),
            },
            "give --address and --namespace, or set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and their like",
        ));
    }
    Ok(findings)
}

/// What workflow tasks published, and whose fate the server has to tell.
fn held(condition: &Condition, longest: Duration, now: Time) -> Finding {
    let oldest = condition.oldest_held.as_deref();
    let oldest = oldest.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    let age = oldest.map(|at| milliseconds(at.with_timezone(&Utc), now).max(0.0));
    let count = words::count(
        usize::try_from(condition.held).unwrap_or(usize::MAX),
        "task",
    );
    let found = match age {
        Some(age) => format!("{count}, the oldest for {}", words::duration(age)),
        None => count,
    };
    Finding::of(
        "held for the server's word",
        age.is_none_or(|age| age <= longest.as_secs_f64() * 1000.0),
        found,
        "no worker with this file reaches the server: start one, or look at its log for refused credentials",
    )
}

fn of_sink(sink: &SinkPosition, longest: Duration, now: Time) -> [Finding; 2] {
    let lag = lag(sink, now);
    let behind = words::count(usize::try_from(sink.behind).unwrap_or(usize::MAX), "event");
    let found = match lag {
        Some(lag) => format!("{behind} behind, the oldest for {}", words::duration(lag)),
        None => "has everything".to_owned(),
    };
    let letters = usize::try_from(sink.dead_letters).unwrap_or(usize::MAX);
    [
        Finding::of(
            format!("sink {}", named(sink)),
            lag.is_none_or(|lag| lag <= longest.as_secs_f64() * 1000.0),
            found,
            match sink.is_paused {
                true => "somebody paused it; EventStore::resume_sink goes on",
                false => {
                    "the worker's log says why it takes nothing; without a worker nothing is delivered"
                }
            },
        ),
        Finding::of(
            format!("dead letters of {}", sink.name),
            letters == 0,
            words::count(letters, "event"),
            "`eventstore dead-letters list` says why; `eventstore dead-letters send` sends them again",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::{Output, Server, SinkUrls};

    fn check() -> Check {
        Check {
            thorough: true,
            max_lag: Duration::from_secs(300),
            connect: false,
            sinks: SinkUrls::default(),
            server: Server::default(),
            output: Output {
                output: Format::Text,
            },
        }
    }

    fn unhealthy(condition: &Condition, sinks: &[SinkPosition]) -> Vec<String> {
        let now = DateTime::from_timestamp(1000, 0).unwrap();
        let findings = findings(condition, sinks, &check(), now);
        let unhealthy = findings.into_iter().filter(|finding| !finding.healthy);
        unhealthy.map(|finding| finding.name).collect()
    }

    fn sink(oldest: i64, dead_letters: u64) -> SinkPosition {
        SinkPosition {
            name: "nats".to_owned(),
            position: 1,
            behind: 1,
            oldest: DateTime::from_timestamp(oldest, 0).map(|at| at.to_rfc3339()),
            dead_letters,
            is_paused: false,
        }
    }

    #[test]
    fn what_is_late_damaged_or_rejected_is_unhealthy() {
        let well = Condition {
            events: 5,
            log_bytes: Some(100),
            ..Condition::default()
        };
        assert!(unhealthy(&well, &[sink(900, 0)]).is_empty());
        assert_eq!(unhealthy(&well, &[sink(100, 0)]), ["sink nats"]);
        assert_eq!(unhealthy(&well, &[sink(900, 2)]), ["dead letters of nats"]);
        let ill = Condition {
            damage: Some("a page".to_owned()),
            log_bytes: Some(MAX_LOG_BYTES + 1),
            held: 1,
            oldest_held: Some("1970-01-01T00:00:00Z".to_owned()),
            ..well
        };
        let names = unhealthy(&ill, &[]);
        assert_eq!(names, ["structure", "log", "held for the server's word"]);
    }
}

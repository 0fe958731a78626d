//! `eventstore export`: events as files for other programs.

use super::{
    arguments::{Arguments, Export, ExportFormat},
    failure::Failure,
    load,
    model::Builder,
    redact,
    screen::{Progress, wrote},
    trace,
};
use crate::{event::StoredEvent, reader::EventQuery};
use futures_util::TryStreamExt as _;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// The columns of CSV, as the SQLite file has them.
const COLUMNS: [&str; 13] = [
    "position",
    "event_id",
    "event_type",
    "event_name",
    "workflow_type",
    "workflow_id",
    "workflow_run_id",
    "workflow_state",
    "activity_type",
    "activity_id",
    "attempt",
    "created_at",
    "event",
];

pub(super) async fn run(arguments: &Arguments, export: &Export) -> Result<(), Failure> {
    let reader = load::open(arguments).await?;
    let newest = reader.newest().await?;
    let mut query = EventQuery::new()
        .after(export.after)
        .up_to(newest)
        .limit(load::PAGE);
    if let Some(id) = &export.workflow {
        query = query.workflow_id(id);
    }
    if let Some(list) = &export.only {
        query = query.only(list)?;
    }
    if let Some(since) = export.since {
        query = query.since(since.0);
    }
    let mut events = std::pin::pin!(reader.stream(query));
    let bar = Progress::new("exporting", newest);
    // Nothing is written where nothing is found: a file that is there stays as it is.
    let mut next = events.try_next().await?;
    if next.is_none() {
        return Err(Failure::nothing_found(
            format!("{} has no such event", reader.url()),
            "leave out a condition, or ask for an earlier time with --since",
        ));
    }
    let mut writer = Writer::new(export.format, place(export.output.as_deref())?)?;
    let mut count = 0;
    while let Some(event) = next {
        bar.set(event.position);
        writer.write(&redact::event(event, arguments.redact)?)?;
        count += 1;
        next = events.try_next().await?;
    }
    writer.finish()?;
    bar.end();
    if let Some(path) = &export.output {
        wrote(&format!("{} in", super::words::count(count, "event")), path);
    }
    Ok(())
}

/// Where it goes.
pub(super) fn place(path: Option<&Path>) -> Result<Box<dyn Write>, Failure> {
    Ok(match path {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) => Box::new(BufWriter::new(create(path)?)),
    })
}

/// Creates a file that only its owner can read: events may be private.
pub(super) fn create(path: &Path) -> Result<File, Failure> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| {
        Failure::error(
            format!("{} cannot be written: {error}", path.display()),
            "name another file with -o",
        )
    })
}

enum Writer {
    Lines(Box<dyn Write>),
    CloudEvents(Box<dyn Write>),
    Csv(Box<csv::Writer<Box<dyn Write>>>),
    Trace(Box<dyn Write>, Box<Builder>),
}

impl Writer {
    fn new(format: ExportFormat, out: Box<dyn Write>) -> Result<Self, Failure> {
        Ok(match format {
            ExportFormat::Jsonl => Self::Lines(out),
            ExportFormat::Cloudevents => Self::CloudEvents(out),
            ExportFormat::Trace => Self::Trace(out, Box::default()),
            ExportFormat::Csv => {
                let mut out = csv::Writer::from_writer(out);
                out.write_record(COLUMNS).map_err(of_csv)?;
                Self::Csv(Box::new(out))
            }
        })
    }

    fn write(&mut self, stored: &StoredEvent) -> Result<(), Failure> {
        match self {
            Self::Lines(out) => writeln!(out, "{}", stored.json)?,
            Self::CloudEvents(out) => {
                writeln!(out, "{}", stored.event()?.to_cloud_event()?.to_json()?)?;
            }
            Self::Csv(out) => {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                let record = [
                    stored.position.to_string(),
                    stored.event_id.to_string(),
                    stored.event_type.clone(),
                    stored.event_name.clone(),
                    text(&stored.workflow_type),
                    text(&stored.workflow_id),
                    text(&stored.workflow_run_id),
                    text(&stored.workflow_state),
                    text(&stored.activity_type),
                    text(&stored.activity_id),
                    stored.attempt.map(|it| it.to_string()).unwrap_or_default(),
                    stored.created_at.clone(),
                    stored.json.clone(),
                ];
                out.write_record(record).map_err(of_csv)?;
            }
            Self::Trace(_, builder) => builder.add(stored)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Lines(mut out) | Self::CloudEvents(mut out) => out.flush()?,
            Self::Csv(mut out) => out.flush()?,
            Self::Trace(mut out, builder) => {
                serde_json::to_writer(
                    &mut out,
                    &trace::trace(&builder.finish(), chrono::Utc::now()),
                )?;
                out.write_all(b"\n")?;
                out.flush()?;
            }
        }
        Ok(())
    }
}

fn of_csv(error: csv::Error) -> Failure {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        _ => Failure::error(text, ""),
    }
}

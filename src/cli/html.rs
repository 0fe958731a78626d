//! `eventstore html`: a timeline in one file.

use super::{
    arguments::{Arguments, Html},
    export::create,
    failure::Failure,
    load,
    page::{Heading, page},
    screen::{Screen, note, wrote},
    words,
};
use crate::reader::EventQuery;
use std::{io::Write as _, path::Path, process::Stdio};

pub(super) async fn run(
    arguments: &Arguments,
    html: &Html,
    _screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open(arguments).await?;
    let newest = reader.newest().await?;
    let after = newest.saturating_sub(html.limit as u64);
    let mut title = "All workflows".to_owned();
    let model = match &html.workflow_id {
        Some(id) => {
            title.clone_from(id);
            load::family(&reader, id, arguments.redact).await?
        }
        None => {
            let mut query = EventQuery::new().after(after);
            if let Some(since) = html.since {
                title = format!("Since {}", words::time(since.0));
                query = query.since(since.0);
            }
            if after > 0 {
                note(&format!(
                    "only the newest {} positions; -n takes more",
                    html.limit
                ));
            }
            load::model(&reader, query, arguments.redact).await?
        }
    };
    if model.events == 0 {
        return Err(match &html.workflow_id {
            Some(id) => load::no_such_workflow(&reader, id),
            None => Failure::nothing_found(
                format!("{} has no events of that time", reader.url()),
                "ask for an earlier time with --since",
            ),
        });
    }
    let text = page(
        &model,
        &Heading {
            title: &title,
            store: reader.url(),
            now: chrono::Utc::now(),
            redacted: arguments.redact,
        },
    )?;
    let mut file = create(&html.output)?;
    file.write_all(text.as_bytes())?;
    wrote(
        &format!("{} in", words::count(model.events, "event")),
        &html.output,
    );
    if html.open {
        open(&html.output)?;
    }
    Ok(())
}

/// Opens a file with the program that the desktop has for it.
fn open(path: &Path) -> Result<(), Failure> {
    let program = match std::env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    let opened = std::process::Command::new(program)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    opened.map(drop).map_err(|error| {
        Failure::error(
            format!("{program} does not start: {error}"),
            format!("open {} in a browser", path.display()),
        )
    })
}

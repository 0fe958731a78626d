//! The program `eventstore` (feature `cli`): looks into a store, also while workers write to it. `docs/program.md` shows
//! each command. Knows the reader and the format of events; the commands that do a part of a worker's work know the store and
//! the reconciler. Nothing here names Temporal's SDK.
//!
//! Public are [`main`], for the program, and [`timeline`]. The options, the JSON and the exit codes of the program are what
//! a version promises.

mod arguments;
mod check;
mod dead_letters;
mod demo;
mod drain;
mod export;
mod failure;
mod html;
mod list;
mod load;
mod manual;
mod model;
mod opened;
mod page;
#[cfg(feature = "temporal")]
mod reconcile;
mod redact;
mod screen;
mod show;
mod sinks;
mod sql;
mod stats;
mod tail;
mod trace;
mod words;

use crate::reader::{EventQuery, EventReader, ReadError};
use arguments::{Arguments, Command};
use clap::Parser as _;
use failure::Failure;
use screen::Screen;
use std::{process::ExitCode, sync::Arc};
use tracing_subscriber::filter::LevelFilter;

/// Runs the program with the arguments of this process, and returns its exit code: 0 if all is well, 1 after an error,
/// 2 if the arguments make no sense, 3 if nothing was found, 4 if `check` found something unhealthy.
pub fn main() -> ExitCode {
    // Prints help and mistakes itself, the latter with exit code 2.
    let arguments = Arguments::parse();
    arguments.color.write_global();
    log_to_stderr(arguments.verbose);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(Failure::from(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Returns the timeline of a whole store as a page, which `eventstore html` writes into a file: HTML that needs no network.
/// `url` is one that [`EventReader::open`] takes. Must be called within a tokio runtime. All events are in memory
/// meanwhile.
///
/// # Errors
/// As for [`EventReader::read`].
pub async fn timeline(url: &str) -> Result<String, ReadError> {
    let reader = EventReader::open(url).await?;
    let model = load::model(&reader, EventQuery::new(), false).await?;
    let heading = page::Heading {
        title: "All workflows",
        store: reader.url(),
        now: chrono::Utc::now(),
        redacted: false,
    };
    page::page(&model, &heading).map_err(|error| ReadError::Failed {
        url: reader.url().to_owned(),
        reason: error.to_string(),
        source: Some(Arc::new(error)),
    })
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut screen = Screen::new();
    let screen = &mut screen;
    match &arguments.command {
        Command::Ls(list) => list::run(arguments, list, screen).await,
        Command::Show(show) => show::run(arguments, show, screen).await,
        Command::Tail(tail) => tail::run(arguments, tail, screen).await,
        Command::Stats(stats) => stats::run(arguments, stats, screen).await,
        Command::Sql(sql) => sql::run(arguments, sql, screen).await,
        Command::Export(export) => export::run(arguments, export).await,
        Command::Html(html) => html::run(arguments, html, screen).await,
        Command::Sinks(sinks) => sinks::run(arguments, sinks, screen).await,
        Command::DeadLetters(letters) => dead_letters::run(arguments, letters, screen).await,
        Command::Check(check) => check::run(arguments, check, screen).await,
        Command::Drain(drain) => drain::run(arguments, drain, screen).await,
        #[cfg(feature = "temporal")]
        Command::Reconcile(reconcile) => reconcile::run(arguments, reconcile, screen).await,
        #[cfg(not(feature = "temporal"))]
        Command::Reconcile(_) => Err(Failure::usage(
            "this build of the program does not speak to Temporal servers",
            "install it with the feature `temporal`: cargo install temporal-eventstore --features cli",
        )),
        Command::Demo(demo) => demo::run(demo, screen).await,
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { directory } => manual::man(directory.as_deref()),
    }
}

/// Logs go to standard error, so that standard output has nothing but what was asked for.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::ERROR,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // Fails only where somebody has set another one, who then has the logs.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .try_init()
        .ok();
}

//! What the program can be told, as clap reads it. What the commands do is elsewhere.

use super::{failure::Failure, model::Time};
use chrono::{DateTime, Datelike as _, Utc};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::{path::PathBuf, time::Duration};

/// Looks into a store of Temporal lifecycle events, also while workers write to it.
#[derive(Debug, Parser)]
#[command(
    name = "eventstore",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 nothing found, 4 unhealthy.\n\
                  To try everything without a server: eventstore demo"
)]
pub(super) struct Arguments {
    /// The store: sqlite:PATH, the path of such a file, or postgres://user:password@host/database?table=events
    ///
    /// Without it, the first such URL in EVENTSTORE_URL, or else the file that EVENTSTORE_JOURNAL names.
    #[arg(long, value_name = "URL", global = true, value_hint = ValueHint::FilePath)]
    pub(super) store: Option<String>,

    /// Mask what events say: their data, fields of applications, and messages of errors
    #[arg(long, global = true)]
    pub(super) redact: bool,

    /// When to use colors; NO_COLOR switches them off, too
    #[arg(long, value_enum, default_value_t, global = true, value_name = "WHEN")]
    pub(super) color: Color,

    /// Log to standard error; twice for more
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(super) verbose: u8,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List runs of workflows, the newest last
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show a workflow's run as a tree: children, attempts, retries, waits, errors
    Show(Show),
    /// Print events as they are stored
    Tail(Tail),
    /// Count runs and attempts, with failure rates and p50, p95, p99 of durations
    Stats(Stats),
    /// Ask the store in SQL; nothing can be changed
    Sql(Sql),
    /// Write events as JSON lines, CSV, CloudEvents, or a trace for Chrome and Perfetto
    Export(Export),
    /// Write a timeline to look at in a browser: one file, which needs no network
    Html(Html),
    /// Show how far each sink has come
    Sinks(Sinks),
    /// Look at, send again, export and delete events that sinks rejected
    DeadLetters(DeadLetters),
    /// Check the store; exits with 4 if something is unhealthy
    Check(Check),
    /// Deliver what waits in a journal to its sinks, without a worker
    Drain(Drain),
    /// Add what is missing from the histories of a Temporal server, without a worker
    Reconcile(Reconcile),
    /// Make a sample store, without a server, to try everything with
    Demo(Demo),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Where to write them
        #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
}

/// When to use colors.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Says so to everything that prints.
    pub(super) fn write_global(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Output {
    /// How to print: text is a table on a terminal, and lines with tabs elsewhere
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only workflows of this type
    #[arg(long = "type", value_name = "NAME")]
    pub(super) workflow_type: Option<String>,
    /// Only runs in this state: running, completed, failed, cancelled, timed_out, terminated, continued_as_new
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(super) state: Option<super::model::Outcome>,
    /// Only runs that started or ended since then: 1h, 2days, or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) since: Option<Moment>,
    /// Only runs that failed, timed out, or were terminated
    #[arg(long)]
    pub(super) failed: bool,
    /// Only runs that have not ended
    #[arg(long, conflicts_with = "failed")]
    pub(super) open: bool,
    /// Only runs that took, or have been running for, longer than this: with --open, what runs too long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) older_than: Option<Duration>,
    /// At most so many, the newest; on a terminal 100, elsewhere all
    #[arg(short = 'n', long, value_name = "RUNS")]
    pub(super) limit: Option<usize>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The workflow
    pub(super) workflow_id: String,
    /// The run, or the beginning of its id; `all` for every run. Without it, the newest
    #[arg(long, value_name = "RUN_ID")]
    pub(super) run: Option<String>,
    /// Go on with what happens until the run ends
    #[arg(short, long)]
    pub(super) follow: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Tail {
    /// Only these events: lifecycle, user, names, types, and beginnings followed by *
    #[arg(long, value_name = "LIST")]
    pub(super) only: Option<String>,
    /// Only events of this workflow
    #[arg(long, value_name = "WORKFLOW_ID")]
    pub(super) workflow: Option<String>,
    /// Where to begin: `start`, a position, 1h, or an RFC 3339 time. Without it, what is stored from now on
    #[arg(long, value_name = "WHERE", value_parser = beginning)]
    pub(super) from: Option<Beginning>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "EVENTS")]
    pub(super) limit: Option<usize>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Only events since then: 1h, 2days, or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) since: Option<Moment>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Sql {
    /// One statement, such as "SELECT workflow_state, COUNT(*) FROM events GROUP BY 1"
    pub(super) statement: String,
    /// At most so many rows
    #[arg(short = 'n', long, value_name = "ROWS", default_value_t = usize::MAX, hide_default_value = true)]
    pub(super) limit: usize,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportFormat {
    /// The events as they are stored, one a line
    Jsonl,
    /// The columns, with the event as JSON in the last
    Csv,
    /// CloudEvents 1.0, one a line
    Cloudevents,
    /// A trace for chrome://tracing and ui.perfetto.dev
    Trace,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// What to write
    #[arg(long, value_enum, default_value = "jsonl")]
    pub(super) format: ExportFormat,
    /// Only events of this workflow
    #[arg(long, value_name = "WORKFLOW_ID")]
    pub(super) workflow: Option<String>,
    /// Only these events: lifecycle, user, names, types, and beginnings followed by *
    #[arg(long, value_name = "LIST")]
    pub(super) only: Option<String>,
    /// Only events since then: 1h, 2days, or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) since: Option<Moment>,
    /// Only events behind this position
    #[arg(
        long,
        value_name = "POSITION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(super) after: u64,
    /// The file to write; without it, standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Html {
    /// The workflow; with its children. Without it, all workflows
    pub(super) workflow_id: Option<String>,
    /// Only events since then: 1h, 2days, or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) since: Option<Moment>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "timeline.html", value_hint = ValueHint::FilePath)]
    pub(super) output: PathBuf,
    /// At most so many events, the newest
    #[arg(short = 'n', long, value_name = "EVENTS", default_value_t = 200_000)]
    pub(super) limit: usize,
    /// Open it in the browser
    #[arg(long)]
    pub(super) open: bool,
}

#[derive(Debug, Args)]
pub(super) struct Sinks {
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    pub(super) command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List them
    List {
        /// Only of this sink
        #[arg(long)]
        sink: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show one as a whole
    Show {
        /// Its position, as the list has it
        position: u64,
        /// Only of this sink
        #[arg(long)]
        sink: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Send them to their sinks again, from a file that no worker has open; what is taken is no dead letter any more
    Send {
        /// The positions, as the list has them
        #[arg(required_unless_present = "all")]
        positions: Vec<u64>,
        /// All of them, or all of a sink
        #[arg(long, conflicts_with = "positions")]
        all: bool,
        /// Only of this sink
        #[arg(long)]
        sink: Option<String>,
        #[command(flatten)]
        sinks: SinkUrls,
    },
    /// Delete them for good, from the store's file
    Delete {
        /// The positions, as the list has them
        #[arg(required_unless_present = "all")]
        positions: Vec<u64>,
        /// All of them, or all of a sink
        #[arg(long, conflicts_with = "positions")]
        all: bool,
        /// Only of this sink
        #[arg(long)]
        sink: Option<String>,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Write them as JSON lines, each with its sink, position, reason and event
    Export {
        /// Only of this sink
        #[arg(long)]
        sink: Option<String>,
        /// The file to write; without it, standard output
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Read the whole file to find damage
    #[arg(long)]
    pub(super) thorough: bool,
    /// How old the oldest event may be that a sink does not have, and the oldest end that waits for the server's word
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(super) max_lag: Duration,
    /// Ask the sinks and the Temporal server whether they can be reached, too
    #[arg(long)]
    pub(super) connect: bool,
    #[command(flatten)]
    pub(super) sinks: SinkUrls,
    #[command(flatten)]
    pub(super) server: Server,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Where a journal's events are delivered to.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct SinkUrls {
    /// A sink, as EVENTSTORE_URL names it for the worker; several with several options. Without it, those of EVENTSTORE_URL
    #[arg(long, value_name = "URL")]
    pub(super) to: Vec<String>,
}

/// Which Temporal server. Without these, what TEMPORAL_ADDRESS and its like say, or Temporal's configuration file.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Server {
    /// The Temporal server, such as 127.0.0.1:7233
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) address: Option<String>,
    /// The namespace
    #[arg(long)]
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    pub(super) sinks: SinkUrls,
    /// Deliver everything also to a sink that this journal never delivered to
    #[arg(long)]
    pub(super) new: bool,
    /// How long to wait for the sinks
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Reconcile {
    #[command(flatten)]
    pub(super) server: Server,
    /// Only workflows of this task queue
    #[arg(long, value_name = "NAME")]
    pub(super) task_queue: Option<String>,
    /// Only workflows that this visibility query finds, such as "WorkflowType = 'Order'"
    #[arg(long, value_name = "QUERY")]
    pub(super) filter: Option<String>,
    /// Look at everything that closed since then, 7days or an RFC 3339 time, and not only since the last time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) since: Option<Moment>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The file to make
    #[arg(default_value = "eventstore-demo.db", value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
    /// About how many events
    #[arg(long, value_name = "EVENTS", default_value_t = 400)]
    pub(super) events: usize,
    /// Another sample for each number
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Replace the file, if it was made by this command
    #[arg(long)]
    pub(super) force: bool,
}

/// A point in time, given as such or as an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(pub(super) Time);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    After(u64),
    Since(Time),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        let time = chrono::TimeDelta::from_std(age)
            .ok()
            .and_then(|age| Utc::now().checked_sub_signed(age))
            // RFC 3339, in which stores are asked, has no earlier years, and PostgreSQL no year 0.
            .filter(|time| time.year() >= 1);
        return time.map(Moment).ok_or("it is too long ago".to_owned());
    }
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| Moment(time.with_timezone(&Utc)))
        .map_err(|_| {
            "give an age such as 90s, 1h or 2days, or a time such as 2026-11-23T07:30:00Z"
                .to_owned()
        })
}

fn beginning(text: &str) -> Result<Beginning, String> {
    if text == "start" {
        return Ok(Beginning::After(0));
    }
    if let Ok(position) = text.parse() {
        return Ok(Beginning::After(position));
    }
    moment(text).map(|Moment(time)| Beginning::Since(time))
}

fn state(text: &str) -> Result<super::model::Outcome, String> {
    use super::model::Outcome;
    let known = Outcome::ALL.into_iter().find(|it| it.as_str() == text);
    known.ok_or_else(|| {
        let names: Vec<&str> = Outcome::ALL.iter().map(|it| it.as_str()).collect();
        format!("the states are {}", names.join(", "))
    })
}

impl Arguments {
    /// Returns the URL of the store.
    pub(super) fn url(&self) -> Result<String, Failure> {
        self.first_of(&["sqlite", "postgres", "postgresql"])
    }

    /// Returns the URL of the journal; of a table that events are delivered to only if no journal is named.
    pub(super) fn journal_url(&self) -> Result<String, Failure> {
        self.first_of(&["sqlite"]).or_else(|_| self.url())
    }

    /// Returns the URL of the store that was named, or of the first in the environment with one of these schemes.
    fn first_of(&self, schemes: &[&str]) -> Result<String, Failure> {
        if let Some(store) = &self.store {
            return Ok(with_scheme(store));
        }
        let variable = |name| {
            std::env::var(name)
                .ok()
                .filter(|text| !text.trim().is_empty())
        };
        let list = variable("EVENTSTORE_URL").unwrap_or_default();
        let can_be_read = |url: &&str| {
            let scheme = url.split_once(':').map(|(scheme, _)| scheme);
            scheme.is_some_and(|scheme| schemes.contains(&scheme))
        };
        if let Some(url) = crate::store::split_urls(&list)
            .into_iter()
            .find(can_be_read)
        {
            return Ok(url.to_owned());
        }
        if let Some(journal) = variable("EVENTSTORE_JOURNAL") {
            return Ok(format!("sqlite:{journal}"));
        }
        Err(Failure::usage(
            "no store is named",
            "give --store sqlite:events.db or set EVENTSTORE_URL; `eventstore demo` makes a store to try",
        ))
    }
}

/// Takes the path of a file for what it is. What may contain a password is no path: paths are shown.
pub(super) fn with_scheme(store: &str) -> String {
    let has_scheme = store.split_once(':').is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.chars().all(|it| it.is_ascii_alphanumeric())
    });
    let may_have_user = store.contains('@') && !store.starts_with(['/', '.']);
    let is_url = has_scheme || store.contains("://") || may_have_user;
    match is_url {
        true => store.to_owned(),
        false => format!("sqlite:{store}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_make_sense() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_path_is_a_store() {
        assert_eq!(with_scheme("events.db"), "sqlite:events.db");
        assert_eq!(with_scheme("/a/b:c.db"), "sqlite:/a/b:c.db");
        assert_eq!(with_scheme("sqlite:a.db"), "sqlite:a.db");
        assert_eq!(with_scheme("postgres://h/d"), "postgres://h/d");
        assert_eq!(with_scheme("./a@b.db"), "sqlite:./a@b.db");
        for url in [
            "postgresql+asyncpg://u:secret@h/d",
            "my_user:secret@h/d",
            "secret@h/d",
        ] {
            assert_eq!(with_scheme(url), url);
        }
    }

    #[test]
    fn an_age_before_all_calendars_is_an_error() {
        for age in ["3000years", "300000years", "500000000000years"] {
            assert!(moment(age).is_err(), "{age}");
        }
    }

    #[test]
    fn a_beginning_is_a_position_a_time_or_an_age() {
        assert_eq!(beginning("start"), Ok(Beginning::After(0)));
        assert_eq!(beginning("12"), Ok(Beginning::After(12)));
        let Ok(Beginning::Since(time)) = beginning("2026-11-23T07:30:00+01:00") else {
            panic!("no time")
        };
        assert_eq!(time.to_rfc3339(), "2026-11-23T06:30:00+00:00");
        assert!(matches!(beginning("1h"), Ok(Beginning::Since(_))));
        assert!(beginning("yesterday").unwrap_err().contains("2days"));
        assert!(state("done").unwrap_err().contains("timed_out"));
    }
}

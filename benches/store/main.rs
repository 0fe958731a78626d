//! What the store itself costs, without Temporal: publishing, committing, ingesting, reading, recovering,
//! growing, draining, and memory under outages.
//!
//! ```text
//! cargo bench --bench store --features postgres                           # everything, half an hour
//! cargo bench --bench store --features postgres -- publish awaited        # some of it
//! cargo bench --bench store --features postgres -- --scale 0.01           # a first look
//! cargo bench --bench store --features postgres -- growth growth-postgres --large --svg docs/growth.svg
//! ```
//!
//! Needs Linux: CPU time and memory are read from `/proc`. docs/benchmarks.md says what each figure is.

mod allocations;
mod drain;
mod events;
#[path = "../support/figures.rs"]
mod figures;
mod growth;
mod ingest;
mod outage;
mod plot;
#[cfg(feature = "postgres")]
mod postgres;
#[path = "../support/process.rs"]
mod process;
mod publish;
mod recovery;
#[cfg(feature = "postgres")]
#[path = "../../tests/it/support/servers.rs"]
mod servers;

use clap::{Parser, ValueEnum};
use growth::Growth;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

#[derive(Parser)]
struct Arguments {
    /// What to measure. All by default.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// How much of it, against the full size.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Growth up to 10 million rows: 25 GB in the directory for temporary files, and an hour.
    #[arg(long)]
    large: bool,
    /// Draw growth into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// What a child process of this program does instead.
    #[arg(long, hide = true, value_enum)]
    child: Option<Child>,
    /// The file that it works on.
    #[arg(long, hide = true, default_value = ".")]
    path: PathBuf,
    /// How many events it publishes.
    #[arg(long, hide = true, default_value_t = 0)]
    count: usize,
    /// How large each is.
    #[arg(long, hide = true, default_value_t = 0)]
    bytes: usize,
    /// Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Section {
    /// `publish` without awaiting it.
    Publish,
    /// `publish`, awaited one after the other.
    Awaited,
    /// What a workflow task or an activity's end waits for.
    Commit,
    /// Events of 500 bytes, until they are in the log, and in the store.
    Ingest,
    /// Reading stored events.
    Read,
    /// Opening a store whose log holds what a killed process left.
    Recovery,
    /// What an event costs in a small and in a large SQLite file.
    Growth,
    /// The same in PostgreSQL.
    GrowthPostgres,
    /// A backlog that a sink takes as fast as it is handed over.
    Backlog,
    /// Memory while a sink or the disk is away.
    Outage,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Child {
    /// Leaves a log that is not fed, and waits to be killed.
    LeaveLog,
    /// Publishes to a sink that is away.
    SinkOutage,
    /// Publishes to a file that cannot be written.
    DiskOutage,
}

/// How many of something: the full number, scaled, and as many as say anything.
struct Scale(f64);

impl Scale {
    fn of(&self, full: usize, least: usize) -> usize {
        ((full as f64 * self.0) as usize).max(least)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A task, as the programs that publish are made of: who runs outside of the runtime's threads wakes
    // them for each answer.
    tokio::spawn(run(Arguments::parse())).await?
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let scale = Scale(arguments.scale);
    match arguments.child {
        Some(Child::LeaveLog) => {
            return recovery::leave_log(&arguments.path, arguments.count).await;
        }
        Some(Child::SinkOutage) => {
            return outage::of_sink(&arguments.path, arguments.count, arguments.bytes).await;
        }
        Some(Child::DiskOutage) => {
            return outage::of_disk(&arguments.path, arguments.count, arguments.bytes).await;
        }
        None => {}
    }
    let mut sections = arguments.sections.clone();
    if sections.is_empty() {
        sections = Section::value_variants().to_vec();
    }
    sections.sort();
    sections.dedup();
    let mut growths: Vec<Growth> = Vec::new();
    for section in sections {
        let name = section.to_possible_value();
        let name = name.as_ref().map_or("", |name| name.get_name());
        println!("## {name} (load {})\n", process::load());
        match section {
            Section::Publish => publish::not_awaited(&scale).await?,
            Section::Awaited => publish::awaited(&scale).await?,
            Section::Commit => publish::commit(&scale).await?,
            Section::Ingest => ingest::ingest(&scale).await?,
            Section::Read => ingest::read(&scale).await?,
            Section::Recovery => recovery::recover(&scale).await?,
            Section::Growth => growths.push(growth::sqlite(&scale, arguments.large).await?),
            Section::GrowthPostgres => {
                growths.extend(growth_postgres(&scale, arguments.large).await?);
            }
            Section::Backlog => drain::backlog(&scale).await?,
            Section::Outage => outage::measure(&scale)?,
        }
        println!();
    }
    if let Some(path) = arguments.svg
        && !growths.is_empty()
    {
        std::fs::write(path, plot::draw(&growths))?;
    }
    Ok(())
}

#[cfg(feature = "postgres")]
async fn growth_postgres(scale: &Scale, large: bool) -> anyhow::Result<Option<Growth>> {
    postgres::growth(scale, large).await
}

#[cfg(not(feature = "postgres"))]
async fn growth_postgres(_scale: &Scale, _large: bool) -> anyhow::Result<Option<Growth>> {
    println!("no figures: built without `--features postgres`");
    Ok(None)
}

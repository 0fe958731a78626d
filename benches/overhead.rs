//! What the plugin costs, against the same worker without it: the example worker runs in each mode in turn
//! on one Temporal dev server, and the ratios are those of a mode's round to the round of the bare worker
//! beside it.
//!
//! ```text
//! cargo build --release --example worker --example starter --features postgres
//! cargo bench --bench overhead --features postgres                    # half an hour
//! cargo bench --bench overhead --features postgres -- --rounds 1 --load 100 --paced 5
//! cargo bench --bench overhead --features postgres -- --modes bare,sqlite --strace 200
//! ```
//!
//! Needs Linux: CPU time and context switches are read from `/proc`.

#[path = "../examples/support/dev_server.rs"]
mod dev_server;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/process.rs"]
mod process;
#[path = "../tests/it/support/servers.rs"]
mod servers;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use dev_server::DevServer;
use figures::Spread;
use process::{Spent, Usage};
use serde_json::Value;
use servers::{DATABASE, PASSWORD_IN_URL, Server, USER};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

#[derive(Parser)]
struct Arguments {
    /// How often each mode is measured.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Workflows in one round's load.
    #[arg(long, default_value_t = 400)]
    load: usize,
    /// Workflows in one round's latency measurement, 0.3 s apart.
    #[arg(long, default_value_t = 20)]
    paced: usize,
    /// What to measure, with commas between; `bare` is measured in any case. All by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Mode>,
    /// Afterwards, count the system calls of so many workflows in each mode with the program `strace`, which
    /// slows the worker down.
    #[arg(long, value_name = "WORKFLOWS", default_value_t = 0)]
    strace: usize,
    /// Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Mode {
    /// Without the plugin.
    Bare,
    /// With the plugin, and no store configured.
    Off,
    /// `memory:`
    Memory,
    /// `sqlite:`
    Sqlite,
    /// `sqlite:` with `EVENTSTORE_DURABILITY=power`.
    Power,
    /// `postgres://` with a journal.
    Postgres,
}

impl Mode {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// One worker's round.
struct Round {
    worker: Spent,
    server_cpu_ms: f64,
    seconds: f64,
    p50_ms: f64,
    workflows: f64,
}

impl Round {
    fn cpu_ms(&self) -> f64 {
        self.worker.cpu_ms / self.workflows
    }
    fn server_cpu_ms(&self) -> f64 {
        self.server_cpu_ms / self.workflows
    }
    fn per_second(&self) -> f64 {
        self.workflows / self.seconds
    }
    fn p50_ms(&self) -> f64 {
        self.p50_ms
    }
    fn sleeps(&self) -> f64 {
        self.worker.sleeps / self.workflows
    }
    fn reads_and_writes(&self) -> f64 {
        self.worker.reads_and_writes / self.workflows
    }
}

type Figure = fn(&Round) -> f64;

const FIGURES: [(&str, Figure); 6] = [
    ("worker CPU per workflow, ms", Round::cpu_ms),
    ("server CPU per workflow, ms", Round::server_cpu_ms),
    ("workflows per second, 50 at once", Round::per_second),
    ("p50 latency paced, ms", Round::p50_ms),
    ("sleeps of the worker's threads per workflow", Round::sleeps),
    (
        "reads and writes (no sockets) per workflow",
        Round::reads_and_writes,
    ),
];

/// What the workers talk to.
struct Ground {
    temporal: DevServer,
    postgres: Option<Server>,
}

/// A running worker, and where it stores.
struct Worker {
    process: Child,
    queue: String,
    _directory: tempfile::TempDir,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    for name in ["worker", "starter"] {
        anyhow::ensure!(
            example(name).is_file(),
            "{} is missing; run `cargo build --release --example worker --example starter --features \
             postgres`",
            example(name).display()
        );
    }
    let mut modes: BTreeSet<Mode> = match arguments.modes.as_slice() {
        [] => Mode::value_variants().iter().copied().collect(),
        some => some.iter().copied().collect(),
    };
    modes.insert(Mode::Bare);
    let mut postgres = None;
    if modes.contains(&Mode::Postgres) {
        match Server::try_postgres() {
            Ok(server) => postgres = Some(server),
            Err(error) => {
                println!("no figures for postgres: {error:#}\n");
                modes.remove(&Mode::Postgres);
            }
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let ground = Ground {
        temporal: runtime.block_on(DevServer::start())?,
        postgres,
    };
    if modes.contains(&Mode::Postgres)
        && let Err(error) = ground.worker(Mode::Postgres, "probe")
    {
        println!(
            "no figures for postgres, perhaps since the examples were built without `--features \
             postgres`: {error:#}\n"
        );
        modes.remove(&Mode::Postgres);
    }
    let modes: Vec<Mode> = modes.into_iter().collect();
    println!("load at the beginning: {}", process::load());
    let mut rounds: BTreeMap<Mode, Vec<Round>> = BTreeMap::new();
    // One round of each that does not count: the server's caches and this machine warm up.
    for number in 0..=arguments.rounds {
        // Each round begins with another mode, so that no mode always has the same neighbour.
        for index in 0..modes.len() {
            let mode = modes[(index + number) % modes.len()];
            let round = ground.measure(&arguments, mode, number)?;
            eprintln!(
                "round {number} {:8} {:.2} ms CPU, server {:.2} ms, {:.1}/s, p50 {:.1} ms, {:.1} sleeps",
                mode.name(),
                round.cpu_ms(),
                round.server_cpu_ms(),
                round.per_second(),
                round.p50_ms(),
                round.sleeps(),
            );
            if number > 0 {
                rounds.entry(mode).or_default().push(round);
            }
        }
    }
    println!("load at the end: {}\n", process::load());
    print_figures(&rounds);
    print_threads(&rounds);
    if arguments.strace > 0 {
        print_system_calls(&ground, &modes, arguments.strace)?;
    }
    Ok(())
}

/// Medians over the rounds with the quartiles around them, and so the ratios.
fn print_figures(rounds: &BTreeMap<Mode, Vec<Round>>) {
    let Some(bare) = rounds.get(&Mode::Bare) else {
        return;
    };
    for (name, figure) in FIGURES {
        println!("| {name} | median (quartiles) | against bare |");
        println!("|---|---|---|");
        for (mode, of) in rounds {
            let ratios = bare
                .iter()
                .zip(of)
                .map(|(bare, round)| figure(round) / figure(bare));
            println!(
                "| {} | {} | {:.3} |",
                mode.name(),
                Spread::of(of.iter().map(figure)),
                Spread::of(ratios)
            );
        }
        println!();
    }
}

fn print_threads(rounds: &BTreeMap<Mode, Vec<Round>>) {
    let names: BTreeSet<&String> = rounds
        .values()
        .flatten()
        .flat_map(|round| round.worker.cpu_ms_by_thread.keys())
        .collect();
    print!("| CPU per workflow by thread, µs |");
    for mode in rounds.keys() {
        print!(" {} |", mode.name());
    }
    println!("\n|---|{}", "---|".repeat(rounds.len()));
    for name in names {
        print!("| {name} |");
        for of in rounds.values() {
            let figures = of.iter().map(|round| {
                let by_thread = &round.worker.cpu_ms_by_thread;
                by_thread.get(name).copied().unwrap_or_default() * 1000.0 / round.workflows
            });
            print!(" {:.0} |", Spread::of(figures).median);
        }
        println!();
    }
    println!();
}

fn print_system_calls(ground: &Ground, modes: &[Mode], count: usize) -> anyhow::Result<()> {
    let mut counted: Vec<BTreeMap<String, f64>> = Vec::new();
    for mode in modes {
        counted.push(ground.system_calls(*mode, count)?);
    }
    let names: BTreeSet<&String> = counted.iter().flat_map(BTreeMap::keys).collect();
    print!("| system calls per workflow |");
    for mode in modes {
        print!(" {} |", mode.name());
    }
    println!("\n|---|{}", "---|".repeat(modes.len()));
    for name in names {
        let figures = counted
            .iter()
            .map(|calls| calls.get(name).copied().unwrap_or_default() / count as f64);
        let figures: Vec<f64> = figures.collect();
        // What is rare says nothing.
        if figures.iter().any(|figure| *figure >= 0.05) {
            print!("| {name} |");
            for figure in figures {
                print!(" {figure:.2} |");
            }
            println!();
        }
    }
    Ok(())
}

impl Ground {
    fn measure(&self, arguments: &Arguments, mode: Mode, number: usize) -> anyhow::Result<Round> {
        let worker = self.worker(mode, &number.to_string())?;
        let (pid, server) = (worker.process.id(), self.temporal.id());
        self.start(&worker, "warm-up", 50, &["--concurrency", "10"])?;
        let before = (Usage::of(pid)?, Usage::of(server)?);
        let load = self.start(&worker, "load", arguments.load, &["--concurrency", "50"])?;
        let after = (Usage::of(pid)?, Usage::of(server)?);
        let paced = self.start(&worker, "paced", arguments.paced, &["--pace-ms", "300"])?;
        Ok(Round {
            worker: after.0.since(&before.0),
            server_cpu_ms: after.1.since(&before.1).cpu_ms,
            seconds: load["seconds"].as_f64().unwrap_or(f64::NAN),
            p50_ms: paced["p50_ms"].as_f64().unwrap_or(f64::NAN),
            workflows: arguments.load as f64,
        })
    }

    /// A worker that polls.
    fn worker(&self, mode: Mode, name: &str) -> anyhow::Result<Worker> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("events.db");
        let queue = format!("queue-{name}-{}", mode.name());
        let mut command = Command::new(example("worker"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("EVENTSTORE_") {
                command.env_remove(variable);
            }
        }
        command
            .env("TEMPORAL_ADDRESS", self.temporal.address())
            .args(["--task-queue", &queue])
            .stdout(Stdio::piped());
        let sqlite = format!("sqlite:{}", file.display());
        match mode {
            Mode::Bare => command.arg("--bare"),
            Mode::Off => &mut command,
            Mode::Memory => command.env("EVENTSTORE_URL", "memory:"),
            Mode::Sqlite => command.env("EVENTSTORE_URL", sqlite),
            Mode::Power => command
                .env("EVENTSTORE_URL", sqlite)
                .env("EVENTSTORE_DURABILITY", "power"),
            Mode::Postgres => {
                let port = self.postgres.as_ref().map_or(0, Server::port);
                let login = format!("{USER}:{PASSWORD_IN_URL}");
                let url = format!("postgres://{login}@127.0.0.1:{port}/{DATABASE}");
                command
                    .env("EVENTSTORE_URL", url)
                    .env("EVENTSTORE_JOURNAL", &file)
            }
        };
        let mut worker = Worker {
            process: command.spawn()?,
            queue,
            _directory: directory,
        };
        let output = worker.process.stdout.take().context("no output")?;
        let mut line = String::new();
        std::io::BufReader::new(output).read_line(&mut line)?;
        anyhow::ensure!(line.trim() == "ready", "the worker does not start");
        Ok(worker)
    }

    /// Starts workflows and waits until they are over.
    fn start(
        &self,
        worker: &Worker,
        name: &str,
        count: usize,
        more: &[&str],
    ) -> anyhow::Result<Value> {
        let output = Command::new(example("starter"))
            .env("TEMPORAL_ADDRESS", self.temporal.address())
            .args(["--task-queue", &worker.queue, "--wait"])
            .args(["--count", &count.to_string()])
            .args(["--id-prefix", &format!("{}-{name}", worker.queue)])
            .args(more)
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "the starter failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The system calls of a worker under load, by name, as `strace` counts them.
    fn system_calls(&self, mode: Mode, count: usize) -> anyhow::Result<BTreeMap<String, f64>> {
        let worker = self.worker(mode, "traced")?;
        self.start(&worker, "warm-up", 50, &["--concurrency", "10"])?;
        let directory = tempfile::tempdir()?;
        let report = directory.path().join("report");
        let mut strace = Command::new("strace")
            .args(["-f", "-c", "-p", &worker.process.id().to_string(), "-o"])
            .arg(&report)
            .stderr(Stdio::null())
            .spawn()
            .context("no program `strace`")?;
        // It says nowhere when it is attached to every thread.
        std::thread::sleep(Duration::from_secs(1));
        let started = self.start(&worker, "traced", count, &["--concurrency", "50"]);
        Command::new("kill")
            .args(["-s", "INT", &strace.id().to_string()])
            .status()?;
        strace.wait()?;
        started?;
        // Lines of: % of the time, seconds, microseconds per call, calls, errors if there are any, name.
        let report = std::fs::read_to_string(&report)?;
        Ok(report
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let calls = fields.get(3)?.parse().ok()?;
                Some(((*fields.last()?).to_owned(), calls))
            })
            .collect())
    }
}

/// An example as cargo built it; built here, inside of cargo, it would be built anew each time.
fn example(name: &str) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
            PathBuf::from,
        )
        .join("release/examples")
        .join(name)
}

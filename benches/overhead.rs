//! What the plugin costs, against the same worker without it: both run the example worker in turn
//! on one Temporal dev server, and the figures are ratios of the same run.
//!
//! ```text
//! cargo build --release --examples
//! cargo bench --bench overhead                  # a few minutes
//! cargo bench --bench overhead -- --rounds 1    # a first look
//! ```
//!
//! Needs Linux: CPU time is read from `/proc`.

#[path = "../examples/support/dev_server.rs"]
mod dev_server;

use clap::Parser;
use dev_server::DevServer;
use serde_json::Value;
use std::{
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

#[derive(Parser)]
struct Arguments {
    /// How often each kind of worker is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Workflows in one round's load.
    #[arg(long, default_value_t = 400)]
    load: usize,
    /// Workflows in one round's latency measurement, 0.3 s apart.
    #[arg(long, default_value_t = 20)]
    paced: usize,
    /// Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One worker's round.
struct Round {
    cpu_ms_per_workflow: f64,
    server_cpu_ms_per_workflow: f64,
    workflows_per_second: f64,
    p50_ms: f64,
}

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    for name in ["worker", "starter"] {
        anyhow::ensure!(
            example(name).is_file(),
            "{} is missing; run `cargo build --release --examples`",
            example(name).display()
        );
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let server = runtime.block_on(DevServer::start())?;
    let mut bare = Vec::new();
    let mut with_plugin = Vec::new();
    // One round of each that does not count: the server's caches and this machine warm up.
    for round in 0..=arguments.rounds {
        for plugin in [false, true] {
            let figures = measure(&server, &arguments, plugin, round)?;
            eprintln!(
                "round {round} {}: {:.2} ms CPU, server {:.2} ms, {:.1}/s, p50 {:.1} ms",
                if plugin { "plugin" } else { "bare  " },
                figures.cpu_ms_per_workflow,
                figures.server_cpu_ms_per_workflow,
                figures.workflows_per_second,
                figures.p50_ms
            );
            if round > 0 {
                if plugin {
                    with_plugin.push(figures);
                } else {
                    bare.push(figures);
                }
            }
        }
    }
    println!("| figure | bare | plugin | ratio |");
    println!("|---|---|---|---|");
    for (name, of) in [
        (
            "worker CPU per workflow, ms",
            (|round| round.cpu_ms_per_workflow) as fn(&Round) -> f64,
        ),
        ("server CPU per workflow, ms", |round| {
            round.server_cpu_ms_per_workflow
        }),
        ("workflows per second, 50 at once", |round| {
            round.workflows_per_second
        }),
        ("p50 latency paced, ms", |round| round.p50_ms),
    ] {
        let ratios = bare
            .iter()
            .zip(&with_plugin)
            .map(|(bare, plugin)| of(plugin) / of(bare))
            .collect();
        println!(
            "| {name} | {:.2} | {:.2} | {:.3} |",
            median(bare.iter().map(of).collect()),
            median(with_plugin.iter().map(of).collect()),
            median(ratios)
        );
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        (figures[middle - 1] + figures[middle]) / 2.0
    }
}

fn measure(
    server: &DevServer,
    arguments: &Arguments,
    plugin: bool,
    round: usize,
) -> anyhow::Result<Round> {
    let directory = tempfile::tempdir()?;
    let queue = format!("queue-{round}-{plugin}");
    let mut command = Command::new(example("worker"));
    command
        .env("TEMPORAL_ADDRESS", server.address())
        .env(
            "EVENTSTORE_URL",
            format!("sqlite:{}", directory.path().join("events.db").display()),
        )
        .args(["--task-queue", &queue])
        .stdout(Stdio::piped());
    if !plugin {
        command.arg("--bare");
    }
    let mut worker = Worker(command.spawn()?);
    if let Some(output) = worker.0.stdout.take() {
        std::io::BufReader::new(output).read_line(&mut String::new())?;
    }
    let start = |name: &str, count: usize, more: &[&str]| -> anyhow::Result<Value> {
        let output = Command::new(example("starter"))
            .env("TEMPORAL_ADDRESS", server.address())
            .args([
                "--task-queue",
                &queue,
                "--wait",
                "--count",
                &count.to_string(),
            ])
            .args(["--id-prefix", &format!("{name}-{round}-{plugin}")])
            .args(more)
            .output()?;
        anyhow::ensure!(output.status.success(), "the starter failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    start("warm-up", 50, &["--concurrency", "10"])?;
    let (worker_before, server_before) = (cpu_ms(worker.0.id())?, cpu_ms(server.id())?);
    let load = start("load", arguments.load, &["--concurrency", "50"])?;
    let (worker_after, server_after) = (cpu_ms(worker.0.id())?, cpu_ms(server.id())?);
    let paced = start("paced", arguments.paced, &["--pace-ms", "300"])?;
    let count = arguments.load as f64;
    Ok(Round {
        cpu_ms_per_workflow: (worker_after - worker_before) / count,
        server_cpu_ms_per_workflow: (server_after - server_before) / count,
        workflows_per_second: count / load["seconds"].as_f64().unwrap_or(f64::NAN),
        p50_ms: paced["p50_ms"].as_f64().unwrap_or(f64::NAN),
    })
}

/// User and system time of a process, in milliseconds.
fn cpu_ms(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in parentheses, may hold spaces.
    let (_, fields) = stat
        .rsplit_once(')')
        .ok_or_else(|| anyhow::anyhow!("no process {pid}"))?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux that cargo runs on.
    Ok(ticks * 10.0)
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

//! Opening a store whose log holds what a killed process had no time to feed.

use crate::{
    Scale,
    events::{self, BYTES, Events, PATIENCE},
    figures::Spread,
    process::Usage,
};
use std::{
    io::BufRead as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

const ROUNDS: usize = 5;

pub async fn recover(scale: &Scale) -> anyhow::Result<()> {
    let frames = scale.of(100_000, 2000);
    let mut seconds = Vec::new();
    let mut cpu = Vec::new();
    let mut log_bytes = 0;
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("events.db");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--child", "leave-log", "--count", &frames.to_string()])
            .arg("--path")
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            std::io::BufReader::new(output).read_line(&mut line)?;
        }
        // SIGKILL.
        child.kill()?;
        child.wait()?;
        anyhow::ensure!(line.trim() == "ready", "the child failed");
        log_bytes = 0;
        for entry in directory.path().read_dir()? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains(".log.") {
                log_bytes += entry.metadata()?.len();
            }
        }
        let before = Usage::of_this_process()?;
        let began = Instant::now();
        let store = events::open(&events::url(&file)).await?;
        seconds.push(began.elapsed().as_secs_f64());
        cpu.push(Usage::of_this_process()?.since(&before).cpu_ms * 1000.0 / frames as f64);
        store.flush(PATIENCE).await?;
        let events = store.stats().journal_events;
        anyhow::ensure!(
            events == frames as u64,
            "{events} events of {frames} are there"
        );
        store.shutdown(PATIENCE).await?;
    }
    println!("| a log of {frames} frames, {log_bytes} bytes | median (quartiles) |");
    println!("|---|---|");
    println!(
        "| opening the store, s | {:.3} |",
        Spread::of(seconds.clone())
    );
    println!(
        "| frames per second | {:.0} |",
        Spread::of(seconds.iter().map(|seconds| frames as f64 / seconds))
    );
    println!("| CPU of a frame, µs | {:.2} |", Spread::of(cpu));
    Ok(())
}

/// In the child: publishes while somebody else has the store's file locked, so that all stays in the log,
/// one frame for each event.
pub async fn leave_log(file: &Path, frames: usize) -> anyhow::Result<()> {
    let mut events = Events::of(BYTES).await?;
    let store = events::open(&events::url(file)).await?;
    let lock = rusqlite::Connection::open(file)?;
    lock.execute_batch("BEGIN IMMEDIATE")?;
    for _ in 0..frames {
        store.publish(events.next()).await?;
    }
    println!("ready");
    // Until it is killed.
    loop {
        std::thread::park();
    }
}

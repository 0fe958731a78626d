//! What an event costs in a small store and in a large one.

use crate::{
    Scale,
    events::{self, BYTES, Events, PATIENCE},
    figures::Spread,
    ingest::THREAD,
    process::Usage,
};

/// How many windows of events are measured at each size.
pub const WINDOWS: usize = 5;

/// What was measured of one store, from size to size.
pub struct Growth {
    pub store: &'static str,
    pub points: Vec<Point>,
}

/// What an event costs behind so many rows.
pub struct Point {
    pub rows: usize,
    pub cpu_us: Spread,
}

/// How many events are measured at once: at every size the same, and more than fill SQLite's WAL once, since
/// emptying it is part of what an event costs.
pub const WINDOW: usize = 5000;

/// Up to how many rows the store is filled before each measurement.
pub fn sizes(scale: &Scale, large: bool) -> Vec<usize> {
    let mut sizes = vec![10_000, 100_000, 1_000_000];
    if large {
        sizes.push(10_000_000);
    }
    let sizes = sizes.into_iter().map(|rows| scale.of(rows, 1000));
    sizes.collect()
}

/// The CPU time of the journal's thread, which encodes, appends and feeds; and the size of the file.
pub async fn sqlite(scale: &Scale, large: bool) -> anyhow::Result<Growth> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events.db");
    let store = events::open(&events::url(&file)).await?;
    let mut events = Events::of(BYTES).await?;
    let mut points: Vec<Point> = Vec::new();
    println!("| rows | CPU of an event, µs | against the first | bytes of the file |");
    println!("|---|---|---|---|");
    let mut there = 0;
    for rows in sizes(scale, large) {
        events::ingest(&store, &mut events, rows.saturating_sub(there)).await?;
        store.flush(PATIENCE).await?;
        there = there.max(rows);
        let mut cpu = Vec::new();
        for _ in 0..WINDOWS {
            let before = Usage::of_this_process()?;
            events::ingest(&store, &mut events, WINDOW).await?;
            store.flush(PATIENCE).await?;
            let spent = Usage::of_this_process()?.since(&before);
            let of_thread = spent.cpu_ms_by_thread.get(THREAD).copied();
            cpu.push(of_thread.unwrap_or_default() * 1000.0 / WINDOW as f64);
            there += WINDOW;
        }
        let cpu_us = Spread::of(cpu);
        let first = points.first().map_or(cpu_us, |point| point.cpu_us);
        println!(
            "| {rows} | {cpu_us:.2} | {:.2} | {:.0} |",
            cpu_us.median / first.median,
            events::file_bytes(&file)? / there as f64,
        );
        points.push(Point { rows, cpu_us });
    }
    store.shutdown(PATIENCE).await?;
    Ok(Growth {
        store: "SQLite",
        points,
    })
}

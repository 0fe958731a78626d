//! How fast events get into the log, into the store, and out of it again.

use crate::{
    Scale,
    events::{self, BYTES, Events, PATIENCE},
    figures::Spread,
    process::Usage,
};
use std::time::Instant;

const ROUNDS: usize = 5;

/// What the journal's thread is called, as far as Linux keeps it.
pub const THREAD: &str = "eventstore-jour";

/// One task publishes as fast as it can.
pub async fn ingest(scale: &Scale) -> anyhow::Result<()> {
    let mut into_log = Vec::new();
    let mut into_store = Vec::new();
    let mut cpu = Vec::new();
    let mut cpu_of_thread = Vec::new();
    let mut file_bytes = Vec::new();
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("events.db");
        let store = events::open(&events::url(&file)).await?;
        let mut events = Events::of(BYTES).await?;
        // So few that the store need not have them meanwhile.
        let burst = scale.of(50_000, 5000);
        let began = Instant::now();
        events::ingest(&store, &mut events, burst).await?;
        into_log.push(burst as f64 / began.elapsed().as_secs_f64());
        store.flush(PATIENCE).await?;

        let many = scale.of(500_000, 10_000);
        let before = Usage::of_this_process()?;
        let began = Instant::now();
        events::ingest(&store, &mut events, many).await?;
        store.flush(PATIENCE).await?;
        into_store.push(many as f64 / began.elapsed().as_secs_f64());
        let spent = Usage::of_this_process()?.since(&before);
        cpu.push(spent.cpu_ms * 1000.0 / many as f64);
        let of_thread = spent.cpu_ms_by_thread.get(THREAD).copied();
        cpu_of_thread.push(of_thread.unwrap_or_default() * 1000.0 / many as f64);
        file_bytes.push(events::file_bytes(&file)? / (burst + many) as f64);
        store.shutdown(PATIENCE).await?;
    }
    println!("| events of {BYTES} bytes | median (quartiles) |");
    println!("|---|---|");
    println!("| per second into the log | {:.0} |", Spread::of(into_log));
    println!(
        "| per second into the store | {:.0} |",
        Spread::of(into_store)
    );
    println!("| CPU of one, µs | {:.2} |", Spread::of(cpu));
    println!(
        "| CPU of the journal's thread, µs | {:.2} |",
        Spread::of(cpu_of_thread)
    );
    println!("| bytes of the file | {:.0} |", Spread::of(file_bytes));
    Ok(())
}

/// From the first event to the last, with different limits.
pub async fn read(scale: &Scale) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let store = events::open(&events::url(&directory.path().join("events.db"))).await?;
    let mut events = Events::of(BYTES).await?;
    let many = scale.of(200_000, 5000);
    events::ingest(&store, &mut events, many).await?;
    store.flush(PATIENCE).await?;
    println!("| at once | events per second |");
    println!("|---|---|");
    for limit in [1, 512, 10_000] {
        let mut speeds = Vec::new();
        for _ in 0..ROUNDS {
            let (mut position, mut found) = (0, 0);
            let began = Instant::now();
            // One by one takes long enough.
            let wanted = if limit == 1 { many / 20 } else { many };
            while found < wanted {
                let read = store.read_after(position, limit).await?;
                anyhow::ensure!(!read.is_empty(), "events are missing");
                found += read.len();
                position = read.last().map_or(position, |event| event.position);
            }
            speeds.push(found as f64 / began.elapsed().as_secs_f64());
        }
        println!("| {limit} | {:.0} |", Spread::of(speeds));
    }
    store.shutdown(PATIENCE).await?;
    Ok(())
}

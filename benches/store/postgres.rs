//! Growth in PostgreSQL: the same batches that delivery would hand over, straight to the sink.

use crate::{
    Scale,
    events::{BYTES, Events},
    figures::Spread,
    growth::{Growth, Point, WINDOW, WINDOWS, sizes},
    process::{Usage, family},
    servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER},
};
use std::{collections::BTreeMap, io, sync::Arc};
use temporal_eventstore::{
    EventId,
    sink::{self, Sink, SinkEvent},
};
use tokio_postgres::{Client, NoTls};

const BATCH: usize = 512;

pub async fn growth(scale: &Scale, large: bool) -> anyhow::Result<Option<Growth>> {
    let server = match Server::try_postgres() {
        Ok(server) => server,
        Err(error) => {
            println!("no figures: {error:#}");
            return Ok(None);
        }
    };
    let login = format!("{USER}:{PASSWORD_IN_URL}");
    let url = format!("postgres://{login}@127.0.0.1:{}/{DATABASE}", server.port());
    let client = connect(&server).await?;
    let mut growing = Growing {
        sink: sink::open(&url)?,
        events: Events::of(BYTES).await?,
        delivered: 0,
    };
    println!(
        "| rows | CPU of an event in the server, µs | against the first | CPU in this process, µs | \
         bytes of WAL | bytes of table and indexes |"
    );
    println!("|---|---|---|---|---|---|");
    let mut points: Vec<Point> = Vec::new();
    for rows in sizes(scale, large) {
        growing.grow(rows.saturating_sub(growing.delivered)).await?;
        let (mut cpu, mut own_cpu, mut wal) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..WINDOWS {
            let before = (
                position(&client).await?,
                Usage::of_this_process()?,
                usage(&server)?,
            );
            growing.grow(WINDOW).await?;
            let own = Usage::of_this_process()?.since(&before.1);
            let events = WINDOW as f64;
            cpu.push((spent_ms(&usage(&server)?, &before.2)) * 1000.0 / events);
            own_cpu.push(own.cpu_ms * 1000.0 / events);
            wal.push((position(&client).await? - before.0) / events);
        }
        let cpu_us = Spread::of(cpu);
        let first = points.first().map_or(cpu_us, |point| point.cpu_us);
        println!(
            "| {rows} | {cpu_us:.1} | {:.2} | {:.1} | {:.0} | {:.0} |",
            cpu_us.median / first.median,
            Spread::of(own_cpu).median,
            Spread::of(wal),
            size(&client).await? / growing.delivered as f64,
        );
        points.push(Point { rows, cpu_us });
    }
    Ok(Some(Growth {
        store: "PostgreSQL",
        points,
    }))
}

async fn connect(server: &Server) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(server.port())
        .user(USER)
        .password(PASSWORD)
        .dbname(DATABASE)
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

/// How far the server's log of changes is, in bytes.
async fn position(client: &Client) -> anyhow::Result<f64> {
    let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

async fn size(client: &Client) -> anyhow::Result<f64> {
    let sql = "SELECT pg_total_relation_size('events')::float8";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Of the server and of the processes that serve its clients.
fn usage(server: &Server) -> io::Result<BTreeMap<u32, Usage>> {
    let family = family(server.id()).into_iter();
    // Some come and go.
    Ok(family
        .filter_map(|pid| Some((pid, Usage::of(pid).ok()?)))
        .collect())
}

fn spent_ms(after: &BTreeMap<u32, Usage>, before: &BTreeMap<u32, Usage>) -> f64 {
    let of = |(pid, after): (&u32, &Usage)| {
        before
            .get(pid)
            .map_or(0.0, |before| after.since(before).cpu_ms)
    };
    after.iter().map(of).sum()
}

struct Growing {
    sink: Arc<dyn Sink>,
    events: Events,
    delivered: usize,
}

impl Growing {
    async fn grow(&mut self, count: usize) -> anyhow::Result<()> {
        let end = self.delivered + count;
        while self.delivered < end {
            let size = BATCH.min(end - self.delivered);
            let mut batch = Vec::with_capacity(size);
            for _ in 0..size {
                let mut event = self.events.next();
                event.metadata.event_id = Some(EventId::new());
                event.metadata.created_at = Some(chrono::Utc::now());
                event.metadata.application_name = Some("orders".to_owned());
                self.delivered += 1;
                batch.push(SinkEvent::new(self.delivered as u64, &event)?);
            }
            let delivered = self.sink.deliver(&batch).await?;
            anyhow::ensure!(delivered.taken == size && delivered.rejected.is_empty());
        }
        Ok(())
    }
}

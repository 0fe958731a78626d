//! The PostgreSQL sink on bad days: a server that takes no writes, a table that is not ready, and the ways in.

use crate::support::{
    conformance::batch,
    proxy::Proxy,
    servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER},
    target_postgres::client,
};
use std::{sync::Arc, time::Duration};
use temporal_eventstore::sink::{self, Delivered, Sink, SinkEvent};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

fn open(hosts: &str, parameters: &str) -> Arc<dyn Sink> {
    let url = format!("postgres://{USER}:{PASSWORD_IN_URL}@{hosts}/{DATABASE}?{parameters}");
    sink::open(&url).unwrap()
}

fn at(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

/// Makes a server refuse writes, as a demoted one does, also to those who are connected.
async fn demote(server: &Server) {
    let client = client(server).await;
    for statement in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    loop {
        let row = client
            .query_one("SHOW transaction_read_only", &[])
            .await
            .unwrap();
        if row.get::<_, &str>(0) == "on" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn rows(client: &Client) -> i64 {
    let row = client.query_one("SELECT count(*) FROM events", &[]);
    row.await.unwrap().get(0)
}

async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) {
    assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
}

#[tokio::test]
async fn a_connection_to_a_server_that_takes_no_writes_is_not_kept() {
    let (old, new) = (Server::postgres(), Server::postgres());
    let name = Proxy::to(old.port()).await;
    let sink = open(&format!("127.0.0.1:{}", name.port()), "");
    let events = batch(1, 20);
    takes(&*sink, &events[..10]).await;
    demote(&old).await;
    name.lead_to(new.port());
    let error = sink.deliver(&events[10..]).await.unwrap_err();
    assert!(error.reason().contains("read-only"), "{error}");
    takes(&*sink, &events[10..]).await;
    assert_eq!(rows(&client(&new).await).await, 10);
}

#[tokio::test]
async fn of_several_servers_the_one_that_takes_writes_is_found() {
    let (one, other) = (Server::postgres(), Server::postgres());
    let sink = open(&format!("{},{}", at(&one), at(&other)), "");
    let events = batch(1, 30);
    takes(&*sink, &events[..10]).await;
    demote(&one).await;
    sink.deliver(&events[10..]).await.unwrap_err();
    takes(&*sink, &events[10..]).await;
    assert_eq!(rows(&client(&other).await).await, 20);
    // One that is away, and then one that does not answer.
    drop(one);
    let one = Server::postgres();
    let mut silent = Server::postgres();
    silent.pause();
    let hosts = format!("127.0.0.1:1,{},{}", at(&silent), at(&one));
    takes(&*open(&hosts, ""), &events).await;
    silent.resume();
    demote(&other).await;
    let sink = open(&format!("127.0.0.1:1,{}", at(&other)), "");
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("takes no writes"), "{error}");
    assert!(error.reason().contains("127.0.0.1:1: "), "{error}");
}

#[tokio::test]
async fn a_check_sees_a_server_that_takes_no_writes() {
    let server = Server::postgres();
    let sink = open(&at(&server), "");
    takes(&*sink, &batch(1, 1)).await;
    sink.check().await.unwrap();
    demote(&server).await;
    let error = sink.check().await.unwrap_err();
    assert!(error.reason().contains("takes no writes"), "{error}");
    let anyhow = open(&at(&server), "target_session_attrs=any");
    anyhow.check().await.unwrap();
}

#[tokio::test]
async fn a_check_sees_a_standby() {
    let server = Server::postgres();
    let standby = Server::postgres_standby_of(&server);
    let error = open(&at(&standby), "").check().await.unwrap_err();
    assert!(error.reason().contains("takes no writes"), "{error}");
    // Of the two, it is the primary that is delivered to.
    let sink = open(&format!("{},{}", at(&standby), at(&server)), "");
    takes(&*sink, &batch(1, 3)).await;
}

#[tokio::test]
async fn a_partition_that_is_missing_is_no_fault_of_the_event() {
    let server = Server::postgres();
    let client = client(&server).await;
    client.batch_execute(PARTITIONED).await.unwrap();
    let sink = open(&at(&server), "");
    let events = batch(1, 10);
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("no partition"), "{error}");
    client
        .batch_execute("CREATE TABLE events_rest PARTITION OF events DEFAULT")
        .await
        .unwrap();
    takes(&*sink, &events).await;
    takes(&*sink, &events).await;
    assert_eq!(rows(&client).await, 10);
}

/// As `docs/sinks/postgres.md` has it.
const PARTITIONED: &str = "
    CREATE SEQUENCE events_seq_seq;
    CREATE TABLE events (
        event_id uuid NOT NULL,
        seq bigint NOT NULL DEFAULT nextval('events_seq_seq'),
        position bigint NOT NULL,
        event_type text NOT NULL,
        event_name text NOT NULL,
        event_key text,
        workflow_type text,
        workflow_id text,
        workflow_run_id text,
        workflow_state text,
        activity_type text,
        activity_id text,
        attempt bigint,
        created_at timestamptz NOT NULL,
        event jsonb NOT NULL,
        PRIMARY KEY (event_id, created_at)
    ) PARTITION BY RANGE (created_at);
";

#[tokio::test]
async fn a_column_that_nobody_fills_is_no_fault_of_the_event() {
    let server = Server::postgres();
    let sink = open(&at(&server), "");
    let events = batch(1, 20);
    takes(&*sink, &events[..10]).await;
    let client = client(&server).await;
    let statement = "ALTER TABLE events ADD tenant text NOT NULL DEFAULT '';
                     ALTER TABLE events ALTER tenant DROP DEFAULT";
    client.batch_execute(statement).await.unwrap();
    let error = sink.deliver(&events[10..]).await.unwrap_err();
    assert!(error.reason().contains("tenant"), "{error}");
    let statement = "ALTER TABLE events ALTER tenant SET DEFAULT 'one'";
    client.batch_execute(statement).await.unwrap();
    takes(&*sink, &events[10..]).await;
    assert_eq!(rows(&client).await, 20);
}

#[tokio::test]
async fn a_constraint_that_a_row_breaks_rejects_the_row() {
    let server = Server::postgres();
    let sink = open(&at(&server), "");
    let events = batch(1, 20);
    takes(&*sink, &events[..10]).await;
    let client = client(&server).await;
    let statement = "ALTER TABLE events ADD CHECK (position <> 15)";
    client.batch_execute(statement).await.unwrap();
    let delivered = sink.deliver(&events[10..]).await.unwrap();
    assert_eq!(delivered.taken, 10);
    let rejected: Vec<_> = delivered.rejected.iter().map(|one| one.index).collect();
    assert_eq!(rejected, [4]);
    assert_eq!(rows(&client).await, 19);
}

#[tokio::test]
async fn listeners_are_told_of_new_rows_and_not_of_those_that_come_again() {
    let server = Server::postgres();
    let (listener, mut connection) = Config::new()
        .host("127.0.0.1")
        .port(server.port())
        .user(USER)
        .password(PASSWORD)
        .dbname(DATABASE)
        .connect(NoTls)
        .await
        .unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) =
            std::future::poll_fn(|context| connection.poll_message(context)).await
        {
            if let AsyncMessage::Notification(notification) = message {
                tell.send(notification.payload().to_owned()).ok();
            }
        }
    });
    listener
        .batch_execute("LISTEN \"New Events\"")
        .await
        .unwrap();
    let sink = open(&at(&server), "notify=New%20Events");
    let events = batch(1, 6);
    takes(&*sink, &events[..3]).await;
    takes(&*sink, &events[..3]).await;
    takes(&*sink, &events).await;
    assert_eq!(told.recv().await.as_deref(), Some("3"));
    let row = listener.query_one("SELECT max(seq)::text FROM events", &[]);
    let last: String = row.await.unwrap().get(0);
    assert_eq!(told.recv().await, Some(last));
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_connection_has_an_end() {
    let server = Server::postgres();
    let sink = open(&at(&server), "max_lifetime=300ms");
    let client = client(&server).await;
    let connections = || async {
        let connections = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity \
             WHERE application_name = 'temporal-eventstore'";
        let row = client.query_one(connections, &[]).await.unwrap();
        row.get::<_, Option<String>>(0)
    };
    takes(&*sink, &batch(1, 1)).await;
    let first = connections().await;
    takes(&*sink, &batch(2, 1)).await;
    assert_eq!(connections().await, first);
    tokio::time::sleep(Duration::from_millis(400)).await;
    takes(&*sink, &batch(3, 1)).await;
    assert_ne!(connections().await, first);
}

#[tokio::test]
async fn a_socket_is_a_host() {
    let server = Server::postgres();
    let folder = server.directory().display().to_string();
    let host = format!("{}:{}", folder.replace('/', "%2F"), server.port());
    let events = batch(1, 2);
    takes(&*open(&host, "sslmode=require"), &events).await;
    assert_eq!(rows(&client(&server).await).await, 2);
}

/// What a trigger says may quote the event: it is in the dead letter alone.
#[tokio::test]
async fn what_a_trigger_says_is_not_in_an_error() {
    let server = Server::postgres();
    let sink = open(&at(&server), "");
    takes(&*sink, &batch(1, 1)).await;
    let client = client(&server).await;
    let raise = async |code: &str| {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'hunter2 of %', NEW.event_id USING ERRCODE = '{code}'; END $$; \
             CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON events \
             FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        client.batch_execute(&trigger).await.unwrap();
    };
    let events = batch(2, 1);
    // Not the event's fault, as far as one can know.
    for code in ["P0001", "42501", "XX000", "ZZ123"] {
        raise(code).await;
        let error = sink.deliver(&events).await.unwrap_err();
        let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(
            shown.contains(code) && shown.contains("refuse()"),
            "{shown}"
        );
    }
    for code in ["22023", "23514", "54000"] {
        raise(code).await;
        let delivered = sink.deliver(&events).await;
        let Ok(Delivered { rejected, .. }) = &delivered else {
            // A broken check without a name is the table's.
            assert_eq!(code, "23514");
            let shown = format!("{delivered:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            continue;
        };
        let [rejection] = rejected.as_slice() else {
            panic!("{code}: {delivered:?}");
        };
        assert!(!rejection.reason.contains("hunter2"), "{rejection:?}");
        assert!(rejection.reason.contains(code), "{rejection:?}");
        let answer = rejection.answer.as_deref().unwrap_or_default();
        assert!(answer.contains("hunter2"), "{rejection:?}");
    }
}

//! The Redis sink on bad days: primaries that are demoted, streams that are slow to read; and the ways to a primary.

use crate::support::{
    conformance::batch,
    proxy::Proxy,
    servers::{PASSWORD, PASSWORD_IN_URL, Server},
};
use redis::{
    ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, aio::MultiplexedConnection,
    streams::StreamRangeReply,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use temporal_eventstore::sink::{self, Delivered, Sink, SinkEvent};

const STREAM: &str = "orders";

async fn client(server: &Server) -> MultiplexedConnection {
    let login = RedisConnectionInfo::default().set_password(PASSWORD);
    let address = ConnectionAddr::Tcp("127.0.0.1".into(), server.port())
        .into_connection_info()
        .unwrap()
        .set_redis_settings(login);
    redis::Client::open(address)
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap()
}

async fn tell(server: &Server, command: &str) {
    let mut parts = command.split(' ');
    let mut told = redis::cmd(parts.next().unwrap());
    for part in parts {
        told.arg(part);
    }
    told.query_async::<redis::Value>(&mut client(server).await)
        .await
        .unwrap();
}

async fn until_info(server: &Server, section: &str, line: &str) {
    let started = Instant::now();
    loop {
        let info: String = redis::cmd("INFO")
            .arg(section)
            .query_async(&mut client(server).await)
            .await
            .unwrap();
        if info.contains(line) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{info}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes a server follow another one, and waits until it has what that one has.
async fn follow(replica: &Server, primary: &Server) {
    tell(replica, &format!("REPLICAOF 127.0.0.1 {}", primary.port())).await;
    until_info(replica, "replication", "master_link_status:up").await;
    until_info(replica, "replication", "master_sync_in_progress:0").await;
}

fn at(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn open(hosts: &str, parameters: &str) -> Arc<dyn Sink> {
    sink::open(&format!(
        "redis://:{PASSWORD_IN_URL}@{hosts}/{STREAM}?{parameters}"
    ))
    .unwrap()
}

async fn ids_on(server: &Server) -> Vec<String> {
    let entries: StreamRangeReply = redis::cmd("XRANGE")
        .arg(&[STREAM, "-", "+"])
        .query_async(&mut client(server).await)
        .await
        .unwrap();
    let ids = entries.ids.iter();
    ids.map(|entry| entry.get("id").unwrap()).collect()
}

fn ids(events: &[SinkEvent]) -> Vec<String> {
    let ids = events.iter();
    ids.map(|event| event.event_id.to_string()).collect()
}

async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) {
    assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
}

#[tokio::test]
async fn what_a_demoted_primary_has_is_not_delivered() {
    let (old, new) = (Server::redis(), Server::redis());
    let events = batch(1, 30);
    takes(&*open(&at(&old), ""), &events[..10]).await;
    follow(&new, &old).await;
    tell(&new, "REPLICAOF NO ONE").await;
    // Nobody has these but the old one.
    takes(&*open(&at(&old), ""), &events[10..]).await;
    tell(&old, "REPLICAOF 127.0.0.1 1").await;
    let sink = open(&at(&old), "");
    let error = sink.deliver(&events[10..]).await.unwrap_err();
    assert!(error.reason().contains("replica"), "{error}");
    sink.check().await.unwrap_err();
    // It comes back with what the new one has.
    follow(&old, &new).await;
    tell(&old, "REPLICAOF NO ONE").await;
    takes(&*sink, &events[10..]).await;
    assert_eq!(ids_on(&old).await, ids(&events));
}

#[tokio::test]
async fn what_was_learned_is_forgotten_when_the_write_fails() {
    let (old, new) = (Server::redis(), Server::redis());
    let events = batch(1, 30);
    takes(&*open(&at(&old), ""), &events[..10]).await;
    follow(&new, &old).await;
    tell(&new, "REPLICAOF NO ONE").await;
    takes(&*open(&at(&old), ""), &events[10..25]).await;
    // Alone, the old one takes no more.
    tell(&old, "CONFIG SET min-replicas-to-write 1").await;
    let sink = open(&at(&old), "");
    sink.deliver(&events[10..]).await.unwrap_err();
    tell(&old, "CONFIG SET min-replicas-to-write 0").await;
    follow(&old, &new).await;
    tell(&old, "REPLICAOF NO ONE").await;
    takes(&*sink, &events[10..]).await;
    assert_eq!(ids_on(&old).await, ids(&events));
}

#[tokio::test]
async fn a_look_at_large_entries_comes_to_an_end() {
    const LARGE: usize = 900 * 1024;
    let server = Server::redis();
    let text = "x".repeat(LARGE);
    let events: Vec<_> = batch(1, 24)
        .into_iter()
        .map(|event| {
            let mut large = event.event().unwrap();
            large.data.insert("text".to_owned(), text.clone().into());
            SinkEvent::new(event.position, &large).unwrap()
        })
        .collect();
    for events in events.chunks(4) {
        takes(&*open(&at(&server), ""), events).await;
    }
    let network = Proxy::to(server.port()).await;
    // All of them take longer than a call has.
    network.slow_down_to(1_300_000);
    let sink = open(&format!("127.0.0.1:{}", network.port()), "");
    let started = Instant::now();
    let last = &events[22..];
    while let Err(error) = sink.deliver(last).await {
        assert!(started.elapsed() < Duration::from_secs(60), "{error}");
    }
    assert_eq!(ids_on(&server).await, ids(&events));
}

#[tokio::test]
async fn of_several_servers_the_primary_is_found() {
    let (one, other) = (Server::redis(), Server::redis());
    follow(&other, &one).await;
    let sink = open(&format!("{},127.0.0.1:1,{}", at(&other), at(&one)), "");
    let events = batch(1, 20);
    takes(&*sink, &events[..10]).await;
    until_info(&other, "keyspace", "keys=1").await;
    tell(&other, "REPLICAOF NO ONE").await;
    tell(&one, "REPLICAOF 127.0.0.1 1").await;
    let error = sink.deliver(&events[10..]).await.unwrap_err();
    assert!(error.reason().contains("read only replica"), "{error}");
    takes(&*sink, &events[10..]).await;
    assert_eq!(ids_on(&other).await, ids(&events));
}

#[tokio::test]
async fn sentinels_name_the_primary() {
    let (mut one, other) = (Server::redis(), Server::redis());
    follow(&other, &one).await;
    let sentinel = Server::sentinel(&one);
    let sink = open(&format!("127.0.0.1:1,{}", at(&sentinel)), "sentinel=main");
    let events = batch(1, 20);
    takes(&*sink, &events[..10]).await;
    // It finds the replica, and then that the primary is away.
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    one.stop();
    while let Err(error) = sink.deliver(&events[10..]).await {
        assert!(started.elapsed() < Duration::from_secs(60), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ids_on(&other).await, ids(&events));
    let error = open(&at(&sentinel), "sentinel=other").check().await;
    assert!(error.unwrap_err().reason().contains("knows no other"));
}

#[tokio::test]
async fn a_cluster_sends_us_to_the_server_of_the_stream() {
    let [one, other] =
        [(); 2].map(|()| Server::redis_of(None, &["--cluster-enabled", "yes", "--save", ""]));
    tell(&one, "CLUSTER ADDSLOTSRANGE 0 8191").await;
    tell(&other, "CLUSTER ADDSLOTSRANGE 8192 16383").await;
    tell(&one, &format!("CLUSTER MEET 127.0.0.1 {}", other.port())).await;
    let started = Instant::now();
    for server in [&one, &other] {
        loop {
            let info: String = redis::cmd("CLUSTER")
                .arg("INFO")
                .query_async(&mut client(server).await)
                .await
                .unwrap();
            if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2") {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{info}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let events = batch(1, 10);
    // Whichever of them is named.
    takes(&*open(&at(&one), ""), &events[..5]).await;
    takes(&*open(&at(&other), ""), &events).await;
    // Streams by event are in one slot by their tag.
    for server in [&one, &other] {
        let hosts = at(server);
        let url = format!("redis://:{PASSWORD_IN_URL}@{hosts}/{{{{{STREAM}}}}}:{{workflow_id}}");
        takes(&*sink::open(&url).unwrap(), &events).await;
        let error = sink::open(&url.replace(&format!("{{{{{STREAM}}}}}"), STREAM));
        error.unwrap().deliver(&events).await.unwrap_err();
    }
    let mut found = 0;
    for server in [&one, &other] {
        let entries = redis::cmd("XRANGE")
            .arg(&[STREAM, "-", "+"])
            .query_async::<StreamRangeReply>(&mut client(server).await)
            .await;
        found += entries.map_or(0, |entries| entries.ids.len());
    }
    assert_eq!(found, events.len());
}

#[tokio::test]
async fn a_batch_waits_for_replicas() {
    let (primary, replica) = (Server::redis(), Server::redis());
    let sink = open(&at(&primary), "wait=1");
    let events = batch(1, 20);
    let error = sink.deliver(&events[..10]).await.unwrap_err();
    assert!(error.reason().contains("0 replicas"), "{error}");
    // It is there, and still nobody else has it.
    let error = sink.deliver(&events[..10]).await.unwrap_err();
    assert!(error.reason().contains("0 replicas"), "{error}");
    follow(&replica, &primary).await;
    takes(&*sink, &events[..10]).await;
    takes(&*sink, &events[10..]).await;
    assert_eq!(ids_on(&replica).await, ids(&events));
}

#[tokio::test]
async fn entries_have_an_age() {
    let server = Server::redis();
    let sink = open(&at(&server), "max_age=1s");
    // Redis forgets whole nodes of a hundred entries.
    takes(&*sink, &batch(1, 250)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    takes(&*sink, &batch(251, 10)).await;
    let left = ids_on(&server).await.len();
    assert!((10..=120).contains(&left), "{left}");
}

#[tokio::test]
async fn a_user_with_the_rights_that_the_page_names_is_enough() {
    let server = Server::redis();
    let rights = format!(
        "ACL SETUSER writer on >{PASSWORD} resetkeys ~{STREAM} -@all +xadd +xrange +xrevrange +multi \
         +exec +client|info +client|kill +role +ping +config|get"
    );
    // The password has a space in it.
    let mut told = redis::cmd("ACL");
    for part in rights.replace(PASSWORD, "\0").split(' ').skip(1) {
        told.arg(part.replace('\0', PASSWORD));
    }
    told.query_async::<()>(&mut client(&server).await)
        .await
        .unwrap();
    let url = format!("redis://writer:{PASSWORD_IN_URL}@{}/{STREAM}", at(&server));
    let events = batch(1, 10);
    let sink = sink::open(&url).unwrap();
    sink.check().await.unwrap();
    takes(&*sink, &events).await;
    let other = sink::open(&url.replace(STREAM, "other")).unwrap();
    let error = other.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("no permissions"), "{error}");
    // The least: none of what finds out.
    tell(&server, "ACL SETUSER writer -client -role -config -ping").await;
    takes(&*sink::open(&url).unwrap(), &events).await;
    assert_eq!(ids_on(&server).await, ids(&events));
}

#[test]
fn a_database_alone_is_no_stream() {
    let error = sink::open("redis://h/0").unwrap_err();
    assert!(error.reason.contains("database"), "{error}");
    sink::open("redis://h/0/0").unwrap();
}

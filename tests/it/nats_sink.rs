//! The NATS sink on bad days: what the server forbids, servers that are away; and the ways to say who the sink is.

use crate::support::{
    conformance::batch,
    kafka_broker::free_port,
    log::Log,
    servers::{PASSWORD, PASSWORD_IN_URL, Server, USER},
};
use async_nats::jetstream;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use temporal_eventstore::sink::{self, Delivered, Sink, SinkEvent};

const JETSTREAM: &str = "jetstream { store_dir: \"DIRECTORY/jetstream\" }\n";

fn at(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn open(login: &str, hosts: &str, parameters: &str) -> Arc<dyn Sink> {
    sink::open(&format!("nats://{login}{hosts}/orders?{parameters}")).unwrap()
}

async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) {
    assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
}

/// A user with these permissions.
fn user_with(permissions: &str) -> String {
    format!(
        "{JETSTREAM}authorization {{ users: [ {{ user: \"{USER}\", password: \"{PASSWORD}\", \
         permissions: {{ {permissions} }} }} ] }}"
    )
}

fn login() -> String {
    format!("{USER}:{PASSWORD_IN_URL}@")
}

#[tokio::test]
async fn what_the_server_forbids_is_said_and_not_waited_for() {
    let inbox = "subscribe: [\"_INBOX.>\"]";
    let mut server = Server::nats_of(&user_with(&format!("publish: [\"$JS.API.>\"], {inbox}")));
    let sink = open(&login(), &at(&server), "");
    let events = batch(1, 20);
    let forbidden = async |sink: &dyn Sink, word: &str| {
        let started = Instant::now();
        let error = sink.deliver(&events).await.unwrap_err();
        assert!(error.reason().contains("Permissions Violation"), "{error}");
        assert!(error.reason().contains(word), "{error}");
        assert!(started.elapsed() < Duration::from_secs(4), "{error}");
    };
    forbidden(&*sink, "Publish to \"orders\"").await;
    server.reconfigure(&user_with(&format!("publish: [\">\"], {inbox}")));
    takes_in_the_end(&*sink, &events[..10]).await;
    server.reconfigure(&user_with(&format!("publish: [\"orders\"], {inbox}")));
    let started = Instant::now();
    let new = || open(&login(), &at(&server), "");
    while new().deliver(&events[..10]).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    forbidden(&*new(), "$JS.API.STREAM.NAMES").await;
    let error = new().check().await.unwrap_err();
    assert!(error.reason().contains("Permissions Violation"), "{error}");
}

/// As it was with the rights that were enough before the sink read the stream.
#[tokio::test]
async fn a_stream_that_may_not_be_read_is_published_to() {
    let (log, _guard) = Log::capture();
    let api = ["NAMES", "CREATE.orders"].map(|call| format!("\"$JS.API.STREAM.{call}\""));
    let rights = |more: &str| {
        format!(
            "publish: [\"orders\", {}{more}], subscribe: [\"_INBOX.>\"]",
            api.join(", ")
        )
    };
    let info = ", \"$JS.API.STREAM.INFO.orders\"";
    let server = Server::nats_of(&user_with(&rights(info)));
    let sink = open(&login(), &at(&server), "");
    let events = batch(1, 30);
    for events in events.chunks(10) {
        takes(&*sink, events).await;
    }
    // The stream was empty when it was looked at: there was nothing to read.
    assert!(!log.says("may not be read"), "{log}");
    let sink = open(&login(), &at(&server), "");
    takes(&*sink, &events).await;
    takes(&*sink, &batch(31, 10)).await;
    assert!(log.says("may not be read"), "{log}");
    assert!(log.says("STREAM.MSG.GET"), "{log}");
}

async fn takes_in_the_end(sink: &dyn Sink, batch: &[SinkEvent]) {
    let started = Instant::now();
    while let Err(error) = sink.deliver(batch).await {
        assert!(started.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_refused(sink: &dyn Sink, batch: &[SinkEvent]) {
    let started = Instant::now();
    while sink.deliver(batch).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_leaves_the_others() {
    let (mut one, other) = (Server::nats(), Server::nats());
    one.pause();
    let hosts = format!("127.0.0.1:1,{},{}", at(&one), at(&other));
    let sink = open(&login(), &hosts, "");
    let events = batch(1, 10);
    takes(&*sink, &events).await;
    let error = open(&login(), &format!("127.0.0.1:1,{}", at(&one)), "");
    let error = error.check().await.unwrap_err();
    assert!(error.reason().contains("127.0.0.1:1: "), "{error}");
    one.resume();
}

#[tokio::test]
async fn an_nkey_says_who_the_sink_is() {
    let key = KeyPair::new_user();
    let server = Server::nats_of(&format!(
        "{JETSTREAM}authorization {{ users: [ {{ nkey: {} }} ] }}",
        key.public_key()
    ));
    let file = server.write("seed", &format!("{}\n", key.seed().unwrap()));
    let events = batch(1, 5);
    let parameters = format!("nkey_file={}", file.display());
    takes(&*open("", &at(&server), &parameters), &events).await;
    let stranger = KeyPair::new_user().seed().unwrap();
    server.write("seed", &stranger);
    let error = open("", &at(&server), &parameters).deliver(&events).await;
    let error = error.unwrap_err();
    assert!(error.reason().contains("uthorization"), "{error}");
    assert!(!format!("{error:?}").contains(&stranger));
}

#[tokio::test]
async fn a_token_is_read_again_when_it_changes() {
    let with = |token: &str| format!("{JETSTREAM}authorization {{ token: \"{token}\" }}");
    let mut server = Server::nats_of(&with("first"));
    let file = server.write("token", "first\n");
    let sink = open("", &at(&server), &format!("token_file={}", file.display()));
    let events = batch(1, 20);
    takes(&*sink, &events[..10]).await;
    server.reconfigure(&with("second"));
    until_refused(&*sink, &events[..10]).await;
    std::fs::write(&file, "second\n").unwrap();
    takes_in_the_end(&*sink, &events[10..]).await;
}

/// A JSON Web Token as NATS has them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "name": name,
        "iss": issuer.public_key(), "sub": subject.public_key(), "nats": nats,
    });
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_credentials_file_says_who_the_sink_is() {
    let (operator, user) = (KeyPair::new_operator(), KeyPair::new_user());
    let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
    let operator_token = jwt(
        &operator,
        &operator,
        "operator",
        json!({ "type": "operator", "version": 2, "system_account": system.public_key() }),
    );
    let limits = |bytes: i64| {
        json!({ "type": "account", "version": 2, "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": bytes, "disk_storage": bytes, "streams": bytes,
            "consumer": bytes,
        }})
    };
    let server = Server::nats_of(&format!(
        "{JETSTREAM}operator: {operator_token}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}",
        account.public_key(),
        jwt(&operator, &account, "orders", limits(-1)),
        system.public_key(),
        jwt(&operator, &system, "system", limits(0)),
    ));
    let token = jwt(
        &account,
        &user,
        "sink",
        json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
    );
    let creds = |token: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    };
    let file = server.write("sink.creds", &creds(&token));
    let parameters = format!("creds={}", file.display());
    let sink = open("", &at(&server), &parameters);
    sink.check().await.unwrap();
    takes(&*sink, &batch(1, 10)).await;
    server.write("sink.creds", &creds(&token.replace("eyJ", "eyK")));
    let error = open("", &at(&server), &parameters).check().await;
    assert!(!format!("{:?}", error.unwrap_err()).contains(&user.seed().unwrap()));
}

#[tokio::test]
async fn a_domain_is_asked() {
    let server = Server::nats_of(
        "jetstream { store_dir: \"DIRECTORY/jetstream\", domain: edge }\nserver_name: edge\n",
    );
    let events = batch(1, 5);
    takes(&*open("", &at(&server), "domain=edge"), &events).await;
    let other = open("", &at(&server), "domain=other");
    other.deliver(&events).await.unwrap_err();
}

/// Three servers that replicate what they have.
fn cluster() -> Vec<Server> {
    let routes = [free_port(), free_port(), free_port()];
    let urls = routes.map(|port| format!("nats-route://127.0.0.1:{port}"));
    let servers = routes.iter().enumerate().map(|(index, port)| {
        Server::nats_of(&format!(
            "server_name: n{index}\n{JETSTREAM}\
             cluster {{ name: orders, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
            urls.join(", ")
        ))
    });
    servers.collect()
}

#[tokio::test]
async fn replicas_outlive_a_server() {
    let mut servers = cluster();
    let hosts: Vec<_> = servers.iter().map(at).collect();
    let sink = open("", &hosts.join(","), "replicas=3");
    let events = batch(1, 60);
    // The servers find one another first.
    takes_in_the_end(&*sink, &events[..30]).await;
    servers.remove(0);
    takes_in_the_end(&*sink, &events[30..]).await;
    let client = async_nats::connect(hosts[1..].to_vec()).await.unwrap();
    let stream = jetstream::new(client).get_stream("orders").await.unwrap();
    let info = stream.cached_info();
    assert_eq!(info.config.num_replicas, 3);
    assert_eq!(info.state.messages, events.len() as u64);
}

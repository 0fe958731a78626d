//! Every sink against its real server: the same promises for all of them.

use crate::support::conformance::Target as _;
use crate::support::{
    conformance, servers, target_nats, target_objects, target_postgres, target_redis,
};
use std::time::Duration;
use temporal_eventstore::sink::Delivered;

conformance::conformance!(nats, target_nats::NatsTarget);
// Its server ends each connection after one request.
conformance::conformance!(objects, target_objects::ObjectsTarget, without_network);
conformance::conformance!(postgres, target_postgres::PostgresTarget);
conformance::conformance!(redis, target_redis::RedisTarget);

/// The client lets 5000 messages be on their way, and then waits.
#[tokio::test]
async fn nats_takes_more_at_once_than_its_client_leaves_unacknowledged() {
    let target = target_nats::NatsTarget::begin().await;
    let events = conformance::batch(1, 6000);
    let sink = target.open();
    let delivered = tokio::time::timeout(Duration::from_secs(15), sink.deliver(&events));
    assert_eq!(delivered.await.unwrap().unwrap(), Delivered::all(&events));
    let stream = target.stream().await;
    assert_eq!(stream.cached_info().state.messages, events.len() as u64);
}

#[tokio::test]
#[ignore = "run by the one below, as a child process with an environment of its own"]
async fn checks_the_sink_of_its_environment() {
    let url = std::env::var("SINK_URL").unwrap();
    let sink = temporal_eventstore::sink::open(&url).unwrap();
    sink.check().await.unwrap();
}

#[test]
fn postgres_takes_its_password_from_the_environment() {
    let server = servers::Server::postgres();
    let reaches = |login: &str, password: &str| {
        let (port, database) = (server.port(), servers::DATABASE);
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "conformance::checks_the_sink_of_its_environment",
            ])
            .env(
                "SINK_URL",
                format!("postgres://{login}@127.0.0.1:{port}/{database}"),
            )
            .env("PGPASSWORD", password)
            .output()
            .unwrap()
            .status
            .success()
    };
    let (user, password) = (servers::USER, servers::PASSWORD_IN_URL);
    assert!(reaches(user, servers::PASSWORD));
    assert!(!reaches(user, "wrong"));
    // The URL's own password wins.
    assert!(reaches(&format!("{user}:{password}"), "wrong"));
}

/// Checks the sink of a URL in a process with these variables.
fn checks_with(url: &str, variables: &[(&str, &str)]) -> bool {
    let checked = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "conformance::checks_the_sink_of_its_environment",
        ])
        .env_remove("PGPASSWORD")
        .env("HOME", "/no/such/home")
        .env("SINK_URL", url)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let output =
        String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(!output.contains(servers::PASSWORD), "{output}");
    checked.status.success()
}

#[cfg(unix)]
#[test]
fn postgres_reads_the_files_of_libpq() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = servers::Server::postgres();
    let (port, user, database) = (server.port(), servers::USER, servers::DATABASE);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let password = servers::PASSWORD;
    let line = format!("127.0.0.1:{port}:{database}:{user}:{password}");
    let pass_file = write(".pgpass", &format!("elsewhere:*:*:*:wrong\n{line}\n"));
    let home = directory.path().display().to_string();
    let url = format!("postgres://{user}@127.0.0.1:{port}/{database}");
    assert!(!checks_with(&url, &[]));
    assert!(checks_with(&url, &[("PGPASSFILE", &pass_file)]));
    assert!(checks_with(&url, &[("HOME", &home)]));
    assert!(checks_with(&format!("{url}?passfile={pass_file}"), &[]));
    // The environment's password comes first.
    assert!(!checks_with(
        &url,
        &[("HOME", &home), ("PGPASSWORD", "wrong")]
    ));
    let wrong = write("wrong", "*:*:*:*:wrong\n");
    assert!(!checks_with(&url, &[("PGPASSFILE", &wrong)]));
    std::fs::set_permissions(&pass_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(!checks_with(&url, &[("PGPASSFILE", &pass_file)]));
    // All of it from a service; and its password before the environment's.
    let section =
        format!("[orders]\nhost=127.0.0.1\nport={port}\ndbname={database}\nuser={user}\n");
    let services = write("services", &format!("{section}password={password}\n"));
    let service = "postgres:///?service=orders&table=events";
    let variables = [("PGSERVICEFILE", &*services), ("PGPASSWORD", "wrong")];
    assert!(checks_with(service, &variables));
    let other = write("without", &section);
    assert!(!checks_with(service, &[("PGSERVICEFILE", &other)]));
    let pass_file = write(".pgpass", &line);
    let variables = [("PGSERVICEFILE", &*other), ("PGPASSFILE", &*pass_file)];
    assert!(checks_with(service, &variables));
}

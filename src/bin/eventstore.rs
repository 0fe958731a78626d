//! `eventstore`: looks into a store of events. `docs/program.md` shows what it does.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    temporal_eventstore::cli::main()
}

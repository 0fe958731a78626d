//! The signals that ask a program to end: Ctrl-C, and SIGTERM where there is one. Knows nothing of
//! what they end.

use std::{future::Future, io};

/// Listens from the moment it returns; what it returns resolves at the first signal. A program that
/// only listens once it waits is killed by a signal that comes earlier.
#[cfg(unix)]
pub fn shutdown_requested() -> io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Listens from the moment it returns; what it returns resolves at the first Ctrl-C.
#[cfg(windows)]
pub fn shutdown_requested() -> io::Result<impl Future<Output = ()> + Send> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}

//! URLs that name several servers, and how one that works is found among them. Knows no kind of server.

use super::{address::Address, attempt::within};
use crate::sink::{SinkError, SinkUrlError};
use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// Splits `scheme://[user[:password]@]host[:port][,host[:port]…]/path?parameters` into one URL for each host, which no
/// parser takes together. Returns one at least.
fn one_by_one(url: &str) -> Vec<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rfind('@') {
        Some(at) => authority.split_at(at + 1),
        None => ("", authority),
    };
    hosts
        .split(',')
        .map(|host| format!("{scheme}://{user}{host}{tail}"))
        .collect()
}

/// Reads a URL that may name several hosts: an address for the first of them, which stands for all that they have in
/// common, and one for each of the others.
pub(in crate::sink) fn parse(
    url: &str,
    allowed: &'static str,
) -> Result<(Address, Vec<Address>), SinkUrlError> {
    let mut urls = one_by_one(url).into_iter();
    let first = Address::parse(&urls.next().unwrap_or_default(), allowed)?;
    let others = urls.map(|url| Address::parse(&url, allowed));
    Ok((first, others.collect::<Result<_, _>>()?))
}

/// Which of several servers was the last to work.
#[derive(Debug, Default)]
pub(in crate::sink) struct LastThatWorked(AtomicUsize);

impl LastThatWorked {
    /// Connects to the first of `names` that works, beginning with the one that did last. `limit` is for all of them
    /// together: one that hangs leaves the others their share.
    pub(in crate::sink) async fn connect<T, F>(
        &self,
        names: &[String],
        limit: Duration,
        connect: impl Fn(usize) -> F,
    ) -> Result<T, SinkError>
    where
        F: Future<Output = Result<T, SinkError>>,
    {
        let count = names.len().max(1);
        let share = limit / u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.0.load(Ordering::Relaxed);
        let mut problems = Vec::new();
        for index in (0..count).map(|step| (first + step) % count) {
            match within(share, "it does not answer", connect(index)).await {
                Ok(connection) => {
                    self.0.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) if count == 1 => return Err(error),
                Err(error) => {
                    let name = names.get(index).map_or("", String::as_str);
                    problems.push(format!("{name}: {}", error.reason()));
                }
            }
        }
        Err(SinkError::new(problems.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_gets_what_stands_around_it() {
        let urls = one_by_one("x://u:p%40@a,[::1]:7,c:1/s?k=v,w");
        assert_eq!(
            urls,
            [
                "x://u:p%40@a/s?k=v,w",
                "x://u:p%40@[::1]:7/s?k=v,w",
                "x://u:p%40@c:1/s?k=v,w"
            ]
        );
        for wrong in ["x://a,/s", "x://,a/s", "x:", "", "x://u@,/"] {
            assert!(parse(wrong, "x").is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn the_one_that_worked_is_asked_first_and_one_that_hangs_does_not_hold_up() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let last = LastThatWorked::default();
        let asked = std::sync::Mutex::new(Vec::new());
        let ask = |works: usize| {
            let asked = &asked;
            move |index: usize| async move {
                asked.lock().unwrap().push(index);
                match index {
                    0 => std::future::pending().await,
                    index if index == works => Ok(index),
                    _ => Err(SinkError::new("away")),
                }
            }
        };
        let limit = Duration::from_millis(30);
        assert_eq!(last.connect(&names, limit, ask(2)).await, Ok(2));
        assert_eq!(last.connect(&names, limit, ask(2)).await, Ok(2));
        assert_eq!(*asked.lock().unwrap(), [0, 1, 2, 2]);
        let error = last.connect(&names, limit, ask(9)).await.unwrap_err();
        assert_eq!(
            error.reason(),
            "c: away; a: it does not answer within 10ms; b: away"
        );
    }
}

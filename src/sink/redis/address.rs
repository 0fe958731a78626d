//! What a Redis URL names. Knows nothing of events.

use crate::sink::{
    SinkUrlError,
    shared::{
        address::{Address, Parameters},
        auth::secret::Secret,
        encoding::Encoding,
        hosts,
        route::{MAX_TARGETS, Route},
        tls::{Tls, TlsFiles},
    },
};
use std::time::Duration;

const ALLOWED: &str = "`redis://user:password@host:port[,host:port…]/stream` or \
     `redis://host:port/database-number/stream`, `rediss://` for TLS, with the parameters `maxlen=N` or \
     `max_age=7d`, `wait=REPLICAS`, `password_file=FILE`, `sentinel=NAME` (the hosts are Sentinels then) with \
     `sentinel_password_file=FILE`, `tls_ca=FILE`, `tls_cert=FILE` with `tls_key=FILE`; the stream may have fields of the \
     event in it (`orders:{workflow_type}`), with `max_targets=N`";

/// A stream, and how it is reached.
pub(super) struct StreamAddress {
    pub(super) stream: Route,
    pub(super) database: i64,
    pub(super) trim: Option<Trim>,
    /// How many replicas have to have a batch.
    pub(super) wait: Option<u32>,
    /// The servers that may take writes, or the Sentinels that know which one does.
    pub(super) servers: Vec<Server>,
    /// The servers' names, in the same order.
    pub(super) names: Vec<String>,
    pub(super) tls: Option<Tls>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) sentinel: Option<Sentinel>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
}

/// How Sentinels are asked.
pub(super) struct Sentinel {
    /// Their name for the primary and its replicas.
    pub(super) primary: String,
    pub(super) password: Option<Secret>,
}

/// Which entries the stream forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trim {
    /// All but about so many.
    Length(u64),
    /// Those that are older, about.
    Age(Duration),
}

impl StreamAddress {
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        let (address, others) = hosts::parse(url, ALLOWED)?;
        let parameters = address.parameters(&[
            "maxlen",
            "max_age",
            "wait",
            "password_file",
            "sentinel",
            "sentinel_password_file",
            "tls_ca",
            "tls_cert",
            "tls_key",
            MAX_TARGETS,
        ])?;
        let (database, stream) = place(&address)?;
        let place = (&address, &parameters);
        let stream = Route::bounded(&stream, Encoding::TOKEN, place, "streams")?;
        let sentinel = sentinel(&address, &parameters)?;
        let port = if sentinel.is_some() { 26379 } else { 6379 };
        let servers = std::iter::once(&address).chain(&others);
        let (servers, names) = servers
            .map(|address| {
                let (host, port) = (address.host(), address.port_or(port));
                let name = format!("{}:{port}", address.authority());
                (Server { host, port }, name)
            })
            .unzip();
        let wait = parameters.read("wait", "a number of replicas")?;
        if wait == Some(0) {
            return Err(address.wrong("`wait` is 0: no replica has to have anything"));
        }
        let (user, password) = (address.user()?, password(&address, &parameters)?);
        if user.is_some() && password.is_none() {
            return Err(address.wrong("it has a user name and no password"));
        }
        Ok(Self {
            database,
            trim: trim(&address, &parameters)?,
            wait,
            servers,
            names,
            tls: tls(&address, &parameters)?,
            user,
            password,
            sentinel,
            stream,
        })
    }
}

fn place(address: &Address) -> Result<(i64, String), SinkUrlError> {
    let (database, stream) = match address.path()?.as_slice() {
        // Other programs' URLs end with the database.
        [number] if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(address.wrong(
                "its path is the number of a database alone, and names no stream: `/0/events`",
            ));
        }
        [stream] => (0, stream.clone()),
        [database, stream] => {
            let number = database.parse::<u16>().map_err(|_| {
                address.wrong("of two parts of the path, the first has to be a number")
            })?;
            (i64::from(number), stream.clone())
        }
        [] => return Err(address.wrong("it names no stream")),
        _ => return Err(address.wrong("its path is more than a database and a stream")),
    };
    if stream.is_empty() {
        return Err(address.wrong("it names no stream"));
    }
    Ok((database, stream))
}

fn trim(address: &Address, parameters: &Parameters<'_>) -> Result<Option<Trim>, SinkUrlError> {
    let length = parameters.read("maxlen", "a number")?;
    match (length, parameters.text("max_age")) {
        (None, None) => Ok(None),
        (Some(0), _) => Err(address.wrong("`maxlen` is 0: the stream would keep nothing")),
        (Some(length), None) => Ok(Some(Trim::Length(length))),
        (Some(_), Some(_)) => Err(address.wrong("Redis takes `maxlen` or `max_age`, not both")),
        (None, Some(text)) => humantime::parse_duration(text)
            .ok()
            .filter(|age| *age >= Duration::from_secs(1))
            .map(|age| Some(Trim::Age(age)))
            .ok_or_else(|| address.wrong("`max_age` is no duration from `1s`, such as `7d`")),
    }
}

fn sentinel(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<Option<Sentinel>, SinkUrlError> {
    let password = parameters
        .text("sentinel_password_file")
        .map(Secret::in_file)
        .transpose()
        .map_err(|reason| address.wrong(reason))?;
    match parameters.text("sentinel") {
        None if password.is_some() => {
            Err(address.wrong("`sentinel_password_file` needs `sentinel`"))
        }
        None => Ok(None),
        Some(primary) => Ok(Some(Sentinel {
            primary: primary.to_owned(),
            password,
        })),
    }
}

fn password(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<Option<Secret>, SinkUrlError> {
    match (address.password()?, parameters.text("password_file")) {
        (Some(_), Some(_)) => Err(address.wrong("it has a password and a `password_file`")),
        (Some(password), None) => Ok(Some(Secret::Given(password))),
        (None, Some(path)) => Secret::in_file(path)
            .map(Some)
            .map_err(|reason| address.wrong(reason)),
        (None, None) => Ok(None),
    }
}

fn tls(address: &Address, parameters: &Parameters<'_>) -> Result<Option<Tls>, SinkUrlError> {
    let files = TlsFiles::of(
        parameters.text("tls_ca"),
        parameters.text("tls_cert"),
        parameters.text("tls_key"),
    )
    .ok_or_else(|| address.wrong("`tls_cert` and `tls_key` go together"))?;
    if address.scheme() == "rediss" {
        return Tls::new(files)
            .map(Some)
            .map_err(|reason| address.wrong(reason));
    }
    match files.is_empty() {
        true => Ok(None),
        false => Err(address.wrong("`tls_ca`, `tls_cert` and `tls_key` need `rediss://`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_place_and_trim_are_read() {
        let address =
            StreamAddress::parse("redis://a,[::1]:7/3/orders%2F1?max_age=1h&sentinel=main")
                .unwrap();
        assert_eq!(address.names, ["a:26379", "[::1]:7"]);
        assert_eq!(address.servers[1].host, "::1");
        assert_eq!((address.database, address.stream.shown()), (3, "orders/1"));
        assert_eq!(address.trim, Some(Trim::Age(Duration::from_secs(3600))));
    }
}

//! What a PostgreSQL URL names. Knows nothing of events.

use super::{
    pass_file::PassFile,
    password::Password,
    schema::{MAX_TABLE_NAME, is_table_name},
    service::{self, Service},
};
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
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use std::{ffi::OsString, sync::Arc, time::Duration};
use tokio_postgres::{Config, config::SslMode};

const ALLOWED: &str = "`postgres://user:password@host:port[,host:port…]/database`, where a host may be the folder of a \
     socket, percent-encoded (`%2Frun%2Fpostgresql`); with the parameters `table=events` or `table=schema.events`, \
     where fields of the event may stand (`table=events_{workflow_type}`, with `max_targets=N`), \
     `sslmode=disable|prefer|require|verify-full`, `sslrootcert=FILE`, `sslcert=FILE` with `sslkey=FILE`, \
     `password_file=FILE`, `passfile=FILE`, `service=NAME` (a service of libpq, which says what the URL leaves out), \
     `target_session_attrs=read-write|any`, `max_lifetime=10m`, `notify=CHANNEL`";

/// How long connecting takes at most, and one statement.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(10);
/// A name that stands for another server, or a password that is taken back, is noticed within this time.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// PostgreSQL cuts longer names, those of channels too.
const MAX_NAME: usize = 63;

/// A table, and how it is reached.
pub(super) struct TableAddress {
    pub(super) table: Route,
    /// The channel that is told of new rows.
    pub(super) notify: Option<String>,
    /// How long a connection is used.
    pub(super) max_lifetime: Duration,
    /// Whether a server that takes no writes is none.
    pub(super) has_to_take_writes: bool,
    /// Each server, without the password.
    pub(super) servers: Vec<Config>,
    /// The servers' names, in the same order.
    pub(super) names: Vec<String>,
    pub(super) password: Option<Password>,
    pub(super) tls: Option<Tls>,
}

impl TableAddress {
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        Self::parse_with(url, is_table_name)
    }

    /// Reads the URL of a reader, who may name a table that was made from an event.
    pub(super) fn parse_for_reader(url: &str) -> Result<Self, SinkUrlError> {
        Self::parse_with(url, |table| is_table_name(&table.to_ascii_lowercase()))
    }

    fn parse_with(url: &str, is_table_name: impl Fn(&str) -> bool) -> Result<Self, SinkUrlError> {
        let variable = |name: &str| std::env::var_os(name);
        let expanded = service::expand(url, variable)
            .map_err(|reason| SinkUrlError::new(url, reason, ALLOWED))?;
        let (whole, service) = expanded.unzip();
        let (address, others) = hosts::parse(whole.as_deref().unwrap_or(url), ALLOWED)?;
        let parameters = address.parameters(&[
            "table",
            "sslmode",
            "sslrootcert",
            "sslcert",
            "sslkey",
            "password_file",
            "passfile",
            "target_session_attrs",
            "max_lifetime",
            "notify",
            MAX_TARGETS,
        ])?;
        let table = Route::bounded(
            parameters.text("table").unwrap_or("events"),
            Encoding::identifier(MAX_TABLE_NAME),
            (&address, &parameters),
            "tables",
        )?;
        if !is_table_name(&table.with_each("x")) {
            return Err(address.wrong(
                "`table` is no plain name: letters, digits and `_`, at most 48, with or without the \
                 schema's name and a `.` in front",
            ));
        }
        let notify = parameters.text("notify").map(str::to_owned);
        if notify.as_ref().is_some_and(|name| name.len() > MAX_NAME) {
            return Err(address.wrong(format!("`notify` is longer than {MAX_NAME} bytes")));
        }
        let has_to_take_writes = match parameters.text("target_session_attrs") {
            None | Some("read-write") => true,
            Some("any") => false,
            Some(_) => {
                return Err(
                    address.wrong("`target_session_attrs` is neither `read-write` nor `any`")
                );
            }
        };
        let (mode, tls) = tls(&address, &parameters)?;
        let mut base = base(&address)?;
        base.ssl_mode(mode);
        let mut servers = Vec::new();
        let mut names = Vec::new();
        for address in std::iter::once(&address).chain(&others) {
            let (server, name) = server(&base, address)?;
            servers.push(server);
            names.push(name);
        }
        Ok(Self {
            notify,
            max_lifetime: max_lifetime(&address, &parameters)?,
            has_to_take_writes,
            servers,
            names,
            password: password(&address, &parameters, service, variable)?,
            tls,
            table,
        })
    }
}

/// What the servers have in common.
fn base(address: &Address) -> Result<Config, SinkUrlError> {
    let database = match address.path()?.as_slice() {
        [database] if !database.is_empty() => database.clone(),
        [] => return Err(address.wrong("it names no database")),
        _ => return Err(address.wrong("its path is more than the database's name")),
    };
    let user = address
        .user()?
        .ok_or_else(|| address.wrong("it names no user"))?;
    let mut config = Config::new();
    config
        .user(user)
        .dbname(database)
        .application_name(env!("CARGO_PKG_NAME"))
        .connect_timeout(STEP_LIMIT)
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(STEP_LIMIT);
    Ok(config)
}

/// One server, and its name.
fn server(base: &Config, address: &Address) -> Result<(Config, String), SinkUrlError> {
    let mut server = base.clone();
    let host = address.host();
    let host = percent_decode_str(&host)
        .decode_utf8()
        .map_err(|_| address.wrong("its host is not UTF-8 when percent-decoded"))?;
    let port = address.port_or(5432);
    server.port(port);
    if host.starts_with('/') {
        // The server speaks no TLS over a socket, and nobody is on the way.
        server.host_path(&*host).ssl_mode(SslMode::Disable);
        return Ok((server, host.into_owned()));
    }
    if host.contains(['/', '\0']) {
        return Err(address.wrong("its host is neither a name nor the folder of a socket"));
    }
    server.host(&*host);
    Ok((server, format!("{}:{port}", address.authority())))
}

fn tls(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<(SslMode, Option<Tls>), SinkUrlError> {
    let mode = match parameters.text("sslmode").unwrap_or("prefer") {
        "disable" => SslMode::Disable,
        "prefer" => SslMode::Prefer,
        "require" | "verify-full" => SslMode::Require,
        _ => return Err(address.wrong("`sslmode` is none of the known ones")),
    };
    let files = TlsFiles::of(
        parameters.text("sslrootcert"),
        parameters.text("sslcert"),
        parameters.text("sslkey"),
    )
    .ok_or_else(|| address.wrong("`sslcert` and `sslkey` go together"))?;
    if mode == SslMode::Disable {
        if !files.is_empty() {
            return Err(address.wrong(
                "`sslrootcert`, `sslcert` and `sslkey` mean nothing with `sslmode=disable`",
            ));
        }
        return Ok((mode, None));
    }
    let tls = Tls::new(files).map_err(|reason| address.wrong(reason))?;
    Ok((mode, Some(tls)))
}

/// The password, or where it is found: in the order in which libpq looks.
fn password(
    address: &Address,
    parameters: &Parameters<'_>,
    service: Option<Service>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Password>, SinkUrlError> {
    let given = address.password()?;
    if let Some(path) = parameters.text("password_file") {
        if given.is_some() {
            return Err(address.wrong("it has a password and a `password_file`"));
        }
        let secret = Secret::in_file(path).map_err(|reason| address.wrong(reason))?;
        return Ok(Some(Password::Given(secret)));
    }
    if let Some(given) = given {
        return Ok(Some(Password::Given(Secret::Given(given))));
    }
    if let Some(service) = service.filter(|service| service.has_password) {
        return Ok(Some(Password::OfService(Arc::new(service))));
    }
    if let Some(password) = variable("PGPASSWORD").and_then(|it| it.into_string().ok()) {
        let password = Secret::Given(SecretString::from(password));
        return Ok(Some(Password::Given(password)));
    }
    let file = match parameters.text("passfile") {
        Some(path) => Some(PassFile::new(path)),
        None => PassFile::of_user(variable),
    };
    Ok(file.map(|file| Password::InPassFile(Arc::new(file))))
}

fn max_lifetime(address: &Address, parameters: &Parameters<'_>) -> Result<Duration, SinkUrlError> {
    parameters
        .text("max_lifetime")
        .map_or(Ok(MAX_LIFETIME), |text| {
            humantime::parse_duration(text)
                .ok()
                .filter(|lifetime| !lifetime.is_zero())
                .ok_or_else(|| address.wrong("`max_lifetime` is no duration such as `10m`"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::Host;

    #[test]
    fn hosts_ports_and_sockets_are_read() {
        let address =
            TableAddress::parse("postgres://u@a,b:6432,[::1]:7,%2Frun%2Fpostgresql/db").unwrap();
        let hosts: Vec<_> = address
            .servers
            .iter()
            .map(|server| (server.get_hosts()[0].clone(), server.get_ports()[0]))
            .collect();
        assert_eq!(
            hosts,
            [
                (Host::Tcp("a".into()), 5432),
                (Host::Tcp("b".into()), 6432),
                (Host::Tcp("::1".into()), 7),
                (Host::Unix("/run/postgresql".into()), 5432)
            ]
        );
        assert_eq!(
            address.names,
            ["a:5432", "b:6432", "[::1]:7", "/run/postgresql"]
        );
        let modes: Vec<_> = address.servers.iter().map(Config::get_ssl_mode).collect();
        assert_eq!((modes[0], modes[3]), (SslMode::Prefer, SslMode::Disable));
    }
}

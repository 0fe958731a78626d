//! Connection services as libpq has them: sections of `pg_service.conf`, which say what a URL leaves out.
//! After <https://www.postgresql.org/docs/current/libpq-pgservice.html>.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};
use url::form_urlencoded;

const SERVICE: &str = "service";
/// What becomes a part of the URL before its parameters.
const OF_THE_URL: [&str; 5] = ["host", "port", "dbname", "user", "password"];
/// What becomes a parameter.
const PARAMETERS: [&str; 6] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "passfile",
];
/// What changes neither where the events go nor how well that is protected. The sink has its own.
const PASSED_OVER: [&str; 9] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

/// A section of a file.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    path: PathBuf,
    /// Whether it holds a password.
    pub(super) has_password: bool,
}

/// What a section says, without the password.
type Entries = Vec<(String, String)>;

impl Service {
    /// Returns the password that is in the file now. Blocks.
    pub(super) fn password(&self) -> Result<Option<SecretString>, String> {
        let section = section(&self.path, &self.name)?;
        Ok(section.and_then(|(_, password)| password))
    }
}

/// Puts what a service says into a URL that names one, where the URL says nothing itself. Returns the URL without the
/// service, and without a password that stands in the file; none if it names no service. Reads files.
pub(super) fn expand(
    url: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<(String, Service)>, String> {
    let Some((head, query)) = url.split_once('?') else {
        return Ok(None);
    };
    let (named, parameters): (Entries, Entries) = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .partition(|(name, _)| name == SERVICE);
    let name = match named.as_slice() {
        [] => return Ok(None),
        [(_, name)] if !name.is_empty() => name.clone(),
        [_] => return Err("the parameter `service` is empty".to_owned()),
        _ => return Err("the parameter `service` is there twice".to_owned()),
    };
    let Some((scheme, rest)) = head.split_once("://") else {
        return Ok(None);
    };
    let (path, entries, password) = found(&name, variable)?;
    let (authority, database) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (login, hosts) = match authority.rfind('@') {
        Some(at) => {
            let (login, hosts) = authority.split_at(at + 1);
            (login.strip_suffix('@').unwrap_or(login), hosts)
        }
        None => ("", authority),
    };
    let entry = |name: &str| {
        let found = entries.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let login = match (login, entry("user")) {
        ("", Some(user)) => encoded(user),
        (password, Some(user)) if password.starts_with(':') => encoded(user) + password,
        (login, _) => login.to_owned(),
    };
    let hosts = match hosts {
        "" => entry("host").map(|hosts| hosts.split(',').map(host).collect()),
        hosts => Some(hosts.split(',').map(str::to_owned).collect::<Vec<_>>()),
    };
    let hosts = with_ports(hosts.unwrap_or_default(), entry("port"))?;
    let database = match (database.trim_start_matches('/'), entry("dbname")) {
        ("", Some(name)) => format!("/{}", encoded(name)),
        _ => database.to_owned(),
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(&parameters);
    for name in PARAMETERS {
        if let Some(value) = entry(name)
            && !parameters.iter().any(|(known, _)| known == name)
        {
            query.append_pair(name, value);
        }
    }
    let login = match login.as_str() {
        "" => String::new(),
        login => format!("{login}@"),
    };
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    let url = format!(
        "{scheme}://{login}{}{database}{mark}{query}",
        hosts.join(",")
    );
    let service = Service {
        name,
        path,
        has_password: password.is_some(),
    };
    Ok(Some((url, service)))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A host as it stands in a URL.
fn host(name: &str) -> String {
    match name {
        name if name.starts_with('/') => encoded(name),
        name if name.contains(':') => format!("[{name}]"),
        name => name.to_owned(),
    }
}

/// Adds ports to hosts that have none: one for all of them, or one for each.
fn with_ports(hosts: Vec<String>, ports: Option<&str>) -> Result<Vec<String>, String> {
    let has_port = |host: &String| host.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let Some(ports) = ports.filter(|_| !hosts.iter().any(has_port)) else {
        return Ok(hosts);
    };
    let ports: Vec<&str> = ports.split(',').collect();
    if ports.len() != 1 && ports.len() != hosts.len() {
        return Err("the service has as many ports as hosts, or one".to_owned());
    }
    let with_port = |(host, port): (String, &&str)| match *port {
        "" => host,
        port => format!("{host}:{port}"),
    };
    Ok(hosts
        .into_iter()
        .zip(ports.iter().cycle())
        .map(with_port)
        .collect())
}

/// Looks for a service in the user's file, and then in that of the machine.
fn found(
    name: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(PathBuf, Entries, Option<SecretString>), String> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let own = match set("PGSERVICEFILE") {
        Some(path) => Some(PathBuf::from(path)),
        None => match cfg!(windows) {
            true => set("APPDATA").map(|it| Path::new(&it).join("postgresql/.pg_service.conf")),
            false => set("HOME").map(|it| Path::new(&it).join(".pg_service.conf")),
        }
        .filter(|path| path.exists()),
    };
    let shared = set("PGSYSCONFDIR")
        .map(|it| Path::new(&it).join("pg_service.conf"))
        .filter(|path| path.exists());
    let paths: Vec<PathBuf> = own.into_iter().chain(shared).collect();
    for path in &paths {
        if let Some((entries, password)) = section(path, name)? {
            return Ok((path.clone(), entries, password));
        }
    }
    let paths: Vec<_> = paths.iter().map(|it| it.display().to_string()).collect();
    Err(match paths.is_empty() {
        true => "there is no service file: neither PGSERVICEFILE, nor ~/.pg_service.conf, nor \
                 pg_service.conf in PGSYSCONFDIR"
            .to_owned(),
        false => format!("the service is not in {}", paths.join(", nor in ")),
    })
}

/// Reads a section; none if the file has no such section. Of two values for the same thing the first counts.
fn section(path: &Path, name: &str) -> Result<Option<(Entries, Option<SecretString>)>, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("the service file {}: {error}", path.display()))?;
    let mut entries = None::<(Entries, Option<SecretString>)>;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if entries.is_some() {
                break;
            }
            if header.split(']').next() == Some(name) {
                entries = Some(Default::default());
            }
            continue;
        }
        let Some((entries, password)) = &mut entries else {
            continue;
        };
        // The line is not shown: it may hold a password.
        let wrong = |what: &str| {
            format!(
                "the service file {}, line {}: {what}",
                path.display(),
                index + 1
            )
        };
        let Some((key, value)) = line.split_once('=') else {
            return Err(wrong("it is not `name=value`"));
        };
        match key {
            "password" => {
                password.get_or_insert_with(|| SecretString::from(value.to_owned()));
            }
            key if OF_THE_URL.contains(&key) || PARAMETERS.contains(&key) => {
                let is_known = entries.iter().any(|(known, _)| known == key);
                if !is_known && !value.is_empty() {
                    entries.push((key.to_owned(), value.to_owned()));
                }
            }
            key if PASSED_OVER.contains(&key) => {}
            _ => {
                return Err(wrong(&format!(
                    "the sink does not know that setting; it knows `{}`, `{}`, and passes over `{}`",
                    OF_THE_URL.join("`, `"),
                    PARAMETERS.join("`, `"),
                    PASSED_OVER.join("`, `")
                )));
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    const FILE: &str = "\
# Services of ours
[other]
host=elsewhere

[orders]
  host=db-1,::1,/run/postgresql
# two
port=5433,5434,5435
dbname=or/ders
user=sink@er
password=hun=ter2 x
sslmode=disable
user=second
application_name=psql
[orders]
host=later
[broken]
hunter2
[strange]
options=hunter2
[ports]
host=a,b
port=1,2,3
";

    fn with_file(url: &str) -> Result<Option<(String, Option<String>)>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services");
        fs::write(&path, FILE).unwrap();
        let variable = |name: &str| (name == "PGSERVICEFILE").then(|| path.clone().into());
        let Some((url, service)) = expand(url, variable)? else {
            return Ok(None);
        };
        let password = service.password()?;
        assert_eq!(password.is_some(), service.has_password);
        assert!(!format!("{url} {service:?}").contains("hun"));
        Ok(Some((
            url,
            password.map(|it| it.expose_secret().to_owned()),
        )))
    }

    #[test]
    fn a_service_says_what_the_url_leaves_out() {
        let password = Some("hun=ter2 x".to_owned());
        for (url, whole) in [
            (
                "postgres:///?service=orders&table=t",
                "postgres://sink%40er@db-1:5433,[::1]:5434,%2Frun%2Fpostgresql:5435/or%2Fders?table=t&sslmode=disable",
            ),
            (
                "postgres://?service=orders",
                "postgres://sink%40er@db-1:5433,[::1]:5434,%2Frun%2Fpostgresql:5435/or%2Fders?sslmode=disable",
            ),
            (
                "postgres://me:pw@h:1/db?sslmode=require&service=orders",
                "postgres://me:pw@h:1/db?sslmode=require",
            ),
        ] {
            let expanded = with_file(url).unwrap().unwrap();
            assert_eq!(expanded, (whole.to_owned(), password.clone()), "{url}");
        }
        assert_eq!(with_file("postgres://me@h/db?table=t"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_said_without_what_may_be_a_secret() {
        for (url, reason) in [
            ("postgres:///?service=none", "the service is not in"),
            ("postgres:///?service=", "empty"),
            ("postgres:///?service=orders&service=other", "twice"),
            ("postgres:///?service=broken", "line 18: it is not"),
            (
                "postgres:///?service=strange",
                "line 20: the sink does not know",
            ),
            ("postgres:///?service=ports", "as many ports as hosts"),
        ] {
            let error = with_file(url).unwrap_err();
            assert!(error.contains(reason), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
        let nothing = expand("postgres:///?service=orders", |_| None).unwrap_err();
        assert!(nothing.contains("no service file"), "{nothing}");
        let missing = |name: &str| (name == "PGSERVICEFILE").then(|| "/no/such/file".into());
        let error = expand("postgres:///?service=orders", missing).unwrap_err();
        assert!(error.contains("/no/such/file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn the_users_file_comes_before_that_of_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        write("pg_service.conf", "[a]\nhost=machine\n[b]\nhost=machine\n");
        let places = |name: &str| {
            ["HOME", "PGSYSCONFDIR"]
                .contains(&name)
                .then(|| directory.path().into())
        };
        let host = |service: &str| {
            let url = format!("postgres://u@/d?service={service}");
            expand(&url, places).unwrap().unwrap().0
        };
        assert_eq!(host("a"), "postgres://u@machine/d");
        write(".pg_service.conf", "[a]\nhost=own\n");
        assert_eq!(host("a"), "postgres://u@own/d");
        assert_eq!(host("b"), "postgres://u@machine/d");
    }
}

//! Passwords in a file as libpq has it, `.pgpass`: which file it is, whether it may be used, and what it says of a server.
//! After <https://www.postgresql.org/docs/current/libpq-pgpass.html>.

use secrecy::SecretString;
use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio_postgres::{Config, config::Host};
use tracing::warn;

/// Where servers listen that were not told otherwise: of these folders `.pgpass` has the name `localhost`.
const DEFAULT_FOLDERS: [&str; 3] = ["/tmp", "/run/postgresql", "/var/run/postgresql"];
const LOCALHOST: &str = "localhost";

/// A file of passwords. Read for each connection.
#[derive(Debug)]
pub(super) struct PassFile {
    path: PathBuf,
    /// Whether it was said that the file is passed over.
    was_said: AtomicBool,
}

impl PassFile {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            was_said: AtomicBool::new(false),
        }
    }

    /// Returns the file that the environment names, or the user's own; none without a home.
    pub(super) fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(path) = set("PGPASSFILE") {
            return Some(Self::new(path));
        }
        let path = match cfg!(windows) {
            true => Path::new(&set("APPDATA")?).join("postgresql/pgpass.conf"),
            false => Path::new(&set("HOME")?).join(".pgpass"),
        };
        Some(Self::new(path))
    }

    /// Returns the password for a server; none if the file is not there, has none for it, or is passed over because
    /// others may read it. Blocks.
    pub(super) fn password(&self, server: &Config) -> Option<SecretString> {
        let problem = match usable(&self.path) {
            Ok(text) => {
                self.was_said.store(false, Relaxed);
                return find(&text, server);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error,
        };
        if !self.was_said.swap(true, Relaxed) {
            warn!(path = %self.path.display(), %problem, "the file of passwords is passed over");
        }
        None
    }
}

/// Reads a file that nobody else may read.
fn usable(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(io::Error::other(format!(
                "its group or others may use it (0{:o}); it has to be 0600 or less",
                mode & 0o777
            )));
        }
    }
    fs::read_to_string(path)
}

/// Returns the password of the first line that is for a server.
fn find(text: &str, server: &Config) -> Option<SecretString> {
    let hosts: Vec<&str> = match server.get_hosts().first()? {
        Host::Tcp(name) => vec![name],
        #[cfg(unix)]
        Host::Unix(folder) => {
            let folder = folder.to_str()?;
            match DEFAULT_FOLDERS.contains(&folder) {
                true => vec![LOCALHOST, folder],
                false => vec![folder],
            }
        }
    };
    let port = server.get_ports().first()?.to_string();
    let (user, database) = (server.get_user()?, server.get_dbname()?);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let rest = hosts.iter().find_map(|host| after(line, host))?;
            let rest = after(after(after(rest, &port)?, database)?, user)?;
            Some(rest)
        })
        .map(|rest| SecretString::from(field(rest).0))
        .filter(|password| !secrecy::ExposeSecret::expose_secret(password).is_empty())
}

/// Returns what follows the first field of a line; none if the field is neither `*` nor this value.
fn after<'a>(line: &'a str, value: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let (read, rest) = field(line);
    rest.filter(|_| read == value)
}

/// Reads up to a `:`; a `\` takes its meaning from it, and from another `\`. Returns the field and what follows the `:`.
fn field(line: &str) -> (String, Option<&str>) {
    let mut read = String::new();
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (read, line.get(at + 1..)),
            '\\' => read.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            _ => read.push(character),
        }
    }
    (read, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn server(host: &str) -> Config {
        let mut server = Config::new();
        server.user("u:ser").dbname("db").port(5432);
        match host.starts_with('/') {
            true => server.host_path(host),
            false => server.host(host),
        };
        server
    }

    fn found(text: &str, host: &str) -> Option<String> {
        find(text, &server(host)).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn lines_are_read_as_libpq_reads_them() {
        for (line, password) in [
            (r"h:5432:db:u\:ser:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            (r"h:*:*:u\:ser:se\:cr\\et", Some(r"se:cr\et")),
            // What is behind an unescaped `:` is not the password's, and a last `\` stands for itself.
            (r"*:*:*:*:sec:ret", Some("sec")),
            (r"*:*:*:*:secret\", Some(r"secret\")),
            (r"*:*:*:*: secret # x", Some(" secret # x")),
            ("*:*:*:*:secret\r\n", Some("secret")),
            // A `*` is the whole field, or itself.
            ("h*:*:*:*:secret", None),
            ("**:*:*:*:secret", None),
            (r"\*:*:*:*:secret", None),
            ("H:*:*:*:secret", None),
            ("h:543:*:*:secret", None),
            ("h:5432:d:*:secret", None),
            ("h:5432:db:u:secret", None),
            ("#*:*:*:*:secret", None),
            (" *:*:*:*:secret", None),
            ("*:*:*:*", None),
            ("*:*:*:*:", None),
            ("", None),
        ] {
            assert_eq!(found(line, "h").as_deref(), password, "{line}");
        }
    }

    #[test]
    fn the_first_line_that_is_for_the_server_counts() {
        let text = "# of ours\n\nelse:*:*:*:one\nh:*:*:*:two\n*:*:*:*:three\n";
        assert_eq!(found(text, "h").as_deref(), Some("two"));
        assert_eq!(found(text, "other").as_deref(), Some("three"));
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_localhost_where_servers_make_it_by_themselves() {
        for (line, host, is_found) in [
            ("localhost:*:*:*:x", "/run/postgresql", true),
            ("/run/postgresql:*:*:*:x", "/run/postgresql", true),
            ("localhost:*:*:*:x", "/elsewhere", false),
            ("/elsewhere:*:*:*:x", "/elsewhere", true),
            (r"\:\:1:*:*:*:x", "::1", true),
        ] {
            assert_eq!(found(line, host).is_some(), is_found, "{line}");
        }
    }

    #[test]
    fn the_environment_says_which_file_it_is() {
        let path = |variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            PassFile::of_user(variable).map(|file| file.path)
        };
        let home = ("HOME", "/home/u");
        assert_eq!(path(&[home, ("PGPASSFILE", "/p")]), Some("/p".into()));
        #[cfg(unix)]
        assert_eq!(
            path(&[home, ("PGPASSFILE", "")]),
            Some("/home/u/.pgpass".into())
        );
        assert_eq!(path(&[]), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_passed_over() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        let file = PassFile::new(&path);
        assert!(file.password(&server("h")).is_none(), "it is not there");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        for (mode, is_used) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.password(&server("h")).is_some(), is_used, "{mode:o}");
        }
        assert!(
            PassFile::new(directory.path())
                .password(&server("h"))
                .is_none()
        );
        assert!(!format!("{file:?}").contains("secret"));
    }
}

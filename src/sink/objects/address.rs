//! What the URL of an object store names. Knows nothing of events.

use super::{encoding::Compression, place::Place};
use crate::sink::{
    Filling, SinkUrlError,
    shared::{
        address::{Address, Parameters},
        http_client::is_here,
    },
};
use object_store::path::Path;
use secrecy::ExposeSecret as _;
use std::{path::PathBuf, time::Duration};
use url::Url;

const ALLOWED: &str = "`s3://[KEY:SECRET@]bucket[/prefix]`, `gs://bucket[/prefix]`, `az://container[/prefix]` or \
     `file:///folder`, with the parameters `format=jsonl`, `compression=zstd|gzip|none`, `max_size=16MiB`, `max_age=5m`; \
     `tls_ca=FILE` for all but `file:`; `region=NAME`, `endpoint=URL` and `allow_http=true` for `s3:`; `account=NAME` for `az:`";

/// The default of `max_size`: 16 MiB of JSON.
const MAX_SIZE: usize = 16 * 1024 * 1024;
/// The most that it may be: the batch is in memory, and so is its object.
const MOST_SIZE: usize = 64 * 1024 * 1024;
/// The default of `max_age`.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
const AGES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// Where objects go, and what they are like.
pub(super) struct ObjectAddress {
    pub(super) name: String,
    pub(super) place: Place,
    /// What the name of each object begins with.
    pub(super) prefix: Path,
    pub(super) compression: Compression,
    pub(super) filling: Filling,
}

impl ObjectAddress {
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        if url.starts_with("file:") {
            return folder(url);
        }
        let address = Address::parse(url, ALLOWED)?;
        let scheme = address.scheme().to_owned();
        let own: &[&str] = match &*scheme {
            "s3" => &["tls_ca", "region", "endpoint", "allow_http"],
            "az" => &["tls_ca", "account"],
            _ => &["tls_ca"],
        };
        let parameters = address.parameters(&[OF_OBJECTS, own].concat())?;
        if address.port_or(0) != 0 {
            return Err(address.wrong("it has a port; an S3-compatible server is the `endpoint`"));
        }
        let keys = match (address.user()?, address.password()?) {
            (None, None) => None,
            (Some(user), Some(password)) if scheme == "s3" => Some((user, password)),
            _ if scheme == "s3" => {
                return Err(address.wrong("an access key and its secret go together"));
            }
            _ => return Err(address.wrong("its credentials come from the environment alone")),
        };
        let bucket = address.authority().to_owned();
        let mut parts = address.path()?;
        // `s3://bucket/prefix/` is the same place.
        if parts.last().is_some_and(String::is_empty) {
            parts.pop();
        }
        if parts.iter().any(|part| matches!(&**part, "" | "." | "..")) {
            return Err(address.wrong("a part of its path is empty or made of dots"));
        }
        let prefix = Path::from_iter(parts);
        let roots = parameters.text("tls_ca").map(PathBuf::from);
        let text = |name: &str| parameters.text(name);
        let place = match &*scheme {
            "s3" => {
                let endpoint = endpoint(&address, &parameters)?;
                let keys = keys
                    .as_ref()
                    .map(|(user, password)| (&**user, password.expose_secret()));
                Place::s3(&bucket, keys, text("region"), endpoint, roots)
            }
            "gs" => Place::gs(&bucket, roots),
            _ => Place::az(&bucket, text("account"), roots),
        };
        let slash = if prefix.as_ref().is_empty() { "" } else { "/" };
        Ok(Self {
            name: format!("{scheme} {bucket}{slash}{prefix}"),
            place: place.map_err(|reason| address.wrong(reason))?,
            prefix,
            compression: compression(&address, &parameters)?,
            filling: filling(&address, &parameters)?,
        })
    }
}

/// What every place has.
const OF_OBJECTS: &[&str] = &["format", "compression", "max_size", "max_age"];

fn folder(url: &str) -> Result<ObjectAddress, SinkUrlError> {
    let address = Address::parse_without_host(url, ALLOWED)?;
    let parameters = address.parameters(OF_OBJECTS)?;
    let parts = address.path()?;
    if parts.is_empty() {
        return Err(address.wrong("it names no folder"));
    }
    let folder: PathBuf = std::iter::once("/".to_owned()).chain(parts).collect();
    Ok(ObjectAddress {
        name: format!("file {}", folder.display()),
        place: Place::Folder(folder),
        prefix: Path::default(),
        compression: compression(&address, &parameters)?,
        filling: filling(&address, &parameters)?,
    })
}

/// A server that speaks as S3 does, and whether it may be spoken to without TLS.
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) is_here: bool,
    pub(super) allows_http: bool,
}

fn endpoint(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<Option<Endpoint>, SinkUrlError> {
    let allows_http = parameters.read("allow_http", "`true` or `false`")? == Some(true);
    let Some(text) = parameters.text("endpoint") else {
        return match allows_http {
            true => Err(address.wrong("`allow_http` needs an `endpoint`")),
            false => Ok(None),
        };
    };
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .ok_or_else(|| address.wrong("`endpoint` is no URL such as `https://host:9000`"))?;
    let is_here = is_here(&url);
    if url.scheme() == "http" && !is_here && !allows_http {
        return Err(address.wrong(
            "its `endpoint` is plain HTTP to another machine; `allow_http=true` permits that",
        ));
    }
    Ok(Some(Endpoint {
        allows_http: url.scheme() == "http",
        url,
        is_here,
    }))
}

fn compression(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<Compression, SinkUrlError> {
    if parameters.text("format").is_some_and(|it| it != "jsonl") {
        return Err(address.wrong("`format` is not `jsonl`"));
    }
    match parameters.text("compression") {
        None | Some("zstd") => Ok(Compression::Zstd),
        Some("gzip") => Ok(Compression::Gzip),
        Some("none") => Ok(Compression::None),
        Some(_) => Err(address.wrong("`compression` is none of `zstd`, `gzip` and `none`")),
    }
}

fn filling(address: &Address, parameters: &Parameters<'_>) -> Result<Filling, SinkUrlError> {
    let size = parameters.text("max_size").map(|text| {
        bytes(text).filter(|size| (1..=MOST_SIZE).contains(size)).ok_or_else(|| {
            address.wrong("`max_size` is no number of bytes up to 64 MiB, such as `500000`, `64KiB` or `16MiB`")
        })
    });
    let age = parameters.text("max_age").map(|text| {
        humantime::parse_duration(text)
            .ok()
            .filter(|age| AGES.contains(age))
            .ok_or_else(|| {
                address.wrong("`max_age` is no duration from `1s` to `1day`, such as `5m`")
            })
    });
    Ok(Filling::new(
        size.transpose()?.unwrap_or(MAX_SIZE),
        age.transpose()?.unwrap_or(MAX_AGE),
    ))
}

fn bytes(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix("MiB") {
        Some(number) => (number, 1024 * 1024),
        None => match text.strip_suffix("KiB") {
            Some(number) => (number, 1024),
            None => (text, 1),
        },
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_prefix_and_bounds_are_read() {
        let address = ObjectAddress::parse(
            "s3://key:s%2Fecret@bucket/a%20b/c/?region=eu-1&endpoint=http://127.0.0.1:9000&max_size=2KiB&max_age=90s",
        )
        .unwrap();
        assert_eq!(address.name, "s3 bucket/a b/c");
        assert_eq!(address.prefix.as_ref(), "a b/c");
        let filling = Filling::new(2048, Duration::from_secs(90));
        assert_eq!(address.filling, filling);
        let address = ObjectAddress::parse("file:///var/lib/a%20b?compression=none").unwrap();
        assert_eq!(address.name, "file /var/lib/a b");
        assert_eq!(address.compression, Compression::None);
        assert_eq!(address.filling, Filling::new(MAX_SIZE, MAX_AGE));
    }

    #[test]
    fn every_kind_of_place_opens() {
        for (url, name) in [
            ("s3://bucket?region=eu-central-1", "s3 bucket"),
            ("gs://bucket/p", "gs bucket/p"),
            ("az://container/p?account=one", "az container/p"),
        ] {
            assert_eq!(ObjectAddress::parse(url).unwrap().name, name);
        }
    }
}

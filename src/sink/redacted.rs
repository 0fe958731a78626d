//! A sink's URL as it may be shown. Knows no scheme and no sink.

/// A URL as it may be shown: user name, password and parameters are left out. A password that was not
/// percent-encoded may look like a path or a parameter; where in doubt, more is left out. So is the path where a
/// webhook has its secret, and what may be a write key in the place of a host.
pub(crate) fn redacted(url: &str) -> String {
    let (shown, parameters) = match url.find(['?', '#']) {
        Some(end) => url.split_at(end),
        None => (url, ""),
    };
    let (scheme, rest) = match shown.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        // No authority part that a parser would see; a stray `@` may still follow a password.
        None => (String::new(), shown),
    };
    if parameters.contains('@') {
        return format!("{scheme}***");
    }
    let rest = match (&*scheme, rest.rsplit_once('@')) {
        ("http://" | "https://", _) => {
            let (before, user) = match rest.rsplit_once('@') {
                Some((_, rest)) => (rest, "***@"),
                None => (rest, ""),
            };
            let (host, path) = before.split_once('/').unwrap_or((before, ""));
            let path = if path.is_empty() { "" } else { "/***" };
            return match has_odd_port(host) {
                true => format!("{scheme}***"),
                false => format!("{scheme}{user}{host}{path}"),
            };
        }
        ("segment://", None) if !rest.contains('.') && !rest.starts_with("localhost") => "***",
        _ => rest,
    };
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}***@{rest}"),
        None if !scheme.is_empty() && has_odd_port(rest) => format!("{scheme}***"),
        None => format!("{scheme}{rest}"),
    }
}

/// Whether what stands before the path may be a user and a password without a host.
fn has_odd_port(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    authority.split(',').any(|host| {
        host.rsplit_once(':').is_some_and(|(host, port)| {
            let is_ipv6 = host.starts_with('[') && port.ends_with(']');
            !is_ipv6 && !port.chars().all(|digit| digit.is_ascii_digit())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(redacted("nats://u:p@h:1/s?token=t"), "nats://***@h:1/s");
        assert_eq!(redacted("u:p@h"), "***@h");
        assert_eq!(redacted("redis://h/s"), "redis://h/s");
        assert_eq!(redacted("redis://h:6379/s"), "redis://h:6379/s");
        assert_eq!(redacted("redis://[::1]:6379/s"), "redis://[::1]:6379/s");
        assert_eq!(redacted("redis://[::1]/s"), "redis://[::1]/s");
        assert_eq!(redacted("kafka://a:1,b/t"), "kafka://a:1,b/t");
        assert_eq!(redacted("postgres://u:p"), "postgres://***");
        assert_eq!(redacted("redis://u:pa/ss@h/s"), "redis://***@h/s");
        assert_eq!(redacted("redis://u:p@a/ss@h/s"), "redis://***@h/s");
        assert_eq!(redacted("redis://u:pa?ss@h/s"), "redis://***");
        assert_eq!(redacted("https://h/services/T0/B1"), "https://h/***");
        assert_eq!(redacted("https://u:p@h:1/in?a=b"), "https://***@h:1/***");
        assert_eq!(redacted("http://u:pa/ss@h/x"), "http://***@h/***");
        assert_eq!(redacted("https://h:1/"), "https://h:1");
        assert_eq!(redacted("https://u:p"), "https://***");
        assert_eq!(redacted("segment://k3y"), "segment://***");
        assert_eq!(redacted("segment://k3y@"), "segment://***@");
        assert_eq!(redacted("segment://localhost:1"), "segment://localhost:1");
        assert_eq!(redacted("segment://a.b?tls=false"), "segment://a.b");
    }
}

//! Where a backend is: scheme, host, port and path prefix, checked once.

use std::{fmt, net::Ipv6Addr};

/// The address of a backend, as in "https://10.0.0.6:8443/prefix".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BackendUrl {
    /// Whether it is https.
    pub tls: bool,
    /// A name or an address, lower case; an IPv6 address without brackets.
    pub host: String,
    /// 1 to 65535; 80 or 443 when none was written.
    pub port: u16,
    /// What comes before the API path: empty, or "/x" without a slash at its end.
    pub prefix: String,
}

impl BackendUrl {
    /// Host and port for a Host header and for connecting, as in `10.0.0.6:8443` or `[::1]:80`.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.prefix)
    }
}

impl TryFrom<&str> for BackendUrl {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let (scheme, rest) = text.split_once("://").ok_or("must start with http:// or https://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("must start with http:// or https://"),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must not have spaces, control or non-ASCII characters");
        }
        if rest.contains(['?', '#']) {
            return Err("must not have a query or a fragment");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("must not have a user or a password; name a secret in the pool's credential");
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(digits) => parse_port(digits)?,
            None if tls => 443,
            None => 80,
        };
        Ok(Self { tls, host: parse_host(host)?, port, prefix: path.trim_end_matches('/').to_owned() })
    }
}

/// Takes the port off; an IPv6 address keeps its colons inside brackets.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    let after_host = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_host..].split_once(':') {
        Some((middle, port)) => Ok((&authority[..after_host + middle.len()], Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(digits: &str) -> Result<u16, &'static str> {
    match digits.parse() {
        Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err("must have a port from 1 to 65535, or none"),
    }
}

fn parse_host(host: &str) -> Result<String, &'static str> {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err("must have an IPv6 address between its brackets"),
        };
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(is_label) {
        Ok(host.to_ascii_lowercase())
    } else {
        Err("must have a host: a name, an IPv4 address, or an IPv6 address in brackets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_backend_url_is_refused() {
        for bad in [
            "",
            "gpu-1:8000",
            "ftp://gpu-1",
            "http://",
            "http:///v1",
            "http://gpu 1",
            "http://gpu-1:0",
            "http://gpu-1:65536",
            "http://gpu-1:+80",
            "http://gpu-1:",
            "http://user:pw@gpu-1",
            "http://gpu-1/?a=b",
            "http://gpu-1/#x",
            "http://[::1",
            "http://[gpu]",
            "http://::1",
            "http://-a.b",
            "http://a..b",
            "http://gpü",
            "http://[::1]x:80",
            "http://a:80:80",
        ] {
            assert!(BackendUrl::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_is_taken_apart_and_put_together() {
        for (text, shown) in [
            ("http://gpu-1:8000", "http://gpu-1:8000"),
            ("HTTPS://GPU-1.example.com/", "https://gpu-1.example.com:443"),
            ("http://10.0.0.5/openai/", "http://10.0.0.5:80/openai"),
            ("https://[0::1]:8443/a/b", "https://[::1]:8443/a/b"),
        ] {
            let url = BackendUrl::try_from(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(BackendUrl::try_from(shown), Ok(url));
        }
        let url = BackendUrl::try_from("https://[::1]/x").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.prefix.as_str()), ("::1", 443, "/x"));
        assert_eq!(url.authority(), "[::1]:443");
    }
}

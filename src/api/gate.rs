//! What a request's head must look like before anyone acts on it: one `Host` that is served here,
//! at most one of each header that bears a key, no key in the address, and no web page calling that was not invited.
//!
//! A page anywhere on the web can make a browser send requests to this machine, and with a DNS
//! name that is rebound to a loopback address it could read the answers too. The `Host` header
//! then still bears the page's name, and `Origin` names the page: both are checked.

use std::net::IpAddr;

use domain::{BadRequest, Fault, KEY_PREFIX, KeySecret};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};

use crate::auth::{X_API_KEY, X_GOOG_API_KEY};
use crate::ingress::IngressConfig;

/// The rules of one listener.
#[derive(Debug)]
pub(crate) struct Gate {
    hosts: Vec<HostName>,
    serves_any_host: bool,
    /// True where the listener can be reached from outside.
    serves_addresses: bool,
    origins: Vec<String>,
    serves_any_origin: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct HostName {
    name: String,
    /// `None` is any.
    port: Option<u16>,
}

/// The one place by which browsers know the operator's listener, where it has one: it is served and may
/// call, whatever a proxy makes of `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    origin: String,
    /// As a browser writes it into `Host`.
    host: String,
}

impl Home {
    pub fn of(origin: &str) -> Self {
        let origin = origin.to_ascii_lowercase();
        let (_scheme, host) = origin.split_once("://").unwrap_or_default();
        let host = host.to_owned();
        Self { origin, host }
    }

    pub fn is_origin(&self, origin: &str) -> bool {
        self.origin.eq_ignore_ascii_case(origin)
    }

    fn is_host(&self, host: &str) -> bool {
        self.host.eq_ignore_ascii_case(host)
    }
}

impl Gate {
    /// `is_loopback` says whether the listener is bound to a loopback address.
    pub fn new(config: &IngressConfig, is_loopback: bool) -> Self {
        let host = |text: &String| {
            split_host(text).map(|(name, port)| HostName {
                name: name.to_ascii_lowercase(),
                port,
            })
        };
        Self {
            hosts: config.hosts.iter().filter_map(host).collect(),
            serves_any_host: config.hosts.iter().any(|host| host == "*"),
            serves_addresses: !is_loopback,
            origins: config
                .origins
                .iter()
                .map(|origin| origin.trim_end_matches('/').to_ascii_lowercase())
                .collect(),
            serves_any_origin: config.origins.iter().any(|origin| origin == "*"),
        }
    }

    /// Lets a request pass. `Some` is the foreign origin that was invited: the answer must name it.
    ///
    /// # Errors
    /// `BadRequest` for a head that must not occur, `Forbidden` for a host or origin not served.
    pub fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        home: Option<&Home>,
    ) -> Result<Option<HeaderValue>, Fault> {
        let host = only(headers, HOST, "Host")?.ok_or_else(|| malformed("Host", "is missing"))?;
        let host_text = host.to_str().unwrap_or_default();
        // An absolute request target overrules `Host` (RFC 9112, section 3.2.2); both must be ours.
        let target = uri
            .authority()
            .map_or(host_text, |authority| authority.as_str());
        let serves = |host| self.serves(host) || home.is_some_and(|home| home.is_host(host));
        if !(serves(host_text) && serves(target)) {
            return Err(Fault::Forbidden { what: FOREIGN_HOST });
        }
        only(headers, AUTHORIZATION, "Authorization")?;
        only(headers, X_API_KEY, "x-api-key")?;
        only(headers, X_GOOG_API_KEY, "x-goog-api-key")?;
        if has_key(uri) {
            return Err(Fault::BadRequest(BadRequest {
                param: None,
                code: Some("key_in_address".to_owned()),
                message: KEY_IN_ADDRESS.to_owned(),
            }));
        }
        let Some(origin) = only(headers, ORIGIN, "Origin")? else {
            return Ok(None);
        };
        if home.is_some_and(|home| home.is_origin(origin.to_str().unwrap_or_default())) {
            return Ok(None);
        }
        self.check_origin(origin, host_text)
    }

    fn check_origin(&self, origin: &HeaderValue, host: &str) -> Result<Option<HeaderValue>, Fault> {
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if self.serves_any_origin || self.origins.contains(&text) {
            return Ok(Some(origin.clone()));
        }
        let own = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"));
        if own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            return Ok(None);
        }
        Err(Fault::Forbidden {
            what: FOREIGN_ORIGIN,
        })
    }

    fn serves(&self, host: &str) -> bool {
        let Some((name, port)) = split_host(host) else {
            return false;
        };
        if self.serves_any_host || is_loopback(name) {
            return true;
        }
        if self.serves_addresses && address(name).is_some() {
            return true;
        }
        let name = name.trim_end_matches('.');
        self.hosts.iter().any(|own| {
            own.name.eq_ignore_ascii_case(name) && own.port.is_none_or(|own| Some(own) == port)
        })
    }
}

const FOREIGN_HOST: &str = "the Host header names a host that this server does not answer for; \
     use localhost, or have the operator add the name to `hosts`";
const FOREIGN_ORIGIN: &str = "web pages of this Origin may not call this server; the operator can \
     add it to `origins`";

const KEY_IN_ADDRESS: &str = "the address bears an API key, and addresses end up in logs: send it in a \
     header, and have this one rotated";

/// Whether a key that hedge made stands in the address.
fn has_key(uri: &Uri) -> bool {
    let text = uri.path_and_query().map_or("", |it| it.as_str());
    let mut rest = text;
    while let Some(at) = rest.find(KEY_PREFIX) {
        let found = &rest[at..];
        let after = &found[KEY_PREFIX.len()..];
        let end = after.find(|it: char| !it.is_ascii_hexdigit());
        let word = &found[..KEY_PREFIX.len() + end.unwrap_or(after.len())];
        if !KeySecret::is_mistyped(word.as_bytes()) {
            return true;
        }
        rest = after;
    }
    false
}

fn malformed(name: &str, what: &str) -> Fault {
    Fault::BadRequest(BadRequest {
        param: None,
        code: Some("malformed_head".to_owned()),
        message: format!("the {name} header {what}; send exactly one"),
    })
}

/// The header's only value.
fn only<'a>(
    headers: &'a HeaderMap,
    name: http::HeaderName,
    shown: &str,
) -> Result<Option<&'a HeaderValue>, Fault> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(malformed(shown, "came more than once")),
    }
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`; `None` for anything else.
fn split_host(host: &str) -> Option<(&str, Option<u16>)> {
    let end = if host.starts_with('[') {
        host.find(']')? + 1
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let (name, rest) = host.split_at_checked(end)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]%*".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_plain) {
        return None;
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((name, None)),
        None => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((name, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || address(name).is_some_and(|address| address.to_canonical().is_loopback())
}

fn address(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(is_loopback: bool) -> Gate {
        Gate::new(&IngressConfig::default(), is_loopback)
    }

    #[test]
    fn addresses_are_served_where_they_can_be_reached() {
        for address in ["192.0.2.7", "192.0.2.7:8787", "[2001:db8::1]:80"] {
            assert!(gate(false).serves(address), "{address}");
            assert!(!gate(true).serves(address), "{address}");
        }
        for name in [
            "evil.example",
            "192.0.2.7.evil.example",
            "3221225991",
            "0x7f.1",
        ] {
            assert!(!gate(false).serves(name), "{name}");
        }
    }

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        let cases = [
            ("a.example", Some(("a.example", None))),
            ("a.example:80", Some(("a.example", Some(80)))),
            ("[::1]", Some(("[::1]", None))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("", None),
            (":80", None),
            ("a:", None),
            ("a:80:80", None),
            ("a:65536", None),
            ("[::1", None),
            ("[::1]x", None),
            ("user@a", None),
            ("a b", None),
        ];
        for (host, split) in cases {
            assert_eq!(split_host(host), split, "{host}");
        }
    }

    #[test]
    fn a_key_in_the_address_is_refused_and_what_looks_like_one_is_not() {
        let key = KeySecret::of([7; 32]);
        let key = key.expose();
        let short = &key[..key.len() - 1];
        for (address, has) in [
            (format!("/v1/models?key={key}"), true),
            (format!("/v1/{key}/models"), true),
            (format!("/v1/models?a=hk_&b={key}&c"), true),
            (format!("/v1/models?key={short}"), false),
            (format!("/v1/models?key={key}0"), false),
            ("/v1/models/hk_model".to_owned(), false),
            ("/v1/models?key=sk-1".to_owned(), false),
            ("/".to_owned(), false),
        ] {
            assert_eq!(has_key(&address.parse().unwrap()), has, "{address}");
        }
    }

    #[test]
    fn the_home_of_browsers_is_served_under_its_own_name_alone() {
        let home = Home::of("https://hedge.example:8443");
        let check = |host: &'static str, origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            gate(true).check(&Uri::from_static("/"), &headers, Some(&home))
        };
        for (host, origin, passes) in [
            ("hedge.example:8443", "https://hedge.example:8443", true),
            ("127.0.0.1:8788", "https://hedge.example:8443", true),
            ("127.0.0.1:8788", "http://127.0.0.1:8788", true),
            ("hedge.example", "https://hedge.example:8443", false),
            ("evil.example", "https://hedge.example:8443", false),
            ("hedge.example:8443", "https://hedge.example", false),
            ("hedge.example:8443", "https://evil.example", false),
            ("hedge.example:8443", "null", false),
        ] {
            assert_eq!(check(host, origin).is_ok(), passes, "{host} {origin}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("hedge.example:8443"));
        assert!(
            gate(true)
                .check(&Uri::from_static("/"), &headers, None)
                .is_err()
        );
    }

    #[test]
    fn a_star_serves_every_name_and_every_page() {
        let config = IngressConfig {
            hosts: vec!["*".into()],
            origins: vec!["*".into()],
            ..IngressConfig::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("any.example"));
        headers.insert(ORIGIN, HeaderValue::from_static("https://page.example"));
        let invited = Gate::new(&config, true).check(&Uri::from_static("/"), &headers, None);
        assert_eq!(
            invited,
            Ok(Some(HeaderValue::from_static("https://page.example")))
        );
    }
}

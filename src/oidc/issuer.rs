//! The two addresses that a configuration names: who vouches, and where a browser comes back to.

use domain::is_this_machine;
use reqwest::Url;

/// Behind the issuer (OpenID Connect Discovery 1.0, section 4).
const WELL_KNOWN: &str = ".well-known/openid-configuration";
/// Where browsers come back to: the one path, so that nothing that is sent chooses another.
pub(crate) const CALLBACK_PATH: &str = "/admin/callback";

/// Why an address is none that may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceFault {
    #[error("is not an address such as https://login.example")]
    NoAddress,
    #[error("must be https, but on this machine alone: passwords, codes and sessions go over it")]
    Plain,
    #[error("has a name, a password, a query or a fragment, which it may not have")]
    Decorated,
    #[error("must end in the path /admin/callback, as https://hedge.example/admin/callback")]
    WrongPath,
}

/// Who vouches, by its name, which is its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// As it was written: it is compared as text (OpenID Connect Core, section 3.1.3.7).
    name: String,
    url: Url,
}

impl Issuer {
    /// # Errors
    /// It is no https address, or bears more than one.
    pub fn parse(text: &str) -> Result<Self, PlaceFault> {
        let url = place(text)?;
        Ok(Self {
            name: text.to_owned(),
            url,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn document(&self) -> Url {
        let mut url = self.url.clone();
        let path = url.path().trim_end_matches('/');
        url.set_path(&format!("{path}/{WELL_KNOWN}"));
        url
    }

    /// An endpoint of its own, which is reached as safely as itself.
    pub(crate) fn endpoint(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(Url::has_host)?;
        let is_near = self.url.scheme() == "http" && is_loopback(&url);
        let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_near);
        let is_plain = url.username().is_empty() && url.password().is_none();
        (is_safe && is_plain && url.fragment().is_none()).then_some(url)
    }
}

/// Where a browser comes back to, by the name that it has for this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUrl(Url);

impl RedirectUrl {
    /// # Errors
    /// It is no https address, or has another path than there is.
    pub fn parse(text: &str) -> Result<Self, PlaceFault> {
        let url = place(text)?;
        if url.path() != CALLBACK_PATH {
            return Err(PlaceFault::WrongPath);
        }
        Ok(Self(url))
    }

    /// As a browser writes it into `Origin`.
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

fn place(text: &str) -> Result<Url, PlaceFault> {
    let url = Url::parse(text).map_err(|_| PlaceFault::NoAddress)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(PlaceFault::NoAddress);
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(PlaceFault::Plain);
    }
    let is_bare = url.username().is_empty() && url.password().is_none();
    if !is_bare || url.query().is_some() || url.fragment().is_some() {
        return Err(PlaceFault::Decorated);
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(is_this_machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_https_or_on_this_machine() {
        for (text, document) in [
            (
                "https://login.example",
                "https://login.example/.well-known/openid-configuration",
            ),
            (
                "https://login.example/realms/acme/",
                "https://login.example/realms/acme/.well-known/openid-configuration",
            ),
            (
                "http://127.0.0.1:9000",
                "http://127.0.0.1:9000/.well-known/openid-configuration",
            ),
            (
                "http://[::1]:9000",
                "http://[::1]:9000/.well-known/openid-configuration",
            ),
        ] {
            let issuer = Issuer::parse(text).unwrap();
            assert_eq!(issuer.name(), text);
            assert_eq!(issuer.document().as_str(), document);
        }
        for (text, fault) in [
            ("login.example", PlaceFault::NoAddress),
            ("", PlaceFault::NoAddress),
            ("ftp://login.example", PlaceFault::NoAddress),
            ("http://login.example", PlaceFault::Plain),
            ("http://10.0.0.1", PlaceFault::Plain),
            ("http://127.0.0.1.evil.example", PlaceFault::Plain),
            ("https://me:pw@login.example", PlaceFault::Decorated),
            ("https://login.example?tenant=1", PlaceFault::Decorated),
            ("https://login.example#a", PlaceFault::Decorated),
        ] {
            assert_eq!(Issuer::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_as_safe_as_its_issuer() {
        let far = Issuer::parse("https://login.example").unwrap();
        let near = Issuer::parse("http://localhost:9000").unwrap();
        for (text, of_far, of_near) in [
            ("https://keys.example/jwks?v=1", true, true),
            ("http://127.0.0.1:9000/token", false, true),
            ("http://login.example/token", false, false),
            ("https://me:pw@login.example/token", false, false),
            ("https://login.example/token#x", false, false),
            ("file:///etc/passwd", false, false),
            ("/token", false, false),
        ] {
            assert_eq!(far.endpoint(text).is_some(), of_far, "{text}");
            assert_eq!(near.endpoint(text).is_some(), of_near, "{text}");
        }
    }

    #[test]
    fn browsers_come_back_to_one_path() {
        let url = RedirectUrl::parse("https://hedge.example:8443/admin/callback").unwrap();
        assert_eq!(url.origin(), "https://hedge.example:8443");
        assert!(url.is_https());
        let url = RedirectUrl::parse("http://localhost:8788/admin/callback").unwrap();
        assert_eq!(
            (url.origin().as_str(), url.is_https()),
            ("http://localhost:8788", false)
        );
        for (text, fault) in [
            ("https://hedge.example/", PlaceFault::WrongPath),
            (
                "https://hedge.example/admin/callback/",
                PlaceFault::WrongPath,
            ),
            ("http://hedge.example/admin/callback", PlaceFault::Plain),
            (
                "https://hedge.example/admin/callback?a=1",
                PlaceFault::Decorated,
            ),
        ] {
            assert_eq!(RedirectUrl::parse(text), Err(fault), "{text}");
        }
    }
}

//! A Redis or Valkey that several replicas share: where it is, and which node of a cluster has somebody's
//! keys.

use std::fmt;

use redis::{Client, ConnectionAddr, RedisError, TlsCertificates};

/// How a certificate begins in a file of them.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Where a Redis is, who asks, and who may vouch for it. Shows neither password nor user.
#[derive(Clone)]
pub struct RedisAddress(Client);

/// Why there is no address. It holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisAddressFault {
    #[error("must be `redis://HOST:PORT`, `rediss://HOST:PORT` or `unix:///PATH`")]
    NoUrl,
    #[error("holds no certificates in PEM")]
    NoCertificates,
}

impl RedisAddress {
    /// Who answers at `rediss://` must be vouched for by the usual authorities.
    ///
    /// # Errors
    /// `url` is no address.
    pub fn new(url: &str) -> Result<Self, RedisAddressFault> {
        let client = Client::open(url).map_err(|_| RedisAddressFault::NoUrl)?;
        Ok(Self(client))
    }

    /// Who answers must be vouched for by one of those in `pem`. Without encryption nobody is.
    ///
    /// # Errors
    /// There is none in it, or one that is no authority.
    pub fn with_authorities(self, pem: &str) -> Result<Self, RedisAddressFault> {
        if !pem.contains(CERTIFICATE) {
            return Err(RedisAddressFault::NoCertificates);
        }
        if !self.is_encrypted() {
            return Ok(self);
        }
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.into()),
        };
        let known = self.0.get_connection_info().clone();
        let client = Client::build_with_tls(known, certificates);
        client
            .map(Self)
            .map_err(|_| RedisAddressFault::NoCertificates)
    }

    /// Whether who answers is checked, and nobody on the way can read.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Whether what is sent leaves this machine unencrypted.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let ConnectionAddr::Tcp(host, _) = self.addr() else {
            return false;
        };
        !matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1" | "[::1]")
    }

    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }

    fn addr(&self) -> &ConnectionAddr {
        self.0.get_connection_info().addr()
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

/// Scheme, host and port, or a socket: what may be shown.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr() {
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}"),
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}"),
            ConnectionAddr::Unix(path) => write!(f, "unix://{}", path.display()),
            _ => f.write_str("elsewhere"),
        }
    }
}

/// The node that an error names as the one to ask, reached as `home` is; `None` where it names none.
pub(crate) fn moved(home: &Client, error: &RedisError) -> Option<Client> {
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let known = home.get_connection_info().clone();
    let addr = match known.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    Client::open(known.set_addr(addr)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_redis_and_shows_no_secret() {
        for (text, shown, is_exposed) in [
            (
                "redis://hedge:s3cret@cache.example",
                "redis://cache.example:6379",
                true,
            ),
            ("redis://:s3cret@localhost:1", "redis://localhost:1", false),
            (
                "rediss://hedge:s3cret@cache.example:6380/1",
                "rediss://cache.example:6380",
                false,
            ),
            (
                "unix:///run/redis.sock?pass=s3cret",
                "unix:///run/redis.sock",
                false,
            ),
        ] {
            let address = RedisAddress::new(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), format!("RedisAddress({shown})"));
            assert_eq!(address.is_exposed(), is_exposed, "{text}");
        }
        for text in ["", "cache.example:6379", "http://cache.example"] {
            let fault = RedisAddress::new(text).unwrap_err();
            assert_eq!(fault, RedisAddressFault::NoUrl, "{text}");
        }
    }

    #[test]
    fn authorities_are_certificates() {
        let nonsense = format!("{CERTIFICATE}\nAAAA\n-----END CERTIFICATE-----\n");
        for pem in ["", "-----BEGIN PRIVATE KEY-----", nonsense.as_str()] {
            let address = RedisAddress::new("rediss://cache.example").unwrap();
            let fault = address.with_authorities(pem).unwrap_err();
            assert_eq!(fault, RedisAddressFault::NoCertificates, "{pem}");
        }
    }
}

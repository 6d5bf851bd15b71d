//! A Redis or Valkey that several replicas share: where it is, and which node of a cluster has somebody's
//! keys.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use domain::is_this_machine;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, RedisError, TlsCertificates, cmd};

/// For a connection, and for an answer.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The first Redis with all commands that it is sent.
const MAJOR_LEAST: u32 = 5;

/// How a certificate begins in a file of them, at the start of a line.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Where a Redis is, who asks, and who may vouch for it. Shows neither password nor user.
#[derive(Clone)]
pub struct RedisAddress(Client);

/// Why there is no address. It holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisAddressFault {
    #[error("must be `redis://HOST:PORT`, `rediss://HOST:PORT` or `unix:///PATH`")]
    NoUrl,
    #[error("must not end in `#insecure`: who answers is checked wherever there is TLS")]
    Insecure,
}

/// Who may vouch for a Redis, in place of the usual authorities: an address of nobody that goes by them.
#[derive(Clone)]
pub struct RedisAuthorities(ConnectionAddr);

/// A text is no list of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("holds no certificates in PEM, or one that cannot be read")]
pub struct NoRedisAuthorities;

impl FromStr for RedisAuthorities {
    type Err = NoRedisAuthorities;

    fn from_str(pem: &str) -> Result<Self, NoRedisAuthorities> {
        // What is before, between and after them, and also on their lines, is passed over.
        if !pem.lines().any(|line| line.starts_with(CERTIFICATE)) {
            return Err(NoRedisAuthorities);
        }
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.into()),
        };
        let client = Client::build_with_tls("rediss://localhost", certificates);
        let client = client.map_err(|_| NoRedisAuthorities)?;
        Ok(Self(client.get_connection_info().addr().clone()))
    }
}

impl fmt::Debug for RedisAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisAuthorities")
    }
}

impl FromStr for RedisAddress {
    type Err = RedisAddressFault;

    /// Who answers at `rediss://` must be vouched for by the usual authorities.
    fn from_str(url: &str) -> Result<Self, RedisAddressFault> {
        let client = Client::open(url).map_err(|_| RedisAddressFault::NoUrl)?;
        match client.get_connection_info().addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(RedisAddressFault::Insecure),
            _ => Ok(Self(client)),
        }
    }
}

impl RedisAddress {
    /// Who answers must be vouched for by one of these, where there is TLS.
    #[must_use]
    pub fn vouched_for_by(self, authorities: &RedisAuthorities) -> Self {
        let ConnectionAddr::TcpTls { host, port, .. } = self.addr() else {
            return self;
        };
        let vouched = reached_as(&authorities.0, host, *port);
        let known = self.0.get_connection_info().clone();
        // Of what was one there is one.
        Client::open(known.set_addr(vouched)).map_or(self, Self)
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
        !is_this_machine(host)
    }

    /// Asks it how it is.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn look(&self) -> Result<RedisLook, RedisFault> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LOOK_MAX))
            .set_response_timeout(Some(LOOK_MAX));
        let connection = self.0.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await?;
        let began = Instant::now();
        let said: Result<String, RedisError> = cmd("INFO").query_async(&mut connection).await;
        let said = match said {
            // Who may count need not be let to ask how it is.
            Err(error) if error.code() == Some("NOPERM") => String::new(),
            said => said?,
        };
        Ok(RedisLook::read(&said, began.elapsed()))
    }

    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }

    fn addr(&self) -> &ConnectionAddr {
        self.0.get_connection_info().addr()
    }
}

/// How a Redis or Valkey is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisLook {
    /// Of Redis whose commands it knows, as `7.2.4`; empty where it does not say, nor anything else.
    pub version: String,
    /// Where it is full it forgets what it was told.
    pub evicts: bool,
    /// It follows another one, and takes no writes.
    pub is_replica: bool,
    /// What it took to answer.
    pub took: Duration,
}

impl RedisLook {
    /// Reads an answer to `INFO`.
    fn read(said: &str, took: Duration) -> Self {
        let word = |name: &str| {
            let mut lines = said.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(it, value)| (it == name).then(|| value.trim().to_owned()))
        };
        Self {
            version: word("redis_version").unwrap_or_default(),
            evicts: word("maxmemory_policy").is_some_and(|policy| policy != "noeviction"),
            is_replica: word("role").is_some_and(|role| role != "master"),
            took,
        }
    }

    /// Whether it knows all commands that it is sent.
    #[must_use]
    pub fn is_recent(&self) -> bool {
        let major = self.version.split('.').next().unwrap_or_default().parse();
        // One that does not say may.
        major.map_or(true, |major: u32| major >= MAJOR_LEAST)
    }
}

/// A Redis cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("Redis cannot be asked")]
pub struct RedisFault(#[from] RedisError);

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

/// Scheme, host and port, or a socket: what may be shown.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr() {
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{}:{port}", bracketed(host)),
            ConnectionAddr::TcpTls { host, port, .. } => {
                write!(f, "rediss://{}:{port}", bracketed(host))
            }
            ConnectionAddr::Unix(path) => write!(f, "unix://{}", path.display()),
            _ => f.write_str("elsewhere"),
        }
    }
}

/// Another host, encrypted and checked as `like` is.
fn reached_as(like: &ConnectionAddr, host: &str, port: u16) -> ConnectionAddr {
    match like {
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
    }
}

/// As a URL has an address of IPv6.
fn bracketed(host: &str) -> Cow<'_, str> {
    match host.contains(':') {
        true => format!("[{host}]").into(),
        false => host.into(),
    }
}

/// The node that an error names as the one to ask, reached as `home` is; `None` where it names none.
pub(crate) fn moved(home: &Client, error: &RedisError) -> Option<Client> {
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let known = home.get_connection_info().clone();
    let addr = reached_as(known.addr(), host, port);
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
            ("redis://127.0.1.1", "redis://127.0.1.1:6379", false),
            ("redis://[::1]", "redis://[::1]:6379", false),
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
            let address: RedisAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), format!("RedisAddress({shown})"));
            assert_eq!(address.is_exposed(), is_exposed, "{text}");
        }
        for (text, fault) in [
            ("", RedisAddressFault::NoUrl),
            ("redis", RedisAddressFault::NoUrl),
            ("cache.example:6379", RedisAddressFault::NoUrl),
            ("http://cache.example", RedisAddressFault::NoUrl),
            ("redis://:pass word@", RedisAddressFault::NoUrl),
            (
                "rediss://cache.example/#insecure",
                RedisAddressFault::Insecure,
            ),
        ] {
            assert_eq!(text.parse::<RedisAddress>().unwrap_err(), fault, "{text}");
        }
    }

    #[test]
    fn what_it_says_of_itself_is_read() {
        let look = |said: &str| RedisLook::read(said, Duration::ZERO);
        let well = look(
            "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1\r\n\r\n# Memory\r\n\
             maxmemory_policy:noeviction\r\n# Replication\r\nrole:master\r\n",
        );
        assert_eq!(well.version, "7.2.4");
        assert!(well.is_recent() && !well.evicts && !well.is_replica);
        let ill = look("redis_version:4.0.9\nmaxmemory_policy:allkeys-lru\nrole:slave\n");
        assert!(!ill.is_recent() && ill.evicts && ill.is_replica);
        let silent = look("");
        assert!(silent.is_recent() && !silent.evicts && !silent.is_replica);
    }

    #[test]
    fn authorities_are_certificates() {
        let nonsense = format!("{CERTIFICATE}\nAAAA\n-----END CERTIFICATE-----\n");
        let indented = nonsense.replace("-----BEGIN", "  -----BEGIN");
        for pem in ["", "-----BEGIN PRIVATE KEY-----", &nonsense, &indented] {
            assert!(pem.parse::<RedisAuthorities>().is_err(), "{pem}");
        }
    }
}

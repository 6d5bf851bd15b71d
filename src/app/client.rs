//! The one HTTP client, shared by upstreams, pulls and the command line, and the rules of the
//! connections that upstreams may have beside it.

use std::time::Duration;

use providers::{DirectRules, FetchRules, Fetcher, Proxies, Transport};
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

/// Longest wait for a connection, whatever a caller's own patience is.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Providers close idle connections after about a minute; we close first.
const POOL_IDLE_MAX: Duration = Duration::from_secs(50);
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
const RELAY_KEEPALIVE: Duration = Duration::from_secs(20);
const RELAY_KEEPALIVE_MAX: Duration = Duration::from_secs(10);
/// What the client has by default.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("hedge/", env!("CARGO_PKG_VERSION"));
/// Idle connections kept for one host; as many as replies may run at once is too many to keep.
const POOL_IDLE_PER_HOST_MAX: usize = 64;

/// What to say where a machine has no certificates.
pub const NO_CERTIFICATES: &str =
    "this machine has no certificates to check servers with; install the package ca-certificates";

/// The client, and whether https can work with it.
#[derive(Clone, Debug)]
pub struct HttpClient {
    pub client: Client,
    /// False on a machine without certificates, where every https request fails. A node that
    /// answers by itself needs none.
    pub has_certificates: bool,
}

impl HttpClient {
    /// How upstreams are reached: through the client, and past it where there is neither TLS nor a
    /// proxy in the environment.
    #[must_use]
    pub fn transport(&self) -> Transport {
        let rules = DirectRules {
            user_agent: HeaderValue::from_static(USER_AGENT),
            connect_max: CONNECT_MAX,
            idle_max: POOL_IDLE_MAX,
            idle_count_max: POOL_IDLE_PER_HOST_MAX,
            tcp_keepalive: TCP_KEEPALIVE,
            tcp_user_timeout: TCP_USER_TIMEOUT,
        };
        Transport::new(self.client.clone(), rules, Proxies::from_system())
    }
}

/// A client that follows no redirect: an upstream does not choose where a prompt or a key goes.
///
/// # Errors
/// TLS cannot be set up at all.
pub fn build() -> Result<HttpClient, reqwest::Error> {
    // Failing means that a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Ok(client) = builder().build() {
        return Ok(HttpClient {
            client,
            has_certificates: true,
        });
    }
    // The platform's verifier refuses to exist without certificates; one that trusts nobody does
    // not.
    Ok(HttpClient {
        client: builder().tls_certs_only([]).build()?,
        has_certificates: false,
    })
}

/// A client of its own for images, which callers choose the addresses of.
///
/// # Errors
/// TLS cannot be set up at all.
pub fn fetcher(rules: &FetchRules) -> Result<Fetcher, reqwest::Error> {
    let fetcher = Fetcher::new(builder(), rules.clone());
    // Without certificates, as above.
    fetcher.or_else(|_| Fetcher::new(builder().tls_certs_only([]), rules.clone()))
}

/// For connections to relays, which bring TLS of their own: they trust one authority alone, and HTTP/2
/// notices within half a minute that the other end is gone.
pub fn relay_builder() -> ClientBuilder {
    builder()
        .http2_keep_alive_interval(RELAY_KEEPALIVE)
        .http2_keep_alive_timeout(RELAY_KEEPALIVE_MAX)
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .connect_timeout(CONNECT_MAX)
        .pool_idle_timeout(POOL_IDLE_MAX)
        .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(TCP_KEEPALIVE)
}

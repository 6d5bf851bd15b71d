//! How upstreams are reached.
//!
//! ```text
//! https, or through a proxy ─► the shared client: TLS, HTTP/2 where the server takes it
//! plain http ────────────────► `direct`: connections of our own, without a task of their own
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderValue, Uri};
use reqwest::{Client, Url};
use tokio::time::{Instant, sleep};

use crate::Proxies;
use crate::direct::{Direct, Idle};
use crate::link::{LinkState, Port};

/// How often kept connections are looked at. One that its server closed is found then at the latest.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// What holds for every connection that is made here. The client has settings of its own, and
/// whoever makes both makes them alike.
#[derive(Clone, Debug)]
pub struct DirectRules {
    /// Sent unless an upstream's own headers say otherwise.
    pub user_agent: HeaderValue,
    /// Bounds an upstream's own connect timeout from above.
    pub connect_max: Duration,
    /// How long a connection is kept for the next request.
    pub idle_max: Duration,
    /// Connections kept for one upstream. One more is closed when its answer is read.
    pub idle_count_max: usize,
    pub tcp_keepalive: Duration,
    /// How long what was sent may stay unacknowledged. Reached: the connection is dead.
    pub tcp_user_timeout: Duration,
}

/// Made once, and shared by all upstreams.
#[derive(Clone)]
pub struct Transport {
    client: Client,
    direct: Option<Arc<Shared>>,
    link: Arc<LinkState>,
}

struct Shared {
    rules: DirectRules,
    proxies: Proxies,
    /// Of upstreams that are configured, or whose exchanges are not over yet.
    idle: Mutex<Vec<Weak<Idle>>>,
}

impl Transport {
    /// `client` must follow no redirects: they would carry a prompt to an address that nobody
    /// configured. `proxies` are those that it honours.
    #[must_use]
    pub fn new(client: Client, rules: DirectRules, proxies: Proxies) -> Self {
        Self {
            client,
            direct: Some(Arc::new(Shared {
                rules,
                proxies,
                idle: Mutex::default(),
            })),
            link: LinkState::new(),
        }
    }

    /// Everything goes through `client`.
    #[must_use]
    pub fn through(client: Client) -> Self {
        Self {
            client,
            direct: None,
            link: LinkState::new(),
        }
    }

    /// What is known of the way to public upstreams.
    #[must_use]
    pub fn link(&self) -> &Arc<LinkState> {
        &self.link
    }

    /// A place in it for an upstream at `url`: at the address that is connected to, which is the
    /// proxy's where there is one.
    pub(crate) fn port_to(&self, url: &Url) -> Option<Arc<Port>> {
        let uri: Uri = url.as_str().parse().ok()?;
        let proxies = self.direct.as_ref().map(|shared| &shared.proxies);
        match proxies.and_then(|proxies| proxies.intercept(&uri)) {
            Some(proxy) => {
                let (host, scheme) = (proxy.uri().host()?, proxy.uri().scheme_str());
                let usual = match scheme {
                    Some("https") => 443,
                    Some(scheme) if scheme.starts_with("socks") => 1080,
                    Some(_) | None => 80,
                };
                let port = proxy.uri().port_u16().unwrap_or(usual);
                Some(self.link.port(host, port))
            }
            None => Some(
                self.link
                    .port(url.host_str()?, url.port_or_known_default()?),
            ),
        }
    }

    /// The client under it, for what is no request to an upstream.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Connections of our own to `url`, where they can be had: plain http, and no proxy between.
    pub(crate) fn direct_to(&self, url: &Url, connect_timeout: Duration) -> Option<Direct> {
        let shared = self.direct.as_ref()?;
        let uri: Uri = url.as_str().parse().ok()?;
        if url.scheme() != "http" || shared.proxies.intercept(&uri).is_some() {
            return None;
        }
        let direct = Direct::new(
            uri,
            &shared.rules,
            connect_timeout.min(shared.rules.connect_max),
        );
        let mut idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|known| known.strong_count() > 0);
        idle.push(Arc::downgrade(direct.idle()));
        Some(direct)
    }

    pub(crate) fn user_agent(&self) -> Option<&HeaderValue> {
        Some(&self.direct.as_ref()?.rules.user_agent)
    }

    /// Closes kept connections whose time is over or whose server is gone, for as long as it is
    /// polled.
    pub async fn tend(&self) {
        loop {
            sleep(TEND_EVERY).await;
            self.sweep(Instant::now());
        }
    }

    fn sweep(&self, now: Instant) {
        let Some(shared) = &self.direct else {
            return;
        };
        let idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<Arc<Idle>> = idle.iter().filter_map(Weak::upgrade).collect();
        drop(idle);
        for idle in known {
            idle.sweep(now);
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("is_direct", &self.direct.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn rules() -> DirectRules {
        DirectRules {
            user_agent: HeaderValue::from_static("hedge/test"),
            connect_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(50),
            idle_count_max: 2,
            tcp_keepalive: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(30),
        }
    }

    pub fn client() -> Client {
        // Failing means that another test was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([])
            .build()
            .unwrap()
    }

    /// Plain http goes past the client.
    pub fn transport() -> Transport {
        Transport::new(client(), rules(), Proxies::builder().build())
    }

    /// Both ways to an upstream. Nobody may see which it was.
    pub fn both_ways() -> [Transport; 2] {
        [transport(), Transport::through(client())]
    }

    #[tokio::test]
    async fn only_plain_http_without_a_proxy_goes_past_the_client() {
        let proxies = |http: &str, no: &str| Proxies::builder().http(http).no(no).build();
        let none = || proxies("", "");
        for (proxies, url, is_direct) in [
            (none(), "http://a.example/v1", true),
            (none(), "http://[::1]:81/v1", true),
            (none(), "https://a.example/v1", false),
            (
                proxies("http://p.example:3128", ""),
                "http://a.example/v1",
                false,
            ),
            (
                proxies("http://p.example:3128", "a.example"),
                "http://a.example/v1",
                true,
            ),
        ] {
            let transport = Transport::new(client(), rules(), proxies);
            let direct = transport.direct_to(&url.parse().unwrap(), Duration::from_secs(1));
            assert_eq!(direct.is_some(), is_direct, "{url}");
        }
    }
}

//! Images from wherever a caller's request points: the one place where a caller chooses whom this
//! node connects to.
//!
//! ```text
//! url ─► scheme, host, port ─► names looked up ─► every address public? ─► connect to one of them
//!  ▲                                                                             │
//!  └───────────────────── a redirect, as often as it may ────────────────────────┤
//!                                           bounded bytes ─► an image by its first bytes ─► data URL
//! ```
//! The client asks [`Guarded`] for addresses and connects to what it was given, so that no name is looked
//! up twice. It keeps no connection, knows no proxy, which would look names up itself, and sends nothing
//! that says who asks.

mod kind;
mod reach;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use domain::{FetchFault, FetchedImage, ImageFetcher};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::dns::{Addrs, Name, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, Url};
use tokio::time::timeout;

pub use kind::ImageKind;
use kind::SNIFFED_BYTES;
use reach::Reach;

use crate::{Resolve, SystemResolver};

/// The longest address that is fetched from; more than browsers make and servers take.
const URL_BYTES_MAX: usize = 8 * 1024;
/// Images up to this are written as base64 on the network's threads, well within half a millisecond.
const WRITE_INLINE_BYTES_MAX: usize = 128 * 1024;

/// What is fetched, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRules {
    /// Also over plain http, where whoever is between may put another image into its place.
    pub allows_http: bool,
    /// Of one image.
    pub bytes_max: usize,
    /// From asking to the last byte, redirects included.
    pub timeout: Duration,
    pub redirects_max: u32,
    pub kinds: Vec<ImageKind>,
}

/// Fetches images over http and https.
pub struct Fetcher {
    client: Client,
    rules: FetchRules,
    reach: Reach,
}

impl Fetcher {
    /// `builder` brings TLS, time-outs of connects and a `user-agent`; what else matters is set here.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(builder: ClientBuilder, rules: FetchRules) -> Result<Self, reqwest::Error> {
        Self::reaching(builder, rules, Reach::PUBLIC, Arc::new(SystemResolver))
    }

    fn reaching(
        builder: ClientBuilder,
        rules: FetchRules,
        reach: Reach,
        names: Arc<dyn Resolve>,
    ) -> Result<Self, reqwest::Error> {
        let client = builder
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .pool_max_idle_per_host(0)
            .dns_resolver(Guarded { reach, names })
            .build()?;
        Ok(Self {
            client,
            rules,
            reach,
        })
    }

    async fn follow(&self, url: &str) -> Result<FetchedImage, FetchFault> {
        if url.len() > URL_BYTES_MAX {
            return Err(FetchFault::Malformed);
        }
        let mut url = Url::parse(url).map_err(|_| FetchFault::Malformed)?;
        for _ in 0..=self.rules.redirects_max {
            self.check(&url)?;
            let request = self.client.get(url.clone()).headers(asked());
            let response = request.send().await.map_err(|error| {
                // Whether a name is unknown, leads inside or nobody listens: one word for all.
                if error.is_connect() {
                    FetchFault::Unreachable
                } else {
                    FetchFault::Broken
                }
            })?;
            match next(&url, &response)? {
                Some(further) => url = further,
                None => return self.read(response).await,
            }
        }
        Err(FetchFault::Redirects)
    }

    /// What can be said before anything is looked up. The client looks up no address that is written as
    /// one, so those are judged here.
    fn check(&self, url: &Url) -> Result<(), FetchFault> {
        match url.scheme() {
            "https" => {}
            "http" if self.rules.allows_http => {}
            "http" => return Err(FetchFault::Plain),
            _ => return Err(FetchFault::Malformed),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchFault::Credentials);
        }
        let host = url.host_str().ok_or(FetchFault::Malformed)?;
        let port = url.port_or_known_default().ok_or(FetchFault::Port)?;
        if !self.reach.has_port(port) {
            return Err(FetchFault::Port);
        }
        let written = host.trim_start_matches('[').trim_end_matches(']');
        match written.parse::<IpAddr>() {
            Ok(address) if !self.reach.has(address) => Err(FetchFault::Unreachable),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn read(&self, mut response: Response) -> Result<FetchedImage, FetchFault> {
        let bytes_max = self.rules.bytes_max;
        let too_large = || FetchFault::TooLarge { bytes_max };
        let encoding = response.headers().get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(FetchFault::Compressed);
        }
        let declared = response.content_length().unwrap_or(0);
        if usize::try_from(declared).unwrap_or(usize::MAX) > bytes_max {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut kind = None;
        while let Some(chunk) = response.chunk().await.map_err(|_| FetchFault::Broken)? {
            if bytes.len() + chunk.len() > bytes_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
            // Nothing more is read of what is no image.
            if kind.is_none() && bytes.len() >= SNIFFED_BYTES {
                kind = Some(self.kind(&bytes)?);
            }
        }
        let kind = kind.ok_or(FetchFault::NoImage)?;
        Ok(FetchedImage {
            url: data_url(kind, bytes).await?,
        })
    }

    fn kind(&self, bytes: &[u8]) -> Result<ImageKind, FetchFault> {
        let kind = ImageKind::of(bytes).filter(|kind| self.rules.kinds.contains(kind));
        kind.ok_or(FetchFault::NoImage)
    }
}

#[async_trait]
impl ImageFetcher for Fetcher {
    async fn fetch(&self, url: &str) -> Result<FetchedImage, FetchFault> {
        let fetched = timeout(self.rules.timeout, self.follow(url)).await;
        fetched.unwrap_or(Err(FetchFault::TimedOut))
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn asked() -> HeaderMap {
    const KINDS: HeaderValue =
        HeaderValue::from_static("image/png, image/jpeg, image/webp, image/gif");
    let headers = [
        (ACCEPT, KINDS),
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ];
    headers.into_iter().collect()
}

/// Where the response sends on to; `None` where it is the answer. Its body is not read then.
fn next(url: &Url, response: &Response) -> Result<Option<Url>, FetchFault> {
    let status = response.status();
    match status {
        StatusCode::OK => Ok(None),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            let location = location.filter(|location| location.len() <= URL_BYTES_MAX);
            let further = location.and_then(|location| url.join(location).ok());
            further.map(Some).ok_or(FetchFault::Status(status.as_u16()))
        }
        status => Err(FetchFault::Status(status.as_u16())),
    }
}

async fn data_url(kind: ImageKind, bytes: BytesMut) -> Result<String, FetchFault> {
    let is_short = bytes.len() <= WRITE_INLINE_BYTES_MAX;
    let write = move || {
        let mut url = format!("data:{};base64,", kind.as_media_type());
        STANDARD.encode_string(&bytes, &mut url);
        url
    };
    if is_short {
        return Ok(write());
    }
    let work = tokio::task::spawn_blocking(write).await;
    work.map_err(|_| FetchFault::Broken)
}

/// Gives the client addresses that may be connected to, or none.
struct Guarded {
    reach: Reach,
    names: Arc<dyn Resolve>,
}

/// A name without addresses, or with one that is not for everybody: a server that is public has no reason
/// to have one of these, and who tries to lead inside has.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to no public server")]
struct NotPublic;

impl reqwest::dns::Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, names) = (self.reach, Arc::clone(&self.names));
        Box::pin(async move {
            let found = names.addresses(name.as_str()).await?;
            if found.is_empty() || !found.iter().all(|address| reach.has(*address)) {
                return Err(NotPublic.into());
            }
            // The port is the client's to put in.
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            let addresses: Addrs = Box::new(found);
            Ok(addresses)
        })
    }
}

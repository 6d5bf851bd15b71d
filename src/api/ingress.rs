//! What the doors demand of connections and requests. Every bound has its name here.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

/// Limits and permissions of both listeners. The default suits a node that serves this machine.
#[derive(Clone, Debug)]
pub struct IngressConfig {
    /// Host names served beside the loopback ones: `name`, served on any port, or `name:port`, or
    /// `*` for every name. Addresses are served as well where the listener is not on loopback:
    /// a rebound DNS name is never an address.
    pub hosts: Vec<String>,
    /// Web origins that may call, as `https://app.example`, or `*` for all. A request with any
    /// other `Origin` is refused, and no CORS header is sent while this is empty.
    pub origins: Vec<String>,
    /// Whose `X-Forwarded-For` is believed, by the flood guard and where a key may come from some networks
    /// alone. Nobody's by default.
    pub proxies: Vec<IpNet>,
    /// From the moment a connection waits for a request until its whole head has come; also how
    /// long an idle connection is kept. Reached: the connection is closed.
    pub header_timeout: Duration,
    /// Request line and headers together, at least 8 KiB. Reached: 431. Header count is limited
    /// to 100.
    pub header_bytes_max: usize,
    pub body: BodyLimits,
    pub load: LoadLimits,
    /// How long a client may take no byte of an answer. Reached: the connection is dropped, and
    /// the work behind it with it.
    pub write_stall_max: Duration,
    /// A stream that is silent for longer gets a comment, so that nothing between takes it for
    /// dead.
    pub keep_alive_every: Duration,
    /// How long exchanges may go on after the stop. Reached: they are dropped.
    pub shutdown_grace: Duration,
    pub flood: FloodConfig,
}

/// Bounds of one request's body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Reached: 413, before a byte is read where the length is declared.
    pub bytes_max: u64,
    /// Longest silence while the body comes. Reached: 408.
    pub idle_max: Duration,
    /// From the head to the body's last byte. Reached: 408.
    pub time_max: Duration,
}

/// Bounds of what is under way at once.
#[derive(Clone, Copy, Debug)]
pub struct LoadLimits {
    /// Open connections of one listener. Reached: a bare 503, and the connection is closed.
    pub connections_max: usize,
    /// Open connections of one address (an IPv6 /64 counts as one). Loopback is exempt unless
    /// [`FloodConfig::guards_loopback`]. Reached: as above.
    pub connections_per_address_max: u32,
    /// Chats under way, from the head of the request to the last byte of the answer. Reached: 503
    /// with `retry-after`.
    pub requests_max: usize,
}

/// The flood guard: requests per client address, refilled steadily.
#[derive(Clone, Copy, Debug)]
pub struct FloodConfig {
    /// Steady rate. Reached, with the burst spent: 429 with `retry-after`.
    pub per_second: NonZeroU32,
    /// How many requests may come at once.
    pub burst: NonZeroU32,
    /// Whether callers on this machine count too. Off by default: a proxy in front would make
    /// everybody one address, and a local program needs no flood to do harm.
    pub guards_loopback: bool,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            origins: Vec::new(),
            proxies: Vec::new(),
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 32 * 1024,
            body: BodyLimits::default(),
            load: LoadLimits::default(),
            write_stall_max: Duration::from_secs(30),
            keep_alive_every: Duration::from_secs(15),
            shutdown_grace: Duration::from_secs(30),
            flood: FloodConfig::default(),
        }
    }
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            bytes_max: 4 * 1024 * 1024,
            idle_max: Duration::from_secs(10),
            time_max: Duration::from_secs(60),
        }
    }
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_address_max: 256,
            requests_max: 1024,
        }
    }
}

impl Default for FloodConfig {
    fn default() -> Self {
        const PER_SECOND: NonZeroU32 = NonZeroU32::new(50).expect("50 is not zero");
        const BURST: NonZeroU32 = NonZeroU32::new(200).expect("200 is not zero");
        Self {
            per_second: PER_SECOND,
            burst: BURST,
            guards_loopback: false,
        }
    }
}

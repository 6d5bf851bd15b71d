//! Images at addresses: raw, and judged.

use pipeline::ImageLimits;
use providers::{FetchRules, ImageKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::sections::{wait_ms, within};

/// More than any model takes.
const IMAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// More would hold up the request for longer than anybody waits.
const REDIRECTS_MAX: u32 = 20;

/// Images that a request names by address, for models that take them as bytes alone: the one on this
/// machine, pools, and upstreams whose API or `image_urls` says so.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawImages {
    /// Fetch them, from servers at public addresses and nowhere else; a proxy of the environment is not
    /// used. A caller then chooses whom this machine connects to. Off: such a model is passed over, and
    /// where no other is left the request is refused.
    pub fetch: bool,
    /// Also over plain HTTP, where whoever is between may put another image into its place.
    pub allow_http: bool,
    /// Largest image.
    pub bytes_max: u64,
    /// Images fetched for one request; one more is refused.
    pub count_max: u32,
    /// Memory for the images of all requests that are being opened. One that has to wait for room longer
    /// than `timeout_ms` goes to the next candidate, or is refused with a wait.
    pub memory_bytes_max: u64,
    /// From asking for an image to its last byte.
    pub timeout_ms: u64,
    /// Redirects followed for one image, each judged as the first address was.
    pub redirects_max: u32,
    /// Kinds that are taken, told by their first bytes.
    pub types: Vec<RawImageType>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawImageType {
    Png,
    Jpeg,
    Gif,
    Webp,
}

impl Default for RawImages {
    fn default() -> Self {
        Self {
            fetch: false,
            allow_http: false,
            bytes_max: 5 * 1024 * 1024,
            count_max: 8,
            memory_bytes_max: 256 * 1024 * 1024,
            timeout_ms: 10_000,
            redirects_max: 3,
            types: vec![
                RawImageType::Png,
                RawImageType::Jpeg,
                RawImageType::Gif,
                RawImageType::Webp,
            ],
        }
    }
}

/// Where images are fetched.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    pub rules: FetchRules,
    pub limits: ImageLimits,
}

/// `None` where none is fetched.
pub fn images(raw: &RawImages, findings: &mut Findings) -> Option<ImageSettings> {
    let bytes = 1..=IMAGE_BYTES_MAX;
    let bytes_max = within("images.bytes_max", raw.bytes_max, bytes, findings);
    let count_max = within("images.count_max", raw.count_max, 1..=64, findings);
    let room = bytes_max..=64 * 1024 * 1024 * 1024;
    let path = "images.memory_bytes_max";
    let room_bytes = within(path, raw.memory_bytes_max, room, findings);
    let timeout = wait_ms("images.timeout_ms", raw.timeout_ms, findings);
    let redirects = 0..=REDIRECTS_MAX;
    let path = "images.redirects_max";
    let redirects_max = within(path, raw.redirects_max, redirects, findings);
    if raw.types.is_empty() {
        findings.fault("images.types", "names no kind of image");
    }
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    raw.fetch.then(|| ImageSettings {
        rules: FetchRules {
            allows_http: raw.allow_http,
            bytes_max,
            timeout,
            redirects_max,
            kinds: raw.types.iter().copied().map(kind).collect(),
        },
        limits: ImageLimits {
            count_max: count_max as usize,
            bytes_max,
            room_bytes: usize::try_from(room_bytes).unwrap_or(usize::MAX),
            wait_max: timeout,
        },
    })
}

fn kind(raw: RawImageType) -> ImageKind {
    match raw {
        RawImageType::Png => ImageKind::Png,
        RawImageType::Jpeg => ImageKind::Jpeg,
        RawImageType::Gif => ImageKind::Gif,
        RawImageType::Webp => ImageKind::Webp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(toml: &str) -> (Option<ImageSettings>, Vec<String>) {
        let raw: RawImages = toml::from_str(toml).unwrap();
        let mut findings = Findings::default();
        let settings = images(&raw, &mut findings);
        let paths = findings.faults.iter().map(|it| it.path.clone()).collect();
        (settings, paths)
    }

    #[test]
    fn nothing_is_fetched_unless_that_is_said() {
        let (settings, faults) = judged("allow_http = true");
        assert!(settings.is_none() && faults.is_empty());
        let (settings, faults) = judged("fetch = true\ntypes = ['png', 'webp']\nbytes_max = 7");
        assert_eq!(faults, [""; 0]);
        let ImageSettings { rules, limits } = settings.unwrap();
        assert!(!rules.allows_http);
        assert_eq!(rules.kinds, [ImageKind::Png, ImageKind::Webp]);
        assert_eq!((rules.bytes_max, limits.bytes_max), (7, 7));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (toml, path) in [
            ("bytes_max = 0", "bytes_max"),
            ("bytes_max = 100_000_000", "bytes_max"),
            ("count_max = 0", "count_max"),
            ("memory_bytes_max = 1_000_000", "memory_bytes_max"),
            ("timeout_ms = 0", "timeout_ms"),
            ("redirects_max = 21", "redirects_max"),
            ("types = []", "types"),
        ] {
            let (_, faults) = judged(toml);
            assert_eq!(faults, [format!("images.{path}")], "{toml}");
        }
    }
}

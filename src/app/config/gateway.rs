//! A relay's own section, judged.

use std::net::SocketAddr;
use std::path::PathBuf;

use relay::shape::Shape;
use relay::{Ciphers, Kem};

use super::faults::Findings;
use super::raw::RawConfig;
use super::raw_sealed::{RawGateway, RawKem};
use super::sections::{address, within};
use crate::sealed::relay_url;

pub const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

/// How a relay works.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    pub listen: SocketAddr,
    pub dir: PathBuf,
    pub relay_id: String,
    pub has_tls: bool,
    pub requires_certificate: bool,
    pub kems: Vec<Kem>,
    pub ciphers: Ciphers,
    pub shapes: Vec<Shape>,
    pub default_shape: Shape,
    pub requests_max: usize,
    pub connections_max: usize,
    pub connections_per_edge_max: u32,
    pub opens_per_s_max: u32,
}

/// `None` where this node is no relay, or its section has a fault.
pub fn gateway(raw: &RawConfig, findings: &mut Findings) -> Option<GatewaySettings> {
    let raw = raw.gateway.as_ref()?;
    let listen = address("gateway.listen", &raw.listen, findings);
    let relay_id = relay_id(raw, findings);
    if raw.dir.is_empty() {
        findings.fault(
            "gateway.dir",
            "is empty; `hedge relay init` makes the folder",
        );
    }
    if let Some(Err(error)) = raw.url.as_deref().map(relay_url) {
        findings.fault("gateway.url", error.to_string());
    }
    let requires_certificate = raw.client_certificates.unwrap_or(raw.tls);
    if requires_certificate && !raw.tls {
        findings.fault(
            "gateway.client_certificates",
            "certificates are shown in TLS, and `tls` is false; set this to false, too: every request \
             proves its edge inside what is sealed",
        );
    }
    if let Some(listen) = listen.filter(|listen| !raw.tls && !listen.ip().is_loopback()) {
        findings.warn(
            "gateway.tls",
            format!("{listen} speaks plain HTTP; put something that ends TLS in front of it"),
        );
    }
    if raw.interop_suites {
        findings.warn(
            "gateway.interop_suites",
            "AES-128-GCM is taken, too; that is for tests with other implementations",
        );
    }
    let kems = kems(&raw.kems);
    if kems.is_empty() {
        findings.fault("gateway.kems", "is empty; name x-wing, x25519 or both");
    }
    let default_shape = shape("gateway.default_shape", &raw.default_shape, findings);
    let shapes = match &raw.shapes {
        None => Shape::all(),
        Some(texts) => {
            let texts = texts.iter().enumerate();
            let shapes = texts
                .filter_map(|(at, text)| shape(&format!("gateway.shapes[{at}]"), text, findings));
            shapes.collect()
        }
    };
    if let Some(default) = default_shape.filter(|default| !shapes.contains(default)) {
        findings.fault(
            "gateway.default_shape",
            format!("`{default}` is not among `shapes`"),
        );
    }
    let mut count =
        |key: &str, value| within(&format!("gateway.{key}"), value, 1..=1_000_000, findings);
    let requests_max = count("requests_max", raw.requests_max) as usize;
    let connections_max = count("connections_max", raw.connections_max) as usize;
    let connections_per_edge_max = count("connections_per_edge_max", raw.connections_per_edge_max);
    let opens_per_s_max = count("opens_per_s_max", raw.opens_per_s_max);
    Some(GatewaySettings {
        listen: listen?,
        dir: PathBuf::from(&raw.dir),
        relay_id: relay_id?,
        has_tls: raw.tls,
        requires_certificate,
        kems,
        ciphers: if raw.interop_suites {
            Ciphers::Interop
        } else {
            Ciphers::Strict
        },
        shapes,
        default_shape: default_shape?,
        requests_max,
        connections_max,
        connections_per_edge_max,
        opens_per_s_max,
    })
}

fn relay_id(raw: &RawGateway, findings: &mut Findings) -> Option<String> {
    let Some(id) = raw.relay_id.as_deref().filter(|id| !id.is_empty()) else {
        findings.fault("gateway.relay_id", "is required, such as relay-hq");
        return None;
    };
    if !relay::is_name(id) {
        findings.fault(
            "gateway.relay_id",
            "takes letters, digits, `-`, `_` and `.`, 64 at most",
        );
        return None;
    }
    Some(id.to_owned())
}

pub fn kem(raw: RawKem) -> Kem {
    match raw {
        RawKem::XWing => Kem::XWing,
        RawKem::X25519 => Kem::X25519,
    }
}

fn kems(raw: &[RawKem]) -> Vec<Kem> {
    let mut kems: Vec<Kem> = raw.iter().copied().map(kem).collect();
    kems.sort_unstable();
    kems.dedup();
    kems
}

pub fn shape(path: &str, text: &str, findings: &mut Findings) -> Option<Shape> {
    match text.parse() {
        Ok(shape) => Some(shape),
        Err(error) => {
            let error: relay::shape::NoShape = error;
            findings.fault(path, format!("`{text}`: {error}"));
            None
        }
    }
}

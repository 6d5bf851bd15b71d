//! Who asks: the `Authorization` header, Anthropic's clients' `x-api-key` or Google's `x-goog-api-key`,
//! turned into a key's digest before the body is read, and whether it may come from there. Of a request
//! that came sealed it was proven already.

use std::net::IpAddr;

use domain::{Fault, KeyDigest, KeySecret, KeyTrouble, Principal};
use hashing::sha256;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::server::Api;

pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// Who asks, as somebody within this process found out. Nothing that comes over a network makes one.
#[derive(Clone, Debug)]
pub(crate) struct Known(pub Principal);

/// The address at the other end of the connection; whoever accepted it puts it beside the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub IpAddr);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FOREIGN_NETWORK: &str = "this API key may not be used from this address; ask its owner, or come \
     from one of its networks";

/// # Errors
/// `Unauthenticated`, when the node asks for keys and the headers hold none of them, `Forbidden` where
/// the key may not come from there.
pub(crate) fn principal(
    api: &Api,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<Principal, Fault> {
    if let Some(Known(principal)) = extensions.get() {
        return Ok(principal.clone());
    }
    let key = key(headers);
    let digest = key.map(digest);
    if digest.is_some_and(|digest| api.is_admin_token(&digest)) {
        return Err(Fault::Unauthenticated(KeyTrouble::AdminToken));
    }
    let principal = match api.pipeline.authenticate(digest.as_ref()) {
        Err(Fault::Unauthenticated(KeyTrouble::Unknown))
            if key.is_some_and(KeySecret::is_mistyped) =>
        {
            return Err(Fault::Unauthenticated(KeyTrouble::Mistyped));
        }
        found => found?,
    };
    if principal.networks.is_some() {
        let peer = extensions.get().map(|Peer(address)| *address);
        let from = peer.map(|peer| origin(peer, headers, &api.ingress.proxies));
        if !from.is_some_and(|from| principal.may_come_from(from)) {
            return Err(Fault::Forbidden {
                what: FOREIGN_NETWORK,
            });
        }
    }
    Ok(principal)
}

/// Whether the address is in one of the networks. One of IPv4 that is written as one of IPv6 is what it is.
pub(crate) fn is_within(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

pub(crate) fn digest(key: &[u8]) -> KeyDigest {
    KeyDigest(sha256(key))
}

/// Who is behind `peer`: itself, or whom proxies of the operator's say that they speak for. Of
/// `X-Forwarded-For` each proxy adds whom it speaks for at the end, so what counts is the last address
/// that is no proxy's; what stands before it anybody may have written.
pub(crate) fn origin(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    if !is_within(peer, proxies) {
        return peer;
    }
    let mut behind = peer;
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let said = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    for address in said {
        // What a proxy wrote and nobody can read comes from that proxy.
        let Ok(address) = address.trim().parse::<IpAddr>() else {
            break;
        };
        behind = address;
        if !is_within(address, proxies) {
            break;
        }
    }
    behind
}

/// A bearer token outweighs the other headers.
pub(crate) fn key(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers)
        .or_else(|| plain(headers, X_API_KEY))
        .or_else(|| plain(headers, X_GOOG_API_KEY))
}

/// The token of `Authorization: Bearer <token>` (RFC 6750, section 2.1; the scheme's case does not
/// matter). Any other scheme is as good as no key.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn plain(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let key = headers.get(name)?.as_bytes().trim_ascii();
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_bearer_token_is_a_key() {
        let cases: [(&'static str, Option<&[u8]>); 6] = [
            ("Bearer sk-1", Some(b"sk-1")),
            ("bearer  sk-1 ", Some(b"sk-1")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic c2stMQ==", None),
            ("sk-1", None),
        ];
        for (sent, key) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(sent));
            assert_eq!(bearer(&headers), key, "{sent}");
        }
    }

    #[test]
    fn another_makers_header_is_a_key_where_there_is_no_token() {
        type Case = (Option<&'static str>, &'static str, Option<&'static [u8]>);
        let cases: [Case; 5] = [
            (None, "sk-2", Some(b"sk-2")),
            (None, " sk-2 ", Some(b"sk-2")),
            (None, "", None),
            (Some("Bearer sk-1"), "sk-2", Some(b"sk-1")),
            (Some("Basic c2stMQ=="), "sk-2", Some(b"sk-2")),
        ];
        for name in [X_API_KEY, X_GOOG_API_KEY] {
            for (bearer, plain, expected) in cases {
                let mut headers = HeaderMap::new();
                headers.insert(&name, HeaderValue::from_static(plain));
                if let Some(bearer) = bearer {
                    headers.insert(AUTHORIZATION, HeaderValue::from_static(bearer));
                }
                assert_eq!(key(&headers), expected, "{name} {bearer:?} {plain}");
            }
        }
    }

    #[test]
    fn forwarded_addresses_are_believed_of_the_operators_proxies_alone() {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        let cases: [(&str, &[&'static str], &str); 9] = [
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            (
                "10.0.0.1",
                &["127.0.0.1", "203.0.113.9,fd00::1"],
                "203.0.113.9",
            ),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, bad, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let found = origin(peer.parse().unwrap(), &headers, &proxies);
            assert_eq!(found.to_string(), expected, "{peer} {lines:?}");
        }
    }
}

//! The sealed path, looked at from both of its ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use relay::manifest::{KeyPolicy, MANIFEST_BYTES_MAX, SignedManifest, TrustedManifest};
use relay::{Ciphers, Kem, UnixTime};

use super::Line;
use super::upstreams::LOOK_MAX;
use crate::config::{Config, GatewaySettings, RelaySettings};
use crate::sealed::{
    EdgeState, MANIFEST_PATH, Member, MemberFolder, RelayFolder, has_aes, list_edges, server_facts,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Lines of a relay, and of each relay that this edge seals to.
pub async fn look(config: &Config) -> Vec<Line> {
    let now = SystemTime::now();
    let mut lines = Vec::new();
    if config.gateway.is_none() && config.relays.is_empty() {
        return lines;
    }
    if !has_aes() {
        lines.push(Line::warn(
            "sealing",
            "this processor has no instructions for AES",
            "expect a twenty-fifth of the speed; use another machine for a relay",
        ));
    }
    lines.extend(config.gateway.as_ref().map(|gateway| own(gateway, now)));
    for relays in &config.relays {
        for folder in &relays.members {
            let name = &relays.asked.name;
            let folder = MemberFolder::new(folder);
            lines.push(match member(relays, &folder, now).await {
                Ok(found) => Line::ok("sealed", format!("{name}: {found}")),
                Err(error) => Line::fail(
                    "sealed",
                    format!("{name}: {error:#}"),
                    "is `hedge relay` running there? `hedge relay join` makes an edge of this machine \
                     anew",
                ),
            });
        }
    }
    lines
}

fn own(gateway: &GatewaySettings, now: SystemTime) -> Line {
    let folder = RelayFolder::new(&gateway.dir);
    let look = || -> anyhow::Result<String> {
        let keys = folder.open(&gateway.relay_id, now)?;
        let listed = list_edges(&folder.edges())?;
        let joined = listed.iter().filter(|it| it.state == EdgeState::Joined);
        let ends = server_facts(&keys)?.not_after;
        Ok(format!(
            "{}, {}; {} of {} edges joined; certificate ends {}",
            gateway.relay_id,
            keys.identity.pin(),
            joined.count(),
            listed.len(),
            until(ends, now)
        ))
    };
    match look() {
        Ok(found) => Line::ok("relay", found),
        Err(error) => Line::fail(
            "relay",
            format!("{error:#}"),
            "`hedge relay init` makes what is missing",
        ),
    }
}

async fn member(
    relays: &RelaySettings,
    folder: &MemberFolder,
    now: SystemTime,
) -> anyhow::Result<String> {
    let member = folder.open()?;
    if member.facts.not_after <= now {
        bail!(
            "the certificate as {} has expired; join {} again",
            member.file.edge_id,
            member.file.relay_id
        );
    }
    let manifest = manifest(&member, folder).await?;
    let policy = KeyPolicy {
        require_post_quantum: relays.suites_min == Kem::XWing,
        ciphers: Ciphers::Strict,
    };
    let time = UnixTime::from(now);
    let Some((key, _)) = manifest.choose(policy, time) else {
        bail!(
            "{} has no key that suites_min lets be used",
            member.file.relay_id
        );
    };
    let expires = std::time::UNIX_EPOCH + Duration::from_secs(manifest.expires().0);
    Ok(format!(
        "{} at {} answers; manifest ends {}, sealed with {}; certificate as {} ends {}",
        member.file.relay_id,
        member.url,
        until(expires, now),
        key.kem().as_label(),
        member.file.edge_id,
        until(member.facts.not_after, now)
    ))
}

async fn manifest(member: &Member, folder: &MemberFolder) -> anyhow::Result<TrustedManifest> {
    let http = member.http(Arc::new(member.badge()?))?;
    let asked = http.get(member.url.join(MANIFEST_PATH)?).timeout(LOOK_MAX);
    let mut response = asked
        .send()
        .await
        .map_err(|error| anyhow!(error.without_url()))
        .with_context(|| format!("{} cannot be reached", member.url))?;
    if !response.status().is_success() {
        bail!("{} answers {}", member.url, response.status());
    }
    let field = |name: &str| {
        let value = response.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (content_digest, signature_input, signature) = (
        field("content-digest"),
        field("signature-input"),
        field("signature"),
    );
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MANIFEST_BYTES_MAX {
            bail!("the manifest is longer than a manifest is");
        }
        body.extend_from_slice(&chunk);
    }
    let received = SignedManifest {
        body,
        content_digest,
        signature_input,
        signature,
    };
    let seen = folder.seen();
    let now = UnixTime::from(SystemTime::now());
    Ok(TrustedManifest::check(
        &received,
        &member.pins,
        seen.as_ref(),
        now,
    )?)
}

fn until(time: SystemTime, now: SystemTime) -> String {
    match time.duration_since(now) {
        Err(_) => "already".to_owned(),
        Ok(left) if left >= DAY => format!("in {} d", left.as_secs() / DAY.as_secs()),
        Ok(left) if left >= HOUR => format!("in {} h", left.as_secs() / HOUR.as_secs()),
        Ok(left) => format!("in {} min", left.as_secs() / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn what_is_left_is_said_in_days_hours_or_minutes() {
        let now = UNIX_EPOCH + DAY * 1_000;
        for (time, said) in [
            (now + DAY * 7 - HOUR, "in 6 d"),
            (now + HOUR * 2 + HOUR / 2, "in 2 h"),
            (now + HOUR / 2, "in 30 min"),
            (now - HOUR, "already"),
        ] {
            assert_eq!(until(time, now), said);
        }
    }
}

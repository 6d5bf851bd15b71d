//! Where limits are counted with other replicas: judged.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::{NoRedisAuthorities, RedisAddress, RedisAddressFault, RedisAuthorities, WhenApart};

use super::faults::Findings;
use super::raw::{RawConfig, SecretText};
use super::secret::Surroundings;
use super::sections::within;

const CA_PATH: &str = "store.redis_ca";

/// Bytes of `store.prefix`, which stands in every key.
const PREFIX_BYTES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawWhenDown {
    /// A replica may use its share of what was last known to be left.
    #[default]
    Share,
    /// Nothing may be used of them.
    Refuse,
}

/// Where limits are counted together.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub address: RedisAddress,
    pub prefix: String,
    pub replicas: NonZeroU32,
    pub when_apart: WhenApart,
    pub answer_max: Duration,
    pub lease: Duration,
}

/// `None` where none is named, or there is a fault.
pub fn redis(
    raw: &RawConfig,
    authorities: Option<&RedisAuthorities>,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<RedisSettings> {
    const PATH: &str = "store.redis";
    let raw = &raw.store;
    let replicas = within("store.replicas", raw.replicas, 1..=1_000, findings);
    let answer_ms = within(
        "store.answer_ms_max",
        raw.answer_ms_max,
        10..=10_000,
        findings,
    );
    let lease_s = within("store.lease_s", raw.lease_s, 3..=600, findings);
    let is_named = |letter: char| letter.is_ascii_alphanumeric() || "-_.:".contains(letter);
    let prefix = &raw.prefix;
    if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.chars().all(is_named) {
        findings.fault(
            "store.prefix",
            format!("must be 1 to {PREFIX_BYTES_MAX} letters, digits or any of `-_.:`"),
        );
    }
    let address = address(PATH, raw.redis.as_ref()?, authorities, around, findings)?;
    if replicas == 1 {
        findings.warn(
            "store.replicas",
            "is 1: while Redis is down each replica takes all that is left of limits for itself",
        );
    }
    Some(RedisSettings {
        address,
        prefix: prefix.clone(),
        replicas: NonZeroU32::new(replicas)?,
        when_apart: match raw.limits_when_down {
            RawWhenDown::Share => WhenApart::Share,
            RawWhenDown::Refuse => WhenApart::Refuse,
        },
        answer_max: Duration::from_millis(answer_ms),
        lease: Duration::from_secs(lease_s),
    })
}

/// Those in the file that is named; `None` where none is, or it is at fault.
pub fn authorities(
    raw: &RawConfig,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<RedisAuthorities> {
    let file = raw.store.redis_ca.as_ref()?;
    let fault = match (around.read_file)(Path::new(file)) {
        Ok(pem) => match pem.parse() {
            Ok(authorities) => return Some(authorities),
            Err(fault) => NoRedisAuthorities::to_string(&fault),
        },
        Err(error) => format!("cannot read the file: {}", error.kind()),
    };
    findings.fault(CA_PATH, fault);
    None
}

/// Where a Redis is, as it is written or where that points.
pub fn address(
    path: &str,
    written: &SecretText,
    authorities: Option<&RedisAuthorities>,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<RedisAddress> {
    let is_url = written.0.contains("://") && !written.0.starts_with("file:");
    let found = if is_url && !written.0.contains('@') {
        // There is no secret in it.
        written.0.trim().parse()
    } else {
        around.secret(path, written, findings)?.expose().parse()
    };
    let address: RedisAddress = match found {
        Ok(address) => address,
        Err(fault) => {
            findings.fault(path, RedisAddressFault::to_string(&fault));
            return None;
        }
    };
    if address.is_exposed() {
        findings.warn(
            path,
            format!(
                "who answers at {address} is not checked, and what is sent may be read on the way; write \
                 rediss://, and name its authority in {CA_PATH} where that is your own"
            ),
        );
    }
    Some(match authorities {
        Some(authorities) => address.vouched_for_by(authorities),
        None => address,
    })
}

/// Says so where authorities are named and there is nothing that they could vouch for.
pub fn warn_of_idle_authorities<'a>(
    raw: &RawConfig,
    mut addresses: impl Iterator<Item = &'a RedisAddress>,
    findings: &mut Findings,
) {
    if raw.store.redis_ca.is_some() && !addresses.any(RedisAddress::is_encrypted) {
        findings.warn(CA_PATH, "is of no use: there is no Redis at rediss://");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::raw::SecretText;
    use super::super::shared::RawStore;
    use super::*;

    fn judged(store: RawStore) -> (Option<RedisSettings>, Findings) {
        let raw = RawConfig {
            store,
            ..RawConfig::default()
        };
        let environment = [
            ("PLACE", "rediss://hedge:s3cret@cache.example:6380/1"),
            ("BROKEN", "http://hedge:s3cret@cache.example"),
        ];
        let environment: BTreeMap<String, String> = environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let around = Surroundings {
            environment: &environment,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        (redis(&raw, None, &around, &mut findings), findings)
    }

    #[test]
    fn a_redis_is_found_and_its_password_never_shown() {
        for (written, is_found, faults, warnings) in [
            ("env:PLACE", true, 0, 0),
            ("redis://localhost", true, 0, 0),
            ("unix:///run/redis/redis.sock", true, 0, 0),
            ("redis://:s3cret@localhost", true, 0, 1),
            ("env:NOWHERE", false, 1, 0),
            ("file:/nowhere", false, 1, 0),
            ("env:BROKEN", false, 1, 0),
            ("http://localhost", false, 1, 0),
            ("s3cret", false, 1, 1),
        ] {
            let (found, findings) = judged(RawStore {
                redis: Some(SecretText(written.to_owned())),
                replicas: 3,
                ..RawStore::default()
            });
            assert_eq!(found.is_some(), is_found, "{written}");
            assert_eq!(findings.faults.len(), faults, "{written}: {findings:?}");
            assert_eq!(findings.warnings.len(), warnings, "{written}: {findings:?}");
            let all = format!("{found:?} {findings:?}");
            assert!(!all.contains("s3cret"), "{all}");
            let mut said = findings.faults.iter().chain(&findings.warnings);
            assert!(said.all(|it| it.path == "store.redis"));
        }
    }

    #[test]
    fn authorities_are_read_once_for_each_redis_and_said_to_be_idle() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        let pem = params.self_signed(&key).unwrap().pem();
        let files = [("/sound", pem), ("/empty", String::new())];
        for (file, own, of_cache, wanted) in [
            ("/sound", "rediss://cache.example", "", ""),
            ("/sound", "", "rediss://cache.example", ""),
            ("/sound", "", "", "is of no use"),
            ("/sound", "redis://localhost", "", "is of no use"),
            ("/sound", "unix:///run/redis.sock", "", "is of no use"),
            (
                "/empty",
                "rediss://a.example",
                "rediss://b.example",
                "holds no certificates",
            ),
            (
                "/nowhere",
                "rediss://a.example",
                "rediss://b.example",
                "cannot read the file",
            ),
        ] {
            let mut raw = RawConfig::default();
            let written = |url: &str| (!url.is_empty()).then(|| SecretText(url.to_owned()));
            raw.store.redis_ca = Some(file.to_owned());
            raw.store.replicas = 3;
            (raw.store.redis, raw.cache.redis) = (written(own), written(of_cache));
            let read = |path: &Path| {
                let mut files = files.iter();
                let found = files.find(|(name, _)| Path::new(name) == path);
                let found = found.map(|(_, text)| text.clone());
                found.ok_or_else(|| std::io::ErrorKind::NotFound.into())
            };
            let around = Surroundings {
                environment: &BTreeMap::new(),
                read_file: &read,
            };
            let findings = said_of(&raw, &around);
            let said = findings.faults.iter().chain(&findings.warnings);
            let said: Vec<_> = said.map(|it| (it.path.as_str(), &it.message)).collect();
            match &said[..] {
                [] => assert_eq!(wanted, "", "{own} {of_cache}"),
                [(CA_PATH, words)] => assert!(words.starts_with(wanted), "{words}"),
                more => panic!("{more:?}"),
            }
        }
    }

    fn said_of(raw: &RawConfig, around: &Surroundings<'_>) -> Findings {
        let mut findings = Findings::default();
        let store = super::super::shared::store(raw, around, &mut findings);
        let shared = super::super::shared_cache::shared(raw, &store, around, &mut findings);
        let addresses = store.redis.iter().map(|it| &it.address);
        let addresses = addresses.chain(shared.iter().map(|it| &it.address));
        warn_of_idle_authorities(raw, addresses, &mut findings);
        findings
    }

    #[test]
    fn what_is_sent_in_the_clear_to_another_machine_is_warned_of() {
        for (url, count) in [
            ("redis://cache.example", 1),
            ("rediss://cache.example", 0),
            ("redis://127.0.0.1", 0),
        ] {
            let (_, findings) = judged(RawStore {
                redis: Some(SecretText(url.to_owned())),
                replicas: 3,
                ..RawStore::default()
            });
            assert_eq!(findings.warnings.len(), count, "{url}: {findings:?}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_a_fault_with_its_place() {
        let plain = RawStore::default;
        for (store, path) in [
            (
                RawStore {
                    replicas: 0,
                    ..plain()
                },
                "store.replicas",
            ),
            (
                RawStore {
                    replicas: 1_001,
                    ..plain()
                },
                "store.replicas",
            ),
            (
                RawStore {
                    answer_ms_max: 9,
                    ..plain()
                },
                "store.answer_ms_max",
            ),
            (
                RawStore {
                    lease_s: 2,
                    ..plain()
                },
                "store.lease_s",
            ),
            (
                RawStore {
                    prefix: String::new(),
                    ..plain()
                },
                "store.prefix",
            ),
            (
                RawStore {
                    prefix: "a{b}".into(),
                    ..plain()
                },
                "store.prefix",
            ),
            (
                RawStore {
                    prefix: "a\r\nb".into(),
                    ..plain()
                },
                "store.prefix",
            ),
            (
                RawStore {
                    prefix: "a".repeat(65),
                    ..plain()
                },
                "store.prefix",
            ),
        ] {
            let (_, findings) = judged(store);
            let paths: Vec<&str> = findings.faults.iter().map(|it| it.path.as_str()).collect();
            assert_eq!(paths, [path]);
        }
    }
}

//! Where replies are shared with other replicas: judged.

use std::time::Duration;

use providers::Secret;
use store::RedisAddress;

use super::faults::Findings;
use super::raw::RawConfig;
use super::redis;
use super::secret::Surroundings;
use super::sections::within;
use super::shared::StoreSettings;

const MEBIBYTE: u64 = 1024 * 1024;

/// A shorter secret can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Where replies are shared.
#[derive(Clone, Debug)]
pub struct SharedCacheSettings {
    pub address: RedisAddress,
    pub prefix: String,
    pub bytes_max: u64,
    pub look_max: Duration,
    /// What keys and marks are made with; `None`: with what everybody knows.
    pub secret: Option<Secret>,
}

/// `None` where replies are this node's alone, or there is a fault.
pub fn shared(
    raw: &RawConfig,
    store: &StoreSettings,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<SharedCacheSettings> {
    let cache = &raw.cache;
    within(
        "cache.redis_bytes_max",
        cache.redis_bytes_max,
        0..=1024 * 1024 * MEBIBYTE,
        findings,
    );
    within(
        "cache.redis_ms_max",
        cache.redis_ms_max,
        1..=1_000,
        findings,
    );
    let secret = cache.secret.as_ref().and_then(|written| {
        let secret = around.secret("cache.secret", written, findings)?;
        if secret.expose().len() < SECRET_BYTES_MIN {
            let words = format!("is shorter than {SECRET_BYTES_MIN} bytes");
            findings.fault("cache.secret", words);
        }
        Some(secret)
    });
    let own = cache.redis.as_ref();
    let authorities = store.redis_authorities.as_ref();
    let own = own
        .and_then(|written| redis::address("cache.redis", written, authorities, around, findings));
    let address = own.or_else(|| store.redis.as_ref().map(|store| store.address.clone()));
    let address = address.filter(|_| cache.enabled && cache.redis_bytes_max > 0);
    if address.is_none() && cache.secret.is_some() {
        findings.warn(
            "cache.secret",
            "is of no use: replies are shared with nobody, since there is no Redis for them",
        );
    }
    let address = address?;
    if cache.dir.is_some() && secret.is_some() && store.postgres.is_some() {
        findings.warn(
            "cache.dir",
            "is of no use: entries for other questions are shared, in store.postgres",
        );
    }
    Some(SharedCacheSettings {
        address,
        prefix: raw.store.prefix.clone(),
        bytes_max: cache.redis_bytes_max,
        look_max: Duration::from_millis(cache.redis_ms_max),
        secret,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::raw::SecretText;
    use super::super::shared;
    use super::*;

    fn judged(change: impl Fn(&mut RawConfig)) -> (Option<SharedCacheSettings>, Vec<String>) {
        let mut raw = RawConfig::default();
        change(&mut raw);
        let environment = [
            ("PLACE", "rediss://hedge:s3cret@cache.example:6380/1"),
            ("LONG", "s3cret of sixteen bytes and more"),
            ("SHORT", "s3cret"),
        ];
        let environment: BTreeMap<String, String> = environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let around = Surroundings {
            environment: &environment,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        let store = shared::store(&raw, &around, &mut findings);
        let found = shared(&raw, &store, &around, &mut findings);
        let all = format!("{found:?} {findings:?}");
        assert!(!all.contains("s3cret"), "{all}");
        let said = findings.faults.iter().chain(&findings.warnings);
        (found, said.map(|it| it.path.clone()).collect())
    }

    fn text(written: &str) -> Option<SecretText> {
        Some(SecretText(written.to_owned()))
    }

    #[test]
    fn replies_are_shared_where_limits_are_or_in_a_redis_of_their_own() {
        let (found, _) = judged(|raw| raw.store.redis = text("redis://localhost"));
        assert_eq!(found.unwrap().address.to_string(), "redis://localhost:6379");
        let (found, said) = judged(|raw| {
            raw.store.redis = text("redis://localhost");
            raw.store.replicas = 3;
            raw.cache.redis = text("env:PLACE");
            raw.cache.secret = text("env:LONG");
        });
        let found = found.unwrap();
        assert!(found.address.is_encrypted() && found.secret.is_some());
        assert!(said.is_empty(), "{said:?}");
        let (found, said) = judged(|raw| raw.cache.redis = text("env:PLACE"));
        assert!(found.is_some() && said.is_empty(), "{said:?}");
    }

    #[test]
    fn a_folder_is_of_no_use_where_entries_are_in_postgres() {
        let said = |secret: Option<&str>| {
            let (_, said) = judged(|raw| {
                raw.store.redis = text("redis://localhost");
                raw.store.postgres = text("postgres://localhost/hedge");
                raw.cache.secret = secret.and_then(text);
                raw.cache.dir = Some("entries".to_owned());
            });
            said.contains(&"cache.dir".to_owned())
        };
        assert!(said(Some("env:LONG")) && !said(None));
    }

    #[test]
    fn they_are_not_where_nobody_asks_for_it() {
        type Change = fn(&mut RawConfig);
        let cases: [(Change, &str); 4] = [
            (|_| {}, ""),
            (|raw| raw.cache.redis_bytes_max = 0, ""),
            (|raw| raw.cache.enabled = false, ""),
            (
                |raw| {
                    raw.store.redis = None;
                    raw.cache.secret = text("env:LONG");
                },
                "cache.secret",
            ),
        ];
        for (at, (change, path)) in cases.into_iter().enumerate() {
            let (found, said) = judged(|raw| {
                if at > 0 {
                    raw.store.redis = text("redis://localhost");
                    raw.store.replicas = 3;
                }
                change(raw);
            });
            assert!(found.is_none(), "{at}");
            assert_eq!(said.join(" "), path, "{at}");
        }
    }

    #[test]
    fn what_is_wrong_is_a_fault_with_its_place() {
        type Change = fn(&mut RawConfig);
        let cases: [(Change, &str); 5] = [
            (|raw| raw.cache.redis_ms_max = 0, "cache.redis_ms_max"),
            (
                |raw| raw.cache.redis_bytes_max = u64::MAX,
                "cache.redis_bytes_max",
            ),
            (
                |raw| raw.cache.redis = text("http://localhost"),
                "cache.redis",
            ),
            (|raw| raw.cache.redis = text("env:NOWHERE"), "cache.redis"),
            (|raw| raw.cache.secret = text("env:SHORT"), "cache.secret"),
        ];
        for (change, path) in cases {
            let (_, said) = judged(|raw| {
                raw.store.redis = text("redis://localhost");
                raw.store.replicas = 3;
                change(raw);
            });
            assert_eq!(said, [path]);
        }
    }
}

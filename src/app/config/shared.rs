//! What replicas share: raw, and judged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::{PostgresAddress, RedisAuthorities};

use super::faults::Findings;
use super::raw::{RawConfig, SecretText};
use super::redis::{self, RawWhenDown, RedisSettings};
use super::secret::Surroundings;

/// Servers that several nodes share, so that they are one to whoever looks. Without them a node keeps
/// everything itself, and nothing has to be installed. Read at the start.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawStore {
    /// Where records of exchanges and copies of the audit log's lines go, and keys and teams are that are
    /// made at run time:
    /// `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full`, or `env:NAME` or `file:/path` that
    /// hold it. While it is down records wait in `records.dir`, and keys stay as they were. See
    /// docs/records.md and docs/keys.md.
    pub postgres: Option<SecretText>,
    /// Redis or Valkey, where limits are counted, exact replies are shared and changes of keys are told: `redis://HOST:6379`, `rediss://` with TLS, `unix://`,
    /// or `env:NAME` or `file:/path` that hold it. While it is down each replica goes on by its share.
    /// See docs/limits.md.
    pub redis: Option<SecretText>,
    /// A file in PEM of the authorities that may vouch for who answers at `rediss://`, of this Redis and of
    /// `cache.redis`, in place of the usual ones.
    pub redis_ca: Option<String>,
    /// What its keys begin with. Replicas that count together have the same.
    pub prefix: String,
    /// How many replicas count together.
    pub replicas: u32,
    /// What becomes of limits per day, per month and for ever while it is down.
    pub limits_when_down: RawWhenDown,
    /// How long a request waits for it. Then it counts as down.
    pub answer_ms_max: u64,
    /// How long what a replica holds stays held after that was last heard of.
    pub lease_s: u64,
}

impl Default for RawStore {
    fn default() -> Self {
        Self {
            postgres: None,
            redis: None,
            redis_ca: None,
            prefix: "hedge".into(),
            replicas: 1,
            limits_when_down: RawWhenDown::Share,
            answer_ms_max: 100,
            lease_s: 30,
        }
    }
}

/// What is shared, and through what.
#[derive(Clone, Debug, Default)]
pub struct StoreSettings {
    /// `None` where records and keys are this node's alone.
    pub postgres: Option<PostgresAddress>,
    /// `None` where this node counts limits for itself.
    pub redis: Option<RedisSettings>,
    /// Who may vouch for any Redis; `None` where the usual ones may.
    pub redis_authorities: Option<RedisAuthorities>,
}

pub fn store(raw: &RawConfig, around: &Surroundings<'_>, findings: &mut Findings) -> StoreSettings {
    let redis_authorities = redis::authorities(raw, around, findings);
    StoreSettings {
        postgres: postgres(raw, around, findings),
        redis: redis::redis(raw, redis_authorities.as_ref(), around, findings),
        redis_authorities,
    }
}

/// `None` where none is named, or there is a fault.
pub fn postgres(
    raw: &RawConfig,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<PostgresAddress> {
    const PATH: &str = "store.postgres";
    let written = raw.store.postgres.as_ref()?;
    let is_url = written.0.contains("://") && !written.0.starts_with("file:");
    let text = if is_url && !PostgresAddress::has_password(&written.0) {
        // There is no secret in it.
        written.0.clone()
    } else {
        around.secret(PATH, written, findings)?.expose().to_owned()
    };
    let address = match text.trim().parse::<PostgresAddress>() {
        Ok(address) => address,
        Err(fault) => {
            findings.fault(PATH, fault.to_string());
            return None;
        }
    };
    if !raw.records.enabled {
        findings.warn(PATH, "no records go there, since records.enabled is false");
    }
    if address.is_exposed() {
        findings.warn(
            PATH,
            format!(
                "who answers at {address} is not checked, and what is sent may be read on the way; add \
                 ?sslmode=verify-full, and &sslrootcert=/path where its certificate is of your own \
                 authority"
            ),
        );
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn judged(written: &str) -> (Option<String>, Findings) {
        let mut raw = RawConfig::default();
        raw.store.postgres = Some(SecretText(written.to_owned()));
        let environment = [
            (
                "PLACE",
                "postgres://hedge:s3cret@db.example/hedge?sslmode=verify-full",
            ),
            ("BROKEN", "postgres://hedge:s3cret@db.example"),
        ];
        let environment: BTreeMap<String, String> = environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let around = Surroundings {
            environment: &environment,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        let found = postgres(&raw, &around, &mut findings);
        (found.map(|it| format!("{it:?}")), findings)
    }

    #[test]
    fn an_address_is_found_and_its_password_never_shown() {
        for (written, is_found, faults, warnings) in [
            ("env:PLACE", true, 0, 0),
            ("postgres://hedge@localhost/hedge", true, 0, 0),
            // Exposed; and with a password in the file.
            ("postgres://hedge@db.example/hedge", true, 0, 1),
            ("postgres://hedge:s3cret@db.example/hedge", true, 0, 2),
            ("env:NOWHERE", false, 1, 0),
            ("file:/nowhere", false, 1, 0),
            ("env:BROKEN", false, 1, 0),
            ("mysql://hedge:s3cret@db.example/hedge", false, 1, 1),
            ("s3cret", false, 1, 1),
        ] {
            let (found, findings) = judged(written);
            assert_eq!(found.is_some(), is_found, "{written}");
            assert_eq!(findings.faults.len(), faults, "{written}: {findings:?}");
            assert_eq!(findings.warnings.len(), warnings, "{written}: {findings:?}");
            let all = format!("{found:?} {findings:?}");
            assert!(!all.contains("s3cret"), "{all}");
            let mut said = findings.faults.iter().chain(&findings.warnings);
            assert!(said.all(|it| it.path == "store.postgres"));
        }
    }
}

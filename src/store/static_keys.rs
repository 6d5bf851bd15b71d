//! Keys from configuration.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use domain::{KeyDigest, KeyDirectory, KeyTrouble, Limit, Principal, Scope};
use hashing::sha256;

/// The digest under which a key is known. The only thing to do with a key's text.
#[must_use]
pub fn digest_key(key: &str) -> KeyDigest {
    KeyDigest(sha256(key))
}

/// A fixed list of keys. Without any, callers need none.
///
/// Lookup compares digests with an ordinary map: how long it takes tells something of a digest,
/// from which no key can be found.
#[derive(Clone)]
pub struct StaticKeys {
    principals: HashMap<KeyDigest, Principal>,
    anyone: Principal,
}

impl Default for StaticKeys {
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKeys({})", self.principals.len())
    }
}

impl StaticKeys {
    /// Where a digest comes twice, the later principal holds it.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = (KeyDigest, Principal)>) -> Self {
        Self {
            principals: keys.into_iter().collect(),
            anyone: Principal::anyone(),
        }
    }

    pub(crate) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.principals.values()
    }

    /// With `anyone` as the caller where there are no keys.
    #[must_use]
    pub fn with_anyone(mut self, anyone: Principal) -> Self {
        self.anyone = anyone;
        self
    }
}

impl KeyDirectory for StaticKeys {
    fn is_required(&self) -> bool {
        !self.principals.is_empty()
    }

    fn find(&self, digest: &KeyDigest) -> Result<Principal, KeyTrouble> {
        let found = self.principals.get(digest).cloned();
        found.ok_or(KeyTrouble::Unknown)
    }

    fn anyone(&self) -> Principal {
        self.anyone.clone()
    }

    fn limits(&self) -> Vec<Limit> {
        let anyone = self.principals.is_empty().then_some(&self.anyone);
        each_once(self.principals.values().chain(anyone))
    }
}

/// The limits that these are held to, once each and in order.
pub(crate) fn each_once<'a>(callers: impl Iterator<Item = &'a Principal>) -> Vec<Limit> {
    let all = callers.flat_map(|it| it.limits.iter().chain(it.rules.named()));
    let all: HashSet<&Limit> = all.collect();
    let mut all: Vec<Limit> = all.into_iter().cloned().collect();
    all.sort_unstable_by_key(place);
    all
}

/// Where a limit stands among all.
fn place(
    limit: &Limit,
) -> (
    u8,
    String,
    &'static str,
    Option<Duration>,
    &'static str,
    u64,
) {
    let (rank, name) = match &limit.scope {
        Scope::Organisation => (0, String::new()),
        Scope::Team(team) => (1, team.as_str().to_owned()),
        Scope::Key(key) => (2, key.as_str().to_owned()),
        Scope::User(_, user) => (3, user.as_str().to_owned()),
        Scope::Tag(tag) => (4, tag.as_str().to_owned()),
        Scope::Model(model) => (5, model.as_str().to_owned()),
        Scope::Shadow => (6, String::new()),
    };
    let (measure, per) = (limit.measure.as_label(), limit.per.as_label());
    (
        rank,
        name,
        measure,
        limit.per.refills_in(),
        per,
        limit.amount,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{KeyId, Measure, Period, TeamId, Thresholds, WhenSpent};

    use super::*;
    use crate::conformance::check_key_directory;

    fn principal(id: &str) -> Principal {
        Principal {
            key: Some(KeyId::new(id)),
            ..Principal::anyone()
        }
    }

    #[test]
    fn it_keeps_the_contract_of_a_key_directory() {
        let known = digest_key("key-one");
        let keys = StaticKeys::new([(known, principal("one"))]);
        check_key_directory(&keys, &known, &digest_key("key-two"));
    }

    #[test]
    fn without_keys_none_is_required() {
        let keys = StaticKeys::default();
        assert!(!keys.is_required());
        assert_eq!(keys.find(&digest_key("")), Err(KeyTrouble::Unknown));
    }

    #[test]
    fn each_key_finds_its_own_principal() {
        let names = ["a", "b", "c"];
        let keys = StaticKeys::new(names.map(|name| (digest_key(name), principal(name))));
        for name in names {
            assert_eq!(keys.find(&digest_key(name)), Ok(principal(name)));
        }
    }

    #[test]
    fn a_digest_is_sha_256_of_the_key_s_bytes() {
        // FIPS 180-2, appendix B.1.
        let digest = digest_key("abc").0;
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(digest[28..], [0xf2, 0x00, 0x15, 0xad]);
    }

    #[test]
    fn debug_shows_neither_digests_nor_names() {
        let keys = StaticKeys::new([(digest_key("key-one"), principal("one"))]);
        assert_eq!(format!("{keys:?}"), "StaticKeys(1)");
    }

    #[test]
    fn a_limit_that_many_are_held_to_is_told_once() {
        let limit = |scope, measure| Limit {
            scope,
            measure,
            amount: 5,
            per: Period::Month,
            burst: 5,
            when_spent: WhenSpent::Refuse,
            warn_at: Thresholds::default(),
        };
        let all = [
            limit(Scope::Organisation, Measure::Cost),
            limit(Scope::Team(TeamId::new("a")), Measure::Cost),
            limit(Scope::Team(TeamId::new("a")), Measure::Requests),
            limit(Scope::Key(KeyId::new("one")), Measure::Requests),
            limit(Scope::Key(KeyId::new("two")), Measure::Requests),
        ];
        let holder = |id: &str, own: usize| Principal {
            limits: Arc::from([3, 2, 1, 0].map(|at| all[if at == 3 { own } else { at }].clone())),
            ..principal(id)
        };
        let keys = [("one", 3), ("two", 4)];
        let keys = keys.map(|(id, own)| (digest_key(id), holder(id, own)));
        assert_eq!(StaticKeys::new(keys).limits(), all);
        // Nobody's but the one who needs no key.
        assert_eq!(StaticKeys::default().limits(), []);
        let anyone = holder("", 3);
        let limits = StaticKeys::default().with_anyone(anyone).limits();
        assert_eq!(limits, all[..4]);
    }
}

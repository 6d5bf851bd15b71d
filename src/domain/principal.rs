//! Who asks.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    BadRequest, KeyId, Limit, LimitRules, Marks, ModelAlias, Priority, Tag, TeamId, Tokens, UserId,
};

/// Of a user's name where users have limits: each is kept for as long as it counts. Clients that make
/// one up of account and session have 160.
pub const USER_BYTES_MAX: usize = 256;

/// The caller of one exchange, known before the body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `None` when the node asks for no keys.
    pub key: Option<KeyId>,
    pub team: TeamId,
    /// Models the key may name; `None` grants all.
    pub models: Option<Vec<ModelAlias>>,
    /// Rules of the routes whose plans may answer it; `None` grants all.
    pub routes: Option<Arc<[String]>>,
    /// Where it may come from; `None` is anywhere.
    pub networks: Option<Arc<[IpNet]>>,
    /// The highest its requests may ask for.
    pub priority: Priority,
    /// Of all choices of one reply; what names no bound is bounded by it. `None` is as the model is.
    pub output_tokens_max: Option<Tokens>,
    /// What it may use, in the order in which they were written down: its own limits, its team's and
    /// everybody's.
    pub limits: Arc<[Limit]>,
    /// What it may use beside, by what it asks for and for whom.
    pub rules: Arc<LimitRules>,
    /// For whom it asks; nobody until the request was read.
    pub user: UserId,
    /// What it says of its request; at most [`TAGS_MAX`](crate::TAGS_MAX).
    pub tags: Vec<Tag>,
    /// What is kept of user and tags instead of them.
    pub marks: Marks,
}

impl Principal {
    /// The caller of a node that asks for no keys.
    #[must_use]
    pub fn anyone() -> Self {
        Self {
            key: None,
            team: TeamId::new("default"),
            models: None,
            routes: None,
            networks: None,
            priority: Priority::default(),
            output_tokens_max: None,
            limits: Arc::default(),
            rules: Arc::default(),
            user: UserId::new(""),
            tags: Vec::new(),
            marks: Marks::default(),
        }
    }

    /// The same, as it asks for `user`.
    ///
    /// # Errors
    /// Users have limits, and this is none that they can be counted by.
    pub fn asking_for(mut self, user: Option<&str>) -> Result<Self, BadRequest> {
        let user = user.unwrap_or_default();
        let refused = |words: String| Err(BadRequest::at("user", words));
        if self.rules.is_user_required && user.is_empty() {
            return refused(
                "this team's limits are for each of its users; say whom the request is for".into(),
            );
        }
        if !self.rules.each_user.is_empty() {
            if user.len() > USER_BYTES_MAX {
                return refused(format!(
                    "users have limits here, so a user's name has at most {USER_BYTES_MAX} bytes"
                ));
            }
            if user.contains(char::is_control) {
                return refused("a user's name has no control characters".into());
            }
            self.user = UserId::new(user);
        }
        Ok(self)
    }

    /// What a request for `model` is held to.
    #[must_use]
    pub fn limits_of(&self, model: &ModelAlias) -> Arc<[Limit]> {
        if self.rules.is_empty() {
            return Arc::clone(&self.limits);
        }
        let further = self.rules.of(&self.team, &self.user, &self.tags, model);
        self.limits.iter().cloned().chain(further).collect()
    }

    #[must_use]
    pub fn may_use(&self, model: &ModelAlias) -> bool {
        self.models
            .as_ref()
            .is_none_or(|granted| granted.contains(model))
    }

    /// Whether a plan of this rule may answer it.
    #[must_use]
    pub fn may_take(&self, rule: &str) -> bool {
        let routes = self.routes.as_ref();
        routes.is_none_or(|granted| granted.iter().any(|it| it == rule))
    }

    /// Whether it may come from `address`. One of IPv4 that is written as one of IPv6 is what it is.
    #[must_use]
    pub fn may_come_from(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let networks = self.networks.as_ref();
        networks.is_none_or(|granted| granted.iter().any(|it| it.contains(&address)))
    }
}

/// A network as people write it: `10.0.0.0/8`, or one address.
///
/// # Errors
/// It is none; or it is an address within one, and then which.
pub fn network(text: &str) -> Result<IpNet, NoNetwork> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let network: IpNet = text.parse().map_err(|_| NoNetwork { meant: None })?;
    let meant = network.trunc();
    if meant != network {
        return Err(NoNetwork { meant: Some(meant) });
    }
    Ok(network)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoNetwork {
    pub meant: Option<IpNet>,
}

impl fmt::Display for NoNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meant {
            Some(meant) => write!(f, "is an address within a network; write {meant}"),
            None => f.write_str("is no network such as 10.0.0.0/8, and no address"),
        }
    }
}

impl std::error::Error for NoNetwork {}

/// SHA-256 of an API key: all that is ever kept of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Measure, Period, Scope, Thresholds, WhenSpent};

    fn limit(scope: Scope) -> Limit {
        Limit {
            scope,
            measure: Measure::Requests,
            amount: 5,
            per: Period::Day,
            burst: 5,
            when_spent: WhenSpent::Refuse,
            warn_at: Thresholds::default(),
        }
    }

    fn held() -> Principal {
        let nobody = Scope::User("".into(), "".into());
        let rules = LimitRules {
            each_user: vec![limit(nobody)],
            is_user_required: false,
            tags: [("batch".into(), vec![limit(Scope::Tag("batch".into()))])].into(),
            models: [("big".into(), vec![limit(Scope::Model("big".into()))])].into(),
        };
        Principal {
            team: "a".into(),
            limits: [limit(Scope::Organisation)].into(),
            rules: Arc::new(rules),
            ..Principal::anyone()
        }
    }

    #[test]
    fn a_request_is_held_to_what_it_is() {
        let scopes = |principal: &Principal, model: &str| {
            let limits = principal.limits_of(&model.into());
            let scopes: Vec<String> = limits.iter().map(|limit| limit.scope.key()).collect();
            scopes.join(" ")
        };
        let nameless = held().asking_for(None).unwrap();
        assert_eq!(scopes(&nameless, "small"), "organisation user:1:a:");
        let mut tagged = held().asking_for(Some("u")).unwrap();
        tagged.tags = vec!["other".into(), "batch".into()];
        assert_eq!(
            scopes(&tagged, "big"),
            "organisation user:1:a:u tag:batch model:big"
        );
        let free = Principal::anyone().asking_for(Some("u")).unwrap();
        assert_eq!(scopes(&free, "big"), "");
    }

    #[test]
    fn a_user_is_one_that_can_be_counted() {
        let long = "u".repeat(USER_BYTES_MAX + 1);
        for (user, is_taken) in [
            ("u", true),
            (&long[1..], true),
            (&long, false),
            ("a\nb", false),
        ] {
            let asking = held().asking_for(Some(user));
            assert_eq!(asking.is_ok(), is_taken, "{user}");
            // Nobody counts them.
            assert!(Principal::anyone().asking_for(Some(user)).is_ok());
        }
        let mut strict = held();
        Arc::make_mut(&mut strict.rules).is_user_required = true;
        for user in [None, Some("")] {
            let refused = strict.clone().asking_for(user).unwrap_err();
            assert_eq!(refused.param.as_deref(), Some("user"));
        }
        assert!(strict.asking_for(Some("u")).is_ok());
    }

    #[test]
    fn a_network_is_written_by_its_first_address() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), shown);
        }
        let slip = network("10.1.2.3/8").unwrap_err();
        assert_eq!(slip.meant, Some("10.0.0.0/8".parse().unwrap()));
        for text in [
            "",
            "10/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "ten",
            "10.0.0.0/8 ",
        ] {
            assert_eq!(network(text), Err(NoNetwork { meant: None }), "{text}");
        }
    }

    #[test]
    fn a_key_takes_its_routes_alone() {
        let granted = |routes: &[&str]| Principal {
            routes: Some(routes.iter().map(|it| (*it).to_owned()).collect()),
            ..Principal::anyone()
        };
        assert!(granted(&["short", "default"]).may_take("default"));
        assert!(!granted(&["short", "default"]).may_take("shorter"));
        assert!(!granted(&[]).may_take("short"));
        assert!(Principal::anyone().may_take("short"));
    }

    #[test]
    fn a_key_comes_from_its_networks_alone() {
        let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let granted = Principal {
            networks: Some(Arc::from(networks)),
            ..Principal::anyone()
        };
        for (address, may) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.1", false),
            ("127.0.0.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::10.0.0.1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(granted.may_come_from(address), may, "{address}");
            assert!(Principal::anyone().may_come_from(address));
        }
        let nowhere = Principal {
            networks: Some(Arc::default()),
            ..Principal::anyone()
        };
        assert!(!nowhere.may_come_from("127.0.0.1".parse().unwrap()));
    }
}

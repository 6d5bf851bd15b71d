//! What is said of replies that are to be removed, and what is known of a reply without reading it.

use domain::{CacheKey, Kept, Mark, ModelAlias, Purge, TeamId, Who};
use serde::{Deserialize, Serialize};

/// A line of the journal. It names no user: of one it has the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    All,
    Model(ModelAlias),
    Team(TeamId),
    /// Of one team, or of all.
    Tag(String, Option<TeamId>),
    User(Mark, Option<TeamId>),
    #[serde(with = "hexadecimal")]
    Key(CacheKey),
}

/// What a reply is known by.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    pub team: TeamId,
    pub model: ModelAlias,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Mark>,
}

impl Traits {
    pub fn of(kept: &Kept) -> Self {
        Self {
            team: kept.team.clone(),
            model: kept.model.clone(),
            tags: kept.tags.clone(),
            user: kept.user,
        }
    }
}

impl Said {
    /// `None`: it means no exact reply.
    pub fn of(what: &Purge) -> Option<Self> {
        Some(match what {
            Purge::All => Self::All,
            Purge::Tag(tag) => Self::Tag(tag.clone(), None),
            Purge::Model(model) => Self::Model(model.clone()),
            Purge::Team(team) => Self::Team(team.clone()),
            Purge::Subject(subject, mark) => match &subject.who {
                Who::User(_) => Self::User(*mark, subject.team.clone()),
                Who::Tag(tag) => Self::Tag(tag.as_str().to_owned(), subject.team.clone()),
            },
            Purge::Expired | Purge::Compartment(_) | Purge::Entry(_) => return None,
        })
    }

    /// A line, and its number.
    pub fn read(line: &str) -> Option<(u64, Self)> {
        let (seq, said) = line.split_once(' ')?;
        // What a later version says may mean anything.
        let said = serde_json::from_str(said).unwrap_or(Self::All);
        Some((seq.parse().ok()?, said))
    }

    pub fn takes(&self, key: &CacheKey, traits: &Traits) -> bool {
        let is_of = |team: &Option<TeamId>| team.as_ref().is_none_or(|team| *team == traits.team);
        match self {
            Self::All => true,
            Self::Model(model) => traits.model == *model,
            Self::Team(team) => traits.team == *team,
            Self::Tag(tag, team) => is_of(team) && traits.tags.contains(tag),
            Self::User(mark, team) => is_of(team) && traits.user == Some(*mark),
            Self::Key(meant) => meant == key,
        }
    }
}

/// As in the name of a reply's own key.
pub fn name_of(key: &CacheKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn key_of(name: &str) -> Option<CacheKey> {
    let is_plain = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip(0..) {
        let pair = name.get(2 * at..2 * at + 2).filter(|_| is_plain)?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(CacheKey(key))
}

mod hexadecimal {
    use domain::CacheKey;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(key: &CacheKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::name_of(key))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CacheKey, D::Error> {
        let name = String::deserialize(deserializer)?;
        super::key_of(&name).ok_or_else(|| D::Error::custom("is no key of a reply"))
    }
}

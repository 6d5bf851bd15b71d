//! Keys and teams, as the operator sees and changes them while the node runs. What stands behind it
//! judges what a key may, in the configuration's words, and keeps what was made.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Of a name of a key or team that is made here.
pub const NAME_BYTES_MAX: usize = 64;

/// Whoever keeps keys and teams.
///
/// Contract: a change is on the disk, in force and in the audit log when `change` returns, and whole: after
/// an error nothing of it is in force, or all of it after the next start where the disk failed while it
/// was being written. Changes come one after the other.
#[async_trait]
pub trait KeyDesk: Send + Sync + 'static {
    /// At most `count`, by name, of those after `after`. In memory.
    fn keys(&self, after: &str, count: usize) -> Vec<KeyView>;

    fn key(&self, name: &str) -> Option<KeyView>;

    fn teams(&self, after: &str, count: usize) -> Vec<TeamView>;

    fn team(&self, name: &str) -> Option<TeamView>;

    /// Changes something in the name of `who`.
    ///
    /// # Errors
    /// It may not be, or cannot be kept.
    async fn change(&self, who: &str, change: KeyChange) -> Result<Changed, DeskFault>;

    /// Whether what replicas share cannot be asked; `None` where this node keeps its keys itself.
    fn is_apart(&self) -> Option<bool> {
        None
    }
}

/// When a key is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Never,
    In(Duration),
    /// Unix seconds.
    At(u64),
}

/// What is to be changed. What a key or team may is in the configuration's words; a `null` takes a word
/// away.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyChange {
    MakeKey {
        /// `None`: one that nobody has.
        name: Option<String>,
        team: String,
        expiry: Expiry,
        grants: Map<String, Value>,
    },
    ChangeKey {
        name: String,
        is_enabled: Option<bool>,
        expiry: Option<Expiry>,
        grants: Map<String, Value>,
    },
    /// Another secret; the one before it opens for `overlap` still.
    RotateKey {
        name: String,
        overlap: Duration,
    },
    RemoveKey {
        name: String,
    },
    MakeTeam {
        name: String,
        grants: Map<String, Value>,
    },
    ChangeTeam {
        name: String,
        grants: Map<String, Value>,
    },
    RemoveTeam {
        name: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// A key, with a secret that is shown now and never again.
    Secret(KeyMadeView),
    Key(KeyView),
    Team(TeamView),
    Removed,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeskFault {
    #[error("{path}: {message}")]
    Bad { path: String, message: String },
    #[error("there is no such {0}")]
    Absent(Noun),
    #[error("there is such a {0} already")]
    Taken(Noun),
    /// It stands in the configuration file.
    #[error("the {0} stands in the configuration file")]
    OfFile(Noun),
    /// Another replica made it, and it does not go with this one.
    #[error("the {0} of another replica does not go with the configuration here")]
    LeftOut(Noun),
    #[error("the team has {0} keys")]
    TeamInUse(usize),
    #[error("the secret before the last one still opens")]
    Rotating,
    #[error("there are {max} of that kind, and no more may be")]
    Full { noun: Noun, max: usize },
    /// Nothing could be written down; the log of the node says why.
    #[error("nothing can be kept")]
    Unkept,
    /// What replicas share did not take it.
    #[error("what replicas share cannot be changed")]
    Away,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    Key,
    Team,
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Team => "team",
        })
    }
}

/// A key as it is shown. Fields are added over time, and none changes its meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyView {
    pub name: String,
    pub team: String,
    pub source: Source,
    pub state: KeyState,
    /// Unix seconds, as the others; `None` of one in the configuration file.
    pub created_at: Option<u64>,
    pub expires_at: Option<u64>,
    /// Until when the secret before this one opens too.
    pub rotated_until: Option<u64>,
    /// The last day on which it was used, in UTC, as `2026-11-30`.
    pub last_used: Option<String>,
    /// `None`: all.
    pub models: Option<Vec<String>>,
    /// `None`: all.
    pub routes: Option<Vec<String>>,
    /// `None`: anywhere.
    pub networks: Option<Vec<String>>,
    /// `interactive` or `batch`.
    pub priority: String,
    pub output_tokens_max: Option<u32>,
    /// As they were written.
    pub limits: Vec<Value>,
}

/// Where a key or team was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In the configuration file, and changed there alone.
    File,
    /// While the node ran.
    #[default]
    Admin,
}

impl Source {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Admin => "admin",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    #[default]
    Active,
    Disabled,
    Expired,
}

impl KeyState {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
        }
    }
}

/// A key, and the secret that its holder sends.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyMadeView {
    pub key: KeyView,
    pub secret: String,
}

impl fmt::Debug for KeyMadeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMadeView")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeysView {
    pub keys: Vec<KeyView>,
    /// What the next page comes `after`; `None` at the end.
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TeamView {
    pub name: String,
    pub source: Source,
    pub created_at: Option<u64>,
    /// How many are of it.
    pub keys: usize,
    pub limits: Vec<Value>,
    /// Of each of its users.
    pub user_limits: Vec<Value>,
    /// `None`: as of everybody.
    pub user_required: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TeamsView {
    pub teams: Vec<TeamView>,
    pub after: Option<String>,
}

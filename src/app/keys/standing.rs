//! What was made, and what comes of it together with the configuration.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use api::{KeyState, KeyView, Source, TeamView};
use domain::{KeyId, Limit, Principal, Priority, TeamId};
use serde::Serialize;
use serde_json::{Map, Value};
use store::{
    Calendar, Held, KeptKey, KeptTeam, KeyRing, StaticKeys, TagSecret, UnixClock, UsedDay,
};

use super::OfFile;
use super::taking::LeftOut;
use crate::config::{
    ConfigFault, KeyGrant, OwnGrants, TeamGrants, key_grants, team_grants, unknown_route,
};

const DAY_US: i64 = 86_400_000_000;
/// Of keys that name none, and of callers where there are no keys.
const TEAM_DEFAULT: &str = "default";

/// A key that was made here, and what it may.
#[derive(Debug)]
pub struct MadeKey {
    pub kept: KeptKey,
    /// In the configuration's words, as they are kept.
    pub words: Map<String, Value>,
    pub own: OwnGrants,
}

/// A team that was.
#[derive(Debug)]
pub struct MadeTeam {
    pub kept: KeptTeam,
    pub words: Map<String, Value>,
    pub grants: TeamGrants,
}

/// All that there is. A copy costs next to nothing, so that a change is made to one and takes its place
/// once it is written.
#[derive(Clone)]
pub struct Book {
    pub of_file: Arc<OfFile>,
    pub keys: BTreeMap<String, Arc<MadeKey>>,
    pub teams: BTreeMap<String, Arc<MadeTeam>>,
    pub has_made: bool,
    /// What replicas share was never heard of: whoever it is that asks, there may be keys.
    pub is_unheard: bool,
    pub secret: Option<TagSecret>,
    /// What other replicas made that does not go with this one.
    pub left_out: LeftOut,
    /// By the names of keys. Outlive rings.
    pub days: HashMap<String, Arc<UsedDay>>,
}

impl Book {
    pub fn new(of_file: OfFile) -> Self {
        Self {
            of_file: Arc::new(of_file),
            keys: BTreeMap::new(),
            teams: BTreeMap::new(),
            has_made: false,
            is_unheard: false,
            secret: None,
            left_out: LeftOut::default(),
            days: HashMap::new(),
        }
    }

    pub fn has_limits(&self) -> bool {
        let mut keys = self.keys.values();
        let mut teams = self.teams.values().map(|team| &team.grants);
        keys.any(|key| !key.own.limits.is_empty())
            || teams.any(|team| !(team.limits.is_empty() && team.user_limits.is_empty()))
    }

    /// Whether the configuration has such a key.
    pub fn is_key_of_file(&self, name: &str) -> bool {
        let mut keys = self.of_file.keys.iter();
        keys.any(|key| key.name.as_str() == name)
    }

    /// Whether the configuration knows of such a team: it has limits there, or keys.
    pub fn is_team_of_file(&self, name: &str) -> bool {
        let mut keys = self.of_file.keys.iter();
        let mut written = self.of_file.quotas.written();
        name == TEAM_DEFAULT
            || written.any(|(known, _)| known == name)
            || keys.any(|key| key.team.as_str() == name)
    }

    /// What is wrong with the routes that a key names: with which of them, and why.
    pub fn unknown_route(&self, own: &OwnGrants) -> Option<(usize, String)> {
        unknown_route(own.routes.as_deref(), &self.of_file.routes)
    }

    pub fn has_team(&self, name: &str) -> bool {
        self.teams.contains_key(name) || self.is_team_of_file(name)
    }

    pub fn keys_of_team(&self, name: &str) -> usize {
        let made = self.keys.values().filter(|key| key.kept.team == name);
        let of_file = self.of_file.keys.iter();
        let left_out = self.left_out.keys.values().filter(|team| *team == name);
        let of_file = of_file.filter(|key| key.team.as_str() == name);
        made.count() + of_file.count() + left_out.count()
    }

    /// What is in force from here on.
    ///
    /// # Errors
    /// What was made does not go with the configuration.
    pub fn stand(&self, clock: &UnixClock) -> Result<Standing, Vec<ConfigFault>> {
        let faults = self.clashes();
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut quotas = self.of_file.quotas.clone();
        for (name, team) in &self.teams {
            quotas.add_team(name, &team.grants);
        }
        let (limits, rules) = quotas.of_anyone();
        let anyone = Principal {
            limits,
            rules,
            ..Principal::anyone()
        };
        let known = RefCell::new(BTreeMap::new());
        let rules_of = |team: &TeamId| {
            let mut known = known.borrow_mut();
            let rules = known.entry(team.clone());
            Arc::clone(rules.or_insert_with(|| quotas.rules(team)))
        };
        let of_file = self.of_file.keys.iter().map(|key| {
            let principal = Principal {
                key: Some(key.name.clone()),
                team: key.team.clone(),
                models: key.models.clone(),
                routes: key.routes.clone(),
                networks: key.networks.clone(),
                priority: key.priority,
                output_tokens_max: key.output_tokens_max,
                limits: self.limits_of(key),
                rules: rules_of(&key.team),
                ..Principal::anyone()
            };
            (key.digest, principal)
        });
        let of_file = StaticKeys::new(of_file).with_anyone(anyone);
        let mut ring = KeyRing::new(of_file, Arc::clone(clock));
        if self.has_made || self.is_unheard || self.of_file.requires_keys {
            ring = ring.requiring();
        }
        let mut keys: BTreeMap<String, Shown> = BTreeMap::new();
        let mut held = Vec::new();
        for (name, key) in &self.keys {
            let used = self.days.get(name).cloned().unwrap_or_default();
            let team = TeamId::new(&key.kept.team);
            let principal = Principal {
                key: Some(KeyId::new(name)),
                models: key.own.models.clone(),
                routes: key.own.routes.clone(),
                networks: key.own.networks.clone(),
                priority: key.own.priority,
                output_tokens_max: key.own.output_tokens_max,
                limits: quotas.limits(&team, key.own.limits.clone()),
                rules: rules_of(&team),
                team,
                ..Principal::anyone()
            };
            held.extend(both(&key.kept, &principal, &used));
            keys.insert(name.clone(), Shown::of_made(key, used));
        }
        if let Some(secret) = &self.secret {
            ring = ring.with(secret.clone(), held);
        }
        for key in &self.of_file.keys {
            keys.insert(key.name.as_str().to_owned(), Shown::of_file(key));
        }
        Ok(Standing {
            ring,
            keys,
            teams: self.team_views(),
        })
    }

    /// Of a key of the file's: its team may have been made here.
    fn limits_of(&self, key: &KeyGrant) -> Arc<[Limit]> {
        match self.teams.get(key.team.as_str()) {
            None => Arc::clone(&key.limits),
            Some(team) => {
                let both = key.limits.iter().chain(&team.grants.limits);
                both.cloned().collect()
            }
        }
    }

    /// Names that the configuration and what was made both have, and teams that neither has any more.
    fn clashes(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut fault = |path: String, message: String| faults.push(ConfigFault { path, message });
        for (at, key) in self.of_file.keys.iter().enumerate() {
            let name = key.name.as_str();
            if self.keys.contains_key(name) {
                let words = "is the name of a key that was made while the node ran; choose another, or \
                             delete that one with `hedge keys delete`";
                fault(format!("keys[{at}].name"), words.to_owned());
            }
        }
        let written = self.of_file.quotas.written().map(|(name, _)| name);
        for name in written.filter(|name| self.teams.contains_key(*name)) {
            let words = format!(
                "`{name}` is the name of a team that was made while the node ran; leave it out here, or \
                 delete that one with `hedge teams delete`"
            );
            fault("teams".to_owned(), words);
        }
        let made = self.keys.values().map(|key| key.kept.team.as_str());
        let lost: BTreeSet<&str> = made.filter(|team| !self.has_team(team)).collect();
        for name in lost {
            let words = format!(
                "`{name}` is the team of keys that were made while the node ran, and is not here any \
                 more: its limits would end; put it back, or delete those keys first"
            );
            fault("teams".to_owned(), words);
        }
        for (name, key) in &self.keys {
            if let Some((_, words)) = self.unknown_route(&key.own) {
                let words = format!(
                    "key `{name}`, made while the node ran, may take it: {words}; put the rule back, or \
                     change the key first with `hedge keys change {name} --routes`"
                );
                fault("routes.file".to_owned(), words);
            }
        }
        faults
    }

    fn team_views(&self) -> BTreeMap<String, TeamView> {
        let mut teams: BTreeMap<String, TeamView> = BTreeMap::new();
        let mut of_file = |name: &str, view: TeamView| {
            let view = TeamView {
                name: name.to_owned(),
                source: Source::File,
                ..view
            };
            teams.entry(name.to_owned()).or_insert(view);
        };
        for (name, team) in self.of_file.quotas.written() {
            let view = TeamView {
                limits: as_words(&team.limits),
                user_limits: as_words(&team.user_limits),
                user_required: team.user_required,
                ..TeamView::default()
            };
            of_file(name, view);
        }
        of_file(TEAM_DEFAULT, TeamView::default());
        let named = self.of_file.keys.iter().map(|key| key.team.as_str());
        for name in named.filter(|name| !self.teams.contains_key(*name)) {
            of_file(name, TeamView::default());
        }
        for (name, team) in &self.teams {
            let view = TeamView {
                name: name.clone(),
                source: Source::Admin,
                created_at: Some(team.kept.made_s),
                keys: 0,
                limits: list(&team.words, "limits"),
                user_limits: list(&team.words, "user_limits"),
                user_required: team.grants.user_required,
            };
            teams.insert(name.clone(), view);
        }
        let made = self.keys.values().map(|key| key.kept.team.as_str());
        let of_file = self.of_file.keys.iter().map(|key| key.team.as_str());
        for team in made.chain(of_file) {
            if let Some(view) = teams.get_mut(team) {
                view.keys += 1;
            }
        }
        teams
    }
}

/// The key, and the one before it.
fn both<'a>(
    kept: &'a KeptKey,
    principal: &'a Principal,
    used: &'a Arc<UsedDay>,
) -> impl Iterator<Item = Held> {
    let now = (kept.tag, kept.until_s);
    let before = kept.before.map(|(tag, until_s)| {
        let end = kept.until_s.map_or(until_s, |end| end.min(until_s));
        (tag, Some(end))
    });
    let both = std::iter::once(now).chain(before);
    both.map(|(tag, until_s)| Held {
        tag,
        is_enabled: kept.is_enabled,
        until_s,
        principal: principal.clone(),
        used: Arc::clone(used),
    })
}

impl MadeKey {
    pub fn of(kept: KeptKey, words: Map<String, Value>) -> Result<Self, Vec<ConfigFault>> {
        let own = key_grants(&kept.name, &words)?;
        Ok(Self { kept, words, own })
    }
}

impl MadeTeam {
    pub fn of(kept: KeptTeam, words: Map<String, Value>) -> Result<Self, Vec<ConfigFault>> {
        let grants = team_grants(&kept.name, &words)?;
        Ok(Self {
            kept,
            words,
            grants,
        })
    }
}

pub(super) fn words(text: &str) -> Result<Map<String, Value>, Vec<ConfigFault>> {
    serde_json::from_str(text).map_err(|error| {
        let (path, message) = (String::new(), error.to_string());
        vec![ConfigFault { path, message }]
    })
}

/// All of one moment.
pub struct Standing {
    pub ring: KeyRing,
    keys: BTreeMap<String, Shown>,
    teams: BTreeMap<String, TeamView>,
}

impl Standing {
    pub fn keys(&self, after: &str, count: usize, now_s: u64) -> Vec<KeyView> {
        let page = self.keys.range::<str, _>(beyond(after)).take(count);
        page.map(|(_, key)| key.view(now_s)).collect()
    }

    pub fn key(&self, name: &str, now_s: u64) -> Option<KeyView> {
        self.keys.get(name).map(|key| key.view(now_s))
    }

    pub fn teams(&self, after: &str, count: usize) -> Vec<TeamView> {
        let page = self.teams.range::<str, _>(beyond(after)).take(count);
        page.map(|(_, team)| team.clone()).collect()
    }

    pub fn team(&self, name: &str) -> Option<TeamView> {
        self.teams.get(name).cloned()
    }
}

/// Nothing comes before the empty name, which nobody has.
fn beyond(after: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Excluded(after), Bound::Unbounded)
}

/// A key as it is shown, but for what time and use change.
struct Shown {
    view: KeyView,
    is_enabled: bool,
    used: Option<Arc<UsedDay>>,
}

impl Shown {
    fn of_made(key: &MadeKey, used: Arc<UsedDay>) -> Self {
        let kept = &key.kept;
        let view = KeyView {
            name: kept.name.clone(),
            team: kept.team.clone(),
            source: Source::Admin,
            created_at: Some(kept.made_s),
            expires_at: kept.until_s,
            rotated_until: kept.before.map(|(_, until_s)| until_s),
            models: texts(key.own.models.as_deref()),
            routes: texts(key.own.routes.as_deref()),
            networks: texts(key.own.networks.as_deref()),
            priority: priority(key.own.priority),
            output_tokens_max: key.own.output_tokens_max.map(|it| it.0),
            limits: list(&key.words, "limits"),
            ..KeyView::default()
        };
        Self {
            view,
            is_enabled: kept.is_enabled,
            used: Some(used),
        }
    }

    fn of_file(key: &KeyGrant) -> Self {
        let view = KeyView {
            name: key.name.as_str().to_owned(),
            team: key.team.as_str().to_owned(),
            source: Source::File,
            models: texts(key.models.as_deref()),
            routes: texts(key.routes.as_deref()),
            networks: texts(key.networks.as_deref()),
            priority: priority(key.priority),
            output_tokens_max: key.output_tokens_max.map(|it| it.0),
            limits: as_words(&key.written),
            ..KeyView::default()
        };
        Self {
            view,
            is_enabled: true,
            used: None,
        }
    }

    fn view(&self, now_s: u64) -> KeyView {
        let is_over = self.view.expires_at.is_some_and(|end| now_s >= end);
        let day = self.used.as_ref().and_then(|used| used.day());
        KeyView {
            state: match (self.is_enabled, is_over) {
                (false, _) => KeyState::Disabled,
                (true, true) => KeyState::Expired,
                (true, false) => KeyState::Active,
            },
            rotated_until: self.view.rotated_until.filter(|until| now_s < *until),
            last_used: day.map(date),
            ..self.view.clone()
        }
    }
}

/// `2026-11-30`.
fn date(day: u32) -> String {
    let spoken = Calendar::utc().spoken(i64::from(day).saturating_mul(DAY_US));
    spoken.utc.chars().take("2026-11-30".len()).collect()
}

fn texts<T: ToString>(list: Option<&[T]>) -> Option<Vec<String>> {
    list.map(|list| list.iter().map(ToString::to_string).collect())
}

fn priority(priority: Priority) -> String {
    match priority {
        Priority::Interactive => "interactive",
        Priority::Batch => "batch",
    }
    .to_owned()
}

fn list(words: &Map<String, Value>, name: &str) -> Vec<Value> {
    let list = words.get(name).and_then(Value::as_array);
    list.cloned().unwrap_or_default()
}

/// As somebody would write them: without what was left out.
fn as_words<T: Serialize>(written: &[T]) -> Vec<Value> {
    let words = written
        .iter()
        .filter_map(|it| serde_json::to_value(it).ok());
    words
        .map(|mut word| {
            if let Value::Object(fields) = &mut word {
                let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
                fields.retain(|_, value| !value.is_null() && !is_empty(value));
            }
            word
        })
        .collect()
}

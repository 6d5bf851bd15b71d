//! Limits, judged: of keys, of teams and of everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{
    KeyId, Limit, LimitRules, Measure, ModelAlias, Period, Scope, Tag, TeamId, Thresholds, UserId,
    WhenSpent, is_tag,
};
use store::Calendar;

use super::faults::Findings;
use super::grants::TeamGrants;
use super::raw::RawConfig;
use super::raw_quotas::{RawLimit, RawMeasure, RawPeriod, RawTeam, RawWhenSpent};

/// Dollars of one limit. More is a slip of the decimal point.
const USD_MAX: f64 = 1e9;
/// Of any other amount; what a bucket does with it stays exact.
const AMOUNT_MAX: u64 = 1 << 48;
/// Limits of one key, team or organisation: each is looked at for every request.
const LIMITS_MAX: usize = 32;
/// Where keys name no team, and of callers without keys.
const TEAM_DEFAULT: &str = "default";

/// What of limits is not a key's own.
#[derive(Clone, Debug)]
pub struct QuotaSettings {
    pub calendar: Calendar,
    everybody: Vec<Limit>,
    teams: BTreeMap<String, TeamSettings>,
    users: UserSettings,
    tags: BTreeMap<Tag, Vec<Limit>>,
    models: BTreeMap<ModelAlias, Vec<Limit>>,
    /// Teams as they were written.
    written: BTreeMap<String, RawTeam>,
}

#[derive(Clone, Debug)]
struct TeamSettings {
    limits: Vec<Limit>,
    users: UserSettings,
}

/// What is said of each user.
#[derive(Clone, Debug)]
struct UserSettings {
    limits: Vec<Limit>,
    is_required: bool,
}

impl QuotaSettings {
    /// Of a key of `team` with limits of its own: these first.
    #[must_use]
    pub fn limits(&self, team: &TeamId, own: Vec<Limit>) -> Arc<[Limit]> {
        let team = self.teams.get(team.as_str()).into_iter();
        let team = team.flat_map(|team| team.limits.iter().cloned());
        let all = own.into_iter().chain(team);
        all.chain(self.everybody.iter().cloned()).collect()
    }

    /// Of requests of `team`, by what they are.
    #[must_use]
    pub fn rules(&self, team: &TeamId) -> Arc<LimitRules> {
        let users = self.teams.get(team.as_str());
        let users = users.map_or(&self.users, |team| &team.users);
        Arc::new(LimitRules {
            each_user: users.limits.clone(),
            is_user_required: users.is_required,
            tags: self.tags.clone(),
            models: self.models.clone(),
        })
    }

    /// Of all teams together.
    pub fn everybody(&self) -> impl Iterator<Item = &Limit> {
        self.everybody.iter()
    }

    /// Teams of the file, by name, as they were written.
    pub fn written(&self) -> impl Iterator<Item = (&str, &RawTeam)> {
        let written = self.written.iter();
        written.map(|(name, team)| (name.as_str(), team))
    }

    /// The same with a further team.
    pub fn add_team(&mut self, name: &str, words: &TeamGrants) {
        let users = words.user_limits.clone();
        let settings = TeamSettings {
            limits: words.limits.clone(),
            users: over(users, words.user_required, &self.users),
        };
        self.teams.insert(name.to_owned(), settings);
    }

    /// Of callers where there are no keys.
    #[must_use]
    pub fn of_anyone(&self) -> (Arc<[Limit]>, Arc<LimitRules>) {
        let team = TeamId::new(TEAM_DEFAULT);
        (self.limits(&team, Vec::new()), self.rules(&team))
    }
}

/// What stands beside the keys.
pub fn quotas(raw: &RawConfig, findings: &mut Findings) -> QuotaSettings {
    let organisation = &raw.organisation;
    let calendar = Calendar::named(&organisation.time_zone).unwrap_or_else(|error| {
        findings.fault("organisation.time_zone", error.to_string());
        Calendar::utc()
    });
    let everybody = limits(
        "organisation.limits",
        &organisation.limits,
        &Scope::Organisation,
        findings,
    );
    let users = UserSettings {
        limits: limits(
            "organisation.user_limits",
            &organisation.user_limits,
            &any_user(),
            findings,
        ),
        is_required: organisation.user_required,
    };
    let (mut teams, mut written) = (BTreeMap::new(), BTreeMap::new());
    for (at, team) in raw.teams.iter().enumerate() {
        let path = format!("teams[{at}]");
        let Some(name) = team.name.as_deref().filter(|name| !name.is_empty()) else {
            findings.fault(format!("{path}.name"), "is required");
            continue;
        };
        let scope = Scope::Team(TeamId::new(name));
        written.insert(name.to_owned(), team.clone());
        let settings = TeamSettings {
            limits: limits(&format!("{path}.limits"), &team.limits, &scope, findings),
            users: users_of_team(&path, team, &users, findings),
        };
        if teams.insert(name.to_owned(), settings).is_some() {
            let words = format!("`{name}` is the name of another team");
            findings.fault(format!("{path}.name"), words);
        }
        let mut named = raw.keys.iter().map(|key| key.team.as_deref());
        let is_named = name == TEAM_DEFAULT || named.any(|team| team == Some(name));
        if !is_named {
            findings.warn(format!("{path}.name"), "is the team of no key");
        }
    }
    let mut tags = BTreeMap::new();
    for (at, tag) in raw.tags.iter().enumerate() {
        let path = format!("tags[{at}]");
        let Some(name) = tag.name.as_deref().filter(|name| is_tag(name)) else {
            let words = "is required, of letters, digits, `-`, `_`, `.`, `:` and `/`";
            findings.fault(format!("{path}.name"), words);
            continue;
        };
        let (path, scope) = (format!("{path}.limits"), Scope::Tag(Tag::new(name)));
        let limits = limits(&path, &tag.limits, &scope, findings);
        if tags.insert(Tag::new(name), limits).is_some() {
            let words = format!("`{name}` is the name of another tag");
            findings.fault(format!("tags[{at}].name"), words);
        }
    }
    let mut models = BTreeMap::new();
    for (at, model) in raw.models.iter().enumerate() {
        let path = format!("models[{at}]");
        let Some(name) = model.name.as_deref().filter(|name| !name.is_empty()) else {
            findings.fault(format!("{path}.name"), "is required");
            continue;
        };
        let (path, scope) = (format!("{path}.limits"), Scope::Model(name.into()));
        let limits = limits(&path, &model.limits, &scope, findings);
        if models.insert(ModelAlias::new(name), limits).is_some() {
            let words = format!("`{name}` is the name of another model");
            findings.fault(format!("models[{at}].name"), words);
        }
    }
    QuotaSettings {
        calendar,
        everybody,
        teams,
        users,
        tags,
        models,
        written,
    }
}

/// A team's words on its users, over the organisation's: two limits that count the same would count it
/// twice.
fn users_of_team(
    path: &str,
    team: &RawTeam,
    everybody: &UserSettings,
    findings: &mut Findings,
) -> UserSettings {
    let path = format!("{path}.user_limits");
    let all = of_users(&path, &team.user_limits, findings);
    over(all, team.user_required, everybody)
}

/// What is said of each user of a team.
pub fn of_users(path: &str, raw: &[RawLimit], findings: &mut Findings) -> Vec<Limit> {
    limits(path, raw, &any_user(), findings)
}

fn over(all: Vec<Limit>, is_required: Option<bool>, everybody: &UserSettings) -> UserSettings {
    let mut all = all;
    let is_same = |a: &Limit, b: &Limit| (a.measure, a.per) == (b.measure, b.per);
    let theirs = everybody.limits.iter();
    let theirs = theirs.filter(|limit| !all.iter().any(|own| is_same(own, limit)));
    let theirs: Vec<Limit> = theirs.cloned().collect();
    all.extend(theirs);
    UserSettings {
        limits: all,
        is_required: is_required.unwrap_or(everybody.is_required),
    }
}

/// Who it is, a request says.
fn any_user() -> Scope {
    Scope::User(TeamId::new(""), UserId::new(""))
}

/// A key's own.
pub fn of_key(path: &str, raw: &[RawLimit], key: &KeyId, findings: &mut Findings) -> Vec<Limit> {
    limits(
        &format!("{path}.limits"),
        raw,
        &Scope::Key(key.clone()),
        findings,
    )
}

/// The limits of one holder.
pub fn judge(path: &str, raw: &[RawLimit], scope: &Scope, findings: &mut Findings) -> Vec<Limit> {
    limits(path, raw, scope, findings)
}

fn limits(path: &str, raw: &[RawLimit], scope: &Scope, findings: &mut Findings) -> Vec<Limit> {
    if raw.len() > LIMITS_MAX {
        findings.fault(path, format!("has more than {LIMITS_MAX} limits"));
    }
    let mut seen = BTreeSet::new();
    let mut judged = Vec::new();
    for (at, raw) in raw.iter().take(LIMITS_MAX).enumerate() {
        let path = format!("{path}[{at}]");
        let Some(limit) = limit(&path, raw, scope, findings) else {
            continue;
        };
        let count = (limit.measure.as_label(), limit.per.as_label());
        if !seen.insert(count) {
            let words = "counts the same in the same time as a limit before it";
            findings.fault(path, words);
        }
        judged.push(limit);
    }
    judged
}

fn limit(path: &str, raw: &RawLimit, scope: &Scope, findings: &mut Findings) -> Option<Limit> {
    let mut fault = |key: &str, words: &str| {
        findings.fault(format!("{path}.{key}"), words.to_owned());
    };
    let Some(measure) = raw.count.map(measure) else {
        fault("count", "is required");
        return None;
    };
    let is_cost = measure == Measure::Cost;
    let per = match (measure, raw.per.map(period)) {
        (Measure::Concurrency, None) => Period::Ever,
        (Measure::Concurrency, Some(_)) => {
            fault(
                "per",
                "is not for `concurrency`, which counts what is under way",
            );
            return None;
        }
        (_, None) => {
            fault("per", "is required");
            return None;
        }
        (Measure::Cost, Some(per)) if per.refills_in().is_some() => {
            fault("per", "is `day`, `month` or `ever` for `cost`");
            return None;
        }
        (_, Some(per)) => per,
    };
    let amount = match (is_cost, raw.amount, raw.usd) {
        (true, None, dollars) => {
            let Some(amount) = dollars.and_then(usd) else {
                fault("usd", "is required, in dollars, such as 25.0");
                return None;
            };
            amount
        }
        (true, Some(_), _) => {
            fault("amount", "is not for `cost`; say it in dollars, by `usd`");
            return None;
        }
        (false, _, Some(_)) => {
            fault("usd", "is for `cost` alone");
            return None;
        }
        (false, Some(amount), None) if (1..=AMOUNT_MAX).contains(&amount) => amount,
        (false, _, None) => {
            fault("amount", "is required, and at least 1");
            return None;
        }
    };
    let refills = per.refills_in().is_some();
    let burst = match (refills, raw.burst) {
        (false, Some(_)) => {
            fault("burst", "is for what refills: per second, minute or hour");
            return None;
        }
        (true, Some(burst)) if !(1..=AMOUNT_MAX).contains(&burst) => {
            fault("burst", "is at least 1");
            return None;
        }
        (true, Some(burst)) if burst > amount_of_an_hour(amount, per) => {
            fault("burst", "is no more than an hour brings");
            return None;
        }
        (true, Some(burst)) => burst,
        (true, None) if measure == Measure::Requests => amount.div_ceil(10),
        (_, None) => amount,
    };
    let when_spent = match raw.when_spent {
        Some(RawWhenSpent::Refuse) | None => WhenSpent::Refuse,
        Some(RawWhenSpent::Local) if is_cost => WhenSpent::Free,
        Some(RawWhenSpent::Local) => {
            fault("when_spent", "is `local` for `cost` alone");
            return None;
        }
        Some(RawWhenSpent::Queue) if refills || measure == Measure::Concurrency => WhenSpent::Queue,
        Some(RawWhenSpent::Queue) => {
            let words = "is `queue` for what refills, per second, minute or hour, and for \
                         `concurrency`";
            fault("when_spent", words);
            return None;
        }
    };
    let has_period = !refills && measure != Measure::Concurrency;
    if !raw.warn_at.is_empty() && !has_period {
        fault(
            "warn_at",
            "is for what is counted per `day`, `month` or `ever`",
        );
        return None;
    }
    let parts = raw.warn_at.iter();
    let parts: Vec<u16> = parts.map(|part| (part * 1e3).round() as u16).collect();
    let Some(warn_at) = Thresholds::new(&parts) else {
        fault(
            "warn_at",
            "is up to 4 parts of the amount, from 0.001 to 1.0",
        );
        return None;
    };
    Some(Limit {
        scope: scope.clone(),
        measure,
        amount,
        per,
        burst,
        when_spent,
        warn_at,
    })
}

/// Dollars as micro-dollars; `None` for no amount, and for more than is meant.
pub fn usd(dollars: f64) -> Option<u64> {
    let is_amount = (0.0..=USD_MAX).contains(&dollars);
    is_amount.then(|| (dollars * 1e6).round() as u64)
}

/// What refills in an hour.
fn amount_of_an_hour(amount: u64, per: Period) -> u64 {
    let seconds = per.refills_in().map_or(3_600, |time| time.as_secs());
    amount.saturating_mul(3_600 / seconds.max(1))
}

fn measure(raw: RawMeasure) -> Measure {
    match raw {
        RawMeasure::Requests => Measure::Requests,
        RawMeasure::InputTokens => Measure::InputTokens,
        RawMeasure::OutputTokens => Measure::OutputTokens,
        RawMeasure::Tokens => Measure::Tokens,
        RawMeasure::Cost => Measure::Cost,
        RawMeasure::Concurrency => Measure::Concurrency,
    }
}

pub fn period(raw: RawPeriod) -> Period {
    match raw {
        RawPeriod::Second => Period::Second,
        RawPeriod::Minute => Period::Minute,
        RawPeriod::Hour => Period::Hour,
        RawPeriod::Day => Period::Day,
        RawPeriod::Month => Period::Month,
        RawPeriod::Ever => Period::Ever,
    }
}

//! Limits, judged: of keys, of teams and of everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{KeyId, Limit, Measure, Period, Scope, TeamId, WhenSpent};
use store::Calendar;

use super::faults::Findings;
use super::raw::RawConfig;
use super::raw_quotas::{RawLimit, RawMeasure, RawPeriod, RawWhenSpent};

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
    teams: BTreeMap<String, Vec<Limit>>,
}

impl QuotaSettings {
    /// Of a key of `team` with limits of its own: these first.
    #[must_use]
    pub fn limits(&self, team: &TeamId, own: Vec<Limit>) -> Arc<[Limit]> {
        let team = self.teams.get(team.as_str()).into_iter().flatten();
        let all = own.into_iter().chain(team.cloned());
        all.chain(self.everybody.iter().cloned()).collect()
    }

    /// Of callers where there are no keys.
    #[must_use]
    pub fn of_anyone(&self) -> Arc<[Limit]> {
        self.limits(&TeamId::new(TEAM_DEFAULT), Vec::new())
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
    let mut teams = BTreeMap::new();
    for (at, team) in raw.teams.iter().enumerate() {
        let path = format!("teams[{at}]");
        let Some(name) = team.name.as_deref().filter(|name| !name.is_empty()) else {
            findings.fault(format!("{path}.name"), "is required");
            continue;
        };
        let scope = Scope::Team(TeamId::new(name));
        let limits = limits(&format!("{path}.limits"), &team.limits, &scope, findings);
        if teams.insert(name.to_owned(), limits).is_some() {
            let words = format!("`{name}` is the name of another team");
            findings.fault(format!("{path}.name"), words);
        }
        let mut named = raw.keys.iter().map(|key| key.team.as_deref());
        let is_named = name == TEAM_DEFAULT || named.any(|team| team == Some(name));
        if !is_named {
            findings.warn(format!("{path}.name"), "is the team of no key");
        }
    }
    QuotaSettings {
        calendar,
        everybody,
        teams,
    }
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
        (true, None, Some(usd)) if (0.0..=USD_MAX).contains(&usd) => (usd * 1e6).round() as u64,
        (true, None, _) => {
            fault("usd", "is required, in dollars, such as 25.0");
            return None;
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
        Some(_) if !is_cost => {
            fault("when_spent", "is for `cost` alone");
            return None;
        }
        Some(RawWhenSpent::Refuse) | None => WhenSpent::Refuse,
        Some(RawWhenSpent::Local) => WhenSpent::Free,
    };
    Some(Limit {
        scope: scope.clone(),
        measure,
        amount,
        per,
        burst,
        when_spent,
    })
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

fn period(raw: RawPeriod) -> Period {
    match raw {
        RawPeriod::Second => Period::Second,
        RawPeriod::Minute => Period::Minute,
        RawPeriod::Hour => Period::Hour,
        RawPeriod::Day => Period::Day,
        RawPeriod::Month => Period::Month,
        RawPeriod::Ever => Period::Ever,
    }
}

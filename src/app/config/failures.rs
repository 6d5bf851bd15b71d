//! What is done about providers that fail: retries, and models that stand for each other.

use std::collections::BTreeMap;

use std::time::Duration;

use policy::{BreakerRules, RetryRules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::raw::RawConfig;
use super::sections::within;

/// More equals under one name are refused.
const EQUALS_MAX: usize = 64;

/// When a request is sent to the same upstream again, because nothing was done for it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRetry {
    /// Retries and hedged requests, in percent of all chats. What is over goes on to the next
    /// candidate.
    pub budget_percent: u32,
    /// Retries that may come at once before that share counts. With 0 there are none at all.
    pub burst: u32,
}

impl Default for RawRetry {
    fn default() -> Self {
        let RetryRules {
            budget_percent,
            burst,
        } = RetryRules::default();
        Self {
            budget_percent,
            burst,
        }
    }
}

/// When a model of an upstream is left alone for a while, because it fails.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBreaker {
    /// Failures in a row that are enough.
    pub failures_max: u32,
    /// Of the last half minute's chats, if they were twenty or more: a larger share of failures is
    /// enough.
    pub failed_percent_max: u32,
    /// How long at first; each time in a row doubles it, up to `open_ms_max`.
    pub open_ms: u64,
    pub open_ms_max: u64,
}

impl Default for RawBreaker {
    fn default() -> Self {
        let rules = BreakerRules::default();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            failures_max: rules.failures_max,
            failed_percent_max: rules.failed_percent_max,
            open_ms: ms(rules.open),
            open_ms_max: ms(rules.open_max),
        }
    }
}

pub fn breaker(raw: &RawBreaker, findings: &mut Findings) -> BreakerRules {
    const MS_MAX: u64 = 3_600_000;
    let mut time = |name: &str, ms: u64| {
        let path = format!("breaker.{name}");
        Duration::from_millis(within(&path, ms, 1..=MS_MAX, findings))
    };
    let (open, open_max) = (
        time("open_ms", raw.open_ms),
        time("open_ms_max", raw.open_ms_max),
    );
    let percent = raw.failed_percent_max;
    BreakerRules {
        failures_max: within(
            "breaker.failures_max",
            raw.failures_max,
            1..=1_000_000,
            findings,
        ),
        failed_percent_max: within("breaker.failed_percent_max", percent, 1..=100, findings),
        open,
        open_max: open_max.max(open),
        ..BreakerRules::default()
    }
}

/// Models that are equals under one name: `[balance.NAME]`. Each conversation keeps to one of them
/// while that is well and not much more loaded than another.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["models"]))]
pub struct RawBalance {
    /// `"azure-1/gpt-x"`, or `{ name = "azure-2/gpt-x", weight = 3 }` for three times its share.
    pub models: Vec<RawEqual>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawEqual {
    Name(String),
    Weighted(RawWeighted),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawWeighted {
    pub name: String,
    /// Its share beside the others', from 1 to 1000.
    pub weight: u32,
}

impl RawEqual {
    fn parts(&self) -> (&str, u32) {
        match self {
            RawEqual::Name(name) => (name, 1),
            RawEqual::Weighted(equal) => (&equal.name, equal.weight),
        }
    }
}

pub fn retry(raw: &RawRetry, findings: &mut Findings) -> RetryRules {
    let percent = raw.budget_percent;
    RetryRules {
        budget_percent: within("retry.budget_percent", percent, 0..=100, findings),
        burst: within("retry.burst", raw.burst, 0..=10_000, findings),
    }
}

/// Weights by name, in the order of the models, which are put among the aliases.
pub fn balance(
    raw: &RawConfig,
    aliases: &mut BTreeMap<String, Vec<String>>,
    findings: &mut Findings,
) -> BTreeMap<String, Vec<u32>> {
    let mut shares = BTreeMap::new();
    for (name, group) in &raw.balance {
        let path = format!("balance.{name}");
        if name.is_empty() {
            findings.fault("balance", "holds equals without a name");
        }
        if raw.aliases.contains_key(name) {
            findings.fault(&path, format!("`{name}` is the name of an alias"));
        }
        let count = group.models.len();
        if !(1..=EQUALS_MAX).contains(&count) {
            findings.fault(
                format!("{path}.models"),
                format!("{count} models; from 1 to {EQUALS_MAX}"),
            );
        }
        let mut weights = Vec::new();
        let mut names = Vec::new();
        for (at, equal) in group.models.iter().enumerate() {
            let (model, weight) = equal.parts();
            let path = format!("{path}.models[{at}].weight");
            weights.push(within(&path, weight, 1..=1_000, findings));
            names.push(model.to_owned());
        }
        aliases.insert(name.clone(), names);
        shares.insert(name.clone(), weights);
    }
    shares
}

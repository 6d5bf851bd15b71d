//! Limits as written: every key, its default and its words, as [`super::raw`] has the rest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// At most so much of something in a time. Counted together for all requests of the key, the team or
/// the organisation that it stands with. See docs/limits.md.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["count"]))]
pub struct RawLimit {
    /// What is counted. Required.
    pub count: Option<RawMeasure>,
    /// How much of it: requests, tokens, or exchanges at once. Required, but for `cost`.
    pub amount: Option<u64>,
    /// How much of `cost`, in dollars.
    pub usd: Option<f64>,
    /// In what time. Seconds to hours refill steadily; days and months begin anew with the calendar of
    /// `organisation.time_zone`; `ever` does not. `cost` takes the last three. Required, but for
    /// `concurrency`.
    pub per: Option<RawPeriod>,
    /// Of what refills: how much may be used at one moment. Left out: a tenth of the amount for
    /// `requests`, all of it for tokens.
    pub burst: Option<u64>,
    /// Of `cost`: what becomes of a request once too little is left.
    pub when_spent: Option<RawWhenSpent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawMeasure {
    Requests,
    InputTokens,
    OutputTokens,
    /// In and out together.
    Tokens,
    /// What the price list says that requests cost.
    Cost,
    /// Requests under way at once.
    Concurrency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawPeriod {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Ever,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawWhenSpent {
    /// 429 with `insufficient_quota`. The default.
    Refuse,
    /// What costs nothing may still answer, and says so; who names a model that costs is refused.
    Local,
}

/// A team, which its keys name.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct RawTeam {
    /// As keys have it in `team`. `default` is the team of keys that name none, and of callers where
    /// there are no keys. Required.
    pub name: Option<String>,
    /// For all of its keys together.
    pub limits: Vec<RawLimit>,
}

/// Everybody whom this node answers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawOrganisation {
    /// For all teams together.
    pub limits: Vec<RawLimit>,
    /// Whose days and months limits have, as `Europe/Lisbon`.
    pub time_zone: String,
}

impl Default for RawOrganisation {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            time_zone: "UTC".into(),
        }
    }
}

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
    /// What becomes of a request once too little is left. `local` is for `cost`, `queue` for what refills
    /// and for `concurrency`. Left out: `refuse`.
    pub when_spent: Option<RawWhenSpent>,
    /// Up to 4 parts of the amount, as `[0.8, 0.95]`: when what was used passes one, a warning is logged,
    /// counted and sent to `events.webhook`, once in the period. For `day`, `month` and `ever`.
    pub warn_at: Vec<f64>,
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
    /// 429, of `cost` with `insufficient_quota`. The default.
    Refuse,
    /// What costs nothing may still answer, and says so; who names a model that costs is refused.
    Local,
    /// It waits, for `limits.queue_ms_max` at most, and is refused then.
    Queue,
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
    /// For each of its users by itself, as requests name them by `user`, `safety_identifier` or
    /// `metadata.user_id`. One that counts the same in the same time stands in for the organisation's.
    pub user_limits: Vec<RawLimit>,
    /// A request of the team that names no user is refused. Left out: as `organisation.user_required`.
    pub user_required: Option<bool>,
}

/// Requests with one tag, of whichever team.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct RawTag {
    /// As requests have it in `x-hedge-cache-tags`. Required.
    pub name: Option<String>,
    /// For all of them together.
    pub limits: Vec<RawLimit>,
}

/// Requests for one model, of whichever team.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct RawModel {
    /// As requests ask for it: an alias, `provider/model`, `local`, `auto`. Other names of the same
    /// model are not meant. Required.
    pub name: Option<String>,
    /// For all of them together.
    pub limits: Vec<RawLimit>,
}

/// Everybody whom this node answers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawOrganisation {
    /// For all teams together.
    pub limits: Vec<RawLimit>,
    /// For each user of each team by itself, as requests name them by `user`, `safety_identifier` or
    /// `metadata.user_id`. The same name of two teams is two users.
    pub user_limits: Vec<RawLimit>,
    /// A request that names no user is refused. Otherwise all of a team's that name none count together,
    /// as one more user.
    pub user_required: bool,
    /// Whose days and months limits have, as `Europe/Lisbon`.
    pub time_zone: String,
}

impl Default for RawOrganisation {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            user_limits: Vec::new(),
            user_required: false,
            time_zone: "UTC".into(),
        }
    }
}

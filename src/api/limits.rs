//! `/admin/v1/limits`: what everybody, teams and keys may use and what is left of it, for the operator
//! alone.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{Left, Limit, Measure, Scope, WhenSpent};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::models::json;
use crate::server::Api;

/// Users whose limits are shown, those nearest to their end.
const USERS_MAX: usize = 100;

/// What is answered. Fields are added over time, and none changes its meaning.
#[derive(Serialize)]
struct LimitsView {
    limits: Vec<LimitView>,
}

/// Amounts are in the unit of what is counted; money is in micro-dollars.
#[derive(Serialize)]
struct LimitView {
    /// `organisation`, `team`, `key`, `user`, `tag` or `model`.
    scope: &'static str,
    /// Of the team, key, user, tag or model; of a user without one it is empty.
    name: Option<String>,
    /// The user's.
    team: Option<String>,
    count: &'static str,
    /// `None` of what is under way at once.
    per: Option<&'static str>,
    amount: u64,
    /// What may be used at one moment, where the limit refills.
    burst: Option<u64>,
    /// Of `burst` where there is one, else of `amount`.
    left: u64,
    /// Settled, and held for exchanges under way.
    used: u64,
    /// Until all of it is there again; `None` where time brings nothing back.
    whole_in_s: Option<f64>,
    /// `refuse`, `local` or `queue`.
    when_spent: &'static str,
    /// Parts of it whose passing is told.
    warn_at: Vec<f64>,
}

pub(crate) async fn list(State(api): State<Arc<Api>>) -> Response<Body> {
    let mut limits = api.pipeline.limits();
    limits.extend(api.pipeline.users_limits(USERS_MAX).await);
    let limits = limits.iter().map(|(limit, left)| view(limit, left));
    let view = LimitsView {
        limits: limits.collect(),
    };
    json(StatusCode::OK, &view)
}

fn view(limit: &Limit, left: &Left) -> LimitView {
    let refills = limit.per.refills_in().is_some();
    let whole = limit.whole();
    let is_of_time = limit.measure != Measure::Concurrency;
    LimitView {
        scope: limit.scope.as_label(),
        name: match &limit.scope {
            Scope::Organisation | Scope::Shadow => None,
            Scope::Team(team) => Some(team.as_str().to_owned()),
            Scope::Key(key) => Some(key.as_str().to_owned()),
            Scope::User(_, user) => Some(user.as_str().to_owned()),
            Scope::Tag(tag) => Some(tag.as_str().to_owned()),
            Scope::Model(model) => Some(model.as_str().to_owned()),
        },
        team: match &limit.scope {
            Scope::User(team, _) => Some(team.as_str().to_owned()),
            Scope::Organisation
            | Scope::Team(_)
            | Scope::Key(_)
            | Scope::Tag(_)
            | Scope::Model(_)
            | Scope::Shadow => None,
        },
        count: limit.measure.as_label(),
        per: is_of_time.then_some(limit.per.as_label()),
        amount: limit.amount,
        burst: refills.then_some(limit.burst),
        left: left.amount,
        used: whole.saturating_sub(left.amount),
        whole_in_s: left.whole_after.map(|time| time.as_secs_f64()),
        when_spent: match limit.when_spent {
            WhenSpent::Refuse => "refuse",
            WhenSpent::Free => "local",
            WhenSpent::Queue => "queue",
        },
        warn_at: limit
            .warn_at
            .iter()
            .map(|part| f64::from(part) / 1e3)
            .collect(),
    }
}

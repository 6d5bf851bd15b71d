//! What limits leave, read when somebody looks.

use domain::{Left, Limit, Measure, Scope};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::registry::Registry;
use super::{Label, gauge};

/// Limits that are shown, everybody's and teams' before keys'. What is beyond is at `/admin/v1/limits`.
const LIMITS_MAX: usize = 1_000;

/// Names are the operator's own. Of several limits alike the one with the least left is shown.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    scope: Label,
    name: String,
    count: Label,
    per: Label,
}

/// Of a node that has limits. Written anew for each scrape.
#[derive(Debug, Default)]
pub struct LimitGauges {
    whole: Family<LimitLabels, Gauge>,
    left: Family<LimitLabels, Gauge>,
}

impl LimitGauges {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "limit_amount",
            "What a limit allows at one moment, in the unit of what it counts",
            self.whole.clone(),
        );
        registry.register(
            "limit_left",
            "What is left of it, what is held for exchanges under way taken off",
            self.left.clone(),
        );
    }

    pub fn read(&self, limits: &[(Limit, Left)]) {
        self.whole.clear();
        self.left.clear();
        let (keys, others): (Vec<_>, Vec<_>) = limits
            .iter()
            .partition(|(limit, _)| matches!(limit.scope, Scope::Key(_)));
        for (limit, left) in others.into_iter().chain(keys).take(LIMITS_MAX) {
            self.show(limit, left);
        }
    }

    fn show(&self, limit: &Limit, left: &Left) {
        let name = match &limit.scope {
            Scope::Organisation | Scope::Shadow => String::new(),
            Scope::Team(team) => team.to_string(),
            Scope::Key(key) => key.to_string(),
            Scope::Tag(tag) => tag.to_string(),
            Scope::Model(model) => model.to_string(),
            // Callers choose their names, and how many there are.
            Scope::User(..) => return,
        };
        let labels = LimitLabels {
            scope: limit.scope.as_label(),
            name,
            count: limit.measure.as_label(),
            // As it says of what is under way at once, which has no time.
            per: match limit.measure {
                Measure::Concurrency => "moment",
                Measure::Requests
                | Measure::InputTokens
                | Measure::OutputTokens
                | Measure::Tokens
                | Measure::Cost => limit.per.as_label(),
            },
        };
        let left = gauge(left.amount);
        let known = self.left.get(&labels).map(|known| known.get());
        if known.is_some_and(|known| known <= left) {
            return;
        }
        self.whole.get_or_create(&labels).set(gauge(limit.whole()));
        self.left.get_or_create(&labels).set(left);
    }
}

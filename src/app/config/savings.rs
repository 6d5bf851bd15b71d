//! What savings are measured by: raw, and judged.

use std::sync::Arc;

use domain::{BackendName, Limit, Measure, Price, Scope, Thresholds, Trust, WhenSpent};
use pipeline::ShadowRules;
use policy::PriceBook;
use providers::UpstreamConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::quotas::{QuotaSettings, period, usd};
use super::raw_quotas::RawPeriod;
use super::sections::within;

/// The cosine from which on two answers agree; how it was found is in docs/records.md.
const AGREEMENT: f32 = 0.85;

/// How it is said what this node saved. See docs/records.md.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSavings {
    /// The model whose price stands for the cloud where a chat names none, as `auto` and `local`, and
    /// was answered without one: `PROVIDER/MODEL` of the price list, or an upstream's name and a model
    /// of its `[[prices]]`. Left out: it is not said what such answers saved.
    pub reference_model: Option<String>,
    /// Answers of this machine that are asked for again in the cloud, to see whether they are as good. Left
    /// out: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<RawShadow>,
}

/// Some answers of this machine are asked for again of an upstream, and compared. See docs/records.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model", "usd_max"]))]
pub struct RawShadow {
    /// Of answers that may be asked for again, how many of a hundred are.
    pub percent: f64,
    /// Who is asked: an upstream and its model, as `openai/gpt-5-mini`. Required.
    pub model: Option<String>,
    /// What that may cost in `per`, in dollars: a budget of its own. The organisation's limits of
    /// `cost` count it too, and nobody else's. Required.
    pub usd_max: Option<f64>,
    /// In what time: `day`, `month`, with the calendar's, or `ever`.
    pub per: RawPeriod,
    /// From which cosine of their vectors on two answers agree.
    pub agreement: f32,
}

impl Default for RawShadow {
    fn default() -> Self {
        Self {
            percent: 1.0,
            model: None,
            usd_max: None,
            per: RawPeriod::Day,
            agreement: AGREEMENT,
        }
    }
}

/// The reference model as it is written, and its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub model: String,
    pub price: Price,
}

/// `None` where none are asked.
pub fn shadow(
    raw: &RawSavings,
    upstreams: &[UpstreamConfig],
    quotas: &QuotaSettings,
    price_of: impl Fn(&str, &str) -> Option<Price>,
    is_relay: bool,
    findings: &mut Findings,
) -> Option<ShadowRules> {
    let raw = raw.shadow.as_ref()?;
    if is_relay {
        findings.fault(
            "savings.shadow",
            "is not for a relay: what edges seal to it goes where they sent it, and nowhere else",
        );
    }
    let path = |key: &str| format!("savings.shadow.{key}");
    let percent = within(&path("percent"), raw.percent, 0.0..=100.0, findings);
    let alike_at = within(&path("agreement"), raw.agreement, 0.0..=1.0, findings);
    let per = period(raw.per);
    if per.refills_in().is_some() {
        findings.fault(path("per"), "is `day`, `month` or `ever`");
    }
    let amount = raw.usd_max.and_then(usd);
    if amount.is_none() {
        findings.fault(
            path("usd_max"),
            "is required, in dollars, such as 1.0: what shadows may cost in `per`",
        );
    }
    let written = raw.model.as_deref().unwrap_or_default();
    let named = written.split_once('/').and_then(|(name, model)| {
        let mut upstreams = upstreams.iter();
        upstreams.find(|it| it.name.as_str() == name && !model.is_empty())?;
        Some((name, model))
    });
    let Some((name, model)) = named else {
        findings.fault(
            path("model"),
            "is required: an upstream of yours and its model, such as `openai/gpt-5-mini`",
        );
        return None;
    };
    if upstreams
        .iter()
        .any(|it| it.name.as_str() == name && it.trust != Trust::Public)
    {
        findings.fault(
            path("model"),
            "is not a public upstream's; shadows say how answers compare with the cloud's",
        );
    }
    if price_of(name, model).is_none() {
        findings.fault(
            path("model"),
            "has no known price, so its budget could not hold; say what it costs in [[prices]]",
        );
    }
    let budget = Limit {
        scope: Scope::Shadow,
        measure: Measure::Cost,
        amount: amount?,
        per,
        burst: amount?,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    };
    let everybody = quotas.everybody().filter(|it| it.measure == Measure::Cost);
    let limits: Arc<[Limit]> = std::iter::once(budget).chain(everybody.cloned()).collect();
    Some(ShadowRules {
        share: percent / 100.0,
        backend: BackendName::new(name),
        model: model.to_owned(),
        limits,
        alike_at,
    })
}

/// `None` where none is named.
pub fn savings(
    raw: &RawSavings,
    prices: &PriceBook,
    provider_of: impl Fn(&str) -> Option<String>,
    findings: &mut Findings,
) -> Option<Reference> {
    let written = raw.reference_model.as_deref()?;
    let price = written.split_once('/').and_then(|(provider, model)| {
        let own = prices.find(provider, model);
        own.or_else(|| prices.find(&provider_of(provider)?, model))
    });
    if price.is_none() {
        findings.fault(
            "savings.reference_model",
            "must be a model with a price, such as `openai/gpt-5-mini`; the operator's own prices are \
             in [[prices]]",
        );
    }
    Some(Reference {
        model: written.to_owned(),
        price: *price?,
    })
}

#[cfg(test)]
mod tests {
    use policy::PriceEntry;

    use super::*;

    fn judged(written: &str) -> (Option<u64>, Vec<String>) {
        let mut prices = PriceBook::default();
        let entry = |provider: &str, input| PriceEntry {
            provider: provider.to_owned(),
            names: vec!["big".to_owned()],
            input,
            ..PriceEntry::default()
        };
        prices.add(&[entry("acme", 1.0)]).unwrap();
        let raw = RawSavings {
            reference_model: Some(written.to_owned()),
            shadow: None,
        };
        let mut findings = Findings::default();
        let provider_of = |name: &str| (name == "mine").then(|| "acme".to_owned());
        let found = savings(&raw, &prices, provider_of, &mut findings);
        let faults = findings.faults.iter().map(ToString::to_string).collect();
        (found.map(|it| it.price.rates.input), faults)
    }

    #[test]
    fn a_reference_has_a_price() {
        for (written, wanted) in [
            ("acme/big", true),
            // By the provider of an upstream of that name.
            ("mine/big", true),
            ("acme/small", false),
            ("other/big", false),
            ("big", false),
            ("", false),
        ] {
            let (rate, faults) = judged(written);
            assert_eq!(rate, wanted.then_some(1_000_000), "{written}");
            let is_said = faults
                .iter()
                .any(|it| it.starts_with("savings.reference_model: "));
            assert_eq!(is_said, !wanted, "{written}: {faults:?}");
        }
    }

    #[test]
    fn shadows_have_an_upstream_a_price_and_a_budget() {
        use crate::config::tests::{accepted, refused};
        let around = |shadow: &str| {
            format!(
                "[organisation]\nlimits = [{{ count = 'cost', usd = 9, per = 'month' }}, \
                 {{ count = 'requests', amount = 9, per = 'day' }}]\n[savings.shadow]\n{shadow}\n\
                 [[upstreams]]\nname = 'fake'\nbase_url = 'https://a.example/v1'\nmodels = ['m']\n\
                 [[upstreams]]\nname = 'ours'\nbase_url = 'https://b.example/v1'\nmodels = ['m']\n\
                 trust = 'tenant'\n[[prices]]\nupstream = 'fake'\nmodels = ['m']\ninput = 1.0\n\
                 output = 2.0\n[[prices]]\nupstream = 'ours'\nmodels = ['m']\ninput = 1.0\noutput = 2.0\n"
            )
        };
        let good = "percent = 2.5\nmodel = 'fake/m'\nusd_max = 0.5";
        let (config, _) = accepted(&around(good), &[]);
        let rules = config.shadow.as_ref().unwrap();
        assert_eq!((rules.share, rules.model.as_str()), (0.025, "m"));
        let limits = rules.limits.iter();
        let limits: Vec<_> = limits.map(|it| (it.scope.as_label(), it.amount)).collect();
        assert_eq!(limits, [("shadow", 500_000), ("organisation", 9_000_000)]);
        assert!(config.has_limits());
        for (shadow, path) in [
            ("model = 'fake/m'", "savings.shadow.usd_max"),
            ("model = 'fake/m'\nusd_max = -1.0", "savings.shadow.usd_max"),
            ("model = 'fake/m'\nusd_max = nan", "savings.shadow.usd_max"),
            ("usd_max = 1.0", "savings.shadow.model"),
            ("usd_max = 1.0\nmodel = 'm'", "savings.shadow.model"),
            ("usd_max = 1.0\nmodel = 'other/m'", "savings.shadow.model"),
            ("usd_max = 1.0\nmodel = 'fake/dear'", "savings.shadow.model"),
            ("usd_max = 1.0\nmodel = 'ours/m'", "savings.shadow.model"),
            (&format!("{good}\nper = 'hour'"), "savings.shadow.per"),
            (&good.replace("2.5", "101.0"), "savings.shadow.percent"),
            (
                &format!("{good}\nagreement = 1.5"),
                "savings.shadow.agreement",
            ),
            (&format!("{good}\nshare = 1"), "savings.shadow"),
        ] {
            let found = refused(&around(shadow), &[]);
            assert!(
                found.iter().any(|it| it.starts_with(path)),
                "{shadow}: {found:?}"
            );
        }
    }
}

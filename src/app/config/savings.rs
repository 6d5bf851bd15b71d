//! What savings are measured by: raw, and judged.

use domain::Price;
use policy::PriceBook;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;

/// How it is said what this node saved. See docs/records.md.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSavings {
    /// The model whose price stands for the cloud where a chat names none, as `auto` and `local`, and
    /// was answered without one: `PROVIDER/MODEL` of the price list, or an upstream's name and a model
    /// of its `[[prices]]`. Left out: it is not said what such answers saved.
    pub reference_model: Option<String>,
}

/// The reference model as it is written, and its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub model: String,
    pub price: Price,
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
}

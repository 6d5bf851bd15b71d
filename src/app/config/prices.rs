//! What upstreams' models cost: the list that comes with the program, and the operator's own figures
//! over it.

use std::sync::{Arc, OnceLock};

use policy::{LongFigures, PriceBook, PriceEntry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;

const LIST: &str = include_str!("../../../models/prices.toml");

/// Your own prices of an upstream's models, in US dollars per million tokens. They win over those that
/// hedge knows.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["upstream", "models", "input"]))]
pub struct RawPrice {
    /// The upstream's name. Required.
    pub upstream: String,
    /// As the upstream names them; a trailing `*` stands for every ending. Required.
    pub models: Vec<String>,
    /// Prompt tokens that no cache had. Required.
    pub input: Option<f64>,
    /// Prompt tokens read from the provider's prefix cache. Left out: as `input`.
    pub cached_input: Option<f64>,
    /// Prompt tokens put into that cache. Left out: as `input`.
    pub cache_write: Option<f64>,
    /// Generated tokens, thoughts included.
    pub output: f64,
    /// Other figures for requests with a longer prompt.
    pub long: Option<RawLongPrice>,
}

/// What counts for the whole request once its prompt has more than `above_tokens`. Left out: as for
/// shorter ones.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLongPrice {
    pub above_tokens: u32,
    pub input: Option<f64>,
    pub cached_input: Option<f64>,
    pub cache_write: Option<f64>,
    pub output: Option<f64>,
}

/// The book an operator's prices make with those of the program.
pub fn prices(raw: &[RawPrice], upstreams: &[String], findings: &mut Findings) -> Arc<PriceBook> {
    static HOUSE: OnceLock<Arc<PriceBook>> = OnceLock::new();
    let house = HOUSE.get_or_init(|| {
        let book = PriceBook::parse(LIST).expect("a test reads the program's own list");
        Arc::new(book)
    });
    if raw.is_empty() {
        return Arc::clone(house);
    }
    for (at, price) in raw.iter().enumerate() {
        let is_known = upstreams.contains(&price.upstream);
        if !price.upstream.is_empty() && !is_known {
            findings.fault(
                format!("prices[{at}].upstream"),
                format!("there is no upstream `{}`", price.upstream),
            );
        }
        if price.input.is_none() {
            findings.fault(format!("prices[{at}].input"), "is required");
        }
    }
    let entries: Vec<PriceEntry> = raw.iter().map(entry).collect();
    let mut book = PriceBook::clone(house);
    if let Err(faults) = book.add(&entries) {
        for fault in faults {
            // The entries' own words for these two are those of the list.
            let path = fault.path.replace(".provider", ".upstream");
            let path = path.replace(".names", ".models");
            findings.fault(format!("prices{path}"), fault.problem);
        }
    }
    Arc::new(book)
}

fn entry(raw: &RawPrice) -> PriceEntry {
    PriceEntry {
        provider: raw.upstream.clone(),
        names: raw.models.clone(),
        input: raw.input.unwrap_or_default(),
        cached_input: raw.cached_input,
        cache_write: raw.cache_write,
        output: raw.output,
        context_tokens: None,
        read: None,
        long: raw.long.as_ref().map(|long| LongFigures {
            above_tokens: long.above_tokens,
            input: long.input,
            cached_input: long.cached_input,
            cache_write: long.cache_write,
            output: long.output,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(toml: &str) -> (Arc<PriceBook>, Vec<String>) {
        #[derive(Deserialize)]
        struct Prices {
            prices: Vec<RawPrice>,
        }
        let raw: Prices = toml::from_str(toml).unwrap();
        let mut findings = Findings::default();
        let book = prices(&raw.prices, &["cloud".to_owned()], &mut findings);
        let faults = findings.faults.iter().map(ToString::to_string).collect();
        (book, faults)
    }

    #[test]
    fn an_operators_figures_stand_beside_the_lists() {
        let (book, faults) =
            judged("[[prices]]\nupstream = 'cloud'\nmodels = ['m']\ninput = 0.5\noutput = 1");
        assert_eq!(faults, [""; 0]);
        assert_eq!(book.find("cloud", "m").unwrap().rates.input, 500_000);
        assert!(book.find("openai", "gpt-5").is_some());
    }

    #[test]
    fn faults_are_named_by_the_keys_of_the_file() {
        let (_, faults) = judged("[[prices]]\nupstream = 'clod'\noutput = -1");
        let paths: Vec<&str> = faults
            .iter()
            .filter_map(|it| it.split(": ").next())
            .collect();
        let wanted = ["upstream", "input", "models", "output"];
        assert_eq!(paths, wanted.map(|key| format!("prices[0].{key}")));
    }
}

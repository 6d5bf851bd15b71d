//! The price list: which model of which provider costs what.
//!
//! A list is a TOML text as `models/prices.toml` explains it. Looking up is a few comparisons of
//! names; nothing is charged here.

use std::collections::BTreeMap;

use domain::{Price, Rates, Tokens};
use serde::Deserialize;

/// Models in one list.
const MODELS_MAX: usize = 10_000;
/// Dollars per million tokens. More is a slip of the decimal point.
const USD_PER_MTOK_MAX: f64 = 100_000.0;

/// Prices by provider and model.
#[derive(Clone, Debug, Default)]
pub struct PriceBook {
    providers: BTreeMap<String, Shelf>,
}

#[derive(Clone, Debug, Default)]
struct Shelf {
    exact: BTreeMap<String, Price>,
    /// Names that begin so; longest first.
    prefixes: Vec<(String, Price)>,
}

/// What is wrong with a list, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct PriceFault {
    /// As `[3].input`; empty for a text that is no TOML of this shape.
    pub path: String,
    pub problem: String,
}

/// One entry, as files and configuration write it. Figures are dollars per million tokens.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PriceEntry {
    /// A provider of the list, or an upstream's name.
    pub provider: String,
    /// A trailing `*` stands for every ending.
    pub names: Vec<String>,
    pub input: f64,
    #[serde(default)]
    pub cached_input: Option<f64>,
    #[serde(default)]
    pub cache_write: Option<f64>,
    /// Left out for models that generate nothing.
    #[serde(default)]
    pub output: f64,
    /// Only told.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// The day on which the provider's page was read.
    #[serde(default)]
    pub read: Option<String>,
    #[serde(default)]
    pub long: Option<LongFigures>,
}

/// What counts once a prompt is longer than `above_tokens`. Left out: as for shorter ones.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LongFigures {
    pub above_tokens: u32,
    #[serde(default)]
    pub input: Option<f64>,
    #[serde(default)]
    pub cached_input: Option<f64>,
    #[serde(default)]
    pub cache_write: Option<f64>,
    #[serde(default)]
    pub output: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    pages: Vec<Page>,
    #[serde(default)]
    models: Vec<PriceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    provider: String,
    url: String,
}

impl PriceBook {
    /// # Errors
    /// All that is wrong with the list.
    pub fn parse(text: &str) -> Result<Self, Vec<PriceFault>> {
        let list: List = toml::from_str(text).map_err(|error| {
            vec![PriceFault {
                path: String::new(),
                problem: error.message().to_owned(),
            }]
        })?;
        let mut book = Self::default();
        if let Some(page) = list
            .pages
            .iter()
            .find(|page| !page.url.starts_with("https://"))
        {
            return Err(vec![fault(
                format!("pages.{}", page.provider),
                "must be an https address",
            )]);
        }
        book.add(&list.models)?;
        Ok(book)
    }

    /// Adds entries, which win over those of the same name.
    ///
    /// # Errors
    /// All that is wrong with them; nothing was added then.
    pub fn add(&mut self, entries: &[PriceEntry]) -> Result<(), Vec<PriceFault>> {
        let mut faults = Vec::new();
        if entries.len() > MODELS_MAX {
            faults.push(fault(String::new(), "there are too many entries"));
            return Err(faults);
        }
        let mut read = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            match price(at, entry) {
                Ok(price) => read.push((entry, price)),
                Err(mut wrong) => faults.append(&mut wrong),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for (entry, price) in read {
            let shelf = self.providers.entry(entry.provider.clone()).or_default();
            for name in &entry.names {
                shelf.put(name, price);
            }
        }
        Ok(())
    }

    /// What `model` costs with `provider`; `None` where nobody said.
    #[must_use]
    pub fn find(&self, provider: &str, model: &str) -> Option<&Price> {
        let shelf = self.providers.get(provider)?;
        let undated = without_date(model);
        shelf
            .exact
            .get(model)
            .or_else(|| shelf.exact.get(undated?))
            .or_else(|| {
                let mut prefixes = shelf.prefixes.iter();
                let (_, price) = prefixes.find(|(prefix, _)| model.starts_with(prefix.as_str()))?;
                Some(price)
            })
    }

    /// Models and families that have a price.
    #[must_use]
    pub fn count(&self) -> usize {
        let shelves = self.providers.values();
        shelves
            .map(|shelf| shelf.exact.len() + shelf.prefixes.len())
            .sum()
    }
}

impl Shelf {
    fn put(&mut self, name: &str, price: Price) {
        let Some(prefix) = name.strip_suffix('*') else {
            self.exact.insert(name.to_owned(), price);
            return;
        };
        self.prefixes.retain(|(known, _)| known != prefix);
        let longer = |(known, _): &(String, Price)| known.len() >= prefix.len();
        let at = self.prefixes.partition_point(longer);
        self.prefixes.insert(at, (prefix.to_owned(), price));
    }
}

/// A name without the date at its end: `-2025-08-07`, `-20250929`. `None` where it has none.
fn without_date(model: &str) -> Option<&str> {
    let digits = |text: &str, count: usize| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (rest, day) = model.rsplit_once('-')?;
    if digits(day, 8) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(day, 2) && digits(month, 2) && digits(year, 4)).then_some(rest)
}

fn price(at: usize, entry: &PriceEntry) -> Result<Price, Vec<PriceFault>> {
    let path = |field: &str| format!("[{at}].{field}");
    let mut faults = Vec::new();
    if entry.provider.is_empty() {
        faults.push(fault(path("provider"), "must not be empty"));
    }
    if entry.names.is_empty() {
        faults.push(fault(path("names"), "must name a model"));
    }
    if entry.names.iter().any(String::is_empty) {
        faults.push(fault(path("names"), "must not hold an empty name"));
    }
    let mut rate = |field: &str, usd: f64| {
        microusd(usd).unwrap_or_else(|| {
            faults.push(fault(
                path(field),
                "must be dollars per million tokens, from 0 to 100000",
            ));
            0
        })
    };
    let input = rate("input", entry.input);
    let rates = Rates {
        input,
        cached_input: entry
            .cached_input
            .map_or(input, |usd| rate("cached_input", usd)),
        cache_write: entry
            .cache_write
            .map_or(input, |usd| rate("cache_write", usd)),
        output: rate("output", entry.output),
    };
    let long = entry.long.as_ref().map(|long| {
        let mut or =
            |field: &str, usd: Option<f64>, short: u64| usd.map_or(short, |usd| rate(field, usd));
        let rates = Rates {
            input: or("long.input", long.input, rates.input),
            cached_input: or("long.cached_input", long.cached_input, rates.cached_input),
            cache_write: or("long.cache_write", long.cache_write, rates.cache_write),
            output: or("long.output", long.output, rates.output),
        };
        (Tokens(long.above_tokens), rates)
    });
    if faults.is_empty() {
        Ok(Price { rates, long })
    } else {
        Err(faults)
    }
}

fn fault(path: String, problem: &str) -> PriceFault {
    PriceFault {
        path,
        problem: problem.to_owned(),
    }
}

/// Dollars as millionths, exact to the last of them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and far within an integer's"
)]
fn microusd(usd: f64) -> Option<u64> {
    let is_sane = usd.is_finite() && (0.0..=USD_PER_MTOK_MAX).contains(&usd);
    is_sane.then(|| (usd * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use domain::{MicroUsd, Usage};

    use super::*;

    const LIST: &str = r#"
        [[pages]]
        provider = "acme"
        url = "https://acme.example/prices"

        [[models]]
        provider = "acme"
        names = ["big", "huge*"]
        input = 1.25
        cached_input = 0.125
        output = 10.0
        read = "2026-11-28"
        long = { above_tokens = 200000, input = 2.5 }

        [[models]]
        provider = "acme"
        names = ["huge-mini*", "hugest"]
        input = 0.05
    "#;

    fn input(book: &PriceBook, provider: &str, model: &str) -> Option<u64> {
        Some(book.find(provider, model)?.rates.input)
    }

    #[test]
    fn a_name_is_found_by_itself_its_date_and_its_longest_beginning() {
        let book = PriceBook::parse(LIST).unwrap();
        for (model, rate) in [
            ("big", Some(1_250_000)),
            ("big-2026-01-31", Some(1_250_000)),
            ("big-20260131", Some(1_250_000)),
            ("big-2026-1-31", None),
            ("bigger", None),
            ("huge", Some(1_250_000)),
            ("huge-turbo", Some(1_250_000)),
            ("huge-mini-2", Some(50_000)),
            ("hugest", Some(50_000)),
            ("", None),
            ("-20260131", None),
        ] {
            assert_eq!(input(&book, "acme", model), rate, "{model}");
        }
        assert_eq!(input(&book, "other", "big"), None);
        let big = book.find("acme", "big").unwrap();
        assert_eq!(big.rates.cached_input, 125_000);
        assert_eq!(big.rates.cache_write, 1_250_000);
        let (above, long) = big.long.unwrap();
        assert_eq!(
            (above, long.input, long.output),
            (Tokens(200_000), 2_500_000, 10_000_000)
        );
    }

    #[test]
    fn later_entries_win() {
        let mut book = PriceBook::parse(LIST).unwrap();
        let mine = |name: &str, input| PriceEntry {
            provider: "acme".into(),
            names: vec![name.into()],
            input,
            ..PriceEntry::default()
        };
        book.add(&[mine("big", 1.0), mine("huge*", 2.0)]).unwrap();
        assert_eq!(input(&book, "acme", "big"), Some(1_000_000));
        assert_eq!(input(&book, "acme", "huge-turbo"), Some(2_000_000));
        assert_eq!(input(&book, "acme", "huge-mini-2"), Some(50_000));
    }

    #[test]
    fn every_fault_is_named_with_its_place() {
        let text = r#"
            [[models]]
            provider = ""
            names = []
            input = -1.0
            output = 1e9
            long = { above_tokens = 1, output = nan }
        "#;
        let faults = PriceBook::parse(text).unwrap_err();
        let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
        let wanted = ["provider", "names", "input", "output", "long.output"];
        let wanted = wanted.map(|field| format!("[0].{field}"));
        assert_eq!(paths, wanted);
        for broken in [
            "models = 3",
            "[[models]]",
            "[[models]]\nprovider='a'\nnames=['b']\ninput=1\nprise=2",
        ] {
            assert!(PriceBook::parse(broken).is_err(), "{broken}");
        }
    }

    /// The list that comes with the program.
    #[test]
    fn the_list_of_the_house_is_sound() {
        let text = include_str!("../../models/prices.toml");
        let book = PriceBook::parse(text).unwrap();
        assert!(book.count() > 300, "{}", book.count());
        let usage = Usage {
            prompt_tokens: Tokens(1_000_000),
            completion_tokens: Tokens(1_000_000),
            ..Usage::default()
        };
        for (provider, model, micros) in [
            ("openai", "gpt-5", 11_250_000),
            ("openai", "gpt-5-mini-2025-08-07", 2_250_000),
            ("openai", "text-embedding-3-small", 20_000),
        ] {
            let price = book.find(provider, model).unwrap();
            assert_eq!(price.cost(&usage), MicroUsd(micros), "{model}");
        }
        let pages = text.matches("[[pages]]").count();
        assert_eq!(book.providers.len(), pages, "every provider names its page");
        assert!(
            book.find("anthropic", "claude-sonnet-4-5-20250929")
                .is_some()
        );
        assert!(
            book.find("gemini", "gemini-2.5-pro")
                .unwrap()
                .long
                .is_some()
        );
    }
}

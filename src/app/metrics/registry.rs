//! What `/metrics` shows, by name: Prometheus' own registry, and in tests a list of what it holds, which
//! docs/metrics.md is held against.

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::{Metric, Registry as Shown};

/// Everything in it is called `hedge_…`.
#[derive(Debug)]
pub struct Registry {
    shown: Shown,
    #[cfg(test)]
    listed: Vec<Listed>,
}

/// One metric, as Prometheus names it.
#[cfg(test)]
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
}

impl Registry {
    pub fn new() -> Self {
        Self {
            shown: Shown::with_prefix("hedge"),
            #[cfg(test)]
            listed: Vec::new(),
        }
    }

    /// Counters are called what `name` says, with `_total`.
    pub fn register(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        #[cfg(test)]
        self.listed.push(Listed::new(name, &metric));
        self.shown.register(name, help, metric);
    }

    /// In the text format, without what has no value yet and without the end mark.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode_registry(&mut text, &self.shown);
        text
    }

    #[cfg(test)]
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }
}

#[cfg(test)]
impl Listed {
    fn new(name: &str, metric: &impl Metric) -> Self {
        let kind = metric.metric_type().as_str().to_owned();
        let end = if kind == "counter" { "_total" } else { "" };
        Self {
            name: format!("hedge_{name}{end}"),
            kind,
        }
    }
}

//! The figures of a run, as a table and as JSON.

use serde::Serialize;

use super::Course;
use super::scenario::Sample;

/// Everything measured, sample by sample, and what it comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub rounds: u32,
    pub window_ms: u64,
    /// The machine's processor, as the kernel names it.
    pub machine: String,
    pub targets: Vec<String>,
    pub scenarios: Vec<String>,
    pub samples: Vec<Taken>,
}

/// One sample and where it belongs.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    pub scenario: String,
    pub target: String,
    pub round: u32,
    pub sample: Sample,
}

/// One line of the table: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub scenario: String,
    pub target: String,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Against the first target, within each round; `None` for that target itself.
    pub added_p50_us: Option<f64>,
    pub added_p99_us: Option<f64>,
    pub gap_p99_us: Option<f64>,
    pub answered_per_s: f64,
    pub cpu_us_per_answer: Option<f64>,
    pub rss_bytes_most: Option<f64>,
    /// Sums, not medians.
    pub answered: u64,
    pub failed: u64,
}

impl Report {
    pub(super) fn new(course: &Course) -> Self {
        Self {
            rounds: course.rounds,
            window_ms: u64::try_from(course.window.as_millis()).unwrap_or(u64::MAX),
            machine: machine(),
            targets: course
                .targets
                .iter()
                .map(|target| target.name.clone())
                .collect(),
            scenarios: course
                .scenarios
                .iter()
                .map(|scenario| scenario.name.clone())
                .collect(),
            samples: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, scenario: &str, target: &str, round: u32, sample: Sample) {
        self.samples.push(Taken {
            scenario: scenario.to_owned(),
            target: target.to_owned(),
            round,
            sample,
        });
    }

    fn of(&self, scenario: &str, target: &str) -> Vec<&Sample> {
        let mut taken: Vec<&Taken> = self
            .samples
            .iter()
            .filter(|taken| taken.scenario == scenario && taken.target == target)
            .collect();
        taken.sort_by_key(|taken| taken.round);
        taken.into_iter().map(|taken| &taken.sample).collect()
    }

    /// One row a scenario and target, scenarios together.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for scenario in &self.scenarios {
            for target in &self.targets {
                rows.push(self.row(scenario, target));
            }
        }
        rows
    }

    fn row(&self, scenario: &str, target: &str) -> Row {
        let samples = self.of(scenario, target);
        let floor = match self.targets.first() {
            Some(first) if first != target => self.of(scenario, first),
            _ => Vec::new(),
        };
        let median_of =
            |value: fn(&Sample) -> f64| median(samples.iter().map(|sample| value(sample)));
        let added = |value: fn(&Sample) -> f64| {
            let pairs = samples.iter().zip(&floor);
            median(pairs.map(|(sample, floor)| value(sample) - value(floor)))
        };
        let optional = |value: fn(&Sample) -> Option<f64>| {
            median(samples.iter().filter_map(|sample| value(sample)))
        };
        #[expect(clippy::cast_precision_loss, reason = "memory far below 2^53 bytes")]
        let rss = |sample: &Sample| sample.rss_bytes_most.map(|bytes| bytes as f64);
        Row {
            scenario: scenario.to_owned(),
            target: target.to_owned(),
            p50_us: median_of(|sample| sample.p50_us).unwrap_or_default(),
            p99_us: median_of(|sample| sample.p99_us).unwrap_or_default(),
            added_p50_us: added(|sample| sample.p50_us),
            added_p99_us: added(|sample| sample.p99_us),
            gap_p99_us: optional(|sample| sample.gap_p99_us),
            answered_per_s: median_of(|sample| sample.answered_per_s).unwrap_or_default(),
            cpu_us_per_answer: optional(|sample| sample.cpu_us_per_answer),
            rss_bytes_most: optional(rss),
            answered: samples.iter().map(|sample| sample.answered).sum(),
            failed: samples.iter().map(|sample| sample.failed).sum(),
        }
    }

    /// `above`'s added p50 over `below`'s, scenario by scenario; median of the rounds' medians.
    #[must_use]
    pub fn ratios(&self, above: &str, below: &str) -> Vec<(String, f64)> {
        self.scenarios
            .iter()
            .filter_map(|scenario| {
                let above = self.row(scenario, above).added_p50_us?;
                let below = self.row(scenario, below).added_p50_us?;
                Some((scenario.clone(), above / below))
            })
            .collect()
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| scenario | target | p50 us | p99 us | added p50 | added p99 | gap p99 us | answers/s | CPU us/answer | RSS MiB | answered | failed |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in self.rows() {
            let optional = |value: Option<f64>| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
            };
            let rss_mib = row.rss_bytes_most.map(|bytes| bytes / (1024.0 * 1024.0));
            table.push_str(&format!(
                "| {} | {} | {:.0} | {:.0} | {} | {} | {} | {:.0} | {} | {} | {} | {} |\n",
                row.scenario,
                row.target,
                row.p50_us,
                row.p99_us,
                optional(row.added_p50_us),
                optional(row.added_p99_us),
                optional(row.gap_p99_us),
                row.answered_per_s,
                optional(row.cpu_us_per_answer),
                optional(rss_mib),
                row.answered,
                row.failed,
            ));
        }
        table
    }

    /// Samples and rows.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"run": self, "rows": self.rows()})
    }
}

/// `None` of no values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    match values.len() % 2 {
        0 => Some(f64::midpoint(values[middle - 1], upper)),
        _ => Some(upper),
    }
}

pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches(['\t', ' ', ':'])
        });
    format!("{model}, {cores} cores")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(direct: &[f64], proxy: &[f64]) -> Report {
        let mut report = Report {
            rounds: 3,
            window_ms: 1,
            machine: String::new(),
            targets: vec!["direct".into(), "proxy".into(), "nginx".into()],
            scenarios: vec!["s".into()],
            samples: Vec::new(),
        };
        let sample = |p50_us: f64| Sample {
            p50_us,
            ..Sample::default()
        };
        for (round, (direct, proxy)) in (0..).zip(direct.iter().zip(proxy)) {
            report.take("s", "proxy", round, sample(*proxy));
            report.take("s", "direct", round, sample(*direct));
            report.take("s", "nginx", round, sample(direct + 20.0));
        }
        report
    }

    #[test]
    fn added_time_is_taken_within_each_round() {
        // A machine that slowed threefold in the second round: the medians alone would say 150.
        let report = report(&[100.0, 300.0, 110.0], &[130.0, 332.0, 260.0]);
        let row = report.row("s", "proxy");
        assert_eq!(row.added_p50_us, Some(32.0));
        assert_eq!(report.row("s", "direct").added_p50_us, None);
        assert_eq!(report.ratios("proxy", "nginx"), [("s".to_owned(), 1.6)]);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}

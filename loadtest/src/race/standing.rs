//! The figures of a race, as a table and as JSON.

use serde::Serialize;

use super::{Lap, Race};
use crate::drive::{machine, median};

/// Everything measured, lap by lap, and what it comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    pub rounds: u32,
    pub machine: String,
    pub targets: Vec<String>,
    pub heats: Vec<String>,
    pub laps: Vec<Run>,
}

/// One lap and where it belongs.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub heat: String,
    pub target: String,
    pub round: u32,
    pub lap: Lap,
}

/// One line of the table: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    pub heat: String,
    pub target: String,
    pub tokens_per_s: f64,
    /// Of `tokens_per_s` and of the first text's median, to the first target's of the same round.
    pub speed_ratio: Option<f64>,
    pub first_ratio: Option<f64>,
    pub first_p50_ms: f64,
    pub first_p99_ms: f64,
    pub gap_p50_ms: f64,
    pub gap_p99_ms: f64,
    pub prompt_tokens: f64,
    pub cpu_s: Option<f64>,
    pub rss_bytes: Option<f64>,
    /// Sums, not medians.
    pub answered: u64,
    pub failed: u64,
}

impl Standing {
    pub(super) fn new(race: &Race) -> Self {
        Self {
            rounds: race.rounds,
            machine: machine(),
            targets: race
                .targets
                .iter()
                .map(|target| target.name.clone())
                .collect(),
            heats: race.heats.iter().map(|heat| heat.name.clone()).collect(),
            laps: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, heat: &str, target: &str, round: u32, lap: Lap) {
        self.laps.push(Run {
            heat: heat.to_owned(),
            target: target.to_owned(),
            round,
            lap,
        });
    }

    /// The laps of one target in one heat, in the order of the rounds.
    fn of(&self, heat: &str, target: &str) -> Vec<&Lap> {
        let mut runs: Vec<&Run> = self
            .laps
            .iter()
            .filter(|run| run.heat == heat && run.target == target)
            .collect();
        runs.sort_by_key(|run| run.round);
        runs.into_iter().map(|run| &run.lap).collect()
    }

    /// One line a heat and target, heats together.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let pairs = self
            .heats
            .iter()
            .flat_map(|heat| self.targets.iter().map(move |target| (heat, target)));
        pairs
            .map(|(heat, target)| self.place(heat, target))
            .collect()
    }

    fn place(&self, heat: &str, target: &str) -> Place {
        let laps = self.of(heat, target);
        let reference = match self.targets.first() {
            Some(first) if first != target => self.of(heat, first),
            _ => Vec::new(),
        };
        let of =
            |value: fn(&Lap) -> f64| median(laps.iter().map(|lap| value(lap))).unwrap_or_default();
        let ratio = |value: fn(&Lap) -> f64| {
            let pairs = laps.iter().zip(&reference);
            median(pairs.map(|(lap, reference)| value(lap) / value(reference)))
        };
        #[expect(clippy::cast_precision_loss, reason = "memory far below 2^53 bytes")]
        let rss = |lap: &&Lap| lap.rss_bytes.map(|bytes| bytes as f64);
        Place {
            heat: heat.to_owned(),
            target: target.to_owned(),
            tokens_per_s: of(|lap| lap.tokens_per_s),
            speed_ratio: ratio(|lap| lap.tokens_per_s),
            first_ratio: ratio(|lap| lap.first_p50_ms),
            first_p50_ms: of(|lap| lap.first_p50_ms),
            first_p99_ms: of(|lap| lap.first_p99_ms),
            gap_p50_ms: of(|lap| lap.gap_p50_ms),
            gap_p99_ms: of(|lap| lap.gap_p99_ms),
            prompt_tokens: of(|lap| lap.prompt_tokens),
            cpu_s: median(laps.iter().filter_map(|lap| lap.cpu_s)),
            rss_bytes: median(laps.iter().filter_map(rss)),
            answered: laps.iter().map(|lap| lap.answered).sum(),
            failed: laps.iter().map(|lap| lap.failed).sum(),
        }
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| load | engine | tokens/s | ratio | first p50 ms | ratio | first p99 ms | gap p50 ms | gap p99 ms | prompt tokens | CPU s | RSS MiB | answered | failed |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for place in self.places() {
            let number = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let rss_mib = place.rss_bytes.map(|bytes| bytes / (1024.0 * 1024.0));
            table.push_str(&format!(
                "| {} | {} | {:.1} | {} | {:.1} | {} | {:.1} | {:.1} | {:.1} | {:.0} | {} | {} | {} | {} |\n",
                place.heat,
                place.target,
                place.tokens_per_s,
                number(place.speed_ratio, 2),
                place.first_p50_ms,
                number(place.first_ratio, 2),
                place.first_p99_ms,
                place.gap_p50_ms,
                place.gap_p99_ms,
                place.prompt_tokens,
                number(place.cpu_s, 1),
                number(rss_mib, 0),
                place.answered,
                place.failed,
            ));
        }
        table
    }

    /// Laps and places.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"race": self, "places": self.places()})
    }
}

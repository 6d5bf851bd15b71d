//! The driver: the same requests to every target in turn, round after round.
//!
//! A shared machine drifts, so no figure is taken once and no target is measured alone: a round
//! visits every target, and what is reported is the median over rounds of each round's percentile.
//! What a proxy adds is its percentile less the direct one of the same round.

mod client;
mod fleet;
mod process;
mod report;
mod scenario;

pub(crate) use client::Lane;
pub use client::Target;
pub use fleet::{Fleet, FleetError};
pub use process::Usage;
pub(crate) use process::family;
pub use report::{Report, Row};
pub(crate) use report::{machine, median};
pub use scenario::{Load, Sample, Scenario, measure};
pub(crate) use scenario::{histogram, nanos};

use std::io;
use std::time::Duration;

/// One run: what to send, where, and how often.
#[derive(Clone, Debug)]
pub struct Course {
    /// The first is the floor that the others are compared with.
    pub targets: Vec<Target>,
    pub scenarios: Vec<Scenario>,
    pub rounds: u32,
    /// How long one measurement of whole replies lasts.
    pub window: Duration,
}

/// Runs the course and reports it.
///
/// # Errors
/// A target cannot be reached, or its process cannot be read.
pub async fn run(course: &Course, mut progress: impl FnMut(&str)) -> io::Result<Report> {
    let mut report = Report::new(course);
    for round in 0..course.rounds {
        for scenario in &course.scenarios {
            for target in in_turn(&course.targets, round) {
                progress(&format!(
                    "round {}/{}  {}  {}",
                    round + 1,
                    course.rounds,
                    scenario.name,
                    target.name
                ));
                let sample = measure(target, scenario, course.window).await?;
                report.take(&scenario.name, &target.name, round, sample);
            }
        }
    }
    Ok(report)
}

/// All targets, in an order that turns with the round, so that nobody always follows the same
/// neighbour.
pub(crate) fn in_turn(targets: &[Target], round: u32) -> impl Iterator<Item = &Target> {
    let first = round as usize % targets.len().max(1);
    targets[first..].iter().chain(&targets[..first])
}

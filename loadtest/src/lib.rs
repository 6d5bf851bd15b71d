//! A fake upstream that can misbehave on request, a driver that measures what a proxy adds, a race
//! between local engines and whether they say the same, what a cache costs and spares, a soak, and model files spoilt on purpose.
//!
//! The upstream serves the black-box tests and `make bench`; the driver serves `make bench`. Neither
//! knows anything of the rooms: both speak HTTP and read `/proc`, so they measure any proxy alike.

mod agree;
mod drive;
mod failing;
mod fake;
mod hostile;
mod postgres;
mod race;
mod reuse;
mod soak;

pub use agree::{Agree, Agreement, Likeness, agree};
pub use drive::{
    Course, Fleet, FleetError, Load, Report, Row, Sample, Scenario, Target, Usage, measure, run,
};
pub use failing::{Ledger, Pair, Survived, survive};
pub use fake::{Behaviour, Counts, FakeConfig, FakeUpstream, Flaky, Mishap, Seen};
pub use hostile::{Sound, Spoilt};
pub use postgres::{POSTGRES_PASSWORD, PostgresServer};
pub use race::{
    EngineLoad, Fairness, Heat, Lap, Place, Race, Standing, Turn, Verdict, fairness, race,
};
pub use reuse::{Reuse, Reused, Times, reuse};
pub use soak::{Check, Soak, SoakReport, SoakSample, soak};

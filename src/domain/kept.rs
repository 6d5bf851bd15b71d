//! Records of exchanges that are kept, and what they come to.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ExchangeRecord, MicroUsd, Outcome, TeamId, Tokens};

/// Of any text in a kept record. What callers name a model may be longer.
pub const KEPT_TEXT_BYTES_MAX: usize = 256;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Cache,
    /// This machine, or one that is paid for already.
    Local,
    Upstream,
    /// It was refused before anybody was asked.
    Nobody,
}

impl Place {
    pub const ALL: [Place; 4] = [Place::Cache, Place::Local, Place::Upstream, Place::Nobody];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Place::Cache => "cache",
            Place::Local => "local",
            Place::Upstream => "upstream",
            Place::Nobody => "nobody",
        }
    }

    #[must_use]
    pub fn of(record: &ExchangeRecord) -> Self {
        if record.cache.is_reuse() {
            return Place::Cache;
        }
        // Who spoke last.
        match record.rescued_by.last().or(record.route.as_ref()) {
            Some(route) if route.is_local => Place::Local,
            Some(_) => Place::Upstream,
            None => Place::Nobody,
        }
    }
}

/// What a difference to the counterfactual is due to. Of several the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SavedBy {
    /// A reply was used again.
    Cache,
    /// Somebody else stood in, or went on with a reply.
    Fallback,
    /// It was answered where nothing is charged.
    Local,
    /// An upstream answered that was not asked for, or charged for a second try beside it.
    Upstream,
    /// An answer was asked for again to see whether it was as good.
    Shadow,
}

impl SavedBy {
    pub const ALL: [SavedBy; 5] = [
        SavedBy::Cache,
        SavedBy::Fallback,
        SavedBy::Local,
        SavedBy::Upstream,
        SavedBy::Shadow,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            SavedBy::Cache => "cache",
            SavedBy::Fallback => "fallback",
            SavedBy::Local => "local",
            SavedBy::Upstream => "upstream",
            SavedBy::Shadow => "shadow",
        }
    }

    /// `None` where nobody answered.
    #[must_use]
    pub fn of(record: &ExchangeRecord) -> Option<Self> {
        if record.shadow.is_some() {
            return Some(SavedBy::Shadow);
        }
        let stood_in = !record.failed_candidates.is_empty() || !record.rescued_by.is_empty();
        match Place::of(record) {
            Place::Cache => Some(SavedBy::Cache),
            Place::Local | Place::Upstream if stood_in => Some(SavedBy::Fallback),
            Place::Local => Some(SavedBy::Local),
            Place::Upstream => Some(SavedBy::Upstream),
            Place::Nobody => None,
        }
    }
}

/// An exchange as it is kept. Money is in micro-dollars, times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeptRecord {
    /// When it ended: since 1970, UTC. With `request_id`, which callers may choose, it is the record's
    /// name.
    pub ended_us: i64,
    pub request_id: String,
    pub key: Option<String>,
    pub team: String,
    /// As the caller named it, cut to [`KEPT_TEXT_BYTES_MAX`].
    pub model_asked: String,
    /// [`Place::as_label`]
    pub place: String,
    pub backend: Option<String>,
    pub model: Option<String>,
    /// The rule that decided.
    pub reason: String,
    /// [`crate::CacheOutcome::as_label`]
    pub cache: String,
    /// [`Outcome::as_label`]
    pub outcome: String,
    /// Which refusal or failure it was.
    pub fault: Option<String>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    /// Part of `input_tokens`: read from a prefix cache, and put into one.
    pub cached_tokens: Option<i64>,
    pub cache_write_tokens: Option<i64>,
    /// Part of `output_tokens`.
    pub reasoning_tokens: Option<i64>,
    /// The tokens are this node's own count.
    pub is_counted: bool,
    pub cost_microusd: Option<i64>,
    /// Of a second candidate that was asked beside and not waited for.
    pub hedge_cost_microusd: i64,
    /// What a reply that was used again had cost when it was made.
    pub made_microusd: Option<i64>,
    pub counterfactual_microusd: Option<i64>,
    /// [`crate::Basis::as_label`] of it.
    pub basis: Option<String>,
    /// [`SavedBy::as_label`]
    pub saved_by: Option<String>,
    /// Values of personal data that were masked.
    pub masked: i64,
    pub first_content_us: Option<i64>,
    pub took_us: i64,
    pub retries: i64,
    /// Candidates that failed before one answered.
    pub failed: i64,
    /// Times that somebody else went on with the reply.
    pub rescues: i64,
    /// Of a shadow: the model that answered the caller, beside whose answer it was asked for.
    pub shadow_of: Option<String>,
    /// Of a shadow: [`crate::Agreement::as_label`].
    pub agreement: Option<String>,
    pub similarity_permille: Option<i64>,
    /// Whose it is: [`crate::Marks::as_text`]. Shown to nobody.
    #[serde(skip)]
    pub marks: Option<String>,
}

/// The last one that was given.
static MOMENT_US: AtomicI64 = AtomicI64::new(0);

/// Now, in microseconds since 1970, and never twice in a row the same: callers may give one id to two
/// requests.
#[must_use]
pub fn moment_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
    // A clock that was set back counts from there.
    let next = |last: i64| match (0..1_000_000).contains(&(last - now)) {
        true => last + 1,
        false => now,
    };
    let last = MOMENT_US.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(next(last))
    });
    next(last.unwrap_or_else(|last| last))
}

impl KeptRecord {
    #[must_use]
    pub fn of(record: &ExchangeRecord, ended_us: i64) -> Self {
        let usage = record.usage.as_ref();
        let tokens = |count: Option<Tokens>| count.map(|it| i64::from(it.0));
        let route = record.rescued_by.last().or(record.route.as_ref());
        let hedge = record.hedge.as_ref().and_then(|it| it.loser_cost);
        let shadow = record.shadow.as_ref();
        let micros =
            |time: std::time::Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let count = |many: usize| i64::try_from(many).unwrap_or(i64::MAX);
        Self {
            ended_us,
            request_id: kept_text(record.request_id.as_str()),
            key: record.key.as_ref().map(|key| kept_text(key.as_str())),
            team: kept_text(record.team.as_str()),
            model_asked: kept_text(record.model_asked.as_str()),
            place: Place::of(record).as_label().to_owned(),
            backend: route.map(|route| kept_text(route.backend.as_str())),
            model: route.map(|route| kept_text(&route.model)),
            reason: kept_text(&record.reason),
            cache: record.cache.as_label().to_owned(),
            outcome: record.outcome.as_label().to_owned(),
            fault: match record.outcome {
                Outcome::Answered | Outcome::Abandoned => None,
                Outcome::Refused(label) | Outcome::BrokenOff(label) => Some(label.to_owned()),
            },
            input_tokens: tokens(usage.map(|it| it.prompt_tokens)),
            output_tokens: tokens(usage.map(|it| it.completion_tokens)),
            cached_tokens: tokens(usage.map(|it| it.cached_tokens)),
            cache_write_tokens: tokens(usage.map(|it| it.cache_write_tokens)),
            reasoning_tokens: tokens(usage.map(|it| it.reasoning_tokens)),
            is_counted: record.is_usage_counted,
            cost_microusd: record.cost.map(|cost| cost.0),
            hedge_cost_microusd: hedge.map_or(0, |MicroUsd(cost)| cost),
            made_microusd: record.saved.map(|cost| cost.0),
            counterfactual_microusd: record.counterfactual.map(|it| it.cost.0),
            basis: record
                .counterfactual
                .map(|it| it.basis.as_label().to_owned()),
            saved_by: SavedBy::of(record).map(|it| it.as_label().to_owned()),
            masked: record.masked_count.into(),
            first_content_us: record.first_content_after.map(micros),
            took_us: micros(record.took),
            retries: record.retries_count.into(),
            failed: count(record.failed_candidates.len()),
            rescues: count(record.rescued_by.len()),
            shadow_of: shadow.map(|it| kept_text(&it.beside)),
            agreement: shadow.map(|it| it.agreement.as_label().to_owned()),
            similarity_permille: shadow.and_then(|it| it.similarity_permille.map(i64::from)),
            marks: record.marks.as_text(),
        }
    }
}

/// Callers' words may be long, and hold what tears a line or a table.
fn kept_text(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(KEPT_TEXT_BYTES_MAX)];
    if cut.chars().any(char::is_control) {
        return cut.replace(char::is_control, "\u{fffd}");
    }
    cut.to_owned()
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So many seconds before now.
    Ago(u64),
    /// The beginning of this day in the organisation's time zone.
    Today,
    /// The beginning of a day in the organisation's time zone.
    Day { year: i16, month: i8, day: i8 },
}

/// It is no time that [`Since`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a time such as `30d`, `12h`, `45m`, `today`, or a day such as `2026-11-28`")]
pub struct NoTime;

impl FromStr for Since {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let number = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_plain {
                text.parse::<u64>().ok()
            } else {
                None
            }
        };
        if text == "today" {
            return Ok(Since::Today);
        }
        for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
            if let Some(count) = text.strip_suffix(unit) {
                let seconds = number(count).and_then(|count| count.checked_mul(seconds));
                return seconds.map(Since::Ago).ok_or(NoTime);
            }
        }
        let mut parts = text.splitn(3, '-').map(number);
        let mut part = || parts.next().flatten().ok_or(NoTime);
        let (year, month, day) = (part()?, part()?, part()?);
        Ok(Since::Day {
            year: i16::try_from(year).map_err(|_| NoTime)?,
            month: i8::try_from(month).map_err(|_| NoTime)?,
            day: i8::try_from(day).map_err(|_| NoTime)?,
        })
    }
}

/// A kept record's name, as a page of them ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordName {
    pub ended_us: i64,
    pub request_id: String,
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ended_us, self.request_id)
    }
}

impl FromStr for RecordName {
    type Err = NoTime;

    /// As it is displayed, or a bare time in microseconds.
    fn from_str(text: &str) -> Result<Self, NoTime> {
        let (time, id) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self {
            ended_us: time.parse().map_err(|_| NoTime)?,
            request_id: id.to_owned(),
        })
    }
}

/// A moment as people read it, where they are and everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpokenTime {
    pub unix_us: i64,
    pub utc: String,
    /// In the organisation's time zone.
    pub local: String,
}

/// What shadows came to: answers of this machine that were asked for again of an upstream. They are no
/// requests, and what they cost is spent and takes from what was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowSum {
    pub asked: i64,
    pub agreed: i64,
    pub differed: i64,
    /// Both answered, and it could not be told.
    pub unclear: i64,
    /// The upstream did not answer.
    pub failed: i64,
    pub spent_microusd: i64,
}

/// What some exchanges come to. `saved` is `counterfactual` less `spent`, of those that can be compared:
/// whose cost is known, and what they would have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub requests: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub compared_requests: i64,
    pub compared_spent_microusd: i64,
    pub counterfactual_microusd: i64,
    pub saved_microusd: i64,
}

/// What was spent, and what it would have been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savings {
    /// The first moment that counts, and the first that does not.
    pub since: SpokenTime,
    pub until: SpokenTime,
    pub time_zone: String,
    /// `None`: of all.
    pub team: Option<String>,
    /// Of all requests whose cost is known, second tries included.
    pub spent_microusd: i64,
    /// Somebody answered, and the price is not known.
    pub unpriced_requests: i64,
    pub total: Sum,
    /// The total's parts by [`SavedBy`], all of them, and what nobody answered as `none`.
    pub saved_by: Vec<(String, Sum)>,
    /// The total's parts by [`crate::Basis`], all of them, and what is not compared as `none`.
    pub basis: Vec<(String, Sum)>,
    pub shadow: ShadowSum,
    pub reference_model: Option<String>,
    pub method: String,
}

/// An hour's exchanges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    pub begins: SpokenTime,
    /// By [`Place`]; all of them.
    pub requests: BTreeMap<String, i64>,
}

/// How long answers took, in microseconds: half no longer (p50), 95 of 100 no longer (p95).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceLatency {
    pub place: String,
    pub answers: i64,
    pub first_content_p50_us: Option<i64>,
    pub first_content_p95_us: Option<i64>,
    pub took_p50_us: i64,
    pub took_p95_us: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamSpent {
    pub team: String,
    pub requests: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub spent_microusd: i64,
}

/// What a page shows beside savings: the last 24 hours, this one included, and the teams that spent most
/// in 30 days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    pub hours: Vec<Hour>,
    pub latency: Vec<PlaceLatency>,
    pub teams: Vec<TeamSpent>,
}

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    #[error("no records are kept here")]
    Absent,
    #[error("others are reading the records; try again")]
    Busy,
    #[error("records wait to be written; try again")]
    Unwritten,
    #[error("there is no such day")]
    NoSuchDay,
    #[error("the database of the records cannot be reached; try again")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("records cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads what was kept of exchanges. What ended less than a second ago may be missing.
#[async_trait]
pub trait RecordShelf: Send + Sync + 'static {
    /// The latest `count` of those that come before `before`, latest first.
    async fn latest(
        &self,
        count: u32,
        before: Option<RecordName>,
    ) -> Result<Vec<KeptRecord>, RecordFault>;

    /// A moment in words, here and everywhere.
    fn spoken(&self, unix_us: i64) -> SpokenTime;

    /// What all exchanges since then come to, or those of one team.
    async fn savings(&self, since: Since, team: Option<TeamId>) -> Result<Savings, RecordFault>;

    async fn overview(&self) -> Result<Overview, RecordFault>;

    /// Whether this node's latest records wait for a database that it shares with others. `None` where it
    /// shares none.
    fn is_waiting(&self) -> Option<bool> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_anything_else_is_not() {
        let day = |year, month, day| Ok(Since::Day { year, month, day });
        for (text, wanted) in [
            ("30d", Ok(Since::Ago(2_592_000))),
            ("12h", Ok(Since::Ago(43_200))),
            ("today", Ok(Since::Today)),
            ("0m", Ok(Since::Ago(0))),
            ("2026-11-28", day(2026, 11, 28)),
            // Whether there is such a day the calendar knows.
            ("2026-2-31", day(2026, 2, 31)),
            ("", Err(NoTime)),
            ("d", Err(NoTime)),
            ("-1d", Err(NoTime)),
            ("+1d", Err(NoTime)),
            ("1.5h", Err(NoTime)),
            ("99999999999999999999d", Err(NoTime)),
            ("213503982334602d", Err(NoTime)),
            ("2026-11", Err(NoTime)),
            ("2026-11-28-1", Err(NoTime)),
            ("99999-11-28", Err(NoTime)),
            ("2026-11-28T00:00:00Z", Err(NoTime)),
            ("' or 1=1 --", Err(NoTime)),
        ] {
            assert_eq!(text.parse::<Since>(), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_displayed() {
        let name = RecordName {
            ended_us: 17,
            request_id: "a-b/c".into(),
        };
        assert_eq!(name.to_string().parse(), Ok(name));
        let bare = RecordName {
            ended_us: 17,
            request_id: String::new(),
        };
        assert_eq!("17".parse(), Ok(bare));
        assert_eq!("x-17".parse::<RecordName>(), Err(NoTime));
    }

    #[test]
    fn words_of_callers_are_cut_and_tear_no_line() {
        assert_eq!(kept_text("m\nINFO forged"), "m\u{fffd}INFO forged");
        assert_eq!(kept_text(&"é".repeat(200)).len(), KEPT_TEXT_BYTES_MAX);
        assert_eq!(kept_text(&"a€".repeat(200)).chars().count(), 128);
    }
}

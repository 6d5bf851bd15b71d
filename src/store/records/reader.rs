//! Reads records: of a running node or of none.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{
    Basis, KeptRecord, Overview, RecordFault, RecordName, RecordShelf, SavedBy, Savings, ShadowSum,
    Since, Sum, TeamId,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::columns::Columns;
use super::desk::RecordDesk;
use super::file::FILE_NAME;
use super::overview::overview;
use super::reading::{Reading, Source, ask};
use super::row::read;
use crate::{Calendar, PostgresAddress};

/// Each has a thread of its own. One more is refused: reading holds up nobody else, but the disk.
const READERS_MAX: usize = 4;

/// For a look at all there is.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Of one page.
const PAGE_MAX: u32 = 1_000;

/// What saves or is compared in no way.
const NONE: &str = "none";

const METHOD: &str = "counterfactual: the request's own tokens at the price of the model asked for \
    (asked); else what the upstream that answered charged (answered); else what a reply used again cost \
    when it was made (made); else the tokens at the price of savings.reference_model (reference); of a \
    shadow nothing (shadow). Tokens read from a prefix cache count as such. saved = counterfactual - \
    spent, of the requests for which both are known, and less what shadows cost; money is in \
    micro-dollars.";

/// Looks into the file in a folder, or into Postgres.
pub struct RecordReader {
    source: Source,
    calendar: Calendar,
    reference: Mutex<Option<String>>,
    seats: Semaphore,
    desk: OnceLock<Arc<RecordDesk>>,
}

impl RecordReader {
    /// Of this node's own records.
    #[must_use]
    pub fn new(dir: &Path, calendar: Calendar) -> Self {
        Self::of(Source::File(dir.join(FILE_NAME)), calendar)
    }

    /// Of all replicas' records.
    #[must_use]
    pub fn shared(address: PostgresAddress, calendar: Calendar) -> Self {
        Self::of(Source::Shared(address), calendar)
    }

    fn of(source: Source, calendar: Calendar) -> Self {
        Self {
            source,
            calendar,
            reference: Mutex::default(),
            seats: Semaphore::new(READERS_MAX),
            desk: OnceLock::new(),
        }
    }

    /// Whose records are read here, so that it can be said whether they wait, and that a node's first
    /// reader finds the file.
    #[must_use]
    pub fn beside(self, desk: Arc<RecordDesk>) -> Self {
        // There is one.
        let _ = self.desk.set(desk);
        self
    }

    /// Where it looks, in words: the path, or host, port and database.
    #[must_use]
    pub fn place(&self) -> String {
        self.source.to_string()
    }

    /// The model that is named beside the figures.
    pub fn name_reference(&self, model: Option<String>) {
        *self
            .reference
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = model;
    }

    async fn open(&self) -> Result<(SemaphorePermit<'_>, Reading), RecordFault> {
        let seat = self.seats.try_acquire().map_err(|_| RecordFault::Busy)?;
        if let Some(desk) = self.desk.get() {
            desk.until_opened().await;
        }
        Ok((seat, self.source.connect().await?))
    }

    async fn finish<T>(
        &self,
        reading: Reading,
        found: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, RecordFault> {
        let found = found.map_err(|_| RecordFault::Busy)?;
        let found = found.map_err(|error| self.source.fault(error))?;
        // It read only.
        reading.close().await;
        Ok(found)
    }
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl RecordShelf for RecordReader {
    async fn latest(
        &self,
        count: u32,
        before: Option<RecordName>,
    ) -> Result<Vec<KeptRecord>, RecordFault> {
        let (ended_us, id) = match before {
            Some(name) => (name.ended_us, name.request_id),
            None => (i64::MAX, String::new()),
        };
        let count = i64::from(count.min(PAGE_MAX));
        let (_seat, mut reading) = self.open().await?;
        let found = timeout(LOOK_MAX, page(&mut reading, ended_us, &id, count)).await;
        self.finish(reading, found).await
    }

    fn is_waiting(&self) -> Option<bool> {
        match self.source {
            Source::File(_) => None,
            Source::Shared(_) => Some(self.desk.get()?.counts().is_away),
        }
    }

    fn spoken(&self, unix_us: i64) -> domain::SpokenTime {
        self.calendar.spoken(unix_us)
    }

    async fn savings(&self, since: Since, team: Option<TeamId>) -> Result<Savings, RecordFault> {
        let now = now_us();
        let begin = match since {
            Since::Ago(seconds) => {
                let micros = seconds.saturating_mul(1_000_000);
                now.saturating_sub_unsigned(micros).max(0)
            }
            Since::Today => self.calendar.today_begins_us(now),
            Since::Day { year, month, day } => self
                .calendar
                .day_begins_us(year, month, day)
                .ok_or(RecordFault::NoSuchDay)?,
        };
        let team = team.map(|team| team.as_str().to_owned());
        let (_seat, mut reading) = self.open().await?;
        let found = timeout(LOOK_MAX, sums(&mut reading, begin, now, team.as_deref())).await;
        let groups = self.finish(reading, found).await?;
        let mut savings = Savings {
            since: self.calendar.spoken(begin),
            until: self.calendar.spoken(now),
            time_zone: self.calendar.name(),
            team,
            saved_by: parts(SavedBy::ALL.map(SavedBy::as_label)),
            basis: parts(Basis::ALL.map(Basis::as_label)),
            reference_model: self
                .reference
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            method: METHOD.to_owned(),
            ..Savings::default()
        };
        for group in groups {
            add_group(&mut savings, &group);
        }
        Ok(savings)
    }

    async fn overview(&self) -> Result<Overview, RecordFault> {
        let spoken = |unix_us| self.calendar.spoken(unix_us);
        let (_seat, mut reading) = self.open().await?;
        let found = timeout(LOOK_MAX, overview(&mut reading, now_us(), spoken)).await;
        self.finish(reading, found).await
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

fn parts<const N: usize>(labels: [&'static str; N]) -> Vec<(String, Sum)> {
    let labels = labels.into_iter().chain([NONE]);
    labels
        .map(|label| (label.to_owned(), Sum::default()))
        .collect()
}

async fn page(
    reading: &mut Reading,
    ended_us: i64,
    id: &str,
    count: i64,
) -> Result<Vec<KeptRecord>, sqlx::Error> {
    Ok(ask!(reading, page, [ended_us, id, count], read))
}

async fn sums(
    reading: &mut Reading,
    begin: i64,
    end: i64,
    team: Option<&str>,
) -> Result<Vec<Group>, sqlx::Error> {
    Ok(ask!(reading, sums, [begin, end, team], group))
}

/// Records that are alike in what they save by, and how that is known.
struct Group {
    saved_by: Option<String>,
    basis: Option<String>,
    spent: i64,
    unpriced: i64,
    sum: Sum,
    shadow: ShadowSum,
}

fn group(row: &impl Columns) -> Result<Group, sqlx::Error> {
    let compared_spent = row.number("compared_spent")?;
    let counterfactual = row.number("counterfactual")?;
    let spent = row.number("spent")?;
    let asked = row.number("asked")?;
    Ok(Group {
        saved_by: row.maybe_text("saved_by")?,
        basis: row.maybe_text("basis")?,
        spent,
        unpriced: row.number("unpriced")?,
        sum: Sum {
            requests: row.number("requests")?,
            input_tokens: row.number("input_tokens")?,
            output_tokens: row.number("output_tokens")?,
            compared_requests: row.number("compared")?,
            compared_spent_microusd: compared_spent,
            counterfactual_microusd: counterfactual,
            saved_microusd: counterfactual.saturating_sub(compared_spent),
        },
        shadow: ShadowSum {
            asked,
            agreed: row.number("agreed")?,
            differed: row.number("differed")?,
            unclear: row.number("unclear")?,
            failed: row.number("failed")?,
            // What has one shadow in it has nothing else.
            spent_microusd: if asked > 0 { spent } else { 0 },
        },
    })
}

fn add_group(savings: &mut Savings, group: &Group) {
    let sum = &group.sum;
    savings.spent_microusd = savings.spent_microusd.saturating_add(group.spent);
    savings.unpriced_requests = savings.unpriced_requests.saturating_add(group.unpriced);
    add(&mut savings.total, sum);
    add_shadows(&mut savings.shadow, &group.shadow);
    for (label, parts) in [
        (&group.saved_by, &mut savings.saved_by),
        (&group.basis, &mut savings.basis),
    ] {
        let label = label.as_deref().unwrap_or(NONE);
        match parts.iter_mut().find(|(known, _)| known == label) {
            Some((_, part)) => add(part, sum),
            // Of a later version of this program.
            None => parts.push((label.to_owned(), *sum)),
        }
    }
}

fn add_shadows(to: &mut ShadowSum, sum: &ShadowSum) {
    let parts = [
        (&mut to.asked, sum.asked),
        (&mut to.agreed, sum.agreed),
        (&mut to.differed, sum.differed),
        (&mut to.unclear, sum.unclear),
        (&mut to.failed, sum.failed),
        (&mut to.spent_microusd, sum.spent_microusd),
    ];
    for (to, more) in parts {
        *to = to.saturating_add(more);
    }
}

fn add(to: &mut Sum, sum: &Sum) {
    let parts = [
        (&mut to.requests, sum.requests),
        (&mut to.input_tokens, sum.input_tokens),
        (&mut to.output_tokens, sum.output_tokens),
        (&mut to.compared_requests, sum.compared_requests),
        (&mut to.compared_spent_microusd, sum.compared_spent_microusd),
        (&mut to.counterfactual_microusd, sum.counterfactual_microusd),
        (&mut to.saved_microusd, sum.saved_microusd),
    ];
    for (to, more) in parts {
        *to = to.saturating_add(more);
    }
}

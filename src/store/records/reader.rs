//! Reads records: of a running node or of none.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{
    Basis, KeptRecord, Overview, RecordFault, RecordName, RecordShelf, SavedBy, Savings, Since,
    Sum, TeamId,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row, query};
use tokio::sync::Semaphore;

use super::file::FILE_NAME;
use super::overview::overview;
use super::row;
use crate::Calendar;

/// Each has a thread of its own. One more is refused: reading holds up nobody else, but the disk.
const READERS_MAX: usize = 4;

/// While the writer's log is put into the file.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// Of one page.
const PAGE_MAX: u32 = 1_000;

/// What saves or is compared in no way.
const NONE: &str = "none";

const METHOD: &str = "counterfactual: the request's own tokens at the price of the model asked for \
    (asked); else what the upstream that answered charged (answered); else what a reply used again cost \
    when it was made (made); else the tokens at the price of savings.reference_model (reference). Tokens \
    read from a prefix cache count as such. saved = counterfactual - spent, of the requests for which \
    both are known; money is in micro-dollars.";

const PAGE: &str = "
    SELECT * FROM records WHERE (ended_us, request_id) < (?, ?)
    ORDER BY ended_us DESC, request_id DESC LIMIT ?
";

const SUMS: &str = "
    SELECT
        saved_by, basis,
        COUNT(*) AS requests,
        COALESCE(SUM(input_tokens), 0) AS input_tokens,
        COALESCE(SUM(output_tokens), 0) AS output_tokens,
        SUM(COALESCE(cost_microusd, 0) + hedge_cost_microusd) AS spent,
        SUM(saved_by IS NOT NULL AND cost_microusd IS NULL) AS unpriced,
        SUM(cost_microusd IS NOT NULL AND counterfactual_microusd IS NOT NULL) AS compared,
        SUM(CASE WHEN counterfactual_microusd IS NULL OR cost_microusd IS NULL THEN 0
            ELSE cost_microusd + hedge_cost_microusd END) AS compared_spent,
        SUM(CASE WHEN cost_microusd IS NULL THEN 0
            ELSE COALESCE(counterfactual_microusd, 0) END) AS counterfactual
    FROM records
    WHERE ended_us >= ?1 AND ended_us < ?2 AND (?3 IS NULL OR team = ?3)
    GROUP BY saved_by, basis
";

/// Looks into the file in a folder.
pub struct RecordReader {
    path: PathBuf,
    calendar: Calendar,
    reference: Mutex<Option<String>>,
    seats: Semaphore,
}

impl RecordReader {
    #[must_use]
    pub fn new(dir: &Path, calendar: Calendar) -> Self {
        Self {
            path: dir.join(FILE_NAME),
            calendar,
            reference: Mutex::default(),
            seats: Semaphore::new(READERS_MAX),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model that is named beside the figures.
    pub fn name_reference(&self, model: Option<String>) {
        *self
            .reference
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = model;
    }

    async fn connect(&self) -> Result<SqliteConnection, RecordFault> {
        if !self.path.is_file() {
            return Err(RecordFault::Absent);
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(BUSY_MAX)
            .disable_statement_logging();
        SqliteConnection::connect_with(&options)
            .await
            .map_err(unreadable)
    }

    async fn rows(
        &self,
        ask: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, RecordFault> {
        let _seat = self.seats.try_acquire().map_err(|_| RecordFault::Busy)?;
        let mut connection = self.connect().await?;
        let rows = ask.fetch_all(&mut connection).await.map_err(unreadable)?;
        // It read only.
        drop(connection.close().await);
        Ok(rows)
    }
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader")
            .field("path", &self.path)
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
        let ask = query(PAGE).bind(ended_us).bind(id);
        let rows = self.rows(ask.bind(count.min(PAGE_MAX))).await?;
        let records = rows.iter().map(row::read);
        records.collect::<Result<_, _>>().map_err(unreadable)
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
        let ask = query(SUMS).bind(begin).bind(now).bind(team.clone());
        let rows = self.rows(ask).await?;
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
        for row in &rows {
            add_group(&mut savings, row).map_err(unreadable)?;
        }
        Ok(savings)
    }

    async fn overview(&self) -> Result<Overview, RecordFault> {
        let _seat = self.seats.try_acquire().map_err(|_| RecordFault::Busy)?;
        let mut connection = self.connect().await?;
        let spoken = |unix_us| self.calendar.spoken(unix_us);
        let found = overview(&mut connection, now_us(), spoken).await;
        drop(connection.close().await);
        found.map_err(unreadable)
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

fn add_group(savings: &mut Savings, row: &SqliteRow) -> Result<(), sqlx::Error> {
    let spent: i64 = row.try_get("spent")?;
    let unpriced: i64 = row.try_get("unpriced")?;
    let compared_spent: i64 = row.try_get("compared_spent")?;
    let counterfactual: i64 = row.try_get("counterfactual")?;
    let sum = Sum {
        requests: row.try_get("requests")?,
        input_tokens: row.try_get("input_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        compared_requests: row.try_get("compared")?,
        compared_spent_microusd: compared_spent,
        counterfactual_microusd: counterfactual,
        saved_microusd: counterfactual.saturating_sub(compared_spent),
    };
    savings.spent_microusd = savings.spent_microusd.saturating_add(spent);
    savings.unpriced_requests = savings.unpriced_requests.saturating_add(unpriced);
    add(&mut savings.total, &sum);
    for (column, parts) in [
        ("saved_by", &mut savings.saved_by),
        ("basis", &mut savings.basis),
    ] {
        let label: Option<String> = row.try_get(column)?;
        let label = label.as_deref().unwrap_or(NONE);
        match parts.iter_mut().find(|(known, _)| known == label) {
            Some((_, part)) => add(part, &sum),
            // Of a later version of this program.
            None => parts.push((label.to_owned(), sum)),
        }
    }
    Ok(())
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

fn unreadable(error: sqlx::Error) -> RecordFault {
    RecordFault::Unreadable(Box::new(error))
}

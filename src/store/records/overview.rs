//! What a page shows of records beside savings.

use domain::{Hour, Overview, Place, PlaceLatency, SpokenTime, TeamSpent};

use super::columns::Columns;
use super::reading::{Reading, ask};

const HOURS: i64 = 24;
const HOUR_US: i64 = 3_600_000_000;
const MONTH_US: i64 = 30 * 24 * HOUR_US;

/// As of `now`, in microseconds since 1970.
///
/// # Errors
/// They cannot be read.
pub async fn overview(
    reading: &mut Reading,
    now: i64,
    spoken: impl Fn(i64) -> SpokenTime,
) -> Result<Overview, sqlx::Error> {
    let first = (now / HOUR_US - (HOURS - 1)) * HOUR_US;
    let mut hours: Vec<Hour> = (0..HOURS)
        .map(|at| Hour {
            begins: spoken(first + at * HOUR_US),
            requests: Place::ALL.map(|it| (it.as_label().to_owned(), 0)).into(),
        })
        .collect();
    for (at, place, requests) in ask!(reading, by_hour, [first, now], hour) {
        let hour = usize::try_from(at).ok().and_then(|at| hours.get_mut(at));
        if let Some(hour) = hour {
            hour.requests.insert(place, requests);
        }
    }
    Ok(Overview {
        hours,
        latency: ask!(reading, latency, [now - HOURS * HOUR_US, now], place),
        teams: ask!(reading, teams, [now - MONTH_US, now], team),
    })
}

fn hour(row: &impl Columns) -> Result<(i64, String, i64), sqlx::Error> {
    Ok((
        row.number("hour")?,
        row.text("place")?,
        row.number("requests")?,
    ))
}

fn place(row: &impl Columns) -> Result<PlaceLatency, sqlx::Error> {
    Ok(PlaceLatency {
        place: row.text("place")?,
        answers: row.number("many")?,
        first_content_p50_us: row.maybe_number("first_p50")?,
        first_content_p95_us: row.maybe_number("first_p95")?,
        took_p50_us: row.number("took_p50")?,
        took_p95_us: row.number("took_p95")?,
    })
}

fn team(row: &impl Columns) -> Result<TeamSpent, sqlx::Error> {
    Ok(TeamSpent {
        team: row.text("team")?,
        requests: row.number("requests")?,
        input_tokens: row.number("input_tokens")?,
        output_tokens: row.number("output_tokens")?,
        spent_microusd: row.number("spent")?,
    })
}

//! What a page shows of records beside savings.

use domain::{Hour, Overview, Place, PlaceLatency, SpokenTime, TeamSpent};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, query};

const HOURS: i64 = 24;
const HOUR_US: i64 = 3_600_000_000;
const MONTH_US: i64 = 30 * 24 * HOUR_US;

const BY_HOUR: &str = "
    SELECT (ended_us - ?1) / 3600000000 AS hour, place, COUNT(*) AS requests
    FROM records WHERE ended_us >= ?1 AND ended_us < ?2 GROUP BY 1, 2
";

/// Of the last hundred thousand: to sort all of a busy day would take seconds.
const LATENCY: &str = "
    WITH
    answers AS (
        SELECT place, first_content_us, took_us FROM records
        WHERE ended_us >= ?1 AND ended_us < ?2 AND outcome = 'answered'
        ORDER BY ended_us DESC LIMIT 100000
    ),
    whole AS (
        SELECT place, took_us AS time,
            ROW_NUMBER() OVER (PARTITION BY place ORDER BY took_us) AS rank,
            COUNT(*) OVER (PARTITION BY place) AS many
        FROM answers
    ),
    first AS (
        SELECT place, first_content_us AS time,
            ROW_NUMBER() OVER (PARTITION BY place ORDER BY first_content_us) AS rank,
            COUNT(*) OVER (PARTITION BY place) AS many
        FROM answers WHERE first_content_us IS NOT NULL
    )
    SELECT place, many,
        MAX(CASE WHEN rank = (many + 1) / 2 THEN time END) AS took_p50,
        MAX(CASE WHEN rank = (many * 95 + 99) / 100 THEN time END) AS took_p95,
        (SELECT time FROM first WHERE first.place = whole.place AND rank = (first.many + 1) / 2)
            AS first_p50,
        (SELECT time FROM first WHERE first.place = whole.place AND rank = (first.many * 95 + 99) / 100)
            AS first_p95
    FROM whole GROUP BY place ORDER BY place
";

const TEAMS: &str = "
    SELECT team, COUNT(*) AS requests,
        COALESCE(SUM(input_tokens), 0) AS input_tokens,
        COALESCE(SUM(output_tokens), 0) AS output_tokens,
        SUM(COALESCE(cost_microusd, 0) + hedge_cost_microusd) AS spent
    FROM records WHERE ended_us >= ?1 AND ended_us < ?2
    GROUP BY team ORDER BY spent DESC, team LIMIT 20
";

/// As of `now`, in microseconds since 1970.
///
/// # Errors
/// The file cannot be read.
pub async fn overview(
    connection: &mut SqliteConnection,
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
    let rows = query(BY_HOUR).bind(first).bind(now);
    for row in rows.fetch_all(&mut *connection).await? {
        let at: i64 = row.try_get("hour")?;
        let place: String = row.try_get("place")?;
        let requests: i64 = row.try_get("requests")?;
        let hour = usize::try_from(at).ok().and_then(|at| hours.get_mut(at));
        if let Some(hour) = hour {
            hour.requests.insert(place, requests);
        }
    }
    let latency = query(LATENCY).bind(now - HOURS * HOUR_US).bind(now);
    let latency = latency.fetch_all(&mut *connection).await?;
    let teams = query(TEAMS).bind(now - MONTH_US).bind(now);
    let teams = teams.fetch_all(&mut *connection).await?;
    Ok(Overview {
        hours,
        latency: latency.iter().map(place).collect::<Result<_, _>>()?,
        teams: teams.iter().map(team).collect::<Result<_, _>>()?,
    })
}

fn place(row: &SqliteRow) -> Result<PlaceLatency, sqlx::Error> {
    Ok(PlaceLatency {
        place: row.try_get("place")?,
        answers: row.try_get("many")?,
        first_content_p50_us: row.try_get("first_p50")?,
        first_content_p95_us: row.try_get("first_p95")?,
        took_p50_us: row.try_get("took_p50")?,
        took_p95_us: row.try_get("took_p95")?,
    })
}

fn team(row: &SqliteRow) -> Result<TeamSpent, sqlx::Error> {
    Ok(TeamSpent {
        team: row.try_get("team")?,
        requests: row.try_get("requests")?,
        input_tokens: row.try_get("input_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        spent_microusd: row.try_get("spent")?,
    })
}

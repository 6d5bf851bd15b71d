//! A record as a row.

use domain::KeptRecord;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite, query};

/// All of a page in one statement: SQLite has a thread of its own, and each statement is a way there and
/// back. What is there already stays: a page that is written again writes nothing twice.
const INSERT: &str = "
    INSERT OR IGNORE INTO records (
        ended_us, request_id, key, team, model_asked, place, backend, model, reason,
        cache, outcome, fault, input_tokens, output_tokens, cached_tokens,
        cache_write_tokens, reasoning_tokens, is_counted, cost_microusd,
        hedge_cost_microusd, made_microusd, counterfactual_microusd, basis, saved_by,
        masked, first_content_us, took_us, retries, failed, rescues
    )
    SELECT
        value ->> 'ended_us', value ->> 'request_id', value ->> 'key', value ->> 'team',
        value ->> 'model_asked', value ->> 'place', value ->> 'backend', value ->> 'model',
        value ->> 'reason', value ->> 'cache', value ->> 'outcome', value ->> 'fault',
        value ->> 'input_tokens', value ->> 'output_tokens', value ->> 'cached_tokens',
        value ->> 'cache_write_tokens', value ->> 'reasoning_tokens', value ->> 'is_counted',
        value ->> 'cost_microusd', value ->> 'hedge_cost_microusd', value ->> 'made_microusd',
        value ->> 'counterfactual_microusd', value ->> 'basis', value ->> 'saved_by',
        value ->> 'masked', value ->> 'first_content_us', value ->> 'took_us',
        value ->> 'retries', value ->> 'failed', value ->> 'rescues'
    FROM json_each(?1)
";

/// Records as a page to insert. Its names are those of the columns.
///
/// # Errors
/// None that is known: there is nothing in a record that JSON could not say.
pub fn page(records: &[KeptRecord]) -> Result<String, serde_json::Error> {
    serde_json::to_string(records)
}

pub fn insert(page: &str) -> Query<'_, Sqlite, SqliteArguments> {
    query(INSERT).bind(page)
}

/// # Errors
/// A column is missing or of another kind.
pub fn read(row: &SqliteRow) -> Result<KeptRecord, sqlx::Error> {
    Ok(KeptRecord {
        ended_us: row.try_get("ended_us")?,
        request_id: row.try_get("request_id")?,
        key: row.try_get("key")?,
        team: row.try_get("team")?,
        model_asked: row.try_get("model_asked")?,
        place: row.try_get("place")?,
        backend: row.try_get("backend")?,
        model: row.try_get("model")?,
        reason: row.try_get("reason")?,
        cache: row.try_get("cache")?,
        outcome: row.try_get("outcome")?,
        fault: row.try_get("fault")?,
        input_tokens: row.try_get("input_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        cached_tokens: row.try_get("cached_tokens")?,
        cache_write_tokens: row.try_get("cache_write_tokens")?,
        reasoning_tokens: row.try_get("reasoning_tokens")?,
        is_counted: row.try_get("is_counted")?,
        cost_microusd: row.try_get("cost_microusd")?,
        hedge_cost_microusd: row.try_get("hedge_cost_microusd")?,
        made_microusd: row.try_get("made_microusd")?,
        counterfactual_microusd: row.try_get("counterfactual_microusd")?,
        basis: row.try_get("basis")?,
        saved_by: row.try_get("saved_by")?,
        masked: row.try_get("masked")?,
        first_content_us: row.try_get("first_content_us")?,
        took_us: row.try_get("took_us")?,
        retries: row.try_get("retries")?,
        failed: row.try_get("failed")?,
        rescues: row.try_get("rescues")?,
    })
}

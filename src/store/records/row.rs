//! A record as a row.

use domain::KeptRecord;
use sqlx::{Connection, Executor, QueryBuilder, Sqlite, SqliteConnection};

use super::columns::Columns;

/// Many rows go in one statement: SQLite has a thread of its own, and each statement is a way there and
/// back. What is there already stays: a batch that is written again writes nothing twice.
const INSERT: &str = "
    INSERT OR IGNORE INTO records (
        ended_us, request_id, key, team, model_asked, place, backend, model, reason,
        cache, outcome, fault, input_tokens, output_tokens, cached_tokens,
        cache_write_tokens, reasoning_tokens, is_counted, cost_microusd,
        hedge_cost_microusd, made_microusd, counterfactual_microusd, basis, saved_by,
        masked, first_content_us, took_us, retries, failed, rescues, marks,
        shadow_of, agreement, similarity_permille
    ) ";

/// Rows of one statement. SQLite has some 150 bytes for each value of a statement that runs: with a whole
/// batch in one it took 4 MB, and kept them.
const STATEMENT_ROWS: usize = 64;

/// Writes `batch` in one transaction, on the disk when this returns.
pub async fn write(
    connection: &mut SqliteConnection,
    batch: &[KeptRecord],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for rows in batch.chunks(STATEMENT_ROWS) {
        // It is as long as its rows, so that none is asked for again.
        let mut statement = insert(rows);
        let statement = statement.build().persistent(false);
        transaction.execute(statement).await?;
    }
    transaction.commit().await
}

/// The statement that writes `batch`, which has one record at least.
pub fn insert(batch: &[KeptRecord]) -> QueryBuilder<Sqlite> {
    let mut statement = QueryBuilder::new(INSERT);
    statement.push_values(batch, |mut row, it| {
        row.push_bind(it.ended_us)
            .push_bind(it.request_id.clone())
            .push_bind(it.key.clone())
            .push_bind(it.team.clone())
            .push_bind(it.model_asked.clone())
            .push_bind(it.place.clone())
            .push_bind(it.backend.clone())
            .push_bind(it.model.clone())
            .push_bind(it.reason.clone())
            .push_bind(it.cache.clone())
            .push_bind(it.outcome.clone())
            .push_bind(it.fault.clone())
            .push_bind(it.input_tokens)
            .push_bind(it.output_tokens)
            .push_bind(it.cached_tokens)
            .push_bind(it.cache_write_tokens)
            .push_bind(it.reasoning_tokens)
            .push_bind(it.is_counted)
            .push_bind(it.cost_microusd)
            .push_bind(it.hedge_cost_microusd)
            .push_bind(it.made_microusd)
            .push_bind(it.counterfactual_microusd)
            .push_bind(it.basis.clone())
            .push_bind(it.saved_by.clone())
            .push_bind(it.masked)
            .push_bind(it.first_content_us)
            .push_bind(it.took_us)
            .push_bind(it.retries)
            .push_bind(it.failed)
            .push_bind(it.rescues)
            .push_bind(it.marks.clone())
            .push_bind(it.shadow_of.clone())
            .push_bind(it.agreement.clone())
            .push_bind(it.similarity_permille);
    });
    statement
}

/// # Errors
/// A column is missing or of another kind.
pub fn read(row: &impl Columns) -> Result<KeptRecord, sqlx::Error> {
    Ok(KeptRecord {
        ended_us: row.number("ended_us")?,
        request_id: row.text("request_id")?,
        key: row.maybe_text("key")?,
        team: row.text("team")?,
        model_asked: row.text("model_asked")?,
        place: row.text("place")?,
        backend: row.maybe_text("backend")?,
        model: row.maybe_text("model")?,
        reason: row.text("reason")?,
        cache: row.text("cache")?,
        outcome: row.text("outcome")?,
        fault: row.maybe_text("fault")?,
        input_tokens: row.maybe_number("input_tokens")?,
        output_tokens: row.maybe_number("output_tokens")?,
        cached_tokens: row.maybe_number("cached_tokens")?,
        cache_write_tokens: row.maybe_number("cache_write_tokens")?,
        reasoning_tokens: row.maybe_number("reasoning_tokens")?,
        is_counted: row.flag("is_counted")?,
        cost_microusd: row.maybe_number("cost_microusd")?,
        hedge_cost_microusd: row.number("hedge_cost_microusd")?,
        made_microusd: row.maybe_number("made_microusd")?,
        counterfactual_microusd: row.maybe_number("counterfactual_microusd")?,
        basis: row.maybe_text("basis")?,
        saved_by: row.maybe_text("saved_by")?,
        masked: row.number("masked")?,
        first_content_us: row.maybe_number("first_content_us")?,
        took_us: row.number("took_us")?,
        retries: row.number("retries")?,
        failed: row.number("failed")?,
        rescues: row.number("rescues")?,
        shadow_of: row.maybe_text("shadow_of")?,
        agreement: row.maybe_text("agreement")?,
        similarity_permille: row.maybe_number("similarity_permille")?,
        marks: row.maybe_text("marks")?,
    })
}

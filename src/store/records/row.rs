//! A record as a row.

use std::array;
use std::sync::LazyLock;

use domain::KeptRecord;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Connection, Executor, Sqlite, SqliteConnection, query};

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
    ) VALUES ";

/// Of [`INSERT`].
const COLUMNS: usize = 34;

/// Rows of the statements, the most first. They are few, and so prepared once: to prepare one takes longer
/// than to run it. And they are short: SQLite keeps some 150 bytes for each value of a statement, so that a
/// whole batch in one took 4 MB.
const STATEMENT_ROWS: [usize; 3] = [32, 4, 1];

static STATEMENTS: LazyLock<[String; STATEMENT_ROWS.len()]> = LazyLock::new(|| {
    let row = format!("({})", vec!["?"; COLUMNS].join(","));
    array::from_fn(|at| {
        format!(
            "{INSERT}{}",
            vec![row.as_str(); STATEMENT_ROWS[at]].join(",")
        )
    })
});

/// Writes `batch` in one transaction, on the disk when this returns.
pub async fn write(
    connection: &mut SqliteConnection,
    batch: &[KeptRecord],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    insert(&mut transaction, batch).await?;
    transaction.commit().await
}

/// Writes `batch`, in statements of their own.
pub async fn insert(
    connection: &mut SqliteConnection,
    batch: &[KeptRecord],
) -> Result<(), sqlx::Error> {
    let mut left = batch;
    for (rows, statement) in STATEMENT_ROWS.into_iter().zip(STATEMENTS.iter()) {
        let chunks = left.chunks_exact(rows);
        left = chunks.remainder();
        for chunk in chunks {
            let bound = chunk.iter().fold(query(statement.as_str()), bind);
            connection.execute(bound).await?;
        }
    }
    Ok(())
}

type Statement = Query<'static, Sqlite, SqliteArguments>;

/// In the order of [`INSERT`].
fn bind(statement: Statement, it: &KeptRecord) -> Statement {
    statement
        .bind(it.ended_us)
        .bind(it.request_id.as_str())
        .bind(it.key.as_deref())
        .bind(it.team.as_str())
        .bind(it.model_asked.as_str())
        .bind(it.place.as_str())
        .bind(it.backend.as_deref())
        .bind(it.model.as_deref())
        .bind(it.reason.as_str())
        .bind(it.cache.as_str())
        .bind(it.outcome.as_str())
        .bind(it.fault.as_deref())
        .bind(it.input_tokens)
        .bind(it.output_tokens)
        .bind(it.cached_tokens)
        .bind(it.cache_write_tokens)
        .bind(it.reasoning_tokens)
        .bind(it.is_counted)
        .bind(it.cost_microusd)
        .bind(it.hedge_cost_microusd)
        .bind(it.made_microusd)
        .bind(it.counterfactual_microusd)
        .bind(it.basis.as_deref())
        .bind(it.saved_by.as_deref())
        .bind(it.masked)
        .bind(it.first_content_us)
        .bind(it.took_us)
        .bind(it.retries)
        .bind(it.failed)
        .bind(it.rescues)
        .bind(it.marks.as_deref())
        .bind(it.shadow_of.as_deref())
        .bind(it.agreement.as_deref())
        .bind(it.similarity_permille)
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

//! Records as rows of Postgres.

use domain::KeptRecord;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{Postgres, query, query_as};

/// A column is an array, so that the statement is the same however many there are. What is there already
/// stays: a batch that is written again writes nothing twice.
const INSERT: &str = "
    INSERT INTO hedge.records (
        replica, ended_us, request_id, key, team, model_asked, place, backend, model, reason,
        cache, outcome, fault, input_tokens, output_tokens, cached_tokens,
        cache_write_tokens, reasoning_tokens, is_counted, cost_microusd,
        hedge_cost_microusd, made_microusd, counterfactual_microusd, basis, saved_by,
        masked, first_content_us, took_us, retries, failed, rescues, marks,
        shadow_of, agreement, similarity_permille
    )
    SELECT $1, * FROM UNNEST(
        $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::TEXT[],
        $9::TEXT[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::TEXT[], $14::BIGINT[],
        $15::BIGINT[], $16::BIGINT[], $17::BIGINT[], $18::BIGINT[], $19::BOOLEAN[],
        $20::BIGINT[], $21::BIGINT[], $22::BIGINT[], $23::BIGINT[], $24::TEXT[], $25::TEXT[],
        $26::BIGINT[], $27::BIGINT[], $28::BIGINT[], $29::BIGINT[], $30::BIGINT[], $31::BIGINT[],
        $32::TEXT[], $33::TEXT[], $34::TEXT[], $35::BIGINT[]
    )
    ON CONFLICT DO NOTHING
";

/// As whoever writes to the table has it, and whoever erases there waits for.
pub const LOCK: &str = "LOCK TABLE hedge.records IN ROW EXCLUSIVE MODE";

/// What is there of a batch, and what it comes to.
const FOUND: &str = "
    SELECT COUNT(*), COALESCE(SUM(COALESCE(cost_microusd, 0) + hedge_cost_microusd), 0)::BIGINT,
        COALESCE(SUM(counterfactual_microusd), 0)::BIGINT
    FROM hedge.records
    JOIN UNNEST($2::BIGINT[], $3::TEXT[]) AS sent (ended_us, request_id)
        USING (ended_us, request_id)
    WHERE replica = $1
";

/// How many there are, and what they come to: enough to see that none is missing or another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub records: i64,
    pub spent_microusd: i64,
    pub counterfactual_microusd: i64,
}

impl Weight {
    pub fn of(batch: &[KeptRecord]) -> Self {
        batch.iter().fold(Self::default(), |sum, it| {
            let spent = it
                .cost_microusd
                .unwrap_or(0)
                .saturating_add(it.hedge_cost_microusd);
            let counterfactual = it.counterfactual_microusd.unwrap_or(0);
            sum.plus(Self {
                records: 1,
                spent_microusd: spent,
                counterfactual_microusd: counterfactual,
            })
        })
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            spent_microusd: self.spent_microusd.saturating_add(other.spent_microusd),
            counterfactual_microusd: self
                .counterfactual_microusd
                .saturating_add(other.counterfactual_microusd),
        }
    }
}

/// Postgres knows no NUL in a text. Records have none, unless their file was made by somebody else.
fn clean(text: &str) -> String {
    if text.contains('\0') {
        return text.replace('\0', "\u{fffd}");
    }
    text.to_owned()
}

fn each<T>(batch: &[KeptRecord], of: impl Fn(&KeptRecord) -> T) -> Vec<T> {
    batch.iter().map(of).collect()
}

fn texts(batch: &[KeptRecord], of: impl Fn(&KeptRecord) -> &String) -> Vec<String> {
    each(batch, |it| clean(of(it)))
}

fn maybe_texts(
    batch: &[KeptRecord],
    of: impl Fn(&KeptRecord) -> &Option<String>,
) -> Vec<Option<String>> {
    each(batch, |it| of(it).as_deref().map(clean))
}

fn statement(replica: &str, batch: &[KeptRecord]) -> Query<'static, Postgres, PgArguments> {
    query(INSERT)
        .bind(replica.to_owned())
        .bind(each(batch, |it| it.ended_us))
        .bind(texts(batch, |it| &it.request_id))
        .bind(maybe_texts(batch, |it| &it.key))
        .bind(texts(batch, |it| &it.team))
        .bind(texts(batch, |it| &it.model_asked))
        .bind(texts(batch, |it| &it.place))
        .bind(maybe_texts(batch, |it| &it.backend))
        .bind(maybe_texts(batch, |it| &it.model))
        .bind(texts(batch, |it| &it.reason))
        .bind(texts(batch, |it| &it.cache))
        .bind(texts(batch, |it| &it.outcome))
        .bind(maybe_texts(batch, |it| &it.fault))
        .bind(each(batch, |it| it.input_tokens))
        .bind(each(batch, |it| it.output_tokens))
        .bind(each(batch, |it| it.cached_tokens))
        .bind(each(batch, |it| it.cache_write_tokens))
        .bind(each(batch, |it| it.reasoning_tokens))
        .bind(each(batch, |it| it.is_counted))
        .bind(each(batch, |it| it.cost_microusd))
        .bind(each(batch, |it| it.hedge_cost_microusd))
        .bind(each(batch, |it| it.made_microusd))
        .bind(each(batch, |it| it.counterfactual_microusd))
        .bind(maybe_texts(batch, |it| &it.basis))
        .bind(maybe_texts(batch, |it| &it.saved_by))
        .bind(each(batch, |it| it.masked))
        .bind(each(batch, |it| it.first_content_us))
        .bind(each(batch, |it| it.took_us))
        .bind(each(batch, |it| it.retries))
        .bind(each(batch, |it| it.failed))
        .bind(each(batch, |it| it.rescues))
        .bind(maybe_texts(batch, |it| &it.marks))
        .bind(maybe_texts(batch, |it| &it.shadow_of))
        .bind(maybe_texts(batch, |it| &it.agreement))
        .bind(each(batch, |it| it.similarity_permille))
        // A pooler may give the next transaction another connection.
        .persistent(false)
}

/// Writes `batch` in one statement, which is one transaction where none is under way. Gives how many were
/// not there before.
pub async fn insert(
    connection: &mut PgConnection,
    replica: &str,
    batch: &[KeptRecord],
) -> Result<u64, sqlx::Error> {
    let done = statement(replica, batch).execute(connection).await?;
    Ok(done.rows_affected())
}

/// What is there of `batch`.
pub async fn found(
    connection: &mut PgConnection,
    replica: &str,
    batch: &[KeptRecord],
) -> Result<Weight, sqlx::Error> {
    let ask = query_as(FOUND)
        .bind(replica.to_owned())
        .bind(each(batch, |it| it.ended_us))
        .bind(texts(batch, |it| &it.request_id))
        .persistent(false);
    let (records, spent_microusd, counterfactual_microusd) = ask.fetch_one(connection).await?;
    Ok(Weight {
        records,
        spent_microusd,
        counterfactual_microusd,
    })
}

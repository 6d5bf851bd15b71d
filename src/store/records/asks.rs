//! What is asked of records, in the SQL that SQLite and Postgres both know: sums are the same sums
//! whichever keeps them.

/// The questions, of one table. What has an `agreement` is a shadow: it cost something, and is no request.
#[derive(Clone, Copy, Debug)]
pub struct Asks {
    /// The latest `$3` of those before `$1` and `$2`, a record's name.
    pub page: &'static str,
    /// From `$1` to `$2`, of the team `$3` or of all.
    pub sums: &'static str,
    /// From `$1` to `$2`, as are the next.
    pub by_hour: &'static str,
    /// Of the last hundred thousand: to sort all of a busy day would take seconds.
    pub latency: &'static str,
    pub teams: &'static str,
}

macro_rules! asks_of {
    ($records:literal) => {
        Asks {
            page: concat!(
                "SELECT * FROM ",
                $records,
                " WHERE (ended_us, request_id) < ($1, $2)
                ORDER BY ended_us DESC, request_id DESC LIMIT $3"
            ),
            sums: concat!(
                "SELECT
                    saved_by, basis,
                    COUNT(*) FILTER (WHERE agreement IS NULL) AS requests,
                    COUNT(*) FILTER (WHERE agreement IS NOT NULL) AS asked,
                    COUNT(*) FILTER (WHERE agreement = 'agrees') AS agreed,
                    COUNT(*) FILTER (WHERE agreement = 'differs') AS differed,
                    COUNT(*) FILTER (WHERE agreement = 'unclear') AS unclear,
                    COUNT(*) FILTER (WHERE agreement = 'failed') AS failed,
                    CAST(COALESCE(SUM(input_tokens), 0) AS BIGINT) AS input_tokens,
                    CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT) AS output_tokens,
                    CAST(SUM(COALESCE(cost_microusd, 0) + hedge_cost_microusd) AS BIGINT) AS spent,
                    COUNT(*) FILTER (WHERE saved_by IS NOT NULL AND cost_microusd IS NULL)
                        AS unpriced,
                    COUNT(*) FILTER (WHERE cost_microusd IS NOT NULL
                        AND counterfactual_microusd IS NOT NULL
                        AND agreement IS NULL) AS compared,
                    CAST(SUM(CASE
                        WHEN counterfactual_microusd IS NULL OR cost_microusd IS NULL THEN 0
                        ELSE cost_microusd + hedge_cost_microusd END) AS BIGINT) AS compared_spent,
                    CAST(SUM(CASE WHEN cost_microusd IS NULL THEN 0
                        ELSE COALESCE(counterfactual_microusd, 0) END) AS BIGINT) AS counterfactual
                FROM ",
                $records,
                " WHERE ended_us >= $1 AND ended_us < $2
                    AND (CAST($3 AS TEXT) IS NULL OR team = CAST($3 AS TEXT))
                GROUP BY saved_by, basis"
            ),
            by_hour: concat!(
                "SELECT (ended_us - $1) / 3600000000 AS hour, place, COUNT(*) AS requests FROM ",
                $records,
                " WHERE ended_us >= $1 AND ended_us < $2 AND agreement IS NULL GROUP BY 1, 2"
            ),
            latency: concat!(
                "WITH
                answers AS (
                    SELECT place, first_content_us, took_us FROM ",
                $records,
                "   WHERE ended_us >= $1 AND ended_us < $2 AND outcome = 'answered'
                        AND agreement IS NULL
                    ORDER BY ended_us DESC LIMIT 100000
                ),
                whole AS (
                    SELECT place, took_us AS us,
                        ROW_NUMBER() OVER (PARTITION BY place ORDER BY took_us) AS rank,
                        COUNT(*) OVER (PARTITION BY place) AS many
                    FROM answers
                ),
                begun AS (
                    SELECT place, first_content_us AS us,
                        ROW_NUMBER() OVER (PARTITION BY place ORDER BY first_content_us) AS rank,
                        COUNT(*) OVER (PARTITION BY place) AS many
                    FROM answers WHERE first_content_us IS NOT NULL
                )
                SELECT place, MAX(many) AS many,
                    MAX(CASE WHEN rank = (many + 1) / 2 THEN us END) AS took_p50,
                    MAX(CASE WHEN rank = (many * 95 + 99) / 100 THEN us END) AS took_p95,
                    (SELECT us FROM begun WHERE begun.place = whole.place
                        AND begun.rank = (begun.many + 1) / 2) AS first_p50,
                    (SELECT us FROM begun WHERE begun.place = whole.place
                        AND begun.rank = (begun.many * 95 + 99) / 100) AS first_p95
                FROM whole GROUP BY place ORDER BY place"
            ),
            teams: concat!(
                "SELECT team, COUNT(*) FILTER (WHERE agreement IS NULL) AS requests,
                    CAST(COALESCE(SUM(input_tokens), 0) AS BIGINT) AS input_tokens,
                    CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT) AS output_tokens,
                    CAST(SUM(COALESCE(cost_microusd, 0) + hedge_cost_microusd) AS BIGINT) AS spent
                FROM ",
                $records,
                " WHERE ended_us >= $1 AND ended_us < $2
                GROUP BY team ORDER BY spent DESC, team LIMIT 20"
            ),
        }
    };
}

/// Of the file.
pub const FILE: Asks = asks_of!("records");

/// Of Postgres.
pub const SHARED: Asks = asks_of!("hedge.records");

//! The schema `hedge`, and how an old one is brought forward.
//!
//! One version for all that is in it. Steps go forward alone; which were done is kept beside what they
//! made. Replicas that start at once wait for each other on a lock of the database, so that each step is
//! done by one.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, query, query_scalar, raw_sql};

use super::PostgresFault;

/// Each brings the schema forward by one version, all that are missing in one transaction. What was
/// released is never changed.
pub const MIGRATIONS: [&str; 6] = [
    // Names of records are compared byte by byte, as SQLite does.
    r#"
    CREATE TABLE hedge.records (
        ended_us BIGINT NOT NULL,
        request_id TEXT COLLATE "C" NOT NULL,
        replica TEXT COLLATE "C" NOT NULL,
        key TEXT,
        team TEXT COLLATE "C" NOT NULL,
        model_asked TEXT NOT NULL,
        place TEXT COLLATE "C" NOT NULL,
        backend TEXT,
        model TEXT,
        reason TEXT NOT NULL,
        cache TEXT NOT NULL,
        outcome TEXT NOT NULL,
        fault TEXT,
        input_tokens BIGINT,
        output_tokens BIGINT,
        cached_tokens BIGINT,
        cache_write_tokens BIGINT,
        reasoning_tokens BIGINT,
        is_counted BOOLEAN NOT NULL,
        cost_microusd BIGINT,
        hedge_cost_microusd BIGINT NOT NULL,
        made_microusd BIGINT,
        counterfactual_microusd BIGINT,
        basis TEXT,
        saved_by TEXT,
        masked BIGINT NOT NULL,
        first_content_us BIGINT,
        took_us BIGINT NOT NULL,
        retries BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        rescues BIGINT NOT NULL,
        PRIMARY KEY (ended_us, request_id, replica)
    );
    "#,
    // Keys and teams that are made while nodes run. `grants` and `limits` are JSON, in the configuration's
    // words. `key_state` has one row.
    r#"
    CREATE TABLE hedge.key_state (
        is_only BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (is_only),
        generation BIGINT NOT NULL,
        has_made BOOLEAN NOT NULL,
        secret BYTEA NOT NULL
    );
    CREATE TABLE hedge.teams (
        name TEXT COLLATE "C" PRIMARY KEY,
        made_s BIGINT NOT NULL,
        limits TEXT NOT NULL
    );
    CREATE TABLE hedge.keys (
        name TEXT COLLATE "C" PRIMARY KEY,
        team TEXT COLLATE "C" NOT NULL,
        made_s BIGINT NOT NULL,
        until_s BIGINT,
        is_enabled BOOLEAN NOT NULL,
        grants TEXT NOT NULL,
        tag BYTEA NOT NULL,
        tag_before BYTEA,
        before_until_s BIGINT,
        used_day BIGINT
    );
    "#,
    // Whose a record is, by marks; the secrets that they are made with, of each replica; and whether
    // somebody's erasing has yet to write the table anew.
    r#"
    ALTER TABLE hedge.records ADD COLUMN marks TEXT COLLATE "C";
    CREATE TABLE hedge.subject_keys (
        replica TEXT COLLATE "C" NOT NULL,
        key BYTEA NOT NULL,
        made_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        PRIMARY KEY (replica, key)
    );
    CREATE TABLE hedge.scrub (owed BOOLEAN PRIMARY KEY);
    "#,
    // Of shadows: beside which model's answer they were asked for, and whether the two say the same.
    r#"
    ALTER TABLE hedge.records ADD COLUMN shadow_of TEXT;
    ALTER TABLE hedge.records ADD COLUMN agreement TEXT COLLATE "C";
    ALTER TABLE hedge.records ADD COLUMN similarity_permille BIGINT;
    "#,
    // Lines of the replicas' audit logs, as they are written there and in their order.
    r#"
    CREATE TABLE hedge.audit (
        number BIGINT GENERATED ALWAYS AS IDENTITY,
        replica TEXT COLLATE "C" NOT NULL,
        digest TEXT COLLATE "C" NOT NULL,
        file BIGINT NOT NULL,
        line TEXT NOT NULL,
        PRIMARY KEY (replica, digest)
    );
    CREATE INDEX audit_in_order ON hedge.audit (replica, number);
    "#,
    // Replies that may answer other questions, sealed; what was removed of them, for those who have not
    // heard; and what was learned. One sequence numbers every change.
    r#"
    CREATE SEQUENCE hedge.reuse_seq;
    CREATE TABLE hedge.reuse_entries (
        realm TEXT COLLATE "C" NOT NULL,
        encoder TEXT COLLATE "C" NOT NULL,
        id BIGINT NOT NULL,
        seq BIGINT NOT NULL,
        origin BIGINT NOT NULL,
        compartment BYTEA NOT NULL,
        team BYTEA NOT NULL,
        model BYTEA NOT NULL,
        tags TEXT[] COLLATE "C" NOT NULL,
        marked TEXT COLLATE "C",
        expires_at_ms BIGINT NOT NULL,
        vector BYTEA NOT NULL,
        evidence BYTEA NOT NULL,
        entry BYTEA NOT NULL,
        PRIMARY KEY (realm, encoder, id)
    );
    CREATE INDEX reuse_entries_in_order ON hedge.reuse_entries (realm, encoder, seq);
    CREATE INDEX reuse_entries_by_end ON hedge.reuse_entries (realm, expires_at_ms);
    CREATE TABLE hedge.reuse_purges (
        realm TEXT COLLATE "C" NOT NULL,
        seq BIGINT NOT NULL,
        what TEXT NOT NULL,
        made_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        PRIMARY KEY (realm, seq)
    );
    CREATE TABLE hedge.reuse_states (
        realm TEXT COLLATE "C" NOT NULL,
        encoder TEXT COLLATE "C" NOT NULL,
        state BYTEA NOT NULL,
        PRIMARY KEY (realm, encoder)
    );
    "#,
];

/// Of the database, held by who brings the schema forward: `hedge` in ASCII.
const LOCK: i64 = 0x68_65_64_67_65;

/// Of the schema that is there. Zero: none is.
pub async fn version(connection: &mut PgConnection) -> Result<i64, PostgresFault> {
    let is_there: bool = query_scalar("SELECT to_regclass('hedge.migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(0);
    }
    let version = query_scalar("SELECT COALESCE(MAX(version), 0)::BIGINT FROM hedge.migrations");
    Ok(version.fetch_one(connection).await?)
}

/// Makes the schema one of the last version.
pub async fn bring_forward(
    connection: &mut PgConnection,
    migrations: &[&'static str],
) -> Result<(), PostgresFault> {
    let known = migrations.len() as i64;
    if version(&mut *connection).await? == known {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    // Somebody who may not make a schema may have been given this one.
    let has_schema: bool = query_scalar("SELECT to_regnamespace('hedge') IS NOT NULL")
        .fetch_one(&mut *transaction)
        .await?;
    if !has_schema {
        transaction.execute("CREATE SCHEMA hedge").await?;
    }
    transaction
        .execute(
            "CREATE TABLE IF NOT EXISTS hedge.migrations (
                version INTEGER PRIMARY KEY,
                done_at TIMESTAMPTZ NOT NULL DEFAULT now()
            )",
        )
        .await?;
    let found = version(&mut transaction).await?;
    let missing = usize::try_from(found).ok();
    let missing = missing.and_then(|found| migrations.get(found..));
    let Some(missing) = missing else {
        return Err(PostgresFault::Newer {
            version: found,
            known,
        });
    };
    for (step, migration) in (found + 1..).zip(missing) {
        transaction.execute(raw_sql(*migration)).await?;
        query("INSERT INTO hedge.migrations (version) VALUES ($1)")
            .bind(step)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}

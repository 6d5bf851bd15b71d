//! Keys and teams as rows of Postgres.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, Row, query, query_scalar};

use super::super::kept::{KeptKey, KeptTeam, KeyFault, KeyRow, Rows, signed, unsigned};
use super::super::secret::{KeyTag, TagSecret};

/// Each replica proposes a secret, and the first one's is that of all keys.
const BEGIN: &str = "
    INSERT INTO hedge.key_state (generation, has_made, secret) VALUES (0, FALSE, $1)
    ON CONFLICT DO NOTHING
";
/// A database that was brought back from a copy must not come to a number that was there before, so that
/// numbers are moments.
const TURN: &str = "
    UPDATE hedge.key_state SET
        generation = GREATEST(
            generation + 1,
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT
        ),
        has_made = has_made OR $1
    RETURNING generation
";
const PUT_KEY: &str = "
    INSERT INTO hedge.keys (
        name, team, made_s, until_s, is_enabled, grants, tag, tag_before, before_until_s, used_day
    ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (name) DO UPDATE SET
        team = $2, made_s = $3, until_s = $4, is_enabled = $5, grants = $6, tag = $7, tag_before = $8,
        before_until_s = $9, used_day = GREATEST(hedge.keys.used_day, $10)
";
const PUT_TEAM: &str = "
    INSERT INTO hedge.teams (name, made_s, limits) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET made_s = $2, limits = $3
";
const PUT_DAYS: &str = "
    UPDATE hedge.keys AS keys SET used_day = said.day
    FROM UNNEST($1::TEXT[], $2::BIGINT[]) AS said (name, day)
    WHERE keys.name = said.name AND COALESCE(keys.used_day, 0) < said.day
";

/// Sees to it that keys have a secret.
pub async fn begin(connection: &mut PgConnection, fresh: [u8; 32]) -> Result<(), KeyFault> {
    let begin = query(BEGIN).bind(fresh.as_slice()).persistent(false);
    begin.execute(connection).await?;
    Ok(())
}

/// `None` where keys have no beginning here.
pub async fn generation(connection: &mut PgConnection) -> Result<Option<u64>, KeyFault> {
    let ask = query_scalar("SELECT generation FROM hedge.key_state").persistent(false);
    let found: Option<i64> = ask.fetch_optional(connection).await?;
    Ok(found.map(unsigned))
}

/// The same within a transaction, and nobody else changes anything until that ends.
pub async fn generation_alone(connection: &mut PgConnection) -> Result<Option<u64>, KeyFault> {
    let ask = query_scalar("SELECT generation FROM hedge.key_state FOR UPDATE").persistent(false);
    let found: Option<i64> = ask.fetch_optional(connection).await?;
    Ok(found.map(unsigned))
}

/// All of one moment.
pub async fn load(connection: &mut PgConnection) -> Result<Rows, KeyFault> {
    let mut transaction = connection.begin().await?;
    transaction
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await?;
    let rows = read(&mut transaction).await?;
    transaction.commit().await?;
    Ok(rows)
}

/// All that is seen in the transaction under way.
pub async fn read(connection: &mut PgConnection) -> Result<Rows, KeyFault> {
    let state = query("SELECT generation, has_made, secret FROM hedge.key_state").persistent(false);
    let state = state.fetch_one(&mut *connection).await?;
    let keys = query("SELECT * FROM hedge.keys ORDER BY name").persistent(false);
    let keys = keys.fetch_all(&mut *connection).await?;
    let teams = query("SELECT * FROM hedge.teams ORDER BY name").persistent(false);
    let teams = teams.fetch_all(&mut *connection).await?;
    Ok(Rows {
        generation: unsigned(state.try_get("generation")?),
        secret: TagSecret::new(bytes(state.try_get("secret")?)?),
        has_made: state.try_get("has_made")?,
        keys: keys.iter().map(key).collect::<Result<_, _>>()?,
        teams: teams.iter().map(team).collect::<Result<_, _>>()?,
    })
}

pub async fn write(connection: &mut PgConnection, row: &KeyRow) -> Result<u64, KeyFault> {
    match row {
        KeyRow::PutKey(key) => put_key(&mut *connection, key).await?,
        KeyRow::PutTeam(team) => put_team(&mut *connection, team).await?,
        KeyRow::RemoveKey(name) => remove(&mut *connection, "hedge.keys", name).await?,
        KeyRow::RemoveTeam(name) => remove(&mut *connection, "hedge.teams", name).await?,
    }
    turn(connection, matches!(row, KeyRow::PutKey(_))).await
}

/// Gives the generation that is then.
pub async fn turn(connection: &mut PgConnection, has_made: bool) -> Result<u64, KeyFault> {
    let turn = query_scalar(TURN).bind(has_made).persistent(false);
    let generation: i64 = turn.fetch_one(connection).await?;
    Ok(unsigned(generation))
}

pub async fn put_key(connection: &mut PgConnection, key: &KeptKey) -> Result<(), KeyFault> {
    let before = key.before.as_ref();
    let put = query(PUT_KEY)
        .bind(&key.name)
        .bind(&key.team)
        .bind(signed(key.made_s))
        .bind(key.until_s.map(signed))
        .bind(key.is_enabled)
        .bind(&key.grants)
        .bind(key.tag.0.as_slice())
        .bind(before.map(|(tag, _)| tag.0.as_slice()))
        .bind(before.map(|(_, until)| signed(*until)))
        .bind(key.used_day.map(i64::from));
    put.persistent(false).execute(connection).await?;
    Ok(())
}

pub async fn put_team(connection: &mut PgConnection, team: &KeptTeam) -> Result<(), KeyFault> {
    let put = query(PUT_TEAM)
        .bind(&team.name)
        .bind(signed(team.made_s))
        .bind(&team.limits);
    put.persistent(false).execute(connection).await?;
    Ok(())
}

async fn remove(
    connection: &mut PgConnection,
    table: &'static str,
    name: &str,
) -> Result<(), KeyFault> {
    let remove = format!("DELETE FROM {table} WHERE name = $1");
    let remove = query(sqlx::AssertSqlSafe(remove)).bind(name);
    remove.persistent(false).execute(connection).await?;
    Ok(())
}

pub async fn put_days(
    connection: &mut PgConnection,
    days: &[(String, u32)],
) -> Result<(), KeyFault> {
    let names: Vec<&str> = days.iter().map(|(name, _)| name.as_str()).collect();
    let days: Vec<i64> = days.iter().map(|(_, day)| i64::from(*day)).collect();
    let put = query(PUT_DAYS).bind(names).bind(days).persistent(false);
    put.execute(connection).await?;
    Ok(())
}

fn key(row: &PgRow) -> Result<KeptKey, KeyFault> {
    let before: Option<Vec<u8>> = row.try_get("tag_before")?;
    let before_until: Option<i64> = row.try_get("before_until_s")?;
    let before = match before.zip(before_until) {
        Some((tag, until)) => Some((KeyTag(bytes(tag)?), unsigned(until))),
        None => None,
    };
    let until: Option<i64> = row.try_get("until_s")?;
    let day: Option<i64> = row.try_get("used_day")?;
    Ok(KeptKey {
        name: row.try_get("name")?,
        team: row.try_get("team")?,
        made_s: unsigned(row.try_get("made_s")?),
        until_s: until.map(unsigned),
        is_enabled: row.try_get("is_enabled")?,
        grants: row.try_get("grants")?,
        tag: KeyTag(bytes(row.try_get("tag")?)?),
        before,
        used_day: day.and_then(|day| u32::try_from(day).ok()),
    })
}

fn team(row: &PgRow) -> Result<KeptTeam, KeyFault> {
    Ok(KeptTeam {
        name: row.try_get("name")?,
        made_s: unsigned(row.try_get("made_s")?),
        limits: row.try_get("limits")?,
    })
}

fn bytes(found: Vec<u8>) -> Result<[u8; 32], KeyFault> {
    <[u8; 32]>::try_from(found)
        .map_err(|_| sqlx::Error::Decode("a tag or secret has 32 bytes".into()).into())
}

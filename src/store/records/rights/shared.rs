//! Of a Postgres.

use std::path::Path;
use std::time::Duration;

use domain::{KeptRecord, RecordName, Subject};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, query, query_as, query_scalar};
use tokio::time::{sleep, timeout};

use super::{ERASE_ROWS, KnownSecrets, SubjectSecret, read, team};
use crate::records::shared::register;
use crate::{PostgresAddress, PostgresFault};

/// For all of it. What was not done by then is done when it is asked for again.
const ERASE_MAX: Duration = Duration::from_secs(540);

/// For the table, which others write. Meanwhile their records wait in files.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '20s'";

/// A table of more is not written anew as a whole, during which nobody could use it.
const REWRITE_BYTES_MAX: i64 = 2 << 30;

const FIND: &str = "
    SELECT * FROM hedge.records
    WHERE (ended_us, request_id) < ($1, $2) AND string_to_array(marks, ' ') && $3::TEXT[]
        AND ($4::TEXT IS NULL OR team = $4)
    ORDER BY ended_us DESC, request_id DESC LIMIT $5";

const NAMES: &str = "
    SELECT ended_us, request_id, replica FROM hedge.records
    WHERE (ended_us, request_id, replica) > ($1, $2, $3)
        AND string_to_array(marks, ' ') && $4::TEXT[] AND ($5::TEXT IS NULL OR team = $5)
    ORDER BY ended_us, request_id, replica LIMIT $6";

/// Of a record that is there as nobody's already this is a copy.
const DROP_COPIES: &str = "
    DELETE FROM hedge.records AS old
    USING UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::TEXT[])
        AS new (ended_us, request_id, replica, id)
    WHERE (old.ended_us, old.request_id, old.replica) = (new.ended_us, new.request_id, new.replica)
        AND EXISTS (
            SELECT 1 FROM hedge.records AS there
            WHERE (there.ended_us, there.request_id, there.replica)
                = (new.ended_us, new.id, new.replica)
        )";

const RENAME: &str = "
    UPDATE hedge.records AS old SET marks = NULL, request_id = new.id,
        model_asked = CASE place WHEN 'nobody' THEN '' ELSE model_asked END
    FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::TEXT[])
        AS new (ended_us, request_id, replica, id)
    WHERE (old.ended_us, old.request_id, old.replica) = (new.ended_us, new.request_id, new.replica)";

/// Where a table's rows are; another one after it was written anew.
const PLACE: &str = "SELECT pg_relation_filenode('hedge.records')::BIGINT";

/// Whether every transaction sees the row that was changed last: a vacuum notes that of its page.
const UNSEEN: &str = "SELECT relallvisible > 0 AND relallvisible = relpages FROM pg_class
    WHERE oid = 'hedge.scrub'::regclass";

/// What transactions that began before somebody was erased are given to end.
const OLDER_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub async fn find(
    connection: &mut PgConnection,
    subject: &Subject,
    own: &SubjectSecret,
    count: i64,
    before: &RecordName,
) -> Result<Vec<KeptRecord>, sqlx::Error> {
    let secrets = KnownSecrets::read(connection, own).await?;
    let rows = query(FIND)
        .bind(before.ended_us)
        .bind(&before.request_id)
        .bind(secrets.words(&subject.who))
        .bind(team(subject))
        .bind(count)
        .persistent(false)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// Gives how many were erased, and whether the table was written anew.
pub async fn erase(
    address: &PostgresAddress,
    dir: &Path,
    subject: &Subject,
    own: &SubjectSecret,
) -> Result<(u64, bool), PostgresFault> {
    let erasing = async {
        let mut connection = address.open().await?;
        register(&mut connection, dir).await?;
        let secrets = KnownSecrets::read(&mut connection, own).await?;
        let mut erased = rename_all(&mut connection, subject, &secrets).await?;
        let mut is_rewritten = scrub(&mut connection).await?;
        if erased > 0 {
            // A batch that somebody had sent and given up may have been taken meanwhile.
            let late = rename_all(&mut connection, subject, &secrets).await?;
            if late > 0 {
                is_rewritten = scrub(&mut connection).await?;
            }
            erased += late;
        }
        drop(connection.close().await);
        Ok((erased, is_rewritten))
    };
    let erased = timeout(ERASE_MAX, erasing).await;
    erased.map_err(|_| PostgresFault::Late)?
}

/// While nobody else writes: what is under way ends first, what comes then comes after.
async fn rename_all(
    connection: &mut PgConnection,
    subject: &Subject,
    secrets: &KnownSecrets,
) -> Result<u64, PostgresFault> {
    let words = secrets.words(&subject.who);
    let mut transaction = connection.begin().await?;
    // Of this transaction alone: a pooler may give the connection to somebody else after it.
    transaction.execute(LOCK_WAIT).await?;
    transaction
        .execute("LOCK TABLE hedge.records IN SHARE ROW EXCLUSIVE MODE")
        .await?;
    let mut last = (i64::MIN, String::new(), String::new());
    let mut erased = 0;
    loop {
        let page: Vec<(i64, String, String)> = query_as(NAMES)
            .bind(last.0)
            .bind(&last.1)
            .bind(&last.2)
            .bind(&words)
            .bind(team(subject))
            .bind(ERASE_ROWS)
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await?;
        let Some(end) = page.last() else {
            break;
        };
        last = end.clone();
        let new = page.iter().map(|(ended_us, id, replica)| {
            let secret = secrets.of(replica);
            secret.nobodys_id(*ended_us, id)
        });
        let new: Vec<String> = new.collect();
        let times: Vec<i64> = page.iter().map(|it| it.0).collect();
        let (ids, replicas): (Vec<String>, Vec<String>) = page
            .into_iter()
            .map(|(_, id, replica)| (id, replica))
            .unzip();
        for change in [DROP_COPIES, RENAME] {
            let done = query(change)
                .bind(&times)
                .bind(&ids)
                .bind(&replicas)
                .bind(&new)
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
            erased += done.rows_affected();
        }
    }
    if erased > 0 {
        transaction
            .execute("INSERT INTO hedge.scrub (owed) VALUES (TRUE) ON CONFLICT DO NOTHING")
            .await?;
    }
    transaction.commit().await?;
    Ok(erased)
}

/// Writes the table anew where that is owed, so that it has nothing left of what rows were. Gives whether
/// there is nothing left.
async fn scrub(connection: &mut PgConnection) -> Result<bool, PostgresFault> {
    let is_owed: bool = query_scalar("SELECT EXISTS (SELECT 1 FROM hedge.scrub)")
        .fetch_one(&mut *connection)
        .await?;
    if !is_owed {
        return Ok(true);
    }
    let bytes: i64 = query_scalar("SELECT pg_total_relation_size('hedge.records')")
        .fetch_one(&mut *connection)
        .await?;
    if bytes > REWRITE_BYTES_MAX {
        connection.execute("VACUUM hedge.records").await?;
        return Ok(false);
    }
    let is_unseen = until_unseen(connection).await?;
    let before: i64 = query_scalar(PLACE).fetch_one(&mut *connection).await?;
    connection.execute("VACUUM (FULL) hedge.records").await?;
    let after: i64 = query_scalar(PLACE).fetch_one(&mut *connection).await?;
    // Whoever does not own the table is passed over.
    if before == after || !is_unseen {
        return Ok(false);
    }
    connection.execute("DELETE FROM hedge.scrub").await?;
    Ok(true)
}

/// Waits until no transaction is left that may see the rows as they were: a table that is written anew has
/// those too. False where one is there for longer.
async fn until_unseen(connection: &mut PgConnection) -> Result<bool, PostgresFault> {
    connection
        .execute("UPDATE hedge.scrub SET owed = owed")
        .await?;
    let mut looks = OLDER_MAX.as_millis() / LOOK_EVERY.as_millis();
    loop {
        connection.execute("VACUUM hedge.scrub").await?;
        if query_scalar(UNSEEN).fetch_one(&mut *connection).await? {
            return Ok(true);
        }
        if looks == 0 {
            return Ok(false);
        }
        looks -= 1;
        sleep(LOOK_EVERY).await;
    }
}

//! Of files.

use std::io;
use std::path::Path;

use domain::{KeptRecord, Marker, RecordName, RecordsErased, Subject};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, QueryBuilder, Sqlite, query, query_as, query_scalar};
use tracing::info;

use super::{ERASE_ROWS, SubjectSecret, read, team, word};
use crate::records::file::{self, FILE_NAME, FileError, WAITING_NAME};
use crate::records::hold::Hold;

/// Files of one folder that are looked at; of more nobody knows how they came there.
const FILES_MAX: usize = 1_000;

/// How often it is tried to empty the log while others read; each try waits for five seconds.
const CHECKPOINTS_MAX: u32 = 4;

const FIND: &str = "
    SELECT * FROM records
    WHERE (ended_us, request_id) < (?1, ?2) AND instr(marks, ?3) > 0 AND (?4 IS NULL OR team = ?4)
    ORDER BY ended_us DESC, request_id DESC LIMIT ?5";

const NAMES: &str = "
    SELECT ended_us, request_id FROM records
    WHERE (ended_us, request_id) > (?1, ?2) AND instr(marks, ?3) > 0 AND (?4 IS NULL OR team = ?4)
    ORDER BY ended_us, request_id LIMIT ?5";

pub async fn find(
    connection: &mut SqliteConnection,
    subject: &Subject,
    word: &str,
    count: i64,
    before: &RecordName,
) -> Result<Vec<KeptRecord>, sqlx::Error> {
    let rows = query(FIND)
        .bind(before.ended_us)
        .bind(&before.request_id)
        .bind(word)
        .bind(team(subject))
        .bind(count)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// In every file of records in `dir`, those that were moved away among them. What was set aside as damaged
/// goes: it may hold what is meant, and cannot be asked.
pub async fn erase_all(
    dir: &Path,
    subject: &Subject,
    secret: &SubjectSecret,
) -> Result<RecordsErased, FileError> {
    let mut erased = RecordsErased::default();
    for name in names(dir).map_err(FileError::Unmade)? {
        match kind(&name) {
            Some(Kind::Damaged) => {
                std::fs::remove_file(dir.join(&name)).map_err(FileError::Unmade)?;
                erased.files += 1;
                info!(
                    file = name,
                    "a damaged file of records was removed: it may hold what is to be erased"
                );
            }
            Some(Kind::InUse(main)) => {
                let _hold = Hold::shared(dir, main).map_err(FileError::Unmade)?;
                let mut file = file::open_whole(dir, &name).await?;
                // What went before, by its age or to Postgres, has left copies as well.
                owe(&mut file).await?;
                erased.records += erase(file, subject, secret).await?;
            }
            // What is in it is elsewhere too.
            Some(Kind::Moved) => {
                let file = file::open_whole(dir, &name).await?;
                erase(file, subject, secret).await?;
            }
            None => {}
        }
    }
    Ok(erased)
}

enum Kind {
    InUse(&'static str),
    Moved,
    Damaged,
}

fn kind(name: &str) -> Option<Kind> {
    for main in [FILE_NAME, WAITING_NAME] {
        let Some(rest) = name.strip_prefix(main) else {
            continue;
        };
        if rest.is_empty() {
            return Some(Kind::InUse(main));
        }
        if rest.starts_with(".damaged-") {
            return Some(Kind::Damaged);
        }
        // What SQLite keeps beside it goes with it.
        if rest.starts_with(".moved-") && !rest.ends_with("-wal") && !rest.ends_with("-shm") {
            return Some(Kind::Moved);
        }
    }
    None
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries.take(FILES_MAX) {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

async fn erase(
    mut connection: SqliteConnection,
    subject: &Subject,
    secret: &SubjectSecret,
) -> Result<u64, FileError> {
    let word = word(&secret.mark(&subject.who), &subject.who);
    let mut last = (i64::MIN, String::new());
    let mut erased = 0;
    loop {
        let page: Vec<(i64, String)> = query_as(NAMES)
            .bind(last.0)
            .bind(&last.1)
            .bind(&word)
            .bind(team(subject))
            .bind(ERASE_ROWS)
            .fetch_all(&mut connection)
            .await?;
        let Some(end) = page.last() else {
            break;
        };
        last = end.clone();
        erased += rename(&mut connection, &page, secret).await?;
    }
    scrub(&mut connection).await?;
    connection.close().await?;
    Ok(erased)
}

/// Makes these nobody's, and notes that the file is to be written anew.
async fn rename(
    connection: &mut SqliteConnection,
    page: &[(i64, String)],
    secret: &SubjectSecret,
) -> Result<u64, FileError> {
    let mut statement: QueryBuilder<Sqlite> = QueryBuilder::new(
        "UPDATE OR REPLACE records SET marks = NULL, request_id = new.column3,
             model_asked = CASE place WHEN 'nobody' THEN '' ELSE model_asked END
         FROM (",
    );
    statement.push_values(page, |mut row, (ended_us, id)| {
        row.push_bind(*ended_us)
            .push_bind(id.clone())
            .push_bind(secret.nobodys_id(*ended_us, id));
    });
    statement
        .push(") AS new WHERE records.ended_us = new.column1 AND records.request_id = new.column2");
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    owe(&mut transaction).await?;
    let statement = statement.build().persistent(false);
    let done = statement.execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(done.rows_affected())
}

/// The file is to be written anew, also where this ends before it was.
async fn owe(connection: &mut SqliteConnection) -> Result<(), FileError> {
    query("INSERT OR IGNORE INTO scrub (owed) VALUES (1)")
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes the file anew where that is owed: pages that were divided, or are free, hold what was in them.
async fn scrub(connection: &mut SqliteConnection) -> Result<(), FileError> {
    let is_owed: bool = query_scalar("SELECT EXISTS (SELECT 1 FROM scrub)")
        .fetch_one(&mut *connection)
        .await?;
    if !is_owed {
        return Ok(());
    }
    query("VACUUM").execute(&mut *connection).await?;
    // The log has it too, until it begins anew, for which all who read must have ended.
    for turn in 1.. {
        let (busy, _, _): (i64, i64, i64) = query_as("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut *connection)
            .await?;
        if busy == 0 {
            break;
        }
        if turn == CHECKPOINTS_MAX {
            let words = "others read the file, and its log cannot be emptied";
            let busy = io::Error::new(io::ErrorKind::ResourceBusy, words);
            return Err(FileError::Unmade(busy));
        }
    }
    query("DELETE FROM scrub").execute(connection).await?;
    Ok(())
}

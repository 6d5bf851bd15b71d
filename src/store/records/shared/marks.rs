//! With which secrets replicas mark users and tags, so that each finds what any of them wrote.
//!
//! They stand in the database beside the marks: who has all of it can try names. A copy of the records
//! alone tells nobody's.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use domain::{KeptRecord, Mark, Marker, Who};
use sqlx::postgres::PgConnection;
use sqlx::{query, query_as};

use super::replica;
use crate::subjects::SubjectSecret;

/// Of all replicas that ever were. Of more the latest are known, and what others marked is not found.
pub const SECRETS_MAX: i64 = 10_000;

/// Says with what this node marks. Nothing where it marks nothing.
pub async fn register(connection: &mut PgConnection, dir: &Path) -> Result<(), sqlx::Error> {
    let own = SubjectSecret::find(dir).ok().flatten();
    let (Some(secret), Ok(replica)) = (own, replica::of(dir)) else {
        return Ok(());
    };
    query("INSERT INTO hedge.subject_keys (replica, key) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(replica)
        .bind(&secret.bytes()[..])
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}

/// Those of `batch`, as `replica` has it, that are not there under another name: as nobody's, or as
/// somebody's where it was made nobody's here alone.
pub async fn without_renamed(
    connection: &mut PgConnection,
    secret: &SubjectSecret,
    replica: &str,
    batch: &[KeptRecord],
) -> Result<Vec<KeptRecord>, sqlx::Error> {
    let times: Vec<i64> = batch.iter().map(|it| it.ended_us).collect();
    let there: Vec<(i64, String)> = query_as(
        "SELECT ended_us, request_id FROM hedge.records WHERE replica = $1 AND ended_us = ANY($2)",
    )
    .bind(replica)
    .bind(times)
    .persistent(false)
    .fetch_all(connection)
    .await?;
    let once_erased = there.iter();
    let once_erased = once_erased.map(|(ended_us, id)| secret.nobodys_id(*ended_us, id));
    let once_erased: HashSet<String> = once_erased.collect();
    let there: HashSet<&str> = there.iter().map(|(_, id)| id.as_str()).collect();
    let is_renamed = |record: &&KeptRecord| {
        let nobodys = secret.nobodys_id(record.ended_us, &record.request_id);
        there.contains(nobodys.as_str()) || once_erased.contains(&record.request_id)
    };
    let left = batch.iter().filter(|record| !is_renamed(record));
    Ok(left.cloned().collect())
}

/// All that are known.
pub struct KnownSecrets {
    all: Vec<SubjectSecret>,
    /// The last of each replica.
    last: HashMap<String, SubjectSecret>,
    own: SubjectSecret,
}

impl KnownSecrets {
    pub async fn read(
        connection: &mut PgConnection,
        own: &SubjectSecret,
    ) -> Result<Self, sqlx::Error> {
        let rows: Vec<(String, Vec<u8>)> = query_as(
            "SELECT replica, key FROM hedge.subject_keys ORDER BY made_at DESC, key LIMIT $1",
        )
        .bind(SECRETS_MAX)
        .persistent(false)
        .fetch_all(connection)
        .await?;
        let mut known = Self {
            all: vec![own.clone()],
            last: HashMap::new(),
            own: own.clone(),
        };
        for (replica, key) in rows {
            // Of another length it is of a later version.
            let Ok(key) = <[u8; 32]>::try_from(key) else {
                continue;
            };
            let secret = SubjectSecret::new(key);
            known.all.push(secret.clone());
            known.last.entry(replica).or_insert(secret);
        }
        Ok(known)
    }

    /// The words that stand for somebody, in what any replica wrote.
    pub fn words(&self, who: &Who) -> Vec<String> {
        let words = self.all.iter().map(|secret| word(&secret.mark(who), who));
        let mut words: Vec<String> = words.collect();
        words.sort_unstable();
        words.dedup();
        words
    }

    /// That of who wrote a record.
    pub fn of(&self, replica: &str) -> &SubjectSecret {
        self.last.get(replica).unwrap_or(&self.own)
    }
}

/// As it stands in a record.
pub fn word(mark: &Mark, who: &Who) -> String {
    mark.word(who.as_label())
}

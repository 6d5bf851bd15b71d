//! With which secrets replicas mark users and tags, so that each finds what any of them wrote.
//!
//! They stand in the database beside the marks: who has all of it can try names. A copy of the records
//! alone tells nobody's.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use domain::{KeptRecord, Mark, Marker, Who};
use sqlx::postgres::PgConnection;
use sqlx::{query, query_as, query_scalar};

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

/// Those of `batch`, as `replica` sent it first, that are not there as nobody's.
pub async fn without_erased(
    connection: &mut PgConnection,
    secret: &SubjectSecret,
    replica: &str,
    batch: &[KeptRecord],
) -> Result<Vec<KeptRecord>, sqlx::Error> {
    let times: Vec<i64> = batch.iter().map(|it| it.ended_us).collect();
    let ids = batch.iter();
    let ids = ids.map(|it| secret.nobodys_id(it.ended_us, &it.request_id));
    let ids: Vec<String> = ids.collect();
    let erased: HashSet<String> = query_scalar(
        "SELECT request_id FROM hedge.records
         JOIN UNNEST($2::BIGINT[], $3::TEXT[]) AS sent (ended_us, request_id)
             USING (ended_us, request_id)
         WHERE replica = $1",
    )
    .bind(replica)
    .bind(times)
    .bind(ids.clone())
    .persistent(false)
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect();
    let left = batch.iter().zip(&ids);
    let left = left.filter(|(_, id)| !erased.contains(*id));
    Ok(left.map(|(record, _)| record.clone()).collect())
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

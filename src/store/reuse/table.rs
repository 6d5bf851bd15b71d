//! Entries of several replicas in a table of Postgres, and what each of them has yet to hear of it.
//!
//! Every change has a number, and numbers are given in the order in which changes can be seen: who writes holds
//! a lock from the first number to the commit. So a replica that has heard of one has heard of all before it,
//! and asks for those after.
//!
//! What was asked and answered is sealed under a secret of the replicas'; beside it stand in the clear what rows
//! are selected by, and the vector, from which the subject of a question may be guessed.

use aes_gcm::aead::{Aead as _, Payload};
use domain::{
    Compartment, Entry, EntryId, Evidence, Mark, ModelAlias, Purge, Subject, TeamId, Who, WriterId,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, FromRow, Row as _, query, query_as, query_scalar};
use uuid::Uuid;

use super::entries::unix_ms;
use super::file::{Row, json, without_evidence};
use super::front::Change;
use crate::texts::{TextKey, cipher};

/// Rows and purges that are heard of at one go.
pub const NEWS_MAX: i64 = 64;

/// Of what was asked and answered, as JSON. A larger entry is its replica's alone, so that a page of others' has
/// a bound.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;

/// How long a purge is kept for those who have not heard of it.
pub const PURGES_KEPT_S: f64 = 86_400.0;

/// Of the database, held by who writes: `reuse` in ASCII.
pub const LOCK: i64 = 0x72_65_75_73_65;

const SALT_BYTES: usize = 16;

/// Whose rows these are, and what they are sealed under.
#[derive(Clone, Debug)]
pub struct Table {
    /// Replicas of another neither see these rows nor remove them.
    pub realm: String,
    /// Vectors of another mean something else.
    pub encoder: String,
    /// This replica's own name.
    pub origin: i64,
    pub key: TextKey,
}

/// What a purge is for those who have not heard of it. It names no user: of one it has the mark.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    All,
    Tag(String, Option<TeamId>),
    Model(ModelAlias),
    Team(TeamId),
    User(Mark, Option<TeamId>),
    Compartment(Compartment),
    Entry(EntryId),
}

impl Told {
    /// `None`: everybody knows by himself.
    fn of(what: &Purge) -> Option<Self> {
        Some(match what {
            Purge::All => Self::All,
            Purge::Tag(tag) => Self::Tag(tag.clone(), None),
            Purge::Model(model) => Self::Model(model.clone()),
            Purge::Team(team) => Self::Team(team.clone()),
            Purge::Compartment(compartment) => Self::Compartment(*compartment),
            Purge::Entry(id) => Self::Entry(*id),
            Purge::Subject(subject, mark) => match &subject.who {
                Who::User(_) => Self::User(*mark, subject.team.clone()),
                Who::Tag(tag) => Self::Tag(tag.as_str().to_owned(), subject.team.clone()),
            },
            Purge::Expired => return None,
        })
    }

    fn meant(self) -> Purge {
        match self {
            Self::All => Purge::All,
            Self::Tag(tag, None) => Purge::Tag(tag),
            Self::Tag(tag, team) => {
                let who = Who::Tag(tag.as_str().into());
                Purge::Subject(Subject { who, team }, Mark([0; Mark::BYTES]))
            }
            Self::Model(model) => Purge::Model(model),
            Self::Team(team) => Purge::Team(team),
            // Whoever it was: the mark is what is compared.
            Self::User(mark, team) => {
                let who = Who::User("".into());
                Purge::Subject(Subject { who, team }, mark)
            }
            Self::Compartment(compartment) => Purge::Compartment(compartment),
            Self::Entry(id) => Purge::Entry(id),
        }
    }
}

/// One thing that others did.
pub enum Heard {
    /// Boxed: a purge is small.
    Row(Box<Row>),
    Purge(Purge),
}

/// What a replica had not heard of, in its order.
#[derive(Default)]
pub struct News {
    pub heard: Vec<Heard>,
    /// The last number, to ask on from.
    pub seen: i64,
    /// Nothing came after it.
    pub is_all: bool,
}

struct Line {
    seq: i64,
    what: Option<String>,
    id: Option<i64>,
    compartment: Option<Vec<u8>>,
    vector: Option<Vec<u8>>,
    evidence: Option<Vec<u8>>,
    entry: Option<Vec<u8>>,
}

impl FromRow<'_, PgRow> for Line {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.try_get("seq")?,
            what: row.try_get("what")?,
            id: row.try_get("id")?,
            compartment: row.try_get("compartment")?,
            vector: row.try_get("vector")?,
            evidence: row.try_get("evidence")?,
            entry: row.try_get("entry")?,
        })
    }
}

impl Table {
    /// The last number that anybody was given.
    pub async fn last(&self, own: &mut PgConnection) -> Result<i64, sqlx::Error> {
        query_scalar("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM hedge.reuse_seq")
            .fetch_one(own)
            .await
    }

    /// The same while nobody writes, so that all up to it can be seen.
    pub async fn settled(&self, own: &mut PgConnection) -> Result<i64, sqlx::Error> {
        let mut own = own.begin().await?;
        lock(&mut own).await?;
        let last = self.last(&mut own).await?;
        own.commit().await?;
        Ok(last)
    }

    /// What comes after a number: one statement, so that it is as of one moment. A replica's own rows have no
    /// contents.
    pub async fn news(&self, own: &mut PgConnection, after: i64) -> Result<News, sqlx::Error> {
        let lines = query_as::<_, Line>(
            "(SELECT seq, NULL::TEXT AS what, id, compartment,
                CASE WHEN origin = $3 THEN NULL ELSE vector END AS vector,
                evidence, CASE WHEN origin = $3 THEN NULL ELSE entry END AS entry
             FROM hedge.reuse_entries
             WHERE realm = $1 AND encoder = $2 AND seq > $4 ORDER BY seq LIMIT $5)
             UNION ALL
             (SELECT seq, what, NULL, NULL, NULL, NULL, NULL
             FROM hedge.reuse_purges WHERE realm = $1 AND seq > $4 ORDER BY seq LIMIT $5)
             ORDER BY seq",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(self.origin)
        .bind(after)
        .bind(NEWS_MAX)
        .fetch_all(own)
        .await?;
        // Of the sort of which there is more, what is beyond its last was not told.
        let last_of = |is_purge: bool| {
            let those = lines.iter().filter(|it| it.what.is_some() == is_purge);
            let (count, last) = those.fold((0, 0), |(count, _), line| (count + 1, line.seq));
            if count < NEWS_MAX { i64::MAX } else { last }
        };
        let until = last_of(true).min(last_of(false));
        let mut news = News {
            seen: after,
            is_all: until == i64::MAX,
            heard: Vec::new(),
        };
        for line in lines.into_iter().filter(|line| line.seq <= until) {
            news.seen = line.seq;
            news.heard.extend(self.heard(line));
        }
        Ok(news)
    }

    fn heard(&self, line: Line) -> Option<Heard> {
        if let Some(what) = line.what {
            // What a later version says may mean anything.
            let told = serde_json::from_str(&what).unwrap_or(Told::All);
            return Some(Heard::Purge(told.meant()));
        }
        self.row(line).map(|row| Heard::Row(Box::new(row)))
    }

    /// `None` of one's own.
    fn row(&self, line: Line) -> Option<Row> {
        let (id, compartment) = (line.id?, line.compartment?);
        let (vector, sealed) = (line.vector?, line.entry?);
        // One that cannot be opened is read as one that cannot be believed.
        let entry = self.open(id, [&compartment, &vector], &sealed);
        let entry = entry.unwrap_or_default();
        Some(Row {
            seq: line.seq,
            id,
            compartment,
            vector,
            evidence: line.evidence?,
            entry,
        })
    }

    /// At most `count` rows before a number, the last of them first.
    pub async fn page(
        &self,
        own: &mut PgConnection,
        before: i64,
        count: i64,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let lines = query_as::<_, Line>(
            "SELECT seq, NULL::TEXT AS what, id, compartment, vector, evidence, entry
             FROM hedge.reuse_entries
             WHERE realm = $1 AND encoder = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(before)
        .bind(count)
        .fetch_all(own)
        .await?;
        Ok(lines
            .into_iter()
            .filter_map(|line| self.row(line))
            .collect())
    }

    /// Writes changes, all of them or none. First comes what others did: where that is not all yet, nothing is
    /// written, and where they removed what is to be written, it is not. Gives what is known by now of the
    /// entries that something was learned of.
    pub async fn write(
        &self,
        own: &mut PgConnection,
        after: i64,
        changes: &[&Change],
        now: std::time::SystemTime,
    ) -> Result<(News, Vec<(EntryId, Evidence)>), sqlx::Error> {
        let mut own = own.begin().await?;
        lock(&mut own).await?;
        let mut news = self.news(&mut own, after).await?;
        let mut learned = Vec::new();
        if !news.is_all {
            own.rollback().await?;
            return Ok((news, learned));
        }
        let purges: Vec<&Purge> = news
            .heard
            .iter()
            .filter_map(|it| match it {
                Heard::Purge(what) => Some(what),
                Heard::Row(_) => None,
            })
            .collect();
        for change in changes {
            match change {
                Change::Keep(entry, code) => {
                    if !purges.iter().any(|what| what.takes(entry, now)) {
                        self.put(&mut own, entry, &code.bytes()).await?;
                    }
                }
                Change::Learn(id, evidence) => {
                    learned.extend(self.learn(&mut own, *id, evidence).await?);
                }
                // Where one replica has no room, another may have.
                Change::Forget(_) => {}
            }
        }
        // Nobody else was given one meanwhile.
        news.seen = self.last(&mut own).await?;
        own.commit().await?;
        Ok((news, learned))
    }

    async fn put(
        &self,
        own: &mut PgConnection,
        entry: &Entry,
        vector: &[u8],
    ) -> Result<(), sqlx::Error> {
        let id = entry.id.0.cast_signed();
        let body = json(&without_evidence(entry))?;
        if body.len() > ENTRY_BYTES_MAX {
            return Ok(());
        }
        let sealed = self.seal(id, [&entry.compartment.0, vector], &body)?;
        query(
            "INSERT INTO hedge.reuse_entries (realm, encoder, id, seq, origin, compartment, team, model,
                tags, marked, expires_at_ms, vector, evidence, entry)
             VALUES ($1, $2, $3, nextval('hedge.reuse_seq'), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
             ON CONFLICT (realm, encoder, id) DO UPDATE SET seq = excluded.seq, origin = excluded.origin,
                compartment = excluded.compartment, team = excluded.team, model = excluded.model,
                tags = excluded.tags, marked = excluded.marked, expires_at_ms = excluded.expires_at_ms,
                vector = excluded.vector, evidence = excluded.evidence, entry = excluded.entry",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(id)
        .bind(self.origin)
        .bind(&entry.compartment.0[..])
        .bind(entry.kept.team.as_str().as_bytes())
        .bind(entry.kept.model.as_str().as_bytes())
        .bind(&entry.kept.tags)
        .bind(entry.kept.user.as_ref().map(ToString::to_string))
        .bind(i64::try_from(unix_ms(entry.expires_at)).unwrap_or(i64::MAX))
        .bind(vector)
        .bind(json(&entry.evidence)?)
        .bind(sealed)
        .execute(own)
        .await?;
        Ok(())
    }

    /// Joins what is known here with what is known there, and gives it.
    async fn learn(
        &self,
        own: &mut PgConnection,
        id: EntryId,
        here: &Evidence,
    ) -> Result<Option<(EntryId, Evidence)>, sqlx::Error> {
        let there: Option<Vec<u8>> = query_scalar(
            "SELECT evidence FROM hedge.reuse_entries
             WHERE realm = $1 AND encoder = $2 AND id = $3",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(id.0.cast_signed())
        .fetch_optional(&mut *own)
        .await?;
        let Some(there) = there else {
            return Ok(None);
        };
        let joined = joined(here, serde_json::from_slice(&there).unwrap_or_default());
        query(
            "UPDATE hedge.reuse_entries
             SET evidence = $4, seq = nextval('hedge.reuse_seq'), origin = $5
             WHERE realm = $1 AND encoder = $2 AND id = $3",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(id.0.cast_signed())
        .bind(json(&joined)?)
        .bind(self.origin)
        .execute(own)
        .await?;
        Ok(Some((id, joined)))
    }

    /// Removes what is meant, of every encoder's, and tells the others. Gives how many rows went.
    pub async fn purge(
        &self,
        own: &mut PgConnection,
        what: &Purge,
        now_ms: u64,
    ) -> Result<u64, sqlx::Error> {
        let mut own = own.begin().await?;
        lock(&mut own).await?;
        let delete = match what {
            Purge::All => query("DELETE FROM hedge.reuse_entries WHERE realm = $1"),
            Purge::Expired => {
                query("DELETE FROM hedge.reuse_entries WHERE realm = $1 AND expires_at_ms <= $2")
            }
            Purge::Tag(_) => {
                query("DELETE FROM hedge.reuse_entries WHERE realm = $1 AND $2 = ANY (tags)")
            }
            Purge::Model(_) => {
                query("DELETE FROM hedge.reuse_entries WHERE realm = $1 AND model = $2")
            }
            Purge::Team(_) => {
                query("DELETE FROM hedge.reuse_entries WHERE realm = $1 AND team = $2")
            }
            Purge::Compartment(_) => {
                query("DELETE FROM hedge.reuse_entries WHERE realm = $1 AND compartment = $2")
            }
            Purge::Entry(_) => {
                query("DELETE FROM hedge.reuse_entries WHERE realm = $1 AND id = $2")
            }
            Purge::Subject(subject, _) => match &subject.who {
                Who::User(_) => query(
                    "DELETE FROM hedge.reuse_entries
                     WHERE realm = $1 AND marked = $2 AND ($3::BYTEA IS NULL OR team = $3)",
                ),
                Who::Tag(_) => query(
                    "DELETE FROM hedge.reuse_entries
                     WHERE realm = $1 AND $2 = ANY (tags) AND ($3::BYTEA IS NULL OR team = $3)",
                ),
            },
        };
        let delete = delete.bind(&self.realm);
        let delete = match what {
            Purge::All => delete,
            Purge::Expired => delete.bind(i64::try_from(now_ms).unwrap_or(i64::MAX)),
            Purge::Tag(tag) => delete.bind(tag),
            Purge::Model(model) => delete.bind(model.as_str().as_bytes()),
            Purge::Team(team) => delete.bind(team.as_str().as_bytes()),
            Purge::Compartment(compartment) => delete.bind(&compartment.0[..]),
            Purge::Entry(id) => delete.bind(id.0.cast_signed()),
            Purge::Subject(subject, mark) => {
                let name = match &subject.who {
                    Who::User(_) => mark.to_string(),
                    Who::Tag(tag) => tag.as_str().to_owned(),
                };
                let team = subject.team.as_ref();
                delete
                    .bind(name)
                    .bind(team.map(|team| team.as_str().as_bytes()))
            }
        };
        let gone = delete.execute(&mut *own).await?.rows_affected();
        if let Some(told) = Told::of(what) {
            query(
                "INSERT INTO hedge.reuse_purges (realm, seq, what)
                 VALUES ($1, nextval('hedge.reuse_seq'), $2)",
            )
            .bind(&self.realm)
            .bind(String::from_utf8(json(&told)?).map_err(|it| sqlx::Error::Encode(it.into()))?)
            .execute(&mut *own)
            .await?;
        }
        own.commit().await?;
        Ok(gone)
    }

    /// Removes rows beyond a count, those that were changed longest ago, and purges that all have heard of.
    pub async fn trim(&self, own: &mut PgConnection, rows_max: i64) -> Result<(), sqlx::Error> {
        let mut own = own.begin().await?;
        lock(&mut own).await?;
        query(
            "DELETE FROM hedge.reuse_entries WHERE realm = $1 AND encoder = $2 AND seq <= (
                SELECT seq FROM hedge.reuse_entries WHERE realm = $1 AND encoder = $2
                ORDER BY seq DESC OFFSET $3 LIMIT 1)",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(rows_max)
        .execute(&mut *own)
        .await?;
        query(
            "DELETE FROM hedge.reuse_purges
             WHERE realm = $1 AND made_at < now() - make_interval(secs => $2)",
        )
        .bind(&self.realm)
        .bind(PURGES_KEPT_S)
        .execute(&mut *own)
        .await?;
        own.commit().await
    }

    /// Removes one row that cannot be believed, unless it was written anew.
    pub async fn forget(&self, own: &mut PgConnection, row: &Row) -> Result<(), sqlx::Error> {
        let mut own = own.begin().await?;
        lock(&mut own).await?;
        query(
            "DELETE FROM hedge.reuse_entries
             WHERE realm = $1 AND encoder = $2 AND id = $3 AND seq = $4",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(row.id)
        .bind(row.seq)
        .execute(&mut *own)
        .await?;
        own.commit().await
    }

    pub async fn state(&self, own: &mut PgConnection) -> Result<Option<Vec<u8>>, sqlx::Error> {
        query_scalar("SELECT state FROM hedge.reuse_states WHERE realm = $1 AND encoder = $2")
            .bind(&self.realm)
            .bind(&self.encoder)
            .fetch_optional(own)
            .await
    }

    pub async fn save_state(
        &self,
        own: &mut PgConnection,
        state: &[u8],
    ) -> Result<(), sqlx::Error> {
        query(
            "INSERT INTO hedge.reuse_states (realm, encoder, state) VALUES ($1, $2, $3)
             ON CONFLICT (realm, encoder) DO UPDATE SET state = excluded.state",
        )
        .bind(&self.realm)
        .bind(&self.encoder)
        .bind(state)
        .execute(own)
        .await?;
        Ok(())
    }

    /// Under a key of the row's own, as texts that are kept are.
    fn seal(&self, id: i64, beside: [&[u8]; 2], body: &[u8]) -> Result<Vec<u8>, sqlx::Error> {
        let salt = Uuid::new_v4().into_bytes();
        let (cipher, nonce) = cipher(&self.key, &salt);
        let aad = self.authenticated(id, beside);
        let payload = Payload {
            msg: body,
            aad: &aad,
        };
        let sealed = cipher.encrypt(&nonce.into(), payload);
        let sealed = sealed.map_err(|_| sqlx::Error::Encode("it could not be sealed".into()))?;
        Ok([&salt[..], &sealed].concat())
    }

    fn open(&self, id: i64, beside: [&[u8]; 2], sealed: &[u8]) -> Option<Vec<u8>> {
        let (salt, body) = sealed.split_at_checked(SALT_BYTES)?;
        let (cipher, nonce) = cipher(&self.key, salt);
        let aad = self.authenticated(id, beside);
        let payload = Payload {
            msg: body,
            aad: &aad,
        };
        cipher.decrypt(&nonce.into(), payload).ok()
    }

    /// What a row says in the clear and must not be changed: the name it is found by, its compartment and its
    /// vector.
    fn authenticated(&self, id: i64, beside: [&[u8]; 2]) -> Vec<u8> {
        let mut all = id.to_le_bytes().to_vec();
        let [compartment, vector] = beside;
        for part in [
            compartment,
            vector,
            self.realm.as_bytes(),
            self.encoder.as_bytes(),
        ] {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        }
        all
    }
}

/// At a transaction's start. Who holds it and says nothing more loses it, and who waits for it gives up.
async fn lock(own: &mut PgConnection) -> Result<(), sqlx::Error> {
    // What is read after it is as of then, whatever the database's default.
    for setting in [
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET LOCAL lock_timeout = '5s'",
        "SET LOCAL idle_in_transaction_session_timeout = '10s'",
    ] {
        own.execute(setting).await?;
    }
    let locking = query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
    locking.execute(own).await?;
    Ok(())
}

/// The more of each: counts only rise, and who confirmed once has confirmed.
fn joined(here: &Evidence, there: Evidence) -> Evidence {
    let mut joined = Evidence {
        right: here.right.max(there.right),
        wrong: here.wrong.max(there.wrong),
        confirmed_by: there.confirmed_by,
    };
    here.confirmed_by
        .iter()
        .for_each(|writer: &WriterId| joined.confirm(*writer));
    joined
}

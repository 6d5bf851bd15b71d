//! Records that Redis keeps from the moment at which it counts what they cost until they are on a disk: the
//! transactional outbox of a replica, which another one empties when it dies.
//!
//! ```text
//! settle ─► Outbox::note ─► Book ─► one script: counts, and keeps the record ─► Redis
//!                                      │ told
//! record ─► RecordDesk ─ waits for it ─┴─► Postgres, or the file beside ─► Outbox::written ─► removed from Redis
//! a lease later: what is still there ─► any replica ─► Postgres (what is there already stays) ─► removed
//! ```
//! So a replica that is killed leaves no cost counted without its record, and no record without its cost.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use domain::{ExchangeRecord, KeptRecord};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Records that wait to be told; of more the cost is told alone.
const NOTED_MAX: usize = 4_096;

/// Names that wait to be removed; of more the oldest stay in Redis, and are found there later.
const WRITTEN_MAX: usize = 65_536;

/// What a record waits for its cost to be counted, before it is written all the same.
const TOLD_MAX: Duration = Duration::from_millis(200);

/// A record for Redis: its name, and all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub name: String,
    pub text: String,
}

/// What is read from there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Whose record it is.
    pub replica: String,
    pub record: KeptRecord,
    /// Of the record, which shows them to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<String>,
}

/// What the one that counts and the one that writes have in common.
#[derive(Debug)]
pub struct Outbox {
    /// Under which this node's records are written.
    replica: OnceLock<String>,
    /// Records that were noted so far, and of them those that were told or will not be.
    noted: watch::Sender<u64>,
    told: watch::Sender<u64>,
    /// Names of records that are on a disk.
    written: Mutex<Vec<String>>,
    /// Of replicas that died, by name.
    found: Mutex<BTreeMap<String, String>>,
    has_found: Notify,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            replica: OnceLock::new(),
            noted: watch::Sender::new(0),
            told: watch::Sender::new(0),
            written: Mutex::default(),
            found: Mutex::default(),
            has_found: Notify::new(),
        }
    }
}

impl Outbox {
    /// From now on records are noted, as `replica`'s.
    pub(crate) fn open(&self, replica: &str) {
        // A node has one name.
        let _ = self.replica.set(replica.to_owned());
    }

    pub(crate) fn is_open(&self) -> bool {
        self.replica.get().is_some()
    }

    /// `record` as Redis keeps it; `None` where it has no name yet.
    pub(crate) fn note(&self, record: &ExchangeRecord) -> Option<Noted> {
        let replica = self.replica.get().filter(|_| record.ended_us > 0)?;
        let orphan = Orphan {
            replica: replica.clone(),
            record: KeptRecord::of(record, record.ended_us),
            marks: record.marks.as_text(),
        };
        Some(Noted {
            name: name(replica, &orphan.record),
            text: serde_json::to_string(&orphan).ok()?,
        })
    }

    /// Room is left among `waiting`, to which one more comes.
    pub(crate) fn count(&self, waiting: usize) -> bool {
        let has_room = waiting < NOTED_MAX;
        if has_room {
            self.noted.send_modify(|count| *count += 1);
        }
        has_room
    }

    /// So many more were told, or never will be.
    pub(crate) fn told(&self, count: usize) {
        self.told.send_modify(|told| *told += count as u64);
    }

    /// Waits until the cost of what was noted by now is counted; not for ever, since what cannot be counted
    /// now is written all the same.
    pub(crate) async fn until_told(&self) {
        let noted = *self.noted.borrow();
        let mut told = self.told.subscribe();
        let _ = timeout(TOLD_MAX, told.wait_for(|told| *told >= noted)).await;
    }

    /// They are on a disk.
    pub(crate) fn written(&self, replica: &str, records: &[KeptRecord]) {
        self.remove(records.iter().map(|it| name(replica, it)));
    }

    fn remove(&self, names: impl Iterator<Item = String>) {
        let mut written = lock(&self.written);
        written.extend(names);
        let excess = written.len().saturating_sub(WRITTEN_MAX);
        written.drain(..excess);
    }

    /// What is to be removed from Redis: no more than `count_max` of them.
    pub(crate) fn take_written(&self, count_max: usize) -> Vec<String> {
        let mut written = lock(&self.written);
        let count = written.len().min(count_max);
        written.drain(..count).collect()
    }

    /// Redis has these for longer than a replica lives that says nothing.
    pub(crate) fn find(&self, orphans: Vec<(String, String)>) {
        if orphans.is_empty() {
            return;
        }
        *lock(&self.found) = orphans.into_iter().collect();
        self.has_found.notify_one();
    }

    pub(crate) fn has_found(&self) -> bool {
        !lock(&self.found).is_empty()
    }

    pub(crate) async fn until_found(&self) {
        self.has_found.notified().await;
    }

    /// Those that were found, by replica. What cannot be read is removed, and gives no record.
    pub(crate) fn take_found(&self) -> (BTreeMap<String, Vec<KeptRecord>>, Vec<String>) {
        let found = std::mem::take(&mut *lock(&self.found));
        let mut orphans: BTreeMap<String, Vec<KeptRecord>> = BTreeMap::new();
        let mut damaged = Vec::new();
        for (name, text) in found {
            match serde_json::from_str::<Orphan>(&text) {
                Ok(orphan) => {
                    let record = KeptRecord {
                        marks: orphan.marks,
                        ..orphan.record
                    };
                    orphans.entry(orphan.replica).or_default().push(record);
                }
                Err(_) => damaged.push(name),
            }
        }
        (orphans, damaged)
    }

    pub(crate) fn give_up(&self, names: Vec<String>) {
        self.remove(names.into_iter());
    }
}

/// Callers choose a request's id, so it comes last.
fn name(replica: &str, record: &KeptRecord) -> String {
    format!("{replica}:{}:{}", record.ended_us, record.request_id)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked holding it left a whole list.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::record_of;

    fn ended(id: &str, ended_us: i64) -> ExchangeRecord {
        ExchangeRecord {
            ended_us,
            ..record_of(id, "t")
        }
    }

    #[test]
    fn what_is_noted_can_be_read_by_another_replica() {
        let outbox = Outbox::default();
        assert_eq!(outbox.note(&ended("a", 7)), None, "it has no name");
        outbox.open("one");
        assert_eq!(outbox.note(&ended("a", 0)), None, "nor has this record");
        let marked = ExchangeRecord {
            marks: domain::Marks {
                user: Some(domain::Mark([7; domain::Mark::BYTES])),
                ..domain::Marks::default()
            },
            ..ended("a", 7)
        };
        let noted = outbox.note(&marked).unwrap();
        assert_eq!(noted.name, "one:7:a");

        let other = Outbox::default();
        let damaged = ("two:8:b".to_owned(), "{".to_owned());
        other.find(vec![(noted.name, noted.text), damaged]);
        assert!(other.has_found());
        let (orphans, damaged) = other.take_found();
        let record = KeptRecord::of(&marked, 7);
        assert!(record.marks.is_some());
        assert_eq!(orphans, BTreeMap::from([("one".to_owned(), vec![record])]));
        assert_eq!(damaged, ["two:8:b"]);
        assert!(!other.has_found());
        other.written("one", &orphans["one"]);
        other.give_up(damaged);
        assert_eq!(other.take_written(1), ["one:7:a"]);
        assert_eq!(other.take_written(9), ["two:8:b"]);
    }

    #[test]
    fn what_waits_has_bounds() {
        let outbox = Outbox::default();
        outbox.open("one");
        assert!(outbox.count(NOTED_MAX - 1) && !outbox.count(NOTED_MAX));
        let records: Vec<_> = (1..=WRITTEN_MAX as i64 + 1)
            .map(|at| KeptRecord::of(&ended("a", at), at))
            .collect();
        outbox.written("one", &records);
        assert_eq!(outbox.take_written(1), ["one:2:a"]);
        assert_eq!(outbox.take_written(usize::MAX).len(), WRITTEN_MAX - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_waits_for_its_cost_and_not_for_ever() {
        let outbox = Outbox::default();
        outbox.until_told().await;
        assert!(outbox.count(0));
        let began = tokio::time::Instant::now();
        outbox.until_told().await;
        assert_eq!(began.elapsed(), TOLD_MAX);
        let telling = async { outbox.told(1) };
        tokio::join!(outbox.until_told(), telling);
        assert_eq!(began.elapsed(), TOLD_MAX);
    }
}

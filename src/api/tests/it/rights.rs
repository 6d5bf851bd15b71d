//! What is somebody's is handed out and removed by nobody who is not written down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use api::Rights;
use async_trait::async_trait;
use domain::{
    AdminChange, ChangeLog, CountedUse, CountsAway, KeptRecord, Mark, Marker, NoLog, RecordFault,
    RecordName, RecordRights, RecordsErased, Subject, TeamId, UserCounts, UserId, Who,
};

use crate::client::ask;
use crate::node::Recipe;

/// A log that is open, on a disk that may be full.
#[derive(Default)]
struct Log {
    is_full: AtomicBool,
}

#[async_trait]
impl ChangeLog for Log {
    async fn ready(&self) -> Result<(), NoLog> {
        Ok(())
    }

    async fn note(&self, _: AdminChange) -> bool {
        !self.is_full.load(Ordering::Relaxed)
    }
}

/// Says how often it was asked.
#[derive(Default)]
struct Asked(AtomicUsize);

#[async_trait]
impl UserCounts for Asked {
    async fn of(
        &self,
        _: Option<&TeamId>,
        _: &UserId,
        _: usize,
    ) -> Result<Vec<CountedUse>, CountsAway> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Vec::new())
    }

    async fn forget(&self, _: Option<&TeamId>, _: &UserId) -> Result<u64, CountsAway> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(1)
    }
}

struct OneMark;

impl Marker for OneMark {
    fn mark(&self, _: &Who) -> Mark {
        Mark([1; Mark::BYTES])
    }

    fn trace(&self, _: &Subject) -> String {
        "0123456789abcdef".to_owned()
    }
}

/// Counts that cannot be asked, and records that say how often they were.
struct Away(Arc<Asked>);

#[async_trait]
impl UserCounts for Away {
    async fn of(
        &self,
        _: Option<&TeamId>,
        _: &UserId,
        _: usize,
    ) -> Result<Vec<CountedUse>, CountsAway> {
        Err(CountsAway("away".into()))
    }

    async fn forget(&self, _: Option<&TeamId>, _: &UserId) -> Result<u64, CountsAway> {
        Err(CountsAway("away".into()))
    }
}

#[async_trait]
impl RecordRights for Away {
    async fn of(
        &self,
        _: &Subject,
        _: u32,
        _: Option<RecordName>,
    ) -> Result<Vec<KeptRecord>, RecordFault> {
        Ok(Vec::new())
    }

    async fn erase(&self, _: &Subject) -> Result<RecordsErased, RecordFault> {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        Ok(RecordsErased::default())
    }
}

/// What was seen: a Redis that was not found kept the records of whoever was to be forgotten.
#[tokio::test]
async fn what_cannot_be_reached_holds_up_nothing_that_is_to_be_removed() {
    let (log, asked) = (Arc::new(Log::default()), Arc::new(Asked::default()));
    let node = Recipe {
        changes: Some(log as _),
        rights: Some(Rights {
            marker: Arc::new(OneMark),
            records: Some(Arc::new(Away(Arc::clone(&asked)))),
            counts: Arc::new(Away(Arc::clone(&asked))),
            is_marking: true,
        }),
        ..Recipe::default()
    };
    let node = node.start().await;
    let body = r#"{"user":"anna"}"#;
    let head = "POST /admin/v1/data/erase HTTP/1.1\r\nhost: localhost\r\n";
    let lines = "content-type: application/json\r\ncontent-length: 15\r\n";
    let raw = ask(node.admin, format!("{head}{lines}\r\n{body}")).await;
    assert_eq!(raw.status, 503);
    assert_eq!(asked.0.load(Ordering::Relaxed), 1);
}

/// What was seen: the disk of an audit log that was open became full, and what was somebody's was handed out
/// and removed all the same, after five seconds.
#[tokio::test]
async fn nothing_is_handed_out_or_removed_that_cannot_be_written_down() {
    let (log, asked) = (Arc::new(Log::default()), Arc::new(Asked::default()));
    let node = Recipe {
        changes: Some(Arc::clone(&log) as _),
        rights: Some(Rights {
            marker: Arc::new(OneMark),
            records: None,
            counts: Arc::clone(&asked) as _,
            is_marking: true,
        }),
        ..Recipe::default()
    };
    let node = node.start().await;
    let send = async |path: &str| {
        let body = r#"{"user":"anna"}"#;
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n");
        let lines = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        ask(node.admin, format!("{head}{lines}\r\n{body}")).await
    };
    for path in ["/admin/v1/data/export", "/admin/v1/data/erase"] {
        asked.0.store(0, Ordering::Relaxed);
        log.is_full.store(true, Ordering::Relaxed);
        let raw = send(path).await;
        let told = (raw.status, raw.error("code"));
        assert_eq!(told, (503, "not_kept".to_owned()), "{path}");
        assert_eq!(asked.0.load(Ordering::Relaxed), 0, "{path}");
        log.is_full.store(false, Ordering::Relaxed);
        assert_eq!(send(path).await.status, 200, "{path}");
        assert_eq!(asked.0.load(Ordering::Relaxed), 1, "{path}");
    }
}

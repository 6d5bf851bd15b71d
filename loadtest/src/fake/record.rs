//! What the server was sent: for assertions on what left another process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

/// Requests kept; older ones are dropped and only counted.
const SEEN_MAX: usize = 256;

/// One chat request as it arrived.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    pub path: String,
    /// Lower-case names; the last of several values.
    pub headers: BTreeMap<String, String>,
    /// The body, or null when it was no JSON.
    pub body: Value,
}

/// How replies ended. `asked` is the sum of the others and of those still open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub asked: u64,
    /// The reply went as its behaviour says, mishap or not.
    pub completed: u64,
    /// The peer left first.
    pub abandoned: u64,
}

#[derive(Debug)]
pub(super) struct Record {
    keeps: bool,
    seen: Mutex<VecDeque<Seen>>,
    asked: AtomicU64,
    completed: AtomicU64,
    abandoned: AtomicU64,
}

impl Record {
    pub(super) fn new(keeps: bool) -> Self {
        Self {
            keeps,
            seen: Mutex::default(),
            asked: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
        }
    }

    /// Notes a request. The returned guard counts how its reply ended.
    pub(super) fn open(self: &Arc<Self>, head: &http::request::Parts, body: &Bytes) -> OpenReply {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.keeps {
            let headers = head
                .headers
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.as_str().to_owned(), value)
                })
                .collect();
            let body = serde_json::from_slice(body).unwrap_or(Value::Null);
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() == SEEN_MAX {
                seen.pop_front();
            }
            seen.push_back(Seen {
                path: head.uri.path().to_owned(),
                headers,
                body,
            });
        }
        OpenReply {
            record: Arc::clone(self),
            is_complete: AtomicBool::new(false),
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().cloned().collect()
    }

    pub(super) fn clear(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clear();
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            asked: self.asked.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            abandoned: self.abandoned.load(Ordering::Relaxed),
        }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::json!({"counts": self.counts(), "requests": self.seen()}).to_string()
    }
}

/// Counts a reply as abandoned unless it was marked complete before it was dropped.
#[derive(Debug)]
pub(super) struct OpenReply {
    record: Arc<Record>,
    is_complete: AtomicBool,
}

impl OpenReply {
    pub(super) fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }
}

impl Drop for OpenReply {
    fn drop(&mut self) {
        let count = if self.is_complete.load(Ordering::Relaxed) {
            &self.record.completed
        } else {
            &self.record.abandoned
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

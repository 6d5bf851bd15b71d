//! What became of entries, for metrics, and those that are missing and not yet said.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditCounts {
    pub written: u64,
    /// There was no room for them in the queue.
    pub lost: u64,
    /// Writes, or waits for the disk, that failed.
    pub failures: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
    failures: AtomicU64,
    /// Of the lost: those that no line speaks of yet.
    unsaid: AtomicU64,
    /// When the first of these was lost, in milliseconds; 0: none.
    since_ms: AtomicU64,
}

/// Entries that are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub count: u64,
    pub since_ms: u64,
}

impl Counts {
    pub fn lose(&self, now_ms: u64) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let since = &self.since_ms;
        // Another's time, where that came first.
        let _ = since.compare_exchange(0, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed);
        self.unsaid.fetch_add(1, Ordering::Release);
    }

    /// True where a line is to be written of some.
    pub fn has_unsaid(&self) -> bool {
        self.unsaid.load(Ordering::Acquire) > 0
    }

    pub fn take_unsaid(&self) -> Lost {
        Lost {
            count: self.unsaid.swap(0, Ordering::AcqRel),
            since_ms: self.since_ms.swap(0, Ordering::Relaxed),
        }
    }

    /// No line could be written of them.
    pub fn put_back(&self, lost: Lost) {
        self.unsaid.fetch_add(lost.count, Ordering::Release);
        if lost.since_ms > 0 {
            self.since_ms.store(lost.since_ms, Ordering::Relaxed);
        }
    }

    pub fn fail(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub fn wrote(&self, count: usize) {
        self.written.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn now(&self) -> AuditCounts {
        AuditCounts {
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

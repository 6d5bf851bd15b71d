//! The audit log of a node: open once there is something to write down.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use domain::{AdminChange, AuditLog, ChangeLog, NoLog, SealedEntry};
use store::{AuditCounts, AuditFile, AuditFileName, AuditRules};
use tokio::sync::mpsc;
use tracing::warn;

/// What writes the file.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where entries go. A node that neither seals nor opens, and whose operator changes nothing while it
/// runs, has no file; whoever only looks at a configuration never opens one.
#[derive(Debug, Default)]
pub struct Chronicle {
    file: ArcSwapOption<AuditFile>,
    /// What a change opens it with, where it is to be kept, and who runs what writes it.
    keeping: Mutex<Option<Keeping>>,
}

#[derive(Debug)]
struct Keeping {
    rules: Option<AuditRules>,
    drivers: mpsc::Sender<Driver>,
}

impl Chronicle {
    /// Says how the file is opened once it is needed; `None`: none is kept. Gives what runs its writer,
    /// which ends when the file is closed.
    pub fn keep(&self, rules: Option<AuditRules>) -> impl Future<Output = ()> + Send + use<> {
        let (drivers, mut inbox) = mpsc::channel(1);
        *self.lock() = Some(Keeping { rules, drivers });
        async move {
            while let Some(driver) = inbox.recv().await {
                driver.await;
            }
        }
    }

    /// Opens the file now, unless it is open already or none is kept.
    ///
    /// # Errors
    /// It cannot be had, or another process writes it.
    pub fn open(&self) -> std::io::Result<()> {
        let keeping = self.lock();
        let Some(Keeping { rules, drivers }) = &*keeping else {
            return Ok(());
        };
        let Some(rules) = rules.as_ref().filter(|_| self.file.load().is_none()) else {
            return Ok(());
        };
        let (file, driver) = AuditFile::open(rules.clone())?;
        // There is room for the one that there ever is.
        if drivers.try_send(Box::pin(driver)).is_err() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.file.store(Some(file));
        Ok(())
    }

    /// Ends what writes the file, once all that was appended is written.
    pub fn close(&self) {
        *self.lock() = None;
        self.file.store(None);
    }

    /// `None` while there is no file.
    pub fn counts(&self) -> Option<AuditCounts> {
        self.file.load().as_ref().map(|file| file.counts())
    }

    /// How much of the newest file is on the disk; `None` while this process does not write it.
    pub fn synced(&self) -> Option<(AuditFileName, u64)> {
        self.file.load().as_ref().map(|file| file.synced())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Keeping>> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditLog for Chronicle {
    fn append(&self, entry: SealedEntry) {
        if let Some(file) = &*self.file.load() {
            file.append(entry);
        }
    }
}

/// A chronicle that opens its file aside: that waits for the disk.
#[derive(Debug)]
pub struct Changes(pub Arc<Chronicle>);

#[async_trait]
impl ChangeLog for Changes {
    async fn ready(&self) -> Result<(), NoLog> {
        if self.0.file.load().is_some() {
            return Ok(());
        }
        let chronicle = Arc::clone(&self.0);
        let opening = tokio::task::spawn_blocking(move || chronicle.open());
        let opened = opening
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
        opened.map_err(|error| NoLog(Box::new(error)))
    }

    async fn note(&self, change: AdminChange) -> bool {
        let Some(file) = self.0.file.load_full() else {
            return true;
        };
        let is_written = file.note(change).await;
        if !is_written {
            warn!("an operator's change waits to be written to the audit log");
        }
        is_written
    }
}

/// For who looks only and sends nothing.
pub fn unaudited() -> Arc<dyn AuditLog> {
    Arc::new(Chronicle::default())
}

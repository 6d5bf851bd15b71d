//! The audit log of a node: open once there is something sealed to write down.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use domain::{AuditLog, SealedEntry};
use store::{AuditCounts, AuditFile, AuditRules};

/// Where entries go. A node that neither seals nor opens has no file, and whoever only looks at a
/// configuration never opens one.
#[derive(Debug, Default)]
pub struct Chronicle(ArcSwapOption<AuditFile>);

impl Chronicle {
    /// Opens the file, unless it is open already; gives what writes it.
    ///
    /// # Errors
    /// It cannot be had, or another process writes it.
    pub fn open(
        &self,
        rules: &AuditRules,
    ) -> std::io::Result<Option<impl Future<Output = ()> + Send + use<>>> {
        if self.0.load().is_some() {
            return Ok(None);
        }
        let (file, driver) = AuditFile::open(rules.clone())?;
        self.0.store(Some(file));
        Ok(Some(driver))
    }

    /// Ends what writes the file, once all that was appended is written.
    pub fn close(&self) {
        self.0.store(None);
    }

    /// `None` while there is no file.
    pub fn counts(&self) -> Option<AuditCounts> {
        self.0.load().as_ref().map(|file| file.counts())
    }
}

impl AuditLog for Chronicle {
    fn append(&self, entry: SealedEntry) {
        if let Some(file) = &*self.0.load() {
            file.append(entry);
        }
    }
}

/// For who looks only and sends nothing.
pub fn unaudited() -> Arc<dyn AuditLog> {
    Arc::new(Chronicle::default())
}

//! A key in a file that somebody else keeps current.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Key;
use crate::Secret;

/// How often a file is read again. Keys that are replaced overlap for minutes at least.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longer is no key.
const KEY_BYTES_MAX: usize = 64 * 1024;
/// Not known when it was looked at last.
const AT_ONCE: u64 = 0;

/// The present key, wherever it comes from.
#[derive(Debug)]
pub(crate) struct KeyCell {
    current: Mutex<Secret>,
    file: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    made_at: Instant,
    /// Milliseconds after `made_at`. Whoever moves it on reads the file; others take what is known.
    look_at_ms: AtomicU64,
}

impl KeyCell {
    pub fn new(key: &Key) -> Self {
        let file = match key {
            Key::Fixed(_) => None,
            Key::File { path, .. } => Some(Watched {
                path: path.clone(),
                made_at: Instant::now(),
                look_at_ms: AtomicU64::new(millis(LOOK_EVERY)),
            }),
        };
        Self {
            current: Mutex::new(key.first().clone()),
            file,
        }
    }

    /// The key as it stands. A file that cannot be read, or holds none, leaves the last one.
    pub async fn current(&self) -> Secret {
        if let Some(file) = self.file.as_ref().filter(|file| file.is_due()) {
            match file.read().await {
                Some(key) => *self.lock() = key,
                None => {
                    debug!(path = %file.path.display(), "no key could be read; the last one stays")
                }
            }
        }
        self.known()
    }

    /// As it was last.
    pub fn known(&self) -> Secret {
        self.lock().clone()
    }

    /// The key was refused: the file may hold another by now.
    pub fn refused(&self) {
        if let Some(file) = &self.file {
            file.look_at_ms.store(AT_ONCE, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Secret> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// True for one caller each time.
    fn is_due(&self) -> bool {
        let now = millis(self.made_at.elapsed());
        let look_at = self.look_at_ms.load(Ordering::Relaxed);
        if look_at > now {
            return false;
        }
        let next = now + millis(LOOK_EVERY);
        let order = Ordering::Relaxed;
        let moved = self
            .look_at_ms
            .compare_exchange(look_at, next, order, order);
        moved.is_ok()
    }

    async fn read(&self) -> Option<Secret> {
        let metadata = tokio::fs::metadata(&self.path).await.ok()?;
        if usize::try_from(metadata.len()).is_ok_and(|length| length > KEY_BYTES_MAX) {
            return None;
        }
        let text = tokio::fs::read_to_string(&self.path).await.ok()?;
        let key = text.trim();
        (!key.is_empty()).then(|| Secret::new(key))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::advance;

    use super::*;

    struct Scene {
        _folder: tempfile::TempDir,
        path: PathBuf,
        cell: KeyCell,
    }

    fn scene() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let cell = KeyCell::new(&Key::File {
            path: path.clone(),
            first: Secret::new("first"),
        });
        Scene {
            _folder: folder,
            path,
            cell,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_key_is_found_after_a_while_and_at_once_when_the_old_one_is_refused() {
        let scene = scene();
        fs::write(&scene.path, "second\n").unwrap();
        assert_eq!(scene.cell.current().await, Secret::new("first"));
        advance(LOOK_EVERY).await;
        assert_eq!(scene.cell.current().await, Secret::new("second"));
        fs::write(&scene.path, "third").unwrap();
        assert_eq!(scene.cell.current().await, Secret::new("second"));
        scene.cell.refused();
        assert_eq!(scene.cell.current().await, Secret::new("third"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_key_outlives_a_file_that_holds_none() {
        let scene = scene();
        for text in [
            None,
            Some(" \n".to_owned()),
            Some("k".repeat(KEY_BYTES_MAX + 1)),
        ] {
            if let Some(text) = text {
                fs::write(&scene.path, text).unwrap();
            }
            scene.cell.refused();
            assert_eq!(scene.cell.current().await, Secret::new("first"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_reads_and_the_others_take_what_is_known() {
        let scene = scene();
        let file = scene.cell.file.as_ref().unwrap();
        assert!(!file.is_due());
        advance(LOOK_EVERY).await;
        assert!(file.is_due());
        assert!(!file.is_due());
    }
}

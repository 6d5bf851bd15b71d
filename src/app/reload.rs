//! Files that a running node reads anew when they change: its configuration, its rules, its keys.
//!
//! They are looked at once a second rather than listened to: that works on every file system, through the links
//! that Kubernetes turns round, and for files that are not there yet. Whoever writes one in several steps is not
//! met in the middle: a change counts once the next look finds it as the one before did.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells one writing of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    bytes: u64,
    file: u64,
}

/// `None` of a file that is not there.
type Marks = BTreeMap<PathBuf, Option<Mark>>;

/// What was seen of the files at the last looks.
#[derive(Debug)]
pub struct Watch {
    known: Marks,
    last: Marks,
}

impl Watch {
    /// Of files as they are now, which is as they were read: a node that starts may take a while until it
    /// first looks.
    pub fn of(files: &[PathBuf]) -> Self {
        Self {
            known: look(files),
            last: Marks::new(),
        }
    }

    /// Waits until one of `files` has changed. A file is new to it the first time that it is named, and that is no
    /// change. Cancel safe: what was not told is found by the next call.
    pub async fn changed(&mut self, files: impl Fn() -> Vec<PathBuf>) {
        loop {
            let files = files();
            // It fails where the node ends.
            let now = spawn_blocking(move || look(&files)).await;
            if now.is_ok_and(|now| self.is_news(now)) {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn is_news(&mut self, now: Marks) -> bool {
        self.known.retain(|file, _| now.contains_key(file));
        for (file, mark) in &now {
            self.known.entry(file.clone()).or_insert(*mark);
        }
        let is_news = now != self.known && now == self.last;
        if is_news {
            self.known.clone_from(&now);
        }
        self.last = now;
        is_news
    }
}

fn look(files: &[PathBuf]) -> Marks {
    let seen = |file: &PathBuf| {
        let found = std::fs::metadata(file).ok();
        (file.clone(), found.map(|found| mark(&found)))
    };
    files.iter().map(seen).collect()
}

fn mark(found: &std::fs::Metadata) -> Mark {
    use std::os::unix::fs::MetadataExt as _;
    Mark {
        modified: found.modified().ok(),
        bytes: found.len(),
        file: found.ino(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(bytes: &[(&str, Option<u64>)]) -> Marks {
        let mark = |bytes| Mark {
            modified: None,
            bytes,
            file: 1,
        };
        let all = bytes.iter();
        all.map(|(file, bytes)| (PathBuf::from(file), bytes.map(mark)))
            .collect()
    }

    #[test]
    fn a_change_counts_once_it_stays_and_once() {
        let mut watch = Watch::of(&[]);
        let looks = [
            (&[("a", Some(1))][..], false),
            (&[("a", Some(1))], false),
            // Somebody writes.
            (&[("a", Some(0))], false),
            (&[("a", Some(2))], false),
            (&[("a", Some(2))], true),
            (&[("a", Some(2))], false),
            // Another file is named from here on, and the first no more.
            (&[("a", Some(2)), ("b", None)], false),
            (&[("b", None)], false),
            (&[("b", Some(7))], false),
            (&[("b", Some(7))], true),
            // Back to what it was before anybody looked twice.
            (&[("b", Some(8))], false),
            (&[("b", Some(7))], false),
            (&[("b", Some(7))], false),
            // Gone is a change too.
            (&[("b", None)], false),
            (&[("b", None)], true),
        ];
        for (number, (look, is_news)) in looks.into_iter().enumerate() {
            assert_eq!(watch.is_news(marks(look)), is_news, "look {number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_before_the_first_look_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["there", "not yet"].map(|name| folder.path().join(name));
        std::fs::write(&files[0], "one").unwrap();
        for (file, text) in files.iter().zip(["other", "new"]) {
            let mut watch = Watch::of(&files);
            std::fs::write(file, text).unwrap();
            watch.changed(|| files.to_vec()).await;
        }
        let mut watch = Watch::of(&files);
        let changed = watch.changed(|| files.to_vec());
        let waited = tokio::time::timeout(LOOK_EVERY * 5, changed).await;
        assert!(waited.is_err(), "nothing changed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_put_in_anothers_place_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [file, next] = ["hedge.toml", "next"].map(|name| folder.path().join(name));
        std::fs::write(&file, "one").unwrap();
        let mut watch = Watch::of(&[]);
        let files = || vec![file.clone()];
        let waited = tokio::time::timeout(LOOK_EVERY * 5, watch.changed(files)).await;
        assert!(waited.is_err(), "nothing changed");
        std::fs::write(&next, "two").unwrap();
        std::fs::rename(&next, &file).unwrap();
        watch.changed(files).await;
    }
}

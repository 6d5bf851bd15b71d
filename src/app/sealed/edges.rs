//! The edges a relay knows: a folder, looked at again and again.
//!
//! A change of a file counts for the next request. An edge whose file is gone, or whose key is
//! another one, is revoked: its streams under way end too. A file with a fault changes nothing, and
//! is said in the log.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use relay::{Edge, EdgeDirectory};
use tracing::{error, info};

use super::edge_file::{self, PublicKey};
use super::files;

/// From one look to the next: a revoked edge is gone after twice this at most.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Edges of one relay. Further ones are left out, and that is said.
const EDGES_MAX: usize = 10_000;

/// How a file was when it was read. One written twice within the clock's grain differs in length, or
/// in its number, since files are replaced and not written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    changed: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            changed: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

#[derive(Debug)]
struct Known {
    policy: Option<Stamp>,
    key: Option<Stamp>,
    /// `None` until it has joined, or where its files never were right.
    edge: Option<Arc<Edge>>,
    /// The same edge under policies it had before, as far as streams still have them.
    earlier: Vec<Weak<Edge>>,
}

impl Known {
    fn revoke(&self) {
        let earlier = self.earlier.iter().filter_map(Weak::upgrade);
        for edge in self.edge.iter().cloned().chain(earlier) {
            edge.is_revoked.store(true, Ordering::Relaxed);
        }
    }

    /// What it is after its files changed. An edge with another key is another edge; with another
    /// policy it is the same one.
    fn replace(before: Option<Self>, after: Option<Edge>) -> (Option<Arc<Edge>>, Vec<Weak<Edge>>) {
        let Some(before) = before else {
            return (after.map(Arc::new), Vec::new());
        };
        let key_of = |edge: &Edge| edge.keys.first().map(|(id, _)| id.clone());
        let is_same = after.as_ref().map(key_of) == before.edge.as_deref().map(key_of);
        let mut earlier = Vec::new();
        if is_same {
            earlier = before.earlier;
            earlier.retain(|edge| edge.strong_count() > 0);
            earlier.extend(before.edge.as_ref().map(Arc::downgrade));
        } else {
            before.revoke();
        }
        (after.map(Arc::new), earlier)
    }
}

/// The folder, and what was last read of it.
#[derive(Debug)]
pub struct Edges {
    folder: PathBuf,
    in_force: ArcSwap<BTreeMap<String, Arc<Edge>>>,
    known: Mutex<BTreeMap<String, Known>>,
}

/// An edge, as `hedge relay edges list` shows it.
#[derive(Debug)]
pub struct Listed {
    pub id: String,
    pub state: EdgeState,
    pub models: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeState {
    /// Its token was not used yet.
    Invited,
    Joined,
    /// Its policy cannot be read.
    Faulty(String),
}

impl Edges {
    /// Reads the folder for the first time.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let edges = Self {
            folder: folder.to_owned(),
            in_force: ArcSwap::default(),
            known: Mutex::default(),
        };
        edges.look()?;
        Ok(edges)
    }

    pub fn count(&self) -> usize {
        self.in_force.load().len()
    }

    /// Reads what has changed. Blocks for as long as the files take.
    ///
    /// # Errors
    /// The folder cannot be listed; then everything stays as it is.
    pub fn look(&self) -> io::Result<()> {
        let ids = ids(&self.folder)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, known| {
            let is_there = ids.binary_search(id).is_ok();
            if !is_there {
                info!(edge = %id, "edge revoked");
                known.revoke();
            }
            is_there
        });
        // One that is gone is seen by the count.
        let joined = known.values().filter(|known| known.edge.is_some());
        let mut is_changed = joined.count() != self.in_force.load().len();
        for id in ids {
            let policy = Stamp::of(&policy_path(&self.folder, &id));
            let key = Stamp::of(&key_path(&self.folder, &id));
            let stamps = |known: &Known| (known.policy, known.key);
            if known.get(&id).map(stamps) == Some((policy, key)) {
                continue;
            }
            is_changed = true;
            let before = known.remove(&id);
            let (edge, earlier) = match read(&self.folder, &id) {
                Ok(edge) => Known::replace(before, edge),
                Err(fault) => {
                    error!(edge = %id, %fault, "the edge's files changed nothing");
                    before.map_or_else(Default::default, |known| (known.edge, known.earlier))
                }
            };
            let after = Known {
                policy,
                key,
                edge,
                earlier,
            };
            known.insert(id, after);
        }
        if is_changed {
            let in_force = known
                .iter()
                .filter_map(|(id, known)| Some((id.clone(), known.edge.clone()?)))
                .collect();
            self.in_force.store(Arc::new(in_force));
        }
        Ok(())
    }

    /// Looks again and again. A driver; never ends by itself.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut has_failed = false;
        loop {
            ticks.tick().await;
            let edges = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || edges.look()).await;
            match looked {
                Ok(Ok(())) => has_failed = false,
                Ok(Err(error)) if !has_failed => {
                    has_failed = true;
                    error!(%error, "the edges' folder cannot be listed; those known stay");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

impl EdgeDirectory for Edges {
    fn find(&self, edge_id: &str) -> Option<Arc<Edge>> {
        self.in_force.load().get(edge_id).cloned()
    }
}

/// All edges of the folder, whatever is wrong with them.
///
/// # Errors
/// It cannot be listed.
pub fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let listed = ids(folder)?.into_iter().map(|id| match read(folder, &id) {
        Ok(Some(edge)) => Listed {
            state: EdgeState::Joined,
            models: edge.policy.models,
            id,
        },
        Ok(None) => Listed {
            state: EdgeState::Invited,
            models: Vec::new(),
            id,
        },
        Err(fault) => Listed {
            state: EdgeState::Faulty(fault.to_string()),
            models: Vec::new(),
            id,
        },
    });
    Ok(listed.collect())
}

pub fn policy_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.toml"))
}

pub fn key_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.pub"))
}

/// The names of the policies, in order. Other files, drafts among them, are passed over.
fn ids(folder: &Path) -> io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".toml")) else {
            continue;
        };
        if relay::is_name(id) && !id.starts_with('.') {
            ids.push(id.to_owned());
        }
    }
    ids.sort_unstable();
    if ids.len() > EDGES_MAX {
        error!(
            count = ids.len(),
            EDGES_MAX, "too many edges; the last ones are left out"
        );
        ids.truncate(EDGES_MAX);
    }
    Ok(ids)
}

/// `None` for one that has not joined.
fn read(folder: &Path, id: &str) -> anyhow::Result<Option<Edge>> {
    let policy = files::read(&policy_path(folder, id))?;
    let policy = edge_file::policy(&policy).map_err(|findings| {
        let faults: Vec<String> = findings.faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", faults.join("; "))
    })?;
    let Some(line) = files::read_if_there(&key_path(folder, id))? else {
        return Ok(None);
    };
    let public = PublicKey::read(&line)?;
    let key = public.key().map(|key| (public.id.clone(), key));
    Ok(Some(Edge {
        id: id.to_owned(),
        keys: key.into_iter().collect(),
        policy,
        is_revoked: AtomicBool::new(false),
        sessions: relay::Sessions::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::files::Eyes;

    const PUBLIC: &str = "k1 ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n";
    const OTHER: &str = "k2 ed25519:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n";

    fn put(path: &Path, text: &str) {
        files::put(path, text.as_bytes(), Eyes::Own).unwrap();
    }

    #[test]
    fn an_edge_is_known_once_it_has_joined_and_until_its_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (policy, key) = (
            policy_path(folder.path(), "branch-7"),
            key_path(folder.path(), "branch-7"),
        );
        put(&policy, "paths = ['/v1/models']");
        let edges = Edges::open(folder.path()).unwrap();
        assert!(edges.find("branch-7").is_none());
        assert_eq!(list(folder.path()).unwrap()[0].state, EdgeState::Invited);
        put(&key, PUBLIC);
        edges.look().unwrap();
        let joined = edges.find("branch-7").unwrap();
        assert_eq!(joined.policy.paths, ["/v1/models"]);
        assert!(joined.key("k1").is_some() && joined.key("k2").is_none());

        put(&policy, "paths = ['/v1/models', '/v1/embeddings']");
        edges.look().unwrap();
        assert_eq!(edges.find("branch-7").unwrap().policy.paths.len(), 2);
        assert!(!joined.is_revoked(), "a policy may change under a stream");
        let under_old_policy = joined;

        put(&policy, "paths = 7");
        edges.look().unwrap();
        assert_eq!(
            edges.find("branch-7").unwrap().policy.paths.len(),
            2,
            "a fault changes nothing"
        );
        put(&policy, "paths = ['/v1/models', '/v1/embeddings']");
        put(&key, OTHER);
        let before = edges.find("branch-7").unwrap();
        edges.look().unwrap();
        assert!(before.is_revoked(), "another key is another edge");
        assert!(under_old_policy.is_revoked(), "under whatever policy");
        let after = edges.find("branch-7").unwrap();
        files::remove(&policy).unwrap();
        edges.look().unwrap();
        assert!(after.is_revoked());
        assert!(edges.find("branch-7").is_none());
        assert_eq!(edges.count(), 0);
    }
}

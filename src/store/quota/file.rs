//! What was settled, in a file: written whole beside itself and renamed, so that a crash leaves the old
//! one or the new one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use domain::{Measure, Period, Scope, TeamId, UserId};
use serde::{Deserialize, Serialize};

use super::local::Settled;
use crate::lock::{Lock, busy};
use crate::own_files::make_file;

/// Of the form below.
const VERSION: u32 = 1;
/// As [`Scope::as_label`] calls a user.
const USER: &str = "user";
/// A file with more is none of ours: each of as many accounts as there may be has some hundred bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The file, and what stands in it.
pub struct QuotaFile {
    path: PathBuf,
    /// Held for as long as this is: two that wrote the same file would each forget the other's.
    _lock: Lock,
    accounts: BTreeMap<String, Entry>,
    /// Whether all of them stand in the file.
    is_written: bool,
}

#[derive(Serialize, Deserialize)]
struct Page {
    version: u32,
    accounts: Vec<Entry>,
}

/// One account, as written.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    scope: String,
    /// Of a user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    team: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    measure: String,
    per: String,
    /// Unix seconds.
    window_begin: u64,
    amount: u64,
}

impl QuotaFile {
    /// Opens it, or will make it with the first write. Gives what was settled.
    ///
    /// # Errors
    /// It cannot be read, or is none: budgets must not begin anew because a file was damaged. Or
    /// somebody else has it open.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Settled>)> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lock = Lock::alone(make_file(&path.with_extension("lock"))?)
            .map_err(|error| busy(error, "another process has it"))?;
        // What a crash left of a write. Users' names are in it, also of those who were forgotten since.
        match std::fs::remove_file(draft(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = Self {
            path: path.to_owned(),
            _lock: lock,
            accounts: BTreeMap::new(),
            is_written: true,
        };
        let text = match std::fs::metadata(path) {
            Ok(found) if found.len() > FILE_BYTES_MAX => {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(_) => std::fs::read(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, Vec::new())),
            Err(error) => return Err(error),
        };
        let page: Page = serde_json::from_slice(&text)?;
        if page.version != VERSION {
            let words = "is of a version that is not known here";
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        let mut settled = Vec::with_capacity(page.accounts.len());
        for entry in page.accounts {
            // What a later version counts is kept as it is.
            settled.extend(entry.read());
            file.accounts.insert(entry.place(), entry);
        }
        Ok((file, settled))
    }

    /// Forgets what was written of a user, also what nobody counts any more: it is gone with the next write.
    /// Gives how many accounts it was.
    pub fn forget(&mut self, team: Option<&TeamId>, user: &UserId) -> u64 {
        let before = self.accounts.len();
        self.accounts.retain(|_, entry| {
            let is_theirs = entry.scope == USER && entry.name == user.as_str();
            !is_theirs || team.is_some_and(|team| entry.team != team.as_str())
        });
        let gone = before - self.accounts.len();
        self.is_written &= gone == 0;
        gone as u64
    }

    /// Writes what changed over what was.
    ///
    /// # Errors
    /// The disk's. What changed is written with the next call that succeeds.
    pub fn write(&mut self, changed: &[Settled]) -> io::Result<()> {
        if self.is_written && changed.is_empty() {
            return Ok(());
        }
        self.is_written = false;
        for settled in changed {
            let entry = Entry::of(settled);
            match settled.amount {
                0 => self.accounts.remove(&entry.place()),
                _ => self.accounts.insert(entry.place(), entry),
            };
        }
        let page = Page {
            version: VERSION,
            accounts: self.accounts.values().cloned().collect(),
        };
        let text = serde_json::to_vec(&page)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let fresh = draft(&self.path);
        // Users' names are in it.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        // The name is safe once its folder is.
        File::open(folder)?.sync_all()?;
        self.is_written = true;
        Ok(())
    }
}

/// Where a file is written before it takes its place.
fn draft(path: &Path) -> PathBuf {
    path.with_extension("new")
}

impl Entry {
    fn of(settled: &Settled) -> Self {
        let (team, name) = match &settled.scope {
            Scope::Organisation | Scope::Shadow => ("", ""),
            Scope::Team(team) => ("", team.as_str()),
            Scope::Key(key) => ("", key.as_str()),
            Scope::User(team, user) => (team.as_str(), user.as_str()),
            Scope::Tag(tag) => ("", tag.as_str()),
            Scope::Model(model) => ("", model.as_str()),
        };
        Self {
            scope: settled.scope.as_label().to_owned(),
            team: team.to_owned(),
            name: name.to_owned(),
            measure: settled.measure.as_label().to_owned(),
            per: settled.period.as_label().to_owned(),
            window_begin: settled.window_begin,
            amount: settled.amount,
        }
    }

    fn place(&self) -> String {
        // The names last: they may have any letters.
        let (scope, measure, per) = (&self.scope, &self.measure, &self.per);
        let (team, name) = (&self.team, &self.name);
        format!("{scope}\n{measure}\n{per}\n{}\n{team}\n{name}", team.len())
    }

    /// `None` for what is not known here.
    fn read(&self) -> Option<Settled> {
        let scope = match self.scope.as_str() {
            "organisation" => Scope::Organisation,
            "team" => Scope::Team(self.name.as_str().into()),
            "key" => Scope::Key(self.name.as_str().into()),
            USER => Scope::User(self.team.as_str().into(), self.name.as_str().into()),
            "tag" => Scope::Tag(self.name.as_str().into()),
            "model" => Scope::Model(self.name.as_str().into()),
            "shadow" => Scope::Shadow,
            _ => return None,
        };
        let mut measures = Measure::ALL.into_iter();
        let mut periods = Period::ALL.into_iter();
        Some(Settled {
            scope,
            measure: measures.find(|it| it.as_label() == self.measure)?,
            period: periods.find(|it| it.as_label() == self.per)?,
            window_begin: self.window_begin,
            amount: self.amount,
        })
    }
}

impl fmt::Debug for QuotaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuotaFile({} accounts)", self.accounts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(scope: Scope, amount: u64) -> Settled {
        Settled {
            scope,
            measure: Measure::Cost,
            period: Period::Month,
            window_begin: 1_793_491_200,
            amount,
        }
    }

    #[test]
    fn what_was_settled_is_found_again_and_the_later_amount_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/quotas.json");
        let (mut file, found) = QuotaFile::open(&path).unwrap();
        assert!(found.is_empty());
        let (key, team) = (Scope::Key("k\"\n".into()), Scope::Team("t".into()));
        file.write(&[settled(key.clone(), 5), settled(team.clone(), 7)])
            .unwrap();
        file.write(&[settled(key.clone(), 9), settled(Scope::Organisation, 3)])
            .unwrap();
        drop(file);
        let (_, mut found) = QuotaFile::open(&path).unwrap();
        found.sort_by_key(|settled| settled.amount);
        let expected = [
            settled(Scope::Organisation, 3),
            settled(team, 7),
            settled(key, 9),
        ];
        assert_eq!(found, expected);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            2
        );
    }

    #[test]
    fn a_damaged_file_is_no_new_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.json");
        for text in ["", "{", "[]", r#"{"version":2,"accounts":[]}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(QuotaFile::open(&path).is_err(), "{text}");
        }
        // What a later version of this form counts is kept, and not read.
        let text = r#"{"version":1,"accounts":[{"scope":"guild","name":"u","measure":"cost","per":"day","window_begin":1,"amount":2}]}"#;
        std::fs::write(&path, text).unwrap();
        let (mut file, found) = QuotaFile::open(&path).unwrap();
        assert!(found.is_empty());
        let other = Scope::Organisation;
        file.write(&[settled(other, 1)]).unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains(r#""name":"u""#)
        );
    }

    #[test]
    fn what_a_crash_left_of_a_write_goes_with_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.json");
        std::fs::write(draft(&path), "anna").unwrap();
        let (file, found) = QuotaFile::open(&path).unwrap();
        assert!(found.is_empty() && !draft(&path).exists());
        drop(file);
    }

    #[test]
    fn a_user_who_is_forgotten_stands_in_the_file_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.json");
        let (mut file, _) = QuotaFile::open(&path).unwrap();
        let user = |team: &str, name: &str| Scope::User(team.into(), name.into());
        let all = [
            settled(user("red", "anna"), 1),
            settled(user("blue", "anna"), 2),
            settled(user("red", "ben"), 3),
            settled(Scope::Key("anna".into()), 4),
        ];
        file.write(&all).unwrap();
        assert_eq!(file.forget(None, &"ann".into()), 0);
        assert_eq!(file.forget(Some(&"red".into()), &"anna".into()), 1);
        assert_eq!(file.forget(None, &"anna".into()), 1);
        file.write(&[]).unwrap();
        drop(file);
        let (_, mut found) = QuotaFile::open(&path).unwrap();
        found.sort_by_key(|settled| settled.amount);
        assert_eq!(found, all[2..]);
    }
}

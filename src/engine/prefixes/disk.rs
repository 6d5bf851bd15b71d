//! States on disk, across restarts.
//!
//! ```text
//! dir/key         32 random bytes, made once
//! dir/NAME.state  MAGIC, length of head: u32, head, tag of all before, state, tag of tag and state
//! ```
//! A state holds what a prompt and its reply said, so the folder is its owner's alone, and teams
//! are named by a digest under the key. llama.cpp does not survive every state that it did not
//! write. So nothing of a file is believed before its tag (HMAC-SHA-256 under the key) was checked,
//! and none is kept that another model, another way of running it or another version has written.
//!
//! While a file is being tried out it has another name: if that ends the process, the next one
//! finds it by that name and removes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hashing::{Hmac, HmacKey};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::decoder::{Fingerprint, Token};

/// The form's version is its last character.
const MAGIC: &[u8; 8] = b"hedgepx1";
const TAG_BYTES: usize = 32;
/// Room for the tokens of the longest context there is, some 16 million.
const HEAD_BYTES_MAX: u32 = 128 * 1024 * 1024;
/// Written between two looks at the clock.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Files looked at in one folder; what lies beyond is left alone, and unread.
const FILES_MAX: usize = 4_096;

const STATE: &str = "state";
const TRYING: &str = "trying";
const PART: &str = "part";

/// A file's name without its ending: the beginning of its head's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId([u8; 16]);

/// A file that a later prompt may ask for.
pub(super) struct Kept {
    pub owner: [u8; 32],
    pub tokens: Vec<Token>,
    pub bytes: usize,
    pub file: FileId,
}

#[derive(Serialize, Deserialize)]
struct Head {
    fingerprint: Fingerprint,
    owner: [u8; 32],
    tokens: Vec<Token>,
    state_bytes: u64,
}

/// This node's own, known to nobody else.
#[derive(Clone)]
pub(super) struct Key(HmacKey);

impl Key {
    pub(super) fn random() -> Self {
        Self(HmacKey::new(&rand::random::<[u8; 32]>()))
    }

    pub(super) fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        let mut mac = self.0.begin();
        parts.iter().for_each(|part| mac.update(part));
        mac.finish()
    }
}

/// A model's folder.
pub(super) struct Disk {
    dir: PathBuf,
    fingerprint: Fingerprint,
    key: Key,
}

/// Why a file is no state of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unsound {
    #[error("it cannot be read: {0}")]
    Io(io::ErrorKind),
    #[error("others may read or write it")]
    Open,
    #[error("it is of another version")]
    Version,
    #[error("it is of another model or another way of running it")]
    Foreign,
    #[error("it is damaged")]
    Damaged,
}

impl From<io::Error> for Unsound {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Unsound::Damaged,
            kind => Unsound::Io(kind),
        }
    }
}

impl Disk {
    /// Makes the folder and its key where there are none, and lists what it holds, the longest
    /// unused first. Files that are not sound go, and the longest unused beyond the bounds.
    ///
    /// # Errors
    /// The folder cannot be used, or others than its owner may.
    pub(super) fn open(
        dir: &Path,
        fingerprint: Fingerprint,
        files_max: usize,
        bytes_max: usize,
    ) -> io::Result<(Self, Key, Vec<Kept>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let folder = fs::symlink_metadata(dir)?;
        if !folder.is_dir() || !is_private(&folder) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the folder must be this user's own, and closed to all others (mode 0700)",
            ));
        }
        let key = key(&dir.join("key"))?;
        let disk = Self {
            dir: dir.to_owned(),
            fingerprint,
            key: key.clone(),
        };
        let mut kept = disk.list()?;
        kept.sort_by_key(|(modified, _)| *modified);
        let mut kept: Vec<Kept> = kept.into_iter().map(|(_, kept)| kept).collect();
        let mut bytes: usize = kept.iter().map(|kept| kept.bytes).sum();
        let mut beyond = 0;
        while kept.len() - beyond > files_max || (bytes > bytes_max && beyond < kept.len()) {
            bytes -= kept[beyond].bytes;
            disk.remove(kept[beyond].file);
            beyond += 1;
        }
        kept.drain(..beyond);
        Ok((disk, key, kept))
    }

    fn list(&self) -> io::Result<Vec<(SystemTime, Kept)>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)?.take(FILES_MAX) {
            let path = entry?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let (Some(ending), Some(id)) = (ending, id.and_then(FileId::read)) else {
                continue;
            };
            match ending {
                STATE => match self.look(&path, id) {
                    Ok(found) => kept.push(found),
                    Err(reason) => discard(&path, reason),
                },
                // Left by a process that ended while it was at it.
                TRYING | PART => remove_file(&path),
                _ => {}
            }
        }
        Ok(kept)
    }

    fn look(&self, path: &Path, id: FileId) -> Result<(SystemTime, Kept), Unsound> {
        let mut file = open(path)?;
        let metadata = file.metadata()?;
        let (head, tag) = self.head(&mut file, metadata.len())?;
        if FileId::of(&tag) != id {
            return Err(Unsound::Damaged);
        }
        let kept = Kept {
            owner: head.owner,
            tokens: head.tokens,
            bytes: usize::try_from(metadata.len()).map_err(|_| Unsound::Damaged)?,
            file: id,
        };
        Ok((metadata.modified()?, kept))
    }

    /// The head and its tag, of a file that is as long as its head says.
    fn head(&self, file: &mut File, length: u64) -> Result<(Head, [u8; TAG_BYTES]), Unsound> {
        let mut opening = [0; MAGIC.len() + 4];
        file.read_exact(&mut opening)?;
        let (magic, head_bytes) = opening.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Unsound::Version);
        }
        let head_bytes = u32::from_le_bytes(head_bytes.try_into().map_err(|_| Unsound::Damaged)?);
        if head_bytes > HEAD_BYTES_MAX || u64::from(head_bytes) > length {
            return Err(Unsound::Damaged);
        }
        let mut head = vec![0; head_bytes as usize];
        file.read_exact(&mut head)?;
        let mut tag = [0; TAG_BYTES];
        file.read_exact(&mut tag)?;
        let mut mac = self.key.0.begin();
        mac.update(opening);
        mac.update(&head);
        if !mac.is(&tag) {
            return Err(Unsound::Damaged);
        }
        let ours: Head = postcard::from_bytes(&head).map_err(|_| Unsound::Damaged)?;
        if ours.fingerprint != self.fingerprint {
            return Err(Unsound::Foreign);
        }
        let around = opening.len() + head.len() + 2 * TAG_BYTES;
        if ours.state_bytes.checked_add(around as u64) != Some(length) {
            return Err(Unsound::Damaged);
        }
        Ok((ours, tag))
    }

    /// Begins to read the state in a file, which has another name from now on until it is trusted or
    /// removed. `None`, and a line in the log, when it is not as it was written; then it is gone.
    pub(super) fn begin(&self, id: FileId) -> Option<Reading> {
        let path = self.path(id, TRYING);
        let begun = fs::rename(self.path(id, STATE), &path)
            .map_err(Unsound::from)
            .and_then(|()| self.reading(&path, id));
        begun.map_err(|reason| discard(&path, reason)).ok()
    }

    fn reading(&self, path: &Path, id: FileId) -> Result<Reading, Unsound> {
        let mut file = open(path)?;
        let length = file.metadata()?.len();
        let (head, head_tag) = self.head(&mut file, length)?;
        let mut mac = self.key.0.begin();
        mac.update(head_tag);
        // Its length is the file's own, as was just checked.
        let state_bytes = usize::try_from(head.state_bytes).map_err(|_| Unsound::Damaged)?;
        Ok(Reading {
            id,
            path: path.to_owned(),
            file,
            mac,
            state: vec![0; state_bytes],
            read: 0,
        })
    }

    /// Its state was restored, and nothing bad came of it.
    pub(super) fn trust(&self, id: FileId) {
        let path = self.path(id, STATE);
        let trusted = fs::rename(self.path(id, TRYING), &path)
            .and_then(|()| File::open(&path)?.set_modified(SystemTime::now()));
        if let Err(error) = trusted {
            warn!(%error, "a prefix's file was lost");
        }
    }

    /// Writes one file, whole or not at all. `None` when it became late.
    pub(super) fn write(
        &self,
        owner: [u8; 32],
        tokens: &[Token],
        state: &[u8],
        is_late: &dyn Fn() -> bool,
    ) -> io::Result<Option<FileId>> {
        let head = Head {
            fingerprint: self.fingerprint,
            owner,
            tokens: tokens.to_vec(),
            state_bytes: state.len() as u64,
        };
        let head = postcard::to_allocvec(&head).map_err(io::Error::other)?;
        let head_bytes = u32::try_from(head.len()).map_err(io::Error::other)?;
        let opening = [&MAGIC[..], &head_bytes.to_le_bytes()].concat();
        let head_tag = self.key.tag(&[&opening, &head]);
        let id = FileId::of(&head_tag);
        let part = self.path(id, PART);
        let written = self.write_part(&part, &[&opening, &head, &head_tag], state, is_late);
        match written {
            Ok(true) => {
                fs::rename(&part, self.path(id, STATE))?;
                Ok(Some(id))
            }
            Ok(false) => {
                remove_file(&part);
                Ok(None)
            }
            Err(error) => {
                remove_file(&part);
                Err(error)
            }
        }
    }

    fn write_part(
        &self,
        part: &Path,
        head: &[&[u8]],
        state: &[u8],
        is_late: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        // Of an earlier try, if any.
        remove_file(part);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(part)?;
        head.iter().try_for_each(|bytes| file.write_all(bytes))?;
        let mut mac = self.key.0.begin();
        mac.update(head.last().unwrap_or(&&[][..]));
        for chunk in state.chunks(CHUNK_BYTES) {
            if is_late() {
                return Ok(false);
            }
            mac.update(chunk);
            file.write_all(chunk)?;
        }
        file.write_all(&mac.finish())?;
        Ok(true)
    }

    pub(super) fn remove(&self, id: FileId) {
        remove_file(&self.path(id, STATE));
        remove_file(&self.path(id, TRYING));
    }

    fn path(&self, id: FileId, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", id.name()))
    }
}

/// A state that is read piece by piece: one may be as long as what takes a disk seconds.
pub(super) struct Reading {
    id: FileId,
    path: PathBuf,
    file: File,
    mac: Hmac,
    state: Vec<u8>,
    /// How much of it was read.
    read: usize,
}

/// What became of a file that is read.
pub(super) enum Progress {
    /// There is more to read.
    Part,
    Whole(Vec<u8>),
    /// It is not as it was written, and gone.
    Lost,
}

impl Reading {
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Reads up to `bytes_max` more. Not to be asked again once it is whole or lost.
    pub(super) fn go_on(&mut self, bytes_max: usize) -> Progress {
        match self.read_on(bytes_max) {
            Ok(false) => Progress::Part,
            Ok(true) => Progress::Whole(std::mem::take(&mut self.state)),
            Err(reason) => {
                discard(&self.path, reason);
                Progress::Lost
            }
        }
    }

    /// True when all is there and as it was written.
    fn read_on(&mut self, bytes_max: usize) -> Result<bool, Unsound> {
        let end = self.read.saturating_add(bytes_max).min(self.state.len());
        for chunk in self.state[self.read..end].chunks_mut(CHUNK_BYTES) {
            self.file.read_exact(chunk)?;
            self.mac.update(chunk);
        }
        self.read = end;
        if end < self.state.len() {
            return Ok(false);
        }
        let mut tag = [0; TAG_BYTES];
        self.file.read_exact(&mut tag)?;
        if !self.mac.clone().is(&tag) {
            return Err(Unsound::Damaged);
        }
        Ok(true)
    }
}

impl FileId {
    fn of(tag: &[u8; TAG_BYTES]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&tag[..16]);
        Self(id)
    }

    fn name(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    fn read(name: &str) -> Option<Self> {
        let id = Self(u128::from_str_radix(name, 16).ok()?.to_be_bytes());
        (id.name() == name).then_some(id)
    }
}

/// The folder's key. One that others could know or have made is replaced, and with it goes all
/// that was written under it.
fn key(path: &Path) -> io::Result<Key> {
    if let Ok(mut file) = open(path) {
        let mut key = [0; 32];
        if file.metadata()?.len() == key.len() as u64 && file.read_exact(&mut key).is_ok() {
            return Ok(Key(HmacKey::new(&key)));
        }
    }
    remove_file(path);
    let key: [u8; 32] = rand::random();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&key)?;
    Ok(Key(HmacKey::new(&key)))
}

/// A file of this user's own that nobody else may read or write.
fn open(path: &Path) -> Result<File, Unsound> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(Unsound::Open);
    }
    let file = File::open(path)?;
    if !is_private(&file.metadata()?) {
        return Err(Unsound::Open);
    }
    Ok(file)
}

fn is_private(metadata: &fs::Metadata) -> bool {
    metadata.mode() & 0o077 == 0 && metadata.uid() == rustix::process::geteuid().as_raw()
}

fn discard(path: &Path, reason: Unsound) {
    warn!(%reason, "a prefix's file is not used and removed");
    remove_file(path);
}

/// It may be gone already, or never have been.
fn remove_file(path: &Path) {
    let _ = fs::remove_file(path);
}

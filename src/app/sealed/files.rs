//! Files that hold keys and state: there whole or not at all, and for this user's eyes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A key, a certificate chain or a policy, in bytes. A longer file is refused unread.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// This user.
    Own,
    /// Everybody on this machine.
    All,
}

impl Eyes {
    fn mode(self) -> u32 {
        match self {
            Self::Own => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Makes the folder, and those above it, unless it is there.
///
/// # Errors
/// It cannot be made.
pub fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Puts a file in the place of what was there: whoever reads it sees the one or the other.
///
/// # Errors
/// Then what was there still is.
pub fn put(path: &Path, bytes: &[u8], eyes: Eyes) -> io::Result<()> {
    let draft = draft(path, bytes, eyes)?;
    let put = fs::rename(&draft, path).and_then(|()| sync_folder(path));
    if put.is_err() {
        let _ = fs::remove_file(&draft);
    }
    put
}

/// The same for a file that is not there yet. Of two at once, one wins.
///
/// # Errors
/// `AlreadyExists` where it is there.
pub fn put_new(path: &Path, bytes: &[u8], eyes: Eyes) -> io::Result<()> {
    let draft = draft(path, bytes, eyes)?;
    let put = fs::hard_link(&draft, path).and_then(|()| sync_folder(path));
    let _ = fs::remove_file(&draft);
    put
}

/// A configuration that is not there yet. It may hold secrets.
///
/// # Errors
/// `AlreadyExists` where it is there.
pub fn make_new_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_new(path, bytes, Eyes::Own)
}

/// A configuration in the place of what was there, for the same eyes.
///
/// # Errors
/// Then what was there still is.
pub fn put_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let before = fs::metadata(path);
    let draft = draft(path, bytes, Eyes::Own)?;
    let put = match before {
        Ok(before) => fs::set_permissions(&draft, before.permissions()),
        Err(_) => Ok(()),
    };
    // A link stays one: what it leads to is replaced.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let put = put.and_then(|()| fs::rename(&draft, &place));
    if put.is_err() {
        let _ = fs::remove_file(&draft);
    }
    put.and_then(|()| sync_folder(path))
}

/// Reads a text, and wipes what was read once it is dropped.
///
/// # Errors
/// It cannot be read, is too long, or is no text.
pub fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    read_up_to(path, FILE_BYTES_MAX)
}

/// The same for a file of another length, in bytes.
///
/// # Errors
/// As above.
fn read_up_to(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let mut text = Zeroizing::new(String::new());
    file.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// The same; `None` where there is no such file.
///
/// # Errors
/// As above.
pub fn read_if_there(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    read_if_there_up_to(path, FILE_BYTES_MAX)
}

/// The same for a file of another length, in bytes.
///
/// # Errors
/// As above.
pub fn read_if_there_up_to(path: &Path, bytes_max: u64) -> io::Result<Option<Zeroizing<String>>> {
    match read_up_to(path, bytes_max) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the file was there.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file beside `path`, written to the disk. Names of drafts begin with a dot.
fn draft(path: &Path, bytes: &[u8], eyes: Eyes) -> io::Result<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let number: u64 = rand::random();
    let draft = folder.join(format!(".{}.{number:016x}", name.to_string_lossy()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(eyes.mode())
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    match written {
        Ok(()) => Ok(draft),
        Err(error) => {
            let _ = fs::remove_file(&draft);
            Err(error)
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_put_is_whole_private_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        put(&path, b"one", Eyes::Own).unwrap();
        put(&path, b"two", Eyes::Own).unwrap();
        assert_eq!(*read(&path).unwrap(), "two");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = put_new(&path, b"three", Eyes::Own).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(*read(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(read_if_there(&path).unwrap().is_none());
    }
}

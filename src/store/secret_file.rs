//! A secret in a file of its own, which is its owner's alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub const SECRET_BYTES: usize = 32;

/// # Errors
/// It is not there, is none, or others than this user may read it.
pub fn read(path: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    let mut file = open(path)?;
    let mut bytes = [0; SECRET_BYTES];
    file.read_exact(&mut bytes)?;
    match file.read(&mut [0])? {
        0 => Ok(bytes),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One that somebody wrote down.
///
/// # Errors
/// It is not there, is longer than `bytes_max`, or others than this user may read it.
pub fn read_text(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let count = open(path)?
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    match count > bytes_max {
        false => Ok(text),
        true => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        let words = "others than its owner may use it; set its mode to 0600";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    Ok(file)
}

/// Writes a file that is not there yet; it is on the disk when this returns.
///
/// # Errors
/// There is one, or the disk's.
pub fn write_new(path: &Path, secret: &[u8; SECRET_BYTES]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(secret)?;
    file.sync_all()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

//! A replica's own name, which keeps its records apart from those of others.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

/// In the folder of its records.
const FILE_NAME: &str = "replica";

/// A name that nobody else has.
pub fn fresh() -> String {
    Uuid::now_v7().simple().to_string()
}

/// The name that is kept in `dir`, made where there is none. It must outlive the process: a record whose
/// fate is unknown is sent again under it.
///
/// # Errors
/// It can neither be read nor made.
pub fn of(dir: &Path) -> io::Result<String> {
    let path = dir.join(FILE_NAME);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    // Whole or not at all, also where two start at once.
    let draft = dir.join(format!("{FILE_NAME}.{}", fresh()));
    loop {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let name = Uuid::try_parse(text.trim()).map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the replica's name is damaged; remove the file `replica`",
                    )
                })?;
                return Ok(name.simple().to_string());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = options.open(&draft)?;
        file.write_all(fresh().as_bytes())?;
        file.sync_all()?;
        drop(file);
        let linked = std::fs::hard_link(&draft, &path);
        std::fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_name_for_ever() {
        let folder = tempfile::TempDir::new().unwrap();
        let name = of(folder.path()).unwrap();
        assert_eq!(name.len(), 32);
        assert_eq!(of(folder.path()).unwrap(), name);
        let names = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(names.count(), 1, "and nothing is left over");
        std::fs::write(folder.path().join(FILE_NAME), "x").unwrap();
        assert!(of(folder.path()).is_err());
        let other = tempfile::TempDir::new().unwrap();
        assert_ne!(of(other.path()).unwrap(), name);
    }
}

//! The secret that users' names and tags are marked with.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use domain::{Mark, Marker, Subject, Who};
use hashing::{Hmac, HmacKey};
use uuid::Uuid;

use crate::own_files::make_dir;
use crate::secret_file::{self, SECRET_BYTES};

/// In the folder of the records.
pub const FILE_NAME: &str = "subjects.key";

/// Bytes of what stands for somebody in the audit log.
const TRACE_BYTES: usize = 8;

/// What marks and traces are made of: HMAC-SHA-256 over one of these words, and what is meant, each with
/// its length before it.
const MARK: &[u8] = b"hedge: mark";
const TRACE: &[u8] = b"hedge: trace";
const NOBODY: &[u8] = b"hedge: nobody";

/// A secret that outlives the process, in a file that is this user's alone. Without it marks that were
/// made with it stand for nobody any more.
#[derive(Clone, PartialEq, Eq)]
pub struct SubjectSecret([u8; SECRET_BYTES]);

impl SubjectSecret {
    #[must_use]
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// One that nobody keeps.
    #[must_use]
    pub fn fresh() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        // Each has 122 bits of the system's randomness: three of them are more than enough.
        let mut mac = Self(bytes).mac(b"hedge: fresh");
        (0..3).for_each(|_| mac.update(Uuid::new_v4().as_bytes()));
        bytes.copy_from_slice(&mac.finish());
        Self(bytes)
    }

    /// The one that is kept in `dir`, made where there is none.
    ///
    /// # Errors
    /// It can neither be read nor made, is none, or others than this user may read it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        make_dir(dir)?;
        let fresh = Self::fresh();
        let draft = dir.join(format!("{FILE_NAME}.{}", Uuid::new_v4().simple()));
        loop {
            match Self::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
            // Whole or not at all, also where two start at once.
            fresh.write_new(&draft)?;
            let linked = std::fs::hard_link(&draft, &path);
            std::fs::remove_file(&draft)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => File::open(dir)?.sync_all()?,
            }
        }
    }

    /// The one that is kept in `dir`; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn find(dir: &Path) -> io::Result<Option<Self>> {
        match Self::read(&dir.join(FILE_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    fn read(path: &Path) -> io::Result<Self> {
        secret_file::read(path).map(Self)
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        secret_file::write_new(path, &self.0)
    }

    /// The id that a record has once it is nobody's, in place of the one that its caller may have chosen: for
    /// each name always the same, so that a copy of it that comes later is the same record.
    pub(crate) fn nobodys_id(&self, ended_us: i64, request_id: &str) -> String {
        let mut mac = self.mac(NOBODY);
        update(&mut mac, &ended_us.to_le_bytes());
        update(&mut mac, request_id.as_bytes());
        let digest = mac.finish();
        let digits = digest.iter().take(Mark::BYTES);
        digits.map(|byte| format!("{byte:02x}")).collect()
    }

    /// As it is told to those who find what it marked.
    pub(crate) fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    fn mac(&self, word: &[u8]) -> Hmac {
        let mut mac = HmacKey::new(&self.0).begin();
        update(&mut mac, word);
        mac
    }
}

fn update(mac: &mut Hmac, part: &[u8]) {
    mac.update((part.len() as u64).to_le_bytes());
    mac.update(part);
}

impl Marker for SubjectSecret {
    fn mark(&self, who: &Who) -> Mark {
        let mut mac = self.mac(MARK);
        update(&mut mac, who.as_label().as_bytes());
        update(&mut mac, who.name().as_bytes());
        let digest = mac.finish();
        let mut mark = [0; Mark::BYTES];
        mark.copy_from_slice(&digest[..Mark::BYTES]);
        Mark(mark)
    }

    fn trace(&self, subject: &Subject) -> String {
        let mut mac = self.mac(TRACE);
        update(&mut mac, subject.who.as_label().as_bytes());
        update(&mut mac, subject.who.name().as_bytes());
        let digest = mac.finish();
        let digits = digest.iter().take(TRACE_BYTES);
        digits.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Marks of a node that shares kept replies with others: on those they are made with a secret of all.
#[derive(Clone)]
pub struct SharedMarks {
    own: SubjectSecret,
    on_replies: SubjectSecret,
}

impl SharedMarks {
    #[must_use]
    pub fn new(own: SubjectSecret, on_replies: [u8; SECRET_BYTES]) -> Self {
        Self {
            own,
            on_replies: SubjectSecret::new(on_replies),
        }
    }
}

impl Marker for SharedMarks {
    fn mark(&self, who: &Who) -> Mark {
        self.own.mark(who)
    }

    fn mark_on_replies(&self, who: &Who) -> Mark {
        self.on_replies.mark(who)
    }

    fn trace(&self, subject: &Subject) -> String {
        self.own.trace(subject)
    }
}

impl fmt::Debug for SharedMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedMarks")
    }
}

impl fmt::Debug for SubjectSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectSecret")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_has_one_secret_that_nobody_else_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("made");
        let secret = SubjectSecret::open(&dir).unwrap();
        assert!(SubjectSecret::open(&dir).unwrap() == secret);
        let names = std::fs::read_dir(&dir).unwrap();
        assert_eq!(names.count(), 1, "and nothing is left over");
        let path = dir.join(FILE_NAME);
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode));
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        mode(0o640).unwrap();
        assert!(SubjectSecret::open(&dir).is_err());
        mode(0o600).unwrap();
        for odd in [&b"short"[..], &[1; 33]] {
            std::fs::write(&path, odd).unwrap();
            assert!(SubjectSecret::open(&dir).is_err());
        }
    }

    #[test]
    fn a_mark_is_of_one_word_of_one_kind_under_one_secret() {
        let (one, two) = (SubjectSecret::new([1; 32]), SubjectSecret::new([2; 32]));
        let user = |name: &str| Who::User(name.into());
        let marks = [
            one.mark(&user("anna")),
            one.mark(&user("ann")),
            one.mark(&user("")),
            one.mark(&Who::Tag("anna".into())),
            two.mark(&user("anna")),
        ];
        for (at, mark) in marks.iter().enumerate() {
            assert!(!marks[..at].contains(mark), "{at}");
        }
        assert_eq!(marks[0], one.mark(&user("anna")));
        assert!(SubjectSecret::fresh() != SubjectSecret::fresh());
        let subject = Subject {
            who: user("anna"),
            team: None,
        };
        let trace = one.trace(&subject);
        assert_eq!(trace.len(), 2 * TRACE_BYTES);
        assert!(!marks[0].to_string().contains(&trace));
    }
}

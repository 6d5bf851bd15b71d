//! States across restarts, and files that are not what they were.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("m-tiny")
    }

    fn open(&self) -> Prefixes {
        self.open_as(FINGERPRINT)
    }

    fn open_as(&self, fingerprint: Fingerprint) -> Prefixes {
        let mut rules = RULES;
        rules.dir = Some(self.path());
        Prefixes::open(rules, fingerprint, true)
    }

    fn of(saved: &[Token]) -> Self {
        Self::with(&[saved.to_vec()])
    }

    /// With what each of `all` has saved, by a process that has ended.
    fn with(all: &[Vec<Token>]) -> Self {
        let folder = Self::new();
        let mut store = folder.open();
        let owner = red(&store);
        for tokens in all {
            put(&mut store, owner, tokens);
        }
        store.write(&|| false);
        folder
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|has| has == ending))
            .collect()
    }

    fn finds(&self, prompt: &[Token]) -> bool {
        let mut store = self.open();
        let owner = red(&store);
        find(&mut store, owner, prompt, 0).is_some()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_state_outlives_its_process() {
    let saved = tokens(1, 500, 2);
    let folder = Folder::of(&saved);
    // Twice: what was read and not asked for since is still there.
    for _ in 0..2 {
        let mut store = folder.open();
        let owner = red(&store);
        assert_eq!(store.memory_bytes(), 0, "read when it is asked for");
        let found = find(&mut store, owner, &tokens(1, 500, 3), 0).unwrap();
        assert_eq!((found.common, found.count), (500, 600));
        assert_eq!(*found.state, state(&saved));
        assert!(store.memory_bytes() > 0);
        store.write(&|| false);
        assert_eq!(folder.files("state").len(), 1);
    }
}

#[test]
fn files_are_their_owners_alone_and_name_no_team() {
    let folder = Folder::with(&[tokens(1, 500, 2)]);
    assert_eq!(mode(&folder.path()), 0o700);
    let files = folder.files("state");
    for file in files.iter().chain([&folder.path().join("key")]) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(3).any(|window| window == b"red"));
    }
}

#[test]
fn teams_are_kept_apart_on_disk_too() {
    let saved = tokens(1, 500, 2);
    let folder = Folder::of(&saved);
    let mut store = folder.open();
    for team in [Some("blue".into()), None] {
        let owner = store.owner(team.as_ref());
        assert!(find(&mut store, owner, &saved, 0).is_none());
    }
    let mut rules = RULES;
    (rules.dir, rules.scope) = (Some(folder.path()), PrefixScope::Global);
    let mut all = Prefixes::open(rules, FINGERPRINT, true);
    let owner = red(&all);
    assert!(
        find(&mut all, owner, &saved, 0).is_none(),
        "not by a setting either"
    );
}

/// Each way a file can be other than it was written: it is neither used nor kept.
#[test]
fn files_that_are_not_as_they_were_written_are_removed() {
    type Harm = fn(&Path);

    fn cut(path: &Path, keep: fn(usize) -> usize) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..keep(bytes.len())]).unwrap();
    }
    fn flipped(path: &Path, at: fn(usize) -> usize) {
        let mut bytes = fs::read(path).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let harms: [(&str, Harm); 14] = [
        ("its version", |path| flipped(path, |_| 7)),
        ("its length of head", |path| flipped(path, |_| 8)),
        ("a huge length of head", |path| flipped(path, |_| 11)),
        ("its fingerprint", |path| flipped(path, |_| 12)),
        ("its owner", |path| flipped(path, |_| 12 + 33)),
        ("a token", |path| flipped(path, |_| 12 + 70)),
        ("a byte of the state", |path| {
            flipped(path, |length| length / 2)
        }),
        ("its last tag", |path| flipped(path, |length| length - 1)),
        ("empty", |path| cut(path, |_| 0)),
        ("cut in the head", |path| cut(path, |_| 100)),
        ("cut in the state", |path| cut(path, |length| length / 2)),
        ("cut by a byte", |path| cut(path, |length| length - 1)),
        ("longer", |path| {
            let bytes = [fs::read(path).unwrap(), vec![0]].concat();
            fs::write(path, bytes).unwrap();
        }),
        ("open to others", |path| {
            fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
        }),
    ];
    for (name, harm) in harms {
        let saved = tokens(1, 5_000, 2);
        let folder = Folder::of(&saved);
        let [file] = &folder.files("state")[..] else {
            panic!("one state, one file");
        };
        harm(file);
        assert!(!folder.finds(&saved), "{name}");
        assert!(!file.exists(), "{name}");
        assert!(folder.files("trying").is_empty(), "{name}");
    }
}

/// Harmed after it was listed, so that only its reading can tell.
#[test]
fn a_file_is_checked_again_when_it_is_read() {
    let (one, other) = (tokens(1, 500, 2), tokens(1, 400, 3));
    let folder = Folder::with(&[one.clone(), other]);
    let mut store = folder.open();
    let owner = red(&store);
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let longest = folder
        .files("state")
        .into_iter()
        .max_by_key(length)
        .unwrap();
    let mut bytes = fs::read(&longest).unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 1;
    fs::write(&longest, bytes).unwrap();
    // The next best serves instead.
    assert_eq!(find(&mut store, owner, &one, 0).unwrap().common, 400);
    assert!(!longest.exists());
    fs::remove_file(&folder.files("state")[0]).unwrap();
    let mut store = folder.open();
    assert!(find(&mut store, owner, &one, 0).is_none(), "it is gone");
}

#[test]
fn another_models_files_are_removed() {
    let saved = tokens(1, 500, 2);
    let folder = Folder::of(&saved);
    let store = folder.open_as([8; 32]);
    assert!(store.entries.is_empty() && folder.files("state").is_empty());
}

#[test]
fn without_the_key_nothing_is_believed() {
    for harm in [
        |key: &Path| fs::remove_file(key).unwrap(),
        |key: &Path| fs::write(key, [0; 31]).unwrap(),
        |key: &Path| fs::set_permissions(key, Permissions::from_mode(0o604)).unwrap(),
    ] {
        let saved = tokens(1, 500, 2);
        let folder = Folder::of(&saved);
        harm(&folder.path().join("key"));
        assert!(!folder.finds(&saved));
        assert_eq!(mode(&folder.path().join("key")), 0o600);
    }
}

#[test]
fn a_folder_that_others_may_enter_is_not_used() {
    let folder = Folder::with(&[tokens(1, 500, 2)]);
    fs::set_permissions(folder.path(), Permissions::from_mode(0o750)).unwrap();
    let store = folder.open();
    assert!(!store.has_disk() && store.is_on(), "in memory it goes on");
    // Nor a file, nor a link to a folder of the right kind.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    let link = folder.0.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    for path in [link, folder.path().join("key")] {
        let mut rules = RULES;
        rules.dir = Some(path);
        assert!(!Prefixes::open(rules, FINGERPRINT, true).has_disk());
    }
}

/// Seen: half a gigabyte was read in one step, and all replies stood still for as long.
#[test]
fn a_file_is_read_a_piece_at_a_time_and_trusted_once_it_was_restored() {
    let saved = [tokens(1, 500, 2), tokens(3, 500, 2)];
    let folder = Folder::with(&saved);
    let mut store = folder.open();
    let owner = red(&store);
    let bytes = state(&saved[0]).len();
    let mut looks = 0;
    let found = loop {
        looks += 1;
        // Somebody else asks for another now and then, and helps.
        let sought = store.find(Wanted {
            owner,
            prompt: &saved[usize::from(looks % 3 == 0)],
            held: 0,
            count_max: 1_000,
            token_s: None,
            read_bytes_max: bytes / 5,
        });
        match sought.expect("it is on disk") {
            Sought::BeingRead => assert!(looks < 20),
            Sought::Found(found) if looks % 3 != 0 => break found,
            Sought::Found(_) => {}
        }
    };
    assert!(looks >= 5, "{looks}");
    assert_eq!(*found.state, state(&saved[0]));
    store.restored(&found, true);
    drop(store);
    assert!(folder.finds(&saved[0]));
}

#[test]
fn a_file_that_ended_a_process_is_not_tried_again() {
    let saved = tokens(1, 500, 2);
    let folder = Folder::of(&saved);
    let mut store = folder.open();
    let found = store.find(Wanted {
        owner: red(&store),
        prompt: &saved,
        held: 0,
        count_max: 1_000,
        token_s: None,
        read_bytes_max: usize::MAX,
    });
    // Restoring it ends the process here.
    assert!(found.is_some());
    drop(store);
    assert!(!folder.finds(&saved));
    assert!(folder.files("trying").is_empty());
}

#[test]
fn a_stop_without_time_writes_what_it_can_and_no_halves() {
    let folder = Folder::new();
    let mut store = folder.open();
    let owner = red(&store);
    let (long, short) = (tokens(1, 70_000, 1), tokens(2, 500, 2));
    put(&mut store, owner, &short);
    put(&mut store, owner, &long);
    // Late after the first of the long one's two pieces.
    let looks = std::cell::Cell::new(0);
    store.write(&|| {
        looks.set(looks.get() + 1);
        looks.get() > 2
    });
    assert!(folder.files("state").is_empty() && folder.files("part").is_empty());
    store.write(&|| false);
    assert_eq!(folder.files("state").len(), 2);
    // The most saved work comes first.
    let folder = Folder::new();
    let mut store = folder.open();
    let owner = red(&store);
    put(&mut store, owner, &short);
    put(&mut store, owner, &long);
    let looks = std::cell::Cell::new(0);
    store.write(&|| {
        looks.set(looks.get() + 1);
        looks.get() > 3
    });
    assert!(folder.finds(&long) && !folder.finds(&short));
}

#[test]
fn the_disk_holds_no_more_than_its_bytes() {
    let folder = Folder::new();
    let one = state(&tokens(1, 500, 2)).len() + 3_000;
    let limit = 3 * one;
    let open = || {
        let mut rules = RULES;
        (rules.dir, rules.bytes_max) = (Some(folder.path()), limit);
        Prefixes::open(rules, FINGERPRINT, true)
    };
    for family in 1..8 {
        // Each time a new process, which saves one more.
        let mut store = open();
        let owner = red(&store);
        put(&mut store, owner, &tokens(family, 500, family));
        store.write(&|| false);
        let sizes = folder.files("state");
        let sizes = sizes.iter().map(|file| fs::metadata(file).unwrap().len());
        assert!(sizes.sum::<u64>() <= limit as u64);
    }
    assert_eq!(folder.files("state").len(), 3);
    assert!(folder.finds(&tokens(7, 500, 7)), "the last is there");
    // A smaller bound than before, at the next start.
    let mut rules = RULES;
    (rules.dir, rules.bytes_max) = (Some(folder.path()), one);
    assert_eq!(Prefixes::open(rules, FINGERPRINT, true).entries.len(), 1);
    assert_eq!(folder.files("state").len(), 1);
}

#[test]
fn a_longer_states_file_takes_the_place_of_its_beginnings() {
    let saved = tokens(1, 200, 2);
    let folder = Folder::of(&saved);
    let mut store = folder.open();
    let owner = red(&store);
    put(&mut store, owner, &[saved.clone(), vec![9; 90]].concat());
    assert_eq!(folder.files("state").len(), 1);
    store.write(&|| true);
    assert!(
        folder.finds(&saved),
        "there was no time: it is still the old one"
    );
    store.write(&|| false);
    assert_eq!(folder.files("state").len(), 1);
    assert!(folder.finds(&[saved, vec![9; 90]].concat()));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let folder = Folder::with(&[tokens(1, 500, 2)]);
    let others = ["notes.txt", "abc.state", "0123.part"].map(|name| folder.path().join(name));
    for path in &others {
        fs::write(path, b"kept").unwrap();
    }
    assert!(folder.finds(&tokens(1, 500, 2)));
    assert!(others.iter().all(|path| path.exists()));
}

use std::fs::{self, Permissions};
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::{AdminChange, AuditLog as _, MicroUsd, SealedEntry, SealedResult, SealedSide};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::counts::Lost;
use super::line::{Kind, Line};
use super::writer::{Entry, Writer};
use super::*;

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn rules(dir: &Path) -> AuditRules {
    AuditRules {
        dir: dir.join("audit"),
        file_bytes_max: 1 << 20,
        keep_files: None,
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn entry(side: SealedSide, number: u64) -> SealedEntry {
    SealedEntry {
        at: at(number),
        side,
        edge: Some("branch-7".to_owned()),
        relay: "relay-1".to_owned(),
        certificate: Some("0a1b".to_owned()),
        key_id: 200,
        enc: format!("{number:016x}"),
        path: Some("/v1/chat/completions".to_owned()),
        model: Some("gpt-5".to_owned()),
        tokens_in: Some(10 + number),
        tokens_out: None,
        shape: Some("cells;512".to_owned()),
        bytes_up: 2_048,
        bytes_down: 4_096,
        status: Some(200),
        took: Duration::from_micros(1_500),
        cost: Some(MicroUsd(12)),
        result: SealedResult::Answered,
    }
}

pub(super) fn sealed(count: u64) -> Vec<Entry> {
    let entries = entries(count).into_iter();
    entries.map(|it| Entry::Sealed(Box::new(it))).collect()
}

fn entries(count: u64) -> Vec<SealedEntry> {
    (0..count).map(|it| entry(SealedSide::Edge, it)).collect()
}

pub(super) const NONE: Lost = Lost {
    count: 0,
    since_ms: 0,
};

fn files(dir: &Path) -> Vec<PathBuf> {
    let found = audit_files(&rules(dir).dir).unwrap();
    found.into_iter().map(|(_, path)| path).collect()
}

fn verified(dir: &Path, head: Option<&str>) -> AuditReport {
    let files = files(dir);
    let named = files.iter().map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    });
    of_bytes(&named.collect::<Vec<_>>(), head)
}

fn of_bytes(files: &[(String, Vec<u8>)], head: Option<&str>) -> AuditReport {
    let mut verifier = Verifier::new(head.map(str::to_owned));
    for (name, bytes) in files {
        // A small buffer, so that lines are in several.
        let reader = std::io::BufReader::with_capacity(37, Cursor::new(bytes));
        verifier.read(name, reader, |_| {}).unwrap();
    }
    verifier.finish()
}

fn of_text(bytes: &[u8], head: Option<&str>) -> AuditReport {
    of_bytes(&[("a".to_owned(), bytes.to_vec())], head)
}

/// Of eight lines.
fn log() -> (Vec<u8>, String) {
    let dir = folder();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    writer.write(&sealed(5), NONE).unwrap();
    let lost = Lost {
        count: 3,
        since_ms: 7,
    };
    writer.write(&sealed(1), lost).unwrap();
    let bytes = fs::read(&files(dir.path())[0]).unwrap();
    let report = of_text(&bytes, None);
    assert_eq!((report.breach_count, report.lines), (0, 8));
    assert_eq!((report.gaps, report.lost, report.entries), (1, 3, 6));
    (bytes, report.head.unwrap())
}

/// The digest and the form are computed here once more, by hand, and were with Python's `hashlib`.
#[test]
fn a_line_is_its_members_in_order_and_the_digest_of_all_before_it() {
    let mut out = Vec::new();
    let line = Line {
        seq: 0,
        prev: "0".repeat(64),
        kind: Kind::Begin,
        at_ms: 1_800_000_000_000,
        rest: super::line::Rest::default(),
    };
    let hash = line.write(&mut out);
    let said = format!(
        "{{\"seq\":0,\"prev\":\"{}\",\"kind\":\"begin\",\"at_ms\":1800000000000",
        "0".repeat(64)
    );
    assert_eq!(hash, VECTOR);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        format!("{said},\"hash\":\"{hash}\"}}\n")
    );
}

const VECTOR: &str = "f864fc5052865d1aaeda140362f9fb01cea230aef09ecd16e71bbd066a24e307";

#[test]
fn a_log_that_nobody_changed_is_whole() {
    let dir = folder();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    writer.write(&sealed(3), NONE).unwrap();
    let report = verified(dir.path(), None);
    assert_eq!(report.breaches, []);
    assert_eq!((report.files, report.lines, report.entries), (1, 4, 3));
    assert_eq!(report.first_seq, Some(0));
    assert_eq!(report.first_ms, Some(1_800_000_000_000));
    assert_eq!(report.last_ms, Some(1_800_000_002_000));
    let text = fs::read_to_string(&files(dir.path())[0]).unwrap();
    let line = text.lines().nth(1).unwrap();
    for member in [
        "\"kind\":\"entry\"",
        "\"side\":\"edge\"",
        "\"enc\":\"0000000000000000\"",
        "\"tokens_in\":10",
        "\"took_us\":1500",
        "\"cost_microusd\":12",
        "\"result\":\"answered\"",
    ] {
        assert!(line.contains(member), "{member} in {line}");
    }
    assert!(
        !line.contains("tokens_out"),
        "what is not known is left out"
    );
}

#[test]
fn every_change_of_one_byte_is_found() {
    let (bytes, _) = log();
    for at in 0..bytes.len() {
        for bit in [0x01, bytes[at] ^ b'\n'] {
            if bit == 0 {
                continue;
            }
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            let report = of_text(&changed, None);
            assert!(report.breach_count > 0, "byte {at}, bits {bit:#x}");
        }
    }
}

#[test]
fn every_line_taken_out_put_in_or_moved_is_found() {
    let (bytes, head) = log();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|it| *it == b'\n').collect();
    let check = |lines: &[&[u8]], what: &str| {
        let report = of_text(&lines.concat(), Some(&head));
        assert!(report.breach_count > 0, "{what}");
    };
    for at in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(at);
        check(&fewer, &format!("line {at} taken out"));
        for to in 0..=lines.len() {
            let mut more = lines.clone();
            more.insert(to, lines[at]);
            check(&more, &format!("line {at} again at {to}"));
        }
        for other in 0..at {
            let mut moved = lines.clone();
            moved.swap(at, other);
            check(&moved, &format!("lines {at} and {other} changed about"));
        }
    }
    assert_eq!(of_text(&bytes, Some(&head)).breaches, []);
}

#[test]
fn one_line_taken_out_is_one_breach_at_its_place() {
    let (bytes, _) = log();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|it| *it == b'\n').collect();
    let fewer = [&lines[..3], &lines[4..]].concat().concat();
    let report = of_text(&fewer, None);
    let breach = Breach {
        file: "a".to_owned(),
        line: 4,
        kind: BreachKind::Order,
    };
    assert_eq!(report.breaches, [breach]);
}

#[test]
fn what_is_cut_off_the_end_shows_to_who_kept_the_digest() {
    let (bytes, head) = log();
    let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
    for cut in 0..bytes.len() {
        let report = of_text(&bytes[..cut], Some(&head));
        assert!(
            report.breaches.iter().any(|it| it.kind == BreachKind::Head),
            "{cut}"
        );
        let is_torn = cut > 0 && !ends.contains(&(cut - 1));
        let unaided = of_text(&bytes[..cut], None);
        assert_eq!(unaided.breach_count > 0, is_torn, "{cut}");
    }
    assert_eq!(of_text(&bytes, Some(&head)).breaches, []);
    // An older digest is in it too.
    let older = of_text(&bytes[..=ends[2]], None).head.unwrap();
    assert_eq!(of_text(&bytes, Some(&older)).breaches, []);
}

#[test]
fn a_log_goes_on_over_files_and_restarts() {
    let dir = folder();
    let small = AuditRules {
        file_bytes_max: 1_500,
        ..rules(dir.path())
    };
    for _ in 0..3 {
        let mut writer = Writer::open(small.clone()).unwrap();
        for _ in 0..4 {
            writer.write(&sealed(2), NONE).unwrap();
        }
    }
    let report = verified(dir.path(), None);
    assert_eq!(report.breaches, []);
    assert_eq!((report.entries, report.starts), (24, 2));
    let files = files(dir.path());
    assert!(files.len() > 4, "{files:?}");
    let second = fs::read_to_string(&files[1]).unwrap();
    assert!(second.contains("\"kind\":\"next\""), "{second}");
    assert!(second.contains("\"last_file\":\"audit-00000001.jsonl\""));
    let first = of_text(&fs::read(&files[0]).unwrap(), None);
    assert!(second.contains(&first.head.unwrap()));

    // Files left out, changed about, or given twice.
    let read = |at: usize| {
        let name = files[at].file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(&files[at]).unwrap())
    };
    for order in [vec![0, 2], vec![1, 0], vec![0, 0], vec![0, 1, 1]] {
        let given: Vec<_> = order.iter().map(|at| read(*at)).collect();
        assert!(of_bytes(&given, None).breach_count > 0, "{order:?}");
    }
    // Older ones may be gone.
    let rest: Vec<_> = (1..files.len()).map(read).collect();
    let report = of_bytes(&rest, None);
    assert_eq!(report.breaches, []);
    assert!(report.first_seq.unwrap() > 0);
}

#[test]
fn files_and_folder_are_this_user_s_alone_and_the_oldest_go() {
    let dir = folder();
    let few = AuditRules {
        file_bytes_max: 1,
        keep_files: Some(3),
        ..rules(dir.path())
    };
    let mut writer = Writer::open(few).unwrap();
    for _ in 0..6 {
        writer.write(&sealed(1), NONE).unwrap();
    }
    let files = files(dir.path());
    let names: Vec<_> = files.iter().map(|it| it.file_name().unwrap()).collect();
    assert_eq!(
        names,
        [
            "audit-00000005.jsonl",
            "audit-00000006.jsonl",
            "audit-00000007.jsonl"
        ]
    );
    for file in &files {
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let mode = fs::metadata(&rules(dir.path()).dir).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
    assert_eq!(verified(dir.path(), None).breaches, []);
}

#[test]
fn one_process_writes_a_log() {
    let dir = folder();
    let writer = Writer::open(rules(dir.path())).unwrap();
    let error = Writer::open(rules(dir.path())).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(writer);
    Writer::open(rules(dir.path())).unwrap();
}

/// A copy of the log in `from`, whose last file is cut to `length`.
fn cut_copy(from: &Path, length: usize) -> TempDir {
    let to = folder();
    let target = rules(to.path()).dir;
    fs::create_dir(&target).unwrap();
    let files = files(from);
    for (at, path) in files.iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        if at + 1 == files.len() {
            bytes.truncate(length);
        }
        let copy = target.join(path.file_name().unwrap());
        fs::write(&copy, bytes).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o600)).unwrap();
    }
    to
}

/// Opens a copy cut at every byte from `from` on, appends, and checks that what was whole is there.
fn recovers_from_every_cut(dir: &Path, from: usize) {
    let last = files(dir).pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let before = verified(dir, None).lines - bytes.iter().filter(|it| **it == b'\n').count() as u64;
    for cut in from..=bytes.len() {
        let copy = cut_copy(dir, cut);
        let whole = bytes[..cut].iter().filter(|it| **it == b'\n').count() as u64;
        let end = bytes[..cut].iter().rposition(|it| *it == b'\n');
        let torn = cut - end.map_or(0, |at| at + 1);
        let mut writer = Writer::open(rules(copy.path())).unwrap();
        writer.write(&sealed(1), NONE).unwrap();
        let report = verified(copy.path(), None);
        assert_eq!(report.breaches, [], "{cut}");
        // One line says that it goes on, one is the entry.
        assert_eq!(report.lines, before + whole + 2, "{cut}");
        assert_eq!(report.torn, u64::from(torn > 0), "{cut}");
        if torn > 0 {
            let aside = rules(copy.path()).dir.join(format!(
                "{}.torn-{}",
                last.file_name().unwrap().to_str().unwrap(),
                cut - torn
            ));
            assert_eq!(fs::read(aside).unwrap(), bytes[cut - torn..cut], "{cut}");
        }
    }
}

#[test]
fn a_crash_at_every_byte_of_the_last_write_is_recovered_from() {
    let dir = folder();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    writer.write(&sealed(2), NONE).unwrap();
    let written = fs::metadata(&files(dir.path())[0]).unwrap().len();
    writer.write(&sealed(3), NONE).unwrap();
    recovers_from_every_cut(dir.path(), written as usize);
}

#[test]
fn a_crash_at_every_byte_of_a_file_s_first_line_is_recovered_from() {
    let dir = folder();
    drop(Writer::open(rules(dir.path())).unwrap());
    recovers_from_every_cut(dir.path(), 0);
    let dir = folder();
    let small = AuditRules {
        file_bytes_max: 1,
        ..rules(dir.path())
    };
    let mut writer = Writer::open(small).unwrap();
    writer.write(&sealed(1), NONE).unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    recovers_from_every_cut(dir.path(), 0);
}

#[test]
fn a_broken_last_line_is_left_as_it_is_and_a_new_chain_begins_which_is_a_breach() {
    let dir = folder();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    writer.write(&sealed(2), NONE).unwrap();
    drop(writer);
    let path = files(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 20;
    bytes[end] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    writer.write(&sealed(1), NONE).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let report = verified(dir.path(), None);
    let kinds: Vec<BreachKind> = report.breaches.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [BreachKind::Hash, BreachKind::Beginning]);
    assert_eq!(report.entries, 2);
}

#[tokio::test]
async fn what_is_appended_is_written_also_when_the_log_is_dropped_at_once() {
    let dir = folder();
    let (log, driver) = AuditFile::open(rules(dir.path())).unwrap();
    for entry in entries(700) {
        log.append(entry);
    }
    drop(log);
    driver.await;
    let report = verified(dir.path(), None);
    assert_eq!(report.breaches, []);
    assert_eq!((report.entries, report.lost), (700, 0));
}

#[tokio::test]
async fn append_never_waits_and_what_had_no_room_is_counted_in_a_line_of_its_own() {
    let dir = folder();
    let (log, driver) = AuditFile::open(rules(dir.path())).unwrap();
    let over = 50;
    for at in 0..(QUEUE_MAX as u64 + over) {
        log.append(entry(SealedSide::Edge, at));
    }
    assert_eq!(log.counts().lost, over);
    let watch = Arc::downgrade(&log);
    drop(log);
    driver.await;
    assert!(watch.upgrade().is_none());
    let report = verified(dir.path(), None);
    assert_eq!(report.breaches, []);
    assert_eq!(report.entries, QUEUE_MAX as u64);
    assert_eq!((report.gaps, report.lost), (1, over));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_is_waited_for_and_nothing_is_lost_that_has_room() {
    let dir = folder();
    let small = AuditRules {
        file_bytes_max: 1,
        ..rules(dir.path())
    };
    let (log, driver) = AuditFile::open(small.clone()).unwrap();
    // The next file cannot be made.
    let next = small.dir.join("audit-00000002.jsonl");
    fs::create_dir(&next).unwrap();
    let failing = async {
        for entry in entries(3) {
            log.append(entry);
        }
        while log.counts().failures < 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(log.counts().written, 0);
        for at in 0..(QUEUE_MAX as u64 + 9) {
            log.append(entry(SealedSide::Edge, at));
        }
        fs::remove_dir(&next).unwrap();
        while log.counts().written < 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let counts = log.counts();
        drop(log);
        counts
    };
    let (counts, ()) = tokio::join!(failing, driver);
    let report = verified(dir.path(), None);
    assert_eq!(report.breaches, []);
    assert_eq!(counts.lost, 9);
    assert_eq!(report.lost, 9);
    assert_eq!(report.entries, QUEUE_MAX as u64 + 3);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_to_the_end_does_not_keep_the_node() {
    let dir = folder();
    let small = AuditRules {
        file_bytes_max: 1,
        ..rules(dir.path())
    };
    let (log, driver) = AuditFile::open(small.clone()).unwrap();
    fs::create_dir(small.dir.join("audit-00000002.jsonl")).unwrap();
    log.append(entry(SealedSide::Edge, 1));
    drop(log);
    driver.await;
}

#[test]
fn names_are_cut_and_no_line_is_too_long() {
    let dir = folder();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    let long = "\u{1}".repeat(100_000);
    let hostile = SealedEntry {
        edge: Some(long.clone()),
        relay: long.clone(),
        certificate: Some(long.clone()),
        enc: long.clone(),
        path: Some(long.clone()),
        model: Some("ü".repeat(1_000)),
        shape: Some(long),
        ..entry(SealedSide::Relay, 1)
    };
    let hostile = Entry::Sealed(Box::new(hostile));
    writer.write(&[hostile], NONE).unwrap();
    let report = verified(dir.path(), None);
    assert_eq!((report.breach_count, report.entries), (0, 1));
    let text = fs::read_to_string(&files(dir.path())[0]).unwrap();
    assert!(text.lines().all(|line| line.len() < LINE_BYTES_MAX));
    assert!(text.contains(&format!("{}…", "ü".repeat(128))));
}

#[test]
fn a_file_that_is_none_is_told_in_bounded_memory() {
    let long = vec![b'x'; 5 * LINE_BYTES_MAX];
    let mut verifier = Verifier::new(None);
    let mut many = long.clone();
    many.push(b'\n');
    many.extend(b"{}\n".repeat(1_000));
    many.extend(long);
    verifier.read("a", Cursor::new(many), |_| {}).unwrap();
    let report = verifier.finish();
    assert_eq!(report.breach_count, 1_002);
    assert_eq!(report.breaches.len(), BREACHES_MAX);
    assert_eq!(of_text(b"", None).breaches, []);
}

/// Holds two sides against each other.
fn reconciled(edge: &[SealedEntry], relay: &[SealedEntry]) -> Reconciled {
    let mut comparison = Comparison::default();
    for (side, entries) in [(SealedSide::Edge, edge), (SealedSide::Relay, relay)] {
        let dir = folder();
        let mut writer = Writer::open(rules(dir.path())).unwrap();
        let entries = entries.iter().cloned();
        let entries: Vec<Entry> = entries.map(|it| Entry::Sealed(Box::new(it))).collect();
        writer.write(&entries, NONE).unwrap();
        let mut verifier = Verifier::new(None);
        for path in files(dir.path()) {
            let reader = Cursor::new(fs::read(path).unwrap());
            let take = |entry: &AuditEntry<'_>| comparison.take(side, entry).unwrap();
            verifier.read("a", reader, take).unwrap();
        }
        assert_eq!(verifier.finish().breaches, []);
    }
    comparison.finish()
}

fn at_relay(numbers: impl IntoIterator<Item = u64>) -> Vec<SealedEntry> {
    let entry = |number| entry(SealedSide::Relay, number);
    numbers.into_iter().map(entry).collect()
}

fn told(found: &Reconciled) -> Vec<(&str, &str)> {
    let differences = found.differences.iter();
    differences.map(|it| (it.what, it.enc.as_str())).collect()
}

#[test]
fn both_ends_of_the_same_exchanges_agree() {
    // Whatever the order they ended in.
    let found = reconciled(&entries(4), &at_relay([2, 0, 3, 1]));
    assert!(found.agrees(), "{found:?}");
    assert_eq!(found.matched, 4);
    assert_eq!(found.differences, []);
}

#[test]
fn what_one_end_lacks_is_told_with_its_enc() {
    let found = reconciled(&entries(4), &at_relay([0, 1, 2, 5]));
    assert!(!found.agrees());
    assert_eq!(
        (found.matched, found.only_edge, found.only_relay),
        (3, 1, 1)
    );
    assert_eq!(
        told(&found),
        [
            ("only_edge", "0000000000000003"),
            ("only_relay", "0000000000000005")
        ]
    );
}

#[test]
fn members_that_differ_are_told_and_those_that_only_one_end_knows_are_not() {
    let mut relay = at_relay(0..6);
    relay[0].status = Some(500);
    relay[1].model = Some("other".to_owned());
    relay[2].tokens_in = Some(1);
    relay[3].path = Some("/v1/embeddings".to_owned());
    relay[4].tokens_out = Some(9);
    relay[5].model = None;
    let found = reconciled(&entries(6), &relay);
    assert_eq!((found.matched, found.differ), (6, 4));
    assert_eq!(
        told(&found),
        [
            ("status", "0000000000000000"),
            ("model", "0000000000000001"),
            ("tokens_in", "0000000000000002"),
            ("path", "0000000000000003")
        ]
    );
    assert_eq!(found.differences[0].edge.as_deref(), Some("200"));
    assert_eq!(found.differences[0].relay.as_deref(), Some("500"));
}

#[test]
fn a_replay_is_told_and_does_not_stand_for_what_it_repeats() {
    let mut relay = at_relay([0, 0, 1]);
    // Refused before the first had ended.
    relay[0].result = SealedResult::Replayed;
    relay[0].status = Some(409);
    let found = reconciled(&entries(2), &relay);
    assert_eq!((found.matched, found.differ, found.again_relay), (2, 0, 1));
    assert!(!found.agrees());
}

#[test]
fn what_is_before_or_after_the_other_end_s_log_counts_for_nothing() {
    let skew = SKEW_MAX.as_secs();
    let edge = entries(1);
    let late = at_relay([0, skew, skew + 1]);
    let found = reconciled(&edge, &late);
    assert_eq!((found.outside, found.only_relay), (1, 1));
    let found = reconciled(&edge, &[]);
    assert_eq!((found.outside, found.agrees()), (1, true));
}

#[test]
fn entries_of_the_other_side_are_passed_over() {
    let mut both = entries(2);
    both.extend(at_relay([7]));
    let found = reconciled(&both, &at_relay([0, 1]));
    assert!(found.agrees());
    assert_eq!((found.matched, found.other_side), (2, 1));
}

/// An entry has no member for what was said, and names are all that it is given.
#[test]
fn nothing_but_the_entry_s_members_is_in_a_line() {
    let dir = folder();
    let mut writer = Writer::open(rules(dir.path())).unwrap();
    writer.write(&sealed(1), NONE).unwrap();
    let text = fs::read_to_string(&files(dir.path())[0]).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let members: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        [
            "seq",
            "prev",
            "kind",
            "at_ms",
            "side",
            "edge",
            "relay",
            "certificate",
            "key_id",
            "enc",
            "path",
            "model",
            "tokens_in",
            "shape",
            "bytes_up",
            "bytes_down",
            "status",
            "took_us",
            "cost_microusd",
            "result",
            "hash"
        ]
    );
}

#[tokio::test]
async fn a_change_is_in_the_chain_when_it_was_noted() {
    let dir = folder();
    let (log, driver) = AuditFile::open(rules(dir.path())).unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(driver);
    let change = AdminChange {
        at: at(7),
        who: "loopback".to_owned(),
        what: "key.create",
        id: "ci".to_owned(),
    };
    log.append(entry(SealedSide::Edge, 1));
    assert!(log.note(change).await);
    // Written already, with nothing told to end.
    let files = audit_files(&rules(dir.path()).dir).unwrap();
    let text = fs::read_to_string(&files[0].1).unwrap();
    let line = text.lines().last().unwrap();
    let said = ",\"kind\":\"change\",\"at_ms\":1800000007000,\"who\":\"loopback\",\
                \"what\":\"key.create\",\"id\":\"ci\",\"hash\":\"";
    assert!(line.contains(said), "{line}");
    drop(log);
    driving.join_next().await.unwrap().unwrap();
    let mut verifier = Verifier::new(None);
    let text = fs::read(&files[0].1).unwrap();
    let name = files[0].0.to_string();
    let mut each = 0;
    verifier
        .read(&name, Cursor::new(text), |_| each += 1)
        .unwrap();
    let report = verifier.finish();
    assert_eq!((report.entries, report.changes, each), (1, 1, 1));
    assert_eq!(report.breaches, []);
}

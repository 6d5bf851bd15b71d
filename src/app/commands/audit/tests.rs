use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use domain::{AuditLog as _, SealedEntry, SealedResult};
use store::{AuditFile, AuditRules};

use super::*;

fn entry(side: SealedSide, number: u64) -> SealedEntry {
    SealedEntry {
        at: UNIX_EPOCH + Duration::from_secs(1_800_000_000 + number),
        side,
        edge: Some("branch-7".to_owned()),
        relay: "relay-1".to_owned(),
        certificate: None,
        key_id: 1,
        enc: format!("{number:016x}"),
        path: Some("/v1/chat/completions".to_owned()),
        model: Some("gpt-5".to_owned()),
        tokens_in: None,
        tokens_out: None,
        shape: None,
        bytes_up: 1,
        bytes_down: 1,
        status: Some(200),
        took: Duration::ZERO,
        cost: None,
        result: SealedResult::Answered,
    }
}

/// A log's folder, and its files.
async fn log(side: SealedSide, numbers: &[u64]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let rules = AuditRules {
        dir: dir.path().to_owned(),
        file_bytes_max: 1 << 20,
        keep_files: None,
    };
    let (log, driver) = AuditFile::open(rules).unwrap();
    for number in numbers {
        log.append(entry(side, *number));
    }
    drop(log);
    driver.await;
    let files = audit_files(dir.path()).unwrap();
    (dir, files.into_iter().map(|(_, path)| path).collect())
}

fn verified(files: &[PathBuf], head: Option<&str>, is_json: bool) -> (String, bool) {
    verify(files, head, is_json, &ConfigArgs::default()).unwrap()
}

#[tokio::test]
async fn a_log_is_verified_and_its_head_says_later_whether_it_was_cut() {
    let (_dir, files) = log(SealedSide::Edge, &[0, 1, 2]).await;
    let (text, holds) = verified(&files, None, false);
    assert!(holds, "{text}");
    let first = "3 entries in 1 files, 2027-01-15T08:00:00Z to 2027-01-15T08:00:02Z";
    assert_eq!(text.lines().next(), Some(first));
    let head = text.lines().last().unwrap().strip_prefix("head  ").unwrap();
    assert!(verified(&files, Some(head), false).1);

    let bytes = fs::read_to_string(&files[0]).unwrap();
    let lines: Vec<&str> = bytes.lines().collect();
    fs::write(&files[0], lines[..3].join("\n") + "\n").unwrap();
    assert!(verified(&files, None, false).1, "nothing shows it alone");
    let (text, holds) = verified(&files, Some(head), true);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(!holds && report["holds"] == false, "{text}");
    assert_eq!(report["breach_count"], 1);

    fs::write(&files[0], bytes.replacen("gpt-5", "gpt-6", 1)).unwrap();
    let (text, holds) = verified(&files, None, false);
    assert!(!holds);
    assert!(
        text.contains("fail  audit-00000001.jsonl:2: the line was changed"),
        "{text}"
    );
}

#[tokio::test]
async fn both_ends_are_held_against_each_other() {
    let (_edge, edge) = log(SealedSide::Edge, &[0, 1]).await;
    let (_relay, relay) = log(SealedSide::Relay, &[1, 0]).await;
    let (_other, other) = log(SealedSide::Relay, &[0, 5]).await;
    let (text, holds) = reconcile(&edge, &relay, false).unwrap();
    assert!(holds && text.ends_with("ok    both ends agree"), "{text}");
    let (text, holds) = reconcile(&edge, &other, false).unwrap();
    assert!(!holds);
    assert!(text.contains("0000000000000001 only_edge"), "{text}");
    assert!(text.contains("0000000000000005 only_relay"), "{text}");
    let (text, holds) = reconcile(&edge, &other, true).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(!holds && report["agrees"] == false);
    assert_eq!(report["matched"], 1);
}

#[test]
fn a_head_that_is_none_and_files_that_are_not_there_are_errors() {
    let none = ConfigArgs::default();
    let file = [PathBuf::from("/nowhere/audit-00000001.jsonl")];
    let error = verify(&file, Some("ABC"), false, &none).unwrap_err();
    assert!(error.to_string().starts_with("--head: "), "{error}");
    let error = verify(&file, None, false, &none).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot open /nowhere"),
        "{error}"
    );
}

#[test]
fn times_are_shown_in_utc() {
    for (at_ms, shown) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400_000, "2000-02-29T00:00:00Z"),
        (951_868_800_000, "2000-03-01T00:00:00Z"),
        (1_709_164_799_999, "2024-02-28T23:59:59Z"),
        (1_800_000_000_000, "2027-01-15T08:00:00Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(clock(at_ms), shown);
    }
}

#[test]
fn what_a_terminal_would_act_on_is_shown() {
    assert_eq!(visible("a\u{1b}[2J\nü"), "a\\u{1b}[2J\\nü");
}

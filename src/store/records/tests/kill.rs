//! Killed while it writes: nothing damaged, at most the last second lost, nothing twice.
//!
//! The test starts itself anew as a child that appends records and says each; kills it at a random
//! record; and compares what was said with what is in the file. The kernel lives on, so what SQLite wrote
//! is there; that it also asked for it to be on the disk is `synchronous = FULL`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Points at which the child is killed. With `HEDGE_TEST_KILLS=200` as often as that.
const KILLS: u64 = 6;
const KILLS_WANTED: &str = "HEDGE_TEST_KILLS";

/// Where the child writes, and the number of its life.
const DIR: &str = "HEDGE_TEST_KILL_DIR";
const LIFE: &str = "HEDGE_TEST_KILL_LIFE";

/// What a crash may lose.
const LOST_MAX_US: i64 = 1_000_000;

/// And no more than this, where the disk has much else to do: a write under way takes as long as it does.
const LOST_EVER_US: i64 = 5_000_000;

/// A pause that is longer was no pause between two records.
const STILL_US: i64 = 50_000;

/// Said records of one life at most.
const SAID_MAX: u64 = 2_500;

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_micros()).unwrap()
}

/// How long the child did not run at all although it had to: it appends every millisecond, on the thread
/// that also writes. A machine with too much to do is no fault of the file's.
fn stood_still(said: &[i64]) -> i64 {
    let gaps = said.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.filter(|gap| *gap > STILL_US).sum()
}

fn wanted(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

/// The child; does nothing when it is run as a test.
#[tokio::test]
async fn child_that_appends_until_it_is_killed() {
    let (Some(dir), Some(life)) = (wanted(DIR), wanted(LIFE)) else {
        return;
    };
    let desk = Desk::open(rules(Path::new(&dir)));
    // A node is open before it has anything to write.
    desk.file.append(&record_of("first", "t"));
    desk.until_done(1).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for at in 0_u64.. {
        let before = now_us();
        desk.file.append(&record_of(&format!("{life}-{at}"), "t"));
        // Not by `println`, which the test's runner keeps to itself.
        let said = format!("appended {before}\n");
        std::io::stdout().write_all(said.as_bytes()).unwrap();
        std::io::stdout().flush().unwrap();
        ticks.tick().await;
    }
}

/// Runs a life of the child; gives when each of its records was appended, and when it was killed.
fn life(dir: &Path, life: u64, kill_after: u64) -> (Vec<i64>, i64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["records::tests::kill::child_that_appends_until_it_is_killed"])
        .args(["--exact", "--nocapture"])
        .env(DIR, dir)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut killed_at = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The runner's own words may stand before the first.
        let Some((_, time)) = line.split_once("appended ") else {
            continue;
        };
        said.push(time.parse().unwrap());
        if said.len() as u64 == kill_after {
            killed_at = Some(now_us());
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    (said, killed_at.expect("it lives until it is killed"))
}

#[tokio::test]
async fn a_killed_node_loses_the_last_second_at_most_and_nothing_twice() {
    let kills = wanted(KILLS_WANTED).map_or(KILLS, |it| it.parse().unwrap());
    let folder = TempDir::new().unwrap();
    let mut lost = Vec::new();
    // Any numbers do that are spread; these are the same each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..kills {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let kill_after = 20 + (state >> 33) % SAID_MAX;
        let (said, killed_at) = life(folder.path(), number, kill_after);
        let mut file = plainly(folder.path()).await;
        let found: String = query_scalar("PRAGMA integrity_check")
            .fetch_one(&mut file)
            .await
            .unwrap();
        assert_eq!(found, "ok");
        let ids: Vec<String> = query_scalar(
            "SELECT request_id FROM records WHERE request_id LIKE ? ORDER BY ended_us",
        )
        .bind(format!("{number}-%"))
        .fetch_all(&mut file)
        .await
        .unwrap();
        let count = ids.len();
        let in_order = (0..count).map(|at| format!("{number}-{at}"));
        assert_eq!(ids, in_order.collect::<Vec<_>>(), "a beginning, each once");
        // The last may have been appended and not said.
        assert!(count <= said.len() + 1, "{count} of {}", said.len());
        let first_lost = said.iter().enumerate().nth(count);
        lost.push(first_lost.map_or(0, |(at, appended_at)| {
            killed_at - appended_at - stood_still(&said[at..])
        }));
    }
    println!("lost at the kills, in microseconds: {lost:?}");
    let is_too_much = |most: i64| lost.iter().filter(|it| **it > most).count();
    assert_eq!(is_too_much(LOST_EVER_US), 0, "{lost:?}");
    assert!(is_too_much(LOST_MAX_US) * 4 <= lost.len(), "{lost:?}");
}

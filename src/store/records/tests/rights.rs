//! Somebody's records are found, and made nobody's.

use domain::{Mark, Marker, Marks, RecordName, RecordRights, Savings, Subject, Who};

use super::*;
use crate::SubjectSecret;
use crate::records::RecordEraser;

pub fn secret() -> SubjectSecret {
    SubjectSecret::new([7; 32])
}

pub fn user(name: &str, team: Option<&str>) -> Subject {
    Subject {
        who: Who::User(name.into()),
        team: team.map(Into::into),
    }
}

fn tag(name: &str) -> Subject {
    Subject {
        who: Who::Tag(name.into()),
        team: None,
    }
}

/// What stands for somebody in a file.
pub fn word(subject: &Subject) -> String {
    secret().mark(&subject.who).word(subject.who.as_label())
}

fn marks(secret: &SubjectSecret, name: &str, tags: &[&str]) -> Marks {
    let mark = |who| -> Mark { secret.mark(&who) };
    Marks {
        user: Some(mark(Who::User(name.into()))),
        tags: tags.iter().map(|it| mark(Who::Tag((*it).into()))).collect(),
        on_replies: None,
    }
}

/// Of `name` in `team`, whose caller puts the name where it can; every tenth was asked of nobody.
pub fn append_for(desk: &RecordDesk, name: &str, team: &str, tags: &[&str], count: usize) {
    for at in 0..count {
        let mut record = record_of(&format!("{name}/{at}"), team);
        record.marks = marks(&secret(), name, tags);
        if at % 10 == 0 {
            record.model_asked = name.into();
            record.route = None;
            record.cost = None;
        }
        desk.append(&record);
    }
}

/// How often `needle` is in any file of the folder.
pub fn count_in(dir: &Path, needle: &str) -> usize {
    let needle = needle.as_bytes();
    let mut count = 0;
    for name in files(dir) {
        let bytes = std::fs::read(dir.join(&name)).unwrap();
        count += bytes
            .windows(needle.len())
            .filter(|it| *it == needle)
            .count();
    }
    count
}

pub async fn sums(reader: &RecordReader) -> Savings {
    let savings = reader.savings(Since::Ago(86_400), None).await.unwrap();
    Savings {
        until: domain::SpokenTime::default(),
        since: domain::SpokenTime::default(),
        ..savings
    }
}

async fn found(eraser: &RecordEraser, subject: &Subject) -> Vec<KeptRecord> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = eraser.of(subject, 700, before.take()).await.unwrap();
        let Some(last) = page.last() else {
            return all;
        };
        before = Some(RecordName {
            ended_us: last.ended_us,
            request_id: last.request_id.clone(),
        });
        all.extend(page);
    }
}

#[tokio::test]
async fn what_names_somebody_is_gone_from_the_disk_and_every_sum_stays() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let desk = Desk::open(rules(dir));
    let eraser = RecordEraser::new(Arc::clone(&desk.file), dir, secret());
    // In many batches among each other, so that pages are divided while they are in use.
    for _ in 0..20 {
        append_for(&desk.file, "anna", "red", &["spring"], 150);
        append_for(&desk.file, "ben", "red", &["spring", "late"], 75);
        append_for(&desk.file, "anna", "blue", &[], 25);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // Before that it waits for what is in the queue.
    assert_eq!(found(&eraser, &user("anna", None)).await.len(), 3_500);
    assert_eq!(found(&eraser, &user("anna", Some("blue"))).await.len(), 500);
    assert_eq!(found(&eraser, &tag("spring")).await.len(), 4_500);
    assert_eq!(found(&eraser, &tag("late")).await.len(), 1_500);
    let before = sums(&desk.reader).await;
    assert_eq!(before.total.requests, 5_000);
    assert!(before.total.compared_spent_microusd > 0);
    let anna = word(&user("anna", None));
    assert!(count_in(dir, &anna) >= 3_500 && count_in(dir, "anna") >= 3_500);

    let erased = eraser.erase(&user("anna", Some("red"))).await.unwrap();
    assert_eq!((erased.records, erased.files), (3_000, 0));
    assert!(erased.is_rewritten);
    assert_eq!(found(&eraser, &user("anna", None)).await.len(), 500);
    let erased = eraser.erase(&user("anna", None)).await.unwrap();
    assert_eq!(erased.records, 500);
    assert_eq!((count_in(dir, &anna), count_in(dir, "anna")), (0, 0));

    assert_eq!(sums(&desk.reader).await, before);
    let mut plainly = plainly(dir).await;
    let names: i64 =
        query_scalar("SELECT COUNT(DISTINCT request_id) FROM records WHERE marks IS NULL")
            .fetch_one(&mut plainly)
            .await
            .unwrap();
    assert_eq!(names, 3_500, "each has a name of its own");
    plainly.close().await.unwrap();
    let ben = found(&eraser, &user("ben", None)).await;
    assert_eq!(ben.len(), 1_500, "nobody else's were touched");
    assert!(ben.iter().all(|it| it.request_id.starts_with("ben/")));
    let unasked = ben.iter().filter(|it| it.model_asked == "ben").count();
    assert_eq!(unasked, 160, "nor his words");

    // By a tag, whoever it was; and all goes on.
    assert_eq!(eraser.erase(&tag("late")).await.unwrap().records, 1_500);
    assert_eq!(
        (
            count_in(dir, &word(&user("ben", None))),
            count_in(dir, "ben")
        ),
        (0, 0)
    );
    append_for(&desk.file, "anna", "red", &[], 1);
    assert_eq!(found(&eraser, &user("anna", None)).await.len(), 1);
    assert_eq!(desk.close().await.dropped, 0);
}

#[tokio::test]
async fn somebody_who_is_not_there_takes_nobody_with_him_whatever_his_name() {
    let folder = TempDir::new().unwrap();
    let desk = Desk::open(rules(folder.path()));
    let eraser = RecordEraser::new(Arc::clone(&desk.file), folder.path(), secret());
    append_for(&desk.file, "anna", "red", &["spring"], 20);
    let long = "n".repeat(1 << 20);
    for name in [
        "ann",
        "anna ",
        "ANNA",
        "%",
        "_nna",
        "*",
        "",
        "\0",
        "' OR 1=1 --",
        "\"; DROP TABLE records;",
        &long,
    ] {
        for team in [None, Some("red"), Some("' OR ''='")] {
            let subject = user(name, team);
            assert!(eraser.of(&subject, 9, None).await.unwrap().is_empty());
            let erased = eraser.erase(&subject).await.unwrap();
            assert_eq!(erased.records, 0, "{subject:?}");
        }
    }
    for team in ["' OR 1=1 --", "%", "red'"] {
        let erased = eraser.erase(&user("anna", Some(team))).await.unwrap();
        assert_eq!(erased.records, 0);
    }
    assert_eq!(found(&eraser, &user("anna", None)).await.len(), 20);
    desk.close().await;
}

#[tokio::test]
async fn what_was_set_aside_holds_nobody_either() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let desk = Desk::open(rules(dir));
    append_for(&desk.file, "anna", "red", &[], 30);
    desk.until_done(30).await;
    desk.close().await;
    super::super::file::set_aside(dir, FILE_NAME, "moved", SystemTime::now()).unwrap();
    let damaged = ["records.sqlite.damaged-17", "records.sqlite.damaged-17-wal"];
    for name in damaged {
        std::fs::write(dir.join(name), word(&user("anna", None))).unwrap();
    }
    let desk = Desk::open(rules(dir));
    append_for(&desk.file, "anna", "red", &[], 1);
    let eraser = RecordEraser::new(Arc::clone(&desk.file), dir, secret());
    let erased = eraser.erase(&user("anna", None)).await.unwrap();
    assert_eq!((erased.records, erased.files), (1, 2));
    assert_eq!(count_in(dir, &word(&user("anna", None))), 0);
    assert_eq!(count_in(dir, "anna"), 0);
    desk.close().await;
}

#[tokio::test]
async fn who_reads_meanwhile_is_waited_for() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let desk = Desk::open(rules(dir));
    let eraser = RecordEraser::new(Arc::clone(&desk.file), dir, secret());
    append_for(&desk.file, "anna", "red", &[], 100);
    desk.until_done(100).await;
    let mut reader = plainly(dir).await;
    let mut reading = reader.begin().await.unwrap();
    let seen: i64 = query_scalar("SELECT COUNT(*) FROM records WHERE marks IS NOT NULL")
        .fetch_one(&mut *reading)
        .await
        .unwrap();
    assert_eq!(seen, 100);
    let subject = user("anna", None);
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        reading.commit().await.unwrap();
    };
    let (erased, ()) = tokio::join!(eraser.erase(&subject), leaving);
    assert_eq!(erased.unwrap().records, 100);
    assert_eq!(count_in(dir, "anna"), 0);
    reader.close().await.unwrap();
    desk.close().await;
}

/// What was seen: a record that was too old had gone from the table, and stood in the log and in what pages
/// had free, where an erasing that found no row left it.
#[tokio::test]
async fn what_went_by_its_age_has_left_nothing_either() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let desk = Desk::open(rules(dir));
    for _ in 0..10 {
        append_for(&desk.file, "anna", "red", &[], 100);
        append_for(&desk.file, "ben", "red", &[], 100);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    desk.until_done(2_000).await;
    let anna = word(&user("anna", None));
    let mut file = crate::records::file::open_whole(dir, FILE_NAME)
        .await
        .unwrap();
    let gone = sqlx::query("DELETE FROM records WHERE instr(marks, ?) > 0")
        .bind(&anna)
        .execute(&mut file)
        .await
        .unwrap();
    assert_eq!(gone.rows_affected(), 1_000);
    assert!(count_in(dir, &anna) > 0);
    let eraser = RecordEraser::new(Arc::clone(&desk.file), dir, secret());
    let erased = eraser.erase(&user("anna", None)).await.unwrap();
    assert_eq!((erased.records, erased.is_rewritten), (0, true));
    assert_eq!((count_in(dir, &anna), count_in(dir, "anna")), (0, 0));
    assert_eq!(found(&eraser, &user("ben", None)).await.len(), 1_000);
    file.close().await.unwrap();
    desk.close().await;
}

#[tokio::test]
async fn what_an_erasing_owes_is_done_by_the_next_one() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let desk = Desk::open(rules(dir));
    let eraser = RecordEraser::new(Arc::clone(&desk.file), dir, secret());
    append_for(&desk.file, "anna", "red", &[], 500);
    desk.until_done(500).await;
    // As one leaves it that ends after its rows and before the file is written anew.
    let mut plainly = plainly(dir).await;
    plainly
        .execute("INSERT INTO scrub VALUES (1); UPDATE records SET marks = NULL, request_id = CAST(ended_us AS TEXT), model_asked = ''")
        .await
        .unwrap();
    plainly.close().await.unwrap();
    assert!(
        count_in(dir, "anna") > 0,
        "it is in what was free, or in the log"
    );
    let erased = eraser.erase(&user("anna", None)).await.unwrap();
    assert_eq!(erased.records, 0);
    assert_eq!(count_in(dir, "anna"), 0);
    desk.close().await;
}

#[tokio::test]
async fn who_comes_while_another_is_removed_waits() {
    let folder = TempDir::new().unwrap();
    let desk = Desk::open(rules(folder.path()));
    let eraser = RecordEraser::new(Arc::clone(&desk.file), folder.path(), secret());
    append_for(&desk.file, "anna", "red", &[], 20);
    append_for(&desk.file, "ben", "red", &[], 10);
    let (anna, ben) = (user("anna", None), user("ben", None));
    let (one, two, third) = tokio::join!(
        eraser.erase(&anna),
        eraser.erase(&ben),
        eraser.of(&anna, 10, None)
    );
    assert_eq!((one.unwrap().records, two.unwrap().records), (20, 10));
    assert_eq!(third.unwrap().len(), 0);
    desk.close().await;
}

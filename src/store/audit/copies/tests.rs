use std::io::{BufReader, Write};
use std::time::Instant;

use loadtest::PostgresServer;

use super::super::tests::{NONE, folder, rules, sealed};
use super::super::writer::Writer;
use super::*;
use crate::Verifier;

const PATIENCE: Duration = Duration::from_secs(60);

fn copier(dir: &Path, address: &PostgresAddress) -> (AuditCopier, Arc<CopyState>) {
    AuditCopier::new(&rules(dir).dir, dir, address.clone(), || None)
}

/// All copies as files, each chain verified: lines by chain.
async fn exported(address: &PostgresAddress) -> Vec<u64> {
    let out = folder();
    let done = export_copies(address, out.path()).await.unwrap();
    done.iter()
        .map(|it| {
            assert!(!it.is_cut);
            let mut verifier = Verifier::new(None);
            for (name, path) in audit_files(&it.dir).unwrap() {
                let file = BufReader::new(File::open(path).unwrap());
                verifier.read(&name.to_string(), file, |_| ()).unwrap();
            }
            let report = verifier.finish();
            assert_eq!(report.breach_count, 0, "{report:?}");
            assert_eq!((report.files, report.lines), (it.files, it.lines));
            it.lines
        })
        .collect()
}

#[tokio::test]
async fn lines_are_copied_once_whatever_comes_between() {
    let Some(mut server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address: PostgresAddress = server.database("copies").unwrap().parse().unwrap();
    assert!(
        exported(&address).await.is_empty(),
        "nothing was ever there"
    );
    let (home, other) = (folder(), folder());
    let mut small = rules(home.path());
    small.file_bytes_max = 2_000;
    let mut writer = Writer::open(small.clone()).unwrap();
    // Over several files.
    (0..5).for_each(|_| writer.write(&sealed(7), NONE).unwrap());
    assert!(audit_files(&small.dir).unwrap().len() > 2);
    let (mut first, state) = copier(home.path(), &address);
    first.pass().await.unwrap();
    let lines = state.copied();
    assert_eq!(exported(&address).await, [lines]);
    // What comes while it runs, and after it.
    writer.write(&sealed(3), NONE).unwrap();
    first.pass().await.unwrap();
    assert!(state.copied() >= lines + 3);
    let lines = state.copied();
    assert_eq!(exported(&address).await, [state.copied()]);
    drop(first);
    writer.write(&sealed(600), NONE).unwrap();
    let (mut second, state) = copier(home.path(), &address);
    second.pass().await.unwrap();
    assert!((600..700).contains(&state.copied()), "none twice");
    assert_eq!(exported(&address).await, [lines + state.copied()]);
    // While Postgres is away they wait.
    server.stop();
    writer.write(&sealed(2), NONE).unwrap();
    let before = state.copied();
    let failed = second.pass().await;
    assert!(failed.is_err());
    second.note(failed);
    assert!(state.is_away());
    server.resume().unwrap();
    let began = Instant::now();
    while state.is_away() {
        assert!(began.elapsed() < PATIENCE);
        let passed = second.pass().await;
        second.note(passed);
    }
    assert!(state.copied() >= before + 2);
    let all = exported(&address).await;
    // Another replica's are its own.
    let mut apart = Writer::open(rules(other.path())).unwrap();
    apart.write(&sealed(4), NONE).unwrap();
    let (mut third, _) = copier(other.path(), &address);
    third.pass().await.unwrap();
    let mut both = exported(&address).await;
    both.sort_unstable();
    assert_eq!(both, [5, all[0]]);
}

#[tokio::test]
async fn a_log_that_is_begun_anew_is_another_and_changed_lines_are_left_out() {
    let Some(server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address: PostgresAddress = server.database("anew").unwrap().parse().unwrap();
    let home = folder();
    let rules = rules(home.path());
    let mut writer = Writer::open(rules.clone()).unwrap();
    writer.write(&sealed(5), NONE).unwrap();
    let (mut copier, state) = copier(home.path(), &address);
    copier.pass().await.unwrap();
    drop(writer);
    std::fs::remove_dir_all(&rules.dir).unwrap();
    let mut writer = Writer::open(rules.clone()).unwrap();
    writer.write(&sealed(2), NONE).unwrap();
    copier.pass().await.unwrap();
    assert_eq!(exported(&address).await, [6, 3]);
    // A line that is none, and what follows it.
    let path = rules.dir.join(AuditFileName(1).to_string());
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"{\"seq\":3}\n").unwrap();
    writer.write(&sealed(1), NONE).unwrap();
    // The beginning of a line waits for its end.
    file.write_all(b"{\"seq\":").unwrap();
    copier.pass().await.unwrap();
    assert_eq!(state.copied(), 10);
    copier.pass().await.unwrap();
    assert_eq!(state.copied(), 10);
}

#[tokio::test]
async fn what_is_not_on_the_disk_yet_waits_and_a_damaged_beginning_hides_nothing() {
    let Some(server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address: PostgresAddress = server.database("synced").unwrap().parse().unwrap();
    let home = folder();
    let mut small = rules(home.path());
    small.file_bytes_max = 2_000;
    let mut writer = Writer::open(small.clone()).unwrap();
    writer.write(&sealed(2), NONE).unwrap();
    let path = small.dir.join(AuditFileName(1).to_string());
    let length = std::fs::metadata(&path).unwrap().len();
    let synced = Arc::new(std::sync::Mutex::new(Some((AuditFileName(1), length - 5))));
    let asked = Arc::clone(&synced);
    let (mut copier, state) =
        AuditCopier::new(&small.dir, home.path(), address.clone(), move || {
            *asked.lock().unwrap()
        });
    copier.pass().await.unwrap();
    assert_eq!(state.copied(), 2, "the last line may still be taken back");
    // Nor is a file read that was begun and not said to be.
    (0..3).for_each(|_| writer.write(&sealed(4), NONE).unwrap());
    copier.pass().await.unwrap();
    assert_eq!(state.copied(), 2);
    *synced.lock().unwrap() = None;
    copier.pass().await.unwrap();
    let all = state.copied();
    assert_eq!(exported(&address).await, [all]);
    // Who changes the first line while it runs has the others copied all the same.
    let newest = audit_files(&small.dir).unwrap().pop().unwrap().1;
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[8] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    writer.write(&sealed(1), NONE).unwrap();
    copier.pass().await.unwrap();
    assert!(state.copied() > all);
}

#[tokio::test]
async fn rows_that_no_node_wrote_name_no_folders_and_a_cut_shows() {
    let Some(server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address: PostgresAddress = server.database("rows").unwrap().parse().unwrap();
    let home = folder();
    let mut small = rules(home.path());
    small.file_bytes_max = 2_000;
    let mut writer = Writer::open(small).unwrap();
    (0..5).for_each(|_| writer.write(&sealed(5), NONE).unwrap());
    let (mut copier, _) = copier(home.path(), &address);
    copier.pass().await.unwrap();
    let mut connection = address.connect().await.unwrap();
    // Whoever moves files among each other is found out by what the first line of each is.
    query("UPDATE hedge.audit SET file = 1 WHERE file = 3")
        .execute(&mut connection)
        .await
        .unwrap();
    let out = folder();
    let done = export_copies(&address, out.path()).await.unwrap();
    assert!(done.iter().any(|it| it.is_cut), "{done:?}");
    for (replica, file, line) in [
        ("../x", 1, "{}"),
        ("", 1, "{}"),
        ("/tmp/x", 1, "{}"),
        ("01a229b827ea706f8f7f0ccfbb59d29b", 0, "{}"),
        ("01a229b827ea706f8f7f0ccfbb59d29b", 1, "{}\n{}"),
    ] {
        let put = "INSERT INTO hedge.audit (replica, digest, file, line) VALUES ($1, 'x', $2, $3)";
        let put = query(put).bind(replica).bind(i64::from(file)).bind(line);
        put.execute(&mut connection).await.unwrap();
        let out = folder();
        let refused = export_copies(&address, out.path()).await;
        assert!(matches!(refused, Err(CopyFault::Row { .. })), "{refused:?}");
        query("DELETE FROM hedge.audit WHERE digest = 'x'")
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

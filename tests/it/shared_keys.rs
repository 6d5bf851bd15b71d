//! Several replicas, one Postgres and one Redis: keys and teams that are made at one are those of all.
//!
//! Each test starts servers of its own, and is skipped where none is installed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use loadtest::{FakeUpstream, POSTGRES_PASSWORD, PostgresServer};
use serde_json::{Value, json};

use crate::harness::{
    Hedge, Reply, ask, chat_request, eventually, fake, hedge, signal, upstream, with,
};
use crate::keys::{delete, make, patch, post, said, status_of};
use crate::replicas::server::Server;

const DATABASE: &str = "hedge";

/// What a change may take to be in force at all other replicas.
const REACH_MAX: Duration = Duration::from_secs(1);

fn postgres() -> Option<PostgresServer> {
    let server = PostgresServer::start().unwrap()?;
    server.database(DATABASE).unwrap();
    Some(server)
}

fn config(server: &PostgresServer, fake: &FakeUpstream, redis: Option<&Server>) -> String {
    let redis = redis.map(|it| format!("redis = '{}'\nreplicas = 3\n", it.url()));
    format!(
        "[local]\nenabled = false\n[offline]\nenabled = false\n[store]\npostgres = '{}'\n{}{}",
        server.url(DATABASE),
        redis.unwrap_or_default(),
        upstream(fake, "")
    )
}

pub async fn until_keys_are(hedges: &[Hedge], reach: &str) {
    for hedge in hedges {
        eventually(reach, async || {
            hedge.get("/readyz").await.json()["keys"] == reach
        })
        .await;
    }
}

pub async fn until_metric_is(hedge: &Hedge, line: &str) {
    eventually(line, async || {
        let scrape = hedge.metrics().await;
        scrape.lines().any(|it| it == line)
    })
    .await;
}

pub async fn until_opens(hedges: &[Hedge], key: &str, status: u16) {
    for hedge in hedges {
        eventually("a key opens everywhere, or nowhere", async || {
            status_of(hedge, key).await.as_u16() == status
        })
        .await;
    }
}

fn names(list: &Value) -> Vec<String> {
    let keys = list["keys"].as_array().unwrap().iter();
    keys.map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

fn hides_secrets(hedges: &[Hedge]) {
    for hedge in hedges {
        let log = hedge.log();
        assert!(!log.contains(POSTGRES_PASSWORD), "{log}");
        assert!(!log.contains("hk_"), "{log}");
    }
}

/// Who changed what is a line at the replica that was told to, and a copy of it is where all can be read.
#[tokio::test]
async fn all_replicas_audit_logs_are_exported_from_postgres() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let config = config(&server, &fake, None);
    let hedges: Vec<Hedge> = (0..2).map(|_| Hedge::launch(&config)).collect();
    for (number, hedge) in hedges.iter().enumerate() {
        hedge.until_ready().await;
        let made = post(
            hedge,
            "/admin/v1/teams",
            json!({"name": format!("t{number}")}),
        )
        .await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        // The line with which the log begins, and the change.
        until_metric_is(hedge, "hedge_audit_copied_lines_total 2").await;
        until_metric_is(hedge, "hedge_audit_copies_away 0").await;
    }
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("hedge.toml");
    std::fs::write(&file, &config).unwrap();
    let out = home.path().join("logs");
    let export = || {
        let mut command = hedge();
        command.arg("audit").arg("export").arg("--json");
        command.arg("--config").arg(&file).arg("--out").arg(&out);
        command.output().unwrap()
    };
    let exported = export();
    assert!(exported.status.success(), "{exported:?}");
    let exported: Value = serde_json::from_slice(&exported.stdout).unwrap();
    let logs = exported["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 2, "{exported}");
    let mut texts = String::new();
    for log in logs {
        let dir = std::path::Path::new(log["dir"].as_str().unwrap());
        let path = dir.join("audit-00000001.jsonl");
        let verified = hedge().args(["audit", "verify"]).arg(&path).output();
        assert!(verified.unwrap().status.success(), "{log}");
        texts += &std::fs::read_to_string(&path).unwrap();
    }
    for said in ["\"what\":\"team.create\"", "\"id\":\"t0\"", "\"id\":\"t1\""] {
        assert!(texts.contains(said), "{said} in {texts}");
    }
    let again = export();
    assert!(!again.status.success(), "nothing is written over");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("logs/"), "{said}");
    hides_secrets(&hedges);
}

#[tokio::test]
async fn what_one_replica_changes_is_in_force_at_all_within_a_second() {
    let (Some(server), Some(redis)) = (postgres(), Server::start()) else {
        return;
    };
    let fake = fake();
    let config = config(&server, &fake, Some(&redis));
    let hedges: Vec<Hedge> = (0..3).map(|_| Hedge::launch(&config)).collect();
    for hedge in &hedges {
        hedge.until_ready().await;
        until_metric_is(hedge, "hedge_shared_keys_told 1").await;
        assert_eq!(status_of(hedge, "any").await, StatusCode::OK, "it is open");
    }
    until_keys_are(&hedges, "shared").await;
    let [one, two, three] = hedges.as_slice() else {
        unreachable!()
    };
    let made = post(one, "/admin/v1/teams", json!({"name": "red"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    // Whoever changes something sees what was changed before, whether it heard of it or not.
    let key = make(two, "ci", json!({"team": "red", "models": ["fake/bench"]})).await;
    until_opens(&hedges, &key, 200).await;
    // From the first one on all of them ask for one.
    until_opens(&hedges, "any", 401).await;

    let mut slowest = Vec::new();
    for round in 0..3 {
        let changed = patch(
            &hedges[round],
            "/admin/v1/keys/ci",
            json!({"enabled": false}),
        )
        .await;
        assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
        let began = Instant::now();
        until_opens(&hedges, &key, 401).await;
        slowest.push(began.elapsed());
        let (_, _, message) = said(&hedges[(round + 1) % 3].send(chat_of(&key)).await);
        assert!(message.contains("disabled"), "{message}");
        let changed = patch(
            &hedges[(round + 1) % 3],
            "/admin/v1/keys/ci",
            json!({"enabled": true}),
        )
        .await;
        assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
        until_opens(&hedges, &key, 200).await;
    }
    // A machine that is busy with other tests may hold up one of them.
    let best = slowest.iter().min().unwrap();
    assert!(*best < REACH_MAX, "{slowest:?}");

    // Another secret, and the old one beside it for a while, and no more.
    let rotate = async |hedge: &Hedge, overlap: &str| {
        let body = json!({"overlap": overlap});
        let turned = post(hedge, "/admin/v1/keys/ci/rotate", body).await;
        turned.json()["secret"].as_str().unwrap().to_owned()
    };
    let second = rotate(three, "1h").await;
    for secret in [&key, &second] {
        until_opens(&hedges, secret, 200).await;
    }
    let third = rotate(one, "0s").await;
    until_opens(&hedges, &third, 200).await;
    for secret in [&key, &second] {
        until_opens(&hedges, secret, 401).await;
    }

    // Limits go with it, and are counted together.
    let limits = json!({"limits": [{"count": "requests", "amount": 2, "per": "day"}]});
    patch(two, "/admin/v1/teams/red", limits).await;
    eventually("the limit holds everywhere", async || {
        for hedge in &hedges {
            if status_of(hedge, &third).await != StatusCode::TOO_MANY_REQUESTS {
                return false;
            }
        }
        true
    })
    .await;
    patch(three, "/admin/v1/teams/red", json!({"limits": []})).await;
    until_opens(&hedges, &third, 200).await;

    // Of those who want one name one has it, and all others have their own.
    let mut asks = Vec::new();
    for round in 0..8 {
        for (at, hedge) in hedges.iter().enumerate() {
            asks.push(want(hedge, format!("same-{round}")));
            asks.push(want(hedge, format!("own-{round}-{at}")));
        }
    }
    let answers: Vec<Reply> = join_all(asks).await;
    let (made, refused): (Vec<&Reply>, Vec<&Reply>) = answers
        .iter()
        .partition(|it| it.status == StatusCode::CREATED);
    assert!(refused.iter().all(|it| it.status == StatusCode::CONFLICT));
    let mut given: Vec<String> = made
        .iter()
        .map(|it| it.json()["key"]["name"].as_str().unwrap().to_owned())
        .collect();
    given.sort_unstable();
    let all = given.len();
    given.dedup();
    assert_eq!(given.len(), all, "no name was given twice");
    for hedge in &hedges {
        eventually("all list all", async || {
            let list = hedge.admin_get("/admin/v1/keys").await.json();
            names(&list).len() == 1 + 8 + 8 * 3
        })
        .await;
    }
    let own = made.last().unwrap().json();
    let secret = own["secret"].as_str().unwrap();
    until_opens(&hedges, secret, 200).await;
    let path = format!("/admin/v1/keys/{}", own["key"]["name"].as_str().unwrap());
    assert_eq!(delete(one, &path).await.status, StatusCode::NO_CONTENT);
    until_opens(&hedges, secret, 401).await;
    for hedge in &hedges {
        let gone = hedge.admin_get(&path).await;
        assert_eq!(gone.status, StatusCode::NOT_FOUND);
    }

    // The day of last use is written down at the end, where all can read it.
    signal(one.pid(), "-TERM");
    let day = "SELECT COUNT(*) FROM hedge.keys WHERE name = 'ci' AND used_day > 20000";
    eventually("the day is written down", async || {
        server.query(DATABASE, day).unwrap() == "1"
    })
    .await;
    let rows = "SELECT string_agg(keys::text, ' ') FROM hedge.keys AS keys";
    let rows = server.query(DATABASE, rows).unwrap();
    assert!(
        rows.contains("ci") && !rows.contains(&third[3..40]),
        "{rows}"
    );
    hides_secrets(&hedges);
}

/// A key of the team `red`, or that there is one. On a busy machine Postgres may count as away for a moment.
async fn want(hedge: &Hedge, name: String) -> Reply {
    loop {
        let body = json!({"team": "red", "name": name});
        let answer = post(hedge, "/admin/v1/keys", body).await;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            return answer;
        }
    }
}

fn chat_of(key: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = chat_request(&ask("fake/bench", "hi"));
    let value = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_known_keys_open_and_nothing_is_changed() {
    let Some(mut server) = postgres() else { return };
    let fake = fake();
    let config = config(&server, &fake, None);
    let mut hedges = Vec::new();
    for _ in 0..2 {
        hedges.push(Hedge::start(&config).await);
    }
    until_keys_are(&hedges, "shared").await;
    let key = make(&hedges[0], "ci", json!({})).await;
    let other = make(&hedges[1], "other", json!({})).await;
    for key in [&key, &other] {
        until_opens(&hedges, key, 200).await;
    }
    let off = patch(
        &hedges[0],
        "/admin/v1/keys/other",
        json!({"enabled": false}),
    );
    assert_eq!(off.await.status, StatusCode::OK);
    until_opens(&hedges, &other, 401).await;

    server.stop();
    until_keys_are(&hedges, "apart").await;
    // One of them begins anew and one is killed, and they know what they knew; one that never heard of
    // any opens to nobody.
    let first = hedges.remove(0).restarted().await;
    let second = hedges.remove(0).killed().await;
    hedges = vec![first, second, Hedge::start(&config).await];
    until_keys_are(&hedges, "apart").await;
    for (hedge, status) in hedges.iter().zip([200, 200, 401]) {
        assert_eq!(status_of(hedge, &key).await.as_u16(), status);
        assert_eq!(status_of(hedge, &other).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status_of(hedge, "any").await, StatusCode::UNAUTHORIZED);
        let ready = hedge.get("/readyz").await;
        assert_eq!(ready.status, StatusCode::OK, "{}", ready.text);
        until_metric_is(hedge, "hedge_shared_keys_apart 1").await;
        for refused in [
            post(hedge, "/admin/v1/teams", json!({"name": "red"})).await,
            patch(hedge, "/admin/v1/keys/ci", json!({"enabled": false})).await,
            post(hedge, "/admin/v1/keys/ci/rotate", json!({})).await,
            delete(hedge, "/admin/v1/keys/ci").await,
        ] {
            let (status, _, message) = said(&refused);
            assert_eq!(status, 503, "{}", refused.text);
            assert_eq!(refused.json()["error"]["code"], "not_kept");
            assert!(message.contains("/readyz"), "{message}");
        }
        let list = hedge.admin_get("/admin/v1/keys").await;
        assert_eq!(list.status, StatusCode::OK, "what is known is shown");
    }
    assert_eq!(status_of(&hedges[0], &key).await, StatusCode::OK);

    server.resume().unwrap();
    until_keys_are(&hedges, "shared").await;
    until_opens(&hedges, &key, 200).await;
    let off = patch(&hedges[2], "/admin/v1/keys/ci", json!({"enabled": false})).await;
    assert_eq!(off.status, StatusCode::OK, "{}", off.text);
    let on = patch(&hedges[1], "/admin/v1/keys/other", json!({"enabled": true})).await;
    assert_eq!(on.status, StatusCode::OK, "{}", on.text);
    until_opens(&hedges, &key, 401).await;
    until_opens(&hedges, &other, 200).await;
    for hedge in &hedges {
        until_metric_is(hedge, "hedge_shared_keys_apart 0").await;
        let log = hedge.log();
        assert!(log.contains("keys are those of all replicas"), "{log}");
    }
    hides_secrets(&hedges);
}

/// What was seen: a change whose answer was lost may have been made, and no line of the audit log was about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_postgres_does_not_answer_is_in_the_audit_log() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let hedge = Hedge::start(&config(&server, &fake, None)).await;
    let hedges = [hedge];
    until_keys_are(&hedges, "shared").await;
    let server = Arc::new(server);
    let holding = Arc::clone(&server);
    let holding = std::thread::spawn(move || {
        let held = "BEGIN; LOCK TABLE hedge.keys IN SHARE MODE; SELECT pg_sleep(10); COMMIT";
        holding.query(DATABASE, held)
    });
    eventually("nobody may write", async || {
        let sql = "SELECT COUNT(*) FROM pg_locks WHERE mode = 'ShareLock'
                   AND relation = 'hedge.keys'::regclass AND granted";
        server.query(DATABASE, sql).unwrap() == "1"
    })
    .await;
    // On a busy machine Postgres may count as away for a moment, and nothing is begun then.
    eventually("what was begun is written down", async || {
        let late = json!({"team": "default", "name": "late"});
        let refused = post(&hedges[0], "/admin/v1/keys", late).await;
        assert_eq!(refused.status.as_u16(), 503, "{}", refused.text);
        let audit = hedges[0].kept("audit/audit-00000001.jsonl");
        audit.contains("\"what\":\"change.unanswered\",\"id\":\"key.create late\"")
    })
    .await;
    holding.join().unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_go_with_a_replicas_own_file_opens_nothing_there() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let plain = config(&server, &fake, None);
    let with_file = format!(
        "{plain}\n[[teams]]\nname = 'blue'\n[[keys]]\nname = 'ci'\nteam = 'of-file'\n\
         secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'\n"
    );
    let one = Hedge::start(&plain).await;
    let two = Hedge::start(&with_file).await;
    assert_eq!(status_of(&two, "one").await, StatusCode::OK);
    let key = make(&one, "ci", json!({})).await;
    let other = make(&one, "other", json!({})).await;
    until_metric_is(&two, "hedge_shared_keys_left_out 1").await;
    let hedges = [one, two];
    until_opens(&hedges, &other, 200).await;
    let [one, two] = hedges;
    assert_eq!(status_of(&one, &key).await, StatusCode::OK);
    assert_eq!(status_of(&two, &key).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status_of(&two, "one").await, StatusCode::OK, "the file's");
    assert!(two.log().contains("key `ci`"), "{}", two.log());
    // A name that opens nothing here is still one that there is.
    let blue = json!({"team": "blue"});
    let made = post(&one, "/admin/v1/teams", json!({"name": "blue"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let lost = make(&one, "of.blue", blue.clone()).await;
    until_metric_is(&two, "hedge_shared_keys_left_out 3").await;
    assert_eq!(status_of(&one, &lost).await, StatusCode::OK);
    assert_eq!(status_of(&two, &lost).await, StatusCode::UNAUTHORIZED);
    let again = with(blue, json!({"name": "of.blue"}));
    for refused in [
        post(&two, "/admin/v1/keys", again).await,
        patch(&two, "/admin/v1/keys/of.blue", json!({"enabled": false})).await,
        delete(&two, "/admin/v1/keys/of.blue").await,
    ] {
        let (status, _, message) = said(&refused);
        assert_eq!(status, 409, "{}", refused.text);
        assert!(message.contains("another replica"), "{message}");
    }
    assert_eq!(status_of(&one, &lost).await, StatusCode::OK);
    // Once the file is as the others', it does.
    two.configure(&plain);
    signal(two.pid(), "-HUP");
    until_opens(&[two], &key, 200).await;
}

#[tokio::test]
async fn a_node_goes_over_to_postgres_with_its_keys() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let shared = config(&server, &fake, None);
    let store = format!("[store]\npostgres = '{}'\n", server.url(DATABASE));
    let alone = shared.replace(&store, "");
    assert_ne!(alone, shared);
    let hedge = Hedge::start(&alone).await;
    post(&hedge, "/admin/v1/teams", json!({"name": "red"})).await;
    let key = make(&hedge, "ci", json!({"team": "red"})).await;
    let off = make(&hedge, "off", json!({})).await;
    patch(&hedge, "/admin/v1/keys/off", json!({"enabled": false})).await;
    let run = |hedge: &Hedge, name: &str, more: &[&str]| {
        let done = hedge.command(name).args(more).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (told, said) = (text(&done.stdout), text(&done.stderr));
        assert!(!format!("{told}{said}").contains(POSTGRES_PASSWORD));
        (done.status.success(), told, said)
    };
    hedge.configure(&shared);
    let count = || {
        let sql = "SELECT (SELECT COUNT(*) FROM hedge.keys), (SELECT COUNT(*) FROM hedge.teams)";
        server.query(DATABASE, sql).unwrap_or_default()
    };
    // Another node shares it already, and nobody made anything.
    let other = Hedge::start(&shared).await;
    assert_eq!(status_of(&other, "any").await, StatusCode::OK);
    let records = hedge.data_path("records");
    signal(hedge.pid(), "-TERM");
    eventually("it ended", async || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", hedge.pid()));
        state.unwrap_or_default().contains(") Z ")
    })
    .await;
    assert!(records.is_dir());
    // It does not begin without them.
    let (is_well, _, said) = run(&hedge, "serve", &[]);
    assert!(!is_well && said.contains("hedge store migrate"), "{said}");
    let (is_well, told, said) = run(&hedge, "store", &["migrate"]);
    assert!(is_well, "{said}");
    assert!(told.contains("2 keys and 1 teams are at"), "{told}");
    assert_eq!(count(), "2|1");
    let (is_well, told, _) = run(&hedge, "store", &["status", "--json"]);
    let status: Value = serde_json::from_str(&told).unwrap();
    assert!(is_well && status["has_own_keys"] == false, "{status}");
    assert_eq!(status["postgres"]["keys"], 2);
    let hedges = [hedge.killed().await, other];
    until_keys_are(&hedges, "shared").await;
    until_opens(&hedges, &key, 200).await;
    until_opens(&hedges, &off, 401).await;
    until_opens(&hedges, "any", 401).await;
    let [hedge, other] = hedges;
    let more = make(&hedge, "more", json!({"team": "red"})).await;
    let others = [other];
    until_opens(&others, &more, 200).await;

    // Back without Postgres it does not stand open.
    hedge.configure(&alone);
    signal(hedge.pid(), "-TERM");
    eventually("it ended", async || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", hedge.pid()));
        state.unwrap_or_default().contains(") Z ")
    })
    .await;
    let (is_well, _, said) = run(&hedge, "serve", &[]);
    assert!(!is_well && said.contains("[store]"), "{said}");
}

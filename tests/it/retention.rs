//! Prompts and replies are kept where that is asked for, encrypted, for some days, and are the owner's to read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, chat_request, eventually, fake, hedge, upstream, with};
use crate::openapi::has_shape;

const ANNA: &str = "anna@example.com";
/// Said by nobody else.
const MARKER: &str = "xylophonic-marmalade";

fn key_file(folder: &Path, name: &str, seed: u8) -> PathBuf {
    let path = folder.join(name);
    let digits: String = (0..32_u8).map(|at| format!("{:02x}", at ^ seed)).collect();
    std::fs::write(&path, digits + "\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

fn retention(keys: &[&Path], more: &str) -> String {
    let keys = keys.iter();
    let keys: Vec<String> = keys.map(|path| format!("{{ file = {path:?} }}")).collect();
    let keys = keys.join(", ");
    format!(
        "[retention]\nenabled = true\nkeep_days = 7\nkeys = [{keys}]\n{more}\n[audit]\nenabled = true\n"
    )
}

async fn chat(hedge: &Hedge, id: &str, user: &str, text: &str) -> Reply {
    let body = with(ask("fake/bench", text), json!({"user": user}));
    let mut request = chat_request(&body);
    let headers = request.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_str(id).unwrap());
    let reply = hedge.send(request).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply
}

fn path_of(id: &str) -> String {
    let id = id.replace('@', "%40").replace('/', "%2F");
    format!("/admin/v1/records/{id}/text")
}

/// The only text of an exchange.
async fn said(hedge: &Hedge, id: &str) -> Value {
    let reply = hedge.admin_get(&path_of(id)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let told = reply.json();
    has_shape(&hedge.get("/openapi.json").await.json(), "Texts", &told);
    let texts = told["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 1, "{told}");
    texts[0]["said"].clone()
}

/// The files below `dir` that have `needle` in them.
fn files_with(dir: &Path, needle: &str) -> Vec<String> {
    let needle = needle.as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, std::str::from_utf8(needle).unwrap()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if bytes.windows(needle.len()).any(|it| it == needle) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn nothing_is_kept_unless_it_is_asked_for() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    chat(&hedge, "r-1", ANNA, MARKER).await;
    let none = hedge.admin_get(&path_of("r-1")).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    assert!(none.text.contains("no text"), "{}", none.text);
    assert!(!hedge.data_path("texts").exists());
    assert!(!hedge.metrics().await.contains("hedge_texts"));
}

#[tokio::test]
async fn a_text_is_read_by_its_id_and_stands_nowhere_in_the_clear() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path(), "one.key", 1);
    let hedge = Hedge::before(&fake, &retention(&[&key], "")).await;
    let id = "anna.example.com/1";
    let asked = format!("{MARKER}: write to {ANNA}");
    let reply = chat(&hedge, id, ANNA, &asked).await;
    let told = said(&hedge, id).await;
    assert_eq!(told["view"], "masked");
    assert_eq!(told["asked"][0]["role"], "user");
    assert_eq!(
        told["asked"][0]["text"],
        format!("{MARKER}: write to <EMAIL_1>")
    );
    let masked = reply.content().replace(ANNA, "<EMAIL_1>");
    assert_eq!(told["answered"][0]["text"], masked);
    // From the cache, and streamed.
    chat(&hedge, "again", ANNA, &asked).await;
    assert_eq!(said(&hedge, "again").await["answered"], told["answered"]);
    let body = with(ask("fake/bench", MARKER), json!({"stream": true}));
    let mut request = chat_request(&body);
    let headers = request.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_static("streamed"));
    let streamed = hedge.send(request).await.streamed_text();
    assert!(!streamed.is_empty());
    assert_eq!(
        said(&hedge, "streamed").await["answered"][0]["text"],
        streamed
    );

    let texts = hedge.data_path("texts");
    assert!(texts.join("texts.sqlite").is_file());
    assert_eq!(files_with(hedge.data_home(), MARKER), [""; 0]);
    assert_eq!(files_with(&texts, ANNA), [""; 0]);
    assert!(!hedge.log().contains(MARKER));
    let metrics = hedge.metrics().await;
    assert!(
        metrics.contains("hedge_texts_total{result=\"written\"} 3\n"),
        "{metrics}"
    );
    assert!(
        !hedge
            .admin_get("/admin/v1/records")
            .await
            .text
            .contains(MARKER)
    );

    // It outlives the process; each reading was written down, by no name.
    let hedge = hedge.restarted().await;
    assert_eq!(said(&hedge, id).await, told);
    let unknown = hedge.admin_get(&path_of("unknown")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{}", unknown.text);
    let audit = hedge.kept("audit/audit-00000001.jsonl");
    let readings = audit
        .matches("\"who\":\"loopback\",\"what\":\"text.read\"")
        .count();
    assert_eq!(readings, 4, "{audit}");
    assert!(!audit.contains("anna"), "{audit}");

    let shown = {
        let mut command = crate::harness::hedge();
        let url = format!("http://{}", hedge.admin);
        command.args(["records", "show", id, "--url", &url, "--config"]);
        command.arg(hedge.config_path());
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        let done = done.await.unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    assert!(
        shown.contains(&format!("[user] {MARKER}: write to <EMAIL_1>\n")),
        "{shown}"
    );
}

#[tokio::test]
async fn texts_are_the_owner_s_and_somebody_s_can_be_handed_out_and_erased() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path(), "one.key", 1);
    let tokens = "tokens = [
  { name = 'olga', role = 'operator', secret = 'the-operator' },
  { name = 'otto', role = 'owner', secret = 'the-owner' },
]\n";
    let config = format!("{tokens}{}", retention(&[&key], "view = 'raw'"));
    let node = Hedge::before(&fake, &config).await;
    let url = format!("http://{}", node.admin);
    let run = async |token: &'static str, args: &[&str]| {
        let mut command = hedge();
        command.args(args).args(["--url", &url, "--json"]);
        command.env("HEDGE_ADMIN_TOKEN", token);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        let done = done.await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (
            done.status.success(),
            text(&done.stdout),
            text(&done.stderr),
        )
    };
    for at in 0..3 {
        chat(
            &node,
            &format!("a-{at}"),
            ANNA,
            &format!("{MARKER} {at} for {ANNA}"),
        )
        .await;
    }
    chat(&node, "b-0", "ben", MARKER).await;

    let (is_done, _, err) = run("the-operator", &["records", "show", "a-0"]).await;
    assert!(!is_done && err.contains("role `owner`"), "{err}");
    let (is_done, out, err) = run("the-owner", &["records", "show", "a-0"]).await;
    assert!(is_done, "{err}");
    assert!(out.contains(&format!("{MARKER} 0 for {ANNA}")), "{out}");
    let texts = |out: &str| -> Vec<Value> {
        let items: Vec<Value> = serde_json::from_str(out).unwrap();
        items
            .into_iter()
            .filter(|it| it["kept_in"] == "texts")
            .collect()
    };
    let (_, out, err) = run("the-operator", &["data", "export", "--user", ANNA]).await;
    let told = texts(&out);
    assert_eq!(told.len(), 3, "{err}");
    assert!(
        told.iter()
            .all(|it| it["said"].is_null() && it["trouble"].is_string())
    );
    let (_, out, _) = run("the-owner", &["data", "export", "--user", ANNA]).await;
    let told = texts(&out);
    assert_eq!(told.len(), 3);
    assert_eq!(
        told[0]["said"]["asked"][0]["text"],
        format!("{MARKER} 2 for {ANNA}")
    );
    assert_eq!(told[0]["request_id"], "a-2");

    let (is_done, out, err) = run("the-owner", &["data", "erase", "--yes", "--user", ANNA]).await;
    assert!(is_done, "{err}");
    let erased: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&erased["texts"], &erased["records"]),
        (&json!(3), &json!(3))
    );
    let (_, out, _) = run("the-owner", &["data", "export", "--user", ANNA]).await;
    assert!(texts(&out).is_empty());
    let (is_done, _, err) = run("the-owner", &["records", "show", "a-0"]).await;
    assert!(!is_done && err.contains("no text"), "{err}");
    let (is_done, ..) = run("the-owner", &["records", "show", "b-0"]).await;
    assert!(is_done, "nobody else's went");
}

#[tokio::test]
async fn keys_are_rotated_while_the_node_runs() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let one = key_file(folder.path(), "one.key", 1);
    let two = key_file(folder.path(), "two.key", 2);
    let config = |keys: &[&Path]| {
        let local = "[local]\nenabled = false\n";
        format!("{}{local}{}", retention(keys, ""), upstream(&fake, ""))
    };
    let hedge = Hedge::start(&config(&[&one])).await;
    chat(&hedge, "r-1", "ben", MARKER).await;
    let told = said(&hedge, "r-1").await;
    let held = async |hedge: &Hedge, key: &str, count: u32| {
        let line = format!("hedge_texts_held{{key=\"{key}\"}} {count}\n");
        eventually(&line, async || hedge.metrics().await.contains(&line)).await;
    };
    hedge.configure(&config(&[&two, &one]));
    let hedge = hedge.restarted().await;
    held(&hedge, "newest", 1).await;
    hedge.configure(&config(&[&two]));
    let hedge = hedge.restarted().await;
    assert_eq!(said(&hedge, "r-1").await, told);
    // The wrong way round: nothing is lost, and that is said.
    hedge.configure(&config(&[&one]));
    let hedge = hedge.restarted().await;
    held(&hedge, "missing", 1).await;
    let locked = hedge.admin_get(&path_of("r-1")).await;
    assert_eq!(locked.status, StatusCode::NOT_FOUND);
    assert!(
        locked.text.contains("1 texts are sealed under keys"),
        "{}",
        locked.text
    );
    hedge.configure(&config(&[&one, &two]));
    let hedge = hedge.restarted().await;
    assert_eq!(said(&hedge, "r-1").await, told);
}

#[tokio::test]
async fn without_a_key_a_node_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.key");
    let open = key_file(folder.path(), "open.key", 1);
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let failing = "keys = [{ command = ['false'] }]";
    let with_keys = |keys: &str| {
        format!("[retention]\nenabled = true\nkeep_days = 7\n{keys}\n[local]\nenabled = true\n")
    };
    let of_file = |path: &Path| format!("keys = [{{ file = {path:?} }}]");
    for (keys, wanted, is_checked) in [
        (of_file(&missing), "No such file", true),
        (of_file(&open), "0600", true),
        (failing.to_owned(), "false ended with exit status: 1", false),
    ] {
        let file = folder.path().join("hedge.toml");
        let listeners = "listen = '127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'\n";
        std::fs::write(&file, format!("{listeners}{}", with_keys(&keys))).unwrap();
        for name in ["serve", "check", "doctor"] {
            let mut command = hedge();
            command.args([name, "--config"]).arg(&file);
            command.env("XDG_DATA_HOME", folder.path());
            let done = tokio::task::spawn_blocking(move || command.output().unwrap());
            let done = done.await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let said = text(&done.stdout) + &text(&done.stderr);
            if name == "check" && !is_checked {
                continue;
            }
            assert!(!done.status.success(), "{name} {keys}: {said}");
            assert!(
                said.contains("retention.keys[0]") && said.contains(wanted),
                "{name} {keys}: {said}"
            );
        }
    }
}

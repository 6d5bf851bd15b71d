//! Keys, teams and operators' tokens, made and changed while a node runs, from outside.

use std::process::Output;

use bytes::Bytes;
use futures::future::join_all;
use hashing::sha256;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::{
    Hedge, Reply, ask, chat_request, eventually, fake, hedge, open, request, with,
};
use crate::openapi::has_shape;

/// `one`, of the team `of-file`.
const FILE_KEY: &str = "
[[keys]]
name = 'from.file'
team = 'of-file'
secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
limits = [{ count = 'requests', amount = 1000, per = 'minute' }]
[[teams]]
name = 'of-file'
";

fn bearer(mut request: Request<Full<Bytes>>, key: &str) -> Request<Full<Bytes>> {
    let value = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

fn chat_of(key: &str) -> Request<Full<Bytes>> {
    let mut request = bearer(chat_request(&ask("fake/bench", "hi")), key);
    let no_store = HeaderValue::from_static("no-store");
    request.headers_mut().insert("cache-control", no_store);
    request
}

pub async fn status_of(hedge: &Hedge, key: &str) -> StatusCode {
    hedge.send(chat_of(key)).await.status
}

pub async fn post(hedge: &Hedge, path: &str, body: Value) -> Reply {
    hedge.admin_post(path, &body.to_string()).await
}

pub async fn patch(hedge: &Hedge, path: &str, body: Value) -> Reply {
    hedge
        .admin_send(Method::PATCH, path, &body.to_string())
        .await
}

pub async fn delete(hedge: &Hedge, path: &str) -> Reply {
    hedge.admin_send(Method::DELETE, path, "").await
}

/// A key of the team `default`, and its secret.
pub async fn make(hedge: &Hedge, name: &str, more: Value) -> String {
    let body = with(json!({"team": "default", "name": name}), more);
    let made = post(hedge, "/admin/v1/keys", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.header("cache-control"), "no-store");
    made.json()["secret"].as_str().unwrap().to_owned()
}

pub fn said(reply: &Reply) -> (u16, String, String) {
    let error = reply.json()["error"].clone();
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (reply.status.as_u16(), text("param"), text("message"))
}

#[tokio::test]
async fn a_key_is_made_used_disabled_and_taken_away() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let document = hedge.get("/openapi.json").await.json();
    assert_eq!(status_of(&hedge, "any").await, StatusCode::OK);

    let team = json!({"name": "red", "limits": [{"count": "requests", "amount": 9, "per": "day"}]});
    let team = post(&hedge, "/admin/v1/teams", team).await;
    assert_eq!(team.status, StatusCode::CREATED, "{}", team.text);
    has_shape(&document, "Team", &team.json());
    let body = json!({"name": "ci", "team": "red", "expires_in": "30d", "models": ["fake/bench"]});
    let made = post(&hedge, "/admin/v1/keys", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    has_shape(&document, "KeyMade", &made.json());
    let secret = made.json()["secret"].as_str().unwrap().to_owned();

    // From now on a key is asked for.
    assert_eq!(status_of(&hedge, "any").await, StatusCode::UNAUTHORIZED);
    let bare = hedge.chat(&ask("fake/bench", "hi")).await;
    assert_eq!(bare.status, StatusCode::UNAUTHORIZED);
    assert_eq!(status_of(&hedge, &secret).await, StatusCode::OK);
    let typo = hedge.send(chat_of(&secret[..secret.len() - 1])).await;
    let (status, _, message) = said(&typo);
    assert_eq!(status, 401);
    assert!(message.contains("no whole API key"), "{message}");

    let shown = hedge.admin_get("/admin/v1/keys/ci").await.json();
    has_shape(&document, "Key", &shown);
    assert_eq!(shown["state"], "active");
    assert_eq!(shown["last_used"].as_str().unwrap().len(), 10);
    let list = hedge.admin_get("/admin/v1/keys").await;
    has_shape(&document, "Keys", &list.json());
    let teams = hedge.admin_get("/admin/v1/teams").await.json();
    has_shape(&document, "Teams", &teams);
    let names: Vec<_> = teams["teams"].as_array().unwrap().iter().collect();
    assert_eq!(names[0]["name"], "default");
    assert_eq!(
        (&names[1]["name"], &names[1]["keys"]),
        (&json!("red"), &json!(1))
    );

    let off = patch(&hedge, "/admin/v1/keys/ci", json!({"enabled": false})).await;
    assert_eq!(off.json()["state"], "disabled", "{}", off.text);
    let (status, _, message) = said(&hedge.send(chat_of(&secret)).await);
    assert_eq!(status, 401);
    assert!(message.contains("disabled"), "{message}");
    patch(&hedge, "/admin/v1/keys/ci", json!({"enabled": true})).await;
    assert_eq!(status_of(&hedge, &secret).await, StatusCode::OK);

    let kept = delete(&hedge, "/admin/v1/teams/red").await;
    let (status, _, message) = said(&kept);
    assert_eq!(status, 409);
    assert!(message.contains("1 keys"), "{message}");
    let gone = delete(&hedge, "/admin/v1/keys/ci").await;
    assert_eq!((gone.status, &*gone.text), (StatusCode::NO_CONTENT, ""));
    assert_eq!(status_of(&hedge, &secret).await, StatusCode::UNAUTHORIZED);
    for path in ["/admin/v1/keys/ci", "/admin/v1/teams/none"] {
        assert_eq!(delete(&hedge, path).await.status, StatusCode::NOT_FOUND);
        let found = hedge.admin_get(path).await.status;
        assert_eq!(found, StatusCode::NOT_FOUND);
    }
    let gone = delete(&hedge, "/admin/v1/teams/red").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    // The last key is gone, and the node does not stand open again.
    assert_eq!(status_of(&hedge, "any").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_changes_for_one_key_fails_no_request_of_another() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let (ours, theirs) = (
        make(&hedge, "ours", json!({})).await,
        make(&hedge, "theirs", json!({})).await,
    );
    let changing = async {
        for round in 0..10 {
            for is_enabled in [false, true] {
                let body = json!({"enabled": is_enabled});
                let changed = patch(&hedge, "/admin/v1/keys/theirs", body).await;
                assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
                let expected = match is_enabled {
                    true => StatusCode::OK,
                    false => StatusCode::UNAUTHORIZED,
                };
                // From the next request on.
                assert_eq!(status_of(&hedge, &theirs).await, expected, "{round}");
            }
        }
    };
    let asking = join_all((0..8).map(|_| async {
        for _ in 0..15 {
            assert_eq!(status_of(&hedge, &ours).await, StatusCode::OK);
        }
    }));
    futures::future::join(changing, asking).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_place_and_changes_nothing() {
    let fake = fake();
    let hedge = Hedge::before(&fake, FILE_KEY).await;
    let limit = |more: Value| {
        let limit = with(
            json!({"count": "requests", "amount": 5, "per": "day"}),
            more,
        );
        json!({"team": "default", "limits": [limit]})
    };
    let wrong = [
        (json!({"team": "none"}), "team"),
        (json!({"team": "default\r\nx-evil: 1"}), "team"),
        (json!({"team": "' OR 1=1 --"}), "team"),
        (json!({"team": "default", "name": "a\r\nb"}), "name"),
        (
            json!({"team": "default", "name": "'; DROP TABLE keys; --"}),
            "name",
        ),
        (json!({"team": "default", "name": "a".repeat(65)}), "name"),
        (
            json!({"team": "default", "expires_in": "-1d"}),
            "expires_in",
        ),
        (json!({"team": "default", "expires_at": 1}), "expires_at"),
        (
            json!({"team": "default", "models": ["a", "b\u{0}"]}),
            "models[1]",
        ),
        (json!({"team": "default", "models": "a"}), "models"),
        (
            json!({"team": "default", "networks": ["10.0.0.1/8"]}),
            "networks[0]",
        ),
        (json!({"team": "default", "networks": []}), "networks"),
        (json!({"team": "default", "routes": []}), "routes"),
        (
            json!({"team": "default", "routes": ["default", "no-such-rule"]}),
            "routes[1]",
        ),
        (json!({"team": "default", "priority": "first"}), "priority"),
        (
            json!({"team": "default", "output_tokens_max": 0}),
            "output_tokens_max",
        ),
        (
            json!({"team": "default", "output_tokens_max": -1}),
            "output_tokens_max",
        ),
        (json!({"team": "default", "colour": "red"}), "colour"),
        (limit(json!({"amount": 0})), "limits[0].amount"),
        (limit(json!({"amount": -5})), "limits[0].amount"),
        (limit(json!({"amount": 1.5})), "limits[0].amount"),
        (limit(json!({"amount": u64::MAX})), "limits[0].amount"),
        (limit(json!({"per": "fortnight"})), "limits[0].per"),
        (
            limit(json!({"count": "cost", "usd": -1, "amount": null})),
            "limits[0].usd",
        ),
        (
            limit(json!({"count": "cost", "usd": 1e300, "amount": null})),
            "limits[0].usd",
        ),
        (limit(json!({"burst": 9})), "limits[0].burst"),
    ];
    for (body, place) in wrong {
        let reply = post(&hedge, "/admin/v1/keys", body.clone()).await;
        let (status, param, message) = said(&reply);
        assert_eq!((status, &*param), (400, place), "{body}: {message}");
        assert!(!message.is_empty());
    }
    for body in [
        "",
        "[]",
        "{",
        "\"a\"",
        "{\"team\": \"default\", \"team\": 1}",
    ] {
        let reply = hedge.admin_post("/admin/v1/keys", body).await;
        assert_eq!(
            reply.status,
            StatusCode::BAD_REQUEST,
            "{body}: {}",
            reply.text
        );
    }
    let long = format!("{{\"team\": \"{}\"}}", "a".repeat(70_000));
    let reply = hedge.admin_post("/admin/v1/keys", &long).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    for query in ["limit=0", "limit=1001", "limit=x", "page=2", "after=%ff"] {
        let reply = hedge.admin_get(&format!("/admin/v1/keys?{query}")).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{query}");
    }
    // What stands in the file stays as it stands there.
    for (method, path) in [
        (Method::PATCH, "/admin/v1/keys/from.file"),
        (Method::DELETE, "/admin/v1/keys/from.file"),
        (Method::POST, "/admin/v1/keys/from.file/rotate"),
        (Method::PATCH, "/admin/v1/teams/of-file"),
        (Method::DELETE, "/admin/v1/teams/of-file"),
        (Method::DELETE, "/admin/v1/teams/default"),
    ] {
        let body = match method {
            Method::PATCH if path.contains("keys") => "{\"enabled\": false}",
            _ => "{}",
        };
        let reply = hedge.admin_send(method, path, body).await;
        let (status, _, message) = said(&reply);
        assert_eq!(status, 409, "{path}: {message}");
        assert!(message.contains("configuration file"), "{message}");
    }
    for (path, body) in [
        (
            "/admin/v1/keys",
            json!({"team": "default", "name": "from.file"}),
        ),
        ("/admin/v1/teams", json!({"name": "of-file"})),
        ("/admin/v1/teams", json!({"name": "default"})),
    ] {
        let reply = post(&hedge, path, body).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text);
    }
    let keys = hedge.admin_get("/admin/v1/keys").await.json();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let expected = json!({"count": "requests", "amount": 1000, "per": "minute"});
    assert_eq!(
        (&keys[0]["source"], &keys[0]["limits"][0]),
        (&json!("file"), &expected)
    );
    assert_eq!(status_of(&hedge, "one").await, StatusCode::OK);
}

#[tokio::test]
async fn the_same_name_twice_is_refused_and_lists_have_pages() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    for at in 0..5 {
        make(&hedge, &format!("k{at}"), json!({})).await;
    }
    let again = json!({"team": "default", "name": "k3"});
    let again = post(&hedge, "/admin/v1/keys", again).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let unnamed = post(&hedge, "/admin/v1/keys", json!({"team": "default"})).await;
    let unnamed = unnamed.json()["key"]["name"].as_str().unwrap().to_owned();
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/admin/v1/keys?limit=2&after={after}");
        let page = hedge.admin_get(&path).await.json();
        let keys = page["keys"].as_array().unwrap();
        assert!(keys.len() <= 2);
        names.extend(
            keys.iter()
                .map(|it| it["name"].as_str().unwrap().to_owned()),
        );
        match page["after"].as_str() {
            Some(name) => name.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(names, ["k0", "k1", "k2", "k3", "k4", &unnamed]);
}

#[tokio::test]
async fn a_key_ends_and_an_old_secret_does() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let brief = make(&hedge, "brief", json!({"expires_in": "1s"})).await;
    eventually("it is over", async || {
        status_of(&hedge, &brief).await == StatusCode::UNAUTHORIZED
    })
    .await;
    let (_, _, message) = said(&hedge.send(chat_of(&brief)).await);
    assert!(message.contains("expired"), "{message}");
    let shown = hedge.admin_get("/admin/v1/keys/brief").await.json();
    assert_eq!(shown["state"], "expired");

    let rotate = async |overlap: &str| {
        let body = json!({"overlap": overlap});
        post(&hedge, "/admin/v1/keys/turned/rotate", body).await
    };
    let first = make(&hedge, "turned", json!({})).await;
    let turned = rotate("24h").await;
    assert_eq!(turned.status, StatusCode::OK, "{}", turned.text);
    let second = turned.json()["secret"].as_str().unwrap().to_owned();
    assert!(turned.json()["key"]["rotated_until"].is_u64());
    for secret in [&first, &second] {
        assert_eq!(status_of(&hedge, secret).await, StatusCode::OK);
    }
    // A third would open too.
    assert_eq!(said(&rotate("24h").await).0, 409);
    let third = rotate("0s").await.json();
    let third = third["secret"].as_str().unwrap();
    for secret in [&first, &second] {
        assert_eq!(status_of(&hedge, secret).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(status_of(&hedge, third).await, StatusCode::OK);
    // With an overlap that ends soon.
    let fourth = rotate("1s").await.json();
    assert_eq!(
        status_of(&hedge, fourth["secret"].as_str().unwrap()).await,
        StatusCode::OK
    );
    eventually("the old secret is over", async || {
        status_of(&hedge, third).await == StatusCode::UNAUTHORIZED
    })
    .await;
}

/// Two rules and a default, all of which the upstream answers.
const RULES: &str = "default = 'cloud'\n[outcomes.cloud]\ncandidates = ['cloud']\n\
    [[rules]]\nname = 'red'\nwhen = { keywords = ['red'] }\nthen = 'cloud'\n\
    [[rules]]\nname = 'blue'\nwhen = { keywords = ['blue'] }\nthen = 'cloud'\n";

#[tokio::test]
async fn a_key_takes_its_routes_and_no_others() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, RULES).unwrap();
    let routes = format!("[routes]\nfile = '{}'\n", rules.display());
    let hedge = Hedge::before(&fake, &routes).await;
    let key = make(&hedge, "narrow", json!({"routes": ["red", "default"]})).await;
    let other = make(&hedge, "wide", json!({})).await;
    let said_by = async |key: &str, model: &str, text: &str| {
        let asked = bearer(chat_request(&ask(model, text)), key);
        hedge.send(asked).await
    };
    let asked_count = || fake.counts().asked;
    for (text, reason) in [("a red one", "red"), ("neither", "default")] {
        let reply = said_by(&key, "auto", text).await;
        assert_eq!(reply.status, StatusCode::OK, "{text}: {}", reply.text);
        assert_eq!(reply.reason(), reason);
    }
    // Kept for another key of the team, and so at hand.
    let kept = said_by(&other, "auto", "a blue one").await;
    assert_eq!(kept.status, StatusCode::OK, "{}", kept.text);
    let before = asked_count();
    for (model, text, rule) in [
        ("auto", "a blue one", "blue"),
        ("fake/bench", "a red one", "model-named"),
    ] {
        let refused = said_by(&key, model, text).await;
        let reason = refused.reason().to_owned();
        let (status, _, message) = said(&refused);
        assert_eq!((status, reason.as_str()), (403, rule), "{message}");
        assert!(message.contains("`routes`"), "{message}");
    }
    let embed = json!({"model": "fake/bench", "input": "red"}).to_string();
    let mut embed = request(Method::POST, "/v1/embeddings", embed.into());
    let json_type = HeaderValue::from_static("application/json");
    embed.headers_mut().insert("content-type", json_type);
    let (status, _, message) = said(&hedge.send(bearer(embed, &key)).await);
    assert_eq!(status, 403, "{message}");
    assert!(message.contains("model-named"), "{message}");
    assert_eq!(asked_count(), before, "nobody was asked");
    // What was kept by a rule that it may not take is not its own either.
    let reply = said_by(&other, "auto", "the same red one").await;
    assert_eq!(reply.header("x-hedge-cache"), "miss");
    let reply = said_by(&key, "auto", "the same red one").await;
    assert_eq!(reply.header("x-hedge-cache"), "miss");
    let reply = said_by(&key, "auto", "the same red one").await;
    assert!(reply.header("x-hedge-cache").starts_with("exact"));

    let shown = hedge.admin_get("/admin/v1/keys/narrow").await.json();
    assert_eq!(shown["routes"], json!(["red", "default"]));
    patch(&hedge, "/admin/v1/keys/narrow", json!({"routes": null})).await;
    let reply = said_by(&key, "auto", "a blue one").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    patch(&hedge, "/admin/v1/keys/narrow", json!({"routes": ["blue"]})).await;

    // A rule that a key was given is not taken away unseen.
    std::fs::write(&rules, RULES.replace("blue", "green")).unwrap();
    crate::harness::signal(hedge.pid(), "-HUP");
    eventually("it is refused", async || {
        hedge.log().contains("configuration not reloaded") && hedge.log().contains("key `narrow`")
    })
    .await;
    let refused = said_by(&key, "auto", "a red one").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);

    let config = format!(
        "{routes}[local]\nenabled = false\n[[keys]]\nname = 'k'\nsecret = 'sha256:{}'\n\
         routes = ['red', 'yellow']\n{}",
        "ab".repeat(32),
        crate::harness::upstream(&fake, "")
    );
    let file = folder.path().join("hedge.toml");
    std::fs::write(&file, config).unwrap();
    let check = crate::harness::hedge()
        .arg("check")
        .arg("--config")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout) + String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success());
    assert!(
        said.contains("keys[0].routes[1]") && said.contains("`yellow`"),
        "{said}"
    );
}

#[tokio::test]
async fn a_key_names_its_models_and_comes_from_its_networks() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let key = make(&hedge, "one-model", json!({"models": ["fake/other"]})).await;
    let refused = hedge.send(chat_of(&key)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);
    let other = bearer(chat_request(&ask("fake/other", "hi")), &key);
    assert_eq!(hedge.send(other).await.status, StatusCode::OK);
    let listed = bearer(request(Method::GET, "/v1/models", Bytes::new()), &key);
    let listed = hedge.send(listed).await.text;
    assert!(listed.contains("fake/other") && !listed.contains("fake/bench"));

    let key = make(&hedge, "far", json!({"networks": ["10.0.0.0/8"]})).await;
    // Nobody's word counts where no proxy is named.
    let forged = |address: &str| {
        let mut request = chat_of(&key);
        let address = HeaderValue::from_str(address).unwrap();
        request.headers_mut().insert("x-forwarded-for", address);
        request
    };
    for request in [chat_of(&key), forged("10.0.0.1")] {
        let (status, _, message) = said(&hedge.send(request).await);
        assert_eq!(status, 403, "{message}");
        assert!(message.contains("from this address"), "{message}");
    }
    let near = json!({"networks": ["127.0.0.1", "10.0.0.0/8"]});
    patch(&hedge, "/admin/v1/keys/far", near).await;
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);
    patch(&hedge, "/admin/v1/keys/far", json!({"networks": null})).await;
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);

    let proxied = "[ingress]\nproxies = ['127.0.0.0/8']\n";
    let hedge = Hedge::before(&fake, proxied).await;
    let key = make(&hedge, "far", json!({"networks": ["10.0.0.0/8"]})).await;
    let forwarded = |address: &str| {
        let mut request = chat_of(&key);
        let address = HeaderValue::from_str(address).unwrap();
        request.headers_mut().insert("x-forwarded-for", address);
        request
    };
    for (address, status) in [
        ("10.0.0.1", StatusCode::OK),
        ("192.0.2.1, 10.0.0.1", StatusCode::OK),
        ("10.0.0.1, 192.0.2.1", StatusCode::FORBIDDEN),
        ("nobody", StatusCode::FORBIDDEN),
    ] {
        let reply = hedge.send(forwarded(address)).await;
        assert_eq!(reply.status, status, "{address}: {}", reply.text);
    }
}

#[tokio::test]
async fn limits_are_in_force_when_they_are_changed() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let one = json!([{"count": "requests", "amount": 1, "per": "day"}]);
    let team = json!({"name": "red", "limits": one});
    post(&hedge, "/admin/v1/teams", team).await;
    let key = make(&hedge, "k", json!({"team": "red"})).await;
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);
    let spent = StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(status_of(&hedge, &key).await, spent);
    let more = json!({"limits": [{"count": "requests", "amount": 2, "per": "day"}]});
    let changed = patch(&hedge, "/admin/v1/teams/red", more).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);
    assert_eq!(status_of(&hedge, &key).await, spent);
    let limits = hedge.admin_get("/admin/v1/limits").await.json();
    let limit = &limits["limits"][0];
    assert_eq!((&limit["name"], &limit["left"]), (&json!("red"), &json!(0)));
    patch(&hedge, "/admin/v1/teams/red", json!({"limits": []})).await;
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);
    patch(&hedge, "/admin/v1/keys/k", json!({"limits": one})).await;
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);
    assert_eq!(status_of(&hedge, &key).await, spent);
    // What was used is there after a restart, as the limits are.
    let hedge = hedge.restarted().await;
    assert_eq!(status_of(&hedge, &key).await, spent);
}

#[tokio::test]
async fn keys_outlive_a_restart_and_a_kill_right_after_the_answer() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    post(&hedge, "/admin/v1/teams", json!({"name": "red"})).await;
    let first = make(&hedge, "first", json!({"team": "red"})).await;
    let mut hedge = hedge.restarted().await;
    assert_eq!(status_of(&hedge, &first).await, StatusCode::OK);
    let mut secrets = vec![first];
    for at in 0..3 {
        secrets.push(make(&hedge, &format!("k{at}"), json!({"team": "red"})).await);
        hedge = hedge.killed().await;
        for secret in &secrets {
            assert_eq!(status_of(&hedge, secret).await, StatusCode::OK);
        }
    }
    let off = patch(&hedge, "/admin/v1/keys/first", json!({"enabled": false})).await;
    assert_eq!(off.status, StatusCode::OK);
    delete(&hedge, "/admin/v1/keys/k0").await;
    let hedge = hedge.killed().await;
    for (secret, status) in secrets.iter().zip([401, 401, 200, 200]) {
        assert_eq!(status_of(&hedge, secret).await.as_u16(), status);
    }
    assert_eq!(status_of(&hedge, "any").await, StatusCode::UNAUTHORIZED);
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

#[tokio::test]
async fn secrets_stand_nowhere_and_every_change_is_in_the_audit_log() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "[log]\nlevel = 'trace'\n").await;
    let first = make(&hedge, "k", json!({"expires_in": "30d"})).await;
    let turned = post(&hedge, "/admin/v1/keys/k/rotate", json!({"overlap": "1h"})).await;
    let second = turned.json()["secret"].as_str().unwrap().to_owned();
    for secret in [&first, &second] {
        assert_eq!(status_of(&hedge, secret).await, StatusCode::OK);
    }
    let refused = hedge.send(chat_of(&format!("{second}0"))).await;
    post(&hedge, "/admin/v1/teams", json!({"name": "red"})).await;
    patch(&hedge, "/admin/v1/teams/red", json!({"limits": []})).await;
    delete(&hedge, "/admin/v1/teams/red").await;
    patch(
        &hedge,
        "/admin/v1/keys/k",
        json!({"models": null, "priority": "batch"}),
    )
    .await;
    patch(&hedge, "/admin/v1/keys/k", json!({"enabled": false})).await;
    let disabled = hedge.send(chat_of(&second)).await;
    post(&hedge, "/admin/v1/cache/purge", json!({"team": "red"})).await;
    // What is refused is no change.
    post(&hedge, "/admin/v1/keys", json!({"team": "none"})).await;
    delete(&hedge, "/admin/v1/keys/k").await;

    let audit = hedge.kept("audit/audit-00000001.jsonl");
    let lines = audit.lines().map(|it| serde_json::from_str(it).unwrap());
    let lines: Vec<Value> = lines.filter(|it: &Value| it["kind"] == "change").collect();
    let told = |it: &Value| {
        assert_eq!(it["who"], "loopback");
        format!(
            "{} {}",
            it["what"].as_str().unwrap(),
            it["id"].as_str().unwrap()
        )
    };
    let told: Vec<String> = lines.iter().map(told).collect();
    let expected = [
        "key.create k",
        "key.rotate k",
        "team.create red",
        "team.change red",
        "team.delete red",
        "key.change k",
        "key.disable k",
        "cache.purge team red",
        "key.delete k",
    ];
    assert_eq!(told, expected);

    let list = hedge.admin_get("/admin/v1/keys").await.text;
    let told = [
        refused.text,
        disabled.text,
        list,
        hedge.metrics().await,
        hedge.log(),
        audit,
    ];
    let mut places: Vec<Vec<u8>> = told.into_iter().map(String::into_bytes).collect();
    for name in ["keys/keys.sqlite", "keys/keys.sqlite-wal"] {
        places.push(std::fs::read(hedge.data_path(name)).unwrap());
    }
    for secret in [&first, &second] {
        let digest = sha256(secret);
        let digits: String = digest.iter().map(|it| format!("{it:02x}")).collect();
        for place in &places {
            let shown = String::from_utf8_lossy(&place[..place.len().min(200)]);
            let parts: [&[u8]; 3] = [&secret.as_bytes()[..40], &digest, digits.as_bytes()];
            assert!(parts.iter().all(|part| !has(place, part)), "{shown}");
        }
    }
    let done = verified(&hedge);
    assert!(done.status.success(), "{done:?}");
    let done = String::from_utf8(done.stdout).unwrap();
    assert!(done.contains("9 changes by operators"), "{done}");
}

/// `--config` goes with the inner command.
fn verified(node: &Hedge) -> Output {
    let mut command = hedge();
    command
        .args(["audit", "verify", "--config"])
        .arg(node.config_path())
        .env("XDG_DATA_HOME", node.data_home())
        .env("FAKE_KEY", "cloud-key");
    command.output().unwrap()
}

const TOKENS: &str = "
tokens = [
  { name = 'anna', role = 'viewer', secret = 'the-viewer' },
  { name = 'olga', role = 'operator', secret = 'the-operator' },
  { name = 'otto', role = 'owner', secret = 'the-owner' },
]
[ingress]
require_keys = true
";

/// To the operator's listener, with a header of its own.
async fn as_operator(
    hedge: &Hedge,
    method: Method,
    path: &str,
    header: &str,
    body: Value,
) -> Reply {
    let mut request = request(method, path, Bytes::from(body.to_string()));
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    if !header.is_empty() {
        let value = HeaderValue::from_str(header).unwrap();
        headers.insert("authorization", value);
    }
    open(hedge.admin, request).await.read().await
}

#[tokio::test]
async fn a_token_lets_do_what_its_role_says_and_opens_nothing_else() {
    let fake = fake();
    let hedge = Hedge::before(&fake, TOKENS).await;
    let wish = json!({"team": "default", "name": "k"});
    let send = async |method: Method, header: &str| {
        as_operator(&hedge, method, "/admin/v1/keys", header, wish.clone()).await
    };
    for header in ["", "Bearer none", "Bearer", "Basic Og=="] {
        for method in [Method::GET, Method::POST] {
            let refused = send(method, header).await;
            let (status, _, message) = said(&refused);
            assert_eq!(status, 401, "{header}");
            assert!(message.contains("operator's listener"), "{message}");
            let asks = refused.headers.get_all("www-authenticate").iter();
            assert_eq!(asks.count(), 2);
        }
    }
    for path in ["/metrics", "/admin", "/admin/health", "/admin/v1/records"] {
        let refused = as_operator(&hedge, Method::GET, path, "", json!({})).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
        let shown = as_operator(&hedge, Method::GET, path, "Bearer the-viewer", json!({})).await;
        assert_eq!(shown.status, StatusCode::OK, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(hedge.admin_get(path).await.status, StatusCode::OK);
    }
    let (status, _, message) = said(&send(Method::POST, "Bearer the-viewer").await);
    assert_eq!(status, 403);
    assert!(message.contains("viewer"), "{message}");
    let purge = "/admin/v1/cache/purge";
    let all = json!({"all": true});
    let refused = as_operator(
        &hedge,
        Method::POST,
        purge,
        "Bearer the-viewer",
        all.clone(),
    )
    .await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    // `olga:the-operator`, as a browser sends it.
    let basic = "Basic b2xnYTp0aGUtb3BlcmF0b3I=";
    let made = send(Method::POST, basic).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let key = made.json()["secret"].as_str().unwrap().to_owned();
    let purged = as_operator(&hedge, Method::POST, purge, "Bearer the-owner", all).await;
    assert_eq!(purged.status, StatusCode::OK, "{}", purged.text);

    // Each on the other's side.
    assert_eq!(status_of(&hedge, &key).await, StatusCode::OK);
    let (status, _, message) = said(&hedge.send(chat_of("the-operator")).await);
    assert_eq!(status, 401);
    assert!(message.contains("operator's token"), "{message}");
    let crossed = send(Method::GET, &format!("Bearer {key}")).await;
    let (status, _, message) = said(&crossed);
    assert_eq!(status, 401);
    assert!(message.contains("caller's API key"), "{message}");

    let audit = hedge.kept("audit/audit-00000001.jsonl");
    assert!(audit.contains("\"who\":\"olga\",\"what\":\"key.create\",\"id\":\"k\""));
    assert!(audit.contains("\"who\":\"otto\",\"what\":\"cache.purge\",\"id\":\"all\""));
    for place in [audit, hedge.log(), key] {
        assert!(!place.contains("the-operator") && !place.contains("the-owner"));
    }
}

#[tokio::test]
async fn without_tokens_the_operators_side_is_this_machine_s_and_a_key_opens_nothing_there() {
    let fake = fake();
    let hedge = Hedge::before(&fake, FILE_KEY).await;
    assert_eq!(
        hedge.admin_get("/admin/v1/keys").await.status,
        StatusCode::OK
    );
    let crossed = as_operator(
        &hedge,
        Method::GET,
        "/admin/v1/keys",
        "Bearer one",
        json!({}),
    );
    let (status, _, message) = said(&crossed.await);
    assert_eq!(status, 401);
    assert!(message.contains("caller's API key"), "{message}");
    // The address bears a key that it could have.
    let key = make(&hedge, "k", json!({})).await;
    let path = format!("/v1/models?key={key}");
    let (status, _, message) = said(&hedge.get(&path).await);
    assert_eq!(status, 400);
    assert!(message.contains("addresses end up in logs"), "{message}");
    assert!(!hedge.log().contains(&key));
    for name in ["authorization", "x-api-key", "x-goog-api-key"] {
        let mut twice = chat_request(&ask("fake/bench", "hi"));
        let value = HeaderValue::from_str(&key).unwrap();
        twice
            .headers_mut()
            .append(http::HeaderName::from_static(name), value.clone());
        twice
            .headers_mut()
            .append(http::HeaderName::from_static(name), value);
        let refused = hedge.send(twice).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}");
    }
}

#[tokio::test]
async fn the_command_line_makes_lists_and_changes() {
    let price = "[[prices]]\nupstream = 'fake'\nmodels = ['*']\ninput = 2.0\noutput = 30.0\n";
    let config = format!("{FILE_KEY}{price}");
    let fake = fake();
    let node = Hedge::before(&fake, &config).await;
    let url = format!("http://{}", node.admin);
    let run = async |words: &str| {
        let mut command = hedge();
        command.args(words.split(' ')).args(["--url", &url]);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        let done = done.await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.success(), text(done.stdout), text(done.stderr))
    };
    let ran = async |words: &str| {
        let (is_well, out, err) = run(words).await;
        assert!(is_well, "{words}: {err}");
        out
    };
    ran("teams create red --limit cost=1000/month,when_spent=local").await;
    let made = ran("keys create --team red --name ci --expires 30d --models fake/bench,auto \
                    --networks 127.0.0.0/8 --limit requests=600/minute,burst=60 --limit concurrency=8")
    .await;
    let secret = made.lines().nth(1).unwrap();
    assert_eq!(status_of(&node, secret).await, StatusCode::OK);
    let list = ran("keys list").await;
    assert!(list.contains("ci") && list.contains("from.file"), "{list}");
    assert!(
        list.contains("requests=600/minute,burst=60 concurrency=8"),
        "{list}"
    );
    assert!(!ran("keys list --team red").await.contains("from.file"));
    let json: Value = serde_json::from_str(&ran("keys show ci --json").await).unwrap();
    assert_eq!(json["networks"], json!(["127.0.0.0/8"]));
    assert!(
        ran("teams list")
            .await
            .contains("cost=1000.0/month,when_spent=local")
    );
    ran("keys disable ci").await;
    assert_eq!(status_of(&node, secret).await, StatusCode::UNAUTHORIZED);
    ran("keys enable ci").await;
    ran("keys change ci --models any --expires never").await;
    let turned = ran("keys rotate ci --overlap 1h").await;
    let fresh = turned.lines().nth(1).unwrap();
    for secret in [secret, fresh] {
        assert_eq!(status_of(&node, secret).await, StatusCode::OK);
    }
    ran("limits set --team red --limit cost=2.5/day").await;
    assert!(ran("budgets list").await.contains("$2.50"));
    let limits = ran("limits list").await;
    assert!(
        limits.contains("concurrency") && limits.contains("from.file"),
        "{limits}"
    );
    for (words, why) in [
        ("keys create --team none", "there is no such team"),
        (
            "keys create --team red --name ci",
            "there is a key of this name",
        ),
        ("keys delete from.file", "configuration file"),
        ("teams delete red", "1 keys are of this team"),
        ("keys show nobody", "there is no key of this name"),
        (
            "limits set --key ci --limit requests=0/day",
            "limits[0].amount",
        ),
        ("limits set --key ci --limit much", "is no limit such as"),
    ] {
        let (is_well, _, err) = run(words).await;
        assert!(!is_well && err.contains(why), "{words}: {err}");
    }
    ran("keys delete ci").await;
    ran("teams delete red").await;
    assert_eq!(status_of(&node, fresh).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_command_line_sends_the_token_that_the_environment_has() {
    let fake = fake();
    let node = Hedge::before(&fake, TOKENS).await;
    let url = format!("http://{}", node.admin);
    for (token, code) in [(None, 1), (Some("wrong"), 1), (Some("the-viewer"), 0)] {
        let mut command = hedge();
        command.args(["keys", "list", "--url", &url]);
        if let Some(token) = token {
            command.env("HEDGE_ADMIN_TOKEN", token);
        }
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        let done = done.await.unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{token:?}: {err}");
        assert_eq!(err.contains("HEDGE_ADMIN_TOKEN"), code == 1, "{err}");
        assert!(!err.contains("wrong"), "{err}");
    }
}

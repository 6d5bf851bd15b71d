//! No key sees anything of another team: replies, responses, use, limits, errors. The keys are made while
//! the node runs, as those of the other suites stand in the file.

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderValue, Method, StatusCode};
use loadtest::FakeUpstream;
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, eventually, fake, request, with};

/// Nothing that one team says or is called may be in what the other gets.
const RED: &str = "red-rovers";
const BLUE: &str = "blue-birds";
const SECRET_WORDS: &str = "the launch code of red is 1234";

struct Tenants {
    fake: FakeUpstream,
    hedge: Hedge,
    red: String,
    blue: String,
}

impl Tenants {
    async fn new() -> Self {
        let fake = fake();
        let hedge = Hedge::before(&fake, "").await;
        let mut secrets = Vec::new();
        for (team, models) in [(RED, json!(["fake/bench"])), (BLUE, Value::Null)] {
            let limits = json!([{"count": "requests", "amount": 8, "per": "day"}]);
            let body = json!({"name": team, "limits": limits});
            let made = hedge.admin_post("/admin/v1/teams", &body.to_string()).await;
            assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
            let body = json!({"team": team, "name": format!("key-of-{team}"), "models": models});
            let made = hedge.admin_post("/admin/v1/keys", &body.to_string()).await;
            assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
            secrets.push(made.json()["secret"].as_str().unwrap().to_owned());
        }
        let [red, blue] = secrets.try_into().unwrap();
        Self {
            fake,
            hedge,
            red,
            blue,
        }
    }

    async fn send(&self, key: &str, method: Method, path: &str, body: Value) -> Reply {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        let mut request = request(method, path, body);
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let bearer = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
        headers.insert("authorization", bearer);
        self.hedge.send(request).await
    }

    async fn chat(&self, key: &str, text: &str) -> Reply {
        let body = ask("fake/bench", text);
        self.send(key, Method::POST, "/v1/chat/completions", body)
            .await
    }
}

/// Head and body say nothing of the red team.
fn knows_nothing(reply: &Reply) {
    let head = format!("{:?}", reply.headers);
    for word in [RED, "1234"] {
        assert!(!head.contains(word), "{head}");
        assert!(!reply.text.contains(word), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_reply_kept_for_one_team_answers_no_other_also_not_at_once() {
    let all = Tenants::new().await;
    let first = all.chat(&all.red, "hi").await;
    assert_eq!(first.header("x-hedge-cache"), "miss");
    let again = all.chat(&all.red, "hi").await;
    assert!(again.header("x-hedge-cache").starts_with("exact"));
    assert_eq!(all.fake.counts().asked, 1);
    let other = all.chat(&all.blue, "hi").await;
    assert_eq!(other.header("x-hedge-cache"), "miss");
    assert_eq!(all.fake.counts().asked, 2);
    // Those of one team share what is under way, and nothing with the other's.
    let keys = [&all.red, &all.blue, &all.red, &all.blue];
    let replies = join_all(keys.map(|key| all.chat(key, "at once"))).await;
    for reply in &replies {
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    let asked = all.fake.counts().asked;
    assert!((4..=6).contains(&asked), "{asked}");
    // Nor does one rate what the other was answered.
    let id = first.header("x-request-id");
    let rating = json!({"request_id": id, "rating": "bad"});
    let rate = async |key: &str| {
        all.send(key, Method::POST, "/v1/feedback", rating.clone())
            .await
    };
    assert_eq!(rate(&all.blue).await.status, StatusCode::NOT_FOUND);
    assert_eq!(rate(&all.red).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_response_is_its_team_s_alone() {
    let all = Tenants::new().await;
    let body = json!({"model": "fake/bench", "input": SECRET_WORDS});
    let made = all
        .send(&all.red, Method::POST, "/v1/responses", body)
        .await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let made = made.json();
    let id = made["id"].as_str().unwrap();
    let place = format!("/v1/responses/{id}");
    for (method, rest) in [
        (Method::GET, ""),
        (Method::GET, "/input_items"),
        (Method::POST, "/cancel"),
        (Method::DELETE, ""),
    ] {
        let path = format!("{place}{rest}");
        let foreign = all
            .send(&all.blue, method.clone(), &path, Value::Null)
            .await;
        let none = format!("/v1/responses/resp_0{rest}");
        let unknown = all.send(&all.blue, method, &none, Value::Null).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(foreign.text, unknown.text, "as if it were not there");
        knows_nothing(&foreign);
    }
    let next = json!({"model": "fake/bench", "input": "go on", "previous_response_id": id});
    let next = all
        .send(&all.blue, Method::POST, "/v1/responses", next)
        .await;
    assert_eq!(next.status, StatusCode::BAD_REQUEST, "{}", next.text);
    knows_nothing(&next);
    let own = all.send(&all.red, Method::GET, &place, Value::Null).await;
    assert_eq!(own.json(), made);
    // What is kept of it is gone for the team's next key as well when the team's key is another's.
    let off = json!({"enabled": false}).to_string();
    let key = format!("/admin/v1/keys/key-of-{RED}");
    all.hedge.admin_send(Method::PATCH, &key, &off).await;
    let own = all.send(&all.red, Method::GET, &place, Value::Null).await;
    assert_eq!(own.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn use_limits_and_refusals_of_one_team_say_nothing_to_another() {
    let all = Tenants::new().await;
    let spent = async {
        for _ in 0..8 {
            let body = with(ask("fake/bench", SECRET_WORDS), json!({"max_tokens": 7}));
            all.send(&all.red, Method::POST, "/v1/chat/completions", body)
                .await;
        }
    };
    spent.await;
    let refused = all.chat(&all.red, "more").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let other = all.chat(&all.blue, "hi").await;
    assert_eq!(other.status, StatusCode::OK, "{}", other.text);
    assert_eq!(other.header("x-ratelimit-remaining-requests"), "7");
    knows_nothing(&other);
    let wrong = [
        (Method::POST, "/v1/chat/completions", json!({})),
        (
            Method::POST,
            "/v1/chat/completions",
            json!({"model": "fake/none", "messages": [{"role": "user", "content": "hi"}]}),
        ),
        (
            Method::POST,
            "/v1/embeddings",
            json!({"model": "none", "input": "a"}),
        ),
        (Method::GET, "/v1/models", Value::Null),
        (Method::GET, "/v1/models/none", Value::Null),
        (Method::GET, "/v1/files", Value::Null),
        (Method::GET, "/v1/files/file-1/content", Value::Null),
        (Method::GET, "/v1/usage", Value::Null),
        (Method::GET, "/metrics", Value::Null),
        (Method::GET, "/admin", Value::Null),
        (Method::GET, "/admin/v1/keys", Value::Null),
        (Method::GET, "/admin/v1/limits", Value::Null),
        (Method::GET, "/admin/v1/records", Value::Null),
        (Method::GET, "/admin/v1/savings", Value::Null),
        (Method::POST, "/admin/v1/keys", json!({"team": RED})),
    ];
    for (method, path, body) in wrong {
        let reply = all.send(&all.blue, method, path, body).await;
        // What is the operator's is not here, whoever asks, nor is what others have.
        let is_elsewhere = ["/admin", "/metrics", "/v1/files", "/v1/usage"];
        if is_elsewhere.iter().any(|it| path.starts_with(it)) {
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        }
        knows_nothing(&reply);
    }
    // A key names its models, and is not told of others.
    let listed = all
        .send(&all.red, Method::GET, "/v1/models", Value::Null)
        .await;
    assert!(listed.text.contains("fake/bench") && !listed.text.contains("fake/other"));
    // The records know whose each was.
    eventually("the records are there", async || {
        let told = all.hedge.admin_get("/admin/v1/records").await.json();
        let records = told["records"].as_array().cloned().unwrap_or_default();
        let of = |team: &str| records.iter().filter(|it| it["team"] == team).count();
        of(RED) >= 9 && of(BLUE) >= 1
    })
    .await;
}

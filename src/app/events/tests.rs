use std::sync::Arc;

use domain::{Limit, Measure, Period, Thresholds};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const SECRET: &str = "a secret of some length";

/// What was posted: the head in lower case, and the body.
struct Posted {
    head: String,
    body: String,
}

impl Posted {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("{name} is missing in {}", self.head))
    }
}

/// Answers one request after the other with these statuses, and gives what was posted.
async fn receive(listener: TcpListener, statuses: &[u16]) -> Vec<Posted> {
    let mut all = Vec::new();
    for status in statuses {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        let posted = loop {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.unwrap();
            assert!(count > 0, "it ends early");
            bytes.extend_from_slice(&chunk[..count]);
            let text = String::from_utf8(bytes.clone()).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let posted = Posted {
                head: head.to_lowercase(),
                body: body.to_owned(),
            };
            let length: usize = posted.header("content-length").parse().unwrap();
            if posted.body.len() == length {
                break posted;
            }
        };
        all.push(posted);
        let answer =
            format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    all
}

fn warning(scope: Scope) -> LimitWarning {
    LimitWarning {
        limit: Limit {
            scope,
            measure: Measure::Cost,
            amount: 1_000_000,
            per: Period::Month,
            burst: 1_000_000,
            when_spent: WhenSpent::Free,
            warn_at: Thresholds::new(&[800]).unwrap(),
        },
        permille: 800,
        used: 812_345,
    }
}

/// The desk, its driver, what both count, and where it is sent.
async fn scene() -> (Events, EventDriver, EventMetrics, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap());
    let rules = WebhookRules {
        url: Url::parse(&url).unwrap(),
        secret: Secret::new(SECRET),
    };
    let metrics = EventMetrics::default();
    let client = crate::client::build().unwrap().client;
    let (events, driver) = Events::new(Some(rules), &client, metrics.clone());
    (events, driver.unwrap(), metrics, listener)
}

#[tokio::test]
async fn an_event_is_signed_and_tried_again_until_it_is_taken() {
    let (events, driver, metrics, listener) = scene().await;
    events.passed(warning(Scope::Team("research".into())));
    drop(events);
    let (posted, ()) = tokio::join!(
        receive(listener, &[503, 200]),
        driver.run(CancellationToken::new())
    );
    assert_eq!(metrics.events("delivered"), 1);
    assert_eq!(metrics.events("failed"), 0);
    assert_eq!(posted[0].body, posted[1].body);
    for posted in &posted {
        assert!(posted.head.starts_with("post /hook?token=t "));
        assert_eq!(posted.header("content-type"), "application/json");
        let at = posted.header("x-hedge-timestamp");
        let said = format!("{at}.{}", posted.body);
        let digest = HmacKey::new(SECRET.as_bytes()).sign(said.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(posted.header("x-hedge-signature"), format!("v1={digest}"));
    }
    let mut body: Value = serde_json::from_str(&posted[0].body).unwrap();
    let id = body["id"].take();
    assert!(id.as_str().unwrap().starts_with("evt_"));
    assert!(body["at"].take().as_u64().unwrap() > 1_700_000_000);
    let expected = json!({
        "id": null,
        "type": "limit.warning",
        "at": null,
        "limit": {
            "scope": "team", "name": "research", "team": null, "count": "cost", "per": "month",
            "amount": 1_000_000, "when_spent": "local",
        },
        "passed": 0.8,
        "used": 812_345,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn an_event_names_no_user_and_one_that_is_refused_is_not_sent_again() {
    let (events, driver, metrics, listener) = scene().await;
    events.passed(warning(Scope::User(
        "research".into(),
        "ann@x.example".into(),
    )));
    events.passed(warning(Scope::Organisation));
    drop(events);
    let (posted, ()) = tokio::join!(
        receive(listener, &[400, 204]),
        driver.run(CancellationToken::new())
    );
    assert!(!posted[0].body.contains("ann"));
    let body: Value = serde_json::from_str(&posted[0].body).unwrap();
    assert_eq!(body["limit"]["scope"], "user");
    assert_eq!(body["limit"]["team"], "research");
    assert_eq!(body["limit"]["name"], Value::Null);
    assert_eq!(
        (metrics.events("failed"), metrics.events("delivered")),
        (1, 1)
    );
}

#[tokio::test]
async fn too_many_events_are_dropped_and_nobody_waits_for_them() {
    let (events, driver, metrics, listener) = scene().await;
    for _ in 0..EVENTS_MAX + 3 {
        events.passed(warning(Scope::Organisation));
    }
    assert_eq!(metrics.events("dropped"), 3);
    drop(driver);
    events.passed(warning(Scope::Organisation));
    assert_eq!(metrics.events("dropped"), 4);
    drop(listener);
}

#[tokio::test]
async fn a_stop_tries_once_what_still_waits() {
    let (events, driver, metrics, listener) = scene().await;
    for _ in 0..2 {
        events.passed(warning(Scope::Organisation));
    }
    let stop = CancellationToken::new();
    stop.cancel();
    let (posted, ()) = tokio::join!(receive(listener, &[503, 200]), driver.run(stop));
    assert_ne!(posted[0].body, posted[1].body);
    assert_eq!(
        (metrics.events("failed"), metrics.events("delivered")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_receiver_that_is_away() {
    let (events, driver, metrics, listener) = scene().await;
    drop(listener);
    events.passed(warning(Scope::Organisation));
    let stop = CancellationToken::new();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
    };
    tokio::join!(driver.run(stop.clone()), stopping);
    assert_eq!(metrics.events("failed"), 1);
}

#[test]
fn without_a_webhook_events_are_counted_alone() {
    let metrics = EventMetrics::default();
    let client = crate::client::build().unwrap().client;
    let (events, driver) = Events::new(None, &client, metrics.clone());
    assert!(driver.is_none());
    let events: Arc<dyn LimitWatch> = Arc::new(events);
    events.passed(warning(Scope::Organisation));
    assert_eq!(metrics.events("dropped"), 0);
}

#[test]
fn debug_shows_neither_secret_nor_address() {
    let rules = WebhookRules {
        url: Url::parse("https://ops.example/secret-path?token=t").unwrap(),
        secret: Secret::new(SECRET),
    };
    assert_eq!(format!("{rules:?}"), "WebhookRules(ops.example)");
}

//! Against a carrier that keeps what it is given and answers by script.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::{
    Backend, ChatRequest, Enough, Health, HealthState, Message, Reply, Role, TimeoutPhase, collect,
};
use futures::stream;
use wire::anthropic::Messages;

use super::super::tests::{FIRST_CHUNK, LAST_CHUNKS, REPLY, STREAM, outbound, request};
use super::*;
use crate::transport::tests::transport;
use crate::{Auth, Secret, UpstreamConfig, UpstreamConfigError};

type Pieces = Vec<Result<Bytes, BackendError>>;

struct Script {
    answer: Result<(u16, &'static str, Pieces), BackendError>,
    given: Mutex<Vec<Parcel>>,
    enough: Enough,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

#[async_trait]
impl Carrier for Script {
    async fn carry(&self, parcel: Parcel) -> Result<Delivered, BackendError> {
        self.given.lock().unwrap().push(parcel);
        let (status, kind, pieces) = self.answer.clone()?;
        Ok(Delivered {
            status,
            headers: vec![("content-type".to_owned(), kind.as_bytes().to_vec())],
            body: stream::iter(pieces).boxed(),
            enough: self.enough.clone(),
        })
    }

    fn health(&self) -> Health {
        Health::of(HealthState::Down, None)
    }
}

fn script(answer: Result<(u16, &'static str, Pieces), BackendError>) -> Arc<Script> {
    Arc::new(Script {
        answer,
        given: Mutex::default(),
        enough: Enough::default(),
    })
}

fn pieces(texts: &[&'static str]) -> Pieces {
    let texts = texts.iter();
    texts
        .map(|text| Ok(Bytes::from_static(text.as_bytes())))
        .collect()
}

fn config() -> UpstreamConfig {
    let base_url = "https://relay.invalid/v1";
    let mut config = UpstreamConfig::new("relay", base_url, "theirs", domain::Trust::Public);
    config.headers = vec![("OpenAI-Beta".to_owned(), "a=1".to_owned())];
    config
}

fn by(carrier: &Arc<Script>, config: UpstreamConfig) -> Upstream {
    let carrier = Arc::clone(carrier) as Arc<dyn Carrier>;
    Upstream::carried(config, transport(), carrier).unwrap()
}

async fn whole(upstream: &Upstream, members: &str) -> Result<Reply, BackendError> {
    collect(upstream.chat(outbound(request(members))).await?).await
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

#[tokio::test]
async fn a_carrier_gets_what_a_connection_would_less_what_says_who_asks() {
    let carrier = script(Ok((200, JSON, pieces(&[REPLY]))));
    let mut asked = request("");
    asked.betas = vec!["b-1".into()];
    let stream = by(&carrier, config()).chat(outbound(asked)).await.unwrap();
    let reply = collect(stream).await.unwrap();
    assert_eq!(reply.choices[0].text(), "hello");
    let given = carrier.given.lock().unwrap();
    let parcel = &given[0];
    assert_eq!(
        (
            parcel.path.as_str(),
            parcel.model.as_str(),
            parcel.is_streamed
        ),
        ("/v1/chat/completions", "theirs", false)
    );
    let mut headers: Vec<(&str, &[u8])> = parcel
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept", JSON.as_bytes()),
            ("content-type", JSON.as_bytes()),
            ("openai-beta", b"a=1"),
            ("openai-beta", b"b-1"),
            ("x-request-id", b"req-1"),
        ]
    );
    let body = str::from_utf8(&parcel.body).unwrap();
    assert!(body.contains(r#""model":"theirs""#), "{body}");
}

#[tokio::test]
async fn every_dialect_names_its_own_page_under_the_base() {
    let carrier = script(Ok((500, JSON, pieces(&["{}"]))));
    let mut config = config();
    config.dialect = &Messages;
    config.base_url = "https://relay.invalid".to_owned();
    let _ = whole(&by(&carrier, config), r#""max_tokens":5,"#).await;
    let given = carrier.given.lock().unwrap();
    assert_eq!(given[0].path, "/v1/messages");
    let mut names = given[0].headers.iter().map(|(name, _)| name.as_str());
    assert!(names.any(|name| name == "anthropic-version"));
}

#[tokio::test]
async fn a_stream_is_read_as_it_comes_and_said_to_be_enough_at_its_end_alone() {
    let events = || pieces(&[FIRST_CHUNK, LAST_CHUNKS]);
    let carrier = script(Ok((200, EVENTS, events())));
    let upstream = by(&carrier, config());
    let reply = whole(&upstream, STREAM).await.unwrap();
    assert_eq!(reply.choices[0].text(), "hello");
    let given = carrier.given.lock().unwrap()[0].clone();
    assert!(given.is_streamed);
    assert!(
        given
            .headers
            .contains(&("accept".to_owned(), EVENTS.into()))
    );
    assert!(carrier.enough.is_told());

    let carrier = script(Ok((200, EVENTS, events())));
    let upstream = by(&carrier, config());
    let mut chat = upstream.chat(outbound(request(STREAM))).await.unwrap();
    assert!(chat.next().await.is_some());
    drop(chat);
    assert!(!carrier.enough.is_told(), "a caller that leaves has left");
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error() {
    let mut cut = pieces(&[FIRST_CHUNK]);
    cut.push(Err(BackendError::Interrupted));
    let carrier = script(Ok((200, EVENTS, cut)));
    let upstream = by(&carrier, config());
    let chat = upstream.chat(outbound(request(STREAM))).await.unwrap();
    let seen: Vec<_> = chat.collect().await;
    assert!(
        matches!(seen.last(), Some(Err(BackendError::Interrupted))),
        "{seen:?}"
    );
}

#[tokio::test]
async fn refusals_are_read_as_from_anywhere() {
    let error = r#"{"error":{"message":"bad","param":"n"}}"#;
    for (status, words) in [(400, "Rejected"), (429, "RateLimited"), (503, "Overloaded")] {
        let carrier = script(Ok((status, JSON, pieces(&[error]))));
        let error = whole(&by(&carrier, config()), "").await.unwrap_err();
        assert!(format!("{error:?}").contains(words), "{error:?}");
        assert!(carrier.enough.is_told(), "refusals are not left half read");
    }
}

#[tokio::test]
async fn what_the_carrier_could_not_do_is_said_once() {
    for error in [
        BackendError::Unreachable("down"),
        BackendError::TimedOut(TimeoutPhase::Connect),
        BackendError::Interrupted,
    ] {
        let carrier = script(Err(error.clone()));
        let seen = whole(&by(&carrier, config()), "").await.unwrap_err();
        assert_eq!(format!("{seen:?}"), format!("{error:?}"));
        assert_eq!(carrier.given.lock().unwrap().len(), 1, "{error:?}");
    }
}

#[tokio::test]
async fn health_is_the_carriers() {
    let carrier = script(Err(BackendError::Interrupted));
    let health = by(&carrier, config()).health();
    assert_eq!(health.state, HealthState::Down);
}

#[tokio::test]
async fn embeddings_and_moderations_go_the_same_way() {
    let texts = || {
        let texts = vec![Message::new(Role::User, "a")];
        outbound(ChatRequest::new("theirs", texts))
    };
    let vectors = r#"{"data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":1}}"#;
    let carrier = script(Ok((200, JSON, pieces(&[vectors]))));
    let made = by(&carrier, config()).embed(texts(), None).await.unwrap();
    assert_eq!(made.vectors.len(), 1);
    assert_eq!(carrier.given.lock().unwrap()[0].path, "/v1/embeddings");

    let judged = r#"{"id":"m","model":"m","results":[{"flagged":false,"categories":{"a":false},"category_scores":{"a":0.1}}]}"#;
    let carrier = script(Ok((200, JSON, pieces(&[judged]))));
    let made = by(&carrier, config()).moderate(texts()).await.unwrap();
    assert_eq!(made.body, judged);
    assert_eq!(carrier.given.lock().unwrap()[0].path, "/v1/moderations");
}

#[tokio::test]
async fn a_key_is_refused_rather_than_left_out() {
    let mut config = config();
    config.auth = Auth::bearer(Secret::new("sk"));
    let carrier = script(Err(BackendError::Interrupted));
    let made = Upstream::carried(config, transport(), carrier);
    assert_eq!(made.unwrap_err(), UpstreamConfigError::KeyCarried);
}

#[tokio::test]
async fn a_head_that_http_has_not_is_garbled() {
    for (status, kind) in [(7, JSON), (200, "a\nb")] {
        let carrier = script(Ok((status, kind, pieces(&[REPLY]))));
        let error = whole(&by(&carrier, config()), "").await.unwrap_err();
        assert!(matches!(error, BackendError::Garbled(_)), "{error:?}");
    }
}

#[tokio::test]
async fn what_a_carrier_takes_is_sealed_and_what_a_connection_takes_is_not() {
    let carrier = script(Err(BackendError::Interrupted));
    assert!(by(&carrier, config()).card().is_sealed);
    let plain = Upstream::new(config(), transport()).unwrap();
    assert!(!plain.card().is_sealed);
}

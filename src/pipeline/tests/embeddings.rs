//! Embeddings by upstreams.

use super::*;

fn request(model: &str, inputs: Vec<EmbedInput>) -> EmbedRequest {
    EmbedRequest {
        model: model.into(),
        inputs,
        dimensions: None,
        format: VectorFormat::Float,
    }
}

fn texts(texts: &[&str]) -> Vec<EmbedInput> {
    let text = |text: &&str| EmbedInput::Text((*text).to_owned());
    texts.iter().map(text).collect()
}

async fn embed(bench: &Bench, request: EmbedRequest) -> Result<Embedded, Refusal> {
    let anyone = Principal::anyone();
    bench
        .pipeline
        .embed(&anyone, "r-1".into(), &[], request)
        .await
}

fn with_alias(backends: Vec<Arc<Fake>>, alias: &str, targets: &[&str]) -> Bench {
    let bench = bench(vec![], 4);
    let targets = targets.iter().map(|name| (*name).to_owned()).collect();
    let backends = backends.into_iter().map(|fake| fake as Arc<dyn Backend>);
    let classes = [(FindingClass::Email, Trust::Tenant)];
    bench.pipeline.reload(Snapshot::new(
        RoutePolicy::parse("test.toml", ROUTES).unwrap(),
        ScanRules::compile(&classes, &[]).unwrap(),
        backends.collect(),
        BTreeMap::from([(alias.to_owned(), targets)]),
        CacheRules {
            is_enabled: false,
            secret: CacheSecret::new([7; 32]),
            ttl: Duration::from_secs(60),
            reply_bytes_max: 1024,
        },
        Patience::default(),
    ));
    bench
}

#[tokio::test]
async fn an_upstream_that_is_named_makes_embeddings_of_masked_texts() {
    let cloud = Fake::new("fake", Trust::Public, Script::Empty);
    let mut bench = bench(vec![cloud.clone()], 4);
    let asked = request("fake/big", texts(&["write to a@b.example", "plain"]));
    let made = embed(&bench, asked).await.unwrap();
    assert_eq!(made.route.to_string(), "cloud:fake");
    assert_eq!(made.model, "big");
    assert_eq!(made.embeddings.vectors.len(), 2);
    assert_eq!(cloud.calls(), ["write to <EMAIL_1>", "plain"]);
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.outcome, Outcome::Answered);
    assert_eq!(record.masked_count, 1);
    assert_eq!(record.usage.unwrap().prompt_tokens, Tokens(7));
    let route = record.route.unwrap();
    assert_eq!((route.backend.as_str(), route.is_local), ("fake", false));
}

#[tokio::test]
async fn a_trusted_upstream_sees_what_it_may() {
    let Ok(mut hub) = Arc::try_unwrap(Fake::new("hub", Trust::Tenant, Script::Empty)) else {
        unreachable!("nobody else holds it yet");
    };
    hub.card.tier = Tier::Upstream;
    let hub = Arc::new(hub);
    let bench = bench(vec![hub.clone()], 4);
    let asked = request("hub/big", texts(&["write to a@b.example"]));
    embed(&bench, asked).await.unwrap();
    assert_eq!(hub.calls(), ["write to a@b.example"]);
}

#[tokio::test]
async fn tokens_are_written_out_to_be_looked_through() {
    let Ok(mut cloud) = Arc::try_unwrap(Fake::new("fake", Trust::Public, Script::Empty)) else {
        unreachable!("nobody else holds it yet");
    };
    cloud.card.models[0].name = "text-embedding-3-small".into();
    let cloud = Arc::new(cloud);
    let bench = bench(vec![cloud.clone()], 4);
    let model = "fake/text-embedding-3-small";
    let tokens = EmbedInput::Tokens(vec![9906, 1917]);
    embed(&bench, request(model, vec![tokens])).await.unwrap();
    assert_eq!(cloud.calls(), ["Hello world"]);
    let inputs = vec![texts(&["a"]).remove(0), EmbedInput::Tokens(vec![9_999_999])];
    let refusal = embed(&bench, request(model, inputs)).await.unwrap_err();
    let Fault::BadRequest(fault) = refusal.fault else {
        panic!("{refusal:?}");
    };
    assert_eq!(fault.param.as_deref(), Some("input[1]"));
}

#[tokio::test]
async fn vectors_longer_than_asked_for_are_cut_to_length_one() {
    let cloud = Fake::new("fake", Trust::Public, Script::Empty);
    let bench = bench(vec![cloud], 4);
    let mut asked = request("fake/big", texts(&["a"]));
    asked.dimensions = Some(2);
    let made = embed(&bench, asked).await.unwrap();
    assert_eq!(made.embeddings.vectors, [[0.6, 0.8]]);
}

#[tokio::test]
async fn an_alias_tries_its_upstreams_in_order() {
    let overloaded = BackendError::RateLimited { retry_after: None };
    let first = Fake::new("one", Trust::Public, Script::Fails(overloaded));
    let second = Fake::new("two", Trust::Public, Script::Empty);
    let backends = vec![first.clone(), second];
    let mut bench = with_alias(backends, "vectors", &["one/big", "two/big"]);
    let made = embed(&bench, request("vectors", texts(&["a"])))
        .await
        .unwrap();
    assert_eq!(made.route.to_string(), "cloud:two");
    let failed = bench.records.recv().await.unwrap().failed_candidates;
    assert_eq!(failed, [("one".into(), "rate_limited")]);
}

#[tokio::test]
async fn a_rejection_ends_it_and_a_failure_is_the_first_ones() {
    let rejected = BackendError::Rejected {
        status: 400,
        reason: BadRequest::at("input", "too long"),
    };
    for (error, label, calls) in [
        (rejected, "bad_request", 0),
        (BackendError::Failed { status: 500 }, "upstream_failed", 1),
    ] {
        let first = Fake::new("one", Trust::Public, Script::Fails(error));
        let overloaded = BackendError::RateLimited { retry_after: None };
        let second = Fake::new("two", Trust::Public, Script::Fails(overloaded));
        let backends = vec![first, second.clone()];
        let bench = with_alias(backends, "vectors", &["one/big", "two/big"]);
        let refusal = embed(&bench, request("vectors", texts(&["a"])))
            .await
            .unwrap_err();
        assert_eq!(refusal.fault.as_label(), label);
        assert_eq!(second.calls().len(), calls);
    }
}

#[tokio::test]
async fn what_is_no_upstream_makes_none() {
    let local = Fake::new("local", Trust::Device, Script::Empty);
    let cloud = Fake::new("fake", Trust::Public, Script::Empty);
    let bench = bench(vec![local, cloud.clone()], 8);
    for model in ["auto", "local", "tiny", "none-such"] {
        let refusal = embed(&bench, request(model, texts(&["a"])))
            .await
            .unwrap_err();
        let label = refusal.fault.as_label();
        assert!(
            ["bad_request", "model_not_found"].contains(&label),
            "{model}: {label}"
        );
    }
    assert!(cloud.calls().is_empty());
    let mut asked = request("fake/big", texts(&["a"]));
    asked.model = "fake/big".into();
    let key = Principal {
        models: Some(vec!["other".into()]),
        ..Principal::anyone()
    };
    let refused = bench.pipeline.embed(&key, "r-1".into(), &[], asked).await;
    assert_eq!(refused.unwrap_err().fault.as_label(), "forbidden");
}

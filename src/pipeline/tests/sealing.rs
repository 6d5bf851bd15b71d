//! That nothing leaves unsealed where sealing is required, whichever way a backend is picked.

use policy::{SkipCause, UNSEALED};

use super::moderation::Judge;
use super::*;

/// One of two upstreams, asked first.
const OPEN: &str = "open";
const RELAY: &str = "relay";

fn upstream(name: &str, script: Script) -> Arc<Fake> {
    let Ok(mut fake) = Arc::try_unwrap(Fake::new(name, Trust::Public, script)) else {
        unreachable!("nobody else holds it yet");
    };
    fake.card.is_sealed = name == RELAY;
    Arc::new(fake)
}

fn routes(manners: &str) -> String {
    format!(
        "default = 'all'\nsealed = 'required'\n[outcomes.all]\n\
         candidates = ['open', 'relay', 'local']\n{manners}\n"
    )
}

fn bench_of(manners: &str, backends: Vec<Arc<dyn Backend>>) -> Bench {
    bench_with(snapshot_of(&routes(manners), backends), 8)
}

fn reasons(refusal: Refusal) -> Vec<String> {
    match refusal.fault {
        Fault::NoCandidate { reasons } => reasons,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_chat_goes_to_the_relay_and_never_to_a_plain_upstream() {
    let open = upstream(OPEN, Script::Says("open"));
    let relay = upstream(RELAY, Script::Says("sealed"));
    let bench = bench_of("", vec![open.clone(), relay.clone()]);
    let answer = bench.pipeline.run(parsed("auto", "x")).await.unwrap();
    assert_eq!(answer.route.to_string(), "cloud:relay");
    let Err(refusal) = bench.pipeline.run(parsed("open/big", "x")).await else {
        panic!("it is refused");
    };
    assert_eq!(reasons(refusal), [format!("open/big: {UNSEALED}")]);
    assert!(open.calls().is_empty());
}

#[tokio::test]
async fn nobody_plain_is_fallen_back_to_where_the_relay_fails() {
    let open = upstream(OPEN, Script::Says("open"));
    let relay = upstream(RELAY, Script::Fails(BackendError::Failed { status: 500 }));
    let bench = bench_of("", vec![open.clone(), relay.clone()]);
    let Err(refusal) = bench.pipeline.run(parsed("auto", "x")).await else {
        panic!("it is refused");
    };
    assert_eq!(refusal.fault.as_label(), "upstream_failed");
    assert_eq!(relay.calls().len(), 1);
    assert!(open.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_plain_is_asked_beside_a_relay_that_is_late() {
    let open = upstream(OPEN, Script::Says("open"));
    let relay = upstream(
        RELAY,
        Script::SaysAfter(Duration::from_millis(100), "sealed"),
    );
    let slow = upstream(RELAY, Script::SaysAfter(Duration::from_secs(5), "sealed"));
    let mut bench = bench_of("hedge = true", vec![open.clone(), relay.clone()]);
    for at in 0..60 {
        let asked = parsed("auto", &at.to_string());
        let answer = bench.pipeline.run(asked).await.unwrap();
        answer.stream.collect::<Vec<_>>().await;
        bench.records.recv().await.unwrap();
    }
    assert_eq!(relay.calls().len(), 60);
    let backends: Vec<Arc<dyn Backend>> = vec![open.clone(), slow.clone()];
    bench
        .pipeline
        .reload(snapshot_of(&routes("hedge = true"), backends));
    let answer = bench.pipeline.run(parsed("auto", "x")).await.unwrap();
    assert_eq!(answer.route.to_string(), "cloud:relay");
    assert_eq!(slow.calls().len(), 1, "it was late, and waited for");
    assert!(open.calls().is_empty());
}

#[tokio::test]
async fn nobody_plain_goes_on_with_a_reply_that_broke_off() {
    let open = upstream(OPEN, Script::Says("open"));
    let relay = upstream(RELAY, Script::Breaks("half"));
    let backends: Vec<Arc<dyn Backend>> = vec![open.clone(), relay.clone()];
    let routes = format!("rescue = 'any'\n{}", routes(""));
    let snapshot = snapshot_of(&routes, backends).with_rescue(RescueRules::default());
    let bench = bench_with(snapshot, 8);
    let mut asked = parsed("auto", "x");
    asked.request.delivery = domain::Delivery::Streamed {
        includes_usage: true,
    };
    let answer = bench.pipeline.run(asked).await.unwrap();
    let events: Vec<_> = answer.stream.collect().await;
    assert!(matches!(events.last(), Some(Err(_))), "it ends in an error");
    assert!(open.calls().is_empty());
}

#[tokio::test]
async fn embeddings_are_made_by_the_relay_or_by_nobody() {
    let open = upstream(OPEN, Script::Empty);
    let relay = upstream(RELAY, Script::Empty);
    let bench = bench_of("", vec![open.clone(), relay.clone()]);
    let embed = async |model: &str| {
        let request = EmbedRequest {
            model: model.into(),
            inputs: vec![EmbedInput::Text("x".to_owned())],
            dimensions: None,
            format: VectorFormat::Float,
        };
        let anyone = Principal::anyone();
        bench
            .pipeline
            .embed(&anyone, "r-1".into(), &[], request)
            .await
    };
    let made = embed("relay/big").await.unwrap();
    assert_eq!(made.route.to_string(), "cloud:relay");
    let refusal = embed("open/big").await.unwrap_err();
    assert_eq!(reasons(refusal), [format!("open/big: {UNSEALED}")]);
    assert!(open.calls().is_empty());
}

#[tokio::test]
async fn moderations_are_judged_by_the_relay_or_by_nobody() {
    let judge = |is_sealed, name| Judge::sealed(name, &["omni"], is_sealed);
    let (open, relay) = (judge(false, OPEN), judge(true, RELAY));
    let ask = async |judges: &[&Arc<Judge>]| {
        let judges = judges.iter().map(|it| Arc::clone(it) as Arc<dyn Backend>);
        let bench = bench_of("", judges.collect());
        let request = ModerationRequest {
            model: None,
            inputs: vec![Message::new(Role::User, "x")],
        };
        let anyone = Principal::anyone();
        let asked = bench.pipeline.moderate(&anyone, "r-1".into(), &[], request);
        asked.await
    };
    let judged = ask(&[&open, &relay]).await.unwrap();
    assert_eq!(judged.route.to_string(), "cloud:relay");
    let refusal = ask(&[&open]).await.unwrap_err();
    assert_eq!(reasons(refusal), [format!("open/omni: {UNSEALED}")]);
    assert!(open.asked().is_empty());
}

#[test]
fn the_reason_is_the_plan_s() {
    let skipped = policy::Skipped {
        name: "open/big".to_owned(),
        cause: SkipCause::Unsealed,
    };
    assert_eq!(skipped.to_string(), format!("open/big: {UNSEALED}"));
}

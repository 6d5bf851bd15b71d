//! Exchanges while no public upstream can be reached.

use tokio::sync::watch;

use super::*;

struct Wire(watch::Sender<bool>);

impl Wire {
    fn offline() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(true)))
    }
}

#[async_trait]
impl Link for Wire {
    fn is_offline(&self) -> bool {
        *self.0.borrow()
    }

    async fn until_online(&self) {
        let mut state = self.0.subscribe();
        // The sender is `self`.
        let _ = state.wait_for(|is_offline| !is_offline).await;
    }
}

const WAIT: Duration = Duration::from_secs(4);

fn bench_of(wire: &Arc<Wire>, when: &str, candidates: &str, backends: Vec<Arc<Fake>>) -> Bench {
    let routes = format!(
        "default = 'all'\nwhen_offline = '{when}'\n[outcomes.all]\ncandidates = [{candidates}]\n"
    );
    let backends = backends.into_iter().map(|it| it as Arc<dyn Backend>);
    let rules = OfflineRules::new(Arc::clone(wire) as _, WAIT, 1, Duration::from_secs(2));
    bench_with(
        snapshot_of(&routes, backends.collect()).with_offline(rules),
        8,
    )
}

fn both() -> [Arc<Fake>; 2] {
    [
        Fake::new("local", Trust::Device, Script::Says("here")),
        Fake::new("fake", Trust::Public, Script::Says("there")),
    ]
}

#[tokio::test(start_paused = true)]
async fn this_machine_stands_in_at_once_and_says_so_until_the_link_is_back() {
    let wire = Wire::offline();
    let [local, cloud] = both();
    let bench = bench_of(
        &wire,
        "local",
        "'cloud', 'local'",
        vec![local, cloud.clone()],
    );
    let answer = bench.pipeline.run(parsed("auto", "q")).await.unwrap();
    assert_eq!(answer.route.to_string(), "local:tiny");
    assert_eq!(answer.reason, "default; offline");
    assert_eq!(text(answer).await, "here");
    assert!(cloud.calls().is_empty());
    assert!(bench.cache.0.lock().unwrap().is_empty(), "a stand-in's");
    assert!(bench.pipeline.readiness().is_offline);
    wire.0.send_replace(false);
    let answer = bench.pipeline.run(parsed("auto", "q")).await.unwrap();
    assert_eq!(answer.reason, "default");
    assert_eq!(text(answer).await, "there");
}

#[tokio::test(start_paused = true)]
async fn a_backend_known_to_be_down_is_offline_and_not_a_failure() {
    let wire = Wire::offline();
    let local = Fake::new("local", Trust::Device, Script::Says("here"));
    let cloud = Fake::new("fake", Trust::Public, Script::Down);
    let bench = bench_of(&wire, "local", "'cloud', 'local'", vec![local, cloud]);
    let answer = bench.pipeline.run(parsed("auto", "q")).await.unwrap();
    assert_eq!(answer.reason, "default; offline");
}

#[tokio::test(start_paused = true)]
async fn what_is_meant_for_this_machine_is_not_touched() {
    let wire = Wire::offline();
    for when in ["local", "queue", "refuse"] {
        let [local, cloud] = both();
        let bench = bench_of(&wire, when, "'local', 'cloud'", vec![local, cloud]);
        let answer = bench.pipeline.run(parsed("auto", "q")).await.unwrap();
        assert_eq!(answer.reason, "default");
        assert_eq!(text(answer).await, "here");
        assert_eq!(bench.cache.0.lock().unwrap().len(), 1, "it was asked");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_stand_in_the_upstreams_are_tried_all_the_same() {
    let wire = Wire::offline();
    let [local, cloud] = both();
    let bench = bench_of(&wire, "local", "'cloud'", vec![local, cloud]);
    for model in ["auto", "fake/big"] {
        let answer = bench.pipeline.run(parsed(model, "q")).await.unwrap();
        assert_eq!(text(answer).await, "there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_may_refuse_at_once_with_the_wait() {
    let wire = Wire::offline();
    let [local, cloud] = both();
    let mut bench = bench_of(
        &wire,
        "refuse",
        "'cloud', 'local'",
        vec![local, cloud.clone()],
    );
    let refusal = bench.pipeline.run(parsed("auto", "q")).await.unwrap_err();
    let retry_after = Duration::from_secs(2);
    assert_eq!(refusal.fault, Fault::Offline { retry_after });
    assert_eq!(refusal.reason.as_deref(), Some("default; offline"));
    assert!(cloud.calls().is_empty());
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.outcome, Outcome::Refused("offline"));
    assert_eq!(record.reason, "default; offline");
}

#[tokio::test(start_paused = true)]
async fn a_route_may_wait_for_the_link_and_then_asks_whom_it_meant() {
    let wire = Wire::offline();
    let [local, cloud] = both();
    let bench = bench_of(&wire, "queue", "'cloud', 'local'", vec![local, cloud]);
    let mut run = std::pin::pin!(bench.pipeline.run(parsed("auto", "q")));
    assert!(futures::poll!(run.as_mut()).is_pending());
    // The place is taken, so the next does not wait.
    let second = bench.pipeline.run(parsed("auto", "other")).await.unwrap();
    assert_eq!(second.reason, "default; offline");
    assert_eq!(text(second).await, "here");
    wire.0.send_replace(false);
    let answer = run.await.unwrap();
    assert_eq!(answer.reason, "default");
    assert_eq!(text(answer).await, "there");
}

#[tokio::test(start_paused = true)]
async fn one_that_waited_in_vain_is_answered_here_or_refused() {
    let wire = Wire::offline();
    for (candidates, is_answered) in [("'cloud', 'local'", true), ("'cloud'", false)] {
        let [local, cloud] = both();
        let bench = bench_of(&wire, "queue", candidates, vec![local, cloud.clone()]);
        let began = tokio::time::Instant::now();
        let ended = bench.pipeline.run(parsed("auto", "q")).await;
        assert_eq!(began.elapsed(), WAIT);
        assert!(cloud.calls().is_empty());
        match ended {
            Ok(answer) if is_answered => assert_eq!(text(answer).await, "here"),
            Err(refusal) if !is_answered => {
                assert!(matches!(refusal.fault, Fault::Offline { .. }));
            }
            other => panic!("{candidates}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_nothing_but_upstreams_out_of_reach_is_not_ready() {
    let wire = Wire::offline();
    let [local, cloud] = both();
    let alone = bench_of(&wire, "local", "'cloud'", vec![cloud.clone()]);
    assert!(!alone.pipeline.readiness().is_ready);
    let both = bench_of(&wire, "local", "'cloud'", vec![local, cloud]);
    assert!(both.pipeline.readiness().is_ready);
    wire.0.send_replace(false);
    assert!(alone.pipeline.readiness().is_ready);
}

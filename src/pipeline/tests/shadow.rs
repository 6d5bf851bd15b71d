//! Answers of this machine that are asked for again.

use tokio::task::JoinSet;

use super::quotas::{Purse, priced, purse};
use super::*;

/// What this machine may answer goes there, and the cloud is beside it.
const HERE_FIRST: &str = "default = 'here'\n[outcomes.here]\ncandidates = ['local', 'cloud']\n";

struct Rig {
    bench: Bench,
    purse: Purse,
    /// `None` where nobody asks.
    asking: Option<JoinSet<()>>,
}

fn budget(amount: u64) -> Limit {
    Limit {
        scope: Scope::Shadow,
        ..super::quotas::limit(Measure::Cost, amount)
    }
}

/// All that may have a shadow has one.
fn rig(backends: Vec<Arc<Fake>>, is_asking: bool) -> Rig {
    let backends = backends.into_iter().map(|it| it as Arc<dyn Backend>);
    let snapshot = priced(snapshot_of(HERE_FIRST, backends.collect()));
    let snapshot = snapshot.with_shadow(Some(ShadowRules {
        share: 1.0,
        backend: "fake".into(),
        model: "big".to_owned(),
        limits: [budget(1_000_000)].into(),
        alike_at: 0.9,
    }));
    let cache = Arc::new(MapCache::default());
    let (sent, records) = mpsc::channel(256);
    let (shadows, shadower) = Shadows::new();
    let purse = purse();
    let (pipeline, recorder) = Pipeline::new(Parts {
        snapshot,
        cache: cache.clone(),
        reuse: None,
        shadows: Some(shadows),
        keys: Arc::new(NoKeys),
        quotas: Some(Arc::new(purse.clone())),
        queueing: QueueRules::default(),
        sinks: vec![Arc::new(Sent(sent))],
        exchanges_max: 4,
    });
    let mut running = JoinSet::new();
    running.spawn(recorder.run());
    let mut asking = JoinSet::new();
    if is_asking {
        asking.spawn(shadower.run());
    }
    Rig {
        bench: Bench {
            pipeline,
            cache,
            records,
            _recorder: running,
        },
        purse,
        asking: is_asking.then_some(asking),
    }
}

fn local(said: &'static str) -> Arc<Fake> {
    Fake::new("local", Trust::Device, Script::Says(said))
}

fn cloud(script: Script) -> Arc<Fake> {
    Fake::new("fake", Trust::Public, script)
}

impl Rig {
    /// Has this machine answer, and gives its record.
    async fn asks(&mut self, asked: Parsed) -> ExchangeRecord {
        let answer = self.bench.pipeline.run(asked).await.unwrap();
        assert_eq!(answer.route.to_string(), "local:tiny");
        text(answer).await;
        self.record().await
    }

    async fn record(&mut self) -> ExchangeRecord {
        self.bench.records.recv().await.unwrap()
    }

    /// How many had this result.
    fn count(&self, result: &str) -> u64 {
        let counts = self.bench.pipeline.shadow_counts().unwrap();
        let mut counts = counts.by_result();
        counts.find(|(it, _)| *it == result).unwrap().1
    }
}

#[tokio::test(start_paused = true)]
async fn a_shadow_is_masked_compared_as_its_caller_reads_and_paid_for() {
    // What each says back is the address, and the cloud never sees it.
    let (here, there) = (
        Fake::new("local", Trust::Device, Script::Echoes),
        cloud(Script::Echoes),
    );
    let mut rig = rig(vec![here, there.clone()], true);
    let own = rig.asks(parsed("auto", "write to a@b.example")).await;
    assert!(own.shadow.is_none());
    let record = rig.record().await;
    let shadow = record.shadow.unwrap();
    assert_eq!(shadow.agreement, Agreement::Agrees);
    assert_eq!(
        (shadow.beside.as_str(), shadow.similarity_permille),
        ("tiny", Some(1_000))
    );
    assert_eq!((record.request_id, record.team), (own.request_id, own.team));
    assert_eq!(record.outcome, Outcome::Answered);
    assert_eq!(there.calls(), ["write to <EMAIL_1>"]);
    assert_eq!(*there.priorities.lock().unwrap(), [domain::Priority::Batch]);
    // A token out, at ten millionths.
    assert_eq!(record.cost, Some(MicroUsd(10)));
    let nothing = Counterfactual {
        cost: MicroUsd(0),
        basis: Basis::Shadow,
    };
    assert_eq!(record.counterfactual, Some(nothing));
    assert_eq!(
        SavedBy::of(&rig.asks(parsed("auto", "more")).await),
        Some(SavedBy::Local)
    );
    let spent = rig.purse.settled();
    assert_eq!(spent[0].cost, MicroUsd(10));
}

#[tokio::test(start_paused = true)]
async fn without_an_encoder_other_words_are_unclear() {
    let mut rig = rig(vec![local("yes"), cloud(Script::Says("no"))], true);
    rig.asks(parsed("auto", "question")).await;
    let shadow = rig.record().await.shadow.unwrap();
    assert_eq!(
        (shadow.agreement, shadow.similarity_permille),
        (Agreement::Unclear, None)
    );
    assert_eq!((rig.count("unclear"), rig.count("differs")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_does_not_answer_is_no_verdict() {
    for (script, outcome, is_charged) in [
        (
            Script::Fails(BackendError::Unreachable("refused")),
            "unreachable",
            false,
        ),
        (Script::Breaks("ye"), "interrupted", true),
        // What came of it was worked for, whatever ended it: it was left out of the budget.
        (
            Script::BreaksBy("ye", BackendError::Failed { status: 500 }),
            "failed",
            true,
        ),
        // For as long as it may take, and no longer.
        (Script::Hangs, "timed_out", true),
    ] {
        let mut rig = rig(vec![local("yes"), cloud(script)], true);
        rig.asks(parsed("auto", "question")).await;
        let record = rig.record().await;
        assert_eq!(
            record.shadow.unwrap().agreement,
            Agreement::Failed,
            "{outcome}"
        );
        assert_eq!(record.outcome, Outcome::BrokenOff(outcome));
        assert_eq!(record.cost.unwrap() > MicroUsd(0), is_charged, "{outcome}");
        assert_eq!(rig.count("failed"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn only_whole_answers_in_words_of_this_machine_have_one() {
    let there = cloud(Script::Says("yes"));
    let mut rig = rig(vec![local("yes"), there.clone()], true);
    let mut two = parsed("auto", "two choices");
    two.request.choices = 2;
    rig.asks(two).await;
    let mut unkept = parsed("auto", "unkept");
    unkept.context.cache = CacheWish::Bypass;
    rig.asks(unkept).await;
    let mut long = parsed("auto", "long");
    long.context.body_bytes = 65 * 1024;
    rig.asks(long).await;
    // Its caller named who answers.
    rig.asks(parsed("local", "named")).await;
    let mut narrow = parsed("auto", "narrow");
    narrow.principal.models = Some(vec!["auto".into()]);
    rig.asks(narrow).await;
    // It goes on from a kept response: the body that came says nothing of how long all of it is.
    let mut gone_on = parsed("auto", "gone on");
    let earlier = Message::new(Role::User, "x".repeat(65 * 1024));
    gone_on.request.messages.insert(0, earlier);
    rig.asks(gone_on).await;
    // Left amid it.
    let answer = rig
        .bench
        .pipeline
        .run(parsed("auto", "left"))
        .await
        .unwrap();
    drop(answer);
    rig.record().await;
    // From the cache.
    rig.asks(parsed("auto", "kept")).await;
    rig.record().await;
    let again = rig
        .bench
        .pipeline
        .run(parsed("auto", "kept"))
        .await
        .unwrap();
    assert_eq!(again.route.to_string(), "cache:exact");
    text(again).await;
    rig.record().await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(there.calls(), ["kept"]);
    let mut broad = parsed("auto", "broad");
    broad.principal.models = Some(vec!["auto".into(), "fake/big".into()]);
    rig.asks(broad).await;
    rig.record().await;
    assert_eq!(there.calls(), ["kept", "broad"]);
}

/// Its route named another public upstream, and that was taken for leave to ask this one.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_the_route_does_not_name_is_not_asked() {
    let there = cloud(Script::Says("yes"));
    let other = Fake::new("other", Trust::Public, Script::Says("yes"));
    let backends = || -> Vec<Arc<dyn Backend>> { vec![local("yes"), there.clone(), other.clone()] };
    let mut rig = rig(vec![local("yes"), there.clone(), other.clone()], true);
    let rules = rig.bench.pipeline.snapshot().shadow().cloned();
    for (candidates, asked) in [("'other/big'", 0), ("'other/big', 'fake/big'", 1)] {
        let routes =
            format!("default = 'here'\n[outcomes.here]\ncandidates = ['local', {candidates}]\n");
        let snapshot = priced(snapshot_of(&routes, backends())).with_shadow(rules.clone());
        rig.bench.pipeline.reload(snapshot);
        rig.asks(parsed("auto", candidates)).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(there.calls().len(), asked, "{candidates}");
    }
}

/// What waited went out for up to a minute after a reload that took its rules away.
#[tokio::test(start_paused = true)]
async fn what_waits_is_not_asked_by_rules_that_hold_no_more() {
    let there = cloud(Script::Says("yes"));
    let mut rig = rig(vec![local("yes"), there.clone()], true);
    let mut seats = Vec::new();
    for at in 0..3 {
        let asked = parsed("auto", &format!("held {at}"));
        seats.push(rig.bench.pipeline.run(asked).await.unwrap());
    }
    rig.asks(parsed("auto", "waits")).await;
    let backends: Vec<Arc<dyn Backend>> = vec![local("yes"), there.clone()];
    let without = priced(snapshot_of(HERE_FIRST, backends));
    rig.bench.pipeline.reload(without);
    drop(seats);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(there.calls().is_empty(), "{:?}", there.calls());
    assert_eq!(rig.count("away"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_has_none() {
    let there = cloud(Script::Fails(BackendError::Unreachable("refused")));
    let backends: Vec<Arc<dyn Backend>> = vec![local("here"), there.clone()];
    let mut rig = rig(vec![local("here"), there.clone()], true);
    let routes = "default = 'there'\n[outcomes.there]\ncandidates = ['cloud', 'local']\n";
    let rules = ShadowRules {
        share: 1.0,
        backend: "fake".into(),
        model: "big".to_owned(),
        limits: [budget(1_000_000)].into(),
        alike_at: 0.9,
    };
    let snapshot = priced(snapshot_of(routes, backends)).with_shadow(Some(rules));
    rig.bench.pipeline.reload(snapshot);
    rig.asks(parsed("auto", "question")).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(there.calls(), ["question"], "by its caller alone");
    assert_eq!(rig.count("failed"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_is_counted_and_what_is_cut_off_leaves_its_record() {
    let mut idle = rig(vec![local("yes"), cloud(Script::Says("yes"))], false);
    for at in 0..70 {
        idle.asks(parsed("auto", &format!("question {at}"))).await;
    }
    assert_eq!(idle.count("busy"), 70);

    let mut rig = rig(vec![local("yes"), cloud(Script::Hangs)], true);
    for at in 0..70 {
        rig.asks(parsed("auto", &format!("question {at}"))).await;
    }
    // Two are asked, and sixty-four wait.
    assert_eq!(rig.count("busy"), 4);
    rig.asking.take().unwrap().shutdown().await;
    for _ in 0..2 {
        let record = rig.record().await;
        assert_eq!(record.outcome, Outcome::Abandoned);
        assert_eq!(record.shadow.unwrap().agreement, Agreement::Failed);
        assert!(record.cost.unwrap() > MicroUsd(0), "it was sent the prompt");
    }
    assert_eq!(rig.purse.settled().len(), 2, "nothing is held any more");
}

#[tokio::test(start_paused = true)]
async fn callers_go_first() {
    let there = cloud(Script::Says("yes"));
    let here = Fake::new(
        "local",
        Trust::Device,
        Script::SaysAfter(Duration::from_secs(3), "yes"),
    );
    let rig = rig(vec![here, there.clone()], true);
    // Three of four seats are taken until their answers are read.
    let ask = |text: &str| rig.bench.pipeline.run(parsed("auto", text));
    let (one, two, three) = tokio::join!(ask("one"), ask("two"), ask("three"));
    let (two, three) = (two.unwrap(), three.unwrap());
    text(one.unwrap()).await;
    let seat = rig
        .bench
        .pipeline
        .run(parsed("auto", "four"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(there.calls().is_empty(), "{:?}", there.calls());
    text(two).await;
    drop((three, seat));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(there.calls(), ["one", "two"]);
}

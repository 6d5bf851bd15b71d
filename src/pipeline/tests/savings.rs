//! What exchanges would have cost elsewhere.

use policy::{PriceBook, PriceEntry};

use super::*;

/// A dollar for a million tokens in, ten for a million out; the reference is twice that.
fn priced(snapshot: Snapshot) -> Snapshot {
    let mut book = PriceBook::default();
    let entry = |model: &str, times: f64| PriceEntry {
        provider: "fake".into(),
        names: vec![model.into()],
        input: times,
        output: 10.0 * times,
        ..PriceEntry::default()
    };
    book.add(&[entry("big", 1.0), entry("huge", 2.0)]).unwrap();
    let reference = book.find("fake", "huge").copied();
    snapshot.with_prices(Prices {
        book: Arc::new(book),
        providers: BTreeMap::new(),
        reference,
    })
}

fn two(script: Script) -> Bench {
    let cloud = Fake::new("fake", Trust::Public, script);
    let local = Fake::new("local", Trust::Device, Script::Says("here"));
    bench_with(priced(snapshot(vec![local, cloud])), 4)
}

impl Bench {
    /// What the next record says of a request's cost, and of what it would have cost.
    async fn compared(&mut self, model: &str) -> (Option<MicroUsd>, Option<Counterfactual>) {
        let asked = parsed(model, "question");
        text(self.pipeline.run(asked).await.unwrap()).await;
        let record = self.records.recv().await.unwrap();
        (record.cost, record.counterfactual)
    }
}

fn spent(cost: i64, elsewhere: i64, basis: Basis) -> (Option<MicroUsd>, Option<Counterfactual>) {
    let cost = Some(MicroUsd(cost));
    let elsewhere = Counterfactual {
        cost: MicroUsd(elsewhere),
        basis,
    };
    (cost, Some(elsewhere))
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_measured_by_what_was_asked_for() {
    let mut bench = two(Script::Says("yes"));
    let first = bench.compared("fake/big").await;
    assert_eq!(first, spent(10, 10, Basis::Asked));
    let again = bench.compared("fake/big").await;
    assert_eq!(again, spent(0, 10, Basis::Asked), "from the cache");
    let auto = bench.compared("auto").await;
    assert_eq!(auto, spent(10, 10, Basis::Answered));
    let local = bench.compared("local").await;
    assert_eq!(local, spent(0, 20, Basis::Reference));
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_that_costs_nothing_is_measured_by_the_reference() {
    let mut bench = two(Script::Fails(BackendError::Unreachable("refused")));
    assert_eq!(bench.compared("auto").await, spent(0, 20, Basis::Reference));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_is_counted_whoever_answered() {
    for (model, said) in [("local", 1), ("fake/big", 4)] {
        let mut bench = two(Script::Says("a word and another"));
        let answer = bench.pipeline.run(parsed(model, "question")).await.unwrap();
        let mut stream = answer.stream;
        while let Some(Ok(event)) = stream.next().await {
            if matches!(event, ChatEvent::Text { .. }) {
                break;
            }
        }
        drop(stream);
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.outcome, Outcome::Abandoned, "{model}");
        let usage = record.usage.unwrap();
        assert!(record.is_usage_counted, "{model}");
        assert_eq!(usage.completion_tokens, Tokens(said), "{model}");
        assert!(usage.prompt_tokens > Tokens(0), "{model}");
        assert!(record.counterfactual.is_some(), "{model}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_worked_for_would_have_cost_nothing_that_is_known() {
    let mut bench = two(Script::Says("yes"));
    let refused = bench.pipeline.run(parsed("nobody", "question")).await;
    assert!(refused.is_err());
    let record = bench.records.recv().await.unwrap();
    assert_eq!((record.cost, record.counterfactual), (None, None));
}

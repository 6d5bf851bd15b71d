//! Streams that a provider breaks off, and who goes on with them.

use futures::future::join_all;
use http::StatusCode;
use loadtest::{Behaviour, FakeConfig, FakeUpstream};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Hedge, Reply, ask, with};

const TEXT: &str = "A ship left the  harbour at dawn, laden with salt and écru cloth; its crew of \
                    eleven sang as they rowed. By noon the wind had turned, by dusk it had died, \
                    and so the ship lay still, still as a stone, still as the salt in its hold. \n";

/// A model that always says the same, and goes on with it wherever it is begun.
fn teller(text: &str) -> FakeUpstream {
    FakeUpstream::start(FakeConfig {
        behaviour: Behaviour {
            text: Some(text.to_owned()),
            continues: true,
            ..Behaviour::default()
        },
        ..FakeConfig::default()
    })
    .unwrap()
}

fn upstream(name: &str, fake: &FakeUpstream, more: &str) -> String {
    format!(
        "\n[[upstreams]]\nname = \"{name}\"\nbase_url = \"{}\"\nmodels = [\"bench\"]\n{more}\n",
        fake.base_url()
    )
}

/// A rules file, and the line that names it.
fn routes(rescue: &str, candidates: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    let rules = format!(
        "default = \"all\"\nrescue = \"{rescue}\"\n[outcomes.all]\ncandidates = [{candidates}]\n"
    );
    std::fs::write(&path, rules).unwrap();
    let line = format!("[routes]\nfile = \"{}\"\n", path.display());
    (folder, line)
}

/// A stream that its provider breaks off after so many bytes. No two are alike for the cache.
fn cut_at(byte: usize, more: Value) -> Value {
    let text = format!("Tell the tale. [[fake cut-byte={byte}]]");
    with(with(ask("auto", &text), json!({"stream": true})), more)
}

fn rescues(reply: &Reply) -> Vec<&str> {
    let lines = reply.text.lines();
    let mark = ": x-hedge-rescue: ";
    lines.filter_map(|line| line.strip_prefix(mark)).collect()
}

/// Knuth's generator of 64 bits (MMIX): the same numbers everywhere.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: usize) -> usize {
        let (factor, more) = (6_364_136_223_846_793_005, 1_442_695_040_888_963_407);
        self.0 = self.0.wrapping_mul(factor).wrapping_add(more);
        (self.0 >> 33) as usize % end
    }
}

#[tokio::test]
async fn of_two_hundred_streams_killed_anywhere_two_hundred_finish_word_for_word() {
    let (one, two) = (teller(TEXT), teller(TEXT));
    let (_folder, routes) = routes("same-model", "\"one/bench\", \"two/bench\"");
    let config = format!(
        "[local]\nenabled = false\n[breaker]\nfailures_max = 1000\nfailed_percent_max = 100\n{routes}{}{}",
        upstream("one", &one, ""),
        upstream("two", &two, "continues = \"final-message\""),
    );
    let hedge = Hedge::start(&config).await;
    let whole = hedge.chat(&cut_at(1 << 20, json!({}))).await;
    assert!(whole.is_done() && whole.streamed_text() == TEXT);
    // As long as the provider's stream is, or a little longer.
    let bytes = 220 * (TEXT.split(' ').count() + 3);

    let seed = 20_261_128;
    let mut random = Seeded(seed);
    // Before the first text there is nothing to go on with: another candidate answers, which in this
    // test would be cut at the same place.
    let begun = 500;
    let cuts = (0..200).map(|_| begun + random.below(bytes - begun));
    let cuts: Vec<usize> = cuts.collect();
    let mut gone_on_with = 0;
    for cuts in cuts.chunks(8) {
        let asked = cuts.iter().map(|cut| {
            // The same cut twice is not the same request.
            let body = cut_at(*cut, json!({"seed": cut}));
            let hedge = &hedge;
            async move { (*cut, hedge.chat(&body).await) }
        });
        for (cut, reply) in join_all(asked).await {
            assert_eq!(
                reply.streamed_text(),
                TEXT,
                "seed {seed}, cut at {cut}: {}",
                reply.text
            );
            assert!(reply.is_done(), "seed {seed}, cut at {cut}: {}", reply.text);
            let chunks = reply.chunks();
            let roles = chunks
                .iter()
                .filter(|it| !it["choices"][0]["delta"]["role"].is_null());
            assert_eq!(roles.count(), 1, "one beginning");
            let rescues = rescues(&reply);
            assert!(rescues.len() <= 1);
            for rescue in rescues {
                assert_eq!(rescue, "cloud:two; after=interrupted");
                gone_on_with += 1;
            }
        }
    }
    assert!(
        gone_on_with > 100,
        "only {gone_on_with} broke off after text was sent"
    );
    let metrics = hedge.metrics().await;
    let counted = format!("hedge_rescues_total{{route=\"cloud\"}} {gone_on_with}");
    assert!(metrics.contains(&counted), "{counted}\n{metrics}");
    assert!(!metrics.contains("hedge_unrescued_total{"), "{metrics}");
    let resumed = two.seen().into_iter().map(|seen| seen.body);
    let resumed: Vec<Value> = resumed
        .filter(|body| body["messages"].as_array().unwrap().len() == 2)
        .collect();
    assert_eq!(resumed.len(), gone_on_with);
    for body in resumed {
        assert_eq!(body["continue_final_message"], true);
        assert_eq!(body["add_generation_prompt"], false);
        let begun = body["messages"][1]["content"].as_str().unwrap();
        assert!(TEXT.starts_with(begun) && begun == begun.trim_end());
    }
}

#[tokio::test]
async fn without_a_word_of_the_route_a_stream_that_breaks_ends_in_an_error() {
    let (one, two) = (teller(TEXT), teller(TEXT));
    let (_folder, routes) = routes("off", "\"one/bench\", \"two/bench\"");
    let config = format!(
        "[local]\nenabled = false\n{routes}{}{}",
        upstream("one", &one, ""),
        upstream("two", &two, "continues = \"message\""),
    );
    let hedge = Hedge::start(&config).await;
    let reply = hedge.chat(&cut_at(4000, json!({}))).await;
    assert!(
        !reply.is_done() && reply.text.contains("upstream_failed"),
        "{}",
        reply.text
    );
    assert!(rescues(&reply).is_empty());
    assert_eq!(two.counts().asked, 0);
}

#[tokio::test]
async fn a_begun_tool_call_is_not_gone_on_with() {
    let (one, two) = (teller(TEXT), teller(TEXT));
    let (_folder, routes) = routes("any", "\"one/bench\", \"two/bench\"");
    let config = format!(
        "[local]\nenabled = false\n{routes}{}{}",
        upstream("one", &one, ""),
        upstream("two", &two, "continues = \"message\""),
    );
    let hedge = Hedge::start(&config).await;
    // The fake's second event is the whole call; the third, which ends the choice, is cut.
    let body = with(
        ask(
            "auto",
            "What is the weather? [[fake call=weather cut-byte=600]]",
        ),
        json!({"stream": true, "tools": [{"type": "function", "function": {"name": "weather",
            "parameters": {"type": "object", "properties": {}}}}]}),
    );
    let reply = hedge.chat(&body).await;
    assert_eq!(reply.status, StatusCode::OK);
    let has_call = reply
        .chunks()
        .iter()
        .any(|it| !it["choices"][0]["delta"]["tool_calls"].is_null());
    assert!(has_call && !reply.is_done(), "{}", reply.text);
    assert_eq!(two.counts().asked, 0);
    let metrics = hedge.metrics().await;
    assert!(
        metrics.contains("hedge_unrescued_total{why=\"tool_call\"} 1"),
        "{metrics}"
    );
}

#[cfg(feature = "llama")]
#[tokio::test]
async fn this_machine_s_model_goes_on_with_its_own_words_exactly() {
    use loadtest::Mishap;
    const QUESTION: &str = "What is the capital of Portugal?";
    // What it says by itself is what the providers say, until they break off.
    let alone = Hedge::start("").await;
    let said = alone.chat(&ask("local", QUESTION)).await.content();
    drop(alone);
    let words = said.split_inclusive(' ').count();
    assert!(words > 3, "{said}");
    let fakes: Vec<FakeUpstream> = (1..words)
        .map(|after| {
            FakeUpstream::start(FakeConfig {
                behaviour: Behaviour {
                    text: Some(said.clone()),
                    mishap: Some(Mishap::CutAfter(u32::try_from(after).unwrap())),
                    ..Behaviour::default()
                },
                ..FakeConfig::default()
            })
            .unwrap()
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    let mut rules = "default = \"cut1\"\nrescue = \"any\"\n".to_owned();
    let mut config = format!("[routes]\nfile = \"{}\"\n", path.display());
    for (at, fake) in fakes.iter().enumerate() {
        let name = format!("cut{}", at + 1);
        config += &upstream(&name, fake, "");
        rules += &format!("[outcomes.{name}]\ncandidates = [\"{name}\", \"local\"]\n");
        rules += &format!(
            "[[rules]]\nname = \"{name}\"\nwhen = {{ header = {{ x-cut = \"^{name}$\" }} }}\n\
             then = \"{name}\"\n"
        );
    }
    std::fs::write(&path, rules).unwrap();
    let hedge = Hedge::start(&config).await;
    for after in 1..words {
        let body = with(ask("auto", QUESTION), json!({"stream": true}));
        let mut request = crate::harness::chat_request(&body);
        let name = http::HeaderValue::from_str(&format!("cut{after}")).unwrap();
        request.headers_mut().insert("x-cut", name);
        let reply = hedge.send(request).await;
        assert_eq!(reply.route(), format!("cloud:cut{after}"));
        assert_eq!(reply.streamed_text(), said, "after {after} words");
        assert!(reply.is_done());
        let rescues = rescues(&reply);
        assert_eq!(rescues.len(), 1, "{}", reply.text);
        assert!(rescues[0].starts_with("local:"), "{}", rescues[0]);
    }
}

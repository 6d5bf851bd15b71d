//! Several choices of one request.

use std::sync::Mutex;

use super::*;
use crate::fake::Seen;

/// Draws letters by chance: the script's own token is never the one.
fn babbling(decoder: &mut FakeDecoder) {
    decoder.script = Box::new(|_| 0);
    decoder.noise = babble;
}

fn hot(seed: Option<i64>, choices: u32) -> ChatRequest {
    request("say something at length, please", |request| {
        request.choices = choices;
        request.output_tokens_max = Some(Tokens(12));
        request.sampling.temperature = Some(2.0);
        request.sampling.seed = seed;
        request.sampling.logit_bias = vec![(0, -100.0)];
        request.sampling.open.ignores_end = true;
    })
}

#[tokio::test]
async fn each_choice_is_what_its_seed_gives_alone() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let reply = ask(&engine, hot(Some(7), 5)).await.unwrap();
    let indices: Vec<u32> = reply.choices.iter().map(|choice| choice.choice).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
    for (seed, choice) in (7..).zip(&reply.choices) {
        let alone = ask(&engine, hot(Some(seed), 1)).await.unwrap();
        assert_eq!(choice.text(), alone.choices[0].text(), "seed {seed}");
        assert_eq!(choice.reason, FinishReason::Length);
    }
    assert_ne!(reply.choices[0].text(), reply.choices[1].text());
    let end = ask(&engine, hot(Some(i64::MAX), 2)).await.unwrap();
    let first = ask(&engine, hot(Some(i64::MIN), 1)).await.unwrap();
    assert_eq!(end.choices[1].text(), first.choices[0].text());
    for seed in [None, Some(-1)] {
        let unseeded = ask(&engine, hot(seed, 2)).await.unwrap();
        assert_ne!(unseeded.choices[0].text(), unseeded.choices[1].text());
        let again = ask(&engine, hot(seed, 1)).await.unwrap();
        assert_ne!(unseeded.choices[0].text(), again.choices[0].text());
    }
}

#[tokio::test]
async fn the_prompt_is_computed_and_counted_once() {
    let log: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let theirs = Arc::clone(&log);
    let (engine, _driver) = start(ECHO, |_| (), move |decoder| decoder.log = theirs);
    let text = "x".repeat(40);
    let reply = ask(&engine, request(&text, |r| r.choices = 2))
        .await
        .unwrap();
    let prompt = text.len() + 1;
    let usage = reply.usage.unwrap();
    assert_eq!(usage.prompt_tokens.0 as usize, prompt);
    assert_eq!(usage.completion_tokens.0 as usize, 2 * text.len());
    assert_eq!(usage.cached_tokens.0, 0);
    let seen = log.lock().unwrap();
    let entries = seen.iter().flat_map(|seen| &seen.batch);
    let of_prompt = entries.filter(|entry| (entry.position as usize) < prompt);
    // The second choice computes the last token again, for its logits.
    assert_eq!(of_prompt.count(), prompt + 1);
}

#[tokio::test]
async fn more_choices_than_slots_take_turns() {
    let (engine, _driver) = start(ECHO, |config| config.events_max = 1, |_| ());
    let reply = ask(&engine, request("hello", |r| r.choices = 8))
        .await
        .unwrap();
    let texts: Vec<String> = reply
        .choices
        .iter()
        .map(domain::ReplyChoice::text)
        .collect();
    assert_eq!(texts, ["hello"; 8]);
}

#[tokio::test]
async fn choices_have_calls_with_ids_of_their_own_and_formats() {
    let (engine, _driver) = start(ECHO, |_| (), call_back);
    let asked = request(CALL, |r| {
        r.tools = vec![tool()];
        r.choices = 2;
    });
    let reply = ask(&engine, asked).await.unwrap();
    let ids = reply.choices.iter().map(|choice| &choice.tool_calls[0].id);
    let ids: Vec<_> = ids.collect();
    assert_ne!(ids[0], ids[1]);
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let asked = ChatRequest {
        format: OutputFormat::JsonSchema(
            json!({"schema": {"type": "integer", "minimum": 0, "maximum": 9}}),
        ),
        ..hot(Some(3), 3)
    };
    for choice in ask(&engine, asked).await.unwrap().choices {
        let text = choice.text();
        assert!(
            text.trim().parse::<u8>().is_ok_and(|number| number < 10),
            "{text}"
        );
    }
}

#[tokio::test]
async fn too_many_choices_are_declined_and_none_is_begun_without_room() {
    let (engine, _driver) = start(ECHO, |config| config.queue_max = 4, |_| ());
    let refused = engine.chat(sealed(request("a", |r| r.choices = 5))).await;
    let Some(BackendError::Declined { reason }) = refused.err() else {
        panic!("five were taken");
    };
    assert_eq!(reason.param.as_deref(), Some("n"));
    assert!(reason.message.contains("at most 4"), "{}", reason.message);
    let taken = ask(&engine, request("a", |r| r.choices = 4)).await;
    assert_eq!(taken.unwrap().choices.len(), 4);
}

#[tokio::test]
async fn a_failure_of_one_ends_the_reply() {
    let (engine, _driver) = start(
        ECHO,
        |_| (),
        |decoder| {
            let mut mishaps = decoder.mishaps.lock().unwrap();
            mishaps.push_back(Mishap::At(0, Box::new(|| ())));
            mishaps.push_back(Mishap::Fail);
        },
    );
    let failed = ask(&engine, request("hello there", |r| r.choices = 2)).await;
    assert!(matches!(failed, Err(BackendError::Engine(_))), "{failed:?}");
    let after = ask(&engine, request("hello", |_| ())).await.unwrap();
    assert_eq!(after.choices[0].text(), "hello");
}

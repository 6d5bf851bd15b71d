//! Log probabilities, and the settings that decide where a reply ends.

use super::*;

#[tokio::test]
async fn every_token_has_its_log_probability_and_the_greedy_one_is_the_likeliest() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let asked = request("hello", |r| r.sampling.logprobs = Some(3));
    let choice = ask(&engine, asked).await.unwrap().choices.remove(0);
    let texts = choice.logprobs.iter().map(|one| one.token.text.as_str());
    assert_eq!(texts.collect::<String>(), "hello");
    for one in &choice.logprobs {
        assert_eq!(one.top.len(), 3);
        assert_eq!(one.top[0], one.token);
        // One token at 20, 257 at 0.
        let expected = 20.0 - (20_f64.exp() + 257.0).ln();
        assert!((one.token.logprob - expected).abs() < 1e-6);
        assert!((one.top[1].logprob - (expected - 20.0)).abs() < 1e-6);
    }
    let plain = ask(&engine, request("hello", |_| ())).await.unwrap();
    assert!(plain.choices[0].logprobs.is_empty());
}

#[tokio::test]
async fn log_probabilities_are_of_the_models_logits_whatever_the_settings() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let asked = |change: fn(&mut ChatRequest)| {
        request("hello", |r| {
            r.sampling.logprobs = Some(0);
            change(r);
        })
    };
    let plain = ask(&engine, asked(|_| ())).await.unwrap();
    let changed = asked(|r| {
        r.sampling.temperature = Some(0.1);
        r.sampling.top_k = Some(1);
        r.sampling.logit_bias = vec![(u32::from(b'h'), 5.0)];
        r.sampling.open.ignores_end = true;
        r.output_tokens_max = Some(Tokens(5));
        r.choices = 2;
    });
    for choice in ask(&engine, changed).await.unwrap().choices {
        assert_eq!(choice.logprobs, plain.choices[0].logprobs);
    }
}

#[tokio::test]
async fn a_stop_string_takes_its_tokens_log_probabilities_with_it() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let asked = request("hello", |r| {
        r.sampling.logprobs = Some(0);
        r.sampling.stop = vec!["lo".into()];
    });
    let choice = ask(&engine, asked).await.unwrap().choices.remove(0);
    assert_eq!((choice.text().as_str(), choice.logprobs.len()), ("hel", 3));
}

#[tokio::test]
async fn a_stop_token_ends_the_reply_and_is_not_in_it() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let asked = request("hello", |r| {
        r.sampling.open.stop_tokens = vec![7, u32::from(b'l')];
    });
    let reply = ask(&engine, asked).await.unwrap();
    let choice = &reply.choices[0];
    assert_eq!(
        (choice.text().as_str(), choice.reason),
        ("he", FinishReason::Stop)
    );
    assert_eq!(reply.usage.unwrap().completion_tokens, Tokens(2));
    let unknown = request("hello", |r| r.sampling.open.stop_tokens = vec![7, 999]);
    let refused = ask(&engine, unknown).await;
    let Err(BackendError::Declined { reason }) = refused else {
        panic!("token 999 was taken");
    };
    assert_eq!(reason.param.as_deref(), Some("stop_token_ids[1]"));
}

#[tokio::test]
async fn a_reply_that_ignores_its_end_runs_to_its_length() {
    for temperature in [0.0, 1.0] {
        let (engine, _driver) = start(ECHO, |_| (), |_| ());
        let asked = request("hi", |r| {
            r.sampling.temperature = Some(temperature);
            r.sampling.open.ignores_end = true;
            r.output_tokens_max = Some(Tokens(40));
        });
        let reply = ask(&engine, asked).await.unwrap();
        assert_eq!(reply.choices[0].reason, FinishReason::Length);
        assert_eq!(reply.usage.unwrap().completion_tokens, Tokens(40));
    }
}

#[tokio::test]
async fn repetitions_are_penalised_from_the_prompt_on() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let asked = request("abcdef", |r| {
        r.sampling.open.dry = Some(domain::Dry {
            multiplier: 100.0,
            base: 1.0,
            allowed: 3,
            tokens_max: None,
            breakers: vec![],
        });
        r.output_tokens_max = Some(Tokens(4));
    });
    let text = ask(&engine, asked).await.unwrap().choices[0].text();
    assert!(
        text.starts_with("abc") && !text.starts_with("abcd"),
        "{text}"
    );
}

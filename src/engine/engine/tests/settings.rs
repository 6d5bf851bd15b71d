//! The settings that decide where a reply ends.

use super::*;

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

use std::sync::Arc;

use domain::Message;
use domain::Role;

use super::*;
use crate::config::EngineConfig;
use crate::decoder::Shape;
use crate::engine::EngineDriver;
use crate::fake::{CHATML, END, FIRST, FakeDecoder, FakeVocabulary, request};
use crate::splitting::Splitting;

const SHAPE: Shape = Shape {
    sequences: 10,
    kv_tokens: 64,
    batch_tokens: 32,
    context_tokens: 16,
};

fn start(vocabulary: FakeVocabulary) -> (Engine, EngineDriver) {
    let mind = Mind {
        sight: None,
        vocabulary: Arc::new(vocabulary),
        template: Arc::new(CHATML),
        context_tokens: SHAPE.context_tokens,
        manner: crate::calls::Manner::default(),
    };
    let config = EngineConfig::new("unused", "fake");
    Engine::start(config, mind, |shared| {
        Ok(FakeDecoder::new(SHAPE, Arc::clone(&shared.interrupt)))
    })
    .unwrap()
}

fn text(parts: &[&str], adds_special: bool, reads_special: bool) -> TextToRead {
    let part = |text: &&str| match text.parse() {
        Ok(token) => TextPart::Token(token),
        Err(_) => TextPart::Text((*text).to_owned()),
    };
    TextToRead {
        parts: parts.iter().map(part).collect(),
        adds_special,
        reads_special,
    }
}

fn ids(tokens: &[ReadToken]) -> Vec<i32> {
    tokens.iter().map(|token| token.id.cast_signed()).collect()
}

fn param(error: &BackendError) -> &str {
    match error {
        BackendError::Declined { reason } => reason.param.as_deref().unwrap_or(""),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn control_tokens_are_read_and_added_where_that_is_asked() {
    let (engine, _driver) = start(FakeVocabulary {
        has_first_token: true,
        ..FakeVocabulary::default()
    });
    let (a, b) = (i32::from(b'a'), i32::from(b'b'));
    let plain: Vec<i32> = b"a<s>".iter().map(|byte| i32::from(*byte)).collect();
    for (parts, adds, reads, expected) in [
        (&["a<s>"][..], false, true, vec![a, FIRST]),
        (&["a<s>"], false, false, plain),
        (&["a"], true, true, vec![FIRST, a]),
        // Only a text that comes first has a beginning.
        (&["a", "b"], true, true, vec![FIRST, a, b]),
        (&["97", "b"], true, true, vec![a, b]),
        (&[""], false, true, vec![]),
    ] {
        let tokens = engine.tokenize(text(parts, adds, reads)).await.unwrap();
        assert_eq!(ids(&tokens), expected, "{parts:?} {adds} {reads}");
    }
}

#[tokio::test]
async fn a_text_comes_back_from_its_tokens_and_pieces_may_be_parts_of_characters() {
    let (engine, _driver) = start(FakeVocabulary::default());
    let tokens = engine.tokenize(text(&["ü<s>"], false, true)).await.unwrap();
    let pieces: Vec<&[u8]> = tokens.iter().map(|token| &token.piece[..]).collect();
    assert_eq!(pieces, [&[0xC3][..], &[0xBC], b"<s>"]);
    let tokens = tokens.iter().map(|token| token.id).collect();
    assert_eq!(engine.detokenize(tokens).await.unwrap(), "ü<s>".as_bytes());
    let end = END.cast_unsigned();
    assert_eq!(engine.detokenize(vec![end]).await.unwrap(), b"<end>");
    assert_eq!(engine.detokenize(vec![]).await.unwrap(), b"");
}

#[tokio::test]
async fn a_token_that_does_not_exist_is_named_with_its_place() {
    let (engine, _driver) = start(FakeVocabulary::default());
    let refused = engine.detokenize(vec![1, 258]).await.unwrap_err();
    assert_eq!(param(&refused), "tokens[1]");
    let refused = engine.tokenize(text(&["a", "999"], false, true)).await;
    assert_eq!(param(&refused.unwrap_err()), "content[1]");
}

#[tokio::test]
async fn a_text_too_long_or_too_deep_is_declined() {
    let (engine, _driver) = start(FakeVocabulary {
        splitting: Splitting::Runs,
        ..FakeVocabulary::default()
    });
    let words = "a ".repeat(READ_BYTES_MAX / 2);
    let whole = engine.tokenize(text(&[&words], false, true)).await;
    assert_eq!(whole.unwrap().len(), READ_BYTES_MAX);
    for long in [words + "b", "x".repeat(RUN_CHARS_MAX + 1)] {
        let refused = engine.tokenize(text(&[&long], false, true)).await;
        assert_eq!(param(&refused.unwrap_err()), "content");
    }
}

/// What is shown is what is read: the same prompt that a chat gets, and however long.
#[tokio::test]
async fn a_chat_is_rendered_and_counted_as_it_is_read() {
    let (engine, _driver) = start(FakeVocabulary::default());
    let long = "a question longer than the context of this model";
    let prompt = engine.render(request(long, |_| ())).await.unwrap();
    assert_eq!(
        prompt,
        format!("<|im_start|>user\n{long}<|im_end|>\n<|im_start|>assistant\n")
    );
    let tokens = engine.tokenize_chat(request(long, |_| ())).await.unwrap();
    assert_eq!(tokens.len(), prompt.len());
    // An assistant's text at the end is what the reply goes on from.
    let begun = request("a", |request| {
        request.messages.push(Message::new(Role::Assistant, "b c"));
    });
    let prompt = engine.render(begun).await.unwrap();
    assert!(prompt.ends_with("assistant\nb c"), "{prompt}");
    let refused = engine.render(request("refuse", |_| ())).await.unwrap_err();
    assert_eq!(param(&refused), "messages");
}

//! Whether engines on the same weights say the same: greedy texts token for token, log probabilities,
//! embeddings. Each target answers alone, one question after the other, and again with many at once.
//!
//! Rounding differs between ways of computing the same sum, so two engines may part where two tokens
//! are almost equally likely. Texts are compared up to there, and how near the two tokens were is
//! told; log probabilities are compared over the tokens that both wrote.

mod compare;
mod said;
#[cfg(test)]
mod tests;

pub use compare::{Agreement, Likeness};

use std::io;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use crate::drive::{Lane, Target, machine};
use crate::race::prose;
use said::Said;

/// Neighbours of a token whose log probabilities are compared.
const TOP_LOGPROBS: u32 = 5;
const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
/// Beginnings of the questions, in turn; what follows differs each time.
const QUESTIONS: [&str; 10] = [
    "What is the capital of Japan?",
    "Convert 7 km to m",
    "hi",
    "What is 12 + 30?",
    "Is this positive or negative: I loved the garden by the river.",
    "Which month comes after March?",
    "What is a river?",
    "Which currency is used in Portugal?",
    "Find the name: Anna met the engine driver at noon.",
    "Thanks!",
];

/// What is asked, of whom.
#[derive(Clone, Debug)]
pub struct Agree {
    /// The first is the one the others are compared with.
    pub targets: Vec<Target>,
    pub questions: u32,
    pub answer_tokens: u32,
    /// Questions at once in the second pass.
    pub clients: u32,
    /// Compare embeddings instead of chats.
    pub of_embeddings: bool,
}

/// Asks all targets and compares.
///
/// # Errors
/// A target cannot be reached, or an answer is none.
pub async fn agree(asked: &Agree, mut progress: impl FnMut(&str)) -> io::Result<Agreement> {
    let mut agreement = Agreement::new(machine());
    let Some((reference, others)) = asked.targets.split_first() else {
        return Err(io::Error::other("there is no target"));
    };
    progress(&format!("{} alone", reference.name));
    let expected = all(asked, reference, 1).await?;
    let passes = [("alone", 1), ("mixed", asked.clients.max(1))];
    for target in std::iter::once(reference).chain(others) {
        for (pass, at_once) in passes {
            if std::ptr::eq(target, reference) && at_once == 1 {
                continue;
            }
            progress(&format!("{} {pass}", target.name));
            let said = all(asked, target, at_once).await?;
            agreement.take(&target.name, pass, &expected, &said);
        }
    }
    Ok(agreement)
}

/// Every question, `at_once` of them at a time; in order.
async fn all(asked: &Agree, target: &Target, at_once: u32) -> io::Result<Vec<Said>> {
    let answers = (0..asked.questions).map(|nth| one(asked, target, nth));
    let said: Vec<io::Result<Said>> = stream::iter(answers)
        .buffered(at_once as usize)
        .collect()
        .await;
    said.into_iter().collect()
}

async fn one(asked: &Agree, target: &Target, nth: u32) -> io::Result<Said> {
    let (path, body) = if asked.of_embeddings {
        (EMBEDDINGS, embedding(target, nth))
    } else {
        (CHAT, chat(target, nth, asked.answer_tokens))
    };
    let (lane, drive) = Lane::connect(target.addr, Bytes::new()).await?;
    let mut lane = lane.at(path);
    let read = async {
        let bytes = lane.whole_body(body).await?;
        Said::read(&bytes)
            .map_err(|error| io::Error::other(format!("{}, question {nth}: {error}", target.name)))
    };
    tokio::pin!(read, drive);
    tokio::select! {
        read = &mut read => read,
        // What was read of it can still be told.
        () = &mut drive => read.await,
    }
}

/// Short questions, and prose of growing length between them.
fn question(nth: u32) -> String {
    let words = nth.wrapping_mul(7) % 90;
    match nth % 3 {
        0 => prose(8 + words, u64::from(nth)),
        1 => QUESTIONS[nth as usize % QUESTIONS.len()].to_owned(),
        _ => format!(
            "{} {}",
            prose(words % 20, u64::from(nth)),
            QUESTIONS[nth as usize % QUESTIONS.len()]
        ),
    }
}

fn chat(target: &Target, nth: u32, answer_tokens: u32) -> Bytes {
    let body = serde_json::json!({
        "model": target.model,
        "messages": [{"role": "user", "content": question(nth)}],
        "temperature": 0,
        "max_tokens": answer_tokens,
        "logprobs": true,
        "top_logprobs": TOP_LOGPROBS,
    });
    Bytes::from(body.to_string())
}

fn embedding(target: &Target, nth: u32) -> Bytes {
    let body = serde_json::json!({"model": target.model, "input": question(nth)});
    Bytes::from(body.to_string())
}

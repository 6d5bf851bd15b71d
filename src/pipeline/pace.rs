//! How fast a kept reply is told again.

use std::time::Duration;

use domain::{ChatEvent, Reply, replay, replay_events};
use futures::{StreamExt, stream};
use tokio::time::sleep;

/// How a kept reply is streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// All there is, at once.
    #[default]
    Instant,
    /// Word by word, as a quick model would.
    Natural,
}

/// Between two words at the natural pace: 50 in a second, as fast as small models mostly are and faster
/// than anybody reads.
const WORD_EVERY: Duration = Duration::from_millis(20);

/// Words of one reply that are waited for; what follows comes at once. A minute of them.
const WORDS_MAX: usize = 3_000;

/// A kept reply as a stream.
pub(crate) fn told(reply: &Reply, pace: Pace) -> domain::ChatStream {
    match pace {
        Pace::Instant => replay(reply),
        Pace::Natural => {
            let events = replay_events(reply).into_iter().flat_map(word_by_word);
            let paced = events.enumerate().map(|(at, event)| {
                let waits = at > 0 && at < WORDS_MAX && event.is_content();
                (event, waits)
            });
            let events = stream::iter(paced).then(|(event, waits)| async move {
                if waits {
                    sleep(WORD_EVERY).await;
                }
                Ok(event)
            });
            events.boxed()
        }
    }
}

fn word_by_word(event: ChatEvent) -> Vec<ChatEvent> {
    match event {
        ChatEvent::Text { choice, text } => words(&text)
            .map(|text| ChatEvent::Text { choice, text })
            .collect(),
        ChatEvent::Thought { choice, text } => words(&text)
            .map(|text| ChatEvent::Thought { choice, text })
            .collect(),
        ChatEvent::Started(_)
        | ChatEvent::Seal { .. }
        | ChatEvent::ToolCall { .. }
        | ChatEvent::Logprobs { .. }
        | ChatEvent::StopString { .. }
        | ChatEvent::ChoiceEnded { .. }
        | ChatEvent::Usage(_)
        | ChatEvent::Written(_) => vec![event],
    }
}

/// Each with the white space that follows it.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_inclusive(char::is_whitespace).map(str::to_owned)
}

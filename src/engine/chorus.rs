//! Several choices, told as one reply.
//!
//! Each choice is a reply of its own to the engine's thread. Here their events come together, under
//! their index, in the order they are there, taking turns; `Started` passes once, and one `Usage` at
//! the end counts the prompt once and what was generated of all. An error of one is the end of all.

use std::pin::Pin;
use std::task::{Context, Poll};

use domain::{BackendError, ChatEvent, ChatStream, Tokens, Usage};
use futures::{Stream, StreamExt};

use crate::reply::ReplyStream;

/// More than one choice under way. Dropping it cancels all.
pub(crate) struct Chorus {
    /// By index; `None` for those that have ended.
    choices: Vec<Option<ReplyStream>>,
    /// Whose turn it is.
    next: usize,
    has_started: bool,
    usage: Option<Usage>,
    is_over: bool,
}

impl Chorus {
    /// The reply that `choices`, of which there is at least one, make up.
    pub(crate) fn of(mut choices: Vec<ReplyStream>) -> ChatStream {
        match choices.pop() {
            Some(only) if choices.is_empty() => only.boxed(),
            last => Chorus {
                choices: choices.into_iter().chain(last).map(Some).collect(),
                next: 0,
                has_started: false,
                usage: None,
                is_over: false,
            }
            .boxed(),
        }
    }

    /// The next event of one choice that is for the reader, if it is there.
    fn poll_choice(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ChatEvent, BackendError>> {
        while let Some(choice) = &mut self.choices[index] {
            match choice.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.choices[index] = None,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(ChatEvent::Usage(usage)))) => self.add(usage),
                Poll::Ready(Some(Ok(ChatEvent::Started(_)))) if self.has_started => {}
                Poll::Ready(Some(Ok(event))) => {
                    self.has_started = true;
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    return Poll::Ready(Ok(event.of_choice(index)));
                }
            }
        }
        Poll::Pending
    }

    fn add(&mut self, usage: Usage) {
        let Some(sum) = &mut self.usage else {
            self.usage = Some(usage);
            return;
        };
        let add = |one: &mut Tokens, other: Tokens| one.0 = one.0.saturating_add(other.0);
        add(&mut sum.completion_tokens, usage.completion_tokens);
        add(&mut sum.reasoning_tokens, usage.reasoning_tokens);
        add(
            &mut sum.accepted_prediction_tokens,
            usage.accepted_prediction_tokens,
        );
        add(&mut sum.dropped_tokens, usage.dropped_tokens);
        add(
            &mut sum.rejected_prediction_tokens,
            usage.rejected_prediction_tokens,
        );
        // What one choice shared of another's prompt had to be computed all the same.
        sum.cached_tokens.0 = sum.cached_tokens.0.min(usage.cached_tokens.0);
    }
}

impl Stream for Chorus {
    type Item = Result<ChatEvent, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let count = self.choices.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let Poll::Ready(event) = self.poll_choice(index, cx) else {
                continue;
            };
            self.next = index + 1;
            if event.is_err() {
                self.is_over = true;
                self.choices.clear();
            }
            return Poll::Ready(Some(event));
        }
        if self.choices.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        self.is_over = true;
        Poll::Ready(self.usage.map(|usage| Ok(ChatEvent::Usage(usage))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{FinishReason, Grammar, Started};
    use futures::executor::block_on;

    use super::*;
    use crate::reply::{Bell, ReplySender, reply};

    fn ends() -> (ReplySender, ReplyStream) {
        reply(16, Arc::new(Bell::default()), Arc::default())
    }

    fn say(sender: &ReplySender, events: &[ChatEvent]) {
        for event in events {
            sender.send(|| Some(event.clone()));
        }
    }

    fn started() -> ChatEvent {
        ChatEvent::Started(Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        })
    }

    fn text(choice: u32, text: &str) -> ChatEvent {
        ChatEvent::Text {
            choice,
            text: text.into(),
        }
    }

    fn ended(choice: u32) -> ChatEvent {
        ChatEvent::ChoiceEnded {
            choice,
            reason: FinishReason::Stop,
        }
    }

    fn usage(completion: u32, cached: u32, reasoning: u32) -> ChatEvent {
        ChatEvent::Usage(Usage {
            prompt_tokens: Tokens(10),
            completion_tokens: Tokens(completion),
            cached_tokens: Tokens(cached),
            reasoning_tokens: Tokens(reasoning),
            ..Usage::default()
        })
    }

    #[test]
    fn choices_take_turns_and_are_counted_together() {
        let ((one, first), (two, second)) = (ends(), ends());
        let chorus = Chorus::of(vec![first, second]);
        say(
            &one,
            &[
                started(),
                text(0, "a"),
                text(0, "b"),
                ended(0),
                usage(2, 3, 1),
            ],
        );
        one.end(None);
        say(&two, &[started(), text(0, "c"), ended(0), usage(1, 9, 0)]);
        two.end(None);
        let events: Vec<_> = block_on(chorus.map(Result::unwrap).collect());
        let mut grammar = Grammar::default();
        events.iter().for_each(|event| grammar.take(event).unwrap());
        grammar.finish().unwrap();
        let expected = [
            started(),
            text(1, "c"),
            text(0, "a"),
            ended(1),
            text(0, "b"),
            ended(0),
            usage(3, 3, 1),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn an_error_of_one_ends_and_cancels_all() {
        let ((one, first), (two, second)) = (ends(), ends());
        let mut chorus = Chorus::of(vec![first, second]);
        say(&one, &[started()]);
        two.end(Some(BackendError::Engine("e")));
        assert!(matches!(block_on(chorus.next()), Some(Ok(_))));
        let error = block_on(chorus.next());
        assert!(matches!(error, Some(Err(BackendError::Engine("e")))));
        assert!(one.is_cancelled());
        assert!(block_on(chorus.next()).is_none());
    }

    #[test]
    fn one_choice_goes_its_own_way() {
        let (sender, stream) = ends();
        say(&sender, &[started(), ended(0), usage(1, 0, 0)]);
        sender.end(None);
        let events: Vec<_> = block_on(Chorus::of(vec![stream]).collect());
        assert_eq!(events.len(), 3);
    }
}

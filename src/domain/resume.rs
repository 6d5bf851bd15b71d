//! Going on with an answer that broke off.

use crate::{ChatRequest, Message, Role};

/// How a backend goes on with an answer that another began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Not at all: a last message by the assistant is a turn of the past to it.
    #[default]
    Never,
    /// From the end of a last message by the assistant, as if it had written that itself.
    Exact,
    /// The same, but its answer begins with that message once more.
    Repeating,
    /// Only because a user's message asks for it, so it may repeat words, or join badly.
    Told,
}

/// Fields by which a caller says whether a last message by the assistant is continued, and whether the
/// answer repeats it: vLLM's, heeded by SGLang and our own engine too
/// (`vllm/entrypoints/openai/chat_completion/protocol.py`, read 2026-11).
const CALLERS_WORDS: [&str; 3] = ["continue_final_message", "add_generation_prompt", "echo"];

/// What [`Resume::Told`] says. Models follow plain orders best.
const ORDER: &str = "Your last message was cut off. Continue it from exactly where it stops, as if \
                     there had been no break: no introduction, no repetition, no comment.";

impl ChatRequest {
    /// The request that asks for the rest of an answer of which `said` is there; how, says `resume`.
    /// White space at the end of `said` has to be left out: some providers refuse it, and models go on
    /// worse after it. Empty, the answer begins anew.
    #[must_use]
    pub fn resumed_from(mut self, said: &str, resume: Resume) -> Self {
        self.source = None;
        for name in CALLERS_WORDS {
            self.extra.shift_remove(name);
        }
        if said.is_empty() {
            return self;
        }
        // Anthropic's page on extended thinking (read 2026-11): it is not compatible with a begun answer.
        self.reasoning = None;
        self.messages.push(Message::new(Role::Assistant, said));
        if resume == Resume::Told {
            self.messages.push(Message::new(Role::User, ORDER));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dialect, SourceBody};

    fn asked() -> ChatRequest {
        let mut request = ChatRequest::new("m", vec![Message::new(Role::User, "q")]);
        request.extra.insert("echo".into(), true.into());
        request.extra.insert("user".into(), "u".into());
        request.source = Some(SourceBody {
            dialect: Dialect::OpenAi,
            bytes: bytes::Bytes::new(),
        });
        request
    }

    fn roles(request: &ChatRequest) -> Vec<Role> {
        request.messages.iter().map(|it| it.role).collect()
    }

    #[test]
    fn what_was_said_is_the_last_message_and_nothing_else_says_how() {
        let resumed = asked().resumed_from("half an", Resume::Exact);
        assert_eq!(roles(&resumed), [Role::User, Role::Assistant]);
        assert_eq!(resumed.messages[1].text(), "half an");
        assert!(resumed.source.is_none(), "the received bytes lack it");
        let extra: Vec<&String> = resumed.extra.keys().collect();
        assert_eq!(extra, ["user"]);
    }

    #[test]
    fn nothing_said_is_asked_anew_and_the_told_are_told() {
        let anew = asked().resumed_from("", Resume::Told);
        assert_eq!(roles(&anew), [Role::User]);
        let told = asked().resumed_from("half an", Resume::Told);
        assert_eq!(roles(&told), [Role::User, Role::Assistant, Role::User]);
    }
}

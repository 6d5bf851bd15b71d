//! How a provider is told to go on with a last message by the assistant.

use domain::{ChatRequest, Dialect};

/// What a request says beside that message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResumeWords {
    /// Nothing: the message is enough. Anthropic's pages on prefilling, Groq's on assistant
    /// prefilling, llama-server's `--prefill-assistant` (each read 2026-11).
    #[default]
    None,
    /// vLLM's and SGLang's `continue_final_message` and `add_generation_prompt`
    /// (`ChatCompletionRequest` in each one's `protocol.py`, read 2026-11).
    FinalMessage,
    /// `prefix` within the message: Mistral's `AssistantMessage`, DeepSeek's guide "Chat Prefix
    /// Completion" (read 2026-11).
    Prefix,
}

/// `request`, whose last message is the assistant's, with `words`. These are chat completions' words, so
/// fields in another dialect's are left out with them, as they would be anyway.
#[must_use]
pub fn resuming(request: &ChatRequest, words: ResumeWords) -> ChatRequest {
    let mut request = request.clone();
    if words != ResumeWords::None && request.dialect != Dialect::OpenAi {
        request.extra.clear();
        request.messages.iter_mut().for_each(|it| it.extra.clear());
        request.tools.iter_mut().for_each(|it| it.extra.clear());
        request.dialect = Dialect::OpenAi;
    }
    match words {
        ResumeWords::None => {}
        ResumeWords::FinalMessage => {
            let fields = &mut request.extra;
            fields.insert("continue_final_message".into(), true.into());
            fields.insert("add_generation_prompt".into(), false.into());
        }
        ResumeWords::Prefix => {
            if let Some(last) = request.messages.last_mut() {
                last.extra.insert("prefix".into(), true.into());
            }
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use domain::{Message, Role};
    use serde_json::{Value, json};

    use super::*;
    use crate::openai::encode_request;

    fn body(words: ResumeWords, dialect: Dialect) -> Value {
        let mut request = ChatRequest::new(
            "m",
            vec![
                Message::new(Role::User, "q"),
                Message::new(Role::Assistant, "half an"),
            ],
        );
        request.dialect = dialect;
        request.extra.insert("user".into(), "u".into());
        serde_json::from_slice(&encode_request("m", &resuming(&request, words))).unwrap()
    }

    #[test]
    fn each_provider_reads_its_own_words() {
        let plain = body(ResumeWords::None, Dialect::OpenAi);
        let last = json!({"role": "assistant", "content": "half an"});
        assert_eq!(plain["messages"][1], last);
        assert_eq!(plain["user"], "u");

        let vllm = body(ResumeWords::FinalMessage, Dialect::OpenAi);
        assert_eq!(vllm["continue_final_message"], true);
        assert_eq!(vllm["add_generation_prompt"], false);
        assert_eq!((&vllm["messages"][1], &vllm["user"]), (&last, &json!("u")));

        let mistral = body(ResumeWords::Prefix, Dialect::OpenAi);
        assert_eq!(mistral["messages"][1]["prefix"], true);
        assert_eq!(mistral["messages"][0]["prefix"], Value::Null);
    }

    #[test]
    fn a_request_of_another_dialect_has_them_too() {
        let vllm = body(ResumeWords::FinalMessage, Dialect::Anthropic);
        assert_eq!(vllm["continue_final_message"], true);
        assert_eq!(vllm["user"], Value::Null);
        let prefix = body(ResumeWords::Prefix, Dialect::Anthropic);
        assert_eq!(prefix["messages"][1]["prefix"], true);
    }
}

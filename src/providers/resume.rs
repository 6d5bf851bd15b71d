//! How an upstream goes on with an answer that broke off, as it is configured.

use domain::Resume;
use wire::openai::ResumeWords;

/// Whether and how an upstream continues a last message by the assistant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Continues {
    /// It begins an answer of its own, as OpenAI's models do.
    #[default]
    Never,
    /// It continues every such message: Anthropic's older models, Groq, llama-server.
    Message,
    /// vLLM's and SGLang's fields ask for it.
    FinalMessage,
    /// The message's `prefix` asks for it: DeepSeek's beta.
    Prefix,
    /// The same, and the answer begins with the message again: Mistral.
    PrefixRepeated,
    /// It is asked to in plain words, and mostly does.
    Told,
}

impl Continues {
    pub const ALL: [Continues; 6] = [
        Continues::Never,
        Continues::Message,
        Continues::FinalMessage,
        Continues::Prefix,
        Continues::PrefixRepeated,
        Continues::Told,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Continues::Never => "never",
            Continues::Message => "message",
            Continues::FinalMessage => "final-message",
            Continues::Prefix => "prefix",
            Continues::PrefixRepeated => "prefix-repeated",
            Continues::Told => "told",
        }
    }

    pub(crate) fn resume(self) -> Resume {
        match self {
            Continues::Never => Resume::Never,
            Continues::Message | Continues::FinalMessage | Continues::Prefix => Resume::Exact,
            Continues::PrefixRepeated => Resume::Repeating,
            Continues::Told => Resume::Told,
        }
    }

    pub(crate) fn words(self) -> ResumeWords {
        match self {
            Continues::Never | Continues::Message | Continues::Told => ResumeWords::None,
            Continues::FinalMessage => ResumeWords::FinalMessage,
            Continues::Prefix | Continues::PrefixRepeated => ResumeWords::Prefix,
        }
    }
}

//! How much a model of OpenAI's may be told to think.
//!
//! Callers of OpenAI's own dialects know their model, and what they say goes out as it is. In other dialects
//! it is harmless to ask any model for no thoughts, or for many; here it is a request that is refused.

use std::ops::RangeInclusive;

use domain::{ChatRequest, Dialect, Effort, Reasoning, Tokens};

/// The effort, or the one that stands for a bound on thoughts.
fn effort(reasoning: Reasoning) -> Option<Effort> {
    let by_bound = |tokens: Tokens| match tokens.0 {
        0 => Effort::None,
        1..=1_024 => Effort::Low,
        1_025..=8_192 => Effort::Medium,
        _ => Effort::High,
    };
    reasoning.effort.or(reasoning.tokens_max.map(by_bound))
}

/// What `model` is told: the nearest that it takes to what was asked for.
pub(crate) fn effort_for(model: &str, request: &ChatRequest) -> Option<Effort> {
    let asked = effort(request.reasoning?)?;
    if is_openais(request.dialect) {
        return Some(asked);
    }
    match Thinking::of(model) {
        Thinking::Unknown => Some(asked),
        Thinking::Never => None,
        Thinking::Within(efforts) => Some(asked.clamp(*efforts.start(), *efforts.end())),
    }
}

/// True where a word about thoughts, be it that there are to be none, is refused.
pub(crate) fn refuses_to_think(model: &str, request: &ChatRequest) -> bool {
    !is_openais(request.dialect) && Thinking::of(model) == Thinking::Never
}

/// Whether `model` takes another dialect's temperature and what is like it. While they think, OpenAI's own
/// do not ("Only the default (1) value is supported").
pub(crate) fn draws_as_told(model: &str, request: &ChatRequest) -> bool {
    if is_openais(request.dialect) || model.contains("gpt-oss") {
        return true;
    }
    match Thinking::of(model) {
        Thinking::Unknown | Thinking::Never => true,
        Thinking::Within(efforts) => {
            let told = effort_for(model, request).unwrap_or(Effort::None);
            *efforts.start() == Effort::None && told == Effort::None
        }
    }
}

fn is_openais(dialect: Dialect) -> bool {
    match dialect {
        Dialect::OpenAi | Dialect::Completions | Dialect::Responses => true,
        Dialect::Anthropic | Dialect::Gemini | Dialect::Bedrock | Dialect::Ollama => false,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Thinking {
    /// Not a name of OpenAI's.
    Unknown,
    Never,
    Within(RangeInclusive<Effort>),
}

impl Thinking {
    /// By OpenAI's page "Reasoning models" and those of the models, as known to us in 2026-11. Brokers put the
    /// maker before the name.
    fn of(model: &str) -> Self {
        let name = model.rsplit('/').next().unwrap_or(model);
        let name = name.to_ascii_lowercase();
        if name.starts_with("gpt-oss") {
            return Self::Within(Effort::Low..=Effort::High);
        }
        if let Some(version) = name.strip_prefix("gpt-5") {
            return Self::of_five(version);
        }
        if ["gpt-3", "gpt-4", "chatgpt-", "o1-mini", "o1-preview"]
            .iter()
            .any(|it| name.starts_with(it))
        {
            return Self::Never;
        }
        let series = name.strip_prefix('o').unwrap_or_default();
        let (number, rest) = series.split_at(series.len().min(1));
        let is_series = number.bytes().all(|it| it.is_ascii_digit())
            && !number.is_empty()
            && (rest.is_empty() || rest.starts_with('-'));
        match is_series {
            true => Self::Within(Effort::Low..=Effort::High),
            false => Self::Unknown,
        }
    }

    /// `version` is what follows `gpt-5`: `-mini`, or `.1-codex`.
    fn of_five(version: &str) -> Self {
        let is_first = !version.starts_with('.');
        let is = |word: &str| version.split('-').any(|it| it == word);
        let most = match version.get(..2) {
            _ if is_first => Effort::High,
            Some(".1") if !is("max") => Effort::High,
            _ => Effort::XHigh,
        };
        let least = match () {
            () if is("chat") => return Self::Never,
            () if is("pro") && is_first => Effort::High,
            () if is("pro") => Effort::Medium,
            () if is("codex") => Effort::Low,
            () if is_first => Effort::Minimal,
            () => Effort::None,
        };
        Self::Within(least..=most)
    }
}

#[cfg(test)]
mod tests {
    use domain::{Message, Role};

    use super::*;

    fn told(model: &str, dialect: Dialect, asked: Effort) -> Option<Effort> {
        let request = ChatRequest {
            dialect,
            reasoning: Some(Reasoning {
                effort: Some(asked),
                ..Reasoning::default()
            }),
            ..ChatRequest::new("m", vec![Message::new(Role::User, "hi")])
        };
        effort_for(model, &request)
    }

    #[test]
    fn a_model_is_told_what_it_takes() {
        for (model, none, most) in [
            ("gpt-4o", None, None),
            ("openai/gpt-4.1-mini", None, None),
            ("gpt-3.5-turbo", None, None),
            ("chatgpt-4o-latest", None, None),
            ("gpt-5-chat-latest", None, None),
            ("gpt-5.2-chat-latest", None, None),
            ("o1-mini", None, None),
            ("o1", Some(Effort::Low), Some(Effort::High)),
            ("o4-mini-2025-04-16", Some(Effort::Low), Some(Effort::High)),
            ("openai/gpt-oss-120b", Some(Effort::Low), Some(Effort::High)),
            ("gpt-5", Some(Effort::Minimal), Some(Effort::High)),
            (
                "GPT-5-mini-2025-08-07",
                Some(Effort::Minimal),
                Some(Effort::High),
            ),
            ("gpt-5-codex", Some(Effort::Low), Some(Effort::High)),
            ("gpt-5-pro", Some(Effort::High), Some(Effort::High)),
            ("gpt-5.1", Some(Effort::None), Some(Effort::High)),
            ("gpt-5.1-codex-max", Some(Effort::Low), Some(Effort::XHigh)),
            ("gpt-5.2", Some(Effort::None), Some(Effort::XHigh)),
            ("gpt-5.2-pro", Some(Effort::Medium), Some(Effort::XHigh)),
            ("qwen3:8b", Some(Effort::None), Some(Effort::XHigh)),
            ("olmo-3", Some(Effort::None), Some(Effort::XHigh)),
            ("o", Some(Effort::None), Some(Effort::XHigh)),
            ("", Some(Effort::None), Some(Effort::XHigh)),
        ] {
            for dialect in [Dialect::Anthropic, Dialect::Ollama, Dialect::Gemini] {
                assert_eq!(told(model, dialect, Effort::None), none, "{model}");
                assert_eq!(told(model, dialect, Effort::XHigh), most, "{model}");
            }
        }
    }

    #[test]
    fn a_model_that_thinks_is_not_told_how_to_draw() {
        let request = |dialect, asked| ChatRequest {
            dialect,
            reasoning: Some(Reasoning {
                effort: asked,
                ..Reasoning::default()
            }),
            ..ChatRequest::new("m", vec![Message::new(Role::User, "hi")])
        };
        for (model, quiet, thinking) in [
            ("gpt-4o", true, true),
            ("gpt-5-chat-latest", true, true),
            ("openai/gpt-oss-20b", true, true),
            ("qwen3", true, true),
            ("o3-mini", false, false),
            ("gpt-5-nano", false, false),
            ("gpt-5.1-codex", false, false),
            ("gpt-5.1", true, false),
        ] {
            let draws = |asked| draws_as_told(model, &request(Dialect::Ollama, asked));
            assert_eq!((draws(None), draws(Some(Effort::None))), (quiet, quiet));
            assert_eq!(draws(Some(Effort::High)), thinking, "{model}");
            let own = request(Dialect::OpenAi, Some(Effort::High));
            assert!(draws_as_told(model, &own));
        }
    }

    #[test]
    fn who_speaks_openais_words_is_taken_at_them() {
        for dialect in [Dialect::OpenAi, Dialect::Completions, Dialect::Responses] {
            for asked in Effort::ALL {
                assert_eq!(told("gpt-4o", dialect, asked), Some(asked));
                assert_eq!(told("o3", dialect, asked), Some(asked));
            }
        }
    }
}

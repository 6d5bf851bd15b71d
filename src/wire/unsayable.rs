//! What a request says that some dialects have no word for, found before it is written.

use domain::{Ability, BackendError, ChatRequest, Dialect, OpenSampling, OutputFormat, Part};
use serde_json::{Map, Value};

/// Tools of its dialect's providers stay with `own`: others do not have them.
///
/// # Errors
/// [`BackendError::Declined`] with the tool's path.
pub(crate) fn refuse_bound(request: &ChatRequest, own: Dialect) -> Result<(), BackendError> {
    match &request.bound_by {
        Some(place) if request.dialect != own => Err(BackendError::declined(
            place,
            "only the providers of this API have it, and the chosen model's is none of them; leave it \
             out or name another model",
        )),
        Some(_) | None => Ok(()),
    }
}

/// As [`refuse_bound`], and content parts that nobody here interprets: they have no meaning elsewhere.
///
/// # Errors
/// [`BackendError::Declined`] with the path of the part or tool.
pub(crate) fn refuse_foreign_parts(
    request: &ChatRequest,
    own: Dialect,
) -> Result<(), BackendError> {
    if request.dialect == own {
        return Ok(());
    }
    refuse_bound(request, own)?;
    for (at, message) in request.messages.iter().enumerate() {
        let other = message
            .content
            .iter()
            .position(|part| matches!(part, Part::Other(_)));
        if let Some(part) = other {
            return Err(BackendError::declined(
                format!("messages[{at}].content[{part}]"),
                "the chosen model's provider does not take content parts of this type",
            ));
        }
    }
    Ok(())
}

/// Settings that the APIs of closed models lack. Ollama's clients write some with every request, as its server
/// has defaults for them; to others those are hints.
///
/// # Errors
/// [`BackendError::Declined`] with the first such field, or [`BackendError::Unable`].
pub(crate) fn refuse_open_sampling(request: &ChatRequest) -> Result<(), BackendError> {
    if request.dialect == Dialect::Ollama {
        return Ok(());
    }
    let sampling = &request.sampling;
    if !sampling.logit_bias.is_empty() {
        return Err(BackendError::Unable(Ability::LogitBias));
    }
    let OpenSampling {
        typical_p,
        top_n_sigma,
        repeats,
        dry,
        xtc,
        mirostat,
        stop_tokens,
        ignores_end,
    } = &sampling.open;
    let set = [
        ("min_p", sampling.min_p.is_some_and(|min_p| min_p > 0.0)),
        ("typical_p", typical_p.is_some()),
        ("top_n_sigma", top_n_sigma.is_some()),
        ("repeat_penalty", repeats.is_some()),
        ("dry_multiplier", dry.is_some()),
        ("xtc_probability", xtc.is_some()),
        ("mirostat", mirostat.is_some()),
        ("stop_token_ids", !stop_tokens.is_empty()),
        ("ignore_eos", *ignores_end),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((name, _)) => Err(BackendError::declined(
            name,
            "the chosen model's provider has no such setting; leave it out or name another model",
        )),
    }
}

/// A regular expression or a grammar; a choice of texts is for the dialect to judge.
///
/// # Errors
/// [`BackendError::Unable`].
pub(crate) fn refuse_grammars(format: &OutputFormat) -> Result<(), BackendError> {
    match format {
        OutputFormat::Regex(_) | OutputFormat::Grammar(_) => {
            Err(BackendError::Unable(Ability::Constraints))
        }
        OutputFormat::Text
        | OutputFormat::JsonObject
        | OutputFormat::JsonSchema(_)
        | OutputFormat::Choice(_) => Ok(()),
    }
}

/// A call's arguments as the object that dialects other than OpenAI's want; `None` for text that is
/// none. No text at all is an empty one.
pub(crate) fn arguments(text: &str) -> Option<Map<String, Value>> {
    if text.trim().is_empty() {
        return Some(Map::new());
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use domain::{Message, Mirostat, MirostatVersion, RepeatPenalty, Role};
    use serde_json::json;

    use super::*;

    fn request() -> ChatRequest {
        ChatRequest::new("m", vec![Message::new(Role::User, "hi")])
    }

    fn param(error: &BackendError) -> Option<&str> {
        match error {
            BackendError::Declined { reason } => reason.param.as_deref(),
            _ => None,
        }
    }

    #[test]
    fn a_part_of_another_dialect_is_declined_where_it_stands() {
        let mut request = request();
        let part = Part::Other(json!({"type": "x"}));
        request.messages[0].content.push(part);
        refuse_foreign_parts(&request, Dialect::OpenAi).unwrap();
        let error = refuse_foreign_parts(&request, Dialect::Gemini).unwrap_err();
        assert_eq!(param(&error), Some("messages[0].content[1]"));
    }

    #[test]
    fn what_only_its_own_providers_have_is_declined_by_others() {
        let mut request = request();
        request.bound_by = Some("tools[1].googleSearch".into());
        request.dialect = Dialect::Gemini;
        refuse_foreign_parts(&request, Dialect::Gemini).unwrap();
        for own in Dialect::ALL
            .into_iter()
            .filter(|own| *own != Dialect::Gemini)
        {
            let error = refuse_foreign_parts(&request, own).unwrap_err();
            assert_eq!(param(&error), Some("tools[1].googleSearch"));
        }
    }

    #[test]
    fn arguments_are_an_object_or_nothing() {
        assert_eq!(arguments(" "), Some(Map::new()));
        assert_eq!(
            arguments(r#"{"a":1}"#),
            json!({"a": 1}).as_object().cloned()
        );
        for text in ["{", "[]", "null", "7"] {
            assert_eq!(arguments(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_setting_that_cannot_be_said_is_named() {
        type Change = fn(&mut ChatRequest);
        let set: [(&str, Change); 9] = [
            ("min_p", |it| it.sampling.min_p = Some(0.1)),
            ("typical_p", |it| it.sampling.open.typical_p = Some(0.5)),
            ("top_n_sigma", |it| it.sampling.open.top_n_sigma = Some(1.0)),
            ("repeat_penalty", |it| {
                it.sampling.open.repeats = Some(RepeatPenalty {
                    penalty: 1.1,
                    tokens_max: None,
                });
            }),
            ("dry_multiplier", |it| {
                it.sampling.open.dry = Some(domain::Dry {
                    multiplier: 1.0,
                    base: 1.75,
                    allowed: 2,
                    tokens_max: None,
                    breakers: Vec::new(),
                });
            }),
            ("xtc_probability", |it| {
                it.sampling.open.xtc = Some(domain::Xtc {
                    probability: 0.5,
                    threshold: 0.1,
                });
            }),
            ("mirostat", |it| {
                it.sampling.open.mirostat = Some(Mirostat {
                    version: MirostatVersion::Two,
                    tau: 5.0,
                    eta: 0.1,
                });
            }),
            ("stop_token_ids", |it| {
                it.sampling.open.stop_tokens = vec![1]
            }),
            ("ignore_eos", |it| it.sampling.open.ignores_end = true),
        ];
        refuse_open_sampling(&request()).unwrap();
        for (name, set) in set {
            let mut request = request();
            set(&mut request);
            request.dialect = Dialect::Ollama;
            refuse_open_sampling(&request).unwrap();
            request.dialect = Dialect::OpenAi;
            let error = refuse_open_sampling(&request).unwrap_err();
            assert_eq!(param(&error), Some(name));
        }
        let mut biased = request();
        biased.sampling.logit_bias = vec![(1, 1.0)];
        let error = refuse_open_sampling(&biased).unwrap_err();
        assert!(matches!(error, BackendError::Unable(Ability::LogitBias)));
    }
}

//! `generationConfig`, written from `domain`.

use domain::{BackendError, ChatRequest, Effort, OutputFormat, Reasoning, Sampling};
use serde_json::{Map, Value, json};

use super::decode_config::CHOICES_MAX;
use crate::numbers::shortest;

pub(super) fn config_body(
    model: &str,
    request: &ChatRequest,
) -> Result<Map<String, Value>, BackendError> {
    let mut config = Map::new();
    add_sampling(&mut config, &request.sampling)?;
    let bound = request.output_tokens_max;
    config.extend(bound.map(|bound| ("maxOutputTokens".into(), bound.0.into())));
    if request.choices > CHOICES_MAX {
        return Err(BackendError::declined(
            "n",
            format!("the chosen model writes at most {CHOICES_MAX} choices at once"),
        ));
    }
    if request.choices != 1 {
        config.insert("candidateCount".into(), request.choices.into());
    }
    match &request.format {
        OutputFormat::Text | OutputFormat::Regex(_) | OutputFormat::Grammar(_) => {}
        OutputFormat::JsonObject => {
            config.insert("responseMimeType".into(), "application/json".into());
        }
        OutputFormat::JsonSchema(schema) => {
            config.insert("responseMimeType".into(), "application/json".into());
            let schema = schema.get("schema").cloned();
            config.extend(schema.map(|schema| ("responseJsonSchema".into(), schema)));
        }
        OutputFormat::Choice(texts) => {
            config.insert("responseMimeType".into(), "text/x.enum".into());
            let schema = json!({"type": "STRING", "enum": texts});
            config.insert("responseSchema".into(), schema);
        }
    }
    if let Some(reasoning) = request.reasoning {
        let thinking = thinking_body(model, reasoning);
        if !thinking.is_empty() {
            config.insert("thinkingConfig".into(), thinking.into());
        }
    }
    Ok(config)
}

fn add_sampling(config: &mut Map<String, Value>, sampling: &Sampling) -> Result<(), BackendError> {
    let decimals = [
        ("temperature", sampling.temperature),
        ("topP", sampling.top_p),
        ("presencePenalty", sampling.presence_penalty),
        ("frequencyPenalty", sampling.frequency_penalty),
    ];
    for (name, value) in decimals {
        config.extend(value.map(|value| (name.to_owned(), shortest(value))));
    }
    // 0 is all tokens, as without a word.
    let top_k = sampling.top_k.filter(|top_k| *top_k > 0);
    config.extend(top_k.map(|top_k| ("topK".into(), top_k.into())));
    if !sampling.stop.is_empty() {
        config.insert("stopSequences".into(), sampling.stop.clone().into());
    }
    if let Some(seed) = sampling.seed {
        if i32::try_from(seed).is_err() {
            return Err(BackendError::declined(
                "seed",
                "the chosen model takes only seeds of 32 bits, with a sign",
            ));
        }
        config.insert("seed".into(), seed.into());
    }
    if let Some(best) = sampling.logprobs {
        config.insert("responseLogprobs".into(), true.into());
        if best > 0 {
            config.insert("logprobs".into(), best.into());
        }
    }
    Ok(())
}

/// Models up to 2.5 take a budget, later ones a level; those that cannot do without thoughts think
/// as little as they can. The budgets are those of Google's own table ("OpenAI compatibility",
/// "Thinking", read 2026-11).
fn thinking_body(model: &str, reasoning: Reasoning) -> Map<String, Value> {
    let mut thinking = Map::new();
    let name = model.strip_prefix("models/").unwrap_or(model);
    let takes_budgets = name.starts_with("gemini-2");
    if let Some(budget) = reasoning.tokens_max {
        thinking.insert("thinkingBudget".into(), budget.0.into());
    } else if let Some(effort) = reasoning.effort {
        let (budget, level) = match effort {
            Effort::None => (0, "MINIMAL"),
            Effort::Minimal => (1_024, "MINIMAL"),
            Effort::Low => (1_024, "LOW"),
            Effort::Medium => (8_192, "MEDIUM"),
            Effort::High | Effort::XHigh => (24_576, "HIGH"),
        };
        if takes_budgets {
            thinking.insert("thinkingBudget".into(), budget.into());
        } else {
            thinking.insert("thinkingLevel".into(), level.into());
        }
    }
    let is_shown = reasoning.is_shown;
    thinking.extend(is_shown.map(|is_shown| ("includeThoughts".into(), is_shown.into())));
    thinking
}

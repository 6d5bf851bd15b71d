//! `generationConfig`, written from `domain`.

use domain::{
    BackendError, ChatRequest, Dialect, Effort, OutputFormat, Reasoning, Sampling, Tokens,
};
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
        let thinking = match request.dialect == Dialect::Gemini {
            true => as_said(model, reasoning),
            false => thinking_body(model, reasoning),
        };
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

/// What another dialect's caller wants, in the words that the model knows: one that it does not know, or
/// that it cannot follow, is a refusal. Models of 2.5 take a budget, later ones a level; those that cannot
/// do without thoughts think as little as they can, and those that do not think are told nothing. The
/// budgets are those of Google's own table ("OpenAI compatibility", "Thinking", read 2026-11).
fn thinking_body(model: &str, reasoning: Reasoning) -> Map<String, Value> {
    let mut thinking = Map::new();
    // No budget is no wish to think.
    let budget = reasoning.tokens_max.filter(|budget| *budget > Tokens(0));
    let effort = match reasoning.tokens_max {
        Some(_) => Some(Effort::None),
        None => reasoning.effort,
    };
    match Knob::of(model) {
        Knob::None => return thinking,
        Knob::Budget { least, most } => {
            let budget = budget.map(|it| it.0).or(effort.map(budget_of));
            let budget = budget.map(|it| it.clamp(least, most));
            thinking.extend(budget.map(|it| ("thinkingBudget".into(), it.into())));
        }
        // They take budgets too.
        Knob::Level { .. } if let Some(budget) = budget => {
            thinking.insert("thinkingBudget".into(), budget.0.into());
        }
        Knob::Level { least, has_medium } => {
            let level = effort.map(|effort| match effort.max(least) {
                Effort::Medium if !has_medium => Effort::High,
                effort => effort,
            });
            thinking.extend(level.map(|it| ("thinkingLevel".into(), level_of(it).into())));
        }
    }
    add_showing(&mut thinking, reasoning);
    thinking
}

/// What a caller of this dialect said.
fn as_said(model: &str, reasoning: Reasoning) -> Map<String, Value> {
    let mut thinking = Map::new();
    if let Some(budget) = reasoning.tokens_max {
        thinking.insert("thinkingBudget".into(), budget.0.into());
    } else if let Some(effort) = reasoning.effort {
        match Knob::of(model) {
            Knob::Budget { .. } => {
                thinking.insert("thinkingBudget".into(), budget_of(effort).into())
            }
            Knob::None | Knob::Level { .. } => {
                thinking.insert("thinkingLevel".into(), level_of(effort).into())
            }
        };
    }
    add_showing(&mut thinking, reasoning);
    thinking
}

fn add_showing(thinking: &mut Map<String, Value>, reasoning: Reasoning) {
    let is_shown = reasoning.is_shown;
    thinking.extend(is_shown.map(|is_shown| ("includeThoughts".into(), is_shown.into())));
}

/// How a model is told to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knob {
    /// It does not think.
    None,
    Budget {
        least: u32,
        most: u32,
    },
    Level {
        least: Effort,
        has_medium: bool,
    },
}

impl Knob {
    /// By its name (guide "Thinking", and what the models themselves answer, as known in 2026-11).
    fn of(model: &str) -> Self {
        let name = model.rsplit('/').next().unwrap_or(model);
        let is = |beginning: &str| name.starts_with(beginning);
        if ["gemini-1", "gemini-2.0", "gemma"].into_iter().any(is) {
            return Knob::None;
        }
        if is("gemini-2") {
            let (least, most) = match is("gemini-2.5-pro") {
                true => (128, 32_768),
                false => (0, 24_576),
            };
            return Knob::Budget { least, most };
        }
        // Pro never had MINIMAL, and Flash has none from 3.7 on.
        let brief = [
            "gemini-3-flash",
            "gemini-3.1-flash",
            "gemini-3.5-flash",
            "gemini-3.6-flash",
        ];
        Knob::Level {
            least: match brief.into_iter().any(is) {
                true => Effort::Minimal,
                false => Effort::Low,
            },
            has_medium: !is("gemini-3-pro"),
        }
    }
}

fn budget_of(effort: Effort) -> u32 {
    match effort {
        Effort::None => 0,
        Effort::Minimal | Effort::Low => 1_024,
        Effort::Medium => 8_192,
        Effort::High | Effort::XHigh => 24_576,
    }
}

fn level_of(effort: Effort) -> &'static str {
    match effort {
        Effort::None | Effort::Minimal => "MINIMAL",
        Effort::Low => "LOW",
        Effort::Medium => "MEDIUM",
        Effort::High | Effort::XHigh => "HIGH",
    }
}

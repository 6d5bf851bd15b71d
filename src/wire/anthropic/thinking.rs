//! How another dialect's reasoning is asked for in this one and of Bedrock's Claude, as a client.
//!
//! Claude models before 3.7 do not think; those before 4.6 take a budget of tokens; those from 4.6 on
//! decide for themselves, and are told an effort; from 4.7 on they refuse a budget (guides "Extended
//! thinking", "Adaptive thinking" and "Effort", read 2026-11). Models of other makers behind this
//! dialect take the budget's form.
//!
//! | effort | budget, tokens | effort of `output_config` |
//! | --- | --- | --- |
//! | none | `disabled`; nothing for Claude, which thinks unasked from 5 on | `low` from 5 on, else nothing |
//! | minimal, low | 1,024 | `low` |
//! | medium | 8,192 | `medium` |
//! | high | 24,576 | `high` |
//! | xhigh | 32,768 | `xhigh`; `high` for 4.6, which has no such word |
//! | not said, and thoughts are to be shown | 8,192 | nothing; thinking is on |
//!
//! A budget becomes the effort of the first row that has as much.

use domain::{ChatRequest, Effort, Reasoning, Sampling, Tokens, ToolChoice};
use serde_json::{Map, Value, json};

use super::decode_settings::BUDGET_TOKENS_MIN;

/// What a model takes, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knob {
    /// Not Claude's: `disabled` or a budget.
    Other,
    /// Claude before 3.7.
    Never,
    /// Claude before 4.6.
    Budget,
    /// Claude 4.6 and later of 4.
    Adaptive { most: Effort },
    /// Claude 5 and later.
    AlwaysAdaptive,
}

impl Knob {
    /// Claude from 4.7 on.
    fn draws_as_it_will(self) -> bool {
        match self {
            Knob::Adaptive { most } => most == Effort::XHigh,
            Knob::AlwaysAdaptive => true,
            Knob::Other | Knob::Never | Knob::Budget => false,
        }
    }

    /// `claude-sonnet-4-6`, `anthropic.claude-opus-4-20250514-v1:0`, `claude-3-7-sonnet-latest`.
    fn of(model: &str) -> Self {
        let lower = model.to_ascii_lowercase();
        let Some((_, name)) = lower.split_once("claude") else {
            return Knob::Other;
        };
        let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        // A date is no version.
        let number = |word: &&str| word.parse().ok().filter(|_| word.len() <= 2);
        let at = words.iter().position(|word| number(word).is_some());
        let major: u32 = at.and_then(|at| number(&words[at])).unwrap_or(0);
        let minor = at.and_then(|at| words.get(at + 1).and_then(number));
        match (major, minor.unwrap_or(0)) {
            // A name without a version stands for the newest.
            (0, _) | (5.., _) => Knob::AlwaysAdaptive,
            (4, 7..) => Knob::Adaptive {
                most: Effort::XHigh,
            },
            // "`xhigh` requires Opus 4.7+" (anthropics/claude-code#92387).
            (4, 6) => Knob::Adaptive { most: Effort::High },
            (4, _) | (3, 7..) => Knob::Budget,
            (1..=3, _) => Knob::Never,
        }
    }
}

fn budget_of(effort: Effort) -> u32 {
    match effort {
        Effort::None => 0,
        Effort::Minimal | Effort::Low => BUDGET_TOKENS_MIN,
        Effort::Medium => 8_192,
        Effort::High => 24_576,
        Effort::XHigh => 32_768,
    }
}

fn effort_of(budget: Tokens) -> Effort {
    let enough = |effort: &Effort| budget_of(*effort) >= budget.0;
    let efforts = [Effort::None, Effort::Low, Effort::Medium, Effort::High];
    let first = efforts.into_iter().find(enough);
    first.unwrap_or(Effort::XHigh)
}

fn word_of(effort: Effort) -> &'static str {
    match effort {
        Effort::None | Effort::Minimal | Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
        Effort::XHigh => "xhigh",
    }
}

/// What stands in the body for `reasoning`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Thinking {
    pub thinking: Option<Value>,
    /// Of `output_config`.
    pub effort: Option<&'static str>,
    /// Of the reply's tokens, those that thoughts may take.
    pub budget: u32,
}

/// A block of a message as it is written, as far as thoughts depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// With its maker's word for it.
    Thought,
    Call,
    Other,
}

/// What stands in the body for the thoughts that `request`, of another dialect, asks for. `messages`
/// are written already, and `block` knows their blocks.
pub(crate) fn thinking_for(
    model: &str,
    request: &ChatRequest,
    messages: &[Value],
    block: fn(&Value) -> Block,
) -> Thinking {
    let knob = Knob::of(model);
    let drawing = drawing_for(model, &request.sampling);
    let may_think =
        leaves_room(knob, drawing, request) && (knob != Knob::Budget || may_begin(messages, block));
    match request.reasoning {
        Some(reasoning) if may_think => thinking(model, reasoning, request.output_tokens_max),
        Some(_) | None => Thinking::default(),
    }
}

/// How tokens are drawn, as far as a model of Claude's takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Drawing {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
}

impl Drawing {
    pub(crate) fn as_said(sampling: &Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            // 0 stands for all tokens.
            top_k: sampling.top_k.filter(|top_k| *top_k > 0),
        }
    }
}

/// What `model` is told of another dialect's wishes. Claude from 4.7 on draws as it will and refuses to be told
/// ("`temperature` is deprecated for this model", guide "What's new in Claude 4.7", read 2026-12). From 4.1
/// on it takes a temperature or a `top_p` ("cannot both be specified"), of which the first says more.
pub(crate) fn drawing_for(model: &str, sampling: &Sampling) -> Drawing {
    let said = Drawing::as_said(sampling);
    match Knob::of(model) {
        Knob::Other => said,
        knob if knob.draws_as_it_will() => Drawing::default(),
        _ => Drawing {
            // One of 1 says nothing.
            top_p: said
                .top_p
                .filter(|top_p| *top_p < 1.0 && said.temperature.is_none()),
            ..said
        },
    }
}

/// Whether thinking may be asked for beside the request's other wishes (guide "Extended thinking",
/// read 2026-11): it goes with no other temperature than 1, no `top_k`, no forced tool and, for Claude,
/// no `top_p` below 0.95.
fn leaves_room(knob: Knob, drawing: Drawing, request: &ChatRequest) -> bool {
    let forces_tool = match request.tool_choice {
        ToolChoice::Required | ToolChoice::Named(_) => true,
        ToolChoice::Auto | ToolChoice::None => false,
    };
    let is_heated = drawing.temperature.is_some_and(|heat| heat < 1.0);
    let is_cut = drawing.top_k.is_some();
    let is_narrow = knob != Knob::Other && drawing.top_p.is_some_and(|top_p| top_p < 0.95);
    !(forces_tool || is_heated || is_cut || is_narrow)
}

/// Whether a budget may stand beside these messages. Calls and their results are one turn with the
/// reply that follows, and that turn has to begin with a signed thought: "Expected `thinking` or
/// `redacted_thinking`, but found `tool_use`" (deepset-ai/haystack-core-integrations#2146). Dialects
/// without a place for signatures lose it. Nor does a budget go with a reply that is begun (guide
/// "Extended thinking"). Adaptive thinking asks for neither.
fn may_begin(messages: &[Value], block: fn(&Value) -> Block) -> bool {
    let is_assistants = |message: &Value| message["role"] == "assistant";
    if messages.last().is_some_and(is_assistants) {
        return false;
    }
    let said = messages.iter().rev().filter(|it| is_assistants(it));
    let blocks = said.map(|message| message["content"].as_array().map_or(&[][..], Vec::as_slice));
    let is_call = |it: &Value| block(it) == Block::Call;
    let mut turn = blocks.take_while(|blocks| blocks.iter().any(is_call));
    turn.all(|blocks| blocks.first().map(block) == Some(Block::Thought))
}

/// `reply_max`: what the caller leaves thoughts and text together; a budget has to be less.
fn thinking(model: &str, reasoning: Reasoning, reply_max: Option<Tokens>) -> Thinking {
    let effort = reasoning.effort.or(reasoning.tokens_max.map(effort_of));
    let knob = Knob::of(model);
    match (knob, effort) {
        (Knob::Never, _) => Thinking::default(),
        (_, None) if reasoning.is_shown != Some(true) => Thinking::default(),
        // Who is to be shown thoughts wants some, and says nothing of how many.
        (Knob::Adaptive { .. } | Knob::AlwaysAdaptive, None) => Thinking {
            thinking: Some(adaptive(reasoning.is_shown)),
            ..Thinking::default()
        },
        (Knob::Other | Knob::Budget, None) => {
            enabled(budget_of(Effort::Medium), reasoning.is_shown, reply_max)
        }
        (Knob::Other, Some(Effort::None)) => Thinking {
            thinking: Some(json!({"type": "disabled"})),
            ..Thinking::default()
        },
        (Knob::Budget | Knob::Adaptive { .. }, Some(Effort::None)) => Thinking::default(),
        (Knob::AlwaysAdaptive, Some(Effort::None)) => Thinking {
            effort: Some(word_of(Effort::None)),
            ..Thinking::default()
        },
        (Knob::Adaptive { most }, Some(effort)) => Thinking {
            thinking: Some(adaptive(reasoning.is_shown)),
            effort: Some(word_of(effort.min(most))),
            budget: 0,
        },
        (Knob::AlwaysAdaptive, Some(effort)) => Thinking {
            thinking: Some(adaptive(reasoning.is_shown)),
            effort: Some(word_of(effort)),
            budget: 0,
        },
        (Knob::Other | Knob::Budget, Some(effort)) => {
            let wanted = match reasoning.tokens_max {
                Some(Tokens(budget)) => budget.max(BUDGET_TOKENS_MIN),
                None => budget_of(effort),
            };
            enabled(wanted, reasoning.is_shown, reply_max)
        }
    }
}

/// Newer models show nothing of their thoughts without a word.
fn adaptive(is_shown: Option<bool>) -> Value {
    let display = match is_shown {
        Some(false) => "omitted",
        Some(true) | None => "summarized",
    };
    json!({"type": "adaptive", "display": display})
}

/// Nothing where the reply has no room for the least budget.
fn enabled(wanted: u32, is_shown: Option<bool>, reply_max: Option<Tokens>) -> Thinking {
    let room = reply_max.map_or(u32::MAX, |Tokens(max)| max.saturating_sub(1));
    let budget = wanted.min(room);
    if budget < BUDGET_TOKENS_MIN {
        return Thinking::default();
    }
    let mut thinking = Map::new();
    thinking.insert("type".into(), "enabled".into());
    thinking.insert("budget_tokens".into(), budget.into());
    if is_shown == Some(false) {
        thinking.insert("display".into(), "omitted".into());
    }
    Thinking {
        thinking: Some(thinking.into()),
        effort: None,
        budget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_says_how_it_is_told_to_think() {
        let adaptive = |most| Knob::Adaptive { most };
        for (model, knob) in [
            ("anthropic.claude-v2:1", Knob::Never),
            ("claude-3-opus-20240229", Knob::Never),
            ("claude-3-5-haiku-20241022", Knob::Never),
            ("claude-3-7-sonnet-latest", Knob::Budget),
            ("claude-sonnet-4-20250514", Knob::Budget),
            ("claude-opus-4-1-20250805", Knob::Budget),
            ("anthropic.claude-opus-4-20250514-v1:0", Knob::Budget),
            ("claude-haiku-4-5@20251001", Knob::Budget),
            ("claude-opus-4-6", adaptive(Effort::High)),
            ("us.anthropic.claude-sonnet-4-6-v1", adaptive(Effort::High)),
            ("anthropic/claude-opus-4.8", adaptive(Effort::XHigh)),
            ("claude-sonnet-5", Knob::AlwaysAdaptive),
            ("claude-fable-5-1", Knob::AlwaysAdaptive),
            ("claude-haiku-5-5-20261001", Knob::AlwaysAdaptive),
            ("claude", Knob::AlwaysAdaptive),
            ("kimi-k3", Knob::Other),
            ("", Knob::Other),
        ] {
            assert_eq!(Knob::of(model), knob, "{model}");
        }
    }

    fn asked(
        model: &str,
        effort: Option<Effort>,
        tokens_max: Option<u32>,
        reply_max: Option<u32>,
    ) -> Thinking {
        let reasoning = Reasoning {
            effort,
            tokens_max: tokens_max.map(Tokens),
            is_shown: None,
        };
        thinking(model, reasoning, reply_max.map(Tokens))
    }

    #[test]
    fn efforts_become_budgets_or_words() {
        let budget = |it: Thinking| it.thinking.map(|it| it["budget_tokens"].clone());
        for (effort, tokens) in [
            (Effort::Minimal, 1024),
            (Effort::Low, 1024),
            (Effort::Medium, 8192),
            (Effort::High, 24_576),
            (Effort::XHigh, 32_768),
        ] {
            let older = asked("claude-opus-4-5", Some(effort), None, None);
            assert_eq!(older.budget, tokens);
            assert_eq!(budget(older), Some(json!(tokens)), "{effort:?}");
            let newer = asked("claude-opus-5", Some(effort), None, None);
            assert_eq!(newer.effort, Some(word_of(effort)));
            let thinking = json!({"type": "adaptive", "display": "summarized"});
            assert_eq!(newer.thinking, Some(thinking));
        }
        // The word came with 4.7.
        let most = Some(Effort::XHigh);
        for (model, word) in [("claude-opus-4-6", "high"), ("claude-opus-4-7", "xhigh")] {
            assert_eq!(asked(model, most, None, None).effort, Some(word));
        }
        let older = asked("claude-3-5-sonnet-latest", most, None, None);
        assert_eq!(older, Thinking::default());
        let none = Some(Effort::None);
        let disabled = json!({"type": "disabled"});
        assert_eq!(asked("kimi", none, None, None).thinking, Some(disabled));
        assert_eq!(
            asked("claude-opus-4-6", none, None, None),
            Thinking::default()
        );
        assert_eq!(asked("claude-opus-5", none, None, None).effort, Some("low"));
    }

    #[test]
    fn budgets_stay_budgets_where_they_are_taken_and_become_efforts_elsewhere() {
        for (tokens, effort) in [
            (0, Effort::None),
            (1, Effort::Low),
            (1024, Effort::Low),
            (1025, Effort::Medium),
            (24_576, Effort::High),
            (99_999, Effort::XHigh),
        ] {
            assert_eq!(effort_of(Tokens(tokens)), effort, "{tokens}");
        }
        assert_eq!(
            asked("claude-opus-4-5", None, Some(5000), None).budget,
            5000
        );
        assert_eq!(asked("claude-opus-4-5", None, Some(5), None).budget, 1024);
        assert_eq!(
            asked("claude-opus-5", None, Some(5000), None).effort,
            Some("medium")
        );
    }

    #[test]
    fn who_asks_to_be_shown_thoughts_gets_some() {
        let shown = |model: &str, is_shown| {
            let reasoning = Reasoning {
                is_shown,
                ..Reasoning::default()
            };
            thinking(model, reasoning, None)
        };
        for model in ["claude-opus-4-6", "claude-opus-5"] {
            let adaptive = json!({"type": "adaptive", "display": "summarized"});
            let asked = shown(model, Some(true));
            assert_eq!((asked.thinking, asked.effort), (Some(adaptive), None));
        }
        for model in ["claude-opus-4-5", "kimi"] {
            assert_eq!(shown(model, Some(true)).budget, 8192, "{model}");
        }
        for is_shown in [None, Some(false)] {
            let asked = shown("claude-opus-5", is_shown);
            assert_eq!(asked, Thinking::default(), "{is_shown:?}");
        }
    }

    #[test]
    fn a_budget_leaves_the_reply_room_or_is_none() {
        assert_eq!(
            asked("claude-opus-4-5", Some(Effort::High), None, Some(4096)).budget,
            4095
        );
        let none = asked("claude-opus-4-5", Some(Effort::High), None, Some(1024));
        assert_eq!(none, Thinking::default());
    }
}

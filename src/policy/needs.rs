//! What a request needs of a model beyond plain text.

use domain::{Abilities, Ability, ChatRequest, OutputFormat, ToolChoice};

/// The abilities without which `request` cannot be answered as asked.
#[must_use]
pub fn needs(request: &ChatRequest) -> Abilities {
    let has_tools = !request.tools.is_empty();
    let forces_tools = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    );
    let offers_tools = has_tools && request.tool_choice != ToolChoice::None;
    let wanted = [
        (Ability::Tools, offers_tools),
        (Ability::ForcedTools, forces_tools),
        (Ability::Images, request.has_images()),
        (
            Ability::JsonObject,
            request.format == OutputFormat::JsonObject,
        ),
        (
            Ability::JsonSchema,
            matches!(request.format, OutputFormat::JsonSchema(_)),
        ),
        (Ability::Logprobs, request.sampling.logprobs.is_some()),
        (Ability::Choices, request.choices > 1),
        (Ability::LogitBias, !request.sampling.logit_bias.is_empty()),
        (Ability::OtherParts, request.has_other_parts()),
        (Ability::Audio, request.has_audio()),
        (Ability::Files, request.has_files()),
        (Ability::ProvidersOwn, request.bound_by.is_some()),
        (Ability::Constraints, request.format.is_constraint()),
    ];
    wanted
        .into_iter()
        .filter_map(|(ability, is_wanted)| is_wanted.then_some(ability))
        .collect()
}

/// The request field to change when a model lacks `ability`, and how.
pub(crate) fn advice(ability: Ability) -> (&'static str, &'static str) {
    match ability {
        Ability::Tools => ("tools", "leave `tools` out"),
        Ability::ForcedTools => ("tool_choice", "set `tool_choice` to `auto` or leave it out"),
        Ability::Images => ("messages", "leave the images out"),
        Ability::JsonObject | Ability::JsonSchema => {
            ("response_format", "leave `response_format` out")
        }
        Ability::Logprobs => ("logprobs", "leave `logprobs` and `top_logprobs` out"),
        Ability::Choices => ("n", "set `n` to 1 and ask several times"),
        Ability::LogitBias => ("logit_bias", "leave `logit_bias` out"),
        Ability::OtherParts => ("messages", "send text and image parts only"),
        Ability::Audio => ("messages", "leave the sound out"),
        Ability::Files => ("messages", "leave the files out, or send their text"),
        Ability::ProvidersOwn => (
            "tools",
            "leave out the tools that only another provider has",
        ),
        Ability::Constraints => (
            "structured_outputs",
            "ask for a `response_format` of `json_schema` instead",
        ),
    }
}

//! Decodes a request's `generationConfig`, as a server.

use domain::{BadRequest, Effort, Extra, OpenSampling, OutputFormat, Reasoning, Sampling, Tokens};
use serde_json::{Value, json};

use super::{schema, spelling};
use crate::fields::{Fields, Path, array, bounded};
use crate::request_fault as fault;

/// Google's bound on `candidateCount`.
pub(super) const CHOICES_MAX: u32 = 8;
/// Google's bound on `logprobs`.
const TOP_LOGPROBS_MAX: u32 = 20;
/// Beyond every model's context.
const OUTPUT_TOKENS_MAX: u32 = 16 << 20;
/// Stop strings are held back from the stream while they may be forming, so they stay short.
const STOP_BYTES_MAX: usize = 1024;
/// As many texts as values in an `enum`.
const ENUM_MAX: usize = 1_000;
const ENUM_BYTES_MAX: usize = 64 * 1024;
const MODALITIES_MAX: usize = 8;

const NAMES: [&str; 17] = [
    "temperature",
    "topP",
    "topK",
    "maxOutputTokens",
    "stopSequences",
    "candidateCount",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseLogprobs",
    "logprobs",
    "responseModalities",
    "thinkingConfig",
    "_responseJsonSchema",
];
const WHOLE: [&str; 5] = [
    "topK",
    "maxOutputTokens",
    "candidateCount",
    "seed",
    "logprobs",
];
const JSON: &str = "application/json";
const ENUM: &str = "text/x.enum";

/// What stands in `generationConfig`.
pub(super) struct Config {
    pub sampling: Sampling,
    pub format: OutputFormat,
    pub output_tokens_max: Option<Tokens>,
    pub reasoning: Option<Reasoning>,
    pub choices: u32,
}

pub(super) fn read_config(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Config, BadRequest> {
    let path = Path::Root.field("generationConfig");
    let mut value = fields.take("generationConfig").unwrap_or_else(|| json!({}));
    if let Value::Object(map) = &mut value {
        spelling::straighten(map, &WHOLE);
    }
    let mut config = spelling::open(path, value, &NAMES)?;
    refuse_unanswerable(&mut config)?;
    let read = Config {
        sampling: read_sampling(&mut config)?,
        format: read_format(&mut config)?,
        output_tokens_max: config
            .count("maxOutputTokens", 1..=OUTPUT_TOKENS_MAX)?
            .map(Tokens),
        reasoning: read_thinking(&mut config, extra)?,
        choices: config
            .count("candidateCount", 1..=CHOICES_MAX)?
            .unwrap_or(1),
    };
    config.leave_to(extra);
    Ok(read)
}

/// Replies that could not be passed on: better refused than answered in part.
fn refuse_unanswerable(config: &mut Fields<'_>) -> Result<(), BadRequest> {
    let path = config.path;
    let path = path.field("responseModalities");
    let Some(value) = config.take("responseModalities") else {
        return Ok(());
    };
    let items = array(&path, value, 0, MODALITIES_MAX)?
        .into_iter()
        .enumerate();
    for (at, item) in items {
        match item.as_str() {
            Some("TEXT" | "text" | "MODALITY_UNSPECIFIED") => {}
            Some(other) => return Err(fault::not_one_of(&path.index(at), other, &["TEXT"])),
            None => return Err(fault::wrong_type(&path.index(at), "a string", &item)),
        }
    }
    Ok(())
}

fn read_sampling(config: &mut Fields<'_>) -> Result<Sampling, BadRequest> {
    Ok(Sampling {
        temperature: config.decimal("temperature", 0.0..=2.0)?,
        top_p: read_top_p(config)?,
        top_k: config.count("topK", 0..=u32::MAX)?,
        min_p: None,
        seed: config.integer("seed", i64::from(i32::MIN)..=i64::from(i32::MAX))?,
        stop: read_stop(config)?,
        frequency_penalty: config.decimal("frequencyPenalty", -2.0..=2.0)?,
        presence_penalty: config.decimal("presencePenalty", -2.0..=2.0)?,
        logit_bias: Vec::new(),
        logprobs: read_logprobs(config)?,
        open: OpenSampling::default(),
    })
}

fn read_top_p(config: &mut Fields<'_>) -> Result<Option<f32>, BadRequest> {
    let top_p = config.decimal("topP", 0.0..=1.0)?;
    if top_p == Some(0.0) {
        let path = config.path;
        return Err(fault::invalid(
            &path.field("topP"),
            "expected a value above 0 and up to 1. For the likeliest token always, set \
             'temperature' to 0.",
        ));
    }
    Ok(top_p)
}

fn read_stop(config: &mut Fields<'_>) -> Result<Vec<String>, BadRequest> {
    let path = config.path;
    let path = path.field("stopSequences");
    let Some(value) = config.take("stopSequences") else {
        return Ok(Vec::new());
    };
    let items = array(&path, value, 0, Sampling::STOPS_MAX)?.into_iter();
    let read = items.enumerate().map(|(at, item)| match item {
        Value::String(stop) => bounded(&path.index(at), stop, STOP_BYTES_MAX),
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    read.collect()
}

fn read_logprobs(config: &mut Fields<'_>) -> Result<Option<u8>, BadRequest> {
    let is_asked = config.boolean("responseLogprobs")?.unwrap_or(false);
    let best = config.count("logprobs", 0..=TOP_LOGPROBS_MAX)?;
    if best.is_some() && !is_asked {
        let path = config.path;
        return Err(fault::invalid(
            &path.field("logprobs"),
            "it may be set only when 'responseLogprobs' is true.",
        ));
    }
    let best = best.and_then(|best| u8::try_from(best).ok());
    Ok(is_asked.then(|| best.unwrap_or(0)))
}

fn read_format(config: &mut Fields<'_>) -> Result<OutputFormat, BadRequest> {
    let path = config.path;
    let media_type = config.string("responseMimeType")?;
    let own = config.take("responseSchema");
    // The name before it was final, which older clients write.
    let newer = config.take("responseJsonSchema");
    let newer = newer.or_else(|| config.take("_responseJsonSchema"));
    let schema = match (own, newer) {
        (None, None) => None,
        (Some(schema), None) => Some(("responseSchema", schema::json_schema(schema))),
        (None, Some(schema)) => Some(("responseJsonSchema", schema)),
        (Some(_), Some(_)) => {
            return Err(fault::invalid(
                &path.field("responseJsonSchema"),
                "it cannot be set along with 'responseSchema'.",
            ));
        }
    };
    let schema = match schema {
        Some((name, other)) if !other.is_object() => {
            return Err(fault::wrong_type(&path.field(name), "an object", &other));
        }
        schema => schema,
    };
    match (media_type.as_deref(), schema) {
        (None | Some("" | "text/plain"), None) => Ok(OutputFormat::Text),
        (None | Some("" | "text/plain"), Some((name, _))) => Err(fault::invalid(
            &path.field(name),
            "it may be set only when 'responseMimeType' is 'application/json' or 'text/x.enum'.",
        )),
        (Some(JSON), None) => Ok(OutputFormat::JsonObject),
        (Some(JSON), Some((_, schema))) => Ok(OutputFormat::JsonSchema(
            json!({"name": "response", "schema": schema, "strict": true}),
        )),
        (Some(ENUM), schema) => {
            let name = schema.as_ref().map_or("responseSchema", |(name, _)| *name);
            let schema = schema.map(|(_, schema)| schema);
            read_enum(&path.field(name), schema).map(OutputFormat::Choice)
        }
        (Some(other), _) => {
            let supported = ["text/plain", JSON, ENUM];
            Err(fault::not_one_of(
                &path.field("responseMimeType"),
                other,
                &supported,
            ))
        }
    }
}

fn read_enum(path: &Path<'_>, schema: Option<Value>) -> Result<Vec<String>, BadRequest> {
    let mut schema = Fields::open(*path, schema.ok_or_else(|| fault::missing(path))?)?;
    let path = path.field("enum");
    let mut bytes = 0;
    let items = array(&path, schema.required("enum")?, 1, ENUM_MAX)?.into_iter();
    let read = items.enumerate().map(|(at, item)| {
        let Value::String(text) = item else {
            return Err(fault::wrong_type(&path.index(at), "a string", &item));
        };
        bytes += text.len();
        if bytes > ENUM_BYTES_MAX {
            return Err(fault::too_long(&path, ENUM_BYTES_MAX, bytes));
        }
        bounded(&path.index(at), text, ENUM_BYTES_MAX)
    });
    read.collect()
}

fn read_thinking(
    config: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Option<Reasoning>, BadRequest> {
    let path = config.path;
    let path = path.field("thinkingConfig");
    let Some(mut value) = config.take("thinkingConfig") else {
        return Ok(None);
    };
    if let Value::Object(map) = &mut value {
        spelling::straighten(map, &["thinkingBudget"]);
    }
    let names = ["thinkingBudget", "thinkingLevel", "includeThoughts"];
    let mut thinking = spelling::open(path, value, &names)?;
    let budget_path = path.field("thinkingBudget");
    let budget = thinking.integer("thinkingBudget", -1..=i64::from(OUTPUT_TOKENS_MAX))?;
    // -1 leaves it to the model.
    if budget == Some(-1) {
        extra.insert(budget_path.pointer(), (-1).into());
    }
    let level_path = path.field("thinkingLevel");
    let effort = match thinking.string("thinkingLevel")? {
        None => None,
        Some(word) => match word.to_ascii_lowercase().as_str() {
            "thinking_level_unspecified" => None,
            "minimal" => Some(Effort::Minimal),
            "low" => Some(Effort::Low),
            "medium" => Some(Effort::Medium),
            "high" => Some(Effort::High),
            _ => {
                let supported = ["MINIMAL", "LOW", "MEDIUM", "HIGH"];
                return Err(fault::not_one_of(&level_path, &word, &supported));
            }
        },
    };
    let is_shown = thinking.boolean("includeThoughts")?;
    thinking.leave_to(extra);
    Ok(Some(Reasoning {
        effort,
        tokens_max: budget
            .and_then(|budget| u32::try_from(budget).ok())
            .map(Tokens),
        is_shown,
    }))
}

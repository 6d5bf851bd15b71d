//! Decodes the sampling settings that servers of open models take beyond OpenAI's.
//!
//! Names and neutral values are llama-server's (its README, `POST /completion`) and vLLM's (its
//! "Sampling parameters"), both read 2026-11. The fields are read and not taken: they go on with the
//! other unknown ones, so an upstream gets them as they came, and a cache key sees them.

use domain::{BadRequest, Dry, Mirostat, MirostatVersion, OpenSampling, RepeatPenalty, Xtc};
use serde_json::Value;

use super::decode_request::TOKEN_ID_MAX;
use crate::fields::{Fields, Path, array, bounded};
use crate::request_fault as fault;

/// Beyond every model's context.
const WINDOW_TOKENS_MAX: i64 = 16 << 20;
/// What llama-server looks back where it is not told.
const WINDOW_TOKENS_DEFAULT: u32 = 64;
/// What repeat penalties divide by; 1 leaves everything as it is. Far less makes logits infinite.
const PENALTY_MIN: f64 = 0.01;
const STOP_TOKENS_MAX: usize = 64;
const BREAKERS_MAX: usize = 64;
/// Longer ones are cut by llama.cpp.
const BREAKER_BYTES_MAX: usize = 40;
/// llama.cpp's own.
const BREAKERS_DEFAULT: [&str; 4] = ["\n", ":", "\"", "*"];

const NAMES: [&str; 17] = [
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "ignore_eos",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "repeat_last_n",
    "repeat_penalty",
    "repetition_penalty",
    "stop_token_ids",
    "top_n_sigma",
    "typical_p",
    "xtc_probability",
    "xtc_threshold",
];

/// Reads what of these settings stands in the body.
pub(crate) fn read_open_sampling(body: &Fields<'_>) -> Result<OpenSampling, BadRequest> {
    let mut fields = body.copy_of(&NAMES);
    let fields = &mut fields;
    Ok(OpenSampling {
        typical_p: share(fields, "typical_p")?.filter(|share| *share < 1.0),
        top_n_sigma: fields
            .decimal("top_n_sigma", -1.0..=100.0)?
            .filter(|sigma| *sigma > 0.0),
        repeats: read_repeats(fields)?,
        dry: read_dry(fields)?,
        xtc: read_xtc(fields)?,
        mirostat: read_mirostat(fields)?,
        stop_tokens: read_stop_tokens(fields)?,
        ignores_end: fields.boolean("ignore_eos")?.unwrap_or(false),
    })
}

fn share(fields: &mut Fields<'_>, name: &str) -> Result<Option<f32>, BadRequest> {
    let share = fields.decimal(name, 0.0..=1.0)?;
    if share == Some(0.0) {
        return Err(fault::invalid(
            &fields.path.field(name),
            "expected a value above 0 and up to 1.",
        ));
    }
    Ok(share)
}

/// How far back a setting looks: -1 for all there is.
fn window(fields: &mut Fields<'_>, name: &str) -> Result<Option<i64>, BadRequest> {
    fields.integer(name, -1..=WINDOW_TOKENS_MAX)
}

/// vLLM's `repetition_penalty` looks at all tokens, llama-server's `repeat_penalty` at the last few;
/// `repeat_last_n` says so of both.
fn read_repeats(fields: &mut Fields<'_>) -> Result<Option<RepeatPenalty>, BadRequest> {
    let mut penalty = |name: &str| fields.decimal(name, PENALTY_MIN..=10.0);
    let (of_all, of_last) = (penalty("repetition_penalty")?, penalty("repeat_penalty")?);
    if let (Some(of_all), Some(of_last)) = (of_all, of_last)
        && of_all.to_bits() != of_last.to_bits()
    {
        return Err(fault::invalid(
            &fields.path.field("repeat_penalty"),
            "it differs from 'repetition_penalty'. Set only one of them.",
        ));
    }
    let tokens_max = match window(fields, "repeat_last_n")? {
        Some(tokens) => u32::try_from(tokens).ok(),
        None => of_last.map(|_| WINDOW_TOKENS_DEFAULT),
    };
    let penalty = of_last.or(of_all);
    Ok(penalty
        .filter(|penalty| *penalty != 1.0 && tokens_max != Some(0))
        .map(|penalty| RepeatPenalty {
            penalty,
            tokens_max,
        }))
}

fn read_dry(fields: &mut Fields<'_>) -> Result<Option<Dry>, BadRequest> {
    let multiplier = fields.decimal("dry_multiplier", 0.0..=100.0)?;
    let base = fields.decimal("dry_base", 1.0..=100.0)?.unwrap_or(1.75);
    let allowed = fields.count("dry_allowed_length", 0..=TOKEN_ID_MAX)?;
    let tokens_max = match window(fields, "dry_penalty_last_n")? {
        Some(tokens) => u32::try_from(tokens).ok(),
        None => Some(WINDOW_TOKENS_DEFAULT),
    };
    let breakers = read_breakers(fields)?;
    let multiplier = multiplier.filter(|multiplier| *multiplier > 0.0 && tokens_max != Some(0));
    Ok(multiplier.map(|multiplier| Dry {
        multiplier,
        base,
        allowed: allowed.unwrap_or(2),
        tokens_max,
        breakers,
    }))
}

fn read_breakers(fields: &mut Fields<'_>) -> Result<Vec<String>, BadRequest> {
    let path = Path::Root.field("dry_sequence_breakers");
    let Some(value) = fields.take("dry_sequence_breakers") else {
        return Ok(BREAKERS_DEFAULT.map(str::to_owned).to_vec());
    };
    let items = array(&path, value, 1, BREAKERS_MAX)?.into_iter();
    let read = items.enumerate().map(|(at, item)| match item {
        Value::String(text) => bounded(&path.index(at), text, BREAKER_BYTES_MAX),
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    read.collect()
}

fn read_xtc(fields: &mut Fields<'_>) -> Result<Option<Xtc>, BadRequest> {
    let probability = fields.decimal("xtc_probability", 0.0..=1.0)?;
    let threshold = fields.decimal("xtc_threshold", 0.0..=1.0)?.unwrap_or(0.1);
    let probability = probability.filter(|probability| *probability > 0.0);
    // No two tokens have more than half each.
    Ok(probability
        .filter(|_| threshold <= 0.5)
        .map(|probability| Xtc {
            probability,
            threshold,
        }))
}

fn read_mirostat(fields: &mut Fields<'_>) -> Result<Option<Mirostat>, BadRequest> {
    let version = match fields.integer("mirostat", 0..=2)? {
        Some(1) => Some(MirostatVersion::One),
        Some(2) => Some(MirostatVersion::Two),
        _ => None,
    };
    let tau = fields.decimal("mirostat_tau", 0.0..=100.0)?.unwrap_or(5.0);
    let eta = fields.decimal("mirostat_eta", 0.0..=1.0)?.unwrap_or(0.1);
    Ok(version.map(|version| Mirostat { version, tau, eta }))
}

fn read_stop_tokens(fields: &mut Fields<'_>) -> Result<Vec<u32>, BadRequest> {
    let path = Path::Root.field("stop_token_ids");
    let Some(value) = fields.take("stop_token_ids") else {
        return Ok(Vec::new());
    };
    let items = array(&path, value, 0, STOP_TOKENS_MAX)?.into_iter();
    let read = items.enumerate().map(|(at, item)| {
        let path = path.index(at);
        let id = item
            .as_i64()
            .ok_or_else(|| fault::wrong_type(&path, "an integer", &item))?;
        if id > i64::from(TOKEN_ID_MAX) {
            return Err(fault::above_max(&path, "integer", TOKEN_ID_MAX, id));
        }
        u32::try_from(id).map_err(|_| fault::below_min(&path, "integer", 0, id))
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domain::ChatRequest;
    use serde_json::json;

    use super::super::decode_request::decode_request;
    use super::super::encode_request::encode_request;
    use super::*;

    fn decode(members: &Value) -> Result<ChatRequest, BadRequest> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let fields = members.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        decode_request(&Bytes::from(body.to_string()))
    }

    fn read(members: &Value) -> OpenSampling {
        decode(members).unwrap().sampling.open
    }

    fn full() -> Value {
        json!({
            "typical_p": 0.9,
            "top_n_sigma": 1.5,
            "repeat_penalty": 1.1,
            "repeat_last_n": 32,
            "dry_multiplier": 0.8,
            "dry_base": 2,
            "dry_allowed_length": 3,
            "dry_penalty_last_n": -1,
            "dry_sequence_breakers": ["\n", "###"],
            "xtc_probability": 0.5,
            "xtc_threshold": 0.2,
            "mirostat": 2,
            "mirostat_tau": 4,
            "mirostat_eta": 0.2,
            "stop_token_ids": [7, 9],
            "ignore_eos": true,
        })
    }

    #[test]
    fn every_setting_is_read() {
        let expected = OpenSampling {
            typical_p: Some(0.9),
            top_n_sigma: Some(1.5),
            repeats: Some(RepeatPenalty {
                penalty: 1.1,
                tokens_max: Some(32),
            }),
            dry: Some(Dry {
                multiplier: 0.8,
                base: 2.0,
                allowed: 3,
                tokens_max: None,
                breakers: vec!["\n".into(), "###".into()],
            }),
            xtc: Some(Xtc {
                probability: 0.5,
                threshold: 0.2,
            }),
            mirostat: Some(Mirostat {
                version: MirostatVersion::Two,
                tau: 4.0,
                eta: 0.2,
            }),
            stop_tokens: vec![7, 9],
            ignores_end: true,
        };
        assert_eq!(read(&full()), expected);
    }

    #[test]
    fn what_changes_nothing_is_nothing() {
        for neutral in [
            json!({}),
            json!({"typical_p": 1, "top_n_sigma": -1, "repeat_penalty": 1, "dry_multiplier": 0,
                "xtc_probability": 0, "mirostat": 0, "stop_token_ids": [], "ignore_eos": false}),
            json!({"repeat_penalty": 1.5, "repeat_last_n": 0}),
            json!({"dry_multiplier": 1, "dry_penalty_last_n": 0}),
            json!({"xtc_probability": 1, "xtc_threshold": 0.6}),
            json!({"typical_p": null, "mirostat": null, "stop_token_ids": null}),
        ] {
            assert_eq!(read(&neutral), OpenSampling::default(), "{neutral}");
        }
    }

    #[test]
    fn each_servers_penalty_looks_as_far_back_as_its_own() {
        let far = |members: Value| read(&members).repeats.unwrap().tokens_max;
        assert_eq!(far(json!({"repeat_penalty": 1.2})), Some(64));
        assert_eq!(far(json!({"repetition_penalty": 1.2})), None);
        let both = json!({"repetition_penalty": 1.2, "repeat_penalty": 1.2});
        assert_eq!(far(both), Some(64));
        let all = json!({"repeat_penalty": 1.2, "repeat_last_n": -1});
        assert_eq!(far(all), None);
    }

    #[test]
    fn values_out_of_range_are_refused_where_they_stand() {
        for (members, param) in [
            (json!({"typical_p": 0}), "typical_p"),
            (json!({"typical_p": 1.1}), "typical_p"),
            (json!({"top_n_sigma": "a"}), "top_n_sigma"),
            (json!({"repeat_penalty": 0}), "repeat_penalty"),
            (json!({"repetition_penalty": -1}), "repetition_penalty"),
            (json!({"repetition_penalty": 1e-38}), "repetition_penalty"),
            (json!({"repeat_penalty": 0.009}), "repeat_penalty"),
            (
                json!({"repetition_penalty": 1.1, "repeat_penalty": 1.2}),
                "repeat_penalty",
            ),
            (json!({"repeat_last_n": -2}), "repeat_last_n"),
            (json!({"dry_multiplier": -1}), "dry_multiplier"),
            (json!({"dry_base": 0.5}), "dry_base"),
            (json!({"dry_allowed_length": -1}), "dry_allowed_length"),
            (json!({"dry_penalty_last_n": 1.5}), "dry_penalty_last_n"),
            (
                json!({"dry_sequence_breakers": []}),
                "dry_sequence_breakers",
            ),
            (
                json!({"dry_sequence_breakers": ["a", ""]}),
                "dry_sequence_breakers[1]",
            ),
            (
                json!({"dry_sequence_breakers": ["x".repeat(41)]}),
                "dry_sequence_breakers[0]",
            ),
            (json!({"xtc_probability": 2}), "xtc_probability"),
            (json!({"xtc_threshold": -0.1}), "xtc_threshold"),
            (json!({"mirostat": 3}), "mirostat"),
            (json!({"mirostat_tau": -1}), "mirostat_tau"),
            (json!({"mirostat_eta": 2}), "mirostat_eta"),
            (json!({"stop_token_ids": 7}), "stop_token_ids"),
            (json!({"stop_token_ids": [1, -1]}), "stop_token_ids[1]"),
            (json!({"stop_token_ids": [1 << 25]}), "stop_token_ids[0]"),
            (json!({"stop_token_ids": ["1"]}), "stop_token_ids[0]"),
            (json!({"stop_token_ids": vec![1; 65]}), "stop_token_ids"),
            (json!({"ignore_eos": 1}), "ignore_eos"),
        ] {
            let refused = decode(&members).unwrap_err();
            assert_eq!(refused.param.as_deref(), Some(param), "{members}");
        }
    }

    #[test]
    fn an_upstream_gets_them_as_they_came_masked_or_not() {
        let mut request = decode(&full()).unwrap();
        for is_masked in [false, true] {
            if is_masked {
                request.source = None;
            }
            let body: Value = serde_json::from_slice(&encode_request("u", &request)).unwrap();
            for (name, value) in full().as_object().unwrap() {
                assert_eq!(&body[name], value, "{name}, {is_masked}");
            }
        }
    }
}

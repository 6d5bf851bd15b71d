//! The embeddings half of the dialect: decode a request, encode its answer (API reference, page
//! "Embeddings", read 2026-11).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::{BadRequest, EmbedInput, EmbedRequest, Embeddings, ModelAlias, VectorFormat};
use serde::Serialize;
use serde_json::Value;

use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;
use crate::strict_json;

const MODEL_BYTES_MAX: usize = 256;
/// OpenAI's bound on the inputs of one request.
const INPUTS_MAX: usize = 2_048;
/// Beyond every model's input.
const INPUT_TOKENS_MAX: usize = 128 * 1024;
/// Beyond every model's vectors.
const DIMENSIONS_MAX: u32 = 64 * 1024;
/// Beyond every vocabulary.
const TOKEN_ID_MAX: u64 = 16 << 20;
const INPUT: &str = "a string, an array of strings, an array of tokens or an array of such arrays";

/// Reads an embeddings request.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_embed_request(body: &Bytes) -> Result<EmbedRequest, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model' and 'input'."
                .into(),
        });
    }
    let mut fields = Fields::open(Path::Root, value)?;
    let model = ModelAlias::new(fields.required_name("model", MODEL_BYTES_MAX)?);
    let inputs = read_inputs(fields.required("input")?)?;
    let format = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => VectorFormat::Float,
        Some("base64") => VectorFormat::Base64,
        Some(other) => {
            let path = Path::Root.field("encoding_format");
            return Err(fault::not_one_of(&path, other, &["float", "base64"]));
        }
    };
    let dimensions = fields.count("dimensions", 1..=DIMENSIONS_MAX)?;
    // Nothing comes of it but its type.
    fields.string("user")?;
    Ok(EmbedRequest {
        model,
        inputs,
        dimensions,
        format,
    })
}

fn read_inputs(value: Value) -> Result<Vec<EmbedInput>, BadRequest> {
    let path = Path::Root.field("input");
    let items = match value {
        Value::String(text) => return Ok(vec![text_input(&path, text)?]),
        Value::Array(items) => items,
        other => return Err(fault::wrong_type(&path, INPUT, &other)),
    };
    if matches!(items.first(), Some(Value::Number(_))) {
        return Ok(vec![token_input(&path, items)?]);
    }
    array(&path, Value::Array(items), 1, INPUTS_MAX)?
        .into_iter()
        .enumerate()
        .map(|(at, item)| {
            let path = path.index(at);
            match item {
                Value::String(text) => text_input(&path, text),
                Value::Array(tokens) => token_input(&path, tokens),
                other => Err(fault::wrong_type(
                    &path,
                    "a string or an array of tokens",
                    &other,
                )),
            }
        })
        .collect()
}

fn text_input(path: &Path<'_>, text: String) -> Result<EmbedInput, BadRequest> {
    if text.is_empty() {
        return Err(fault::empty_string(path));
    }
    Ok(EmbedInput::Text(text))
}

fn token_input(path: &Path<'_>, items: Vec<Value>) -> Result<EmbedInput, BadRequest> {
    let tokens = array(path, Value::Array(items), 1, INPUT_TOKENS_MAX)?
        .iter()
        .enumerate()
        .map(|(at, item)| {
            let path = path.index(at);
            match item.as_u64() {
                Some(token) if token < TOKEN_ID_MAX => Ok(u32::try_from(token).unwrap_or(0)),
                Some(token) => Err(fault::above_max(&path, "integer", TOKEN_ID_MAX - 1, token)),
                None => Err(fault::wrong_type(
                    &path,
                    "a token, which is not negative",
                    item,
                )),
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(EmbedInput::Tokens(tokens))
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: EmbedUsage,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Written<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Float(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct EmbedUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// A `list` of `embedding` objects.
#[must_use]
pub fn encode_embeddings(model: &str, embeddings: &Embeddings, format: VectorFormat) -> Vec<u8> {
    let written = |vector: &Vec<f32>| -> String {
        let bytes: Vec<u8> = vector
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        STANDARD.encode(bytes)
    };
    let data = embeddings
        .vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| Item {
            object: "embedding",
            index,
            embedding: match format {
                VectorFormat::Float => Written::Float(vector),
                VectorFormat::Base64 => Written::Base64(written(vector)),
            },
        })
        .collect();
    let list = List {
        object: "list",
        data,
        model,
        usage: EmbedUsage {
            prompt_tokens: embeddings.prompt_tokens,
            total_tokens: embeddings.prompt_tokens,
        },
    };
    serde_json::to_vec(&list).expect("strings and numbers always serialize")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(value: &Value) -> Result<EmbedRequest, BadRequest> {
        decode_embed_request(&Bytes::from(value.to_string()))
    }

    #[test]
    fn every_form_of_input_is_read() {
        let text = |text: &str| EmbedInput::Text(text.to_owned());
        for (input, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![EmbedInput::Tokens(vec![1, 2])]),
            (
                json!([[1], [2, 3], "c"]),
                vec![
                    EmbedInput::Tokens(vec![1]),
                    EmbedInput::Tokens(vec![2, 3]),
                    text("c"),
                ],
            ),
        ] {
            let request = decode(&json!({"model": "m", "input": input, "user": "u"})).unwrap();
            assert_eq!(request.inputs, expected);
            assert_eq!(request.format, VectorFormat::Float);
            assert_eq!(request.dimensions, None);
        }
        let full =
            json!({"model": "m", "input": "a", "encoding_format": "base64", "dimensions": 8});
        let request = decode(&full).unwrap();
        assert_eq!(request.format, VectorFormat::Base64);
        assert_eq!(request.dimensions, Some(8));
    }

    #[test]
    fn faults_are_named_with_their_place() {
        for (body, param) in [
            (json!([]), None),
            (json!({"input": "a"}), Some("model")),
            (json!({"model": "m"}), Some("input")),
            (json!({"model": "m", "input": ""}), Some("input")),
            (json!({"model": "m", "input": []}), Some("input")),
            (json!({"model": "m", "input": 1}), Some("input")),
            (json!({"model": "m", "input": ["a", ""]}), Some("input[1]")),
            (json!({"model": "m", "input": ["a", 1]}), Some("input[1]")),
            (json!({"model": "m", "input": [1, "a"]}), Some("input[1]")),
            (json!({"model": "m", "input": [[1], []]}), Some("input[1]")),
            (
                json!({"model": "m", "input": [[1, -1]]}),
                Some("input[0][1]"),
            ),
            (
                json!({"model": "m", "input": [[1, 1.5]]}),
                Some("input[0][1]"),
            ),
            (
                json!({"model": "m", "input": [99_999_999]}),
                Some("input[0]"),
            ),
            (
                json!({"model": "m", "input": vec!["a"; INPUTS_MAX + 1]}),
                Some("input"),
            ),
            (
                json!({"model": "m", "input": "a", "encoding_format": "hex"}),
                Some("encoding_format"),
            ),
            (
                json!({"model": "m", "input": "a", "dimensions": 0}),
                Some("dimensions"),
            ),
            (json!({"model": "m", "input": "a", "user": 1}), Some("user")),
        ] {
            let fault = decode(&body).unwrap_err();
            assert_eq!(fault.param.as_deref(), param, "{body} {fault:?}");
        }
    }

    #[test]
    fn vectors_are_written_both_ways() {
        let embeddings = Embeddings {
            vectors: vec![vec![0.5, -1.0], vec![0.0, 0.25]],
            prompt_tokens: 7,
        };
        let read = |format| -> Value {
            serde_json::from_slice(&encode_embeddings("m", &embeddings, format)).unwrap()
        };
        assert_eq!(
            read(VectorFormat::Float),
            json!({
                "object": "list",
                "data": [
                    {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
                    {"object": "embedding", "index": 1, "embedding": [0.0, 0.25]},
                ],
                "model": "m",
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
            })
        );
        // 0.5 is 00 00 00 3f, -1 is 00 00 80 bf.
        let first = &read(VectorFormat::Base64)["data"][0]["embedding"];
        assert_eq!(first, "AAAAPwAAgL8=");
    }
}

//! Moderation, both ways: decode a request as a server, encode one and read its answer as a client
//! (API reference, page "Moderations", as the types of openai-node 5.20 have it, read 2026-11; the guide
//! "Moderation", read 2026-11).
//!
//! An answer goes back as it came: its categories differ by model, and grow.

use std::borrow::Cow;

use bytes::Bytes;
use domain::{
    BackendError, BadRequest, Image, Message, ModelAlias, Moderation, ModerationRequest, Part, Role,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::MODEL_BYTES_MAX;
use crate::ModerationDialect;
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;
use crate::strict_json;

/// Texts, or parts, of one request. The provider may take fewer.
const INPUTS_MAX: usize = 2_048;
const INPUT: &str = "a string, an array of strings or an array of content parts";

const NO_RESULTS: BackendError = BackendError::Garbled("the reply holds no moderation results");

/// Reads a moderation request.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_moderation_request(body: &Bytes) -> Result<ModerationRequest, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'input'.".into(),
        });
    }
    let mut fields = Fields::open(Path::Root, value)?;
    let model = match fields.peek("model") {
        None | Some(Value::Null) => None,
        Some(_) => Some(ModelAlias::new(
            fields.required_name("model", MODEL_BYTES_MAX)?,
        )),
    };
    let inputs = read_inputs(fields.required("input")?)?;
    Ok(ModerationRequest { model, inputs })
}

fn read_inputs(value: Value) -> Result<Vec<Message>, BadRequest> {
    let path = Path::Root.field("input");
    let items = match value {
        Value::String(text) => return Ok(vec![text_input(&path, text)?]),
        Value::Array(items) => array(&path, Value::Array(items), 1, INPUTS_MAX)?,
        other => return Err(fault::wrong_type(&path, INPUT, &other)),
    };
    let has_parts = matches!(items.first(), Some(Value::Object(_)));
    let items = items.into_iter().enumerate();
    if has_parts {
        let parts = items.map(|(at, item)| read_part(path.index(at), item));
        let content = parts.collect::<Result<Vec<Part>, _>>()?;
        let mut message = Message::new(Role::User, "");
        message.content = content;
        return Ok(vec![message]);
    }
    let texts = items.map(|(at, item)| match item {
        Value::String(text) => text_input(&path.index(at), text),
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    texts.collect()
}

fn text_input(path: &Path<'_>, text: String) -> Result<Message, BadRequest> {
    if text.is_empty() {
        return Err(fault::empty_string(path));
    }
    Ok(Message::new(Role::User, text))
}

fn read_part(path: Path<'_>, value: Value) -> Result<Part, BadRequest> {
    if !value.is_object() {
        return Err(fault::wrong_type(&path, "a content part", &value));
    }
    let mut fields = Fields::open(path, value)?;
    let kind = fields.string("type")?;
    match kind.as_deref() {
        Some("text") => {
            let text = fields.required_name("text", usize::MAX)?;
            Ok(Part::Text(text))
        }
        Some("image_url") => {
            let image_path = path.field("image_url");
            let mut image = Fields::open(image_path, fields.required("image_url")?)?;
            let url = image.required_name("url", usize::MAX)?;
            let schemes = ["https://", "http://", "data:"];
            if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
                let why = "expected an address that begins with https://, http:// or data:.";
                return Err(fault::invalid(&image_path.field("url"), why));
            }
            Ok(Part::Image(Image { url, detail: None }))
        }
        Some(other) => {
            let known = ["text", "image_url"];
            Err(fault::not_one_of(&path.field("type"), other, &known))
        }
        None => Err(fault::missing(&path.field("type"))),
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Moderations;

impl ModerationDialect for Moderations {
    fn target(&self) -> Cow<'static, str> {
        "/moderations".into()
    }

    fn encode(&self, model: &str, inputs: &[Message]) -> Bytes {
        let input: Value = match inputs {
            [one] => match one.content.as_slice() {
                [Part::Text(text)] => text.as_str().into(),
                parts => parts.iter().filter_map(part_body).collect(),
            },
            many => many
                .iter()
                .map(|message| Value::from(message.text()))
                .collect(),
        };
        let body = json!({"model": model, "input": input});
        body.to_string().into()
    }

    fn decode(&self, body: Bytes, count: usize) -> Result<Moderation, BackendError> {
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| NO_RESULTS)?;
        if answer.results.len() != count {
            return Err(BackendError::Garbled(
                "the reply holds another number of results than inputs",
            ));
        }
        Ok(Moderation { body })
    }
}

fn part_body(part: &Part) -> Option<Value> {
    match part {
        Part::Text(text) => Some(json!({"type": "text", "text": text})),
        Part::Image(image) => Some(json!({"type": "image_url", "image_url": {"url": image.url}})),
        Part::Audio(_) | Part::File(_) | Part::Thought(_) | Part::Seal(_) | Part::Other(_) => None,
    }
}

/// What callers rely on.
#[derive(Deserialize)]
#[expect(dead_code, reason = "read to see that it is there")]
struct Answer {
    id: String,
    model: String,
    results: Vec<Judged>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to see that it is there")]
struct Judged {
    flagged: bool,
    categories: Map<String, Value>,
    category_scores: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(value: &Value) -> Result<ModerationRequest, BadRequest> {
        decode_moderation_request(&Bytes::from(value.to_string()))
    }

    fn sent(value: &Value) -> Value {
        let request = decode(value).unwrap();
        serde_json::from_slice(&Moderations.encode("m", &request.inputs)).unwrap()
    }

    #[test]
    fn every_form_of_input_is_read_and_sent_on() {
        for (input, count) in [
            (json!("a"), 1),
            (json!(["a", "b"]), 2),
            (
                json!([
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
                ]),
                1,
            ),
            (
                json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
                1,
            ),
        ] {
            let body = json!({"model": "theirs", "input": input});
            let request = decode(&body).unwrap();
            assert_eq!(request.inputs.len(), count);
            assert_eq!(request.model, Some("theirs".into()));
            assert_eq!(sent(&body), json!({"model": "m", "input": input}));
        }
        assert_eq!(sent(&json!({"input": ["a"]}))["input"], "a");
        assert_eq!(
            decode(&json!({"input": "a", "model": null})).unwrap().model,
            None
        );
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let image = |url: &str| json!([{"type": "image_url", "image_url": {"url": url}}]);
        for (body, param) in [
            (json!([]), None),
            (json!({"model": "m"}), Some("input")),
            (json!({"model": 1, "input": "a"}), Some("model")),
            (json!({"model": "", "input": "a"}), Some("model")),
            (json!({"input": ""}), Some("input")),
            (json!({"input": 1}), Some("input")),
            (json!({"input": []}), Some("input")),
            (json!({"input": vec!["a"; INPUTS_MAX + 1]}), Some("input")),
            (json!({"input": ["a", ""]}), Some("input[1]")),
            (
                json!({"input": ["a", {"type": "text", "text": "b"}]}),
                Some("input[1]"),
            ),
            (
                json!({"input": [{"type": "text", "text": "a"}, "b"]}),
                Some("input[1]"),
            ),
            (json!({"input": [{"text": "a"}]}), Some("input[0].type")),
            (json!({"input": [{"type": "audio"}]}), Some("input[0].type")),
            (json!({"input": [{"type": "text"}]}), Some("input[0].text")),
            (
                json!({"input": [{"type": "image_url"}]}),
                Some("input[0].image_url"),
            ),
            (
                json!({"input": image("file:///a")}),
                Some("input[0].image_url.url"),
            ),
            (json!({"input": image("")}), Some("input[0].image_url.url")),
        ] {
            let fault = decode(&body).unwrap_err();
            assert_eq!(fault.param.as_deref(), param, "{body} {fault:?}");
        }
    }

    #[test]
    fn an_answer_is_passed_on_where_it_is_one() {
        let judged = json!({
            "flagged": true,
            "categories": {"violence": true, "new/kind": false},
            "category_scores": {"violence": 0.9, "new/kind": 0.0},
            "category_applied_input_types": {"violence": ["text"], "new/kind": []},
        });
        let answer = |results: &[&Value]| json!({"id": "modr-1", "model": "omni-moderation-2024-09-26", "results": results});
        let body = Bytes::from(answer(&[&judged, &judged]).to_string());
        assert_eq!(Moderations.decode(body.clone(), 2).unwrap().body, body);
        for (wrong, count) in [
            (answer(&[&judged]), 2),
            (answer(&[]), 1),
            (answer(&[&json!({"flagged": true})]), 1),
            (answer(&[&json!("a")]), 1),
            (json!({"results": [judged]}), 1),
            (json!([]), 1),
        ] {
            let read = Moderations.decode(wrong.to_string().into(), count);
            assert!(matches!(read, Err(BackendError::Garbled(_))), "{wrong}");
        }
        let read = Moderations.decode(Bytes::from_static(b"<html>"), 1);
        assert!(matches!(read, Err(BackendError::Garbled(_))));
    }
}

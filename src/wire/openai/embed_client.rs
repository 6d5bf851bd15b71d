//! The embeddings half of the dialect, as a client (API reference, page "Embeddings", read 2026-11).
//!
//! Vectors are asked for as numbers, which is what every provider of the dialect gives, and read in
//! either form.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::{BackendError, Embeddings};
use serde::{Deserialize, Serialize};

use crate::EmbedDialect;

const NO_EMBEDDINGS: BackendError = BackendError::Garbled("the reply holds no embeddings");

#[derive(Clone, Copy, Debug)]
pub(super) struct Embed;

impl EmbedDialect for Embed {
    fn target(&self, _model: &str) -> Cow<'static, str> {
        "/embeddings".into()
    }

    fn encode(&self, model: &str, texts: &[String], dimensions: Option<u32>) -> Bytes {
        let body = Body {
            model,
            input: texts,
            dimensions,
        };
        serde_json::to_vec(&body)
            .expect("strings and numbers always serialize")
            .into()
    }

    fn decode(&self, body: &[u8], count: usize) -> Result<Embeddings, BackendError> {
        let list: List<'_> = serde_json::from_slice(body).map_err(|_| NO_EMBEDDINGS)?;
        if list.data.len() != count {
            return Err(BackendError::Garbled(
                "the reply holds another number of embeddings than texts",
            ));
        }
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); count];
        for (at, item) in list.data.into_iter().enumerate() {
            let place = vectors.get_mut(item.index.unwrap_or(at));
            let place = place.filter(|place| place.is_empty());
            *place.ok_or(NO_EMBEDDINGS)? = item.embedding.numbers().ok_or(NO_EMBEDDINGS)?;
        }
        let length = vectors.first().map_or(0, Vec::len);
        let is_plain = |vector: &Vec<f32>| {
            vector.len() == length && vector.iter().all(|number| number.is_finite())
        };
        if length == 0 || !vectors.iter().all(is_plain) {
            return Err(NO_EMBEDDINGS);
        }
        Ok(Embeddings {
            vectors,
            prompt_tokens: list.usage.map_or(0, |usage| usage.prompt_tokens),
        })
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    input: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Item<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    embedding: Written<'a>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written<'a> {
    Numbers(Vec<f32>),
    #[serde(borrow)]
    Base64(Cow<'a, str>),
}

impl Written<'_> {
    fn numbers(self) -> Option<Vec<f32>> {
        match self {
            Written::Numbers(numbers) => Some(numbers),
            Written::Base64(text) => {
                let bytes = STANDARD.decode(text.as_bytes()).ok()?;
                let (numbers, rest) = bytes.as_chunks::<4>();
                let numbers = numbers.iter().map(|number| f32::from_le_bytes(*number));
                rest.is_empty().then(|| numbers.collect())
            }
        }
    }
}

#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    prompt_tokens: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn texts_are_asked_for_by_model_and_length() {
        let sent = |dimensions| -> Value {
            let body = Embed.encode("m", &texts(&["a", "b"]), dimensions);
            serde_json::from_slice(&body).unwrap()
        };
        assert_eq!(sent(None), json!({"model": "m", "input": ["a", "b"]}));
        assert_eq!(
            sent(Some(8)),
            json!({"model": "m", "input": ["a", "b"], "dimensions": 8})
        );
    }

    #[test]
    fn vectors_are_read_in_either_form_and_in_the_texts_order() {
        let body = json!({
            "object": "list",
            "model": "m",
            "data": [
                {"object": "embedding", "index": 1, "embedding": "AAAAPwAAgL8="},
                {"object": "embedding", "index": 0, "embedding": [0.25, 1]},
            ],
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        });
        let read = Embed.decode(body.to_string().as_bytes(), 2).unwrap();
        assert_eq!(read.vectors, [[0.25, 1.0], [0.5, -1.0]]);
        assert_eq!(read.prompt_tokens, 7);
    }

    #[test]
    fn what_is_no_list_of_so_many_like_vectors_is_garbled() {
        let item = |index: usize, embedding: Value| json!({"index": index, "embedding": embedding});
        let list = |items: &[Value]| json!({ "data": items }).to_string();
        let good = item(0, json!([1.0]));
        for body in [
            String::new(),
            "<html>".to_owned(),
            "{}".to_owned(),
            list(&[]),
            list(std::slice::from_ref(&good)),
            list(&[good.clone(), good.clone()]),
            list(&[good.clone(), item(2, json!([1.0]))]),
            list(&[good.clone(), item(1, json!([1.0, 2.0]))]),
            list(&[good.clone(), item(1, json!([]))]),
            list(&[good.clone(), item(1, json!(["a"]))]),
            list(&[good.clone(), item(1, json!("AAAA"))]),
            list(&[good.clone(), item(1, json!("?"))]),
            list(&[good.clone(), item(1, json!([1e39]))]),
            list(&[good.clone(), good.clone(), good]),
        ] {
            let read = Embed.decode(body.as_bytes(), 2);
            assert!(matches!(read, Err(BackendError::Garbled(_))), "{body}");
        }
    }
}

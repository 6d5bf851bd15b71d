//! Ranking, as Jina, Cohere and llama-server have it: OpenAI has none (jina.ai/reranker,
//! docs.cohere.com "Rerank" and tools/server/README.md of the pinned llama.cpp, read 2026-11).

use bytes::Bytes;
use domain::{BadRequest, ModelAlias, RerankRequest};
use serde::Serialize;
use serde_json::Value;

use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;
use crate::strict_json;

const MODEL_BYTES_MAX: usize = 256;
/// Documents of one request.
const DOCUMENTS_MAX: usize = 2_048;

/// Reads a request for a ranking.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_rerank(body: &Bytes) -> Result<RerankRequest, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model', 'query' and \
                      'documents'."
                .into(),
        });
    }
    let mut fields = Fields::open(Path::Root, value)?;
    let model = ModelAlias::new(fields.required_name("model", MODEL_BYTES_MAX)?);
    let query = match fields.required("query")? {
        Value::String(text) if !text.is_empty() => text,
        Value::String(_) => return Err(fault::empty_string(&Path::Root.field("query"))),
        other => return Err(fields.wrong_type("query", "a string", &other)),
    };
    let path = Path::Root.field("documents");
    let documents = array(&path, fields.required("documents")?, 1, DOCUMENTS_MAX)?
        .into_iter()
        .enumerate()
        .map(|(at, item)| document(path.index(at), item))
        .collect::<Result<_, _>>()?;
    let best_max = fields.count("top_n", 1..=u32::MAX)?;
    Ok(RerankRequest {
        model,
        query,
        documents,
        best_max: best_max.map(|count| count as usize),
        shows_documents: fields.boolean("return_documents")?.unwrap_or(false),
    })
}

/// A text, or an object with one.
fn document(path: Path<'_>, item: Value) -> Result<String, BadRequest> {
    const EXPECTED: &str = "a string or an object with 'text'";
    let filled = |path: &Path<'_>, text: String| {
        if text.is_empty() {
            return Err(fault::empty_string(path));
        }
        Ok(text)
    };
    match item {
        Value::String(text) => filled(&path, text),
        Value::Object(_) => {
            let mut fields = Fields::open(path, item)?;
            let path = path.field("text");
            let text = fields.string("text")?;
            filled(&path, text.ok_or_else(|| fault::missing(&path))?)
        }
        other => Err(fault::wrong_type(&path, EXPECTED, &other)),
    }
}

/// One document's place in the ranking.
#[derive(Debug, PartialEq)]
pub struct Ranked {
    /// Its place in the request.
    pub index: usize,
    pub score: f32,
    /// Its text, where that was asked for.
    pub document: Option<String>,
}

#[derive(Serialize)]
struct Ranking<'a> {
    object: &'static str,
    model: &'a str,
    results: Vec<Place<'a>>,
    usage: RankUsage,
}

#[derive(Serialize)]
struct Place<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct RankUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// A `list` of results, in the order they are given.
#[must_use]
pub fn encode_ranking(model: &str, ranked: &[Ranked], prompt_tokens: u32) -> Vec<u8> {
    let results = ranked
        .iter()
        .map(|ranked| Place {
            index: ranked.index,
            relevance_score: ranked.score,
            document: ranked.document.as_deref().map(|text| Document { text }),
        })
        .collect();
    let ranking = Ranking {
        object: "list",
        model,
        results,
        usage: RankUsage {
            prompt_tokens,
            total_tokens: prompt_tokens,
        },
    };
    serde_json::to_vec(&ranking).expect("strings and numbers always serialize")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(value: &Value) -> Result<RerankRequest, BadRequest> {
        decode_rerank(&Bytes::from(value.to_string()))
    }

    #[test]
    fn documents_are_texts_or_objects_with_one() {
        let body = json!({
            "model": "m", "query": "q", "documents": ["a", {"text": "b", "id": 7}], "top_n": 1,
            "return_documents": true, "max_chunks_per_doc": 3,
        });
        let request = decode(&body).unwrap();
        assert_eq!(request.documents, ["a", "b"]);
        assert_eq!((request.query.as_str(), request.best_max), ("q", Some(1)));
        assert!(request.shows_documents);
        let least = decode(&json!({"model": "m", "query": "q", "documents": ["a"]})).unwrap();
        assert_eq!((least.best_max, least.shows_documents), (None, false));
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let with = |name: &str, value: Value| {
            let mut body = json!({"model": "m", "query": "q", "documents": ["a"]});
            body[name] = value;
            body
        };
        for (body, param) in [
            (json!("a"), None),
            (with("model", json!(null)), Some("model")),
            (with("query", json!(null)), Some("query")),
            (with("query", json!("")), Some("query")),
            (with("query", json!(["q"])), Some("query")),
            (with("documents", json!(null)), Some("documents")),
            (with("documents", json!([])), Some("documents")),
            (with("documents", json!("a")), Some("documents")),
            (with("documents", json!(["a", ""])), Some("documents[1]")),
            (with("documents", json!(["a", 1])), Some("documents[1]")),
            (with("documents", json!([{}])), Some("documents[0].text")),
            (
                with("documents", json!([{"text": 1}])),
                Some("documents[0].text"),
            ),
            (
                with("documents", json!([{"text": ""}])),
                Some("documents[0].text"),
            ),
            (
                with("documents", json!(vec!["a"; DOCUMENTS_MAX + 1])),
                Some("documents"),
            ),
            (with("top_n", json!(0)), Some("top_n")),
            (with("top_n", json!("all")), Some("top_n")),
            (with("return_documents", json!(1)), Some("return_documents")),
        ] {
            let fault = decode(&body).unwrap_err();
            assert_eq!(fault.param.as_deref(), param, "{fault:?}");
        }
    }

    #[test]
    fn a_ranking_is_written_as_others_write_it() {
        let ranked = [
            Ranked {
                index: 1,
                score: 2.5,
                document: Some("b".to_owned()),
            },
            Ranked {
                index: 0,
                score: -1.0,
                document: None,
            },
        ];
        let written: Value = serde_json::from_slice(&encode_ranking("m", &ranked, 9)).unwrap();
        assert_eq!(
            written,
            json!({
                "object": "list",
                "model": "m",
                "results": [
                    {"index": 1, "relevance_score": 2.5, "document": {"text": "b"}},
                    {"index": 0, "relevance_score": -1.0},
                ],
                "usage": {"prompt_tokens": 9, "total_tokens": 9},
            })
        );
    }
}

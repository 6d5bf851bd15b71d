//! `/openapi.json`: everything that is answered, for people's tools.
//!
//! The document is a file, written by hand: requests are read field by field and not into types, so
//! there is nothing that a schema could be derived from. `tests/it/openapi.rs` holds it to the paths
//! that there are, and `tests/schema/run.sh` asks every operation what its schema allows and what it does
//! not. Of a stream, `schema` is that of one event.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> Response<Body> {
    let mut response = Response::new(Body::from(DOCUMENT));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::doors::chat_paths;
    use crate::ollama;
    use crate::router::{
        COUNT_PATH, DETOKENIZE_PATH, EMBEDDINGS_PATH, FEEDBACK_PATH, RERANK_PATHS, TEMPLATE_PATH,
        TOKENIZE_PATH,
    };

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_path_that_is_posted_to_is_in_the_document() {
        let document = document();
        let posted = chat_paths().chain([COUNT_PATH, EMBEDDINGS_PATH, FEEDBACK_PATH]);
        let posted = posted.chain(RERANK_PATHS);
        let posted = posted.chain([TOKENIZE_PATH, DETOKENIZE_PATH, TEMPLATE_PATH]);
        let posted = posted.chain(ollama::POSTS.map(|(path, _)| path));
        for path in posted {
            assert!(document["paths"][path]["post"].is_object(), "{path}");
        }
        for (path, _, allowed) in ollama::KEEPING {
            for method in allowed.to_ascii_lowercase().split(", ") {
                let operation = &document["paths"][path][method];
                assert!(operation.is_object(), "{method} {path}");
            }
        }
    }

    /// They are written out twice, for generators of cases know little of schemas that are made of others.
    #[test]
    fn requests_that_are_alike_are_written_alike() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let of = |name: &str, but: &[&str]| {
            let mut fields = schemas[name]["properties"].as_object().unwrap().clone();
            for name in but {
                assert!(fields.remove(*name).is_some(), "{name}");
            }
            fields
        };
        assert_eq!(of("ChatRequest", &[]), of("TemplateRequest", &[]));
        let bound = ["max_tokens"];
        assert_eq!(
            of("MessagesRequest", &bound),
            of("CountTokensRequest", &bound)
        );
        // vLLM's own, which both dialects of OpenAI's take.
        let open = of("OllamaOptions", &["top_p", "num_predict", "stop"]);
        for name in ["ChatRequest", "CompletionRequest"] {
            let fields = of(name, &[]);
            for (field, schema) in &open {
                assert_eq!(fields[field]["type"], schema["type"], "{field} of {name}");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{to}");
                    }
                    fields.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }
}

//! How a model reads text: llama-server's `/tokenize`, `/detokenize` and `/apply-template`
//! (tools/server/README.md of the pinned llama.cpp), and vLLM's forms of the first two, told by their
//! fields (docs.vllm.ai, "Tokenizer API", read 2026-11).
//!
//! | asked with | answered with |
//! | --- | --- |
//! | `content`, a text or texts and tokens | `tokens`, with `piece`s on request |
//! | `prompt` or `messages` | `tokens`, `count`, `max_model_len`, `token_strs` |

use bytes::Bytes;
use domain::{BadRequest, ChatRequest, ModelAlias, ReadToken, TextPart, TextToRead};
use serde::Serialize;
use serde_json::Value;

use super::decode_request::{read_chat, read_model};
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;
use crate::strict_json;

/// Beyond every vocabulary.
const TOKEN_ID_MAX: u64 = 16 << 20;
/// Texts and tokens of one `content`.
const PARTS_MAX: usize = 128 * 1024;
/// Tokens that are made text at once.
const TOKENS_MAX: usize = 128 * 1024;

/// A request for tokens.
#[derive(Debug)]
pub struct TokenizeRequest {
    pub model: ModelAlias,
    pub source: TokenSource,
    pub form: TokenForm,
}

/// What is to be read.
#[derive(Debug)]
pub enum TokenSource {
    Text(TextToRead),
    Chat(Box<ChatRequest>),
}

/// How the tokens are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenForm {
    /// llama-server's.
    Ids,
    /// llama-server's, with the bytes of each.
    Pieces,
    /// vLLM's.
    Counted { shows_texts: bool },
}

/// Reads a request for tokens.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_tokenize(body: &Bytes) -> Result<TokenizeRequest, BadRequest> {
    let mut fields = open(body, "'content'")?;
    let names = ["content", "prompt", "messages"];
    let given: Vec<&str> = names.into_iter().filter(|name| fields.has(name)).collect();
    match given[..] {
        ["content"] => read_content(&mut fields),
        ["prompt"] => read_prompt(&mut fields),
        ["messages"] => read_messages(fields, body),
        [] => Err(fault::missing(&Path::Root.field("content"))),
        _ => Err(fault::invalid(
            &Path::Root.field(given[1]),
            format_args!("it cannot stand beside '{}'. Send one of them.", given[0]),
        )),
    }
}

fn read_content(fields: &mut Fields<'_>) -> Result<TokenizeRequest, BadRequest> {
    let model = read_model(fields)?;
    let parts = read_parts(fields.required("content")?)?;
    let pieces = fields.boolean("with_pieces")?.unwrap_or(false);
    Ok(TokenizeRequest {
        model,
        source: TokenSource::Text(TextToRead {
            parts,
            adds_special: fields.boolean("add_special")?.unwrap_or(false),
            reads_special: fields.boolean("parse_special")?.unwrap_or(true),
        }),
        form: if pieces {
            TokenForm::Pieces
        } else {
            TokenForm::Ids
        },
    })
}

fn read_parts(value: Value) -> Result<Vec<TextPart>, BadRequest> {
    let path = Path::Root.field("content");
    let expected = "a string or an array of strings and tokens";
    let items = match value {
        Value::String(text) => return Ok(vec![TextPart::Text(text)]),
        Value::Array(items) => array(&path, Value::Array(items), 0, PARTS_MAX)?,
        other => return Err(fault::wrong_type(&path, expected, &other)),
    };
    items
        .into_iter()
        .enumerate()
        .map(|(at, item)| match item {
            Value::String(text) => Ok(TextPart::Text(text)),
            other => token(&path.index(at), "a string or a token", &other).map(TextPart::Token),
        })
        .collect()
}

fn read_prompt(fields: &mut Fields<'_>) -> Result<TokenizeRequest, BadRequest> {
    let model = read_model(fields)?;
    let text = match fields.required("prompt")? {
        Value::String(text) => text,
        other => return Err(fields.wrong_type("prompt", "a string", &other)),
    };
    Ok(TokenizeRequest {
        model,
        source: TokenSource::Text(TextToRead {
            parts: vec![TextPart::Text(text)],
            adds_special: fields.boolean("add_special_tokens")?.unwrap_or(true),
            reads_special: true,
        }),
        form: counted(fields)?,
    })
}

fn read_messages(mut fields: Fields<'_>, body: &Bytes) -> Result<TokenizeRequest, BadRequest> {
    let form = counted(&mut fields)?;
    // The template writes what stands at either end.
    fields.boolean("add_special_tokens")?;
    let chat = read_chat(fields, body)?;
    Ok(TokenizeRequest {
        model: chat.model.clone(),
        source: TokenSource::Chat(Box::new(chat)),
        form,
    })
}

fn counted(fields: &mut Fields<'_>) -> Result<TokenForm, BadRequest> {
    let shows_texts = fields.boolean("return_token_strs")?.unwrap_or(false);
    Ok(TokenForm::Counted { shows_texts })
}

/// A request for the text of tokens.
#[derive(Debug)]
pub struct DetokenizeRequest {
    pub model: ModelAlias,
    pub tokens: Vec<u32>,
    /// vLLM's requests name a model and llama-server's do not: so the text goes by both its names
    /// only where somebody may look for it.
    pub names_model: bool,
}

/// Reads a request for the text of tokens.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_detokenize(body: &Bytes) -> Result<DetokenizeRequest, BadRequest> {
    let mut fields = open(body, "'tokens'")?;
    let names_model = fields.has("model");
    let model = read_model(&mut fields)?;
    let path = Path::Root.field("tokens");
    let tokens = array(&path, fields.required("tokens")?, 0, TOKENS_MAX)?
        .iter()
        .enumerate()
        .map(|(at, item)| token(&path.index(at), "a token, which is not negative", item))
        .collect::<Result<_, _>>()?;
    Ok(DetokenizeRequest {
        model,
        tokens,
        names_model,
    })
}

fn token(path: &Path<'_>, expected: &str, item: &Value) -> Result<u32, BadRequest> {
    match item.as_u64() {
        Some(token) if token < TOKEN_ID_MAX => Ok(u32::try_from(token).unwrap_or(0)),
        Some(token) => Err(fault::above_max(path, "integer", TOKEN_ID_MAX - 1, token)),
        None => Err(fault::wrong_type(path, expected, item)),
    }
}

/// Reads a request for a prompt: a chat's body, whose `model` may be left out.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_template(body: &Bytes) -> Result<ChatRequest, BadRequest> {
    read_chat(open(body, "'messages'")?, body)
}

fn open(body: &Bytes, wanted: &str) -> Result<Fields<'static>, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: format!("Invalid type for the body: expected a JSON object with {wanted}."),
        });
    }
    Fields::open(Path::Root, value)
}

#[derive(Serialize)]
struct Tokens<'a> {
    tokens: Vec<Token<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Token<'a> {
    Id(u32),
    Piece { id: u32, piece: Piece<'a> },
}

/// A text, or bytes that are none.
#[derive(Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// The answer to a request for tokens.
#[must_use]
pub fn encode_tokens(
    tokens: &[ReadToken],
    form: TokenForm,
    context_tokens: Option<u32>,
) -> Vec<u8> {
    let written = |token| written(token, form);
    let (count, max_model_len, token_strs) = match form {
        TokenForm::Ids | TokenForm::Pieces => (None, None, None),
        TokenForm::Counted { shows_texts } => {
            let texts = || tokens.iter().map(text);
            let texts = shows_texts.then(|| texts().collect());
            (Some(tokens.len()), context_tokens, texts)
        }
    };
    json(&Tokens {
        tokens: tokens.iter().map(written).collect(),
        count,
        max_model_len,
        token_strs,
    })
}

fn written(token: &ReadToken, form: TokenForm) -> Token<'_> {
    if form != TokenForm::Pieces {
        return Token::Id(token.id);
    }
    Token::Piece {
        id: token.id,
        piece: match std::str::from_utf8(&token.piece) {
            Ok(text) => Piece::Text(text),
            Err(_) => Piece::Bytes(&token.piece),
        },
    }
}

fn text(token: &ReadToken) -> String {
    String::from_utf8_lossy(&token.piece).into_owned()
}

/// The answer to a request for text. Bytes that are none become U+FFFD.
#[must_use]
pub fn encode_content(bytes: &[u8], names_model: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Content<'a> {
        content: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        prompt: Option<&'a str>,
    }
    let content = &*String::from_utf8_lossy(bytes);
    json(&Content {
        content,
        prompt: names_model.then_some(content),
    })
}

/// The answer to a request for a prompt.
#[must_use]
pub fn encode_prompt(prompt: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Prompt<'a> {
        prompt: &'a str,
    }
    json(&Prompt { prompt })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers always serialize")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(value: &Value) -> Bytes {
        Bytes::from(value.to_string())
    }

    fn parts(source: &TokenSource) -> (&[TextPart], bool, bool) {
        match source {
            TokenSource::Text(text) => (&text.parts, text.adds_special, text.reads_special),
            TokenSource::Chat(_) => panic!("no text"),
        }
    }

    #[test]
    fn both_servers_forms_are_told_by_their_fields() {
        let text = |text: &str| TextPart::Text(text.to_owned());
        let counted = |shows_texts| TokenForm::Counted { shows_texts };
        for (body, expected, form) in [
            (
                json!({"content": "a"}),
                (vec![text("a")], false, true),
                TokenForm::Ids,
            ),
            (
                json!({"content": "", "add_special": true, "parse_special": false, "with_pieces": true}),
                (vec![text("")], true, false),
                TokenForm::Pieces,
            ),
            (
                json!({"content": ["a", 7, "b"], "model": "m"}),
                (vec![text("a"), TextPart::Token(7), text("b")], false, true),
                TokenForm::Ids,
            ),
            (
                json!({"prompt": "a"}),
                (vec![text("a")], true, true),
                counted(false),
            ),
            (
                json!({"prompt": "a", "add_special_tokens": false, "return_token_strs": true}),
                (vec![text("a")], false, true),
                counted(true),
            ),
        ] {
            let request = decode_tokenize(&bytes(&body)).unwrap();
            let (parts, adds, reads) = parts(&request.source);
            assert_eq!((parts.to_vec(), adds, reads), expected, "{body}");
            assert_eq!(request.form, form, "{body}");
            let model = body["model"].as_str().unwrap_or("local");
            assert_eq!(request.model.as_str(), model);
        }
    }

    #[test]
    fn a_chats_body_needs_no_model() {
        let body =
            json!({"messages": [{"role": "user", "content": "a"}], "return_token_strs": true});
        let chat = decode_template(&bytes(&body)).unwrap();
        assert_eq!((chat.model.as_str(), chat.messages.len()), ("local", 1));
        let request = decode_tokenize(&bytes(&body)).unwrap();
        assert!(matches!(request.source, TokenSource::Chat(_)));
        assert_eq!(request.form, TokenForm::Counted { shows_texts: true });
    }

    #[test]
    fn faults_are_named_with_their_place() {
        for (body, param) in [
            (json!([]), None),
            (json!({}), Some("content")),
            (json!({"content": null}), Some("content")),
            (json!({"content": 1}), Some("content")),
            (json!({"content": ["a", -1]}), Some("content[1]")),
            (json!({"content": ["a", {}]}), Some("content[1]")),
            (json!({"content": [99_999_999]}), Some("content[0]")),
            (json!({"content": "a", "prompt": "a"}), Some("prompt")),
            (
                json!({"content": "a", "add_special": 1}),
                Some("add_special"),
            ),
            (
                json!({"content": "a", "with_pieces": "yes"}),
                Some("with_pieces"),
            ),
            (json!({"content": "a", "model": ""}), Some("model")),
            (json!({"prompt": ["a"]}), Some("prompt")),
            (json!({"messages": []}), Some("messages")),
            (
                json!({"messages": [{"role": "x", "content": "a"}]}),
                Some("messages[0].role"),
            ),
        ] {
            let fault = decode_tokenize(&bytes(&body)).unwrap_err();
            assert_eq!(fault.param.as_deref(), param, "{body} {fault:?}");
        }
        for (body, param) in [
            (json!({}), "tokens"),
            (json!({"tokens": "a"}), "tokens"),
            (json!({"tokens": [1, "a"]}), "tokens[1]"),
            (json!({"tokens": [1.5]}), "tokens[0]"),
            (json!({"tokens": [-1]}), "tokens[0]"),
            (json!({"tokens": vec![1; TOKENS_MAX + 1]}), "tokens"),
        ] {
            let fault = decode_detokenize(&bytes(&body)).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(param), "{fault:?}");
        }
    }

    #[test]
    fn answers_are_written_as_each_server_writes_them() {
        let tokens = [
            ReadToken {
                id: 7,
                piece: b" a".to_vec(),
            },
            ReadToken {
                id: 9,
                piece: vec![0xC3],
            },
        ];
        let written = |form| -> Value {
            serde_json::from_slice(&encode_tokens(&tokens, form, Some(64))).unwrap()
        };
        assert_eq!(written(TokenForm::Ids), json!({"tokens": [7, 9]}));
        let pieces = json!({"tokens": [{"id": 7, "piece": " a"}, {"id": 9, "piece": [195]}]});
        assert_eq!(written(TokenForm::Pieces), pieces);
        let counted = written(TokenForm::Counted { shows_texts: true });
        assert_eq!(
            counted,
            json!({
                "tokens": [7, 9], "count": 2, "max_model_len": 64, "token_strs": [" a", "\u{FFFD}"],
            })
        );
        let read = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
        assert_eq!(
            read(encode_content(b"a\xC3", false)),
            json!({"content": "a\u{FFFD}"})
        );
        let both = json!({"content": "a", "prompt": "a"});
        assert_eq!(read(encode_content(b"a", true)), both);
        assert_eq!(read(encode_prompt("a\n")), json!({"prompt": "a\n"}));
    }
}

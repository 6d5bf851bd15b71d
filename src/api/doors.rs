//! Which dialect is spoken at which path.

use axum::body::Body;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, Response, StatusCode, Uri};
use wire::anthropic::Messages;
use wire::completions::Completions;
use wire::gemini::{GenerateContent, StreamGenerateContent};
use wire::openai::{Chat, ErrorBody};
use wire::responses::Responses;
use wire::{Address, ServerDialect, ollama};

pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS_PATH: &str = "/v1/completions";
pub(crate) const RESPONSES_PATH: &str = "/v1/responses";
pub(crate) const MESSAGES_PATH: &str = "/v1/messages";
/// What every path of Google's dialect begins with.
pub(crate) const GEMINI_PATH: &str = "/v1beta/models/";

/// Sent by every client that speaks Anthropic's API, wherever it turns.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Where chats are asked for.
#[derive(Clone, Copy, Debug)]
enum Door {
    /// At this path alone. What lies below it speaks its dialect too.
    Path(&'static str),
    /// Between these two stands the model.
    Model {
        before: &'static str,
        after: &'static str,
    },
}

/// Where chats are asked for, and in what dialect.
const CHATS: [(Door, &dyn ServerDialect); 8] = [
    (Door::Path(CHAT_PATH), &Chat),
    (Door::Path(COMPLETIONS_PATH), &Completions),
    (Door::Path(RESPONSES_PATH), &Responses),
    (Door::Path(MESSAGES_PATH), &Messages),
    (Door::Path("/api/chat"), &ollama::Chat),
    (Door::Path("/api/generate"), &ollama::Generate),
    (
        Door::Model {
            before: GEMINI_PATH,
            after: ":generateContent",
        },
        &GenerateContent,
    ),
    (
        Door::Model {
            before: GEMINI_PATH,
            after: ":streamGenerateContent",
        },
        &StreamGenerateContent,
    ),
];

/// Whole APIs, whatever is asked there.
const APIS: [(Door, &dyn ServerDialect); 1] = [(Door::Path("/api"), &ollama::Chat)];

impl Door {
    /// What `uri` says beside the way here; `None` where it leads elsewhere.
    fn address(self, uri: &Uri) -> Option<Address> {
        match self {
            Door::Path(path) => (uri.path() == path).then(Address::default),
            Door::Model { before, after } => {
                let model = uri.path().strip_prefix(before)?.strip_suffix(after)?;
                Some(Address {
                    model: Some(percent_decoded(model)?),
                    query: uri.query().map(str::to_owned),
                })
            }
        }
    }

    /// Whether refusals at `path` are written as they are here.
    fn is_above(self, path: &str) -> bool {
        match self {
            Door::Path(known) => path
                .strip_prefix(known)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Door::Model { before, .. } => path.starts_with(before),
        }
    }
}

/// The dialect of chats that are posted to `uri`, and what of the chat stands in it.
pub(crate) fn chat_at(uri: &Uri) -> Option<(&'static dyn ServerDialect, Address)> {
    let mut chats = CHATS.into_iter();
    chats.find_map(|(door, dialect)| Some((dialect, door.address(uri)?)))
}

/// The paths of chats that name no model.
pub(crate) fn chat_paths() -> impl Iterator<Item = &'static str> {
    CHATS.into_iter().filter_map(|(door, _)| match door {
        Door::Path(path) => Some(path),
        Door::Model { .. } => None,
    })
}

/// The dialect that a caller of `path` reads refusals in, where it is not OpenAI's.
pub(crate) fn refuser(path: &str, headers: &HeaderMap) -> Option<&'static dyn ServerDialect> {
    let mut doors = CHATS.into_iter().chain(APIS);
    let door = doors.find(|(door, _)| door.is_above(path));
    let by_path = door.map(|(_, dialect)| dialect);
    by_path.or_else(|| speaks_anthropic(headers).then_some(&Messages as &dyn ServerDialect))
}

/// Whether a caller of a path that several APIs have expects Anthropic's.
pub(crate) fn speaks_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key(ANTHROPIC_VERSION)
}

/// `None` for what is no text once decoded. A `%` that begins no byte stands for itself.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a refusal says, kept with its response until it is known in which dialect.
#[derive(Clone, Debug)]
pub(crate) struct Said(pub ErrorBody);

/// Writes a refusal anew, as clients of `dialect` read it.
pub(crate) fn restyle(
    response: &mut Response<Body>,
    dialect: Option<&'static dyn ServerDialect>,
    request_id: &str,
) {
    let said = response.extensions_mut().remove::<Said>();
    if let (Some(Said(error)), Some(dialect)) = (said, dialect) {
        let status = response.status().as_u16();
        *response.body_mut() = Body::from(dialect.refusal(status, &error, request_id));
        let known = StatusCode::from_u16(dialect.status(status));
        *response.status_mut() = known.unwrap_or(response.status());
        // The router says how long the other body was.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
}

#[cfg(test)]
mod tests {
    use domain::Dialect;

    use super::*;

    fn check(uri: &str, model: Option<&str>, query: Option<&str>) {
        let address = chat_at(&uri.parse().unwrap()).map(|(_, address)| address);
        let expected = Address {
            model: model.map(str::to_owned),
            query: query.map(str::to_owned),
        };
        assert_eq!(address, Some(expected), "{uri}");
    }

    #[test]
    fn a_model_is_read_out_of_its_path() {
        check("/v1/chat/completions?x=1", None, None);
        check("/v1beta/models/tiny:generateContent", Some("tiny"), None);
        check(
            "/v1beta/models/cloud/a%2Fb%3A1:streamGenerateContent?alt=sse",
            Some("cloud/a/b:1"),
            Some("alt=sse"),
        );
        check("/v1beta/models/a%zz%:generateContent", Some("a%zz%"), None);
    }

    #[test]
    fn other_paths_are_no_chats() {
        for uri in [
            "/v1/chat/completions/",
            "/v1beta/models/tiny",
            "/v1beta/models/tiny:countTokens",
            "/v1beta/models/a%ff:generateContent",
            "/models/tiny:generateContent",
        ] {
            assert!(chat_at(&uri.parse().unwrap()).is_none(), "{uri}");
        }
    }

    #[test]
    fn refusals_speak_the_dialect_of_their_path_or_else_the_callers() {
        let mut anthropics = HeaderMap::new();
        anthropics.insert(ANTHROPIC_VERSION, "2023-06-01".parse().unwrap());
        let (openai, gemini) = (Some(Dialect::OpenAi), Some(Dialect::Gemini));
        let anthropic = Some(Dialect::Anthropic);
        for (path, dialect, with_header) in [
            ("/v1/chat/completions", openai, openai),
            ("/v1/chat/completions/x", openai, openai),
            ("/v1beta/models/a:nothing", gemini, gemini),
            ("/v1/messages/count_tokens", anthropic, anthropic),
            ("/v1/embeddings", None, anthropic),
            ("/v1/models", None, anthropic),
        ] {
            let of = |headers: &HeaderMap| refuser(path, headers).map(ServerDialect::dialect);
            assert_eq!(of(&HeaderMap::new()), dialect, "{path}");
            assert_eq!(of(&anthropics), with_header, "{path}");
        }
    }
}

//! Which dialect is spoken at which path.

use axum::body::Body;
use http::header::CONTENT_LENGTH;
use http::{Response, Uri};
use wire::completions::Completions;
use wire::gemini::{GenerateContent, StreamGenerateContent};
use wire::openai::{Chat, ErrorBody};
use wire::responses::Responses;
use wire::{Address, ServerDialect, ollama};

pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS_PATH: &str = "/v1/completions";
pub(crate) const RESPONSES_PATH: &str = "/v1/responses";
/// What every path of Google's dialect begins with.
pub(crate) const GEMINI_PATH: &str = "/v1beta/models/";

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
const CHATS: [(Door, &dyn ServerDialect); 7] = [
    (Door::Path(CHAT_PATH), &Chat),
    (Door::Path(COMPLETIONS_PATH), &Completions),
    (Door::Path(RESPONSES_PATH), &Responses),
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

/// The dialect that refusals at `path` are written in, where it is not OpenAI's.
fn refuser_at(path: &str) -> Option<&'static dyn ServerDialect> {
    let mut doors = CHATS.into_iter().chain(APIS);
    let door = doors.find(|(door, _)| door.is_above(path));
    door.map(|(_, dialect)| dialect)
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

/// Writes a refusal's body anew, as clients of `path` read it.
pub(crate) fn restyle(response: &mut Response<Body>, path: &str, request_id: &str) {
    let Some(Said(error)) = response.extensions_mut().remove::<Said>() else {
        return;
    };
    if let Some(dialect) = refuser_at(path) {
        let status = response.status().as_u16();
        // Of the body as it was: the router has counted it already.
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(dialect.refusal(status, &error, request_id));
    }
}

#[cfg(test)]
mod tests {
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
    fn refusals_speak_the_dialect_of_their_path() {
        for (path, dialect) in [
            ("/v1/chat/completions", Some(domain::Dialect::OpenAi)),
            ("/v1/chat/completions/x", Some(domain::Dialect::OpenAi)),
            ("/v1beta/models/a:nothing", Some(domain::Dialect::Gemini)),
            ("/v1/embeddings", None),
        ] {
            let refuser = refuser_at(path).map(ServerDialect::dialect);
            assert_eq!(refuser, dialect, "{path}");
        }
    }
}

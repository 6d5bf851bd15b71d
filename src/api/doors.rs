//! Which dialect is spoken at which path.

use axum::body::Body;
use http::Response;
use wire::ServerDialect;
use wire::openai::{Chat, ErrorBody};

pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";

/// Where chats are asked for, and in what dialect. What lies below such a path speaks it too.
const CHATS: [(&str, &dyn ServerDialect); 1] = [(CHAT_PATH, &Chat)];

/// The dialect of chats that are posted to exactly `path`.
pub(crate) fn chat_at(path: &str) -> Option<&'static dyn ServerDialect> {
    let chat = CHATS.into_iter().find(|(known, _)| *known == path);
    chat.map(|(_, dialect)| dialect)
}

pub(crate) fn chat_paths() -> impl Iterator<Item = &'static str> {
    CHATS.into_iter().map(|(path, _)| path)
}

/// The dialect that refusals at `path` are written in, where it is not OpenAI's.
fn refuser_at(path: &str) -> Option<&'static dyn ServerDialect> {
    let below = |known: &str| {
        let rest = path.strip_prefix(known)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(())
    };
    let door = CHATS.into_iter().find(|(known, _)| below(known).is_some());
    door.map(|(_, dialect)| dialect)
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
        *response.body_mut() = Body::from(dialect.refusal(status, &error, request_id));
    }
}

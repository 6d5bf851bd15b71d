//! What was kept of earlier responses, as a request for the next one asks for it.

use domain::{BadRequest, StoredItem, StoredResponse, TeamShelf};
use serde_json::Value;

use crate::request_fault as fault;

/// Responses that one may follow on. A conversation this long has far outgrown any context.
const FOLLOWED_MAX: usize = 1_000;
/// Bytes of items, so that a few words cannot make the server read everything it keeps.
const FOLLOWED_BYTES_MAX: usize = 32 << 20;
/// Of a random part of a response's id, in hexadecimal: what its items' ids begin with.
const STEM_BYTES: usize = 32;

/// All that was said up to and with the response `id`, in order.
///
/// # Errors
/// The response, or one that it goes on from, is not there, or broke off, or they are too many.
pub(super) fn conversation(shelf: Option<&TeamShelf>, id: &str) -> Result<Vec<Value>, BadRequest> {
    let Some(shelf) = shelf else {
        let why = "This server keeps no responses; send the whole conversation as 'input'.";
        return Err(fault::unsupported(&PREVIOUS, why));
    };
    let mut turns = Vec::new();
    let mut bytes = 0_usize;
    let mut next = Some(id.to_owned());
    while let Some(id) = next.take() {
        let turn = shelf.find(&id).ok_or_else(|| not_found(&id))?;
        if !turn.is_whole {
            let said = format!(
                "the response '{}' broke off, so nothing can go on from it.",
                fault::shown(&id)
            );
            return Err(fault::invalid(&PREVIOUS, said));
        }
        bytes = bytes.saturating_add(turn.bytes());
        if turns.len() >= FOLLOWED_MAX || bytes > FOLLOWED_BYTES_MAX {
            let said = format!(
                "the conversation is too long: at most {FOLLOWED_MAX} responses and \
                 {FOLLOWED_BYTES_MAX} bytes can be gone on from. Begin anew."
            );
            return Err(fault::invalid(&PREVIOUS, said));
        }
        next.clone_from(&turn.previous);
        turns.push(turn);
    }
    let items = turns.iter().rev().flat_map(|turn| items(turn));
    let items: Option<Vec<Value>> = items.map(read).collect();
    items.ok_or_else(|| not_found(id))
}

/// One item of a response that is kept: its id begins as the response's does.
pub(super) fn item(shelf: Option<&TeamShelf>, id: &str) -> Option<Value> {
    let (_, rest) = id.split_once('_')?;
    let response = format!("resp_{}", rest.get(..STEM_BYTES)?);
    let kept = shelf?.find(&response)?;
    let item = items(&kept).find(|item| item.id == id)?;
    read(item)
}

const PREVIOUS: &str = "previous_response_id";

fn items(turn: &StoredResponse) -> impl Iterator<Item = &StoredItem> {
    turn.input.iter().chain(&turn.output)
}

fn read(item: &StoredItem) -> Option<Value> {
    serde_json::from_slice(&item.json).ok()
}

/// In OpenAI's words, by whose code clients know that they must send everything again.
fn not_found(id: &str) -> BadRequest {
    let said = format!(
        "Previous response with id '{}' not found.",
        fault::shown(id)
    );
    BadRequest::at(PREVIOUS, said).with_code("previous_response_not_found")
}

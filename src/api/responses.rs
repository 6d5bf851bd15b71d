//! Responses that are kept: what one begins from, and what is asked about one later.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use domain::{BadRequest, ChatRequest, Fault, Principal, ResponseShelf, StoredResponse};
use http::{HeaderMap, Response};
use serde::Deserialize;
use wire::responses::{Encoder, ItemsWanted, encode_deleted, encode_items};

use crate::asked::json;
use crate::auth::principal;
use crate::error::refusal;
use crate::server::Api;

/// Puts the response that is gone on from under the request, and has the new one kept.
pub(crate) fn settle(
    api: &Api,
    principal: &Principal,
    request: &mut ChatRequest,
    encoder: &mut Encoder,
) -> Result<(), Fault> {
    let shelf = api.shelf.as_ref();
    if let Some(previous) = encoder.previous() {
        let shelf = shelf.ok_or_else(not_kept)?;
        let before = shelf.find(&principal.team, previous);
        let before = before.ok_or_else(|| no_previous(previous))?;
        encoder.follow(request, before.said.clone());
    }
    if let Some(shelf) = shelf {
        let (shelf, team) = (Arc::clone(shelf), principal.team.clone());
        encoder.keep_with(
            request,
            Box::new(move |response| shelf.keep(&team, response)),
        );
    }
    Ok(())
}

fn no_previous(id: &str) -> Fault {
    let shown: String = id.chars().take(64).collect();
    let message = format!(
        "Previous response with id '{shown}' not found: it was not kept, its time is over, or it is \
         another team's."
    );
    let fault = BadRequest::at("previous_response_id", message);
    Fault::BadRequest(fault.with_code("previous_response_not_found"))
}

fn not_kept() -> Fault {
    let message = "Responses are not kept here; send the whole conversation as 'input'.";
    Fault::BadRequest(BadRequest::at("previous_response_id", message))
}

pub(crate) async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    asked: Asked<Retrieval>,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(Query(asked)) = asked else {
        return refusal(&malformed());
    };
    if asked.stream == Some(true) {
        let message = "Kept responses are not streamed again; leave 'stream' out.";
        return refusal(&Fault::BadRequest(BadRequest::at("stream", message)));
    }
    match find(&api, &headers, &id) {
        Ok((found, _, _)) => json(found.object.to_vec()),
        Err(fault) => refusal(&fault),
    }
}

/// What may be asked of a retrieval.
#[derive(Debug, Deserialize)]
pub(crate) struct Retrieval {
    stream: Option<bool>,
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    match find(&api, &headers, &id) {
        Ok((_, shelf, principal)) if shelf.remove(&principal.team, &id) => {
            json(encode_deleted(&id))
        }
        Ok(_) => refusal(&Fault::NotFound),
        Err(fault) => refusal(&fault),
    }
}

/// Which items are asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Paging {
    limit: Option<usize>,
    after: Option<String>,
    order: Option<String>,
}

pub(crate) async fn items(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    paging: Asked<Paging>,
    headers: HeaderMap,
) -> Response<Body> {
    let Ok(Query(paging)) = paging else {
        return refusal(&malformed());
    };
    let listed = find(&api, &headers, &id).and_then(|(found, ..)| {
        let wanted = wanted(paging)?;
        encode_items(&found, &wanted).ok_or_else(|| {
            let message = "There is no item of this id; leave it out for the first page.";
            Fault::BadRequest(BadRequest::at("after", message))
        })
    });
    match listed {
        Ok(list) => json(list),
        Err(fault) => refusal(&fault),
    }
}

fn wanted(paging: Paging) -> Result<ItemsWanted, Fault> {
    let bad = |param: &str, message: String| Fault::BadRequest(BadRequest::at(param, message));
    let count_max = paging.limit.unwrap_or(ItemsWanted::COUNT_DEFAULT);
    if !(1..=ItemsWanted::COUNT_MAX).contains(&count_max) {
        let message = format!("expected 1 to {}", ItemsWanted::COUNT_MAX);
        return Err(bad("limit", message));
    }
    let is_ascending = match paging.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(bad("order", "expected 'asc' or 'desc'".into())),
    };
    Ok(ItemsWanted {
        count_max,
        after: paging.after,
        is_ascending,
    })
}

/// What follows the `?`, or that it makes no sense.
type Asked<T> = Result<Query<T>, QueryRejection>;

fn malformed() -> Fault {
    Fault::BadRequest(BadRequest {
        param: None,
        code: None,
        message:
            "The address's query cannot be read: a value is of the wrong type, or a name comes \
                  twice."
                .into(),
    })
}

/// Nothing runs in the background here, so there is nothing to cancel.
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    match find(&api, &headers, &id) {
        Ok(_) => {
            let message =
                "Only responses made in the background can be cancelled, and none is here.";
            refusal(&Fault::BadRequest(BadRequest {
                param: None,
                code: None,
                message: message.into(),
            }))
        }
        Err(fault) => refusal(&fault),
    }
}

type Found<'a> = (Arc<StoredResponse>, &'a dyn ResponseShelf, Principal);

/// An id that nobody has, and one that another team has, are answered alike.
fn find<'a>(api: &'a Api, headers: &HeaderMap, id: &str) -> Result<Found<'a>, Fault> {
    let principal = principal(&api.pipeline, headers)?;
    let shelf = api.shelf.as_deref().ok_or(Fault::NotFound)?;
    let found = shelf.find(&principal.team, id).ok_or(Fault::NotFound)?;
    Ok((found, shelf, principal))
}

//! Responses that are kept, as callers read and forget them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use domain::{BadRequest, Fault, Principal, StoredResponse, TeamShelf};
use http::{Extensions, HeaderMap, Response};
use wire::responses::{ListQuery, encode_deleted, encode_list, response_object};

use crate::asked::json;
use crate::auth::principal;
use crate::error::{refusal, refusal_with_hint};
use crate::server::Api;

/// What `principal` may see of what is kept; `None` where nothing is.
pub(crate) fn team_shelf(api: &Api, principal: &Principal) -> Option<TeamShelf> {
    let shelf = api.shelf.as_ref()?;
    let own = TeamShelf::new(Arc::clone(shelf), principal.team.clone());
    Some(own.tagged(principal.tags.clone()))
}

/// What follows the `?`, in order, or that it makes no sense.
type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

pub(crate) async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    asked: Asked,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    answer(&api, &extensions, &headers, &id, |_, found| {
        if fields(&asked)?.any(|field| field == ("stream", "true")) {
            let message = "Kept responses are not streamed again; leave 'stream' out.";
            return Err(Fault::BadRequest(BadRequest::at("stream", message)));
        }
        Ok(response_object(&found.head, &found.output))
    })
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    answer(
        &api,
        &extensions,
        &headers,
        &id,
        |shelf, found| match shelf.remove(&found.id) {
            true => Ok(encode_deleted(&found.id)),
            false => Err(Fault::NotFound),
        },
    )
}

pub(crate) async fn items(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    asked: Asked,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    answer(&api, &extensions, &headers, &id, |_, found| {
        let query = ListQuery::read(fields(&asked)?).map_err(Fault::BadRequest)?;
        encode_list(&found.input, &query).map_err(Fault::BadRequest)
    })
}

/// Nothing runs in the background here, so there is nothing to cancel.
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    answer(&api, &extensions, &headers, &id, |_, _| {
        Err(bad(
            "Only responses made in the background can be cancelled, and none is here.",
        ))
    })
}

/// Answers about the kept response `id`. One that nobody has, and one that another team has, are
/// answered alike.
fn answer(
    api: &Api,
    extensions: &Extensions,
    headers: &HeaderMap,
    id: &str,
    say: impl FnOnce(&TeamShelf, &StoredResponse) -> Result<Vec<u8>, Fault>,
) -> Response<Body> {
    let principal = match principal(api, extensions, headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    let shelf = team_shelf(api, &principal);
    let Some((shelf, found)) = shelf.and_then(|shelf| shelf.find(id).map(|it| (shelf, it))) else {
        return refusal_with_hint(&Fault::NotFound, Some(NOT_KEPT));
    };
    match say(&shelf, &found) {
        Ok(body) => json(body),
        Err(fault) => refusal(&fault),
    }
}

const NOT_KEPT: &str = "no response of this id is kept: it never was, or its time is over";

fn fields(asked: &Asked) -> Result<impl Iterator<Item = (&str, &str)>, Fault> {
    match asked {
        Ok(Query(fields)) => {
            let fields = fields.iter();
            Ok(fields.map(|(name, value)| (name.as_str(), value.as_str())))
        }
        Err(_) => Err(bad("The address's query cannot be read.")),
    }
}

fn bad(message: &str) -> Fault {
    Fault::BadRequest(BadRequest {
        param: None,
        code: None,
        message: message.to_owned(),
    })
}

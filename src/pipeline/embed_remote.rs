//! Embeddings by an upstream: masked as chats are, and charged as they are.
//!
//! Only a caller who names an upstream's model gets here: vectors of different models mean different
//! things, so no rule chooses among them, and an alias tries its targets in order.

use std::sync::Arc;

use domain::{
    Backend, BackendCard, BackendError, BadRequest, ChatRequest, Classify, EmbedInput,
    EmbedRequest, Embeddings, Fault, Findings, Message, ModelAlias, Outbound, Outcome, Principal,
    RequestId, Role, RouteTaken, Tier, Tokens, Usage,
};
use policy::{Asked, Target};

use crate::answer::RouteLabel;
use crate::embed::{Embedded, REASON, shorten};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;

/// An upstream, and what it calls the model.
pub(crate) struct Place {
    backend: Arc<dyn Backend>,
    model: String,
}

/// The upstreams that `asked` names. Empty where it names something else.
pub(crate) fn places(asked: &ModelAlias, snapshot: &Snapshot) -> Vec<Place> {
    let targets = match policy::resolve(asked, &snapshot.roster()) {
        Ok(Asked::Exactly(targets)) => targets,
        Ok(Asked::Auto) | Err(_) => Vec::new(),
    };
    let place = |target: Target| {
        let backend = Arc::clone(snapshot.backends().get(target.backend)?);
        (backend.card().tier == Tier::Upstream).then_some(Place {
            backend,
            model: target.model,
        })
    };
    targets.into_iter().filter_map(place).collect()
}

/// Asks one after the other until one answers.
pub(crate) async fn embed(
    places: Vec<Place>,
    principal: &Principal,
    request_id: RequestId,
    request: EmbedRequest,
    snapshot: &Arc<Snapshot>,
    receipt: &mut Receipt,
) -> Result<Embedded, Fault> {
    let dimensions = request.dimensions;
    let texts = texts(request)?;
    let (texts, findings) = scanned(texts, snapshot).await?;
    receipt.note_prompt(&texts);
    let masked_count = u32::try_from(findings.iter().count()).unwrap_or(u32::MAX);
    receipt.note(|record| record.masked_count = masked_count);
    let mut first_error = None;
    for place in places {
        let card = place.backend.card();
        note_route(card, &place.model, snapshot, receipt);
        let call = Outbound::seal(
            request_id.clone(),
            place.model.clone(),
            texts.clone(),
            &findings,
            card.trust,
        )
        .for_team(principal.team.clone());
        match place.backend.embed(call, dimensions).await {
            Ok(embeddings) => return Ok(answered(&place, embeddings, dimensions, receipt)),
            Err(error) => {
                let failed = (card.name.clone(), error.as_label());
                receipt.note(|record| record.failed_candidates.push(failed));
                let is_last = !error.may_try_next();
                let error = first_error.get_or_insert(error);
                if is_last {
                    return Err(error.fault());
                }
            }
        }
    }
    let error = first_error.unwrap_or(BackendError::Unreachable("there is no upstream"));
    Err(error.fault())
}

/// The texts as messages, one each: what leaves is masked where chats are. Tokens are written out,
/// for what is in them has to be looked through.
fn texts(request: EmbedRequest) -> Result<ChatRequest, Fault> {
    let mut messages = Vec::with_capacity(request.inputs.len());
    for (at, input) in request.inputs.into_iter().enumerate() {
        let text = match input {
            EmbedInput::Text(text) => Some(text),
            EmbedInput::Tokens(tokens) => policy::embed_text(request.model.as_str(), &tokens),
        };
        let text = text.filter(|text| !text.is_empty()).ok_or_else(|| {
            let words = "this model's tokens cannot be read here; send text";
            Fault::BadRequest(BadRequest::at(format!("input[{at}]"), words))
        })?;
        messages.push(Message::new(Role::User, text));
    }
    Ok(ChatRequest::new(request.model, messages))
}

/// Two thousand texts may take a while to look through.
pub(crate) async fn scanned(
    texts: ChatRequest,
    snapshot: &Arc<Snapshot>,
) -> Result<(ChatRequest, Findings), Fault> {
    let snapshot = Arc::clone(snapshot);
    let work = tokio::task::spawn_blocking(move || {
        let findings = snapshot.scan().scan(&texts)?;
        Ok((texts, findings))
    });
    work.await.unwrap_or(Err(Fault::Internal))
}

pub(crate) fn note_route(
    card: &BackendCard,
    model: &str,
    snapshot: &Snapshot,
    receipt: &mut Receipt,
) {
    let route = RouteTaken {
        backend: card.name.clone(),
        model: model.to_owned(),
        is_local: card.is_local(),
    };
    receipt.note(|record| record.route = Some(route));
    receipt.note_price_of_route(snapshot);
}

fn answered(
    place: &Place,
    mut embeddings: Embeddings,
    dimensions: Option<u32>,
    receipt: &mut Receipt,
) -> Embedded {
    // Some providers pass over what they do not know.
    if let Some(dimensions) = dimensions {
        let long = |vector: &&mut Vec<f32>| vector.len() > dimensions as usize;
        let vectors = embeddings.vectors.iter_mut().filter(long);
        vectors.for_each(|vector| shorten(vector, dimensions));
    }
    receipt.note_first_content();
    let usage = Usage {
        prompt_tokens: Tokens(embeddings.prompt_tokens),
        ..Usage::default()
    };
    receipt.note(|record| {
        record.outcome = Outcome::Answered;
        // One that does not count is counted here.
        record.usage = (embeddings.prompt_tokens > 0).then_some(usage);
    });
    Embedded {
        model: place.model.clone(),
        route: RouteLabel::Cloud {
            backend: place.backend.card().name.clone(),
        },
        reason: REASON,
        embeddings,
    }
}

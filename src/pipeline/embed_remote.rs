//! Embeddings by an upstream: masked as chats are, and charged as they are.
//!
//! Only a caller who names an upstream's model gets here: vectors of different models mean different
//! things, so no rule chooses among them, and an alias tries its targets in order.

use std::sync::Arc;

use domain::{
    Backend, BadRequest, ChatRequest, EmbedInput, EmbedRequest, Embeddings, Fault, Message,
    ModelAlias, Outcome, Principal, RequestId, Role, Tier, Tokens, Usage,
};
use policy::{Asked, Target};

use crate::answer::RouteLabel;
use crate::embed::{Embedded, REASON, shorten};
use crate::in_turn::{Place, ask_in_turn};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;

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
    let ask = async |backend: Arc<dyn Backend>, call| backend.embed(call, dimensions).await;
    let asking = ask_in_turn(places, principal, request_id, texts, snapshot, receipt, ask);
    let (place, embeddings) = asking.await?;
    Ok(answered(&place, embeddings, dimensions, receipt))
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

//! Prompts that are no chats, and upstreams that are asked with them one after the other: masked as chats
//! are, and charged as they are.

use std::future::Future;
use std::sync::Arc;

use domain::{
    Backend, BackendError, ChatRequest, Classify, Fault, Findings, Outbound, Principal, RequestId,
    RouteTaken,
};

use policy::UNSEALED;

use crate::quota::{Extent, take_for};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;

/// An upstream, and what it calls the model.
pub(crate) struct Place {
    pub backend: Arc<dyn Backend>,
    pub model: String,
}

impl Place {
    fn route(&self) -> RouteTaken {
        let card = self.backend.card();
        RouteTaken {
            backend: card.name.clone(),
            model: self.model.clone(),
            is_local: card.is_local(),
        }
    }
}

/// Those of `places` that may be asked; whether a name is meant for one of them is settled by then.
///
/// # Errors
/// [`Fault::NoCandidate`] with the reasons, where none may.
fn lawful(places: Vec<Place>, snapshot: &Snapshot) -> Result<Vec<Place>, Fault> {
    let sealing = snapshot.routes().sealing();
    let is_lawful = |place: &Place| sealing.admits(place.backend.card());
    let (lawful, unlawful): (Vec<Place>, Vec<Place>) = places.into_iter().partition(is_lawful);
    if lawful.is_empty() && !unlawful.is_empty() {
        let reason = |place: &Place| {
            let name = &place.backend.card().name;
            format!("{name}/{}: {UNSEALED}", place.model)
        };
        let reasons = unlawful.iter().map(reason).collect();
        return Err(Fault::NoCandidate { reasons });
    }
    Ok(lawful)
}

/// Asks one after the other until one answers. `texts` has a message for each text.
pub(crate) async fn ask_in_turn<T, F>(
    places: Vec<Place>,
    principal: &Principal,
    request_id: RequestId,
    texts: ChatRequest,
    snapshot: &Arc<Snapshot>,
    receipt: &mut Receipt,
    ask: impl Fn(Arc<dyn Backend>, Outbound) -> F,
) -> Result<(Place, T), Fault>
where
    F: Future<Output = Result<T, BackendError>>,
{
    let places = lawful(places, snapshot)?;
    let (texts, findings) = scanned(texts, snapshot).await?;
    let routes: Vec<RouteTaken> = places.iter().map(Place::route).collect();
    take_for(receipt, Extent::of(&texts), &routes, snapshot).await?;
    receipt.note_prompt(&texts);
    let masked_count = u32::try_from(findings.iter().count()).unwrap_or(u32::MAX);
    receipt.note(|record| record.masked_count = masked_count);
    let mut first_error = None;
    for place in places {
        let card = place.backend.card();
        let route = place.route();
        receipt.note(|record| record.route = Some(route));
        receipt.note_price_of_route(snapshot);
        let call = Outbound::seal(
            request_id.clone(),
            place.model.clone(),
            texts.clone(),
            &findings,
            card.trust,
        )
        .for_team(principal.team.clone())
        .in_trace(receipt.trace());
        match ask(Arc::clone(&place.backend), call).await {
            Ok(answer) => return Ok((place, answer)),
            Err(error) => {
                // It may have worked for those.
                let is_doubtful =
                    matches!(error, BackendError::TimedOut(_) | BackendError::Interrupted);
                if !is_doubtful {
                    receipt.note(|record| record.route = None);
                }
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

/// Two thousand texts may take a while to look through.
async fn scanned(
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

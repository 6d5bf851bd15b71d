//! Moderation on the trunk: by upstreams that have a model for it, masked as embeddings are
//! ([`crate::in_turn`]). Nothing is kept.

use std::sync::Arc;

use domain::{
    Backend, BadRequest, ChatRequest, Fault, ModelAlias, Moderation, ModerationRequest, Outcome,
    Principal, RequestId,
};

use crate::answer::{Refusal, RouteLabel};
use crate::in_turn::{Place, ask_in_turn};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;
use crate::trace::TracedWork;
use crate::trunk::{Pipeline, check_named_route, refuse};

/// The rule that decides where texts are judged: the model's name.
const REASON: &str = "moderation";

/// Results, and who gave them.
#[derive(Debug)]
pub struct Moderated {
    pub route: RouteLabel,
    pub reason: &'static str,
    pub moderation: Moderation,
}

impl Pipeline {
    /// Whether anybody here judges texts.
    #[must_use]
    pub fn moderates(&self) -> bool {
        !places(None, &self.snapshot()).is_empty()
    }

    /// Has texts and images judged, or says why not. `headers` say of which trace it is
    /// ([`crate::TRACE_HEADERS`]).
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn moderate(
        &self,
        principal: &Principal,
        request_id: RequestId,
        headers: &[(String, String)],
        request: ModerationRequest,
    ) -> Result<Moderated, Refusal> {
        let snapshot = self.snapshot();
        let places = places(request.model.as_ref(), &snapshot);
        let asked = request.model.clone().or_else(|| {
            let first = places.first()?;
            Some(ModelAlias::new(first.model.as_str()))
        });
        let asked = asked.unwrap_or_else(|| ModelAlias::new(""));
        let mut receipt = self.receive(request_id.clone(), principal, asked.clone())?;
        self.trace_work(&mut receipt, headers, TracedWork::Moderation);
        receipt.note(|record| REASON.clone_into(&mut record.reason));
        let judged = async {
            check(&asked, &places, principal, &snapshot)?;
            let request = ChatRequest::new(asked, request.inputs);
            ask(
                places,
                principal,
                request_id,
                request,
                &snapshot,
                &mut receipt,
            )
            .await
        };
        let judged = judged.await;
        judged.map_err(|fault| refuse(&mut receipt, fault, Some(REASON.to_owned())))
    }
}

/// Who judges under that name: a model's own, with its upstream before it or without, or an alias for
/// some of these. Without a name, each upstream's first. In the order of the upstreams, or the alias's.
fn places(asked: Option<&ModelAlias>, snapshot: &Snapshot) -> Vec<Place> {
    let named = |name: &str| -> Vec<Place> {
        let mut places = Vec::new();
        for backend in snapshot.backends() {
            let upstream = backend.card().name.as_str();
            let model = backend.moderation_models().iter().find(|model| {
                let own = name
                    .strip_prefix(upstream)
                    .and_then(|rest| rest.strip_prefix('/'));
                *model == name || own == Some(model.as_str())
            });
            places.extend(model.map(|model| Place {
                backend: Arc::clone(backend),
                model: model.clone(),
            }));
        }
        places
    };
    let Some(asked) = asked else {
        let firsts = snapshot.backends().iter().filter_map(|backend| {
            let model = backend.moderation_models().first()?.clone();
            let backend = Arc::clone(backend);
            Some(Place { backend, model })
        });
        return firsts.collect();
    };
    match snapshot.aliases().get(asked.as_str()) {
        Some(targets) => targets.iter().flat_map(|target| named(target)).collect(),
        None => named(asked.as_str()),
    }
}

fn check(
    asked: &ModelAlias,
    found: &[Place],
    principal: &Principal,
    snapshot: &Snapshot,
) -> Result<(), Fault> {
    if found.is_empty() {
        let able = places(None, snapshot);
        let Some(able) = able.first() else {
            return Err(Fault::NotOffered { what: NOT_OFFERED });
        };
        let is_other_work = policy::resolve(asked, &snapshot.roster()).is_ok();
        return Err(if is_other_work {
            let message = format!("this model does not judge texts; `{}` does", able.model);
            Fault::BadRequest(BadRequest::at("model", message).with_code("model_not_able"))
        } else {
            Fault::ModelNotFound {
                asked: asked.as_str().to_owned(),
                nearest: Some(able.model.clone()),
            }
        });
    }
    if !principal.may_use(asked) {
        return Err(Fault::Forbidden {
            what: "this key does not grant the model",
        });
    }
    check_named_route(principal)
}

/// Why there is no moderation where no upstream has a model for it.
pub const NOT_OFFERED: &str = "no upstream of this server has a model that judges texts; its operator \
                               names one in `moderation_models` beside an upstream";

async fn ask(
    places: Vec<Place>,
    principal: &Principal,
    request_id: RequestId,
    request: ChatRequest,
    snapshot: &Arc<Snapshot>,
    receipt: &mut Receipt,
) -> Result<Moderated, Fault> {
    let ask = async |backend: Arc<dyn Backend>, call| backend.moderate(call).await;
    let asking = ask_in_turn(
        places, principal, request_id, request, snapshot, receipt, ask,
    );
    let (place, moderation) = asking.await?;
    receipt.note_first_content();
    receipt.note(|record| record.outcome = Outcome::Answered);
    Ok(Moderated {
        route: RouteLabel::Cloud {
            backend: place.backend.card().name.clone(),
        },
        reason: REASON,
        moderation,
    })
}

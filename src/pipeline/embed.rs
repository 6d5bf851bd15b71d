//! Embeddings on the trunk: admitted and recorded as chats are. A model on this machine gets the
//! texts as they are, an upstream gets them masked ([`crate::embed_remote`]); nothing is kept.

use std::sync::Arc;

use domain::{
    BackendError, BackendName, BadRequest, Classify, EmbedRequest, Embedder, EmbedderCard,
    Embeddings, Fault, Health, HealthState, ModelAlias, Outcome, Principal, RequestId, RouteTaken,
    Tokens, Usage,
};

use crate::answer::{Refusal, RouteLabel};
use crate::embed_remote;
use crate::quota::{Extent, take_for};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;
use crate::trace::TracedWork;
use crate::trunk::{Pipeline, check_named_route, refuse};

/// The rule that decides where embeddings are computed: the model's name.
pub(crate) const REASON: &str = "embeddings";

/// Vectors, and who made them.
#[derive(Debug)]
pub struct Embedded {
    pub model: String,
    pub route: RouteLabel,
    pub reason: &'static str,
    pub embeddings: Embeddings,
}

impl Pipeline {
    /// Computes embeddings, or says why not. `headers` say of which trace it is ([`crate::TRACE_HEADERS`]).
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn embed(
        &self,
        principal: &Principal,
        request_id: RequestId,
        headers: &[(String, String)],
        request: EmbedRequest,
    ) -> Result<Embedded, Refusal> {
        let mut receipt = self.receive(request_id.clone(), principal, request.model.clone())?;
        let dimensions = request.dimensions;
        self.trace_work(&mut receipt, headers, TracedWork::Embeddings { dimensions });
        receipt.note(|record| REASON.clone_into(&mut record.reason));
        let embedded = self.embed_noting(principal, request_id, request, &mut receipt);
        let embedded = embedded.await;
        embedded.map_err(|fault| refuse(&mut receipt, fault, Some(REASON.to_owned())))
    }

    async fn embed_noting(
        &self,
        principal: &Principal,
        request_id: RequestId,
        request: EmbedRequest,
        receipt: &mut Receipt,
    ) -> Result<Embedded, Fault> {
        let snapshot = self.snapshot();
        let embedder = match find_embedder(&request.model, &snapshot) {
            Some(embedder) => Ok(embedder),
            None => Err(embed_remote::places(&request.model, &snapshot)),
        };
        if embedder.as_ref().is_err_and(Vec::is_empty) {
            let embedders = snapshot.embedders();
            let able = embedders.first().map(|(_, it)| it.card().name.as_str());
            return Err(lacks(Work::Embeddings, &request.model, able, &snapshot));
        }
        if !principal.may_use(&request.model) {
            return Err(Fault::Forbidden {
                what: "this key does not grant the model",
            });
        }
        check_named_route(principal)?;
        let embedder = match embedder {
            Ok(embedder) => embedder,
            Err(places) => {
                let asking =
                    embed_remote::embed(places, principal, request_id, request, &snapshot, receipt);
                return asking.await;
            }
        };
        check_health(&request.model, embedder.health())?;
        let card = embedder.card();
        check_dimensions(request.dimensions, card.dimensions)?;
        receipt.note(|record| {
            record.route = Some(RouteTaken {
                backend: BackendName::new("local"),
                model: card.name.clone(),
                is_local: true,
            });
        });
        take_for(receipt, Extent::of_inputs(&request.inputs), &[], &snapshot).await?;
        let mut embeddings = embedder
            .embed(request.inputs)
            .await
            .map_err(|error: BackendError| error.fault())?;
        if let Some(dimensions) = request.dimensions {
            for vector in &mut embeddings.vectors {
                shorten(vector, dimensions);
            }
        }
        receipt.note_first_content();
        receipt.note(|record| {
            record.outcome = Outcome::Answered;
            record.usage = Some(Usage {
                prompt_tokens: Tokens(embeddings.prompt_tokens),
                ..Usage::default()
            });
        });
        let model = card.name.clone();
        Ok(Embedded {
            route: RouteLabel::Local {
                model: model.clone(),
            },
            model,
            reason: REASON,
            embeddings,
        })
    }
}

/// The model on this machine that makes vectors under that name.
fn find_embedder(asked: &ModelAlias, snapshot: &Snapshot) -> Option<Arc<dyn Embedder>> {
    let mut embedders = snapshot.embedders().iter();
    let found = embedders
        .find(|(names, embedder)| embedder.card().name == asked.as_str() || names.contains(asked));
    found.map(|(_, embedder)| Arc::clone(embedder))
}

/// What a model may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Chats,
    Embeddings,
    Rankings,
}

impl Work {
    fn as_words(self) -> &'static str {
        match self {
            Work::Chats => "answer chats",
            Work::Embeddings => "make embeddings",
            Work::Rankings => "rank",
        }
    }

    /// The setting that names a model for it.
    fn setting(self) -> &'static str {
        match self {
            Work::Chats => "local.model",
            Work::Embeddings => "embeddings.model",
            Work::Rankings => "rerank.model",
        }
    }
}

/// Why no model by that name does the work; `able` is one that does. A model that does other work
/// is listed, so it would be no help to say that there is none.
pub(crate) fn lacks(
    work: Work,
    asked: &ModelAlias,
    able: Option<&str>,
    snapshot: &Snapshot,
) -> Fault {
    let is_named = |names: &[ModelAlias], card: &EmbedderCard| {
        card.name == asked.as_str() || names.contains(asked)
    };
    let mut embedders = snapshot.embedders().iter();
    let mut rerankers = snapshot.rerankers().iter();
    let does_other = policy::resolve(asked, &snapshot.roster()).is_ok()
        || embedders.any(|(names, it)| is_named(names, it.card()))
        || rerankers.any(|(names, it)| is_named(names, it.card()));
    let words = work.as_words();
    let message = match able {
        Some(able) if does_other => format!("this model does not {words}; `{able}` does"),
        None if work != Work::Chats => format!(
            "no model that could {words} is configured on this node; its operator sets {}",
            work.setting()
        ),
        None if does_other => format!("this model does not {words}"),
        Some(_) | None => {
            return Fault::ModelNotFound {
                asked: asked.as_str().to_owned(),
                nearest: able.map(str::to_owned),
            };
        }
    };
    Fault::BadRequest(BadRequest::at("model", message).with_code("model_not_able"))
}

/// Whether a model that alone could answer may yet do so. One on its way says itself how long that
/// is worth waiting for.
pub(crate) fn check_health(asked: &ModelAlias, health: Health) -> Result<(), Fault> {
    match health.state {
        HealthState::Ready | HealthState::Starting => Ok(()),
        HealthState::Down => Err(Fault::NoCandidate {
            reasons: vec![format!(
                "{}: {}",
                asked.as_str(),
                health.reason.unwrap_or("its process has ended")
            )],
        }),
    }
}

fn check_dimensions(asked: Option<u32>, has: u32) -> Result<(), Fault> {
    match asked {
        Some(asked) if asked > has => Err(Fault::BadRequest(BadRequest::at(
            "dimensions",
            format!("this model's vectors have {has} components; ask for that many or fewer"),
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Keeps the first components, and length 1.
pub(crate) fn shorten(vector: &mut Vec<f32>, dimensions: u32) {
    vector.truncate(dimensions as usize);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 && length.is_finite() {
        for value in vector {
            *value /= length;
        }
    }
}

//! What a name stands for, and having its model loaded, for clients that ask before they chat.

use std::sync::Arc;

use domain::{
    Abilities, Backend, BackendName, Classify, Fault, HealthState, ModelAlias, Outcome, Principal,
    RequestId, RouteTaken, TextPart, TextToRead, Tier, Tokens,
};
use policy::Asked;

use crate::answer::Refusal;
use crate::embed::check_health;
use crate::trunk::{Pipeline, check_named_route, refuse};

/// The rule that decides which model is loaded: the one that is named.
const REASON: &str = "load";
const LOCAL: &str = "local";

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The model's own name: of several that may answer, the first one's.
    pub model: String,
    /// Whether it runs on other machines.
    pub is_remote: bool,
    pub work: NamedWork,
    /// Of a chat, or of one input.
    pub context_tokens_max: Option<Tokens>,
}

/// What the model may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedWork {
    Chats(Abilities),
    /// Vectors of so many components.
    Embeddings(u32),
    Rankings,
}

impl Pipeline {
    /// Whether anything is called so.
    #[must_use]
    pub fn knows(&self, name: &ModelAlias) -> bool {
        self.find_named(name).is_ok()
    }

    /// What `name` stands for.
    ///
    /// # Errors
    /// `ModelNotFound`, or `Forbidden` where the key does not grant it.
    pub fn named(&self, principal: &Principal, name: &ModelAlias) -> Result<Named, Fault> {
        let named = self.find_named(name)?;
        if principal.may_use(name) {
            Ok(named)
        } else {
            Err(Fault::Forbidden { what: NOT_GRANTED })
        }
    }

    /// Has the model loaded that `name` stands for, where it is on this machine, and says its own name.
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn load(
        &self,
        principal: &Principal,
        request_id: RequestId,
        name: &ModelAlias,
    ) -> Result<String, Refusal> {
        let mut receipt = self.receive(request_id, principal, name.clone())?;
        receipt.note(|record| REASON.clone_into(&mut record.reason));
        let mut refused = |fault| refuse(&mut receipt, fault, Some(REASON.to_owned()));
        let (model, backend) = self.find_loadable(principal, name).map_err(&mut refused)?;
        if let Some(backend) = &backend {
            read_something(name, backend.as_ref(), &model)
                .await
                .map_err(refused)?;
        }
        receipt.note(|record| {
            record.route = backend.map(|_| RouteTaken {
                backend: BackendName::new(LOCAL),
                model: model.clone(),
                is_local: true,
            });
            record.outcome = Outcome::Answered;
        });
        Ok(model)
    }

    fn find_named(&self, name: &ModelAlias) -> Result<Named, Fault> {
        let snapshot = self.snapshot();
        let fault = match policy::resolve(name, &snapshot.roster()) {
            Ok(asked) => {
                let targets = match asked {
                    Asked::Auto => Vec::new(),
                    Asked::Exactly(targets) => targets,
                };
                let found = targets.first().and_then(|target| {
                    let card = snapshot.backends().get(target.backend)?.card();
                    Some((card, card.model(&target.model), target.model.as_str()))
                });
                return Ok(Named {
                    model: found.map_or(name.as_str(), |(.., model)| model).to_owned(),
                    is_remote: found.is_some_and(|(card, ..)| card.tier != Tier::Engine),
                    work: NamedWork::Chats(match found {
                        Some((_, Some(model), _)) => model.abilities,
                        // The rules choose, or the upstream takes any name: it judges for itself.
                        Some((_, None, _)) | None => Abilities::all(),
                    }),
                    context_tokens_max: found.and_then(|(_, model, _)| model?.context_tokens_max),
                });
            }
            Err(fault) => fault,
        };
        let is_named = |names: &[ModelAlias], card: &domain::EmbedderCard| {
            card.name == name.as_str() || names.contains(name)
        };
        let named = |card: &domain::EmbedderCard, work| Named {
            model: card.name.clone(),
            is_remote: false,
            work,
            context_tokens_max: Some(Tokens(card.input_tokens_max)),
        };
        for (names, embedder) in snapshot.embedders() {
            let card = embedder.card();
            if is_named(names, card) {
                return Ok(named(card, NamedWork::Embeddings(card.dimensions)));
            }
        }
        for (names, reranker) in snapshot.rerankers() {
            if is_named(names, reranker.card()) {
                return Ok(named(reranker.card(), NamedWork::Rankings));
            }
        }
        Err(fault)
    }

    /// The first model that is meant, and its engine where it has one on this machine.
    fn find_loadable(
        &self,
        principal: &Principal,
        name: &ModelAlias,
    ) -> Result<(String, Option<Arc<dyn Backend>>), Fault> {
        let named = self.named(principal, name)?;
        let snapshot = self.snapshot();
        let roster = snapshot.roster();
        let meant = match policy::resolve(name, &roster) {
            Ok(Asked::Auto) => policy::resolve(&ModelAlias::new(LOCAL), &roster),
            Ok(Asked::Exactly(targets)) => {
                check_named_route(principal)?;
                Ok(Asked::Exactly(targets))
            }
            Err(fault) => Err(fault),
        };
        // What does other work is loaded when it is asked for it.
        let Ok(Asked::Exactly(targets)) = meant else {
            return Ok((named.model, None));
        };
        let found = targets.first().and_then(|target| {
            let backend = snapshot.backends().get(target.backend)?;
            Some((target.model.clone(), Arc::clone(backend)))
        });
        Ok(match found {
            Some((model, backend)) => {
                let is_here = backend.card().tier == Tier::Engine;
                (model, is_here.then_some(backend))
            }
            None => (named.model, None),
        })
    }
}

const NOT_GRANTED: &str = "this key does not grant the model";

/// A model that is asked how it reads is loaded for it.
async fn read_something(
    name: &ModelAlias,
    backend: &dyn Backend,
    model: &str,
) -> Result<(), Fault> {
    let health = backend.health();
    check_health(name, health)?;
    let Some(tokenizer) = backend.tokenizer(model) else {
        return match health.state {
            HealthState::Starting => Err(Fault::Overloaded {
                retry_after: health.wait.unwrap_or_default(),
            }),
            HealthState::Ready | HealthState::Down => Ok(()),
        };
    };
    let text = TextToRead {
        parts: vec![TextPart::Text("a".to_owned())],
        adds_special: false,
        reads_special: false,
    };
    let read = tokenizer.tokenize(text).await;
    read.map(drop).map_err(|error| error.fault())
}

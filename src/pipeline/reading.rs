//! How a local model reads text, on the trunk: admitted and recorded as embeddings are. Nothing
//! leaves this machine, so nothing is masked, and nothing is kept.

use std::sync::Arc;

use domain::{
    Backend, BackendError, BackendName, BadRequest, ChatRequest, Classify, Fault, HealthState,
    ModelAlias, Outcome, Principal, ReadToken, RequestId, RouteTaken, TextToRead, Tier, Tokenizer,
    Tokens,
};
use policy::Asked;

use crate::answer::Refusal;
use crate::embed::check_health;
use crate::receipt::Receipt;
use crate::trunk::Pipeline;

/// The rule that decides who reads: the model that is named.
const REASON: &str = "reading";
/// What `auto` means where there is nothing to route.
const LOCAL: &str = "local";

/// Tokens, and the context of the model whose they are.
#[derive(Debug)]
pub struct Counted {
    pub tokens: Vec<ReadToken>,
    pub context_tokens_max: Option<Tokens>,
}

/// Who reads for one exchange, and its receipt.
struct Desk {
    backend: Arc<dyn Backend>,
    model: String,
    receipt: Receipt,
}

impl Pipeline {
    /// The tokens of a text.
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn tokenize(
        &self,
        principal: &Principal,
        request_id: RequestId,
        model: &ModelAlias,
        text: TextToRead,
    ) -> Result<Counted, Refusal> {
        let desk = self.desk(principal, request_id, model)?;
        let tokens = desk.tokenizer()?.tokenize(text).await;
        Ok(Counted {
            context_tokens_max: desk.context_tokens_max(),
            tokens: desk.end(tokens)?,
        })
    }

    /// The tokens that a chat comes to.
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn tokenize_chat(
        &self,
        principal: &Principal,
        request_id: RequestId,
        chat: ChatRequest,
    ) -> Result<Counted, Refusal> {
        let desk = self.desk(principal, request_id, &chat.model)?;
        let tokens = desk.tokenizer()?.tokenize_chat(chat).await;
        Ok(Counted {
            context_tokens_max: desk.context_tokens_max(),
            tokens: desk.end(tokens)?,
        })
    }

    /// The text of tokens, in bytes.
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn detokenize(
        &self,
        principal: &Principal,
        request_id: RequestId,
        model: &ModelAlias,
        tokens: Vec<u32>,
    ) -> Result<Vec<u8>, Refusal> {
        let desk = self.desk(principal, request_id, model)?;
        let bytes = desk.tokenizer()?.detokenize(tokens).await;
        desk.end(bytes)
    }

    /// The prompt that a chat becomes.
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn render(
        &self,
        principal: &Principal,
        request_id: RequestId,
        chat: ChatRequest,
    ) -> Result<String, Refusal> {
        let desk = self.desk(principal, request_id, &chat.model)?;
        let prompt = desk.tokenizer()?.render(chat).await;
        desk.end(prompt)
    }

    fn desk(
        &self,
        principal: &Principal,
        request_id: RequestId,
        model: &ModelAlias,
    ) -> Result<Desk, Refusal> {
        let mut receipt = self.receive(request_id, principal, model.clone())?;
        receipt.note(|record| REASON.clone_into(&mut record.reason));
        match self.find_reader(principal, model) {
            Ok((backend, model)) => {
                receipt.note(|record| {
                    record.route = Some(RouteTaken {
                        backend: BackendName::new(LOCAL),
                        model: model.clone(),
                        is_local: true,
                    });
                });
                Ok(Desk {
                    backend,
                    model,
                    receipt,
                })
            }
            Err(fault) => Err(refuse(&mut receipt, fault)),
        }
    }

    /// The first of what `asked` means that says how it reads.
    fn find_reader(
        &self,
        principal: &Principal,
        asked: &ModelAlias,
    ) -> Result<(Arc<dyn Backend>, String), Fault> {
        let snapshot = self.snapshot();
        let roster = snapshot.roster();
        let mut meant = policy::resolve(asked, &roster)?;
        if !principal.may_use(asked) {
            return Err(Fault::Forbidden {
                what: "this key does not grant the model",
            });
        }
        if meant == Asked::Auto {
            meant = policy::resolve(&ModelAlias::new(LOCAL), &roster)?;
        }
        let Asked::Exactly(targets) = meant else {
            return Err(unreadable(asked));
        };
        for target in targets {
            let Some(backend) = snapshot.backends().get(target.backend) else {
                continue;
            };
            let (health, is_engine) = (backend.health(), backend.card().tier == Tier::Engine);
            if is_engine {
                check_health(asked, health)?;
            }
            if backend.tokenizer(&target.model).is_some() {
                return Ok((Arc::clone(backend), target.model));
            }
            // One that loads for the first time cannot be asked yet.
            if is_engine && health.state == HealthState::Starting {
                return Err(Fault::Overloaded {
                    retry_after: health.wait.unwrap_or_default(),
                });
            }
        }
        Err(unreadable(asked))
    }
}

impl Desk {
    fn context_tokens_max(&self) -> Option<Tokens> {
        let card = self.backend.card().model(&self.model)?;
        card.context_tokens_max
    }

    fn tokenizer(&self) -> Result<&dyn Tokenizer, Refusal> {
        // Asked before, of the same card.
        self.backend.tokenizer(&self.model).ok_or_else(|| Refusal {
            fault: Fault::Internal,
            reason: Some(REASON.to_owned()),
        })
    }

    fn end<T>(mut self, read: Result<T, BackendError>) -> Result<T, Refusal> {
        let read = read.map_err(|error| refuse(&mut self.receipt, error.fault()))?;
        self.receipt.note_first_content();
        self.receipt
            .note(|record| record.outcome = Outcome::Answered);
        Ok(read)
    }
}

fn refuse(receipt: &mut Receipt, fault: Fault) -> Refusal {
    receipt.note(|record| record.outcome = Outcome::Refused(fault.as_label()));
    Refusal {
        fault,
        reason: Some(REASON.to_owned()),
    }
}

fn unreadable(asked: &ModelAlias) -> Fault {
    Fault::BadRequest(BadRequest::at(
        "model",
        format!(
            "how `{}` reads text cannot be asked; name the model on this machine, or leave \
             'model' out",
            asked.as_str()
        ),
    ))
}

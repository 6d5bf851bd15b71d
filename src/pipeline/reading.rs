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
use crate::trunk::{Pipeline, check_named_route};

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

/// How many tokens a chat's prompt has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptCount {
    /// As the model that is asked reads it.
    Counted(usize),
    /// Another model reads it, or who does is decided only when it is asked.
    Estimated(usize),
}

/// A model that says how it reads.
struct Reader {
    backend: Arc<dyn Backend>,
    model: String,
    /// Whether it is also the first that would be asked.
    is_first: bool,
}

/// Who reads for one exchange, and its receipt.
struct Desk {
    reader: Reader,
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

    /// How many tokens a chat's prompt has: counted where a model here can be asked, estimated by its
    /// text where none can.
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn count_prompt(
        &self,
        principal: &Principal,
        request_id: RequestId,
        chat: ChatRequest,
    ) -> Result<PromptCount, Refusal> {
        let mut receipt = self.receive_reading(request_id, principal, &chat.model)?;
        let found = self.find_reader(principal, &chat.model);
        let Some(reader) = found.map_err(|fault| refuse(&mut receipt, fault))? else {
            // A long text takes milliseconds.
            let estimated = tokio::task::spawn_blocking(move || policy::estimate_tokens(&chat));
            let estimated = estimated.await;
            let estimated = estimated.map_err(|_| refuse(&mut receipt, Fault::Internal))?;
            receipt.note(|record| record.outcome = Outcome::Answered);
            return Ok(PromptCount::Estimated(estimated));
        };
        let desk = Desk::new(reader, receipt);
        let is_first = desk.reader.is_first;
        let tokens = desk.tokenizer()?.tokenize_chat(chat).await;
        let count = desk.end(tokens)?.len();
        Ok(if is_first {
            PromptCount::Counted(count)
        } else {
            PromptCount::Estimated(count)
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

    fn receive_reading(
        &self,
        request_id: RequestId,
        principal: &Principal,
        model: &ModelAlias,
    ) -> Result<Receipt, Refusal> {
        let mut receipt = self.receive(request_id, principal, model.clone())?;
        receipt.note(|record| REASON.clone_into(&mut record.reason));
        Ok(receipt)
    }

    fn desk(
        &self,
        principal: &Principal,
        request_id: RequestId,
        model: &ModelAlias,
    ) -> Result<Desk, Refusal> {
        let mut receipt = self.receive_reading(request_id, principal, model)?;
        let found = self.find_reader(principal, model);
        match found.and_then(|found| found.ok_or_else(|| unreadable(model))) {
            Ok(reader) => Ok(Desk::new(reader, receipt)),
            Err(fault) => Err(refuse(&mut receipt, fault)),
        }
    }

    /// The first of what `asked` means that says how it reads; `None` where none does.
    fn find_reader(
        &self,
        principal: &Principal,
        asked: &ModelAlias,
    ) -> Result<Option<Reader>, Fault> {
        let snapshot = self.snapshot();
        let roster = snapshot.roster();
        let mut meant = policy::resolve(asked, &roster)?;
        if !principal.may_use(asked) {
            return Err(Fault::Forbidden {
                what: "this key does not grant the model",
            });
        }
        let is_named = meant != Asked::Auto;
        if is_named {
            check_named_route(principal)?;
        } else {
            let Ok(local) = policy::resolve(&ModelAlias::new(LOCAL), &roster) else {
                return Ok(None);
            };
            meant = local;
        }
        let Asked::Exactly(targets) = meant else {
            return Ok(None);
        };
        for (at, target) in targets.into_iter().enumerate() {
            let Some(backend) = snapshot.backends().get(target.backend) else {
                continue;
            };
            let (health, is_engine) = (backend.health(), backend.card().tier == Tier::Engine);
            if is_engine {
                check_health(asked, health)?;
            }
            if backend.tokenizer(&target.model).is_some() {
                return Ok(Some(Reader {
                    backend: Arc::clone(backend),
                    model: target.model,
                    is_first: is_named && at == 0,
                }));
            }
            // One that loads for the first time cannot be asked yet.
            if is_engine && health.state == HealthState::Starting {
                return Err(Fault::Overloaded {
                    retry_after: health.wait.unwrap_or_default(),
                });
            }
        }
        Ok(None)
    }
}

impl Desk {
    fn new(reader: Reader, mut receipt: Receipt) -> Self {
        receipt.note(|record| {
            record.route = Some(RouteTaken {
                backend: BackendName::new(LOCAL),
                model: reader.model.clone(),
                is_local: true,
            });
        });
        Self { reader, receipt }
    }

    fn context_tokens_max(&self) -> Option<Tokens> {
        let card = self.reader.backend.card().model(&self.reader.model)?;
        card.context_tokens_max
    }

    fn tokenizer(&self) -> Result<&dyn Tokenizer, Refusal> {
        // Asked before, of the same card.
        let tokenizer = self.reader.backend.tokenizer(&self.reader.model);
        tokenizer.ok_or_else(|| Refusal {
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

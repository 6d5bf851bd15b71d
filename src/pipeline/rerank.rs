//! Rankings on the trunk: admitted and recorded as embeddings are, by a model on this machine.

use std::sync::Arc;

use domain::{
    BackendError, BackendName, Classify, Fault, ModelAlias, Outcome, Principal, RequestId,
    RerankRequest, Reranker, RouteTaken, Scores, Tokens, Usage,
};

use crate::answer::{Refusal, RouteLabel};
use crate::embed::{Work, check_health, lacks};
use crate::quota::{Extent, take_for};
use crate::receipt::Receipt;
use crate::trace::TracedWork;
use crate::trunk::{Pipeline, check_named_route, refuse};

/// The rule that decides where texts are ranked: there is one place.
const REASON: &str = "rerank";

/// Documents, best first, and who ranked them.
#[derive(Debug)]
pub struct Ranking {
    pub model: String,
    pub route: RouteLabel,
    pub reason: &'static str,
    pub places: Vec<Place>,
    pub prompt_tokens: u32,
}

/// A document of the request, and its score.
#[derive(Debug, PartialEq)]
pub struct Place {
    pub index: usize,
    pub score: f32,
    /// Its text, where that was asked for.
    pub document: Option<String>,
}

impl Pipeline {
    /// Ranks documents, or says why not. `headers` say of which trace it is ([`crate::TRACE_HEADERS`]).
    ///
    /// # Errors
    /// A refusal; its record is left.
    pub async fn rerank(
        &self,
        principal: &Principal,
        request_id: RequestId,
        headers: &[(String, String)],
        request: RerankRequest,
    ) -> Result<Ranking, Refusal> {
        let mut receipt = self.receive(request_id, principal, request.model.clone())?;
        self.trace_work(&mut receipt, headers, TracedWork::Ranking);
        receipt.note(|record| REASON.clone_into(&mut record.reason));
        let ranked = self.rank_noting(principal, request, &mut receipt).await;
        ranked.map_err(|fault| refuse(&mut receipt, fault, Some(REASON.to_owned())))
    }

    async fn rank_noting(
        &self,
        principal: &Principal,
        request: RerankRequest,
        receipt: &mut Receipt,
    ) -> Result<Ranking, Fault> {
        let reranker = self.find_reranker(&request.model)?;
        if !principal.may_use(&request.model) {
            return Err(Fault::Forbidden {
                what: "this key does not grant the model",
            });
        }
        check_named_route(principal)?;
        let model = reranker.card().name.clone();
        receipt.note(|record| {
            record.route = Some(RouteTaken {
                backend: BackendName::new("local"),
                model: model.clone(),
                is_local: true,
            });
        });
        let RerankRequest {
            query,
            documents,
            best_max,
            shows_documents,
            ..
        } = request;
        let lengths = documents.iter().map(|text| text.len() as u64);
        // The query is read with each document.
        let texts = Extent {
            bytes: lengths.sum::<u64>() + query.len() as u64 * documents.len() as u64,
            texts: documents.len() as u64,
        };
        take_for(receipt, texts, &[], &self.snapshot()).await?;
        let kept = shows_documents.then(|| documents.clone());
        let scores = reranker.rank(query, documents).await;
        let scores = scores.map_err(|error: BackendError| error.fault())?;
        receipt.note_first_content();
        receipt.note(|record| {
            record.outcome = Outcome::Answered;
            record.usage = Some(Usage {
                prompt_tokens: Tokens(scores.prompt_tokens),
                ..Usage::default()
            });
        });
        Ok(Ranking {
            route: RouteLabel::Local {
                model: model.clone(),
            },
            model,
            reason: REASON,
            prompt_tokens: scores.prompt_tokens,
            places: places(&scores, kept, best_max),
        })
    }

    fn find_reranker(&self, asked: &ModelAlias) -> Result<Arc<dyn Reranker>, Fault> {
        let snapshot = self.snapshot();
        let rerankers = snapshot.rerankers();
        let found = rerankers.iter().find(|(names, reranker)| {
            reranker.card().name == asked.as_str() || names.contains(asked)
        });
        let Some((_, found)) = found else {
            let able = rerankers.first().map(|(_, it)| it.card().name.as_str());
            return Err(lacks(Work::Rankings, asked, able, &snapshot));
        };
        check_health(asked, found.health())?;
        Ok(Arc::clone(found))
    }
}

/// The best first, and among equals those that came first.
fn places(scores: &Scores, documents: Option<Vec<String>>, best_max: Option<usize>) -> Vec<Place> {
    let mut places: Vec<Place> = scores
        .scores
        .iter()
        .enumerate()
        .map(|(index, score)| Place {
            index,
            score: *score,
            document: None,
        })
        .collect();
    // Stable, so that equals keep their order.
    places.sort_by(|one, other| other.score.total_cmp(&one.score));
    places.truncate(best_max.unwrap_or(usize::MAX));
    if let Some(mut documents) = documents {
        for place in &mut places {
            place.document = documents.get_mut(place.index).map(std::mem::take);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_equals_as_they_came() {
        let scores = Scores {
            scores: vec![-1.0, 3.0, 0.5, 3.0],
            prompt_tokens: 0,
        };
        let indices = |best_max| -> Vec<usize> {
            let places = places(&scores, None, best_max);
            places.iter().map(|place| place.index).collect()
        };
        assert_eq!(indices(None), [1, 3, 2, 0]);
        assert_eq!(indices(Some(2)), [1, 3]);
        assert_eq!(indices(Some(9)), [1, 3, 2, 0]);
        let texts = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let shown = places(&scores, Some(texts), Some(1));
        assert_eq!(shown[0].document.as_deref(), Some("b"));
    }
}

//! Ranking: a query and a document to one number, on a thread as embeddings have (`encoding.rs`).
//!
//! The number is the model's own, as it comes out of its last matrix: what llama-server gives.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use domain::{BackendError, EmbedderCard, Health, Reranker, Scores};

use crate::decoder::{Interrupt, Token};
use crate::encoding::{EmbeddingDriver, Encoder, Encoding};
use crate::load::LoadError;
use crate::queue::Stride;
use crate::splitting::{Depth, RUN_CHARS_MAX, on_deep_stack};

/// A query and a document to the tokens of both together. Shared by all threads.
pub(crate) trait PairReader: Send + Sync {
    /// The most bytes of text that one token can stand for; at least 1.
    fn piece_bytes_max(&self) -> u32;

    /// Where the two can be tokenized.
    fn depth(&self, query: &str, document: &str) -> Depth;

    /// What reads documents for one query.
    fn for_query<'q>(&'q self, query: &'q str) -> DocumentReader<'q>;
}

/// A document to the tokens of the query and it.
pub(crate) type DocumentReader<'q> = Box<dyn Fn(&str) -> Vec<Token> + Send + Sync + 'q>;

/// A model on this machine that ranks. Dropping it stops its thread.
pub struct LocalReranker {
    reader: Arc<dyn PairReader>,
    encoding: Encoding,
}

impl fmt::Debug for LocalReranker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalReranker")
            .field("card", self.encoding.card())
            .finish_non_exhaustive()
    }
}

impl LocalReranker {
    /// As [`Encoding::start`]. The first component of a vector is the score.
    pub(crate) fn start(
        name: String,
        input_tokens_max: u32,
        queue_tokens_max: usize,
        reader: Arc<dyn PairReader>,
        with_encoder: impl FnOnce(
            Arc<Interrupt>,
            &mut dyn FnMut(&mut dyn Encoder),
        ) -> Result<(), LoadError>
        + Send
        + 'static,
    ) -> Result<(Self, EmbeddingDriver), LoadError> {
        let (encoding, driver) =
            Encoding::start(name, input_tokens_max, queue_tokens_max, with_encoder)?;
        Ok((Self { reader, encoding }, driver))
    }

    /// Stops the thread. What waits ends with an error.
    pub fn stop(&self) {
        self.encoding.stop();
    }

    pub(crate) fn stride(&self) -> Stride {
        self.encoding.stride()
    }
}

#[async_trait]
impl Reranker for LocalReranker {
    fn card(&self) -> &EmbedderCard {
        self.encoding.card()
    }

    fn health(&self) -> Health {
        self.encoding.health()
    }

    /// Must be called within a Tokio runtime: texts are tokenized on its blocking pool.
    async fn rank(&self, query: String, documents: Vec<String>) -> Result<Scores, BackendError> {
        let (reader, limit) = (
            Arc::clone(&self.reader),
            self.encoding.card().input_tokens_max,
        );
        let read = move || {
            let reader = reader.as_ref();
            let least = query.len() / reader.piece_bytes_max().max(1) as usize;
            if least > limit as usize {
                return Err(BackendError::declined(
                    "query".to_owned(),
                    too_long("the query's words", least, limit),
                ));
            }
            let pairs = reader.for_query(&query);
            documents
                .iter()
                .enumerate()
                .map(|(at, document)| {
                    read_pair(reader, &query, document, &pairs, limit)
                        .map_err(|fault| fault.at(format!("documents[{at}]")))
                })
                .collect()
        };
        let (vectors, prompt_tokens) = self.encoding.encode(false, read).await?;
        let scores = vectors.iter().map(|vector| vector.first().copied());
        let scores = scores.collect::<Option<Vec<f32>>>();
        Ok(Scores {
            scores: scores.ok_or(BackendError::Engine("the model gave no score"))?,
            prompt_tokens,
        })
    }
}

/// Why a pair cannot be read.
enum PairFault {
    Said(String),
    Thread,
}

impl PairFault {
    fn at(self, path: String) -> BackendError {
        match self {
            PairFault::Said(message) => BackendError::declined(path, message),
            PairFault::Thread => BackendError::Engine("no thread for a long run of letters"),
        }
    }
}

fn read_pair(
    reader: &dyn PairReader,
    query: &str,
    document: &str,
    pairs: &(dyn Fn(&str) -> Vec<Token> + Send + Sync),
    limit: u32,
) -> Result<Vec<Token>, PairFault> {
    const BOTH: &str = "the query and this document together";
    let bytes = query.len().saturating_add(document.len());
    let least = bytes / reader.piece_bytes_max().max(1) as usize;
    if least > limit as usize {
        return Err(PairFault::Said(too_long(BOTH, least, limit)));
    }
    let tokens = match reader.depth(query, document) {
        Depth::Shallow => pairs(document),
        Depth::Deep => on_deep_stack(|| pairs(document)).map_err(|_| PairFault::Thread)?,
        Depth::Bottomless => {
            return Err(PairFault::Said(format!(
                "the query or this document has a run of more than {RUN_CHARS_MAX} characters \
                 without a break; put spaces into it"
            )));
        }
    };
    if tokens.len() > limit as usize {
        return Err(PairFault::Said(too_long(BOTH, tokens.len(), limit)));
    }
    if tokens.is_empty() {
        return Err(PairFault::Said("this document has no tokens".to_owned()));
    }
    Ok(tokens)
}

fn too_long(what: &str, tokens: usize, limit: u32) -> String {
    format!(
        "{what} are {tokens} tokens or more, and the model reads at most {limit}; cut the text into \
         pieces"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitting::Splitting;

    /// `query|document`, bytes as tokens.
    struct Bytes;

    impl PairReader for Bytes {
        fn piece_bytes_max(&self) -> u32 {
            1
        }

        fn depth(&self, query: &str, document: &str) -> Depth {
            let text = format!("{query}{document}");
            Splitting::Runs.depth(&text)
        }

        fn for_query<'q>(&'q self, query: &'q str) -> DocumentReader<'q> {
            Box::new(move |document| {
                let pair = format!("{query}|{document}");
                pair.bytes().map(Token::from).collect()
            })
        }
    }

    /// The score is how often the first byte stands in the text, less one; `!` breaks it.
    struct Counts;

    impl Encoder for Counts {
        fn dimensions(&self) -> u32 {
            2
        }

        fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>> {
            let score = |text: &&[Token]| {
                let count = text.iter().filter(|token| **token == text[0]).count();
                let is_broken = text.contains(&Token::from(b'!'));
                let score = if is_broken {
                    f32::NAN
                } else {
                    count as f32 - 1.0
                };
                vec![score, 99.0]
            };
            Some(texts.iter().map(score).collect())
        }
    }

    fn start() -> (LocalReranker, EmbeddingDriver) {
        LocalReranker::start("r".to_owned(), 32, 1_000, Arc::new(Bytes), |_, serve| {
            serve(&mut Counts);
            Ok(())
        })
        .unwrap()
    }

    async fn rank(
        reranker: &LocalReranker,
        query: &str,
        documents: &[&str],
    ) -> Result<Scores, BackendError> {
        let documents = documents.iter().map(|text| (*text).to_owned()).collect();
        reranker.rank(query.to_owned(), documents).await
    }

    #[tokio::test]
    async fn every_document_gets_its_score_in_order() {
        let (reranker, driver) = start();
        let scores = rank(&reranker, "a", &["b", "aa", "a"]).await.unwrap();
        assert_eq!(scores.scores, [0.0, 2.0, 1.0]);
        assert_eq!(scores.prompt_tokens, 3 + 4 + 3);
        reranker.stop();
        driver.run().await.unwrap();
        let late = rank(&reranker, "a", &["b"]).await;
        assert!(matches!(late, Err(BackendError::Engine(_))), "{late:?}");
    }

    #[tokio::test]
    async fn faults_name_the_query_or_the_document() {
        let (reranker, _driver) = start();
        let long = "x ".repeat(20);
        for (query, documents, path) in [
            (&*long, &["a"][..], "query"),
            ("a", &["b", &*long], "documents[1]"),
            // Each would fit alone.
            (&"x ".repeat(10), &["b", &*"y ".repeat(8)], "documents[1]"),
        ] {
            match rank(&reranker, query, documents).await {
                Err(BackendError::Declined { reason }) => {
                    assert_eq!(reason.param.as_deref(), Some(path), "{}", reason.message);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_number_is_no_score_and_hurts_no_other_request() {
        let (reranker, _driver) = start();
        let (broken, sound) = futures::future::join(
            rank(&reranker, "a", &["b", "!"]),
            rank(&reranker, "a", &["a"]),
        )
        .await;
        assert!(matches!(broken, Err(BackendError::Engine(_))), "{broken:?}");
        assert_eq!(sound.unwrap().scores, [1.0]);
    }
}

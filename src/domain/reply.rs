//! A whole reply: collected from a stream, or replayed as one.

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    BackendError, ChatEvent, ChatStream, Dialect, Extent, FinishReason, Seal, Started,
    TokenLogprobs, ToolCall, ToolCallPart, Usage, Written,
};

/// Events held back before the first content: `Started`, and for an empty reply its end.
const HEAD_EVENTS_MAX: usize = 64;
/// What its provider wrote before the first content: its beginning, and pings while a long prompt is
/// read. Ten minutes of one a second come to 40 KiB.
const HEAD_WRITTEN_BYTES_MAX: usize = 256 * 1024;

/// A stream, collected. Only complete streams become one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub started: Started,
    /// In order of `choice`.
    pub choices: Vec<ReplyChoice>,
    pub usage: Option<Usage>,
    /// The same in its provider's own words, where it may be passed on in them. Not where it was kept.
    #[serde(skip)]
    pub written: Option<Written>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplyChoice {
    pub choice: u32,
    /// Text and thoughts in the order they came, joined where neighbours are of a kind.
    pub pieces: Vec<ReplyPiece>,
    pub tool_calls: Vec<ToolCall>,
    /// The caller's stop string that ended it, where known.
    pub stop_string: Option<String>,
    /// Of its tokens in the order they were drawn; empty where none were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    pub reason: FinishReason,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum ReplyPiece {
    Text(String),
    Thought(String),
    Seal(Seal),
}

impl std::fmt::Debug for ReplyPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReplyPiece::Text(text) => write!(f, "Text({} bytes)", text.len()),
            ReplyPiece::Thought(text) => write!(f, "Thought({} bytes)", text.len()),
            ReplyPiece::Seal(seal) => write!(f, "{seal:?}"),
        }
    }
}

impl ReplyChoice {
    /// All answer text, without thoughts.
    #[must_use]
    pub fn text(&self) -> String {
        self.pieces
            .iter()
            .filter_map(|piece| match piece {
                ReplyPiece::Text(text) => Some(text.as_str()),
                ReplyPiece::Thought(_) | ReplyPiece::Seal(_) => None,
            })
            .collect()
    }

    /// All reasoning text.
    #[must_use]
    pub fn thoughts(&self) -> String {
        self.pieces
            .iter()
            .filter_map(|piece| match piece {
                ReplyPiece::Thought(text) => Some(text.as_str()),
                ReplyPiece::Text(_) | ReplyPiece::Seal(_) => None,
            })
            .collect()
    }
}

impl Reply {
    /// Its provider's own words, for a caller who reads `dialect`.
    #[must_use]
    pub fn written_in(&self, dialect: Dialect) -> Option<&Bytes> {
        let written = self.written.as_ref()?;
        (written.dialect == dialect).then_some(&written.bytes)
    }

    /// Bytes of text and log probabilities held, for size bounds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.choices
            .iter()
            .map(|choice| {
                let pieces: usize = choice
                    .pieces
                    .iter()
                    .map(|piece| match piece {
                        ReplyPiece::Text(text) | ReplyPiece::Thought(text) => text.len(),
                        ReplyPiece::Seal(seal) => seal.data.len(),
                    })
                    .sum();
                let calls: usize = choice
                    .tool_calls
                    .iter()
                    .map(|call| {
                        let seal = call.seal.as_ref().map_or(0, |seal| seal.data.len());
                        call.id.len() + call.name.len() + call.arguments.len() + seal
                    })
                    .sum();
                let logprobs: usize = choice.logprobs.iter().map(TokenLogprobs::bytes).sum();
                pieces + calls + logprobs
            })
            .sum()
    }
}

/// Builds a reply out of events, one at a time.
#[derive(Debug, Default)]
struct Collector {
    started: Option<Started>,
    choices: Vec<(ReplyChoice, bool)>,
    usage: Option<Usage>,
    written: Option<Written>,
}

impl Collector {
    fn choice(&mut self, choice: u32) -> &mut (ReplyChoice, bool) {
        let at = match self
            .choices
            .iter()
            .position(|(open, _)| open.choice == choice)
        {
            Some(at) => at,
            None => {
                self.choices.push((
                    ReplyChoice {
                        choice,
                        pieces: Vec::new(),
                        tool_calls: Vec::new(),
                        stop_string: None,
                        logprobs: Vec::new(),
                        reason: FinishReason::Stop,
                    },
                    false,
                ));
                self.choices.len() - 1
            }
        };
        &mut self.choices[at]
    }

    fn take(&mut self, event: ChatEvent) {
        match event {
            ChatEvent::Started(started) => self.started = Some(started),
            ChatEvent::Written(written) => {
                self.written = Some(written).filter(|it| it.extent == Extent::Reply);
            }
            ChatEvent::Text { choice, text } => {
                let (open, _) = self.choice(choice);
                if let Some(ReplyPiece::Text(last)) = open.pieces.last_mut() {
                    last.push_str(&text);
                } else {
                    open.pieces.push(ReplyPiece::Text(text));
                }
            }
            ChatEvent::Thought { choice, text } => {
                let (open, _) = self.choice(choice);
                if let Some(ReplyPiece::Thought(last)) = open.pieces.last_mut() {
                    last.push_str(&text);
                } else {
                    open.pieces.push(ReplyPiece::Thought(text));
                }
            }
            ChatEvent::ToolCall {
                choice,
                index,
                part,
            } => {
                let (open, _) = self.choice(choice);
                let at = index as usize;
                // A gap in the indices would be a provider's fault; it must not make us allocate.
                let at = at.min(open.tool_calls.len());
                if at == open.tool_calls.len() {
                    open.tool_calls.push(ToolCall {
                        id: String::new(),
                        name: String::new(),
                        arguments: String::new(),
                        seal: None,
                    });
                }
                let call = &mut open.tool_calls[at];
                if let Some(id) = part.id {
                    call.id = id;
                }
                if let Some(name) = part.name {
                    call.name = name;
                }
                if let Some(seal) = part.seal {
                    call.seal = Some(seal);
                }
                call.arguments.push_str(&part.arguments);
            }
            ChatEvent::Seal { choice, seal } => {
                let (open, _) = self.choice(choice);
                open.pieces.push(ReplyPiece::Seal(seal));
            }
            ChatEvent::StopString { choice, text } => {
                let (open, _) = self.choice(choice);
                open.stop_string = Some(text);
            }
            ChatEvent::Logprobs { choice, tokens } => {
                let (open, _) = self.choice(choice);
                open.logprobs.extend(tokens);
            }
            ChatEvent::ChoiceEnded { choice, reason } => {
                let (open, has_ended) = self.choice(choice);
                open.reason = reason;
                *has_ended = true;
            }
            ChatEvent::Usage(usage) => self.usage = Some(usage),
        }
    }

    fn finish(mut self) -> Result<Reply, BackendError> {
        let is_whole = !self.choices.is_empty() && self.choices.iter().all(|(_, ended)| *ended);
        let Some(started) = self.started.take().filter(|_| is_whole) else {
            return Err(BackendError::Interrupted);
        };
        let mut choices: Vec<ReplyChoice> =
            self.choices.into_iter().map(|(choice, _)| choice).collect();
        choices.sort_by_key(|choice| choice.choice);
        Ok(Reply {
            started,
            choices,
            usage: self.usage,
            written: self.written,
        })
    }
}

/// Collects a stream into a reply.
///
/// # Errors
/// The stream's own error, or [`BackendError::Interrupted`] when it ended before every choice did.
pub async fn collect(mut stream: ChatStream) -> Result<Reply, BackendError> {
    let mut collector = Collector::default();
    while let Some(event) = stream.next().await {
        collector.take(event?);
    }
    collector.finish()
}

/// Reads up to the first content, or the end of an empty reply: as far as another backend can still
/// answer instead. Gives what was read, and the rest.
///
/// # Errors
/// The stream's own error, or what is wrong with a stream without content.
pub async fn read_head(
    mut stream: ChatStream,
) -> Result<(Vec<ChatEvent>, ChatStream), BackendError> {
    let mut head = Vec::with_capacity(4);
    let (mut events_count, mut written_bytes) = (0, 0);
    while let Some(event) = stream.next().await {
        let event = event?;
        let commits = event.is_content() || matches!(event, ChatEvent::ChoiceEnded { .. });
        match &event {
            ChatEvent::Written(written) => written_bytes += written.bytes.len(),
            _ => events_count += 1,
        }
        head.push(event);
        if commits {
            return Ok((head, stream));
        }
        if events_count >= HEAD_EVENTS_MAX || written_bytes > HEAD_WRITTEN_BYTES_MAX {
            return Err(BackendError::Garbled("no content among the first events"));
        }
    }
    Err(BackendError::Interrupted)
}

/// The inverse of [`collect`]: a stream with one event per piece, and one for all log probabilities
/// of a choice.
#[must_use]
pub fn replay(reply: &Reply) -> ChatStream {
    stream::iter(replay_events(reply).into_iter().map(Ok)).boxed()
}

/// As [`replay`], where nobody waits.
#[must_use]
pub fn replay_events(reply: &Reply) -> Vec<ChatEvent> {
    let written = reply.written.clone().map(ChatEvent::Written);
    let mut events: Vec<ChatEvent> = written.into_iter().collect();
    events.push(ChatEvent::Started(reply.started.clone()));
    for choice in &reply.choices {
        let at = choice.choice;
        if !choice.logprobs.is_empty() {
            events.push(ChatEvent::Logprobs {
                choice: at,
                tokens: choice.logprobs.clone(),
            });
        }
        for piece in &choice.pieces {
            events.push(match piece {
                ReplyPiece::Text(text) => ChatEvent::Text {
                    choice: at,
                    text: text.clone(),
                },
                ReplyPiece::Thought(text) => ChatEvent::Thought {
                    choice: at,
                    text: text.clone(),
                },
                ReplyPiece::Seal(seal) => ChatEvent::Seal {
                    choice: at,
                    seal: seal.clone(),
                },
            });
        }
        for (index, call) in choice.tool_calls.iter().enumerate() {
            events.push(ChatEvent::ToolCall {
                choice: at,
                index: u32::try_from(index).unwrap_or(u32::MAX),
                part: ToolCallPart {
                    id: Some(call.id.clone()),
                    name: Some(call.name.clone()),
                    arguments: call.arguments.clone(),
                    seal: call.seal.clone(),
                },
            });
        }
        if let Some(text) = &choice.stop_string {
            events.push(ChatEvent::StopString {
                choice: at,
                text: text.clone(),
            });
        }
        events.push(ChatEvent::ChoiceEnded {
            choice: at,
            reason: choice.reason,
        });
    }
    events.extend(reply.usage.map(ChatEvent::Usage));
    events
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::{Grammar, TokenLogprob, Tokens};

    fn started() -> Started {
        Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        }
    }

    fn sample() -> Reply {
        Reply {
            started: started(),
            choices: vec![ReplyChoice {
                choice: 0,
                pieces: vec![
                    ReplyPiece::Thought("hm".into()),
                    ReplyPiece::Seal(Seal {
                        of: crate::Dialect::Anthropic,
                        kind: crate::SealKind::Signature,
                        data: "c2ln".into(),
                    }),
                    ReplyPiece::Text("yes".into()),
                ],
                tool_calls: vec![ToolCall {
                    id: "c1".into(),
                    name: "f".into(),
                    arguments: "{}".into(),
                    seal: Some(Seal {
                        of: crate::Dialect::Gemini,
                        kind: crate::SealKind::Signature,
                        data: "c2ln".into(),
                    }),
                }],
                stop_string: Some("END".into()),
                logprobs: vec![TokenLogprobs {
                    token: TokenLogprob {
                        text: "y".into(),
                        bytes: Some(b"y".to_vec()),
                        logprob: -0.5,
                    },
                    top: Vec::new(),
                }],
                reason: FinishReason::ToolCalls,
            }],
            usage: Some(Usage {
                prompt_tokens: Tokens(3),
                ..Usage::default()
            }),
            written: Some(Written {
                dialect: Dialect::OpenAi,
                extent: Extent::Reply,
                bytes: Bytes::from_static(b"{}"),
            }),
        }
    }

    #[test]
    fn collect_undoes_replay() {
        let reply = sample();
        assert_eq!(block_on(collect(replay(&reply))).unwrap(), reply);
    }

    #[test]
    fn a_replay_obeys_the_grammar() {
        let mut grammar = Grammar::default();
        for event in block_on(replay(&sample()).collect::<Vec<_>>()) {
            grammar.take(&event.unwrap()).unwrap();
        }
        grammar.finish().unwrap();
    }

    #[test]
    fn a_stream_cut_short_is_no_reply() {
        let events = vec![
            Ok(ChatEvent::Started(started())),
            Ok(ChatEvent::Text {
                choice: 0,
                text: "half".into(),
            }),
        ];
        let cut = block_on(collect(stream::iter(events).boxed()));
        assert!(matches!(cut, Err(BackendError::Interrupted)));
    }

    #[test]
    fn the_grammar_names_each_breach() {
        use crate::GrammarError as E;
        let text = |choice| ChatEvent::Text {
            choice,
            text: "a".into(),
        };
        let end = |choice| ChatEvent::ChoiceEnded {
            choice,
            reason: FinishReason::Stop,
        };
        let start = || ChatEvent::Started(started());
        let usage = || ChatEvent::Usage(Usage::default());
        let cases: Vec<(Vec<ChatEvent>, E)> = vec![
            (vec![text(0)], E::NotStarted),
            (vec![start(), start()], E::StartedTwice),
            (vec![start(), end(0), text(0)], E::AfterEnd(0)),
            (vec![start(), text(0), usage()], E::NeverEnded(0)),
            (vec![start(), end(0), usage(), usage()], E::AfterUsage),
            (vec![start()], E::NoChoice),
        ];
        for (events, breach) in cases {
            let mut grammar = Grammar::default();
            let seen = events
                .iter()
                .try_for_each(|event| grammar.take(event))
                .and_then(|()| grammar.finish());
            assert_eq!(seen, Err(breach), "{events:?}");
        }
    }
}

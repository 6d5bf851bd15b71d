//! Decodes a whole reply.

use domain::{BackendError, Reply, ReplyChoice, ReplyPiece, Started, ToolCall, Usage};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::reply_shape::{
    TOOL_CALLS_MAX, UNSPEAKABLE, UsageBody, finish_reason, hidden, signature,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    output: OutputBody,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<UsageBody>,
}

#[derive(Deserialize)]
struct OutputBody {
    message: MessageBody,
}

#[derive(Deserialize)]
struct MessageBody {
    #[serde(default)]
    content: Vec<BlockBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockBody {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    tool_use: Option<CallBody>,
    #[serde(default)]
    reasoning_content: Option<ReasoningBody>,
    #[serde(default)]
    citations_content: Option<CitedBody>,
    #[serde(default)]
    image: Option<IgnoredAny>,
    #[serde(default)]
    document: Option<IgnoredAny>,
    #[serde(default)]
    video: Option<IgnoredAny>,
    #[serde(default)]
    audio: Option<IgnoredAny>,
    #[serde(default)]
    tool_result: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallBody {
    tool_use_id: String,
    name: String,
    #[serde(default)]
    input: Option<Value>,
    /// `server_tool_use` for tools that Bedrock runs itself.
    #[serde(default)]
    r#type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReasoningBody {
    #[serde(default)]
    reasoning_text: Option<ReasoningTextBody>,
    #[serde(default)]
    redacted_content: Option<String>,
}

#[derive(Deserialize)]
struct ReasoningTextBody {
    #[serde(default)]
    text: String,
    #[serde(default)]
    signature: Option<String>,
}

/// Text with what it was taken from.
#[derive(Deserialize)]
struct CitedBody {
    #[serde(default)]
    content: Vec<CitedTextBody>,
}

#[derive(Deserialize)]
struct CitedTextBody {
    #[serde(default)]
    text: String,
}

/// # Errors
/// [`BackendError::Garbled`] for bytes that are no reply.
pub(super) fn decode_reply(bytes: &[u8]) -> Result<Reply, BackendError> {
    let body: Body = serde_json::from_slice(bytes)
        .map_err(|_| BackendError::Garbled("the reply is no Converse response"))?;
    let mut pieces = Vec::new();
    let mut tool_calls = Vec::new();
    for block in body.output.message.content {
        read_block(block, &mut pieces, &mut tool_calls)?;
    }
    let word = body.stop_reason.unwrap_or_default();
    let choice = ReplyChoice {
        choice: 0,
        pieces,
        tool_calls,
        stop_string: None,
        logprobs: Vec::new(),
        reason: finish_reason(&word)?,
    };
    Ok(Reply {
        started: Started {
            model: String::new(),
            reply_id: None,
            fingerprint: None,
        },
        choices: vec![choice],
        usage: body.usage.map(Usage::from),
        written: None,
    })
}

fn read_block(
    block: BlockBody,
    pieces: &mut Vec<ReplyPiece>,
    calls: &mut Vec<ToolCall>,
) -> Result<(), BackendError> {
    let others = [
        &block.image,
        &block.document,
        &block.video,
        &block.audio,
        &block.tool_result,
    ];
    if others.iter().any(|other| other.is_some()) {
        return Err(BackendError::Garbled(UNSPEAKABLE));
    }
    let cited = block.citations_content.map(|cited| {
        let texts = cited.content.into_iter();
        texts.map(|it| it.text).collect::<String>()
    });
    for text in [block.text, cited].into_iter().flatten() {
        match pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(ReplyPiece::Text(last)) => last.push_str(&text),
            _ => pieces.push(ReplyPiece::Text(text)),
        }
    }
    if let Some(reasoning) = block.reasoning_content {
        if let Some(thought) = reasoning.reasoning_text {
            if !thought.text.is_empty() {
                pieces.push(ReplyPiece::Thought(thought.text));
            }
            let text = thought.signature.filter(|text| !text.is_empty());
            pieces.extend(text.map(|text| ReplyPiece::Seal(signature(text))));
        }
        let data = reasoning.redacted_content;
        pieces.extend(data.map(|data| ReplyPiece::Seal(hidden(data))));
    }
    if let Some(call) = block.tool_use {
        if call.r#type.as_deref() == Some("server_tool_use") {
            return Err(BackendError::Garbled(UNSPEAKABLE));
        }
        if calls.len() >= TOOL_CALLS_MAX {
            return Err(BackendError::Garbled("the reply has too many calls"));
        }
        let input = call.input.unwrap_or_else(|| Map::new().into());
        calls.push(ToolCall {
            id: call.tool_use_id,
            name: call.name,
            arguments: input.to_string(),
            seal: None,
        });
    }
    Ok(())
}

//! One call at a time, where a caller wants no more and its provider cannot be told so, or pays no
//! heed: Google's and Amazon's dialects have no word for it, and servers of OpenAI's read over theirs.

use domain::{ChatEvent, ChatRequest, ChatStream};
use futures::{StreamExt, future};

/// Leaves out all calls but the first of each choice. The model makes the others again once it has the
/// first one's result, if it still wants them.
pub(crate) fn kept_to_one_call(stream: ChatStream, request: &ChatRequest) -> ChatStream {
    if request.parallel_tool_calls != Some(false) || request.tools.is_empty() {
        return stream;
    }
    let is_kept = |event: &Result<ChatEvent, _>| match event {
        Ok(ChatEvent::ToolCall { index, .. }) => *index == 0,
        // The provider's own bytes may hold the others, so the reply is written anew.
        Ok(ChatEvent::Written(_)) => false,
        Ok(
            ChatEvent::Started(_)
            | ChatEvent::Text { .. }
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::ChoiceEnded { .. }
            | ChatEvent::Usage(_),
        )
        | Err(_) => true,
    };
    stream
        .filter(move |event| future::ready(is_kept(event)))
        .boxed()
}

#[cfg(test)]
mod tests {
    use domain::{
        BackendError, Extra, FinishReason, Message, Role, Started, Tool, ToolCallPart, collect,
    };
    use futures::stream;

    use super::*;

    fn call(choice: u32, index: u32, id: Option<&str>) -> ChatEvent {
        ChatEvent::ToolCall {
            choice,
            index,
            part: ToolCallPart {
                id: id.map(str::to_owned),
                name: id.map(|_| "add".to_owned()),
                arguments: "{}".to_owned(),
                seal: None,
            },
        }
    }

    async fn ids(parallel: Option<bool>) -> Vec<String> {
        let started = Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        };
        let end = |choice| ChatEvent::ChoiceEnded {
            choice,
            reason: FinishReason::ToolCalls,
        };
        let events = vec![
            ChatEvent::Started(started),
            call(0, 0, Some("a")),
            call(0, 1, Some("b")),
            call(1, 0, Some("c")),
            call(0, 1, None),
            end(0),
            call(1, 1, Some("d")),
            end(1),
        ];
        let events = events.into_iter().map(Ok::<_, BackendError>);
        let mut request = ChatRequest::new("m", vec![Message::new(Role::User, "hi")]);
        request.parallel_tool_calls = parallel;
        request.tools = vec![Tool {
            name: "add".into(),
            description: None,
            parameters: Extra::new().into(),
            extra: Extra::new(),
        }];
        let kept = kept_to_one_call(stream::iter(events).boxed(), &request);
        let reply = collect(kept).await.unwrap();
        let calls = reply.choices.into_iter().flat_map(|it| it.tool_calls);
        calls.map(|call| call.id).collect()
    }

    #[tokio::test]
    async fn only_the_first_call_of_a_choice_is_kept_for_who_wants_one() {
        assert_eq!(ids(Some(false)).await, ["a", "c"]);
        assert_eq!(ids(Some(true)).await, ["a", "b", "c", "d"]);
        assert_eq!(ids(None).await, ["a", "b", "c", "d"]);
    }
}

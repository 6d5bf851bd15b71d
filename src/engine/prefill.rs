//! An answer that the caller began: a last message by the assistant, which the reply goes on from.
//!
//! Which is so by default is llama-server's choice (`--prefill-assistant`); the fields by which a
//! caller says otherwise are vLLM's. Where the text goes in a prompt is said in [`crate::prompt`].

use domain::{BackendError, ChatRequest, Role};
use serde_json::Value;

const CONTINUE: &str = "continue_final_message";
const OPEN: &str = "add_generation_prompt";

/// Takes the text that the reply is to continue out of `request`; empty for a reply of its own.
///
/// # Errors
/// The fields contradict each other, or there is nothing to continue.
pub(crate) fn take_prefill(request: &mut ChatRequest) -> Result<String, BackendError> {
    let (continues, opens) = (flag(request, CONTINUE)?, flag(request, OPEN)?);
    if let (Some(continues), Some(opens)) = (continues, opens)
        && continues == opens
    {
        let words = "must be the opposite of `add_generation_prompt`";
        return Err(refused(CONTINUE, words));
    }
    let wanted = continues.or(opens.map(|opens| !opens));
    // A template cannot be asked for a prompt of no messages.
    let can = matches!(&request.messages[..], [_, .., last]
        if last.role == Role::Assistant && last.tool_calls.is_empty());
    match (wanted, can) {
        (Some(true), false) => {
            let words = "the last message is no text by the assistant that could be continued";
            Err(refused(CONTINUE, words))
        }
        (Some(false), _) | (None, false) => Ok(String::new()),
        (Some(true) | None, true) => {
            let last = request.messages.pop();
            Ok(last.map(|last| last.text()).unwrap_or_default())
        }
    }
}

fn flag(request: &ChatRequest, name: &str) -> Result<Option<bool>, BackendError> {
    match request.extra.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(refused(name, "must be true or false")),
    }
}

/// Another candidate may not know the field, or read it otherwise.
fn refused(name: &str, words: &str) -> BackendError {
    BackendError::declined(name, words)
}

#[cfg(test)]
mod tests {
    use domain::{Message, ToolCall};

    use super::*;
    use crate::fake::request;

    fn taken(
        flags: &[(&str, Value)],
        change: impl FnOnce(&mut ChatRequest),
    ) -> Result<String, String> {
        let mut asked = request("q", |request| {
            request.messages.push(Message::new(Role::Assistant, "a"));
            let flags = flags
                .iter()
                .map(|(name, flag)| ((*name).to_owned(), flag.clone()));
            request.extra.extend(flags);
            change(request);
        });
        let count = asked.messages.len();
        match take_prefill(&mut asked) {
            Ok(prefill) => {
                assert_eq!(
                    asked.messages.len() + usize::from(!prefill.is_empty()),
                    count
                );
                Ok(prefill)
            }
            Err(BackendError::Declined { reason }) => Err(reason.param.unwrap()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_fields_say_whether_a_message_is_continued() {
        let (yes, no) = (Value::Bool(true), Value::Bool(false));
        let cases = [
            (vec![], Ok("a")),
            (vec![(CONTINUE, Value::Null)], Ok("a")),
            (vec![(CONTINUE, yes.clone())], Ok("a")),
            (vec![(CONTINUE, yes.clone()), (OPEN, no.clone())], Ok("a")),
            (vec![(OPEN, no.clone())], Ok("a")),
            (vec![(CONTINUE, no.clone())], Ok("")),
            (vec![(OPEN, yes.clone())], Ok("")),
            (vec![(CONTINUE, yes.clone()), (OPEN, yes)], Err(CONTINUE)),
            (vec![(OPEN, Value::from("no"))], Err(OPEN)),
        ];
        for (flags, expected) in cases {
            let taken = taken(&flags, |_| ());
            let taken = taken.as_deref().map_err(String::as_str);
            assert_eq!(taken, expected, "{flags:?}");
        }
    }

    #[test]
    fn what_cannot_be_continued_is_a_turn_of_the_past_or_refused() {
        let users = |request: &mut ChatRequest| drop(request.messages.pop());
        let only = |request: &mut ChatRequest| drop(request.messages.remove(0));
        let calling = |request: &mut ChatRequest| {
            request.messages[1].tool_calls.push(ToolCall {
                id: "1".into(),
                name: "f".into(),
                arguments: "{}".into(),
                seal: None,
            });
        };
        let insist = [(CONTINUE, Value::Bool(true))];
        for change in [users, only, calling] {
            assert_eq!(taken(&[], change), Ok(String::new()));
            assert_eq!(taken(&insist, change), Err(CONTINUE.to_owned()));
        }
    }
}

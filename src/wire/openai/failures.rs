//! Results of calls that failed, in a dialect that has no field for it: their text begins with a mark, so
//! that the model reads it, and that another hedge behind this one knows it again.

use std::borrow::Cow;

use domain::{Message, Part, Role};

/// Words for the model, in brackets that no tool's own text is likely to begin with.
const MARK: &str = "[the call failed]";

/// The content to write for `message`.
pub(super) fn marked(message: &Message) -> Cow<'_, [Part]> {
    if !message.is_failure || message.role != Role::Tool {
        return Cow::Borrowed(&message.content);
    }
    let mut content = message.content.clone();
    match content.first_mut() {
        Some(Part::Text(text)) if text.is_empty() => MARK.clone_into(text),
        Some(Part::Text(text)) => text.insert_str(0, &format!("{MARK} ")),
        _ => content.insert(0, Part::Text(MARK.to_owned())),
    }
    Cow::Owned(content)
}

/// Takes the mark off the content of a tool's message; false where it has none.
pub(super) fn unmark(content: &mut [Part]) -> bool {
    let Some(Part::Text(text)) = content.first_mut() else {
        return false;
    };
    let Some(rest) = text.strip_prefix(MARK) else {
        return false;
    };
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    *text = rest.to_owned();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(content: Vec<Part>) -> Message {
        Message {
            content,
            is_failure: true,
            ..Message::new(Role::Tool, "")
        }
    }

    #[test]
    fn a_failure_says_so_and_is_known_again() {
        for (text, written) in [
            ("no such city", "[the call failed] no such city"),
            ("", "[the call failed]"),
        ] {
            let message = result(vec![Part::Text(text.into())]);
            let mut content = marked(&message).into_owned();
            assert_eq!(content, [Part::Text(written.into())]);
            assert!(unmark(&mut content));
            assert_eq!(content, message.content);
        }
        assert_eq!(marked(&result(Vec::new())).len(), 1);
    }

    #[test]
    fn what_did_not_fail_stays_as_it_is() {
        let mut message = result(vec![Part::Text("fine".into())]);
        message.is_failure = false;
        assert_eq!(*marked(&message), *message.content);
        for text in ["fine", "the call failed", "[the call"] {
            let mut content = [Part::Text(text.into())];
            assert!(!unmark(&mut content));
            assert_eq!(content, [Part::Text(text.into())]);
        }
    }
}

//! What a reply says, whatever its dialect.

use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::sample::sample;

/// What of a request shapes the reply.
#[derive(Debug, Default)]
pub(super) struct Wishes<'a> {
    pub stops: Vec<&'a str>,
    pub tokens_max: Option<u32>,
    /// Names, and the schemas of their arguments.
    pub tools: Vec<(&'a str, &'a Value)>,
    pub must_call: MustCall<'a>,
    /// The whole text is to keep to it.
    pub schema: Option<&'a Value>,
    /// What the text is to go on with.
    pub begun: &'a str,
    pub thought_tokens: u32,
}

/// Whether the model has the choice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum MustCall<'a> {
    #[default]
    May,
    Any,
    Tool(&'a str),
}

/// One reply.
#[derive(Debug)]
pub(super) struct Content {
    /// One piece a token, as of the text.
    pub thoughts: Vec<String>,
    pub pieces: Vec<String>,
    pub calls: Vec<Call>,
    pub end: End,
}

/// A call of a tool.
#[derive(Debug)]
pub(super) struct Call {
    pub name: String,
    /// JSON, in the pieces that a stream sends it in.
    pub arguments: Vec<String>,
}

/// Why a reply ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Natural,
    Calls,
    Length,
    /// This stop string came.
    Stop(String),
    /// In the dialect's own words.
    Named(String),
}

impl Content {
    pub(super) fn of(behaviour: &Behaviour, wishes: &Wishes<'_>) -> Self {
        let thoughts = counted("h", wishes.thought_tokens).collect();
        let calls = calls(behaviour, wishes);
        let (pieces, mut end) = if calls.is_empty() {
            text(behaviour, wishes)
        } else {
            (Vec::new(), End::Calls)
        };
        if let Some(name) = &behaviour.ends {
            end = End::Named(name.clone());
        }
        Self {
            thoughts,
            pieces,
            calls,
            end,
        }
    }

    /// Tokens said, thoughts among them.
    pub(super) fn tokens(&self) -> usize {
        let arguments = self.calls.iter().map(|call| call.arguments.len());
        self.thoughts.len() + self.pieces.len() + arguments.sum::<usize>()
    }
}

impl Call {
    fn of(name: &str, tools: &[(&str, &Value)]) -> Self {
        let tool = tools.iter().find(|(known, _)| *known == name);
        let arguments = match tool.map(|(_, schema)| sample(schema)) {
            Some(Value::Object(fields)) if !fields.is_empty() => Value::Object(fields),
            _ => json!({"place": "Lisbon"}),
        };
        Self {
            name: name.to_owned(),
            arguments: json_pieces(&arguments),
        }
    }
}

/// What OpenAI takes as a text or as several.
pub(super) fn texts_of(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        several => several
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect(),
    }
}

fn counted(letter: &str, count: u32) -> impl Iterator<Item = String> {
    (0..count).map(move |index| format!("{letter}{index} "))
}

/// Cut where no JSON parser could read what came so far.
fn json_pieces(value: &Value) -> Vec<String> {
    let text = value.to_string();
    text.split_inclusive([':', ','])
        .map(str::to_owned)
        .collect()
}

fn calls(behaviour: &Behaviour, wishes: &Wishes<'_>) -> Vec<Call> {
    let tools = &wishes.tools;
    if let Some(names) = &behaviour.call {
        return names.split(',').map(|name| Call::of(name, tools)).collect();
    }
    let forced = match wishes.must_call {
        MustCall::May => None,
        MustCall::Any => tools.first().map(|(name, _)| *name),
        MustCall::Tool(name) => Some(name),
    };
    forced
        .map(|name| Call::of(name, tools))
        .into_iter()
        .collect()
}

/// The text, one piece a token, and why it ends there.
fn text(behaviour: &Behaviour, wishes: &Wishes<'_>) -> (Vec<String>, End) {
    let mut pieces: Vec<String> = match (&behaviour.text, wishes.schema) {
        (Some(text), _) => words(text, wishes.begun),
        (None, Some(schema)) => json_pieces(&sample(schema)),
        (None, None) if wishes.begun.is_empty() => counted("t", behaviour.tokens).collect(),
        (None, None) => words(
            &counted("t", behaviour.tokens).collect::<String>(),
            wishes.begun,
        ),
    };
    let mut end = End::Natural;
    if !wishes.stops.is_empty() {
        let whole = pieces.concat();
        let found = wishes
            .stops
            .iter()
            .filter_map(|stop| Some((whole.find(stop)?, *stop)));
        if let Some((at, stop)) = found.min() {
            pieces = words(&whole[..at], "");
            end = End::Stop(stop.to_owned());
        }
    }
    if let Some(most) = wishes.tokens_max.map(|most| most as usize)
        && pieces.len() > most
    {
        pieces.truncate(most);
        end = End::Length;
    }
    (pieces, end)
}

/// What is no beginning of the text is answered with all of it: that shows.
fn words(text: &str, begun: &str) -> Vec<String> {
    let rest = text.strip_prefix(begun).unwrap_or(text);
    rest.split_inclusive(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(marker: &str, wishes: &Wishes<'_>) -> (String, End) {
        let behaviour = Behaviour::default().for_text(marker);
        let content = Content::of(&behaviour, wishes);
        (content.pieces.concat(), content.end)
    }

    #[test]
    fn a_reply_ends_as_its_request_wishes() {
        let three = "[[fake tokens=3]]";
        let bound = |tokens_max, stops: &[&'static str]| Wishes {
            tokens_max,
            stops: stops.to_vec(),
            ..Wishes::default()
        };
        let cases = [
            (bound(None, &[]), "t0 t1 t2 ", End::Natural),
            (bound(Some(3), &[]), "t0 t1 t2 ", End::Natural),
            (bound(Some(2), &[]), "t0 t1 ", End::Length),
            (bound(None, &["2", "1 t"]), "t0 t", End::Stop("1 t".into())),
            (bound(None, &["x"]), "t0 t1 t2 ", End::Natural),
        ];
        for (wishes, text, end) in cases {
            assert_eq!(said(three, &wishes), (text.to_owned(), end), "{wishes:?}");
        }
        let refused = said("[[fake tokens=1 ends=refusal]]", &Wishes::default());
        assert_eq!(refused.1, End::Named("refusal".into()));
    }

    #[test]
    fn tools_are_called_when_asked_or_forced_with_arguments_of_their_schema() {
        let schema = json!({"type": "object", "properties": {"city": {"enum": ["Porto"]}}});
        let wishes = |must_call| Wishes {
            tools: vec![("look_up", &schema), ("go", &Value::Null)],
            must_call,
            ..Wishes::default()
        };
        let called = |marker: &str, must_call| {
            let behaviour = Behaviour::default().for_text(marker);
            let content = Content::of(&behaviour, &wishes(must_call));
            let calls = content.calls.into_iter();
            calls
                .map(|call| (call.name, call.arguments.concat()))
                .collect::<Vec<_>>()
        };
        let look_up = ("look_up".to_owned(), r#"{"city":"Porto"}"#.to_owned());
        let go = ("go".to_owned(), r#"{"place":"Lisbon"}"#.to_owned());
        assert_eq!(called("hi", MustCall::May), []);
        assert_eq!(called("hi", MustCall::Any), std::slice::from_ref(&look_up));
        assert_eq!(
            called("hi", MustCall::Tool("go")),
            std::slice::from_ref(&go)
        );
        assert_eq!(
            called("[[fake call=look_up,go]]", MustCall::May),
            [look_up, go]
        );
    }
}

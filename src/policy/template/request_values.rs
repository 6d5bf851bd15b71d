//! A request as templates expect to see one.

use domain::{ChatRequest, Message, Part, Role, TemplateSource, Tool, ToolCall, ToolChoice};
use minijinja::{Value, context};
use serde_json::Value as Json;

use super::shield::{Marks, Shield};

/// How earlier calls are shown. Templates differ in what they expect, and say nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CallStyle {
    /// Arguments are JSON text; else an object, where they are JSON.
    are_arguments_text: bool,
    /// A call's message without words has `none` for content; else an empty text.
    is_content_none: bool,
}

impl CallStyle {
    /// What fits most templates comes first.
    pub(super) const ALL: [Self; 4] = [
        Self::new(false, false),
        Self::new(true, false),
        Self::new(false, true),
        Self::new(true, true),
    ];

    const fn new(are_arguments_text: bool, is_content_none: bool) -> Self {
        Self {
            are_arguments_text,
            is_content_none,
        }
    }
}

/// How a message's content is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ContentStyle {
    /// One text.
    #[default]
    Text,
    /// A list of parts of the type `text`, for templates that print nothing of a text. Most are of
    /// models that see.
    Parts,
}

/// The variables that Hugging Face's `apply_chat_template` sets. `enable_thinking` is left out, so
/// that each template's own default holds.
pub(super) fn values(
    request: &ChatRequest,
    source: &TemplateSource,
    shield: &Shield,
    marks: &Marks,
    style: CallStyle,
    content: ContentStyle,
) -> Value {
    let cover = Cover {
        shield,
        marks,
        style,
        content,
    };
    let mut images_before = 0;
    let messages = request.messages.iter().map(|message| {
        let first = images_before;
        images_before += images_of(message);
        cover.message(message, first)
    });
    let messages: Vec<Value> = messages.collect();
    let are_offered = !request.tools.is_empty() && request.tool_choice != ToolChoice::None;
    let tools = are_offered.then(|| {
        let tools = request.tools.iter().map(|tool| cover.tool(tool));
        tools.collect::<Vec<Value>>()
    });
    context! {
        messages,
        tools,
        add_generation_prompt => true,
        bos_token => source.bos_token.as_str(),
        eos_token => source.eos_token.as_str(),
    }
}

fn images_of(message: &Message) -> usize {
    let images = message.content.iter();
    images.filter(|part| matches!(part, Part::Image(_))).count()
}

/// What the message's author thought, `None` where nothing is known of it.
fn thoughts_of(message: &Message) -> Option<String> {
    let thoughts = message.content.iter().filter_map(|part| match part {
        Part::Thought(text) => Some(text.as_str()),
        Part::Text(_)
        | Part::Image(_)
        | Part::Audio(_)
        | Part::File(_)
        | Part::Seal(_)
        | Part::Other(_) => None,
    });
    let thoughts: String = thoughts.collect();
    (!thoughts.is_empty()).then_some(thoughts)
}

struct Cover<'a> {
    shield: &'a Shield,
    marks: &'a Marks,
    style: CallStyle,
    content: ContentStyle,
}

impl Cover<'_> {
    fn text(&self, text: &str) -> Value {
        Value::from(self.shield.cover(text, self.marks))
    }

    /// Texts and, as their marks, images; the first of those is the request's of that number. Joined
    /// without a separator, and a token that lies across the seam of two texts is covered.
    fn content(&self, message: &Message, first_image: usize) -> String {
        let (mut shown, mut text) = (String::new(), String::new());
        let mut image = first_image;
        for part in &message.content {
            match part {
                Part::Text(more) => text.push_str(more),
                Part::Image(_) => {
                    shown.push_str(&self.shield.cover(&text, self.marks));
                    shown.extend(self.marks.of_image(image));
                    text.clear();
                    image += 1;
                }
                // Thoughts have a field of their own; the others no local model takes.
                Part::Thought(_)
                | Part::Seal(_)
                | Part::Audio(_)
                | Part::File(_)
                | Part::Other(_) => {}
            }
        }
        shown.push_str(&self.shield.cover(&text, self.marks));
        shown
    }

    /// `first_image`: the number of the message's first image among the request's.
    fn message(&self, message: &Message, first_image: usize) -> Value {
        let role = match message.role {
            Role::Developer => Role::System,
            role => role,
        };
        let text = self.content(message, first_image);
        let has_calls = !message.tool_calls.is_empty();
        let content = match self.content {
            ContentStyle::Text if self.style.is_content_none && has_calls && text.is_empty() => {
                Value::from(())
            }
            ContentStyle::Text => Value::from(text),
            ContentStyle::Parts => Value::from(vec![Value::from_pairs([
                ("type", Value::from("text")),
                ("text", Value::from(text)),
            ])]),
        };
        let mut fields = vec![("role", Value::from(role.as_label())), ("content", content)];
        if let Some(thoughts) = thoughts_of(message) {
            fields.push(("reasoning_content", self.text(&thoughts)));
        }
        if let Some(name) = &message.name {
            fields.push(("name", self.text(name)));
        }
        if has_calls {
            let calls = message.tool_calls.iter().map(|call| self.call(call));
            fields.push(("tool_calls", Value::from(calls.collect::<Vec<Value>>())));
        }
        if let Some(id) = &message.tool_call_id {
            fields.push(("tool_call_id", self.text(id)));
        }
        Value::from_pairs(fields)
    }

    /// Arguments that are no JSON are shown as they came.
    fn call(&self, call: &ToolCall) -> Value {
        let arguments = match serde_json::from_str::<Json>(&call.arguments) {
            Ok(arguments) if !self.style.are_arguments_text => self.json(&arguments),
            Ok(_) | Err(_) => self.text(&call.arguments),
        };
        let function =
            Value::from_pairs([("name", self.text(&call.name)), ("arguments", arguments)]);
        Value::from_pairs([
            ("id", self.text(&call.id)),
            ("type", Value::from("function")),
            ("function", function),
        ])
    }

    fn tool(&self, tool: &Tool) -> Value {
        let mut function = vec![("name".to_owned(), self.text(&tool.name))];
        if let Some(description) = &tool.description {
            function.push(("description".to_owned(), self.text(description)));
        }
        function.push(("parameters".to_owned(), self.json(&tool.parameters)));
        for (key, value) in &tool.extra {
            let key = self.shield.cover(key, self.marks).into_owned();
            function.push((key, self.json(value)));
        }
        Value::from_pairs([
            ("type", Value::from("function")),
            ("function", Value::from_pairs(function)),
        ])
    }

    fn json(&self, value: &Json) -> Value {
        match value {
            Json::Null => Value::from(()),
            Json::Bool(flag) => Value::from(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(whole), _) => Value::from(whole),
                (None, Some(whole)) => Value::from(whole),
                (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => self.text(text),
            Json::Array(items) => {
                let items = items.iter().map(|item| self.json(item));
                Value::from(items.collect::<Vec<Value>>())
            }
            Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, field)| {
                (
                    self.shield.cover(key, self.marks).into_owned(),
                    self.json(field),
                )
            })),
        }
    }
}

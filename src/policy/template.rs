//! Rendering a model file's own chat template.
//!
//! A template comes with a file that anyone may have written, so it is treated as hostile: its
//! source, its instructions, the text it makes and the depth of what it builds are bounded, and it
//! reaches nothing but its arguments. What it sees is what Hugging Face's tokenizers show it, since
//! templates are written for those.
//!
//! Callers' text is shielded first: a control token spelled out in a message comes out as plain
//! text, in a piece of its own.

mod date;
mod json;
mod meter;
mod request_values;
mod shield;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use domain::{
    ChatRequest, ChatTemplate, Extra, Message, Prompt, Role, TemplateCompiler, TemplateError,
    TemplateSource, Tool, ToolCall, ToolChoice,
};
use minijinja::machinery::{self, CompiledTemplate, TemplateConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value};

pub use date::Date;
use meter::{Bounds, Breach, Meter};
use request_values::{CallStyle, ContentStyle};
use shield::Shield;

/// Larger templates are refused. The longest in common use have 20 KiB.
pub const TEMPLATE_BYTES_MAX: usize = 128 * 1024;

/// How deep macros, loops and included expressions may nest.
const RECURSION_MAX: usize = 64;

/// Words of a refusal that are passed on.
const REFUSAL_CHARS_MAX: usize = 200;

/// Compiles chat templates.
///
/// `strftime_now` is defined in templates only when a date is given with [`Templates::with_date`];
/// templates ask whether it is.
#[derive(Clone, Default)]
pub struct Templates {
    today: Option<Today>,
    bounds: Bounds,
}

/// Says what day it is.
type Today = Arc<dyn Fn() -> Date + Send + Sync>;

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates")
            .field("has_date", &self.today.is_some())
            .finish()
    }
}

impl Templates {
    /// Templates that may print the date, which is asked for at each rendering.
    #[must_use]
    pub fn with_date(today: impl Fn() -> Date + Send + Sync + 'static) -> Self {
        Self {
            today: Some(Arc::new(today)),
            bounds: Bounds::default(),
        }
    }

    fn environment(&self) -> Environment<'static> {
        let mut environment = meter::environment();
        environment.set_recursion_limit(RECURSION_MAX);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |reason: String| {
            Err::<Value, Error>(Breach::Raised(reason).into())
        });
        if let Some(today) = self.today.clone() {
            environment.add_function("strftime_now", move |format: &str| today().format(format));
        }
        environment
    }
}

impl TemplateCompiler for Templates {
    fn compile(&self, source: TemplateSource) -> Result<Arc<dyn ChatTemplate>, TemplateError> {
        let bytes = source.text.len();
        if bytes > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLarge {
                bytes,
                bytes_max: TEMPLATE_BYTES_MAX,
            });
        }
        let mut compiled = Compiled {
            environment: self.environment(),
            bounds: self.bounds,
            syntax: syntax(),
            shield: Shield::new(&source),
            source,
            renders_tools: false,
            style: CallStyle::default(),
            content: ContentStyle::default(),
        };
        compiled.instructions()?;
        compiled.content = compiled.content_style();
        compiled.renders_tools = compiled.shows_a_tool();
        compiled.style = compiled.call_style();
        Ok(Arc::new(compiled))
    }
}

/// As Hugging Face's tokenizers set Jinja up.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the default delimiters are valid")
}

struct Compiled {
    environment: Environment<'static>,
    bounds: Bounds,
    syntax: SyntaxConfig,
    source: TemplateSource,
    shield: Shield,
    renders_tools: bool,
    style: CallStyle,
    content: ContentStyle,
}

impl Compiled {
    /// Compiles the source. Done for each rendering, since the result borrows from the source; it
    /// takes about a tenth of a millisecond.
    fn instructions(&self) -> Result<CompiledTemplate<'_>, TemplateError> {
        let malformed = |error: Error| TemplateError::Malformed {
            line: error.line().unwrap_or(1),
        };
        meter::refuse_folded_repetition(&self.source.text, &self.syntax)?;
        let config = TemplateConfig {
            syntax_config: self.syntax.clone(),
            default_auto_escape: Arc::new(|_| AutoEscape::None),
        };
        let mut compiled = CompiledTemplate::new("chat_template", &self.source.text, &config)
            .map_err(malformed)?;
        meter::install(&mut compiled.instructions)?;
        for block in compiled.blocks.values_mut() {
            meter::install(block)?;
        }
        Ok(compiled)
    }

    fn render_values(&self, values: Value) -> Result<String, TemplateError> {
        let compiled = self.instructions()?;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(meter::fuel(&compiled, self.bounds)));
        let meter = Meter::start(self.bounds);
        let mut text = String::new();
        let done = machinery::eval(
            &environment,
            &compiled.instructions,
            values,
            &compiled.blocks,
            &mut machinery::make_string_output(&mut text),
            AutoEscape::None,
        )
        .map(|_| ());
        drop(meter);
        done.map_err(|error| template_error(&error))?;
        Ok(text)
    }

    /// Whether a tool's name comes out. Some templates show tools only with a system message, so both are
    /// tried.
    fn shows_a_tool(&self) -> bool {
        const NAME: &str = "probe_tool_name";
        let tool = Tool {
            name: NAME.to_owned(),
            description: Some("probe".to_owned()),
            parameters: serde_json::json!({ "type": "object", "properties": {} }),
            extra: Extra::new(),
        };
        let user = Message::new(Role::User, "hi");
        let system = Message::new(Role::System, "hi");
        [vec![user.clone()], vec![system, user]]
            .into_iter()
            .any(|messages| {
                let request = probe(messages, vec![tool.clone()]);
                self.render(&request)
                    .is_ok_and(|prompt| prompt.text().contains(NAME))
            })
    }
}

impl Compiled {
    /// How the template wants to be shown earlier calls: the way by which call and result come out
    /// with the least around them. One that is shown what it does not expect fails, leaves the call
    /// out, or prints `none` and quotes within quotes.
    fn call_style(&self) -> CallStyle {
        const SHOWN: [&str; 3] = ["probe_key", "probe_value", "probe_result"];
        let call = ToolCall {
            // Nine letters and digits: Mistral's templates take no others.
            id: "probe0001".to_owned(),
            name: "probe".to_owned(),
            arguments: r#"{"probe_key": "probe_value"}"#.to_owned(),
            seal: None,
        };
        let mut request = probe(
            vec![
                Message::new(Role::User, "hi"),
                Message {
                    tool_calls: vec![call.clone()],
                    ..Message::new(Role::Assistant, "")
                },
                Message {
                    tool_call_id: Some(call.id),
                    ..Message::new(Role::Tool, "probe_result")
                },
            ],
            Vec::new(),
        );
        request.tool_choice = ToolChoice::None;
        let styles = CallStyle::ALL.into_iter().filter_map(|style| {
            let text = self.render_as(&request, style).ok()?.text();
            let is_shown = SHOWN.iter().all(|word| text.contains(word));
            is_shown.then_some((text.len(), style))
        });
        let least = styles.min_by_key(|(length, _)| *length);
        least.map_or_else(CallStyle::default, |(_, style)| style)
    }

    /// Parts where a text does not come out and parts do.
    fn content_style(&self) -> ContentStyle {
        const SAID: &str = "probe_text";
        let request = probe(vec![Message::new(Role::User, SAID)], Vec::new());
        let is_shown = |content| {
            let prompt = self.render_with(&request, self.style, content);
            prompt.is_ok_and(|prompt| prompt.text().contains(SAID))
        };
        if !is_shown(ContentStyle::Text) && is_shown(ContentStyle::Parts) {
            return ContentStyle::Parts;
        }
        ContentStyle::Text
    }

    fn render_as(&self, request: &ChatRequest, style: CallStyle) -> Result<Prompt, TemplateError> {
        self.render_with(request, style, self.content)
    }

    fn render_with(
        &self,
        request: &ChatRequest,
        style: CallStyle,
        content: ContentStyle,
    ) -> Result<Prompt, TemplateError> {
        let marks = self.shield.marks(request)?;
        let (source, shield) = (&self.source, &self.shield);
        let values = request_values::values(request, source, shield, &marks, style, content);
        let text = self.render_values(values)?;
        Ok(self.shield.split(&text, &marks))
    }
}

fn probe(messages: Vec<Message>, tools: Vec<Tool>) -> ChatRequest {
    ChatRequest {
        tools,
        ..ChatRequest::new("probe", messages)
    }
}

impl ChatTemplate for Compiled {
    fn render(&self, request: &ChatRequest) -> Result<Prompt, TemplateError> {
        self.render_as(request, self.style)
    }

    fn renders_tools(&self) -> bool {
        self.renders_tools
    }
}

/// What the caller of a rendering learns of an error anywhere in its chain of causes.
fn template_error(error: &Error) -> TemplateError {
    let line = error.line().unwrap_or(1);
    if error.kind() == minijinja::ErrorKind::OutOfFuel {
        return TemplateError::OutOfBounds("instructions");
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<Breach>() {
            Some(Breach::Raised(reason)) => {
                return TemplateError::Refused {
                    reason: reason.chars().take(REFUSAL_CHARS_MAX).collect(),
                };
            }
            Some(Breach::Bound(bound)) => return TemplateError::OutOfBounds(bound),
            None => {}
        }
        let is_out_of_fuel = error
            .downcast_ref::<Error>()
            .is_some_and(|error| error.kind() == minijinja::ErrorKind::OutOfFuel);
        if is_out_of_fuel {
            return TemplateError::OutOfBounds("instructions");
        }
        cause = error.source();
    }
    TemplateError::Failed { line }
}

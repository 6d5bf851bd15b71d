//! What of a request is compared with others', and what must be the same before anything is.
//!
//! The last user turn is compared. Everything else is the compartment: a digest, under the node's
//! secret, of the request with that turn left out, and of what decides beside the request.
//!
//! ```text
//! whose it is, model, system prompt, earlier turns, tools, format, ┐
//! sampling class, headers that rules use, placeholders, script,    ├─HMAC─► Compartment
//! encoder, epoch                                                   ┘
//! last user turn ──────────────────────────────────────────────────────────► text
//! ```

use domain::{ChatRequest, Compartment, Findings, Message, Part, Role, TeamId, WriterId};

use crate::cache_key::{CacheSecret, Extent, put_headers, put_request};
use crate::canonical::Form;

/// Begins every digest. Change it when what stands in it changes.
const FORM: &str = "hedge reuse 2";

/// The same of writers' names.
const WRITER_FORM: &str = "hedge writer 2";

/// Who may be answered with whose replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReuseScope {
    /// A team with its own.
    #[default]
    Team,
    /// Every team with every team's, once enough of them had the same reply.
    Shared,
}

/// A request as it is compared.
#[derive(Clone, PartialEq, Eq)]
pub struct Compared {
    pub compartment: Compartment,
    /// The last user turn, masked.
    pub text: String,
}

impl std::fmt::Debug for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compared")
            .field("compartment", &self.compartment)
            .field("bytes", &self.text.len())
            .finish()
    }
}

/// Why a request is compared with no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Incomparable {
    /// Its last turn is not the user's, or more than text.
    LastTurn,
    /// It holds images, files, sound, or parts that nobody here interprets.
    Parts,
    /// A tool was called in it.
    ToolsCalled,
    /// A temperature above `VARIETY_ABOVE`, or a seed: it is one of many that it wants.
    Variety,
    /// It asks for log probabilities, or foretells its reply.
    Particular,
    /// Two values of one class are masked in it: which is which does not show.
    Values,
    /// Its text is longer than is compared.
    TooLong,
}

impl Incomparable {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Incomparable::LastTurn => "last_turn",
            Incomparable::Parts => "parts",
            Incomparable::ToolsCalled => "tools_called",
            Incomparable::Variety => "variety",
            Incomparable::Particular => "particular",
            Incomparable::Values => "values",
            Incomparable::TooLong => "too_long",
        }
    }
}

/// Providers' default is 1: who asks for more wants replies to differ.
const VARIETY_ABOVE: f32 = 1.0;

/// Up to this a temperature is low: what is drawn is mostly the likeliest.
const LOW_UP_TO: f32 = 0.3;

/// Bytes of the last user turn beyond which it is compared with no other: such texts hold a document, and
/// what is asked of it is a small part.
pub const COMPARED_BYTES_MAX: usize = 8 * 1024;

/// What decides beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    pub team: &'a TeamId,
    pub scope: ReuseScope,
    pub findings: &'a Findings,
    /// As [`crate::cache_key`] has them.
    pub headers_used: &'a [String],
    pub headers: &'a [(String, String)],
    /// Whose vectors are compared: those of two encoders have nothing in common.
    pub encoder: &'a str,
}

/// What is compared of `masked`, which is the request as anybody may see it.
///
/// # Errors
/// Why it is compared with no other.
pub fn compared(
    secret: &CacheSecret,
    masked: &ChatRequest,
    around: &Circumstances<'_>,
) -> Result<Compared, Incomparable> {
    let text = asked(masked)?;
    check(masked, around.findings)?;
    if text.len() > COMPARED_BYTES_MAX {
        return Err(Incomparable::TooLong);
    }
    let mut placeholders: Vec<&str> = around
        .findings
        .iter()
        .map(|finding| finding.placeholder.as_str())
        .collect();
    placeholders.sort_unstable();
    let owner = match around.scope {
        ReuseScope::Team => Some(around.team.as_str()),
        ReuseScope::Shared => None,
    };
    let script = whatlang::detect_script(&text);
    let mut form = Form::new(FORM);
    form.put(&secret.epoch()).put(&owner);
    put_request(&mut form, masked, Extent::AroundLast);
    put_headers(&mut form, around.headers_used, around.headers);
    form.put(warmth(masked.sampling.temperature))
        .put(warmth(masked.sampling.top_p))
        .put(&placeholders)
        .put(&script.as_ref().map(|script| script.name()))
        .put(around.encoder);
    let compartment = Compartment(secret.digest(&form));
    Ok(Compared { compartment, text })
}

/// The last user turn, where it is text alone.
fn asked(request: &ChatRequest) -> Result<String, Incomparable> {
    let last = request.messages.last().ok_or(Incomparable::LastTurn)?;
    if last.role != Role::User || !last.tool_calls.is_empty() || last.tool_call_id.is_some() {
        return Err(Incomparable::LastTurn);
    }
    let mut texts = Vec::with_capacity(1);
    for part in &last.content {
        match part {
            Part::Text(text) => texts.push(text.as_str()),
            Part::Image(_)
            | Part::Audio(_)
            | Part::File(_)
            | Part::Thought(_)
            | Part::Seal(_)
            | Part::Other(_) => return Err(Incomparable::Parts),
        }
    }
    Ok(texts.join("\n"))
}

fn check(request: &ChatRequest, findings: &Findings) -> Result<(), Incomparable> {
    let is_text = |message: &Message| {
        let mut parts = message.content.iter();
        parts.all(|part| matches!(part, Part::Text(_)))
    };
    if !request.messages.iter().all(is_text) {
        return Err(Incomparable::Parts);
    }
    let calls = |message: &Message| {
        message.role == Role::Tool
            || !message.tool_calls.is_empty()
            || message.tool_call_id.is_some()
    };
    if request.messages.iter().any(calls) {
        return Err(Incomparable::ToolsCalled);
    }
    let sampling = &request.sampling;
    let is_warm = sampling
        .temperature
        .is_some_and(|it| it.is_nan() || it > VARIETY_ABOVE);
    if is_warm || sampling.seed.is_some() {
        return Err(Incomparable::Variety);
    }
    if sampling.logprobs.is_some() || request.prediction.is_some() {
        return Err(Incomparable::Particular);
    }
    let mut classes: Vec<_> = findings.iter().map(|finding| finding.class).collect();
    classes.sort_unstable();
    if classes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Incomparable::Values);
    }
    Ok(())
}

/// How free the choice of words is, in steps: requests of one step may share a reply.
fn warmth(value: Option<f32>) -> &'static str {
    match value {
        None => "unsaid",
        Some(value) if value <= 0.0 => "none",
        Some(value) if value <= LOW_UP_TO => "low",
        Some(_) => "some",
    }
}

/// A team, as entries remember it.
#[must_use]
pub fn writer_id(secret: &CacheSecret, team: &TeamId) -> WriterId {
    let digest = secret.digest(Form::new(WRITER_FORM).put(team.as_str()));
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    WriterId(u64::from_be_bytes(first))
}

#[cfg(test)]
mod tests {
    use domain::{
        Extra, Finding, FindingClass, Image, OutputFormat, Prediction, Tokens, Tool, ToolCall,
        ToolChoice, Trust,
    };

    use super::*;

    fn request() -> ChatRequest {
        ChatRequest::new(
            "auto",
            vec![
                Message::new(Role::System, "be brief"),
                Message::new(Role::User, "hello"),
                Message::new(Role::Assistant, "hi"),
                Message::new(Role::User, "what is hedge"),
            ],
        )
    }

    fn compared_as(
        request: &ChatRequest,
        change: impl FnOnce(&mut Circumstances<'_>),
    ) -> Result<Compared, Incomparable> {
        let findings = Findings::default();
        let team = TeamId::new("red");
        let mut around = Circumstances {
            team: &team,
            scope: ReuseScope::Team,
            findings: &findings,
            headers_used: &[],
            headers: &[],
            encoder: "e",
        };
        change(&mut around);
        compared(&CacheSecret::new([7; 32]), request, &around)
    }

    fn of(change: impl FnOnce(&mut ChatRequest)) -> Result<Compared, Incomparable> {
        let mut request = request();
        change(&mut request);
        compared_as(&request, |_| {})
    }

    #[test]
    fn the_last_turn_is_compared_and_the_rest_is_the_compartment() {
        let one = of(|_| {}).unwrap();
        assert_eq!(one.text, "what is hedge");
        let last = |text: &'static str| {
            of(move |it| it.messages[3] = Message::new(Role::User, text)).unwrap()
        };
        assert_eq!(last("what's hedge").compartment, one.compartment);
        type Change = fn(&mut ChatRequest);
        let changes: [Change; 18] = [
            |it| it.model = "local".into(),
            |it| it.messages[0] = Message::new(Role::System, "be long"),
            |it| it.messages[1] = Message::new(Role::User, "hello there"),
            |it| it.messages[2] = Message::new(Role::Assistant, "ho"),
            |it| drop(it.messages.remove(0)),
            |it| drop(it.messages.drain(1..3)),
            |it| it.messages[3].name = Some("ann".to_owned()),
            |it| it.format = OutputFormat::JsonObject,
            |it| it.tool_choice = ToolChoice::None,
            |it| it.tools.push(tool("f")),
            |it| it.output_tokens_max = Some(Tokens(9)),
            |it| it.sampling.temperature = Some(0.0),
            |it| it.sampling.temperature = Some(1.0),
            |it| it.sampling.top_p = Some(0.2),
            |it| it.dialect = domain::Dialect::Completions,
            |it| it.sampling.stop = vec!["x".to_owned()],
            |it| it.extra = serde_json::from_str::<Extra>(r#"{"reasoning": 1}"#).unwrap(),
            |it| it.messages[3] = Message::new(Role::User, "что такое хедж"),
        ];
        let mut seen = vec![one.compartment];
        for (at, change) in changes.into_iter().enumerate() {
            let other = of(change).unwrap().compartment;
            assert!(!seen.contains(&other), "change {at}");
            seen.push(other);
        }
        // Delivery and settings of one step do not part them.
        let streamed = |it: &mut ChatRequest| {
            it.delivery = domain::Delivery::Streamed {
                includes_usage: true,
            };
        };
        assert_eq!(of(streamed).unwrap().compartment, one.compartment);
        let warm = |value: f32| of(|it| it.sampling.temperature = Some(value)).unwrap();
        assert_eq!(warm(0.7).compartment, warm(1.0).compartment);
        assert_ne!(warm(0.0).compartment, warm(0.2).compartment);
    }

    fn tool(name: &str) -> Tool {
        Tool {
            name: name.to_owned(),
            description: None,
            parameters: serde_json::json!({}),
            extra: Extra::new(),
        }
    }

    #[test]
    fn what_decides_beside_the_request_parts_compartments() {
        let plain = compared_as(&request(), |_| {}).unwrap().compartment;
        let blue = TeamId::new("blue");
        let of = |change: &dyn Fn(&mut Circumstances<'_>)| {
            compared_as(&request(), |it| change(it))
                .unwrap()
                .compartment
        };
        let other_team = compared(
            &CacheSecret::new([7; 32]),
            &request(),
            &Circumstances {
                team: &blue,
                scope: ReuseScope::Team,
                findings: &Findings::default(),
                headers_used: &[],
                headers: &[],
                encoder: "e",
            },
        );
        assert_ne!(other_team.unwrap().compartment, plain);
        assert_ne!(of(&|it| it.encoder = "f"), plain);
        assert_ne!(of(&|it| it.scope = ReuseScope::Shared), plain);
        let secret = CacheSecret::new([8; 32]);
        let again = CacheSecret::new([7; 32]).of_epoch(1);
        let around = |secret: &CacheSecret| {
            let team = TeamId::new("red");
            let around = Circumstances {
                team: &team,
                scope: ReuseScope::Team,
                findings: &Findings::default(),
                headers_used: &["x-tier".to_owned()],
                headers: &[("x-tier".to_owned(), "gold".to_owned())],
                encoder: "e",
            };
            compared(secret, &request(), &around).unwrap().compartment
        };
        let mut all = vec![plain, around(&secret), around(&again)];
        all.push(around(&CacheSecret::new([7; 32])));
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }

    #[test]
    fn a_shared_compartment_knows_no_team() {
        let of = |team: &str| {
            let around = Circumstances {
                team: &TeamId::new(team),
                scope: ReuseScope::Shared,
                findings: &Findings::default(),
                headers_used: &[],
                headers: &[],
                encoder: "e",
            };
            let secret = CacheSecret::new([7; 32]);
            compared(&secret, &request(), &around).unwrap().compartment
        };
        assert_eq!(of("red"), of("blue"));
        let secret = CacheSecret::new([7; 32]);
        let writer = |team: &str| writer_id(&secret, &TeamId::new(team));
        assert_ne!(writer("red"), writer("blue"));
    }

    #[test]
    fn what_is_not_text_alone_is_not_compared() {
        type Change = fn(&mut ChatRequest);
        let image = || {
            Part::Image(Image {
                url: "data:image/png;base64,AA".to_owned(),
                detail: None,
            })
        };
        let call = || ToolCall {
            id: "c".into(),
            name: "f".into(),
            arguments: "{}".into(),
            seal: None,
        };
        let cases: [(Change, Incomparable); 6] = [
            (|it| it.messages.clear(), Incomparable::LastTurn),
            (|it| drop(it.messages.pop()), Incomparable::LastTurn),
            (
                |it| it.sampling.temperature = Some(1.1),
                Incomparable::Variety,
            ),
            (
                |it| it.sampling.temperature = Some(f32::NAN),
                Incomparable::Variety,
            ),
            (|it| it.sampling.seed = Some(1), Incomparable::Variety),
            (
                |it| it.sampling.logprobs = Some(2),
                Incomparable::Particular,
            ),
        ];
        for (change, why) in cases {
            assert_eq!(of(change).unwrap_err(), why);
        }
        let pictured = |at: usize| of(|it| it.messages[at].content.push(image())).unwrap_err();
        assert_eq!(
            (pictured(1), pictured(3)),
            (Incomparable::Parts, Incomparable::Parts)
        );
        let called = of(|it| it.messages[2].tool_calls.push(call()));
        assert_eq!(called.unwrap_err(), Incomparable::ToolsCalled);
        let foretold = of(|it| {
            it.prediction = Some(Prediction {
                content: vec!["x".to_owned()],
            });
        });
        assert_eq!(foretold.unwrap_err(), Incomparable::Particular);
        let long = "x".repeat(COMPARED_BYTES_MAX + 1);
        let long = of(|it| it.messages[3] = Message::new(Role::User, &long));
        assert_eq!(long.unwrap_err(), Incomparable::TooLong);
    }

    #[test]
    fn findings_must_agree_in_kind_and_number() {
        let finding = |class, at: usize| Finding {
            class,
            value: format!("value {at}"),
            placeholder: format!("<{}_{at}>", class.as_label()),
            trust_min: Trust::Tenant,
        };
        let of = |found: Vec<Finding>| {
            let findings = Findings::new(found);
            let team = TeamId::new("red");
            let around = Circumstances {
                team: &team,
                scope: ReuseScope::Team,
                findings: &findings,
                headers_used: &[],
                headers: &[],
                encoder: "e",
            };
            let secret = CacheSecret::new([7; 32]);
            compared(&secret, &request(), &around).map(|it| it.compartment)
        };
        let (email, phone) = (FindingClass::Email, FindingClass::Phone);
        let none = of(Vec::new()).unwrap();
        let one = of(vec![finding(email, 1)]).unwrap();
        let both = of(vec![finding(email, 1), finding(phone, 1)]).unwrap();
        assert!(none != one && one != both && none != both);
        assert_eq!(one, of(vec![finding(email, 1)]).unwrap());
        assert_eq!(
            both,
            of(vec![finding(phone, 1), finding(email, 1)]).unwrap()
        );
        let two = of(vec![finding(email, 1), finding(email, 2)]);
        assert_eq!(two.unwrap_err(), Incomparable::Values);
    }
}

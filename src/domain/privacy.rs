//! Personal data: what was found, whom it may reach, and the one way out of the building.
//!
//! [`Outbound`] is what backends take, and its only constructor masks. A finding therefore travels
//! unmasked only to a destination as trusted as its class demands; the type sees to it.

use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::{ChatRequest, OutputFormat, Priority, RequestId, TeamId, TraceContext};

/// How far a destination is trusted, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// Anyone's cloud.
    Public,
    /// Machines of the operator's own.
    Tenant,
    /// This machine.
    Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingClass {
    Email,
    Phone,
    Card,
    Iban,
    NationalId,
    Secret,
    Custom,
}

impl FindingClass {
    /// The stem of its placeholders, and its metric label in lower case.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            FindingClass::Email => "EMAIL",
            FindingClass::Phone => "PHONE",
            FindingClass::Card => "CARD",
            FindingClass::Iban => "IBAN",
            FindingClass::NationalId => "NATIONAL_ID",
            FindingClass::Secret => "SECRET",
            FindingClass::Custom => "CUSTOM",
        }
    }
}

/// One value that is personal data. All its occurrences share a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Finding {
    pub class: FindingClass,
    /// The text as written. Never empty, never logged.
    pub value: String,
    /// `<EMAIL_1>`: stable within the exchange, and absent from the request's own text.
    pub placeholder: String,
    /// The least trusted destination that may see the value.
    pub trust_min: Trust,
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finding")
            .field("class", &self.class)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

/// All findings of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    found: Vec<Finding>,
    /// Of values written in a way that masking does not reach.
    trust_least: Option<Trust>,
    /// The reply is to be JSON: values that are put back into it stand inside of strings.
    is_reply_json: bool,
}

impl Findings {
    /// In order of length, longest first, then of the alphabet.
    #[must_use]
    pub fn new(mut found: Vec<Finding>) -> Self {
        found.sort_by(|a, b| {
            b.value
                .len()
                .cmp(&a.value.len())
                .then(a.value.cmp(&b.value))
        });
        Self {
            found,
            trust_least: None,
            is_reply_json: false,
        }
    }

    /// The request also holds values that masking does not reach, such as one inside a pattern,
    /// between escapes. It is for nobody trusted less.
    #[must_use]
    pub fn only_for(mut self, trust_least: Option<Trust>) -> Self {
        self.trust_least = trust_least;
        self
    }

    /// Whether the text of the reply was asked for as JSON.
    #[must_use]
    pub fn for_reply_in(mut self, format: &OutputFormat) -> Self {
        self.is_reply_json = match format {
            OutputFormat::JsonObject | OutputFormat::JsonSchema(_) => true,
            OutputFormat::Text
            | OutputFormat::Regex(_)
            | OutputFormat::Choice(_)
            | OutputFormat::Grammar(_) => false,
        };
        self
    }

    #[must_use]
    pub fn is_reply_json(&self) -> bool {
        self.is_reply_json
    }

    /// The least trusted destination that may be asked at all; `None`: any.
    #[must_use]
    pub fn trust_least(&self) -> Option<Trust> {
        self.trust_least
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter()
    }

    /// The request as `trust` may see it. The received bytes go with the first value masked.
    #[must_use]
    pub fn masked_view(&self, mut request: ChatRequest, trust: Trust) -> ChatRequest {
        let Some(mask) = Mask::new(self, trust) else {
            return request;
        };
        let mut has_changed = false;
        request.texts_mut(&mut |text| has_changed |= mask.apply(text));
        if has_changed {
            request.source = None;
        }
        request
    }
}

/// The values that one destination may not see, looked for all at once: a request may hold thousands
/// of values and of texts.
struct Mask<'a> {
    values: AhoCorasick,
    /// By value, in the automaton's order.
    placeholders: Vec<&'a str>,
}

impl<'a> Mask<'a> {
    /// `None` when `trust` may see everything.
    fn new(findings: &'a Findings, trust: Trust) -> Option<Self> {
        let hidden = || findings.iter().filter(|it| trust < it.trust_min);
        hidden().next()?;
        let values = AhoCorasick::builder()
            // Of two values that begin together the longer, so that none is masked inside it.
            .match_kind(MatchKind::LeftmostLongest)
            // The other kinds look faster, but take more to build than one request gives back.
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(hidden().map(|finding| &finding.value))
            .expect("values come from one request, whose bytes are far fewer than 2^31");
        Some(Self {
            values,
            placeholders: hidden().map(|it| it.placeholder.as_str()).collect(),
        })
    }

    /// Replaces every value. True when something was replaced. None is looked for inside a
    /// placeholder.
    fn apply(&self, text: &mut String) -> bool {
        let mut masked = String::new();
        let mut from = 0;
        for found in self.values.find_iter(text.as_str()) {
            masked.push_str(&text[from..found.start()]);
            masked.push_str(self.placeholders[found.pattern().as_usize()]);
            from = found.end();
        }
        if from == 0 {
            return false;
        }
        masked.push_str(&text[from..]);
        *text = masked;
        true
    }
}

/// A request sealed for one destination. Its fields are private: what left unmasked was allowed to.
#[derive(Clone, Debug)]
pub struct Outbound {
    request_id: RequestId,
    model: String,
    team: Option<TeamId>,
    priority: Priority,
    body_bytes: usize,
    is_resuming: bool,
    trace: Option<Arc<TraceContext>>,
    /// Shared, so that a copy for another thread costs nothing.
    request: Arc<ChatRequest>,
}

impl Outbound {
    /// Masks `request` for a destination of `trust` that knows the model as `model`.
    #[must_use]
    pub fn seal(
        request_id: RequestId,
        model: String,
        request: ChatRequest,
        findings: &Findings,
        trust: Trust,
    ) -> Self {
        Self {
            request_id,
            model,
            team: None,
            priority: Priority::default(),
            body_bytes: 0,
            is_resuming: false,
            trace: None,
            request: Arc::new(findings.masked_view(request, trust)),
        }
    }

    /// Says whose it is. Nothing computed for one team may be told to another.
    #[must_use]
    pub fn for_team(mut self, team: TeamId) -> Self {
        self.team = Some(team);
        self
    }

    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Says how long the body was that it came in.
    #[must_use]
    pub fn of_body_bytes(mut self, body_bytes: usize) -> Self {
        self.body_bytes = body_bytes;
        self
    }

    /// Says that the last message, by the assistant, is an answer to go on with.
    #[must_use]
    pub fn resuming(mut self) -> Self {
        self.is_resuming = true;
        self
    }

    /// Says of which trace it is.
    #[must_use]
    pub fn in_trace(mut self, trace: Option<Arc<TraceContext>>) -> Self {
        self.trace = trace;
        self
    }

    /// `None` where nobody traces it.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_deref()
    }

    /// True when the destination is to go on with the last message, by [`crate::Resume::Exact`] or
    /// [`crate::Resume::Repeating`]. A caller's own such message is not meant.
    #[must_use]
    pub fn is_resuming(&self) -> bool {
        self.is_resuming
    }

    /// How much work writing it anew is; 0 where nobody said.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// `None` where nobody said.
    #[must_use]
    pub fn team(&self) -> Option<&TeamId> {
        self.team.as_ref()
    }

    #[must_use]
    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// The model as the destination names it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    #[must_use]
    pub fn request(&self) -> &ChatRequest {
        &self.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dialect, Message, Role, SourceBody};

    fn request(text: &str) -> ChatRequest {
        ChatRequest {
            source: Some(SourceBody {
                dialect: Dialect::OpenAi,
                bytes: bytes::Bytes::new(),
            }),
            ..ChatRequest::new("m", vec![Message::new(Role::User, text)])
        }
    }

    fn findings() -> Findings {
        Findings::new(vec![Finding {
            class: FindingClass::Email,
            value: "a@b.example".into(),
            placeholder: "<EMAIL_1>".into(),
            trust_min: Trust::Tenant,
        }])
    }

    #[test]
    fn a_public_destination_sees_only_the_placeholder() {
        let sent = Outbound::seal(
            "r".into(),
            "m".into(),
            request("write to a@b.example"),
            &findings(),
            Trust::Public,
        );
        assert_eq!(sent.request().messages[0].text(), "write to <EMAIL_1>");
        assert!(sent.request().source.is_none());
    }

    #[test]
    fn values_are_not_looked_for_in_placeholders_and_longer_ones_win() {
        let found = |value: &str, placeholder: &str| Finding {
            class: FindingClass::Custom,
            value: value.into(),
            placeholder: placeholder.into(),
            trust_min: Trust::Tenant,
        };
        let findings = Findings::new(vec![
            found("EMAIL", "<CUSTOM_1>"),
            found("aba", "<CUSTOM_2>"),
            found("a@b.example", "<EMAIL_1>"),
            found("b.example", "<CUSTOM_3>"),
        ]);
        let text = "a@b.example EMAIL b.example ababa";
        let seen = |trust| findings.masked_view(request(text), trust).messages[0].text();
        assert_eq!(
            seen(Trust::Public),
            "<EMAIL_1> <CUSTOM_1> <CUSTOM_3> <CUSTOM_2>ba"
        );
        assert_eq!(seen(Trust::Device), text);
    }

    #[test]
    fn the_device_sees_the_text_itself() {
        let sent = Outbound::seal(
            "r".into(),
            "m".into(),
            request("write to a@b.example"),
            &findings(),
            Trust::Device,
        );
        assert_eq!(sent.request().messages[0].text(), "write to a@b.example");
        assert!(sent.request().source.is_some());
    }

    #[test]
    fn untouched_requests_keep_their_bytes() {
        let sent = Outbound::seal(
            "r".into(),
            "m".into(),
            request("hi"),
            &findings(),
            Trust::Public,
        );
        assert!(sent.request().source.is_some());
    }
}

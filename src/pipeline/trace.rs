//! Which trace an exchange is of: its caller's, or one that begins here.

use std::sync::Arc;
use std::time::SystemTime;

use domain::{
    ChatRequest, Delivery, Dialect, SpanId, StageTimes, TRACE_STATE_BYTES_MAX, TraceContext,
    TraceId, TraceParent, Traced,
};
use rand::RngExt;

use crate::answer::Timings;

const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";

/// Headers, by their names in lower case, that say of which trace a request is.
pub const TRACE_HEADERS: [&str; 2] = [TRACE_PARENT, TRACE_STATE];

/// Gives exchanges their places in traces. Only a node that exports them has one.
#[derive(Clone, Copy, Debug)]
pub struct Tracer {
    /// Of the traces that begin here, how many spans are made of: from 0 to 1. Of others their caller decided.
    share: f64,
}

impl Tracer {
    #[must_use]
    pub fn new(share: f64) -> Self {
        Self { share }
    }

    /// `headers` have names in lower case.
    pub(crate) fn begin(
        self,
        headers: &[(String, String)],
        request: &ChatRequest,
        random: &mut impl RngExt,
    ) -> Box<Traced> {
        let output_tokens_max = request.output_tokens_max.map(|most| most.0);
        Box::new(Traced {
            context: Arc::new(self.context(headers, random)),
            began: SystemTime::now(),
            is_streamed: matches!(request.delivery, Delivery::Streamed { .. }),
            output_tokens_max,
            operation: operation(request.dialect),
            is_chat: true,
            dimensions: None,
            times: StageTimes::default(),
            finished: Vec::new(),
        })
    }

    /// The same for work that is no chat.
    pub(crate) fn begin_work(
        self,
        headers: &[(String, String)],
        work: TracedWork,
        random: &mut impl RngExt,
    ) -> Box<Traced> {
        let dimensions = match work {
            TracedWork::Embeddings { dimensions } => dimensions,
            TracedWork::Ranking | TracedWork::Moderation => None,
        };
        Box::new(Traced {
            context: Arc::new(self.context(headers, random)),
            began: SystemTime::now(),
            is_streamed: false,
            output_tokens_max: None,
            operation: work.as_operation(),
            is_chat: false,
            dimensions,
            times: StageTimes::default(),
            finished: Vec::new(),
        })
    }

    fn context(self, headers: &[(String, String)], random: &mut impl RngExt) -> TraceContext {
        let [span, call] = [span_id(random), span_id(random)];
        match parent(headers) {
            Some(parent) => TraceContext {
                trace: parent.trace,
                span,
                call,
                parent: Some(parent.span),
                is_sampled: parent.is_sampled,
                state: state(headers),
            },
            None => TraceContext {
                trace: trace_id(random),
                span,
                call,
                parent: None,
                is_sampled: random.random::<f64>() < self.share,
                state: None,
            },
        }
    }
}

/// Work that is no chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TracedWork {
    /// Of so many components, where the request says.
    Embeddings {
        dimensions: Option<u32>,
    },
    Ranking,
    Moderation,
}

impl TracedWork {
    /// The conventions have a name for the first alone, and leave others to whoever needs them.
    fn as_operation(self) -> &'static str {
        match self {
            TracedWork::Embeddings { .. } => "embeddings",
            TracedWork::Ranking => "rerank",
            TracedWork::Moderation => "moderation",
        }
    }
}

/// By the conventions' name, which the dialect decides.
fn operation(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Completions => "text_completion",
        Dialect::Gemini => "generate_content",
        Dialect::OpenAi
        | Dialect::Responses
        | Dialect::Anthropic
        | Dialect::Bedrock
        | Dialect::Ollama => "chat",
    }
}

/// More than one `traceparent` is none (section 3.2.1 of the recommendation leaves it at that).
fn parent(headers: &[(String, String)]) -> Option<TraceParent> {
    let mut parents = headers.iter().filter(|(name, _)| name == TRACE_PARENT);
    let (_, only) = parents.next()?;
    parents.next().is_none().then(|| TraceParent::parse(only))?
}

/// As it came, its headers joined as one list.
fn state(headers: &[(String, String)]) -> Option<Box<str>> {
    let states = headers
        .iter()
        .filter(|(name, text)| name == TRACE_STATE && !text.is_empty());
    let mut joined = String::new();
    for (_, text) in states {
        if joined.len() + text.len() >= TRACE_STATE_BYTES_MAX {
            return None;
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(text);
    }
    (!joined.is_empty()).then(|| joined.into())
}

/// One in 2^64 draws is zeros, which is no id.
fn span_id(random: &mut impl RngExt) -> SpanId {
    loop {
        if let Some(id) = SpanId::new(random.random()) {
            return id;
        }
    }
}

fn trace_id(random: &mut impl RngExt) -> TraceId {
    loop {
        if let Some(id) = TraceId::new(random.random()) {
            return id;
        }
    }
}

impl From<Timings> for StageTimes {
    fn from(timings: Timings) -> Self {
        Self {
            admit: timings.admit,
            scan: timings.scan,
            look_up: timings.look_up,
            route: timings.route,
            open: timings.open,
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{Message, Role};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn begun(share: f64, headers: &[(&str, &str)]) -> Box<Traced> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let request = ChatRequest::new("m", vec![Message::new(Role::User, "hi")]);
        Tracer::new(share).begin(&headers, &request, &mut StdRng::seed_from_u64(7))
    }

    #[test]
    fn work_that_is_no_chat_is_of_its_callers_trace_too() {
        let headers = [(TRACE_PARENT.to_owned(), PARENT.to_owned())];
        for (work, operation, dimensions) in [
            (
                TracedWork::Embeddings {
                    dimensions: Some(8),
                },
                "embeddings",
                Some(8),
            ),
            (TracedWork::Ranking, "rerank", None),
            (TracedWork::Moderation, "moderation", None),
        ] {
            let mut random = StdRng::seed_from_u64(7);
            let traced = Tracer::new(0.0).begin_work(&headers, work, &mut random);
            assert_eq!((traced.operation, traced.is_chat), (operation, false));
            assert_eq!(traced.dimensions, dimensions);
            let parent = traced.context.parent.unwrap();
            assert_eq!(parent.to_string(), "00f067aa0ba902b7");
        }
    }

    #[test]
    fn a_caller_that_traces_is_gone_on_with() {
        let traced = begun(
            0.0,
            &[
                ("traceparent", PARENT),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
            ],
        );
        let context = &traced.context;
        assert_eq!(
            context.trace.to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(context.parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled, "its caller decided");
        assert_eq!(context.state.as_deref(), Some("a=1,b=2"));
        assert_ne!(context.span, context.call);
        let unsampled = PARENT.replace("-01", "-00");
        assert!(
            !begun(1.0, &[("traceparent", &unsampled)])
                .context
                .is_sampled
        );
    }

    #[test]
    fn what_is_no_parent_begins_a_trace_of_its_own() {
        for headers in [
            vec![],
            vec![("traceparent", "00-nothing")],
            vec![("traceparent", PARENT), ("traceparent", PARENT)],
            vec![("tracestate", "a=1")],
        ] {
            let traced = begun(1.0, &headers);
            assert_eq!(traced.context.parent, None, "{headers:?}");
            assert_eq!(traced.context.state, None, "{headers:?}");
            assert!(traced.context.is_sampled);
            assert!(!begun(0.0, &headers).context.is_sampled);
        }
        let long = "x".repeat(TRACE_STATE_BYTES_MAX);
        let traced = begun(1.0, &[("traceparent", PARENT), ("tracestate", &long)]);
        assert_eq!(traced.context.state, None);
    }
}

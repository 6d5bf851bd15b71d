//! Where an exchange belongs in a trace that goes through several programs, as W3C Trace Context has it
//! (<https://www.w3.org/TR/trace-context/>, Recommendation of 2021-11-23, sections 3.2 and 3.3), and what is
//! noted of it beside its record. Of a node that exports no traces there is none of this.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::FinishReason;

/// The longest `tracestate` that is passed on. Programs must take 512 bytes, and may drop more.
pub const TRACE_STATE_BYTES_MAX: usize = 512;
/// `00-` trace `-` span `-` flags.
const PARENT_BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($name:ident, $bytes:literal) => {
        impl $name {
            /// `None` of zeros.
            #[must_use]
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                bytes.iter().any(|byte| *byte != 0).then_some(Self(bytes))
            }

            /// Big end first.
            #[must_use]
            pub fn bytes(self) -> [u8; $bytes] {
                self.0
            }

            /// Of digits in lower case.
            fn parse(text: &[u8]) -> Option<Self> {
                let mut bytes = [0; $bytes];
                if text.len() != 2 * bytes.len() {
                    return None;
                }
                for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
                    *byte = octet(pair)?;
                }
                Self::new(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(TraceId, 16);
id!(SpanId, 8);

fn octet(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let [high, low] = pair else { return None };
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// What a caller says of the trace that its request is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    pub is_sampled: bool,
}

impl TraceParent {
    /// The value of `traceparent`. `None` of what is none, which is then as if it had not come. Later versions
    /// are read as this one, as far as it goes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let is_dash = |at: usize| text.get(at) == Some(&b'-');
        if text.len() < PARENT_BYTES || ![2, 35, 52].into_iter().all(is_dash) {
            return None;
        }
        let is_whole = match octet(&text[..2])? {
            0 => text.len() == PARENT_BYTES,
            0xff => false,
            _ => text.len() == PARENT_BYTES || is_dash(PARENT_BYTES),
        };
        is_whole.then_some(())?;
        Some(Self {
            trace: TraceId::parse(&text[3..35])?,
            span: SpanId::parse(&text[36..52])?,
            is_sampled: octet(&text[53..55])? & SAMPLED != 0,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.is_sampled { SAMPLED } else { 0 };
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

/// An exchange's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: TraceId,
    /// Of the exchange.
    pub span: SpanId,
    /// Of what it asks of a backend, within the exchange.
    pub call: SpanId,
    /// The caller's, where it said one.
    pub parent: Option<SpanId>,
    /// Whether spans are made of it at all.
    pub is_sampled: bool,
    /// The caller's `tracestate`, as it came.
    pub state: Option<Box<str>>,
}

impl TraceContext {
    /// `traceparent` for whoever is asked.
    #[must_use]
    pub fn for_call(&self) -> String {
        let parent = TraceParent {
            trace: self.trace,
            span: self.call,
            is_sampled: self.is_sampled,
        };
        let mut text = String::with_capacity(PARENT_BYTES);
        // Writing to a string cannot fail.
        let _ = write!(text, "{parent}");
        text
    }
}

/// What spans are made of beside the record. Numbers and words of our own, never text.
#[derive(Clone, Debug)]
pub struct Traced {
    pub context: Arc<TraceContext>,
    pub began: SystemTime,
    pub is_streamed: bool,
    pub output_tokens_max: Option<u32>,
    /// What was done, by the conventions' name for it: `chat`.
    pub operation: &'static str,
    /// What comes is a reply; else vectors, scores or verdicts do, at once.
    pub is_chat: bool,
    /// Components of each vector, where the request asks for so many.
    pub dimensions: Option<u32>,
    pub times: StageTimes,
    /// Of each choice, as they ended. At most as many as a request may ask for.
    pub finished: Vec<FinishReason>,
}

/// How long each stage took, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    pub admit: Duration,
    pub scan: Duration,
    pub look_up: Duration,
    pub route: Duration,
    pub open: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_and_written() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span.to_string(), "00f067aa0ba902b7");
        assert!(parent.is_sampled);
        assert_eq!(parent.to_string(), GOOD);
        let unsampled = GOOD.replace("-01", "-00");
        let parent = TraceParent::parse(&unsampled).unwrap();
        assert!(!parent.is_sampled);
        assert_eq!(parent.to_string(), unsampled);
        // Other flags are not ours to pass on; a later version may have more after it.
        assert!(TraceParent::parse(&GOOD.replace("-01", "-03")).is_some());
        assert!(TraceParent::parse(&format!("{}-more", GOOD.replacen("00", "01", 1))).is_some());
    }

    #[test]
    fn what_is_no_parent_is_none() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
            "zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn who_is_asked_is_told_of_the_call() {
        let parent = TraceParent::parse(GOOD).unwrap();
        let context = TraceContext {
            trace: parent.trace,
            span: SpanId::new([1; 8]).unwrap(),
            call: SpanId::new([2; 8]).unwrap(),
            parent: Some(parent.span),
            is_sampled: true,
            state: None,
        };
        assert_eq!(
            context.for_call(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0202020202020202-01"
        );
    }
}

//! dialect codecs and SSE framing

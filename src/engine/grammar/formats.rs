//! The formats that strings can be held to.
//!
//! Some of the compiler's own let through what validators refuse: the 29th of every February, a
//! second 60 at any time, names longer than their RFC has them. Those have a pattern here, which
//! takes a little less than the RFC does, and never more.

use crate::grammar::formats::pattern::{DATE, DATE_TIME, EMAIL, HOSTNAME, TIME};

pub(super) struct Format {
    pub name: &'static str,
    /// `None`: the compiler's own is sound.
    pub pattern: Option<&'static str>,
}

pub(super) const FORMATS: [Format; 10] = [
    ours("date", DATE),
    ours("date-time", DATE_TIME),
    theirs("duration"),
    ours("email", EMAIL),
    ours("hostname", HOSTNAME),
    theirs("ipv4"),
    theirs("ipv6"),
    ours("time", TIME),
    theirs("uri"),
    theirs("uuid"),
];

const fn ours(name: &'static str, pattern: &'static str) -> Format {
    Format {
        name,
        pattern: Some(pattern),
    }
}

const fn theirs(name: &'static str) -> Format {
    Format {
        name,
        pattern: None,
    }
}

impl Format {
    /// What it takes to compile one, in those that take little.
    pub(super) fn weight(&self) -> usize {
        match self.name {
            "uri" | "ipv6" => 3,
            _ => 1,
        }
    }
}

pub(super) fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

/// Anchored expressions, each made of a few named parts.
mod pattern {
    macro_rules! date {
        () => {
            concat!(
                r"(?:[0-9]{4}-(?:",
                r"(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|",
                r"(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|",
                r"02-(?:0[1-9]|1[0-9]|2[0-8]))|",
                // Years that four divides, and those of centuries that four divides.
                r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|",
                r"(?:[02468][048]|[13579][26])00)-02-29)",
            )
        };
    }
    macro_rules! time {
        () => {
            concat!(
                r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?",
                r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
            )
        };
    }
    /// Up to 62 characters, of the 63 a label may have.
    macro_rules! label {
        () => {
            r"[a-zA-Z0-9]{1,20}(?:-[a-zA-Z0-9]{1,13}){0,3}"
        };
    }
    macro_rules! atom {
        ($most:literal) => {
            concat!(r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,", $most, "}")
        };
    }

    pub(super) const DATE: &str = concat!("^", date!(), "$");
    pub(super) const TIME: &str = concat!("^", time!(), "$");
    pub(super) const DATE_TIME: &str = concat!("^", date!(), "T", time!(), "$");
    pub(super) const HOSTNAME: &str = concat!("^", label!(), r"(?:\.", label!(), "){0,3}$");
    /// Up to 63 characters before the sign, of the 64 there may be.
    pub(super) const EMAIL: &str = concat!(
        "^",
        atom!("31"),
        r"(?:\.",
        atom!("15"),
        "){0,2}@",
        label!(),
        r"(?:\.",
        label!(),
        "){1,2}$"
    );
}

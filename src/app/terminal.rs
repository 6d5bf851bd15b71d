//! The terminal: the one place that prints.

use std::fmt::Display;
use std::io::{self, Write};

/// A line on standard output. A closed pipe (`hedge … | head`) is no fault of ours.
pub fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
}

/// Text on standard output at once, without a newline.
pub fn say_part(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// A line on standard error: progress, warnings, prompts.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Text on standard error at once, without a newline.
pub fn note_part(text: impl Display) {
    let mut err = io::stderr().lock();
    let _ = write!(err, "{text}").and_then(|()| err.flush());
}

//! `hedge doctor`: one line per thing looked at, and what to do about it.

mod gpu;
mod look;
mod pools;
mod relays;
mod shared;
mod upstreams;

use std::fmt;
use std::process::ExitCode;

use crate::cli::ConfigArgs;
use crate::terminal;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    /// Works, and could be better.
    Warn,
    /// `hedge serve` will not do what is configured.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub state: State,
    pub what: &'static str,
    pub found: String,
    /// What to do, where something is to be done.
    pub next: Option<String>,
}

impl Line {
    pub fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            state: State::Ok,
            what,
            found: found.into(),
            next: None,
        }
    }

    pub fn warn(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            state: State::Warn,
            what,
            found: found.into(),
            next: Some(next.into()),
        }
    }

    pub fn fail(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            state: State::Fail,
            ..Self::warn(what, found, next)
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "fail",
        };
        write!(f, "{state}  {:<10} {}", self.what, self.found)?;
        if let Some(next) = &self.next {
            write!(f, "\n                 next: {next}")?;
        }
        Ok(())
    }
}

/// Looks at everything; fails when something configured cannot work.
///
/// # Errors
/// The runtime for the network cannot be started.
pub fn doctor(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let mut has_failed = false;
    let lines = look::all(args)?;
    for line in &lines {
        has_failed |= line.state == State::Fail;
        terminal::say(line);
    }
    Ok(if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

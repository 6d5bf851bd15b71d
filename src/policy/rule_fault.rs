//! What is wrong with a file of rules, and where.

use std::fmt;

/// One fault in a file that an operator wrote. A parse reports all of them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    pub file: String,
    /// The TOML path, as `rules[2].when.tokens_min`; empty for the file as a whole.
    pub path: String,
    pub message: String,
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}: {}: {}", self.file, self.path, self.message)
        }
    }
}

impl std::error::Error for RuleFault {}

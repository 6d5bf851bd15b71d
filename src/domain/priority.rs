//! How soon a request wants its answer.

use serde::{Deserialize, Serialize};

/// What a caller says of a request, or the operator of a key. The later one in order is the lower.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Priority {
    /// Somebody waits for the answer. Also what saying nothing means.
    #[default]
    Interactive,
    /// Goes behind what is interactive, and is never left out for good.
    Batch,
}

impl Priority {
    pub const ALL: [Priority; 2] = [Priority::Interactive, Priority::Batch];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Priority::Interactive => "interactive",
            Priority::Batch => "batch",
        }
    }

    #[must_use]
    pub fn named(label: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_label() == label)
    }
}

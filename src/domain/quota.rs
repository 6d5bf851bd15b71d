//! How much a principal may use, and who keeps count.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::{KeyId, MicroUsd, TeamId};

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    Requests,
    InputTokens,
    OutputTokens,
    /// In and out together.
    Tokens,
    /// In millionths of a dollar.
    Cost,
    /// Exchanges under way.
    Concurrency,
}

impl Measure {
    pub const ALL: [Self; 6] = [
        Self::Requests,
        Self::InputTokens,
        Self::OutputTokens,
        Self::Tokens,
        Self::Cost,
        Self::Concurrency,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Tokens => "tokens",
            Self::Cost => "cost",
            Self::Concurrency => "concurrency",
        }
    }
}

/// In what time a limit's amount may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// These three refill steadily.
    Second,
    Minute,
    Hour,
    /// These begin anew with the calendar's.
    Day,
    Month,
    /// This one never does.
    Ever,
}

impl Period {
    pub const ALL: [Self; 6] = [
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Month,
        Self::Ever,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Ever => "ever",
        }
    }

    /// Of those that refill.
    #[must_use]
    pub fn refills_in(self) -> Option<Duration> {
        match self {
            Self::Second => Some(Duration::from_secs(1)),
            Self::Minute => Some(Duration::from_secs(60)),
            Self::Hour => Some(Duration::from_secs(3_600)),
            Self::Day | Self::Month | Self::Ever => None,
        }
    }
}

/// Whose use a limit counts together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Of everybody on this node.
    Organisation,
    Team(TeamId),
    Key(KeyId),
}

impl Scope {
    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::Team(_) => "team",
            Self::Key(_) => "key",
        }
    }
}

/// What becomes of a request that a limit has nothing left for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenSpent {
    #[default]
    Refuse,
    /// What costs nothing may still answer: of limits of cost alone.
    Free,
}

/// At most `amount` of `measure` per `per`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    pub scope: Scope,
    pub measure: Measure,
    pub amount: u64,
    pub per: Period,
    /// How much of it may be used at one moment, where it refills. Never zero, nor above what an hour
    /// brings.
    pub burst: u64,
    pub when_spent: WhenSpent,
}

/// Amounts, as asked for or as used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost: MicroUsd,
}

impl Use {
    /// What of it `measure` counts.
    #[must_use]
    pub fn of(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests | Measure::Concurrency => self.requests,
            Measure::InputTokens => self.input_tokens,
            Measure::OutputTokens => self.output_tokens,
            Measure::Tokens => self.input_tokens.saturating_add(self.output_tokens),
            // A negative cost would be a gift.
            Measure::Cost => u64::try_from(self.cost.0).unwrap_or(0),
        }
    }
}

/// Keeps count of what is used, and of what is held for exchanges under way.
///
/// Contract, for every implementation:
/// - `take` takes from all limits or from none; of those that do not suffice it names the one that will
///   longest not.
/// - What is settled and what is held come to no more than the limit, at every moment and whoever asks
///   at once, as long as nobody settles more than was taken. More than that is counted all the same:
///   it was used.
/// - A grant that is dropped unsettled gives all of it back but the request, which was made.
#[async_trait]
pub trait Quotas: Send + Sync + 'static {
    /// Takes the worst that an exchange may come to.
    async fn take(&self, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted>;

    /// What is left of each limit, in their order. Cheap, and of this moment.
    fn left(&self, limits: &[Limit]) -> Vec<Left>;
}

/// What is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub amount: u64,
    /// Until all of it is there again; `None` where that is never.
    pub whole_after: Option<Duration>,
}

/// What `take` gave. Settling says what it came to.
pub struct Grant {
    returned: Option<Box<dyn Returned>>,
    /// What is left of each limit after it, in their order.
    pub left: Vec<Left>,
}

/// Takes a grant back. Never waits, never fails.
pub trait Returned: Send + Sync {
    fn settle(&self, used: Use);
}

impl Grant {
    #[must_use]
    pub fn new(returned: Box<dyn Returned>, left: Vec<Left>) -> Self {
        Self {
            returned: Some(returned),
            left,
        }
    }

    /// Where there are no limits.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self {
            returned: None,
            left: Vec::new(),
        }
    }

    pub fn settle(mut self, used: Use) {
        if let Some(returned) = self.returned.take() {
            returned.settle(used);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(returned) = self.returned.take() {
            returned.settle(Use {
                requests: 1,
                ..Use::default()
            });
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("left", &self.left).finish()
    }
}

/// A limit has not enough left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    pub limit: Limit,
    /// When asking again can help; `None`: as far as anybody knows never, as where one request is more
    /// than the limit.
    pub retry_after: Option<Duration>,
}

//! How much a principal may use, and who keeps count.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::{ExchangeRecord, KeyId, MicroUsd, ModelAlias, Tag, TeamId, UserId};

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
    /// Of whom a team's callers name as their user. The same word of another team is somebody else.
    User(TeamId, UserId),
    /// Of requests with this tag.
    Tag(Tag),
    /// Of requests that ask for a model by this name.
    Model(ModelAlias),
    /// Of shadows, which nobody asked for but the operator.
    Shadow,
}

impl Scope {
    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::Team(_) => "team",
            Self::Key(_) => "key",
            Self::User(..) => "user",
            Self::Tag(_) => "tag",
            Self::Model(_) => "model",
            Self::Shadow => "shadow",
        }
    }

    /// Of somebody whom a caller names, so that nobody knows how many there will be.
    #[must_use]
    pub fn is_of_user(&self) -> bool {
        matches!(self, Self::User(..))
    }

    /// The same text for this scope wherever and whenever it is asked, and for no other one.
    #[must_use]
    pub fn key(&self) -> String {
        let label = self.as_label();
        match self {
            Self::Organisation | Self::Shadow => label.to_owned(),
            Self::Team(team) => format!("{label}:{team}"),
            Self::Key(key) => format!("{label}:{key}"),
            // Both may have any letters: how long the first is says where the second begins.
            Self::User(team, user) => format!("{label}:{}:{team}:{user}", team.as_str().len()),
            Self::Tag(tag) => format!("{label}:{tag}"),
            Self::Model(model) => format!("{label}:{model}"),
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
    /// It waits for a while: of limits that refill, and of what is under way at once.
    Queue,
}

/// Parts of a limit, in thousandths; that what was used has passed one is told, once in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Ascending; zero where there are no more.
    permille: [u16; Self::MAX],
}

impl Thresholds {
    /// Of one limit.
    pub const MAX: usize = 4;

    /// `None` where there are too many, or one is nothing or more than the whole.
    #[must_use]
    pub fn new(permille: &[u16]) -> Option<Self> {
        let mut sorted = [u16::MAX; Self::MAX];
        sorted.get_mut(..permille.len())?.copy_from_slice(permille);
        if permille.iter().any(|part| !(1..=1_000).contains(part)) {
            return None;
        }
        sorted.sort_unstable();
        let permille = sorted.map(|part| if part == u16::MAX { 0 } else { part });
        Some(Self { permille })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.permille == [0; Self::MAX]
    }

    /// Ascending, in thousandths.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.permille.into_iter().filter(|part| *part > 0)
    }

    /// The highest that was passed when what was used of `amount` grew from `before` to `after`.
    #[must_use]
    pub fn passed(&self, amount: u64, before: u64, after: u64) -> Option<u16> {
        let is_reached = |part: u16, used: u64| {
            u128::from(used) * 1_000 >= u128::from(amount) * u128::from(part)
        };
        let passed = self.iter();
        let passed = passed.filter(|part| is_reached(*part, after) && !is_reached(*part, before));
        passed.last()
    }
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
    /// Of what begins anew with the calendar, or never.
    pub warn_at: Thresholds,
}

impl Limit {
    /// The same text for all limits that count the same for the same, and for no others. How much it is
    /// has no part in it: a limit that is raised goes on from what was used.
    #[must_use]
    pub fn account(&self) -> String {
        let (measure, per) = (self.measure.as_label(), self.per.as_label());
        format!("{measure}/{per}/{}", self.scope.key())
    }

    /// What may be had at one moment: of what refills its burst.
    #[must_use]
    pub fn whole(&self) -> u64 {
        match self.per.refills_in() {
            Some(_) => self.burst,
            None => self.amount,
        }
    }
}

/// Limits that depend on what is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRules {
    /// Of each user by itself, whoever that is: their scopes name nobody.
    pub each_user: Vec<Limit>,
    /// A request that names no user is refused. Else all of a team's that name none count together.
    pub is_user_required: bool,
    pub tags: BTreeMap<Tag, Vec<Limit>>,
    /// By the names that callers ask for.
    pub models: BTreeMap<ModelAlias, Vec<Limit>>,
}

impl LimitRules {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.each_user.is_empty()
            && !self.is_user_required
            && self.tags.is_empty()
            && self.models.is_empty()
    }

    /// Whether there is any.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        !self.each_user.is_empty() || self.named().next().is_some()
    }

    /// Those that are known before anybody asks: of tags and of models.
    pub fn named(&self) -> impl Iterator<Item = &Limit> {
        self.tags.values().chain(self.models.values()).flatten()
    }

    /// Those of a request of `team`.
    pub fn of<'a>(
        &'a self,
        team: &'a TeamId,
        user: &'a UserId,
        tags: &'a [Tag],
        model: &ModelAlias,
    ) -> impl Iterator<Item = Limit> + 'a {
        let users = self.each_user.iter().map(|limit| Limit {
            scope: Scope::User(team.clone(), user.clone()),
            ..limit.clone()
        });
        let tagged = tags.iter().filter_map(|tag| self.tags.get(tag)).flatten();
        let models = self.models.get(model).into_iter().flatten();
        users.chain(tagged.chain(models).cloned())
    }
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

    /// With whom it counts at present.
    fn reach(&self) -> Reach {
        Reach::Alone
    }

    /// Users' limits that are counted at present, and what is left of each: those nearest to their end,
    /// no more than `count_max`. None where nobody here knows whose there are. Not for a request's path.
    async fn users(&self, count_max: usize) -> Vec<(Limit, Left)> {
        let _ = count_max;
        Vec::new()
    }
}

/// What was used of a limit has passed one of its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitWarning {
    pub limit: Limit,
    /// The highest that was passed at once, in thousandths.
    pub permille: u16,
    /// What was settled by then.
    pub used: u64,
}

/// Is told of them, by whoever keeps count. Never waits.
pub trait LimitWatch: Send + Sync + 'static {
    fn passed(&self, warning: LimitWarning);
}

/// With whom somebody counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// For itself.
    Alone,
    /// With other replicas.
    Shared,
    /// With others, whom it cannot ask at present: by its own share.
    Apart,
}

impl Reach {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Shared => "shared",
            Self::Apart => "apart",
        }
    }
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

    /// The same, of an exchange whose record is `record`: who counts elsewhere may leave it there.
    fn settle_with(&self, used: Use, record: &ExchangeRecord) {
        let _ = record;
        self.settle(used);
    }
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

    /// The same, of an exchange with this record.
    pub fn settle_with(mut self, used: Use, record: &ExchangeRecord) {
        if let Some(returned) = self.returned.take() {
            returned.settle_with(used, record);
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
    pub why: Shortage,
}

/// What there is not enough of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortage {
    /// Of what the limit counts.
    #[default]
    Amount,
    /// Of accounts: as many users as may be counted at once are, and none of them without any use.
    Accounts,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_scopes_have_the_same_key() {
        let scopes = [
            Scope::Organisation,
            Scope::Shadow,
            Scope::Team("organisation".into()),
            Scope::Team("a".into()),
            Scope::Key("a".into()),
            Scope::Tag("a".into()),
            Scope::Model("a".into()),
            Scope::Team("1:a:b".into()),
            Scope::User("a".into(), "b".into()),
            Scope::User("a".into(), "".into()),
            Scope::User("a:b".into(), "c".into()),
            Scope::User("a".into(), "b:c".into()),
            Scope::User("b".into(), "b".into()),
        ];
        let keys: BTreeSet<String> = scopes.iter().map(Scope::key).collect();
        assert_eq!(keys.len(), scopes.len(), "{keys:?}");
        assert_eq!(scopes[10].key(), "user:3:a:b:c");
        assert_eq!(scopes[3].key(), "team:a");
    }

    #[test]
    fn a_threshold_is_passed_once_and_the_highest_is_told() {
        let parts = Thresholds::new(&[950, 800]).unwrap();
        assert_eq!(parts.iter().collect::<Vec<_>>(), [800, 950]);
        for (before, after, passed) in [
            (0, 79, None),
            (0, 80, Some(800)),
            (80, 94, None),
            (79, 95, Some(950)),
            (94, 200, Some(950)),
            (95, 200, None),
        ] {
            assert_eq!(parts.passed(100, before, after), passed, "{before} {after}");
        }
        assert_eq!(parts.passed(u64::MAX, 0, u64::MAX), Some(950));
        assert_eq!(Thresholds::default().passed(1, 0, 1), None);
        assert!(Thresholds::new(&[]).unwrap().is_empty());
        for wrong in [&[0][..], &[1_001], &[1, 2, 3, 4, 5]] {
            assert_eq!(Thresholds::new(wrong), None);
        }
    }
}

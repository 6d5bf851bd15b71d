//! Who is to answer: the rules' verdict, checked against what each candidate can do.

#[cfg(test)]
mod tests;

use std::fmt;

use domain::{Abilities, Ability, BadRequest, Fault, HealthState, Tokens};

use crate::condition::Sight;
use crate::features::{Ask, Features};
use crate::needs::{advice, needs};
use crate::roster::{Asked, Roster, Share, Target};
use crate::route_file::{DEFAULT_RULE, Manners, RoutePolicy, Rule};
use crate::sealing::{Sealing, UNSEALED};
use crate::trouble::Trouble;

/// The rule of a plan whose request named its model.
pub const NAMED_RULE: &str = "model-named";

/// Estimates count with another vocabulary than the model's own. A candidate is passed over only
/// when the prompt is this many times its context, which no vocabulary makes up for.
const CONTEXT_EXCESS_SURE: u32 = 3;

/// The ordered candidates of one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The rule that decided, [`NAMED_RULE`], or `default`.
    pub rule: String,
    /// In order of preference; never empty.
    pub candidates: Vec<Candidate>,
    /// Backends that are down and would have come before the first candidate: its answer is a
    /// stand-in's.
    pub passed_over: Vec<usize>,
    pub skipped: Vec<Skipped>,
    pub manners: Manners,
    pub trouble: Trouble,
    /// Who may be asked for this exchange at all.
    pub sealing: Sealing,
}

impl Plan {
    /// True when the request named who answers.
    pub(crate) fn is_named(&self) -> bool {
        self.rule == NAMED_RULE
    }
}

/// One backend and model that may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index into [`Roster::backends`].
    pub backend: usize,
    pub model: String,
    /// With whom it is equal, where that is so. Equals follow each other.
    pub share: Option<Share>,
    /// For `x-hedge-reason` when this one answers. Whoever falls back to it adds why.
    pub reason: String,
}

/// A candidate that will not be tried, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The candidate's name: `backend/model`, or as the rules write it where there is no such.
    pub name: String,
    pub cause: SkipCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipCause {
    /// No backend or model of this name is configured.
    Absent,
    /// What it is asked would leave unsealed, and may not.
    Unsealed,
    Unable(Ability),
    /// The prompt is surely longer than the model's context.
    ContextTooSmall(Tokens),
    /// Known to be down, and another candidate is not.
    Down,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match self.cause {
            SkipCause::Absent => f.write_str("not configured"),
            SkipCause::Unsealed => f.write_str(UNSEALED),
            SkipCause::Unable(ability) => write!(f, "cannot do {}", ability.as_label()),
            SkipCause::ContextTooSmall(limit) => {
                write!(
                    f,
                    "its context holds {limit} tokens and the prompt is longer"
                )
            }
            SkipCause::Down => f.write_str("down"),
        }
    }
}

/// Decides who may answer, in which order. Takes at most 50 us for a prompt of 1 KB.
///
/// # Errors
/// [`Fault::BadRequest`] when a model was named and cannot do what the request needs;
/// [`Fault::NoCandidate`] when the rules leave nobody.
pub fn route(
    policy: &RoutePolicy,
    asked: &Asked,
    ask: &Ask<'_>,
    roster: &Roster,
) -> Result<Plan, Fault> {
    let needed = needs(ask.request);
    match asked {
        Asked::Exactly(targets) => plan_named(policy, targets, needed, roster),
        Asked::Auto => plan_by_rules(policy, needed, ask, roster),
    }
}

/// The rule that decides about a request, by its name, whoever can answer at present.
#[must_use]
pub fn rule_of<'a>(policy: &'a RoutePolicy, asked: &Asked, ask: &Ask<'_>) -> &'a str {
    match asked {
        Asked::Exactly(_) => NAMED_RULE,
        Asked::Auto => {
            let sight = Sight::new(Features::new(ask), &policy.said, &policy.instructed);
            deciding(policy, &sight).map_or(DEFAULT_RULE, |rule| rule.name.as_str())
        }
    }
}

fn deciding<'a>(policy: &'a RoutePolicy, sight: &Sight<'_>) -> Option<&'a Rule> {
    policy.rules.iter().find(|rule| rule.when.holds(sight))
}

/// The named targets and no others. Their context is left to the backend, which counts exactly.
fn plan_named(
    policy: &RoutePolicy,
    targets: &[Target],
    needed: Abilities,
    roster: &Roster,
) -> Result<Plan, Fault> {
    let mut list = Shortlist::new(roster, policy.sealing);
    for target in targets {
        if !list.admits(target) {
            list.skip(target, SkipCause::Unsealed);
            continue;
        }
        match missing(target, needed, roster) {
            Some(ability) => list.skip(target, SkipCause::Unable(ability)),
            None => list.keep(target.clone()),
        }
    }
    let unable = list.first_unable();
    list.into_plan(NAMED_RULE, Manners::default(), policy.trouble)
        .map_err(|fault| match unable {
            Some((name, ability)) => Fault::BadRequest(unable_fault(&name, ability)),
            None => fault,
        })
}

fn plan_by_rules(
    policy: &RoutePolicy,
    needed: Abilities,
    ask: &Ask<'_>,
    roster: &Roster,
) -> Result<Plan, Fault> {
    let sight = Sight::new(Features::new(ask), &policy.said, &policy.instructed);
    let rule = deciding(policy, &sight);
    let (name, outcome, sealing) = match rule {
        Some(rule) => (
            rule.name.as_str(),
            &policy.outcomes[rule.then],
            rule.sealing,
        ),
        None => {
            let outcome = &policy.outcomes[policy.default];
            (DEFAULT_RULE, outcome, outcome.sealing)
        }
    };
    let mut list = Shortlist::new(roster, sealing);
    for candidate in &outcome.candidates {
        let targets = roster.targets(candidate, sealing);
        if targets.is_empty() {
            list.skip_absent(candidate);
        }
        for target in targets {
            if !list.admits(&target) {
                list.skip(&target, SkipCause::Unsealed);
                continue;
            }
            match cause_to_skip(&target, needed, &sight.features, roster) {
                Some(cause) => list.skip(&target, cause),
                None => list.keep(target),
            }
        }
    }
    list.into_plan(name, outcome.manners, outcome.trouble)
}

fn cause_to_skip(
    target: &Target,
    needed: Abilities,
    features: &Features<'_>,
    roster: &Roster,
) -> Option<SkipCause> {
    if let Some(ability) = missing(target, needed, roster) {
        return Some(SkipCause::Unable(ability));
    }
    let limit = roster.model_card(target)?.context_tokens_max?;
    let surely_over = limit.0.saturating_mul(CONTEXT_EXCESS_SURE);
    features
        .has_tokens(surely_over)
        .then_some(SkipCause::ContextTooSmall(limit))
}

fn missing(target: &Target, needed: Abilities, roster: &Roster) -> Option<Ability> {
    let card = roster.model_card(target)?;
    needed.first_missing_from(card.abilities)
}

fn unable_fault(name: &str, ability: Ability) -> BadRequest {
    let (param, hint) = advice(ability);
    BadRequest::at(
        param,
        format!(
            "`{name}` cannot do {}; {hint}, or name another model",
            ability.as_label()
        ),
    )
    .with_code("unsupported_by_model")
}

/// Candidates as they are found, each at most once.
struct Shortlist<'a> {
    roster: &'a Roster,
    sealing: Sealing,
    kept: Vec<Target>,
    skipped: Vec<Skipped>,
}

impl<'a> Shortlist<'a> {
    fn new(roster: &'a Roster, sealing: Sealing) -> Self {
        Self {
            roster,
            sealing,
            kept: Vec::new(),
            skipped: Vec::new(),
        }
    }

    fn admits(&self, target: &Target) -> bool {
        self.sealing.admits(self.roster.card(target.backend))
    }

    fn keep(&mut self, target: Target) {
        if !self.kept.iter().any(|kept| kept.is_same(&target)) {
            self.kept.push(target);
        }
    }

    fn skip(&mut self, target: &Target, cause: SkipCause) {
        let backend = &self.roster.card(target.backend).name;
        self.skipped.push(Skipped {
            name: format!("{backend}/{}", target.model),
            cause,
        });
    }

    fn skip_absent(&mut self, name: &str) {
        self.skipped.push(Skipped {
            name: name.to_owned(),
            cause: SkipCause::Absent,
        });
    }

    /// `None` also where somebody able might be, who may not be asked.
    fn first_unable(&self) -> Option<(String, Ability)> {
        let mut skipped = self.skipped.iter();
        if skipped.any(|it| it.cause == SkipCause::Unsealed) {
            return None;
        }
        self.skipped.iter().find_map(|skipped| match skipped.cause {
            SkipCause::Unable(ability) => Some((skipped.name.clone(), ability)),
            SkipCause::Absent
            | SkipCause::Unsealed
            | SkipCause::ContextTooSmall(_)
            | SkipCause::Down => None,
        })
    }

    fn state(&self, target: &Target) -> HealthState {
        if self.roster.resting.iter().any(|it| it.is_same(target)) {
            return HealthState::Down;
        }
        self.roster.backends[target.backend].health.state
    }

    /// Those that can answer now, then those on the way there; those that are down only when there
    /// is no other, since a health report may be stale and a try costs little.
    fn into_plan(mut self, rule: &str, manners: Manners, trouble: Trouble) -> Result<Plan, Fault> {
        let kept = std::mem::take(&mut self.kept);
        let is_down = |target: &&Target| self.state(target) == HealthState::Down;
        let first = kept.iter().find(|target| !is_down(target));
        let group = first.and_then(|target| target.share).map(|it| it.group);
        // One equal instead of another is no stand-in.
        let is_equal = |target: &&Target| target.share.is_some_and(|it| Some(it.group) == group);
        let passed_over: Vec<usize> = kept
            .iter()
            .take_while(is_down)
            .filter(|target| !is_equal(target))
            .map(|target| target.backend)
            .collect();
        let (down, mut able): (Vec<Target>, Vec<Target>) = kept
            .into_iter()
            .partition(|target| self.state(target) == HealthState::Down);
        able.sort_by_key(|target| self.state(target) == HealthState::Starting);
        let has_able = !able.is_empty();
        if has_able {
            for target in &down {
                self.skip(target, SkipCause::Down);
            }
        } else {
            able = down;
        }
        if able.is_empty() {
            return Err(Fault::NoCandidate {
                reasons: self.skipped.iter().map(Skipped::to_string).collect(),
            });
        }
        let candidates = able
            .into_iter()
            .map(|target| Candidate {
                backend: target.backend,
                model: target.model,
                share: target.share,
                reason: rule.to_owned(),
            })
            .collect();
        Ok(Plan {
            rule: rule.to_owned(),
            candidates,
            // With nobody else left, the ones that are down are tried all the same.
            passed_over: if has_able { passed_over } else { Vec::new() },
            skipped: self.skipped,
            manners,
            trouble,
            sealing: self.sealing,
        })
    }
}

//! Looking for another request's reply.

use std::sync::Arc;
use std::time::SystemTime;

use domain::{Entry, Evidence, Neighbour, TeamId};
use policy::ReuseScope;
use policy::reuse::{Class, Company, Judgement, NEAR_MAX, Near, Pair, Question, Verdict, judge};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Reuse, ReuseRules, Seed, Shadow, count};
use crate::reuse::trace::{Nearest, Trace};
use crate::stages::{CacheWish, Missed};

/// Neighbours that are judged: the nearest is not always the one that is meant. The others are heard as
/// their company.
const JUDGED: usize = 4;

/// Neighbours that are looked for where teams share.
const SHARED_NEAR_MAX: usize = 4 * NEAR_MAX;

/// The cosine from which on a neighbour's reply is compared with a fresh one.
const COMPARED_AT: f32 = 0.5;

pub(crate) enum Sought {
    /// This entry answers.
    Hit { entry: Arc<Entry>, similarity: f32 },
    /// Its reply is made, and may be kept for others.
    Missed,
}

/// Looks for a reply that may answer, and notes in `missed` what is to be kept or learned where none may.
pub(crate) async fn look_up(reuse: &Reuse, missed: &mut Missed, trace: &mut Trace) -> Sought {
    let snapshot = Arc::clone(&missed.admitted.snapshot);
    let Some(rules) = snapshot.reuse() else {
        return Sought::Missed;
    };
    let counts = &reuse.core().counts;
    let Some(keeping) = &mut missed.keeping else {
        return Sought::Missed;
    };
    let compared = match keeping.compared.take() {
        Some(Ok(compared)) => compared,
        Some(Err(why)) => {
            count(&counts.unasked);
            trace.why_not = Some(why.as_label());
            return Sought::Missed;
        }
        None => return Sought::Missed,
    };
    trace.compartment = Some(compared.compartment);
    let question = Question::new(&compared.text);
    let class = match question.reusable() {
        Ok(class) => class,
        Err(why) => {
            count(&counts.unasked);
            trace.why_not = Some(why.as_label());
            return Sought::Missed;
        }
    };
    trace.class = Some(class);
    let began = Instant::now();
    let until = began + rules.look_up_max;
    let vector = timeout_at(until, rules.encoder.vector(&compared.text)).await;
    let Some(vector) = vector.ok().flatten() else {
        count(&counts.failed);
        trace.why_not = Some("no_vector");
        return Sought::Missed;
    };
    let seed = Seed::new(compared, class, Arc::clone(&vector));
    let compartment = seed.compartment;
    keeping.seed = Some(seed);
    if missed.admitted.context.cache != CacheWish::Use {
        return Sought::Missed;
    }
    let near = reuse
        .core()
        .index
        .nearest(&compartment, &vector, sought(rules));
    let Ok(near) = timeout_at(until, near).await else {
        count(&counts.failed);
        trace.why_not = Some("slow_index");
        return Sought::Missed;
    };
    let query = (&question, &*vector);
    let now = SystemTime::now();
    let near: Vec<Neighbour> = near
        .into_iter()
        .filter(|it| it.entry.compartment == compartment && it.entry.expires_at > now)
        .collect();
    let team = &missed.admitted.principal.team;
    let judged = (0..near.len().min(JUDGED)).map(|at| {
        let company = company(rules, &near, at, team);
        (at, company, judged(reuse, query, &near[at], company))
    });
    // Where guards refuse all, the nearest is the one to speak of.
    let best = judged.max_by(|(_, _, a), (_, _, b)| {
        let by_probability = a.probability_same.total_cmp(&b.probability_same);
        by_probability.then(a.similarity.total_cmp(&b.similarity))
    });
    let Some((at, company, judgement)) = best else {
        reuse.core().acceptance().found_none();
        count(&counts.missed);
        return Sought::Missed;
    };
    if let Some(guard) = judgement.refusal {
        count(&counts.refused[guard.index()]);
    }
    let entry = Arc::clone(&near[at].entry);
    let verdict = decide(reuse, rules, class, &judgement, &entry, team);
    trace.nearest = Some(Nearest {
        id: entry.id,
        kept_at: entry.kept.kept_at,
        company,
        judgement,
        verdict,
    });
    if verdict != Verdict::Serve && reuse.core().scorer.hears_company() {
        let heard = near.iter().filter(|it| may_answer(rules, &it.entry, team));
        keeping.near = to_be_compared(heard);
    }
    match verdict {
        Verdict::Serve => {
            count(&counts.served);
            if rules.scope == ReuseScope::Shared && !rules.hit_pad.is_zero() {
                sleep_until(began + rules.hit_pad).await;
            }
            let similarity = judgement.similarity;
            Sought::Hit { entry, similarity }
        }
        Verdict::Shadow => {
            count(&counts.shadowed);
            keeping.shadow = Some(Shadow {
                entry,
                judgement,
                class,
            });
            Sought::Missed
        }
        Verdict::Miss => {
            count(&counts.missed);
            Sought::Missed
        }
    }
}

fn judged(
    reuse: &Reuse,
    (question, vector): (&Question, &[f32]),
    neighbour: &Neighbour,
    company: Company,
) -> Judgement {
    let pair = Pair {
        query: question,
        entry: &Question::new(&neighbour.entry.text),
        similarity: neighbour.similarity,
        query_vector: vector,
        entry_vector: &neighbour.entry.vector,
        company,
    };
    judge(&pair, &reuse.core().scorer)
}

/// Of those near, what the others say beside the one at `at`. Who may not answer the team is not heard
/// either: whoever writes much would have a say in what others are answered.
fn company(rules: &ReuseRules, near: &[Neighbour], at: usize, team: &TeamId) -> Company {
    let others = near.iter().enumerate();
    let others = others.filter(|(place, it)| *place != at && may_answer(rules, &it.entry, team));
    let others = others.map(|(_, it)| it);
    let heard: Vec<Near<'_>> = std::iter::once(&near[at])
        .chain(others)
        .map(|it| Near {
            says: it.entry.meaning().0,
            similarity: it.similarity,
            vector: &it.entry.vector,
        })
        .collect();
    Company::of(0, &heard)
}

/// Neighbours that the index is asked for: where not all are heard, so many that those who are not do not
/// crowd the others out soon.
fn sought(rules: &ReuseRules) -> usize {
    match rules.scope {
        ReuseScope::Team => NEAR_MAX,
        ReuseScope::Shared => SHARED_NEAR_MAX,
    }
}

/// Those near enough whose replies a fresh one is compared with: one of all that say the same.
fn to_be_compared<'a>(near: impl Iterator<Item = &'a Neighbour>) -> Vec<Arc<Entry>> {
    let mut some: Vec<Arc<Entry>> = Vec::new();
    let near = near
        .take(NEAR_MAX)
        .filter(|it| it.similarity >= COMPARED_AT);
    for it in near {
        if some
            .iter()
            .all(|other| other.meaning() != it.entry.meaning())
        {
            some.push(Arc::clone(&it.entry));
        }
    }
    some
}

fn decide(
    reuse: &Reuse,
    rules: &ReuseRules,
    class: Class,
    judgement: &Judgement,
    entry: &Entry,
    team: &TeamId,
) -> Verdict {
    let draw: f64 = rand::random();
    let of = (entry.id, &entry.evidence);
    let mut acceptance = reuse.core().acceptance();
    let verdict = acceptance.decide(&rules.acceptance, class, judgement, of, draw);
    let may_serve = !rules.is_dry && may_answer(rules, entry, team);
    match verdict {
        Verdict::Serve if !may_serve => Verdict::Shadow,
        Verdict::Serve | Verdict::Shadow | Verdict::Miss => verdict,
    }
}

/// Whether the team may be answered with the entry: its own, or one that enough teams came to. Where teams
/// do not share, all are its own.
fn may_answer(rules: &ReuseRules, entry: &Entry, team: &TeamId) -> bool {
    let Evidence { confirmed_by, .. } = &entry.evidence;
    rules.scope == ReuseScope::Team
        || entry.kept.team == *team
        || confirmed_by.len() + 1 >= rules.writers_min
}

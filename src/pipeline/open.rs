//! Trying the candidates: the commit point of an exchange.
//!
//! A candidate's stream is kept only when its first content arrives in time; `Started` is held back
//! until then. Before that, failure moves on to the next candidate; after it, an error goes to the
//! caller in-band, unless the route has replies rescued ([`crate::rescue`]).

use std::sync::Arc;

use domain::Outcome;
use tokio::time::Instant;

use crate::answer::Refusal;
use crate::rescue::{Lifeline, Rescuer, kept};
use crate::stages::{Missed, Opened, Planned};
use crate::vitals::Ward;
use crate::walk::{Caller, Walk, route_taken};

pub(crate) async fn open(planned: Planned, ward: &Arc<Ward>) -> Result<Opened, Refusal> {
    let Planned { missed, plan } = planned;
    let Missed {
        mut admitted,
        findings,
        keeping,
        is_for_all: _,
    } = *missed;
    let began = Instant::now();
    let caller = Caller {
        request_id: admitted.context.request_id.clone(),
        team: admitted.principal.team.clone(),
        priority: admitted.context.priority.max(admitted.principal.priority),
        body_bytes: admitted.context.body_bytes,
        trace: admitted.receipt.trace(),
    };
    let snapshot = Arc::clone(&admitted.snapshot);
    let ward = Arc::clone(ward);
    let kept = kept(&plan, &admitted.request);
    // Whoever goes on may have to be paid for the prompt.
    if matches!(kept, Some(Ok(_))) {
        admitted.receipt.note_prompt(&admitted.request);
    }
    let mut walk = Walk::new(caller, snapshot, ward, findings, plan, &admitted.request);
    let mut request = Some(admitted.request);

    let begun = match walk.open_next(&mut request, &mut admitted.receipt).await {
        Ok(begun) => begun,
        Err(fault) => {
            let rule = walk.rule().to_owned();
            admitted.timings.open = began.elapsed();
            admitted.receipt.note_times(admitted.timings);
            admitted.receipt.note(|record| {
                record.reason.clone_from(&rule);
                record.outcome = Outcome::Refused(fault.as_label());
            });
            return Err(Refusal {
                fault,
                reason: Some(rule),
            });
        }
    };
    admitted.timings.open = began.elapsed();
    admitted.receipt.note_times(admitted.timings);
    let reason = walk.reason(&begun);
    let card = walk.card(&begun);
    admitted.receipt.note(|record| {
        record.route = Some(route_taken(card, &begun.candidate.model));
        record.reason.clone_from(&reason);
    });
    // A reply over raw findings, or by a stand-in, is not what the key promises.
    let keeping = keeping.filter(|_| !walk.is_stand_in() && !walk.sees_findings(&begun));
    let findings = Arc::clone(walk.findings());
    let route = walk.label(&begun);
    let is_stand_in = walk.is_stand_in();
    let rules = admitted.snapshot.rescue();
    let lifeline = kept.map(|kept| match kept {
        Ok(request) => {
            let rescuer = Rescuer::new(walk, begun.candidate, *request, rules);
            Lifeline::Ready(Box::new(rescuer))
        }
        Err(lost) => Lifeline::Cut(lost),
    });
    Ok(Opened {
        findings,
        keeping,
        lifeline,
        route,
        is_stand_in,
        reason,
        head: begun.head,
        rest: begun.rest,
        receipt: admitted.receipt,
        timings: admitted.timings,
        snapshot: admitted.snapshot,
    })
}

//! What is said in the clear, by a relay or by anybody on the way; and what a relay says within.

use super::gateway::{Fault, Gateway, now, ring};
use super::*;
use crate::{EDGE_FIELD, Kem, OuterRefusal, Sessions};

#[tokio::test]
async fn a_key_that_the_relay_has_no_more_is_fetched_anew_and_used_once() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    whole(&edge, "r-1").await.unwrap();
    {
        let mut state = gateway.state();
        state.ring = ring(&Kem::ALL, 77, now(0));
        state.serial += 1;
    }
    whole(&edge, "r-2").await.unwrap();
    let figures = edge.client.figures();
    assert_eq!((figures.rekeyed, figures.manifests_taken), (1, 2));
    assert_eq!(gateway.state().calls.len(), 2);
    let results = edge.log.results();
    let expected = [
        SealedResult::Answered,
        SealedResult::Broken,
        SealedResult::Answered,
    ];
    assert_eq!(results, expected);
    assert_eq!(gateway.state().manifests, 2);
    whole(&edge, "r-3").await.unwrap();
    assert_eq!(gateway.state().manifests, 2, "the new one holds");
}

#[tokio::test]
async fn a_relay_that_knows_no_key_is_asked_twice_and_no_more() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    gateway.will(Fault::Before(OuterRefusal::Key));
    gateway.will(Fault::Before(OuterRefusal::Key));
    let error = whole(&edge, "r-1").await.unwrap_err();
    assert!(
        matches!(error, BackendError::Failed { status: 400 }),
        "{error:?}"
    );
    assert!(gateway.state().faults.is_empty());
    assert_eq!(gateway.state().calls.len(), 0);
}

/// Somebody lets the request through and answers in its stead, so that it comes again.
#[tokio::test]
async fn a_forged_refusal_buys_no_second_call() {
    for forged in [OuterRefusal::Key, OuterRefusal::Busy, OuterRefusal::TooMany] {
        let (one, two) = (
            Gateway::start("relay-1").await,
            Gateway::start("relay-2").await,
        );
        let edge = edge(&[&one, &two], ClientRules::default());
        one.will(Fault::After(forged));
        two.will(Fault::After(forged));
        // As the pipeline does: where it is told that nothing was done, it comes again.
        let mut last = None;
        for _ in 0..3 {
            let error = whole(&edge, "r-1").await.unwrap_err();
            let is_repeated = matches!(
                error,
                BackendError::Overloaded { .. } | BackendError::RateLimited { .. }
            );
            last = Some(error);
            if !is_repeated {
                break;
            }
        }
        assert!(matches!(last, Some(BackendError::Interrupted)), "{last:?}");
        let calls = one.state().calls.len() + two.state().calls.len();
        assert_eq!(calls, 1, "{forged:?}");
        let opened = [one.state().opened.clone(), two.state().opened.clone()].concat();
        assert_eq!(opened.len(), 2, "it was sealed anew");
        assert_ne!(opened[0].enc, opened[1].enc);
        let key = |at: usize| opened[at].field("idempotency-key").to_owned();
        assert_eq!(key(0), key(1));
    }
}

#[tokio::test]
async fn what_is_said_in_the_clear_is_no_answer() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    for (fault, words) in [
        (Fault::Plain, "Garbled"),
        (
            Fault::Before(OuterRefusal::Unopened),
            "Failed { status: 400 }",
        ),
        (
            Fault::Before(OuterRefusal::TooLarge),
            "Failed { status: 413 }",
        ),
        (
            Fault::Before(OuterRefusal::MediaType),
            "Failed { status: 415 }",
        ),
        (
            Fault::Before(OuterRefusal::Certificate),
            "Failed { status: 403 }",
        ),
        (
            Fault::Before(OuterRefusal::TooSlow),
            "Failed { status: 408 }",
        ),
        (
            Fault::Before(OuterRefusal::Busy),
            "Overloaded { retry_after: 1s }",
        ),
    ] {
        gateway.will(fault.clone());
        let error = whole(&edge, "r-1").await.unwrap_err();
        assert!(format!("{error:?}").contains(words), "{fault:?}: {error:?}");
    }
    assert_eq!(gateway.state().calls.len(), 0);
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected_once() {
    for ahead in [600, -600] {
        let gateway = Gateway::start_with("relay-1", ahead).await;
        let edge = edge(&[&gateway], ClientRules::default());
        whole(&edge, "r-1").await.unwrap();
        whole(&edge, "r-2").await.unwrap();
        let (calls, opened) = {
            let state = gateway.state();
            (state.calls.len(), state.opened.clone())
        };
        assert_eq!((calls, opened.len()), (2, 3), "{ahead}");
        let key = |at: usize| opened[at].field("idempotency-key").to_owned();
        assert_eq!(key(0), key(1));
        assert_eq!(edge.client.figures().redated, 1);
        let results = edge.log.results();
        let expected = [
            SealedResult::OffTime,
            SealedResult::Answered,
            SealedResult::Answered,
        ];
        assert_eq!(results, expected);
    }
}

#[tokio::test]
async fn a_clock_that_stays_off_is_no_loop() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    gateway.will(Fault::Undone(400));
    gateway.will(Fault::Undone(400));
    let error = whole(&edge, "r-1").await.unwrap_err();
    assert!(
        matches!(error, BackendError::Failed { status: 400 }),
        "{error:?}"
    );
    assert_eq!(gateway.state().opened.len(), 2);
}

#[tokio::test]
async fn what_the_relay_refuses_within_is_an_answer() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    let refusals = [
        (401, SealedResult::Unproven),
        (403, SealedResult::Denied),
        (409, SealedResult::Repeated),
        (429, SealedResult::Capped),
        (503, SealedResult::Answered),
    ];
    for (status, _) in refusals {
        gateway.will(Fault::Undone(status));
        let (seen, body) = whole(&edge, &format!("r-{status}")).await.unwrap();
        assert_eq!(
            (seen, body.as_str()),
            (status, "{\"error\":{\"message\":\"no\"}}")
        );
    }
    assert_eq!(edge.log.results(), refusals.map(|(_, result)| result));
    assert_eq!(gateway.state().calls.len(), 0);
}

/// By what the requests that came were proven, in their order.
fn algs(gateway: &Gateway) -> Vec<String> {
    let opened = gateway.state().opened.clone();
    let alg = |field: &str| field.split(';').nth(2).unwrap().to_owned();
    opened.iter().map(|it| alg(it.field(EDGE_FIELD))).collect()
}

#[tokio::test]
async fn one_signature_is_enough_for_a_session() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    for at in 0..4 {
        whole(&edge, &format!("r-{at}")).await.unwrap();
    }
    let [signed, session] = ["alg=\"ed25519\"", "alg=\"session\""];
    assert_eq!(algs(&gateway), [signed, session, session, session]);
    // The relay forgets it: nothing was done for the request, which is signed and goes on.
    gateway.state().sessions = Some(Sessions::default());
    whole(&edge, "r-4").await.unwrap();
    assert_eq!(algs(&gateway)[4..], [session, signed]);
    assert_eq!(gateway.state().calls.len(), 5);
    let figures = edge.client.figures();
    assert_eq!(
        (figures.resigned, figures.failovers, figures.broken),
        (1, 0, 0)
    );
    let results = edge.log.results();
    assert_eq!(
        results[4..],
        [SealedResult::Unproven, SealedResult::Answered]
    );
}

#[tokio::test]
async fn a_relay_that_grants_no_session_has_every_request_signed() {
    let gateway = Gateway::start("relay-1").await;
    gateway.state().sessions = None;
    let edge = edge(&[&gateway], ClientRules::default());
    for at in 0..3 {
        whole(&edge, &format!("r-{at}")).await.unwrap();
    }
    assert!(algs(&gateway).iter().all(|alg| alg == "alg=\"ed25519\""));
    assert_eq!(edge.client.figures().resigned, 0);
}

/// A relay that says no again is not asked a third time.
#[tokio::test]
async fn what_is_not_proven_by_a_signature_either_is_refused() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    whole(&edge, "r-1").await.unwrap();
    for _ in 0..2 {
        gateway.will(Fault::Undone(401));
    }
    let delivered = edge.client.carry(parcel("r-2", false)).await.unwrap();
    assert_eq!(delivered.status, 401);
    assert_eq!(gateway.state().opened.len(), 3);
}

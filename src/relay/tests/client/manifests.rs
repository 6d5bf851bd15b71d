//! Which manifests an edge believes, over HTTP.

use domain::HealthState;

use super::gateway::{Gateway, Wrong, now, ring};
use super::*;
use crate::attest::{Attestation, Verifier};
use crate::{Kem, UnixTime};

/// No request is sealed by it, and nothing is remembered of it.
async fn check_refused(gateway: &Gateway, edge: &Edge, what: &str) {
    let error = whole(edge, "r-1").await.unwrap_err();
    assert!(
        matches!(error, BackendError::Unreachable(_)),
        "{what}: {error:?}"
    );
    let state = gateway.state();
    assert_eq!(
        state.raw.len(),
        1,
        "{what}: nothing but the manifest is asked for"
    );
    drop(state);
    let health = edge.client.health();
    assert_eq!(health.state, HealthState::Down, "{what}");
    assert!(health.reason.is_some(), "{what}");
    assert!(edge.log.entries().is_empty(), "{what}");
}

#[tokio::test]
async fn a_manifest_that_is_not_the_relays_own_is_not_used() {
    for wrong in [
        Wrong::Signature,
        Wrong::Stranger,
        Wrong::Expired,
        Wrong::TooLong,
        Wrong::Body,
        Wrong::Status,
        Wrong::Compressed,
        Wrong::Relay,
    ] {
        let gateway = Gateway::start("relay-1").await;
        let edge = edge(&[&gateway], ClientRules::default());
        gateway.state().wrong = wrong;
        check_refused(&gateway, &edge, &format!("{wrong:?}")).await;
        assert!(edge.memory.0.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_manifest_never_goes_back_not_even_after_a_restart() {
    let gateway = Gateway::start("relay-1").await;
    let memory = Arc::new(Memory::default());
    let first = member(&gateway, &memory);
    let first = edge_with(vec![first], Arc::clone(&memory), ClientRules::default());
    whole(&first, "r-0").await.unwrap();
    assert_eq!(memory.seen("relay-1").unwrap().serial, 5);
    // An older serial, and other bytes under the same one.
    for (serial, ring_seed) in [(4, 77), (5, 77)] {
        {
            let mut state = gateway.state();
            state.serial = serial;
            state.ring = ring(&Kem::ALL, ring_seed, now(0));
            state.raw.clear();
        }
        let again = member(&gateway, &memory);
        let again = edge_with(vec![again], Arc::clone(&memory), ClientRules::default());
        check_refused(&gateway, &again, &format!("serial {serial}")).await;
        assert_eq!(memory.seen("relay-1").unwrap().serial, 5);
    }
}

#[tokio::test]
async fn without_a_key_against_quantum_computers_nothing_is_sent_unless_that_is_allowed() {
    let gateway = Gateway::start("relay-1").await;
    gateway.state().ring = ring(&[Kem::X25519], 8, now(0));
    let strict = edge(&[&gateway], ClientRules::default());
    check_refused(&gateway, &strict, "stripped").await;
    let mut rules = ClientRules::default();
    rules.keys.require_post_quantum = false;
    let lenient = edge(&[&gateway], rules);
    whole(&lenient, "r-1").await.unwrap();
}

#[tokio::test]
async fn a_relay_that_nothing_vouches_for_is_used_or_not_as_the_policy_says() {
    let rules = |attestation| ClientRules {
        attestation,
        verifiers: Vec::<Arc<dyn Verifier>>::new(),
        ..ClientRules::default()
    };
    let gateway = Gateway::start("relay-1").await;
    let strict = edge(&[&gateway], rules(Attestation::Require));
    check_refused(&gateway, &strict, "unattested").await;
    let warned = edge(&[&gateway], rules(Attestation::Warn));
    whole(&warned, "r-1").await.unwrap();
}

#[tokio::test]
async fn many_requests_at_once_fetch_one_manifest() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    let ids: Vec<String> = (0..8).map(|number| format!("r-{number}")).collect();
    let asking = ids.iter().map(|id| whole(&edge, id));
    for answer in futures::future::join_all(asking).await {
        answer.unwrap();
    }
    assert_eq!(gateway.state().manifests, 1);
    assert_eq!(gateway.state().calls.len(), 8);
}

#[tokio::test]
async fn the_driver_has_the_first_manifest_before_anybody_asks() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    assert_eq!(edge.client.health().state, HealthState::Starting);
    tokio::select! {
        () = edge.client.tend() => unreachable!(),
        () = async {
            while edge.client.health().state != HealthState::Ready {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let view = &edge.client.members()[0];
    assert_eq!((view.serial, view.in_flight), (Some(5), 0));
    assert!(view.expires > Some(UnixTime(0)));
    whole(&edge, "r-1").await.unwrap();
    assert_eq!(gateway.state().manifests, 1);
}

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::sealed::edges::Edges;
use crate::sealed::folder::RelayFolder;
use crate::sealed::registrar::{JoinRequest, Registrar, RenewRequest, Turned};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_900_000)
}

struct World {
    key: Seed,
    _keep: tempfile::TempDir,
    relay: RelayFolder,
    registrar: Registrar,
    member: MemberFolder,
}

fn world() -> World {
    let keep = tempfile::tempdir().unwrap();
    let relay = RelayFolder::new(keep.path().join("relay"));
    let names = ["localhost".to_owned()];
    relay
        .make("relay-hq", &names, now(), &mut rand::rng())
        .unwrap();
    let edges = Arc::new(Edges::open(&relay.edges()).unwrap());
    World {
        key: ed25519::generate(&mut rand::rng()),
        registrar: Registrar::new("relay-hq", relay.clone(), edges),
        member: MemberFolder::new(keep.path().join("member")),
        relay,
        _keep: keep,
    }
}

fn joining(world: &World) -> Vec<u8> {
    let models = ["local".to_owned(), "*".to_owned()];
    let invited = world
        .relay
        .invite("edge-1", &models, now(), &mut rand::rng());
    let asked = JoinRequest {
        secret: invited.unwrap().token.secret.expose().to_string(),
        request: request(&world.key).unwrap(),
    };
    serde_json::to_vec(&asked).unwrap()
}

fn joined() -> World {
    let world = world();
    let admission = world.registrar.join(&joining(&world), now()).unwrap();
    found(&world, admission).unwrap();
    world
}

fn found(world: &World, admission: Admission) -> anyhow::Result<()> {
    let url = relay_url("https://localhost:8443").unwrap();
    let key = world.key.clone();
    world.member.found(&url, &Joined { admission, key })
}

fn renewing(world: &World) -> Vec<u8> {
    let request = world.member.open().unwrap().request().unwrap();
    serde_json::to_vec(&RenewRequest { request }).unwrap()
}

#[test]
fn an_edge_joins_with_its_token_once() {
    let world = world();
    let asked = joining(&world);
    let mut spoilt: JoinRequest = serde_json::from_slice(&asked).unwrap();
    spoilt.request = "none".to_owned();
    let spoilt = serde_json::to_vec(&spoilt).unwrap();
    assert!(matches!(
        world.registrar.join(&spoilt, now()),
        Err(Turned::Malformed)
    ));
    let admission = world.registrar.join(&asked, now()).unwrap();
    assert_eq!(admission.models, ["local"]);
    assert!(matches!(
        world.registrar.join(&asked, now()),
        Err(Turned::Uninvited)
    ));
    found(&world, admission).unwrap();
    let member = world.member.open().unwrap();
    assert_eq!(member.facts.edge.as_deref(), Some("edge-1"));
    assert!(member.badge().is_ok());
    let keys = world.relay.open("relay-hq", now()).unwrap();
    assert_eq!(member.pins.current, keys.identity.pin());
    let key = world.relay.edge_key("edge-1").unwrap();
    assert_eq!(key.id, member.file.key_id);
}

#[test]
fn a_certificate_is_renewed_for_the_same_edge_and_key_alone() {
    let world = joined();
    let later = now() + Duration::from_secs(5 * 24 * 3600);
    let asked = renewing(&world);
    let admission = world.registrar.renew("edge-1", &asked, later).unwrap();
    let before = world.member.open().unwrap();
    let after = world.member.renew(&admission, later).unwrap();
    assert!(after.facts.not_after > before.facts.not_after);
    assert_eq!(after.file.key_id, before.file.key_id);

    let other = request(&ed25519::generate(&mut rand::rng())).unwrap();
    let other = serde_json::to_vec(&RenewRequest { request: other }).unwrap();
    assert!(matches!(
        world.registrar.renew("edge-1", &other, later),
        Err(Turned::Stranger)
    ));
    assert!(matches!(
        world.registrar.renew("edge-2", &asked, later),
        Err(Turned::Stranger)
    ));
    world.relay.revoke("edge-1").unwrap();
    assert!(matches!(
        world.registrar.renew("edge-1", &asked, later),
        Err(Turned::Stranger)
    ));
}

#[test]
fn an_identity_is_followed_where_the_relay_told_of_it_before() {
    let world = joined();
    let renew = || {
        let asked = renewing(&world);
        let admission = world.registrar.renew("edge-1", &asked, now()).unwrap();
        world.member.renew(&admission, now())
    };
    world.relay.prepare_identity(&mut rand::rng()).unwrap();
    let told = renew().unwrap();
    let next = told.pins.next.clone().unwrap();
    world.relay.turn_identity().unwrap();
    let turned = renew().unwrap();
    assert_eq!((turned.pins.current, turned.pins.next), (next, None));
    // Nobody told of this one.
    world.relay.prepare_identity(&mut rand::rng()).unwrap();
    world.relay.turn_identity().unwrap();
    let refused = renew().unwrap_err();
    assert!(refused.to_string().contains("never told of"), "{refused}");
}

#[test]
fn the_youngest_manifest_is_remembered() {
    let world = joined();
    assert_eq!(world.member.seen(), None);
    let seen = SeenManifest {
        serial: 7,
        digest: [0xab; 32],
    };
    world.member.remember(seen).unwrap();
    assert_eq!(world.member.seen(), Some(seen));
}

#[test]
fn addresses_of_relays_have_nothing_after_the_port() {
    for (text, is_one) in [
        ("https://relay.example:8443", true),
        ("https://relay.example/", true),
        ("http://127.0.0.1:9", true),
        ("https://relay.example/v1", false),
        ("https://me@relay.example", false),
        ("relay.example:8443", false),
        ("", false),
    ] {
        assert_eq!(relay_url(text).is_ok(), is_one, "{text}");
    }
}

#[test]
fn a_folder_says_which_of_its_files_is_at_fault() {
    let world = joined();
    std::fs::write(world.member.file("ca.pem"), "none").unwrap();
    let fault = format!("{:#}", world.member.open().unwrap_err());
    assert!(fault.starts_with("ca.pem"), "{fault}");
    let none = MemberFolder::new(world.member.file("none"));
    let fault = none.open().unwrap_err().to_string();
    assert!(fault.contains("hedge relay join"), "{fault}");
}

#[test]
fn a_folder_is_one_relays_and_joining_again_replaces_what_it_gave() {
    let world = joined();
    let before = world.member.open().unwrap();
    let again = world.registrar.join(&joining(&world), now()).unwrap();
    found(&world, again).unwrap();
    let after = world.member.open().unwrap();
    assert_ne!(before.facts.serial, after.facts.serial);
    let mut other = world.registrar.join(&joining(&world), now()).unwrap();
    other.relay_id = "relay-2".to_owned();
    let refused = found(&world, other).unwrap_err().to_string();
    assert!(refused.contains("another relay"), "{refused}");
    assert!(world.member.open().is_ok());
}

/// Relays have the name `relay` where nobody chose one, and an edge's folder is named after it: who joined
/// a second one lost the first.
#[test]
fn two_relays_of_one_name_are_two_relays() {
    let world = joined();
    let before = world.member.open().unwrap();
    let mut elsewhere = self::world();
    elsewhere.member = world.member.clone();
    let admission = elsewhere.registrar.join(&joining(&elsewhere), now());
    let refused = found(&elsewhere, admission.unwrap())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("another relay"), "{refused}");
    assert_eq!(world.member.open().unwrap().facts, before.facts);
    // The same relay under the identity that it told of before is no other.
    world.relay.prepare_identity(&mut rand::rng()).unwrap();
    let told = world.registrar.join(&joining(&world), now()).unwrap();
    found(&world, told).unwrap();
    world.relay.turn_identity().unwrap();
    let turned = world.registrar.join(&joining(&world), now()).unwrap();
    found(&world, turned).unwrap();
}

#[test]
fn a_renewal_that_the_relay_did_not_sign_changes_nothing() {
    let world = joined();
    let asked = renewing(&world);
    let before = world.member.open().unwrap().file.identity_next;
    let other = relay::manifest::IdentityKey::generate(&mut rand::rng());
    type Change = fn(&mut Admission, &relay::manifest::IdentityKey);
    let changes: [Change; 4] = [
        |admission, other| admission.identity_next = Some(other.pin().to_string()),
        |admission, _| admission.authorities.push('\n'),
        |admission, _| admission.signature.clear(),
        |admission, _| admission.signature = "00".repeat(64),
    ];
    for change in changes {
        let mut admission = world.registrar.renew("edge-1", &asked, now()).unwrap();
        change(&mut admission, &other);
        let refused = world.member.renew(&admission, now()).unwrap_err();
        assert!(refused.to_string().contains("not signed"), "{refused}");
    }
    assert_eq!(world.member.open().unwrap().file.identity_next, before);
}

#[test]
fn an_edge_that_is_added_again_has_to_join_again() {
    let world = joined();
    // As an operator may revoke it by hand.
    std::fs::remove_file(world.relay.edges().join("edge-1.toml")).unwrap();
    let invite = || {
        world
            .relay
            .invite("edge-1", &[], now(), &mut rand::rng())
            .unwrap()
    };
    assert!(invite().is_new);
    assert!(world.relay.edge_key("edge-1").is_err());
    assert!(!invite().is_new);
}

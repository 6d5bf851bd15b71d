use super::*;
use crate::sealed::authority::{EDGE_LIFE, SERVER_LIFE};
use crate::sealed::edge_file::PublicKey;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_900_000)
}

fn made() -> (tempfile::TempDir, RelayFolder) {
    let folder = tempfile::tempdir().unwrap();
    let relay = RelayFolder::new(folder.path().join("relay"));
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    relay
        .make("relay-hq", &names, now(), &mut rand::rng())
        .unwrap();
    (folder, relay)
}

fn key() -> PublicKey {
    PublicKey::read("k1 ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").unwrap()
}

#[test]
fn what_is_there_is_never_made_anew() {
    let (_keep, relay) = made();
    let before = relay.open("relay-hq", now()).unwrap();
    let names = ["elsewhere".to_owned()];
    relay
        .make("relay-hq", &names, now(), &mut rand::rng())
        .unwrap();
    let after = relay.open("relay-hq", now()).unwrap();
    assert_eq!(before.identity.pin(), after.identity.pin());
    assert_eq!(
        before.authority.fingerprint(),
        after.authority.fingerprint()
    );
    assert_eq!(before.server.chain, after.server.chain);
}

#[test]
fn secrets_are_for_this_users_eyes() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_keep, relay) = made();
    relay
        .invite("edge-1", &[], now(), &mut rand::rng())
        .unwrap();
    for name in ["identity.key", "ca.key", "server.pem"] {
        let mode = std::fs::metadata(relay.file(name)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
    let mode = std::fs::metadata(relay.path()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
}

#[test]
fn a_token_lets_one_edge_in_once_and_for_its_time() {
    let (_keep, relay) = made();
    let rng = &mut rand::rng();
    let invited = relay.invite("edge-1", &[], now(), rng).unwrap();
    assert!(invited.is_new);
    let secret = invited.token.secret.digest();
    assert_eq!(relay.invited(&secret, now()).unwrap(), "edge-1");
    let late = now() + TOKEN_LIFE;
    assert!(matches!(
        relay.invited(&secret, late),
        Err(NotInvited::Unknown)
    ));
    relay.admit(&secret, "edge-1", &key()).unwrap();
    assert!(matches!(
        relay.admit(&secret, "edge-1", &key()),
        Err(NotInvited::Unknown)
    ));
    assert!(matches!(
        relay.invited(&secret, now()),
        Err(NotInvited::Unknown)
    ));
    assert_eq!(relay.edge_key("edge-1").unwrap(), key());

    let again = relay.invite("edge-1", &[], now(), rng).unwrap();
    assert!(!again.is_new, "its policy stays");
    assert!(relay.revoke("edge-1").unwrap());
    let secret = again.token.secret.digest();
    assert!(relay.invited(&secret, now()).is_err(), "its tokens go too");
    assert!(relay.edge_key("edge-1").is_err());
    assert!(!relay.revoke("edge-1").unwrap());
    assert!(!relay.revoke("../../etc/passwd").unwrap());
    assert!(relay.invite("../x", &[], now(), rng).is_err());
}

#[test]
fn what_is_kept_of_a_token_lets_nobody_in() {
    let (_keep, relay) = made();
    let invited = relay.invite("edge-1", &[], now(), &mut rand::rng());
    let secret = invited.unwrap().token.secret.expose();
    for entry in std::fs::read_dir(relay.file("tokens")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&*secret));
        assert!(!path.to_string_lossy().contains(&*secret));
    }
}

#[test]
fn the_relays_own_certificate_is_renewed_and_another_is_left() {
    let (_keep, relay) = made();
    let before = relay.open("relay-hq", now()).unwrap();
    let later = now() + SERVER_LIFE * 2 / 3 + Duration::from_secs(3600);
    let after = relay.open("relay-hq", later).unwrap();
    assert_ne!(before.server.chain[0], after.server.chain[0]);
    assert_eq!(
        server_names(&after.server.chain[0]).unwrap(),
        ["localhost", "127.0.0.1"]
    );
    // One of an authority elsewhere.
    let (elsewhere, files) = Authority::generate("elsewhere", now()).unwrap();
    let names = ["localhost".to_owned()];
    let issued = elsewhere
        .sign_server("relay-hq", &names, &files.chain, now())
        .unwrap();
    relay.put("server.pem", &issued.chain, Eyes::All).unwrap();
    relay.put("server.key", &issued.key, Eyes::Own).unwrap();
    let after = relay.open("relay-hq", later).unwrap();
    assert_eq!(after.server.chain, chain_of(&issued.chain).unwrap());
    check_pair(&after);
    relay
        .make("relay-hq", &names, later, &mut rand::rng())
        .unwrap();
    let kept = relay.open("relay-hq", later).unwrap();
    assert_eq!(kept.server.chain, after.server.chain);
    assert!(EDGE_LIFE < SERVER_LIFE);
}

fn check_pair(keys: &RelayKeys) {
    let roots = crate::sealed::tls::roots(&keys.authorities).unwrap();
    let chain = keys.server.chain.clone();
    crate::sealed::tls::server(chain, &keys.server.key, roots).unwrap();
}

/// They were two files, each put in its place by itself: a crash between left a certificate with the key
/// of the one before, and a relay that did not start.
#[test]
fn a_certificate_and_its_key_are_one_file() {
    let (_keep, relay) = made();
    check_pair(&relay.open("relay-hq", now()).unwrap());
    assert!(!relay.file("server.key").exists());
    // As before: two files of the relay's own, and renewed.
    let names = ["localhost".to_owned()];
    let authorities = relay.read("ca.pem").unwrap();
    let authority = Authority::load(&authorities, &relay.read("ca.key").unwrap()).unwrap();
    let old = authority
        .sign_server("relay-hq", &names, &authorities, now())
        .unwrap();
    relay.put("server.pem", &old.chain, Eyes::All).unwrap();
    relay.put("server.key", &old.key, Eyes::Own).unwrap();
    check_pair(&relay.open("relay-hq", now()).unwrap());
    let later = now() + SERVER_LIFE * 2 / 3 + Duration::from_secs(3600);
    check_pair(&relay.open("relay-hq", later).unwrap());
    assert!(!relay.file("server.key").exists());
    // A crash before the old key was removed.
    relay.put("server.key", &old.key, Eyes::Own).unwrap();
    check_pair(&relay.open("relay-hq", later).unwrap());
    // What was begun and has no key yet is begun anew.
    relay.put("server.pem", &old.chain, Eyes::All).unwrap();
    std::fs::remove_file(relay.file("server.key")).unwrap();
    assert!(relay.open("relay-hq", now()).is_err());
    relay
        .make("relay-hq", &names, now(), &mut rand::rng())
        .unwrap();
    check_pair(&relay.open("relay-hq", now()).unwrap());
}

#[test]
fn an_identity_is_prepared_before_it_is_turned_to() {
    let (_keep, relay) = made();
    let before = relay.open("relay-hq", now()).unwrap();
    assert!(relay.turn_identity().is_err());
    assert!(relay.prepare_identity(&mut rand::rng()).unwrap());
    assert!(!relay.prepare_identity(&mut rand::rng()).unwrap());
    let prepared = relay.open("relay-hq", now()).unwrap();
    assert_eq!(prepared.identity.pin(), before.identity.pin());
    relay.turn_identity().unwrap();
    let turned = relay.open("relay-hq", now()).unwrap();
    assert_eq!(Some(turned.identity.pin()), prepared.next);
    assert_eq!(turned.next, None);
}

//! Manifests: what an edge believes, and what it seals to then.

use std::time::Duration;

use super::support::rng;
use crate::manifest::{
    IdentityKey, IdentityPin, KeyPolicy, MANIFEST_BYTES_MAX, Manifest, ManifestRefused, Pins,
    SeenManifest, SignedManifest, TrustedManifest, content_digest, signature_base,
};
use crate::{Ciphers, Kem, KeyRing, RingTimes, UnixTime};

pub(super) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn identity(seed: u64) -> IdentityKey {
    IdentityKey::generate(&mut rng(seed))
}

pub(super) fn pins() -> Pins {
    Pins {
        relay_id: "relay-1".to_owned(),
        current: identity(1).pin(),
        next: Some(identity(2).pin()),
    }
}

pub(super) fn manifest(kems: &[Kem], serial: u64) -> Manifest {
    let ring = KeyRing::new(
        RingTimes::default(),
        kems,
        Ciphers::Strict,
        NOW,
        &mut rng(9),
    )
    .unwrap();
    Manifest::of(&ring, "relay-1", serial, vec!["off".to_owned()])
}

fn signed(manifest: &Manifest, seed: u64) -> SignedManifest {
    SignedManifest::sign(manifest, &identity(seed), NOW, HOUR)
}

pub(super) fn check(received: &SignedManifest) -> Result<TrustedManifest, ManifestRefused> {
    TrustedManifest::check(received, &pins(), None, NOW)
}

/// RFC 9421, appendix B.2.6, with the public key of B.1.4.
#[test]
fn the_signature_base_is_that_of_rfc_9421() {
    let components = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("@method", "POST"),
        ("@path", "/foo"),
        ("@authority", "example.com"),
        ("content-type", "application/json"),
        ("content-length", "18"),
    ];
    let base = signature_base(
        &components,
        "(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
         ;created=1618884473;keyid=\"test-key-ed25519\"",
    );
    let pin: IdentityPin = "ed25519:JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="
        .parse()
        .unwrap();
    let signature = crate::structured::labelled_bytes(
        "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
        "sig-b26",
    );
    assert!(pin.is_signed(base.as_bytes(), &signature.unwrap()));
    assert_eq!(pin.to_string().parse::<IdentityPin>().unwrap(), pin);
}

#[test]
fn what_a_pinned_relay_signed_is_believed() {
    let trusted = check(&signed(&manifest(&Kem::ALL, 7), 1)).unwrap();
    assert_eq!(trusted.manifest().keys.len(), 2);
    assert_eq!(trusted.seen().serial, 7);
    assert_eq!(
        (trusted.created(), trusted.expires()),
        (NOW, NOW.after(HOUR))
    );
    let (config, _) = trusted.choose(KeyPolicy::default(), NOW).unwrap();
    assert_eq!(config.kem(), Kem::XWing, "the best, whatever the order");
    // The identity to come is believed too, so that a relay can change it.
    assert!(check(&signed(&manifest(&Kem::ALL, 7), 2)).is_ok());
}

#[test]
fn what_nobody_pinned_or_somebody_changed_is_not_believed() {
    let good = signed(&manifest(&Kem::ALL, 7), 1);
    let stranger = signed(&manifest(&Kem::ALL, 7), 3);
    assert_eq!(check(&stranger).unwrap_err(), ManifestRefused::Stranger);
    for at in 0..good.body.len() {
        let mut flipped = good.clone();
        flipped.body[at] ^= 1;
        assert_eq!(check(&flipped).unwrap_err(), ManifestRefused::Forged);
        if at % 9 > 0 {
            continue;
        }
        // With a digest that fits, the signature does not.
        flipped.content_digest = content_digest(&flipped.body);
        assert_eq!(check(&flipped).unwrap_err(), ManifestRefused::Forged);
    }
    let flip = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] ^= 1;
        String::from_utf8(bytes).unwrap()
    };
    for at in 0..good.signature.len() {
        let mut flipped = good.clone();
        flipped.signature = flip(&good.signature, at);
        assert!(check(&flipped).is_err(), "{}", flipped.signature);
    }
    for at in 0..good.signature_input.len() {
        let mut flipped = good.clone();
        flipped.signature_input = flip(&good.signature_input, at);
        assert!(check(&flipped).is_err(), "{flipped:?}");
    }
    // A stranger's signature under a pinned name.
    let mut posing = stranger.clone();
    posing.signature_input = good.signature_input.clone();
    assert_eq!(check(&posing).unwrap_err(), ManifestRefused::Forged);
}

#[test]
fn a_signature_for_something_else_does_not_count() {
    let good = signed(&manifest(&Kem::ALL, 7), 1);
    for (from, to) in [
        ("tag=\"relay-manifest\"", "tag=\"other\""),
        (";tag=\"relay-manifest\"", ""),
        ("\"content-digest\"", "\"content-type\""),
        (" \"content-digest\"", ""),
        ("alg=\"ed25519\"", "alg=\"hmac-sha256\""),
        ("relay=", "other="),
        (";created=", ";born="),
        ("relay=", "a=(),relay="),
    ] {
        let mut changed = good.clone();
        changed.signature_input = good.signature_input.replace(from, to);
        assert_ne!(changed, good);
        assert_eq!(
            check(&changed).unwrap_err(),
            ManifestRefused::Unsigned,
            "{from}"
        );
    }
    for signature in ["", "relay=", "relay=::", "relay=:AAAA:,x=:AA==:", "relay=1"] {
        let mut changed = good.clone();
        changed.signature = signature.to_owned();
        assert!(check(&changed).is_err());
    }
}

#[test]
fn a_manifest_holds_for_two_hours_at_most() {
    let all = manifest(&Kem::ALL, 7);
    let long = SignedManifest::sign(&all, &identity(1), NOW, 100 * HOUR);
    let trusted = check(&long).unwrap();
    assert_eq!(trusted.expires(), NOW.after(2 * HOUR));
    let at = |now| TrustedManifest::check(&long, &pins(), None, now).map(drop);
    assert_eq!(at(NOW.after(2 * HOUR)), Err(ManifestRefused::Expired));
    assert_eq!(at(UnixTime(NOW.0 - 900)), Ok(()), "a clock that is behind");
    assert_eq!(at(UnixTime(NOW.0 - 901)), Err(ManifestRefused::Times));
    assert!(
        trusted
            .choose(KeyPolicy::default(), UnixTime(NOW.0 - 900))
            .is_some()
    );
    assert!(
        trusted
            .choose(KeyPolicy::default(), NOW.after(2 * HOUR))
            .is_none()
    );
}

#[test]
fn a_manifest_never_goes_back() {
    let seen = check(&signed(&manifest(&Kem::ALL, 7), 1)).unwrap().seen();
    let after = |serial, seen: &SeenManifest| {
        let received = signed(&manifest(&Kem::ALL, serial), 1);
        TrustedManifest::check(&received, &pins(), Some(seen), NOW).map(|trusted| trusted.seen())
    };
    assert_eq!(after(6, &seen), Err(ManifestRefused::RolledBack));
    assert_eq!(after(7, &seen), Ok(seen), "the same once more");
    let mut other = seen;
    other.digest[0] ^= 1;
    assert_eq!(after(7, &other), Err(ManifestRefused::RolledBack));
    assert!(after(8, &seen).is_ok());
    assert_eq!(Manifest::next_serial(7, UnixTime(3)), 3_000);
    assert_eq!(Manifest::next_serial(9_000, UnixTime(3)), 9_001);
}

#[test]
fn a_manifest_is_of_this_relay_this_form_and_this_protocol() {
    let with = |change: fn(&mut Manifest)| {
        let mut changed = manifest(&Kem::ALL, 7);
        change(&mut changed);
        check(&signed(&changed, 1)).unwrap_err()
    };
    assert_eq!(with(|m| m.version = 2), ManifestRefused::Form);
    assert_eq!(
        with(|m| m.relay_id = "relay-2".to_owned()),
        ManifestRefused::Relay
    );
    assert_eq!(
        with(|m| m.versions = vec!["relay/2".to_owned()]),
        ManifestRefused::Versions
    );
    assert_eq!(
        with(|m| m.suites_min = "rot13".to_owned()),
        ManifestRefused::Form
    );
    assert_eq!(with(|m| m.keys[0].id ^= 1), ManifestRefused::Keys);
    assert_eq!(
        with(|m| m.keys[0].kem = "x-wing".to_owned()),
        ManifestRefused::Keys
    );
    assert_eq!(
        with(|m| m.keys[0].config = "AAAA".to_owned()),
        ManifestRefused::Keys
    );
    assert_eq!(
        with(|m| m.keys[0].config = "?".to_owned()),
        ManifestRefused::Keys
    );
    let mut long = signed(&manifest(&Kem::ALL, 7), 1);
    long.body.resize(MANIFEST_BYTES_MAX + 1, b' ');
    assert_eq!(check(&long).unwrap_err(), ManifestRefused::TooLong);
}

#[test]
fn no_weaker_key_is_sealed_to_than_the_policy_says() {
    let strict = KeyPolicy {
        require_post_quantum: true,
        ..KeyPolicy::default()
    };
    let x25519_only = check(&signed(&manifest(&[Kem::X25519], 7), 1)).unwrap();
    assert!(x25519_only.choose(KeyPolicy::default(), NOW).is_some());
    assert!(x25519_only.choose(strict, NOW).is_none());
    // The relay may say so itself, and then means edges without a policy too.
    let mut all = manifest(&Kem::ALL, 7);
    assert_eq!(all.suites_min, "x25519");
    assert_eq!(manifest(&[Kem::XWing], 7).suites_min, "x-wing");
    all.suites_min = "x-wing".to_owned();
    all.keys.retain(|key| key.kem == "x25519");
    let stripped = check(&signed(&all, 1)).unwrap();
    assert!(stripped.choose(KeyPolicy::default(), NOW).is_none());
}

#[test]
fn the_youngest_key_that_is_in_use_is_sealed_to() {
    let mut ring = KeyRing::new(
        RingTimes::default(),
        &Kem::ALL,
        Ciphers::Strict,
        NOW,
        &mut rng(9),
    )
    .unwrap();
    let later = NOW.after(HOUR);
    ring.turn(later, &mut rng(10));
    let manifest = Manifest::of(&ring, "relay-1", 8, Vec::new());
    assert_eq!(manifest.keys.len(), 4);
    let received = SignedManifest::sign(&manifest, &identity(1), later, HOUR);
    let trusted = TrustedManifest::check(&received, &pins(), None, later).unwrap();
    let id_at = |minutes: u64| {
        let now = later.after(Duration::from_secs(60 * minutes));
        trusted
            .choose(KeyPolicy::default(), now)
            .map(|(config, _)| config.id())
    };
    let [old, new] = [1, 3].map(|at| Some(manifest.keys[at].id));
    assert_eq!(
        [id_at(0), id_at(9), id_at(10), id_at(59)],
        [old, old, new, new]
    );
}

#[test]
fn unknown_fields_and_algorithms_are_passed_over() {
    let mut value = serde_json::to_value(manifest(&Kem::ALL, 7)).unwrap();
    value["new"] = 1.into();
    let mut unknown = value["keys"][0].clone();
    unknown["kem"] = "ml-kem-1024".into();
    // A configuration of a KEM that nobody here knows.
    unknown["config"] = "BRI0AAAA".into();
    unknown["id"] = 5.into();
    value["keys"].as_array_mut().unwrap().push(unknown);
    let read: Manifest = serde_json::from_value(value).unwrap();
    let trusted = check(&signed(&read, 1)).unwrap();
    assert!(trusted.choose(KeyPolicy::default(), NOW).is_some());
}

#[test]
fn an_identity_is_pinned_by_its_text_and_prints_no_secret() {
    let key = identity(4);
    let again = IdentityKey::from_bytes(&key.to_bytes());
    assert_eq!(again.pin(), key.pin());
    assert_eq!(
        format!("{key:?}"),
        format!("IdentityKey({})", key.pin().key_id())
    );
    for text in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:?"] {
        assert!(text.parse::<IdentityPin>().is_err());
    }
    // The neutral point, for which anybody can sign.
    let weak = "ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert!(weak.parse::<IdentityPin>().is_err());
}

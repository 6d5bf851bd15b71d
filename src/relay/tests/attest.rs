//! Evidence: what it is of, and what an edge makes of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::manifests::{HOUR, NOW, check, identity, manifest, pins};
use super::support::hex;
use crate::attest::{
    Attestation, EVIDENCE_BYTES_MAX, ProvesNothingAttestor, TEST_KIND, Unattested, Verdict,
    Verifier, judge, report_data,
};
use crate::manifest::{
    Evidence, IdentityKey, Manifest, ManifestKey, SignedManifest, TrustedManifest,
};
use crate::{Kem, UnixTime};

/// Of two keys, the second of an algorithm that nobody here knows. The identity is the first key of
/// RFC 8032, section 7.1; the digest is from Python's `hashlib`.
#[test]
fn report_data_is_a_digest_of_identity_and_keys() {
    let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let identity = IdentityKey::from_bytes(&seed.try_into().unwrap());
    let key = |id: u8, config: &str| ManifestKey {
        id,
        kem: "x25519".to_owned(),
        not_before: UnixTime(0),
        not_after: UnixTime(1),
        config: STANDARD.encode(hex(config)),
    };
    let mut said = manifest(&[Kem::X25519], 1);
    said.keys = vec![
        key(
            7,
            "070020 0900000000000000000000000000000000000000000000000000000000000000 000400010002",
        ),
        key(8, "08ffff010203"),
    ];
    let expected = hex(
        "5a9f246605151a34d03faa74f557477c4898a6ffcd0bed22e8b86e005d6aa5ac\
         d28984a48c234cebedac61bb25a7fb8029385c987778ea25c10fcfcb6f3fb95f",
    );
    let data = report_data(&identity.pin(), &said).unwrap();
    assert_eq!(data.as_slice(), expected);
    said.keys.swap(0, 1);
    let swapped = report_data(&identity.pin(), &said).unwrap();
    assert_ne!(swapped, data, "their order counts");
    said.keys[0].config = "no base64".to_owned();
    assert!(report_data(&identity.pin(), &said).is_err());
}

fn attestor() -> ProvesNothingAttestor {
    ProvesNothingAttestor::from_bytes(&[3; 32])
}

/// Signed by `signer`, with evidence that was made for `vouched`.
fn trusted(manifest: Manifest, signer: u64) -> TrustedManifest {
    let signed = SignedManifest::sign(&manifest, &identity(signer), NOW, HOUR);
    check(&signed).unwrap()
}

fn attested(signer: u64) -> Manifest {
    let said = manifest(&[Kem::X25519, Kem::XWing], 1);
    said.attested(&identity(signer).pin(), &attestor()).unwrap()
}

fn judged(policy: Attestation, manifest: &TrustedManifest) -> Verdict {
    judge(policy, manifest, &[&attestor().verifier()])
}

#[test]
fn evidence_for_the_keys_and_the_signer_of_a_manifest_holds() {
    // Of the pinned key and of the next one.
    for signer in [1, 2] {
        let manifest = trusted(attested(signer), signer);
        assert_eq!(manifest.signer(), &identity(signer).pin());
        for policy in [Attestation::Warn, Attestation::Require] {
            assert_eq!(judged(policy, &manifest), Verdict::Proven);
        }
        assert_eq!(judged(Attestation::Off, &manifest), Verdict::Unasked);
    }
    assert!(pins().next.is_some());
}

#[test]
fn what_does_not_vouch_is_said_or_refused_as_the_edge_wants() {
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut said = attested(1);
        change(&mut said);
        trusted(said, 1)
    };
    let evidence = |said: &mut Manifest, text: &str| {
        said.attestation = Some(Evidence {
            kind: TEST_KIND.to_owned(),
            evidence: text.to_owned(),
        });
    };
    let long = "A".repeat(EVIDENCE_BYTES_MAX + 1);
    let foreign = ProvesNothingAttestor::from_bytes(&[4; 32]);
    let cases: Vec<(TrustedManifest, Unattested)> = vec![
        (with(&|it| it.attestation = None), Unattested::Absent),
        (
            with(&|it| it.attestation.as_mut().unwrap().kind = "tdx".to_owned()),
            Unattested::Kind,
        ),
        (with(&|it| evidence(it, "?")), Unattested::Malformed),
        (with(&|it| evidence(it, "AAAA")), Unattested::Malformed),
        (with(&|it| evidence(it, &long)), Unattested::TooLong),
        // A key was put in, left out, or moved.
        (
            with(&|it| it.keys[0] = manifest(&[Kem::XWing], 1).keys[0].clone()),
            Unattested::OtherKeys,
        ),
        (with(&|it| drop(it.keys.pop())), Unattested::OtherKeys),
        (with(&|it| it.keys.swap(0, 1)), Unattested::OtherKeys),
        // It was made for the identity that signs, or did not.
        (trusted(attested(2), 1), Unattested::OtherKeys),
        // By another machine.
        (
            with(&|it| {
                *it = it.clone().attested(&identity(1).pin(), &foreign).unwrap();
            }),
            Unattested::OtherKeys,
        ),
    ];
    for (at, (manifest, why)) in cases.iter().enumerate() {
        assert_eq!(
            judged(Attestation::Require, manifest),
            Verdict::Refused(*why),
            "{at}"
        );
        assert_eq!(
            judged(Attestation::Warn, manifest),
            Verdict::Doubted(*why),
            "{at}"
        );
        assert_eq!(judged(Attestation::Off, manifest), Verdict::Unasked, "{at}");
    }
    assert!(Verdict::Doubted(Unattested::Absent).is_usable());
    assert!(!Verdict::Refused(Unattested::Absent).is_usable());
}

#[test]
fn where_evidence_is_required_and_nobody_checks_it_no_manifest_is_taken() {
    let manifest = trusted(attested(1), 1);
    assert_eq!(
        judge(Attestation::Require, &manifest, &[]),
        Verdict::Refused(Unattested::Kind)
    );
}

#[test]
fn each_kind_is_checked_by_whoever_knows_it() {
    #[derive(Debug)]
    struct Other;
    impl Verifier for Other {
        fn verify(&self, evidence: &Evidence, _: &[u8; 64]) -> Result<(), Unattested> {
            match evidence.kind.as_str() {
                "other" => Ok(()),
                _ => Err(Unattested::Kind),
            }
        }
    }
    let manifest = trusted(attested(1), 1);
    let known = attestor().verifier();
    let verdict = judge(Attestation::Require, &manifest, &[&Other, &known]);
    assert_eq!(verdict, Verdict::Proven);
}

#[test]
fn policies_are_written_as_they_are_read() {
    for policy in Attestation::ALL {
        assert_eq!(Attestation::from_label(policy.as_label()), Some(policy));
    }
    assert_eq!(Attestation::default(), Attestation::Off);
    assert_eq!(Attestation::from_label("on"), None);
}

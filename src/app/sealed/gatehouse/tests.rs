use std::net::Ipv4Addr;

use domain::{AuditLog, SealedEntry};
use relay::shape::Shape;
use relay::{Ciphers, Kem};

use super::*;
use crate::sealed::authority::{Authority, chain_of, request};
use crate::sealed::ed25519;
use crate::sealed::registrar::JoinRequest;
use crate::sealed::tls::tests::shake;

const NAME: &str = "relay-hq";

struct Site {
    settings: GatewaySettings,
    folder: RelayFolder,
    gatehouse: Gatehouse,
    _keep: tempfile::TempDir,
}

fn site() -> Site {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("relay");
    let folder = RelayFolder::new(&dir);
    let (now, names) = (SystemTime::now(), ["localhost".to_owned()]);
    folder.make(NAME, &names, now, &mut rand::rng()).unwrap();
    let settings = GatewaySettings {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        dir,
        relay_id: NAME.to_owned(),
        has_tls: true,
        requires_certificate: true,
        kems: Kem::ALL.to_vec(),
        ciphers: Ciphers::Strict,
        shapes: Shape::all(),
        default_shape: Shape::default(),
        requests_max: 8,
        connections_max: 8,
        connections_per_edge_max: 4,
        opens_per_s_max: 100,
    };
    Site {
        gatehouse: Gatehouse::open(&settings, Duration::ZERO, now).unwrap(),
        settings,
        folder,
        _keep: keep,
    }
}

/// A relay's authority may be another one from one moment to the next: it signed with the new one at once,
/// and trusted what that had signed from its next start on.
#[tokio::test]
async fn what_an_authority_signs_is_trusted_from_then_on() {
    let site = site();
    let before = files::read(&site.folder.path().join("ca.pem")).unwrap();
    let (_, issued) = Authority::generate(NAME, SystemTime::now()).unwrap();
    let put = |name: &str, text: &str| {
        files::put(&site.folder.path().join(name), text.as_bytes(), Eyes::Own).unwrap();
    };
    put("ca.key", &issued.key);
    put("ca.pem", &format!("{}{}", issued.chain, *before));

    let rng = &mut rand::rng();
    let invited = site.folder.invite("edge-1", &[], SystemTime::now(), rng);
    let seed = ed25519::generate(rng);
    let asked = JoinRequest {
        secret: invited.unwrap().token.secret.expose().to_string(),
        request: request(&seed).unwrap(),
    };
    let asked = serde_json::to_vec(&asked).unwrap().into();
    let from = Ipv4Addr::LOCALHOST.into();
    let joined = site.gatehouse.enrolment.join(asked, from).await.unwrap();
    let joined: Admission = serde_json::from_slice(&joined).unwrap();

    let chain = chain_of(&joined.certificate).unwrap();
    let badge = tls::Badge::new(chain, &ed25519::to_pem(&seed)).unwrap();
    // The relay's own certificate is still the old authority's.
    let authorities = tls::roots(&chain_of(&joined.authorities).unwrap()).unwrap();
    let edge = tls::client(authorities, Arc::new(badge)).unwrap();
    let server = site.gatehouse.tls.as_ref().unwrap().borrow().clone();
    let (_, server) = shake(edge, &server, "localhost").unwrap();
    assert!(server.peer_certificates().is_some());
    // And nothing changes where nothing did.
    let mut watched = site.gatehouse.tls.clone().unwrap();
    watched.mark_unchanged();
    site.gatehouse.keeper.renew(SystemTime::now()).unwrap();
    assert!(!watched.has_changed().unwrap());
}

/// Neither would know what the other took, and each would write over what the other counted.
#[test]
fn one_relay_answers_from_a_folder() {
    let site = site();
    let open = || Gatehouse::open(&site.settings, Duration::ZERO, SystemTime::now());
    let refused = format!("{:#}", open().unwrap_err());
    assert!(refused.contains("another relay answers"), "{refused}");
    // What does not answer may look.
    site.folder.open(NAME, SystemTime::now()).unwrap();
    drop(site.gatehouse);
    open().unwrap();
}

struct Nowhere;

impl AuditLog for Nowhere {
    fn append(&self, _: SealedEntry) {}
}

/// They took more than any other file may, and were not read: whoever had spent its budget could spend it
/// again after a restart.
#[test]
fn what_ten_thousand_edges_spent_is_read_again() {
    let site = site();
    let books = || GatewayBooks::new(Arc::new(Nowhere));
    let (before, after) = (books(), books());
    let one = |number: u32| Spending {
        edge: format!("{number:064}"),
        month: this_month(),
        microusd: u64::MAX,
    };
    before.restore((0..10_000).map(one).collect());
    let keeper = &site.gatehouse.keeper;
    keeper.write_spending(&before);
    let path = site.folder.path().join("spending.json");
    assert!(std::fs::metadata(path).unwrap().len() > 1_000_000);
    keeper.restore(&after);
    assert_eq!(after.spending().len(), 10_000);
    assert_eq!(after.spending(), before.spending());
}

fn this_month() -> String {
    let now = relay::UnixTime::from(SystemTime::now());
    let (year, month, _) = now.day();
    format!("{year:04}-{month:02}")
}

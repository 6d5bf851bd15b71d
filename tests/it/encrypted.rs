//! Replicas over a Postgres and a Redis that speak TLS, with certificates of an authority that no machine
//! knows.
//!
//! Each test starts servers of its own, and is skipped where none is installed.

use std::fs;
use std::path::Path;

use http::StatusCode;
use loadtest::{FakeUpstream, POSTGRES_PASSWORD, PostgresServer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use crate::command_line::output_with;
use crate::harness::{Hedge, eventually, fake, upstream};
use crate::keys::{make, status_of};
use crate::replicas::server::Server;
use crate::shared_keys::{until_keys_are, until_metric_is, until_opens};

const DATABASE: &str = "hedge";

/// Of the upstream.
const KEYS: [(&str, &str); 1] = [("FAKE_KEY", "fake")];

/// Whose secret is its name.
const KEY: &str = "
    [[keys]]
    name = 'one'
    secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
";

/// Vouches for servers on this machine.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A certificate and its key in PEM.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, path: &Path) {
        fs::write(path, self.0.pem()).unwrap();
    }
}

fn servers(authority: &Authority) -> Option<(PostgresServer, Server)> {
    let (certificate, key) = authority.issue();
    let redis = Server::start_encrypted(&certificate, &key)?;
    let mut postgres = PostgresServer::start().unwrap()?;
    postgres.encrypt(&certificate, &key).unwrap();
    postgres.database(DATABASE).unwrap();
    Some((postgres, redis))
}

/// Of a node that goes by the authorities in `ca`.
fn config((postgres, redis): &(PostgresServer, Server), fake: &FakeUpstream, ca: &Path) -> String {
    let ca = ca.display();
    format!(
        "[local]\nenabled = false\n[offline]\nenabled = false\n\
         [store]\npostgres = '{}?sslmode=verify-full&sslrootcert={ca}'\n\
         redis = '{}'\nredis_ca = '{ca}'\nreplicas = 2\nanswer_ms_max = 10000\n{}",
        postgres.url(DATABASE),
        redis.url(),
        upstream(fake, "")
    )
}

async fn until_all_is(node: &Hedge, limits: &str, records: &str) {
    eventually("it says where limits and records are", async || {
        let ready = node.get("/readyz").await.json();
        ready["limits"] == limits && ready["records"] == records
    })
    .await;
}

#[tokio::test]
async fn replicas_share_over_tls_with_whom_their_authority_vouches_for() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca) = (Authority::new(), folder.path().join("ca.pem"));
    authority.write(&ca);
    let Some(servers) = servers(&authority) else {
        return;
    };
    let fake = fake();
    let config = config(&servers, &fake, &ca);
    let nodes = [Hedge::start(&config).await, Hedge::start(&config).await];
    for node in &nodes {
        until_all_is(node, "shared", "shared").await;
        until_metric_is(node, "hedge_shared_replies_apart 0").await;
    }
    until_keys_are(&nodes, "shared").await;
    let key = make(&nodes[0], "ci", json!({})).await;
    until_opens(&nodes, &key, 200).await;
    let (_, said) = output_with(&["doctor"], &config, &KEYS);
    assert!(said.contains("ok    postgres"), "{said}");
    assert!(said.contains("ok    redis"), "{said}");
    assert!(!said.contains(POSTGRES_PASSWORD), "{said}");
    let used = servers.0.query(
        DATABASE,
        "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE application_name = 'hedge' AND ssl",
    );
    assert_eq!(used.unwrap(), "t");
}

#[tokio::test]
async fn servers_that_nobody_vouches_for_are_not_used_and_hold_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, ca) = (Authority::new(), folder.path().join("ca.pem"));
    Authority::new().write(&ca);
    let Some(servers) = servers(&authority) else {
        return;
    };
    let fake = fake();
    let config = config(&servers, &fake, &ca);
    let node = Hedge::start(&format!("{config}{KEY}")).await;
    until_all_is(&node, "apart", "waiting").await;
    assert_eq!(status_of(&node, "one").await, StatusCode::OK);
    eventually("it says why", async || {
        let log = node.log();
        let said = |what: &str| {
            log.lines()
                .any(|it| it.contains(what) && it.contains("invalid peer certificate"))
        };
        said("limits are counted apart") && said("Postgres")
    })
    .await;
    let (output, said) = output_with(&["doctor"], &config, &KEYS);
    assert!(!output.status.success(), "{said}");
    for line in ["fail  postgres", "fail  redis"] {
        let mut lines = said.lines().filter(|it| it.starts_with(line));
        let found = lines.next().unwrap_or_default();
        assert!(found.contains("invalid peer certificate"), "{said}");
    }
    let schema = servers.0.query(DATABASE, "SELECT to_regnamespace('hedge')");
    assert_eq!(schema.unwrap(), "");
}

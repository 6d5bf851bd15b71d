use std::time::Duration;

use super::verdict::growth_of;
use super::*;
use crate::{FakeConfig, FakeUpstream};

const MIB: u64 = 1 << 20;

#[test]
fn growth_is_that_after_the_warm_up_and_noise_is_none() {
    let rises_first = (0..20).map(|n| (n * 10 * MIB).min(40 * MIB));
    assert_eq!(growth_of(rises_first), Some(0.0));
    let noisy = (0..100).map(|n| 100 * MIB + n * 7919 % MIB);
    assert!(growth_of(noisy).unwrap().abs() < 0.01);
    let leaks = (0..100).map(|n| 100 * MIB + n * MIB / 10);
    assert!(growth_of(leaks).unwrap() > 0.03);
    assert_eq!(growth_of([MIB; 8]), None);
}

/// The upstream refuses nothing, so a soak of it is no good one, and says why.
#[tokio::test]
async fn a_soak_tells_what_did_not_hold() {
    let mut config = FakeConfig::default();
    config.behaviour.text = Some("{}".to_owned());
    let fake = FakeUpstream::start(config).unwrap();
    let soak = Soak {
        target: Target {
            name: "fake".into(),
            addr: fake.addr(),
            model: "bench".into(),
            pid: Some(std::process::id()),
            key: None,
        },
        admin: None,
        span: Duration::from_millis(400),
        // So many that the first exchange of one is a wrong one.
        clients: 32,
        slots: 2,
        seed: 1,
    };
    let report = super::soak(&soak, |_| ()).await.unwrap();
    assert!(!report.is_good());
    let table = report.table();
    assert!(table.contains("| no failed exchange | **no** |"), "{table}");
    assert!(table.contains("wrong: not refused, status 200"), "{table}");
    assert!(table.contains("| no stuck reply | yes |"), "{table}");
}

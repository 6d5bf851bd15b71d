//! Holds docs/metrics.md against what is registered. `tests/it/metrics.rs` does the same with labels, for
//! what nodes at work show.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use pipeline::Texts;
use store::{
    Calendar, Moment, RecordDesk, RecordRules, SharedQuotas, SharedReplies, SharedReplyRules,
    SharedRules, TextVault, WhenApart,
};

use super::Metrics;
use crate::sealed::{Chronicle, Edges};

/// What the doors count themselves.
const DOORS: &str = "hedge_http_";

/// Name and kind of each row.
fn on_the_page() -> BTreeMap<String, String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (kind, _) = rest.split_once(" | ")?;
        Some((name.to_owned(), kind.to_owned()))
    });
    rows.filter(|(name, _)| !name.starts_with(DOORS)).collect()
}

fn shared() -> Arc<SharedQuotas> {
    let rules = SharedRules {
        redis: "redis://127.0.0.1".parse().unwrap(),
        prefix: "hedge".into(),
        replicas: NonZeroU32::MIN,
        when_apart: WhenApart::Share,
        answer_max: Duration::ZERO,
        lease: Duration::ZERO,
        replica: "one".into(),
    };
    let clock = || Moment { nanos: 0, unix: 0 };
    let (quotas, _) = SharedQuotas::new(rules, Calendar::utc(), clock);
    Arc::new(quotas)
}

fn replies() -> Arc<SharedReplies> {
    let (replies, _) = SharedReplies::new(SharedReplyRules {
        redis: "redis://127.0.0.1".parse().unwrap(),
        prefix: "hedge".into(),
        far_bytes_max: 1,
        near_bytes_max: 1,
        look_max: Duration::ZERO,
        lease: Duration::ZERO,
    });
    Arc::new(replies)
}

/// Of a node that is everything that a node can be.
fn registered() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let edges = Arc::new(Edges::open(folder.path()).unwrap());
    metrics.watch_gateway(Weak::new(), edges);
    metrics.watch_audit(Arc::new(Chronicle::default()), Some(Arc::default()));
    let (records, _) = RecordDesk::new(RecordRules {
        dir: folder.path().to_owned(),
        keep: Duration::ZERO,
        bytes_max: 1,
    });
    metrics.watch_records(records, true);
    let vault = TextVault::new(folder.path(), Arc::new(SystemTime::now));
    let (texts, _) = Texts::new(Arc::clone(&vault) as _);
    metrics.watch_texts(&texts, &vault);
    metrics.watch_spans(Arc::default());
    metrics.watch_shared(shared());
    metrics.watch_replies(replies());
    metrics.watch_keys(Arc::new(Default::default));
    let registry = metrics.registry.lock();
    let registry = registry.unwrap_or_else(PoisonError::into_inner);
    let listed = registry.listed().iter();
    let mut names = BTreeMap::new();
    for metric in listed {
        let known = names.insert(metric.name.clone(), metric.kind.clone());
        assert!(known.is_none(), "{} is registered twice", metric.name);
    }
    names
}

#[test]
fn every_metric_is_on_the_page_and_the_page_names_no_other() {
    let (page, ours) = (on_the_page(), registered());
    assert!(page.len() > 50, "the page was read: {page:?}");
    for (name, kind) in &ours {
        assert_eq!(page.get(name), Some(kind), "{name}, on docs/metrics.md");
    }
    for name in page.keys() {
        assert!(
            ours.contains_key(name),
            "docs/metrics.md: there is no {name}"
        );
    }
}

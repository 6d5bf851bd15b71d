//! Holds what nodes show to Prometheus against docs/metrics.md: every scrape that a test here makes goes
//! through [`check`]. That the page names nothing else is seen where they are registered, in
//! `src/app/metrics/documented.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::json;

use crate::harness::{Hedge, ask, fake, root, with};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    kind: String,
    labels: BTreeSet<String>,
}

static PAGE: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    rows(&page)
});

/// The rows of all tables, by name.
fn rows(page: &str) -> BTreeMap<String, Row> {
    page.lines()
        .filter(|line| line.starts_with("| `hedge_"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, unit, labels, meaning] = cells.as_slice() else {
                panic!("a row has five cells: {line}");
            };
            assert!(!unit.is_empty() && !meaning.is_empty(), "{line}");
            let labels = labels.split(", ").filter(|label| !label.is_empty());
            let row = Row {
                kind: (*kind).to_owned(),
                labels: labels
                    .map(|label| label.trim_matches('`').to_owned())
                    .collect(),
            };
            (name.trim_matches('`').to_owned(), row)
        })
        .collect()
}

/// Name and labels of a line of a scrape. Values hold no `"` where this is read.
fn series(line: &str) -> (&str, BTreeSet<String>) {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, _) = line.split_once(' ').unwrap();
        return (name, BTreeSet::new());
    };
    let (labels, _) = rest.rsplit_once('}').unwrap();
    // In `a="1",b="2"` every second piece between quotes is a value.
    let names = labels.split('"').step_by(2);
    let names = names.map(|name| name.trim_matches([',', '=']).to_owned());
    (name, names.filter(|name| !name.is_empty()).collect())
}

/// The row of the metric that a series of this name is of.
fn row_of<'a>(page: &'a BTreeMap<String, Row>, name: &str) -> Option<&'a Row> {
    page.get(name).or_else(|| {
        let ends = ["_bucket", "_sum", "_count"];
        let whole = ends.iter().find_map(|end| name.strip_suffix(end))?;
        page.get(whole).filter(|row| row.kind == "histogram")
    })
}

/// Fails unless all of a scrape is on the page, with those labels and no others.
pub fn check(scrape: &str) {
    for line in scrape.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            let name = match kind {
                "counter" => format!("{}_total", name.trim_end_matches("_total")),
                _ => name.to_owned(),
            };
            let row = PAGE.get(&name);
            let row = row.unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
            assert_eq!(row.kind, kind, "{name}, in docs/metrics.md");
        } else if !line.starts_with('#') {
            let (name, mut labels) = series(line);
            let row = row_of(&PAGE, name);
            let row = row.unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
            labels.remove("le");
            assert_eq!(labels, row.labels, "labels of {name}, in docs/metrics.md");
        }
    }
}

#[tokio::test]
async fn what_a_node_did_is_shown_by_the_names_on_the_page() {
    let fake = fake();
    let config = "[[keys]]\nname = \"web\"\nsecret = \"sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed\"\nteam = \"shop\"\n\
                  [[keys.limits]]\ncount = \"requests\"\namount = 2\nper = \"minute\"\nburst = 2\n\
                  [[teams]]\nname = \"shop\"\n\
                  [[teams.limits]]\ncount = \"concurrency\"\namount = 9\n\
                  [[organisation.limits]]\ncount = \"cost\"\nusd = 1.5\nper = \"month\"\n\
                  [[prices]]\nupstream = \"fake\"\nmodels = [\"*\"]\ninput = 2.0\noutput = 30.0\n";
    let hedge = Hedge::before(&fake, config).await;
    let key = http::HeaderValue::from_static("Bearer one");
    for (at, text) in ["hi", "hi", "more"].into_iter().enumerate() {
        let body = with(ask("fake/bench", text), json!({"max_tokens": 8}));
        let mut request = crate::harness::chat_request(&body);
        request.headers_mut().insert("authorization", key.clone());
        let reply = hedge.send(request).await;
        assert_eq!(
            reply.status.as_u16(),
            if at < 2 { 200 } else { 429 },
            "{at}"
        );
    }
    crate::harness::eventually("all three are counted", async || {
        let shown = hedge.metrics().await;
        let has = |line: &str| shown.lines().any(|found| found == line);
        has(r#"hedge_exchanges_total{route="cloud",outcome="answered",cache="missed"} 1"#)
            && has(r#"hedge_exchanges_total{route="cache",outcome="answered",cache="hit_exact"} 1"#)
            && has(r#"hedge_faults_total{fault="rate_limited"} 1"#)
            && has(r#"hedge_limit_amount{scope="key",name="web",count="requests",per="minute"} 2"#)
            && has(r#"hedge_limit_left{scope="key",name="web",count="requests",per="minute"} 0"#)
            && has(r#"hedge_limit_left{scope="team",name="shop",count="concurrency",per="moment"} 9"#)
            && has(r#"hedge_limit_amount{scope="organisation",name="",count="cost",per="month"} 1500000"#)
            && has(r#"hedge_http_answers_total{status="429"} 1"#)
    })
    .await;
    // Of the doors' own, which no registry lists.
    let shown = hedge.metrics().await;
    for name in PAGE.keys().filter(|name| name.starts_with("hedge_http_")) {
        assert!(shown.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[test]
fn the_reader_of_the_page_sees_what_a_row_says() {
    let page = "| name | kind | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n\
                | `hedge_a_total` | counter | a | `x`, `y` | One |\n| `hedge_b` | histogram | s | | Two |\n";
    let read = rows(page);
    let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(read["hedge_a_total"].labels, labels(&["x", "y"]));
    assert_eq!(read["hedge_b"].labels, labels(&[]));
    assert!(row_of(&read, "hedge_b_bucket").is_some());
    assert!(row_of(&read, "hedge_a_total_sum").is_none());
    let line = r#"hedge_b_bucket{le="0.1",x="a b"} 3"#;
    assert_eq!(series(line), ("hedge_b_bucket", labels(&["le", "x"])));
    assert_eq!(series("hedge_b 3"), ("hedge_b", labels(&[])));
}

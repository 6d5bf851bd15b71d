//! What keeps and reads records of exchanges.

use std::time::Duration;

use domain::{
    Agreement, Basis, CacheOutcome, Counterfactual, ExchangeRecord, KeptRecord, Marks, MicroUsd,
    Outcome, RecordName, RecordShelf, RecordSink, RouteTaken, SavedBy, ShadowRecord, ShadowSum,
    Since, Sum, Tokens, Usage,
};

/// An upstream's answer to `team`: a thousand tokens in and a hundred out, for 70 micro-dollars.
#[must_use]
pub fn record_of(id: &str, team: &str) -> ExchangeRecord {
    let cost = MicroUsd(70);
    ExchangeRecord {
        ended_us: 0,
        request_id: id.into(),
        key: Some("laptop".into()),
        team: team.into(),
        marks: Marks::default(),
        model_asked: "cloud/big".into(),
        route: Some(RouteTaken {
            backend: "cloud".into(),
            model: "big".to_owned(),
            is_local: false,
        }),
        reason: "named".to_owned(),
        cache: CacheOutcome::Missed,
        outcome: Outcome::Answered,
        usage: Some(Usage {
            prompt_tokens: Tokens(1_000),
            completion_tokens: Tokens(100),
            ..Usage::default()
        }),
        is_usage_counted: false,
        cost: Some(cost),
        saved: None,
        masked_count: 2,
        first_content_after: Some(Duration::from_millis(12)),
        took: Duration::from_millis(34),
        retries_count: 1,
        hedge: None,
        failed_candidates: Vec::new(),
        rescued_by: Vec::new(),
        unrescued: None,
        shares: Vec::new(),
        shadow: None,
        trace: None,
        counterfactual: Some(Counterfactual {
            cost,
            basis: Basis::Asked,
        }),
    }
}

/// One of each way to save, and what saves nothing: of `team`, their ids beginning with it.
fn records_of_all_kinds(team: &str) -> Vec<ExchangeRecord> {
    let plain = |kind: &str| record_of(&format!("{team}-{kind}"), team);
    let free = |kind: &str| ExchangeRecord {
        cost: Some(MicroUsd(0)),
        ..plain(kind)
    };
    let here = |kind: &str, basis: Basis| ExchangeRecord {
        route: Some(RouteTaken {
            backend: "local".into(),
            model: "tiny".to_owned(),
            is_local: true,
        }),
        counterfactual: Some(Counterfactual {
            cost: MicroUsd(50),
            basis,
        }),
        ..free(kind)
    };
    let shadow = |kind: &str, agreement, similarity_permille| ExchangeRecord {
        cost: Some(MicroUsd(3)),
        counterfactual: Some(Counterfactual {
            cost: MicroUsd(0),
            basis: Basis::Shadow,
        }),
        shadow: Some(ShadowRecord {
            beside: "tiny".to_owned(),
            agreement,
            similarity_permille,
        }),
        ..plain(kind)
    };
    vec![
        plain("upstream"),
        here("local", Basis::Reference),
        ExchangeRecord {
            failed_candidates: vec![("cloud".into(), "unreachable")],
            ..here("fallback", Basis::Asked)
        },
        ExchangeRecord {
            route: None,
            cache: CacheOutcome::HitExact,
            saved: Some(MicroUsd(70)),
            ..free("cache")
        },
        ExchangeRecord {
            cost: None,
            counterfactual: None,
            ..plain("unpriced")
        },
        ExchangeRecord {
            route: None,
            outcome: Outcome::Refused("overloaded"),
            usage: None,
            cost: None,
            counterfactual: None,
            ..plain("refused")
        },
        shadow("agreed", Agreement::Agrees, Some(987)),
        shadow("failed", Agreement::Failed, None),
    ]
}

/// The contract of a place where records are kept and read, empty at first. `settle` waits until all that
/// was appended can be read.
///
/// # Panics
/// Where it is broken.
pub async fn check_record_shelf(
    sink: &dyn RecordSink,
    shelf: &dyn RecordShelf,
    settle: impl AsyncFn(),
) {
    let all = Since::Ago(3_600);
    settle().await;
    assert_eq!(shelf.latest(10, None).await.expect("records are read"), []);
    assert_eq!(
        shelf
            .savings(all, None)
            .await
            .expect("records are read")
            .total,
        Sum::default()
    );

    let teams_of = ["blue", "red's \"team\"; --"];
    let records: Vec<_> = teams_of
        .into_iter()
        .flat_map(records_of_all_kinds)
        .collect();
    for record in &records {
        sink.append(record);
    }
    // A caller may send the same id again: that is another exchange.
    sink.append(&record_of("blue-upstream", "blue"));
    settle().await;

    let latest = shelf.latest(100, None).await.expect("records are read");
    assert_eq!(latest.len(), 17, "one each, and none twice");
    assert_eq!(latest[0].request_id, "blue-upstream", "latest first");
    for (kept, record) in latest[1..].iter().rev().zip(&records) {
        let wanted = KeptRecord::of(record, kept.ended_us);
        assert_eq!(*kept, wanted, "as it was appended");
    }
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = shelf.latest(5, before).await.expect("records are read");
        let Some(last) = page.last() else {
            break;
        };
        before = Some(RecordName {
            ended_us: last.ended_us,
            request_id: last.request_id.clone(),
        });
        paged.extend(page);
    }
    assert_eq!(paged, latest, "pages leave nothing out and repeat nothing");

    let savings = shelf
        .savings(all, Some("blue".into()))
        .await
        .expect("records are read");
    assert_eq!(savings.spent_microusd, 146);
    let shadow = ShadowSum {
        asked: 2,
        agreed: 1,
        failed: 1,
        spent_microusd: 6,
        ..ShadowSum::default()
    };
    assert_eq!(savings.shadow, shadow);
    assert_eq!(savings.unpriced_requests, 1);
    let part = |requests: i64, spent: i64, counterfactual: i64| {
        (requests, spent, counterfactual, counterfactual - spent)
    };
    let of = |sum: &Sum| {
        (
            sum.requests,
            sum.compared_spent_microusd,
            sum.counterfactual_microusd,
            sum.saved_microusd,
        )
    };
    assert_eq!(of(&savings.total), part(7, 146, 140 + 50 + 50 + 70));
    assert_eq!(savings.total.compared_requests, 5);
    assert_eq!(savings.total.input_tokens, 8_000);
    for (label, wanted) in [
        (SavedBy::Cache.as_label(), part(1, 0, 70)),
        (SavedBy::Fallback.as_label(), part(1, 0, 50)),
        (SavedBy::Local.as_label(), part(1, 0, 50)),
        // With the one that has no price.
        (SavedBy::Upstream.as_label(), part(3, 140, 140)),
        // No requests, and what they cost takes from what was saved.
        (SavedBy::Shadow.as_label(), part(0, 6, 0)),
        ("none", part(1, 0, 0)),
    ] {
        let found = savings.saved_by.iter().find(|(it, _)| it == label);
        assert_eq!(of(&found.expect("every part is told").1), wanted, "{label}");
    }
    for parts in [&savings.saved_by, &savings.basis] {
        let sum = |figure: fn(&Sum) -> i64| parts.iter().map(|(_, it)| figure(it)).sum::<i64>();
        assert_eq!(sum(|it| it.requests), savings.total.requests);
        assert_eq!(sum(|it| it.saved_microusd), savings.total.saved_microusd);
        assert_eq!(sum(|it| it.output_tokens), savings.total.output_tokens);
    }
    let everybody = shelf.savings(all, None).await.expect("records are read");
    assert_eq!(everybody.spent_microusd, 222);
    let nobody = shelf
        .savings(all, Some("green".into()))
        .await
        .expect("records are read");
    assert_eq!(nobody.total, Sum::default());
    let overview = shelf.overview().await.expect("records are read");
    assert_eq!(overview.hours.len(), 24);
    let asked = overview
        .hours
        .iter()
        .flat_map(|hour| hour.requests.values());
    assert_eq!(asked.sum::<i64>(), 13);
    for (place, answers) in [("cache", 2), ("local", 4), ("upstream", 5)] {
        let found = overview.latency.iter().find(|it| it.place == place);
        let found = found.expect("it answered");
        assert_eq!(found.answers, answers, "{place}");
        assert_eq!((found.took_p50_us, found.took_p95_us), (34_000, 34_000));
        assert_eq!(found.first_content_p95_us, Some(12_000));
    }
    assert_eq!(
        overview.latency.len(),
        3,
        "what was refused took no time of interest"
    );
    let teams: Vec<_> = overview
        .teams
        .iter()
        .map(|it| (it.team.as_str(), it.spent_microusd))
        .collect();
    assert_eq!(teams, [("blue", 146), (teams_of[1], 76)]);
    let past = shelf
        .savings(Since::Ago(0), None)
        .await
        .expect("records are read");
    assert_eq!(
        past.total,
        Sum::default(),
        "it ends now, and so nothing is in it"
    );
}

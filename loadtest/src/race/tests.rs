use super::*;
use crate::{Behaviour, FakeConfig, FakeUpstream};

fn target(name: &str, fake: &FakeUpstream) -> Target {
    target_at(name, fake.addr())
}

fn target_at(name: &str, addr: std::net::SocketAddr) -> Target {
    Target {
        name: name.to_owned(),
        addr,
        model: "m".to_owned(),
        pid: Some(std::process::id()),
        key: None,
    }
}

fn fake(marker: &str) -> FakeUpstream {
    let config = FakeConfig {
        behaviour: Behaviour::default().for_text(marker),
        ..FakeConfig::default()
    };
    FakeUpstream::start(config).unwrap()
}

fn heat(load: EngineLoad) -> Heat {
    Heat {
        name: "heat".to_owned(),
        load,
        answer_tokens: 6,
        shared_tokens: 0,
        requests: 2,
        neighbours: 0,
    }
}

#[tokio::test]
async fn every_engine_gets_the_same_prompts_and_is_counted() {
    let (one, other) = (fake(""), fake("[[fake gap-ms=1]]"));
    let even = EngineLoad::Even {
        clients: 2,
        prompt_tokens: 64,
    };
    let course = Race {
        targets: vec![target("one", &one), target("other", &other)],
        heats: vec![heat(even)],
        rounds: 2,
    };
    let standing = race(&course, |_| {}).await.unwrap();
    let places = standing.places();
    assert!(
        places
            .iter()
            .all(|place| place.failed == 0 && place.answered == 8)
    );
    assert!((places[0].prompt_tokens - places[1].prompt_tokens).abs() < f64::EPSILON);
    // Three gaps of a millisecond and more: the pace is the engine's.
    assert!(places[1].gap_p50_ms >= 1.0, "{places:?}");
    assert!(standing.table().contains("| heat | other |"));
}

#[test]
fn ratios_are_taken_within_each_round() {
    let course = Race {
        targets: vec![
            target_at("one", ([127, 0, 0, 1], 1).into()),
            target_at("other", ([127, 0, 0, 1], 2).into()),
        ],
        heats: vec![heat(EngineLoad::Mixed { clients: 1 })],
        rounds: 3,
    };
    let mut standing = Standing::new(&course);
    // A machine that slowed to a tenth in the second round.
    let rounds = [(100.0, 120.0), (10.0, 12.0), (100.0, 40.0)];
    for (round, (one, other)) in (0..).zip(rounds) {
        for (name, tokens_per_s) in [("one", one), ("other", other)] {
            let lap = Lap {
                tokens_per_s,
                first_p50_ms: 1.0,
                ..Lap::default()
            };
            standing.take("heat", name, round, lap);
        }
    }
    let places = standing.places();
    assert_eq!(places[0].speed_ratio, None);
    assert_eq!(places[1].speed_ratio, Some(1.2));
    assert_eq!(places[1].first_ratio, Some(1.0));
}

#[tokio::test]
async fn a_long_prompt_arrives_while_streams_run() {
    let engine = fake("[[fake gap-ms=2]]");
    let prompts = Prompts::measured(&target("e", &engine), None)
        .await
        .unwrap();
    let stall = Heat {
        requests: 1,
        ..heat(EngineLoad::Stall { streams: 3 })
    };
    let lap = run(&target("e", &engine), &stall, &prompts, 1)
        .await
        .unwrap();
    // The long prompt's own answer is not measured.
    assert_eq!((lap.answered, lap.failed), (3, 0));
    assert!(lap.gap_p99_ms > 0.0);
}

#[tokio::test]
async fn a_question_is_timed_alone_and_beside_a_crowd() {
    let engine = fake("[[fake gap-ms=1]]");
    let course = Fairness {
        target: target("e", &engine),
        crowd_key: Some("crowd".to_owned()),
        guest_key: Some("guest".to_owned()),
        clients: 3,
        crowd_prompt_tokens: 64,
        crowd_answer_tokens: 6,
        guest_prompt_tokens: 32,
        guest_answer_tokens: 2,
        questions: 2,
        rounds: 1,
    };
    let verdict = fairness(&course, |_| {}).await.unwrap();
    let turn = &verdict.turns[0];
    assert_eq!((verdict.turns.len(), verdict.failed()), (1, 0));
    assert!(turn.alone_p50_ms > 0.0 && turn.beside_max_ms >= turn.beside_p50_ms);
    assert!(
        turn.crowd_answered > 3,
        "they ask again and again: {turn:?}"
    );
    assert!(verdict.table().contains("| 1 |"));
}

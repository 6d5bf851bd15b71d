use std::sync::Arc;

use domain::{
    Abilities, ChatRequest, Fault, Health, HealthState, Message, ModelAlias, ModelCard, Role,
    TeamId, Tier, Trust,
};

use super::*;
use crate::roster::RosterEntry;
use crate::{Ask, Asked, Plan, SkipCause, rescuers, resolve, route};

fn entry(name: &str, tier: Tier, trust: Trust, is_sealed: bool) -> RosterEntry {
    RosterEntry {
        card: Arc::new(BackendCard {
            name: name.into(),
            tier,
            trust,
            is_sealed,
            models: vec![ModelCard {
                name: "m".into(),
                context_tokens_max: None,
                abilities: Abilities::all(),
            }],
        }),
        health: Health::READY,
    }
}

/// An engine, a pool, a plain cloud, a plain machine of the operator's, and a relay.
fn roster() -> Roster {
    let aliases = [
        ("mixed", vec!["open/m", "relay/m"]),
        ("plain", vec!["open/m", "hub"]),
        ("near", vec!["hub", "local"]),
    ];
    let owned = |(name, targets): (&str, Vec<&str>)| {
        let targets = targets.into_iter().map(str::to_owned).collect();
        (name.to_owned(), targets)
    };
    Roster {
        backends: vec![
            entry("here", Tier::Engine, Trust::Device, false),
            entry("gpu", Tier::Pool, Trust::Tenant, false),
            entry("open", Tier::Upstream, Trust::Public, false),
            entry("hub", Tier::Upstream, Trust::Tenant, false),
            entry("relay", Tier::Upstream, Trust::Public, true),
        ],
        aliases: Arc::new(aliases.into_iter().map(owned).collect()),
        ..Roster::default()
    }
}

fn policy(toml: &str) -> RoutePolicy {
    RoutePolicy::parse("r.toml", toml).unwrap()
}

fn planned(policy: &RoutePolicy, model: &str, text: &str, roster: &Roster) -> Result<Plan, Fault> {
    let request = ChatRequest::new(model, vec![Message::new(Role::User, text)]);
    let team = TeamId::new("t");
    let ask = Ask {
        request: &request,
        team: &team,
        headers: &[],
    };
    let asked = resolve(&ModelAlias::new(model), roster).unwrap_or(Asked::Auto);
    route(policy, &asked, &ask, roster)
}

fn names(plan: &Plan, roster: &Roster) -> Vec<String> {
    let name = |it: &crate::Candidate| roster.card(it.backend).name.to_string();
    plan.candidates.iter().map(name).collect()
}

const PLAIN: &str = "default = 'c'\n[outcomes.c]\n\
                     candidates = ['open/m', 'hub', 'relay/m', 'gpu', 'local']\n";

#[test]
fn where_sealing_is_required_whoever_is_neither_sealed_nor_own_is_left_out_with_the_reason() {
    let roster = roster();
    let plan = planned(&policy(PLAIN), "auto", "x", &roster).unwrap();
    assert_eq!(
        names(&plan, &roster),
        ["open", "hub", "relay", "gpu", "here"]
    );
    let required = policy(PLAIN).requiring_sealed();
    let plan = planned(&required, "auto", "x", &roster).unwrap();
    assert_eq!(names(&plan, &roster), ["relay", "gpu", "here"]);
    assert_eq!(plan.sealing, Sealing::Required);
    let skipped: Vec<String> = plan.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(
        skipped,
        [
            "open/m: its way is not sealed, as this route requires",
            "hub/m: its way is not sealed, as this route requires",
        ]
    );
}

#[test]
fn a_named_model_that_is_not_sealed_is_refused_and_an_alias_loses_its_unsealed_targets() {
    let roster = roster();
    let required = policy(PLAIN).requiring_sealed();
    let cases: [(&str, Option<&[&str]>); 7] = [
        ("open/m", None),
        ("hub", None),
        ("plain", None),
        ("relay/m", Some(&["relay"])),
        ("gpu", Some(&["gpu"])),
        ("mixed", Some(&["relay"])),
        ("near", Some(&["here"])),
    ];
    for (model, wanted) in cases {
        match (planned(&required, model, "x", &roster), wanted) {
            (Ok(plan), Some(wanted)) => assert_eq!(names(&plan, &roster), wanted, "{model}"),
            (Err(Fault::NoCandidate { reasons }), None) => {
                assert!(!reasons.is_empty(), "{model}");
                assert!(reasons.iter().all(|it| it.ends_with(UNSEALED)), "{model}");
            }
            other => panic!("{model}: {other:?}"),
        }
    }
}

#[test]
fn health_never_brings_an_unsealed_candidate_back() {
    let mut roster = roster();
    for entry in &mut roster.backends {
        if entry.card.is_own_or_sealed() {
            entry.health.state = HealthState::Down;
        }
    }
    let required = policy(PLAIN).requiring_sealed();
    let plan = planned(&required, "auto", "x", &roster).unwrap();
    assert_eq!(names(&plan, &roster), ["relay", "gpu", "here"]);
    roster.backends.retain(|it| !it.card.is_own_or_sealed());
    let fault = planned(&required, "auto", "x", &roster).unwrap_err();
    let Fault::NoCandidate { reasons } = fault else {
        panic!("{fault:?}");
    };
    let unsealed = reasons.iter().filter(|it| it.ends_with(UNSEALED));
    assert_eq!(unsealed.count(), 2, "{reasons:?}");
}

#[test]
fn the_nearest_word_decides_rule_before_outcome_before_file_and_the_configuration_before_all() {
    let toml = "default = 'b'\nsealed = 'required'\n\
        [outcomes.a]\ncandidates = ['open/m', 'relay/m']\nsealed = 'optional'\n\
        [outcomes.b]\ncandidates = ['cloud', 'relay/m']\n\
        [[rules]]\nname = 'secret'\nwhen = { matches = 'secret' }\nthen = 'a'\nsealed = 'required'\n\
        [[rules]]\nname = 'open'\nwhen = { matches = 'open' }\nthen = 'a'\n\
        [[rules]]\nname = 'loose'\nwhen = { matches = 'loose' }\nthen = 'b'\nsealed = 'optional'\n";
    let roster = roster();
    let cases: [(&str, &str, &[&str]); 5] = [
        ("auto", "a secret", &["relay"]),
        ("auto", "open", &["open", "relay"]),
        ("auto", "loose", &["open", "relay"]),
        ("auto", "else", &["relay"]),
        // The file's word is for requests that name a model, too.
        ("mixed", "open", &["relay"]),
    ];
    let as_written = policy(toml);
    for (model, text, wanted) in cases {
        let plan = planned(&as_written, model, text, &roster).unwrap();
        assert_eq!(names(&plan, &roster), wanted, "{model} {text}");
    }
    let required = as_written.requiring_sealed();
    for (model, text, _) in cases {
        let plan = planned(&required, model, text, &roster).unwrap();
        assert_eq!(names(&plan, &roster), ["relay"], "{model} {text}");
    }
}

#[test]
fn cloud_is_the_first_upstream_that_may_be_asked() {
    let toml = "default = 'c'\n[outcomes.c]\ncandidates = ['cloud', 'local']\n";
    let roster = roster();
    let plan = planned(&policy(toml), "auto", "x", &roster).unwrap();
    assert_eq!(names(&plan, &roster), ["open", "here"]);
    let plan = planned(&policy(toml).requiring_sealed(), "auto", "x", &roster).unwrap();
    assert_eq!(names(&plan, &roster), ["relay", "here"]);
}

#[test]
fn nobody_unsealed_goes_on_with_a_reply_that_broke_off() {
    let toml = format!("rescue = 'any'\n{PLAIN}");
    let mut roster = roster();
    // What answers as `local` is a pool that is not the operator's.
    roster.backends[0] = entry("strange", Tier::Pool, Trust::Public, false);
    for (policy, wanted) in [
        (
            policy(&toml),
            &["hub", "relay", "gpu", "strange", "open"][..],
        ),
        (policy(&toml).requiring_sealed(), &["gpu", "relay"]),
    ] {
        let plan = planned(&policy, "auto", "x", &roster).unwrap();
        let found = rescuers(&plan, &plan.candidates[0], &roster);
        let names: Vec<&str> = found
            .iter()
            .map(|it| roster.card(it.backend).name.as_str())
            .collect();
        assert_eq!(names, wanted);
    }
}

#[test]
fn the_files_shipped_require_nothing() {
    for toml in [crate::DEFAULT_ROUTES, crate::LOCAL_ONLY_ROUTES] {
        assert_eq!(policy(toml).sealing(), Sealing::Optional);
        assert!(policy(toml).requiring_sealed().check(&roster()).is_empty());
    }
}

#[test]
fn a_file_that_names_who_may_not_be_asked_is_at_fault() {
    let check = |toml: &str, roster: &Roster| -> Vec<String> {
        let faults = policy(toml).check(roster);
        faults.iter().map(|it| it.path.clone()).collect()
    };
    let mut bare = roster();
    bare.backends.truncate(4);
    bare.backends.drain(0..2);
    let one = |candidates: &str, more: &str| {
        format!("default = 'c'\n[outcomes.c]\ncandidates = {candidates}\n{more}")
    };
    let secret = "[[rules]]\nname = 'r'\nwhen = { code = true }\nthen = 'c'\nsealed = 'required'\n";
    let sealed = "sealed = 'required'\n";
    let with = |candidates: &str| check(&one(candidates, sealed), &roster());
    assert_eq!(
        with("['open/m', 'relay/m', 'hub', 'plain']"),
        [
            "outcomes.c.candidates[0]",
            "outcomes.c.candidates[2]",
            "outcomes.c.candidates[3]",
        ]
    );
    assert!(with("['cloud', 'mixed', 'near', 'local']").is_empty());
    // `cloud` and `local` may stand anywhere, unless they are all that is left and neither may be asked.
    assert_eq!(
        check(&one("['cloud', 'local']", sealed), &bare),
        ["outcomes.c.candidates"]
    );
    // A rule may leave out some of an outcome's candidates, and not all.
    let ruled = |candidates: &str| check(&one(candidates, secret), &roster());
    assert!(ruled("['open/m', 'relay/m']").is_empty());
    assert_eq!(ruled("['open/m', 'hub']"), ["rules[0].then"]);
    assert!(check(&one("['open/m', 'hub']", ""), &roster()).is_empty());
}

#[test]
fn an_alias_that_stands_for_nobody_sealed_is_at_fault() {
    let mut roster = roster();
    let paths = |roster: &Roster| -> Vec<String> {
        let faults = check_sealed_aliases(roster, "aliases", "aliases");
        faults.iter().map(|it| it.path.clone()).collect()
    };
    assert_eq!(paths(&roster), ["aliases.plain"]);
    roster.shares = Arc::new([("plain".to_owned(), vec![1, 1])].into());
    assert_eq!(paths(&roster), ["balance.plain.models"]);
    let fault = &check_sealed_aliases(&roster, "aliases", "aliases")[0];
    assert!(fault.message.contains("`open/m`, `hub`"), "{fault}");
}

#[test]
fn an_unknown_word_is_refused_with_those_there_are() {
    let toml =
        "default = 'c'\nsealed = 'yes'\n[outcomes.c]\ncandidates = ['cloud']\nsealed = true\n";
    let faults = RoutePolicy::parse("r.toml", toml).map(|_| ()).unwrap_err();
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "r.toml: sealed: must be `required` or `optional`",
            "r.toml: outcomes.c.sealed: must be a string, not true or false",
        ]
    );
}

#[test]
fn a_plan_says_why_each_was_left_out() {
    let roster = roster();
    let plan = planned(&policy(PLAIN).requiring_sealed(), "auto", "x", &roster).unwrap();
    let causes: Vec<SkipCause> = plan.skipped.iter().map(|it| it.cause).collect();
    assert_eq!(causes, [SkipCause::Unsealed; 2]);
}

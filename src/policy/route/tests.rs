use std::sync::{Arc, LazyLock};

use domain::{
    BackendCard, BackendName, ChatRequest, Extra, Health, Image, Message, ModelAlias, ModelCard,
    OutputFormat, Part, Role, TeamId, Tier, Tool, ToolChoice, Trust,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::roster::RosterEntry;
use crate::{DEFAULT_ROUTES, LOCAL_ONLY_ROUTES, resolve};

fn card(name: &str, trust: Trust, models: &[&str], abilities: Abilities) -> RosterEntry {
    let model = |name: &&str| ModelCard {
        name: (*name).to_owned(),
        context_tokens_max: (trust == Trust::Device).then_some(Tokens(512)),
        abilities,
    };
    RosterEntry {
        card: Arc::new(BackendCard {
            name: BackendName::new(name),
            tier: if trust == Trust::Device {
                Tier::Engine
            } else {
                Tier::Upstream
            },
            is_sealed: false,
            trust,
            models: models.iter().map(model).collect(),
        }),
        health: Health::READY,
    }
}

fn local() -> RosterEntry {
    card("local", Trust::Device, &["tiny"], Abilities::NONE)
}

/// A local model, an upstream with two models, and one that takes any name.
fn roster() -> Roster {
    let aliases = [
        ("fast", vec!["local", "openai/small"]),
        ("best", vec!["openai/large", "fast"]),
        ("auto-alias", vec!["auto"]),
        ("gpt-4o", vec!["openai/large"]),
        ("here", vec!["there"]),
        ("there", vec!["here"]),
    ];
    let owned = |(name, targets): (&str, Vec<&str>)| {
        let targets = targets.into_iter().map(str::to_owned).collect();
        (name.to_owned(), targets)
    };
    Roster {
        backends: vec![
            local(),
            card(
                "openai",
                Trust::Public,
                &["large", "small"],
                Abilities::all(),
            ),
            card(
                "open",
                Trust::Tenant,
                &["*", "mid", "small"],
                Abilities::all(),
            ),
        ],
        aliases: Arc::new(aliases.into_iter().map(owned).collect()),
        ..Roster::default()
    }
}

fn with_health(mut roster: Roster, backend: usize, state: HealthState) -> Roster {
    roster.backends[backend].health.state = state;
    roster
}

fn request(text: &str) -> ChatRequest {
    ChatRequest::new("auto", vec![Message::new(Role::User, text)])
}

fn tools() -> Vec<Tool> {
    vec![Tool {
        name: "run".to_owned(),
        description: None,
        parameters: json!({}),
        extra: Extra::new(),
    }]
}

fn policy(toml: &str) -> RoutePolicy {
    RoutePolicy::parse("routes.toml", toml).unwrap()
}

#[test]
fn a_pool_is_local_where_no_engine_is_and_has_a_name_beside_one() {
    let mut pool = card("gpu", Trust::Tenant, &["large"], Abilities::all());
    Arc::make_mut(&mut pool.card).tier = Tier::Pool;
    let cloud = || card("cloudy", Trust::Public, &["big"], Abilities::all());
    let first = |backends: Vec<RosterEntry>, name: &str| {
        let roster = Roster {
            backends,
            ..Roster::default()
        };
        let target = roster.targets(name, Sealing::Optional).into_iter().next()?;
        let card = roster.card(target.backend);
        Some(format!("{}:{}", card.name, target.model))
    };
    let alone = || vec![pool.clone(), cloud()];
    let beside = || vec![local(), pool.clone(), cloud()];
    let cases = [
        (alone(), "local", Some("gpu:large")),
        (alone(), "cloud", Some("cloudy:big")),
        (alone(), "gpu", Some("gpu:large")),
        (beside(), "local", Some("local:tiny")),
        (beside(), "gpu", Some("gpu:large")),
        (beside(), "gpu/large", Some("gpu:large")),
        (beside(), "large", Some("gpu:large")),
        (beside(), "gpu/http://elsewhere/v1", None),
    ];
    for (backends, name, wanted) in cases {
        assert_eq!(first(backends, name).as_deref(), wanted, "{name}");
    }
}

static DEFAULT: LazyLock<RoutePolicy> = LazyLock::new(|| policy(DEFAULT_ROUTES));

fn decide(policy: &RoutePolicy, request: &ChatRequest, roster: &Roster) -> Result<Plan, Fault> {
    let asked = resolve(&request.model, roster)?;
    let headers = [("x-task".to_owned(), "chat".to_owned())];
    let ask = Ask {
        request,
        team: &TeamId::new("red"),
        headers: &headers,
    };
    let plan = route(policy, &asked, &ask, roster);
    // Whoever is well, and whatever they can do.
    if let Ok(plan) = &plan {
        assert_eq!(rule_of(policy, &asked, &ask), plan.rule);
    }
    plan
}

/// `local/tiny openai/large`, with the rule before it.
fn shown(plan: &Plan, roster: &Roster) -> String {
    let names: Vec<String> = plan
        .candidates
        .iter()
        .map(|it| format!("{}/{}", roster.card(it.backend).name, it.model))
        .collect();
    format!("{}: {}", plan.rule, names.join(" "))
}

#[track_caller]
fn check(policy: &RoutePolicy, request: &ChatRequest, roster: &Roster, wanted: &str) {
    let plan = decide(policy, request, roster).unwrap();
    assert_eq!(shown(&plan, roster), wanted, "{}", request.last_user_text());
}

#[track_caller]
fn check_named(name: &str, wanted: &str) {
    let roster = roster();
    let asked = resolve(&ModelAlias::new(name), &roster);
    let shown = match asked {
        Ok(Asked::Auto) => "auto".to_owned(),
        Ok(Asked::Exactly(targets)) => targets
            .iter()
            .map(|it| format!("{}/{}", roster.card(it.backend).name, it.model))
            .collect::<Vec<_>>()
            .join(" "),
        Err(Fault::ModelNotFound { nearest, .. }) => format!("? {}", nearest.unwrap_or_default()),
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(shown, wanted, "{name}");
}

#[test]
fn every_kind_of_name_is_found() {
    for (name, wanted) in [
        ("auto", "auto"),
        ("auto-alias", "auto"),
        ("local", "local/tiny"),
        ("tiny", "local/tiny"),
        ("openai", "openai/large"),
        ("open", "open/mid"),
        ("openai/small", "openai/small"),
        ("open/any/thing", "open/any/thing"),
        ("large", "openai/large"),
        ("gpt-4o", "openai/large"),
        ("fast", "local/tiny openai/small"),
        ("best", "openai/large local/tiny openai/small"),
    ] {
        check_named(name, wanted);
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    for (name, wanted) in [
        ("tinny", "? tiny"),
        ("openai/smal", "? openai/small"),
        ("Auto", "? auto"),
        ("gpt-4", "? gpt-4o"),
        // Two upstreams list it.
        ("small", "? openai/small"),
        ("open/", "? open/mid"),
        ("open/*", "? open/mid"),
        ("here", "? there"),
        ("", "? "),
        ("zzzzz", "? "),
    ] {
        check_named(name, wanted);
    }
}

#[test]
fn equals_are_known_by_their_group_and_one_for_another_is_no_stand_in() {
    let mut roster = roster();
    let aliases = Arc::make_mut(&mut roster.aliases);
    let equals = ["openai/small", "open/small"].map(str::to_owned).to_vec();
    aliases.insert("both".to_owned(), equals);
    aliases.insert(
        "then".to_owned(),
        vec!["both".to_owned(), "local".to_owned()],
    );
    roster.shares = Arc::new([("both".to_owned(), vec![3, 1])].into());
    let plan_of = |name: &str, roster: &Roster| {
        let mut request = request("hi");
        request.model = name.into();
        decide(
            &policy("default = 'c'\n[outcomes.c]\ncandidates = ['both']"),
            &request,
            roster,
        )
        .unwrap()
    };
    let shares = |plan: &Plan| -> Vec<Option<u32>> {
        plan.candidates
            .iter()
            .map(|it| it.share.map(|share| share.weight))
            .collect()
    };
    assert_eq!(shares(&plan_of("both", &roster)), [Some(3), Some(1)]);
    assert_eq!(shares(&plan_of("then", &roster)), [Some(3), Some(1), None]);
    assert_eq!(shares(&plan_of("auto", &roster)), [Some(3), Some(1)]);
    roster.resting = vec![Target {
        backend: 1,
        model: "small".to_owned(),
        share: None,
    }];
    let plan = plan_of("then", &roster);
    assert_eq!(
        shares(&plan),
        [Some(1), None],
        "the one that rests is passed over"
    );
    assert_eq!(plan.passed_over, [] as [usize; 0]);
    // Its other model is not.
    assert_eq!(plan_of("openai/large", &roster).candidates.len(), 1);
}

#[test]
fn aliases_that_cannot_work_are_reported_at_once() {
    let mut roster = roster();
    let mut aliases = (*roster.aliases).clone();
    aliases.insert("local".to_owned(), vec!["openai".to_owned()]);
    aliases.insert("none".to_owned(), Vec::new());
    aliases.insert("typo".to_owned(), vec!["openai/lrge".to_owned()]);
    roster.aliases = Arc::new(aliases);
    let faults = crate::check_aliases(&roster, "hedge.toml", "aliases");
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "hedge.toml: aliases.here: the alias leads back to itself",
            "hedge.toml: aliases.local: `local` is a name of the node itself; choose another",
            "hedge.toml: aliases.none: an alias needs at least one target",
            "hedge.toml: aliases.there: the alias leads back to itself",
            "hedge.toml: aliases.typo[0]: no backend or model is called `openai/lrge`; did you mean `openai/large`?",
        ]
    );
}

#[test]
fn easy_questions_stay_on_this_machine_by_default() {
    let policy = &*DEFAULT;
    for (rule, text) in [
        ("greeting", "hi"),
        ("greeting", "Hello there!"),
        ("greeting", "How are you?"),
        ("thanks", "Thank you very much!"),
        ("about-hedge", "What is hedge?"),
        ("about-hedge", "How do I point the OpenAI SDK at hedge?"),
        ("capital", "What is the capital of Portugal?"),
        ("capital", "Tell me Portugal's capital, please."),
        ("capital", "which city is the capital of the united kingdom"),
        ("capital", "capital of Peru"),
        ("currency", "What currency do they use in Japan?"),
        ("small-sum", "What is 17 + 25?"),
        ("small-sum", "7 x 8"),
        ("unit-conversion", "How many meters are in 3 kilometers?"),
        ("unit-conversion", "convert 2.5 kg to grams"),
        ("unit-conversion", "3km in m"),
        ("small-unit-conversion", "How many minutes are in 2 hours?"),
        ("calendar", "What day comes after Monday?"),
        ("calendar", "How many days are in March?"),
        ("short-definition", "define algorithm"),
    ] {
        let wanted = format!("{rule}: local/tiny openai/large");
        check(policy, &request(text), &roster(), &wanted);
    }
}

#[test]
fn what_only_looks_easy_goes_to_the_cloud() {
    let policy = &*DEFAULT;
    for text in [
        "What is the capital of Bavaria?",
        "What was the capital of Portugal in 1810?",
        "What is the second largest city of Portugal?",
        "Why is Lisbon the capital of Portugal and not Porto?",
        "convert 10 miles to km",
        "convert 12 liters to kilometers",
        "12 - 47",
        "1234 + 8765",
        "17 x 25",
        "What is 15 percent of 240?",
        "define quazzle",
        "hi, write me a poem",
        "What day of the week was 14 July 1789?",
        "Quelle est la capitale du Portugal ?",
        "",
    ] {
        let plan = decide(policy, &request(text), &roster()).unwrap();
        let wanted = "openai/large local/tiny";
        assert!(
            shown(&plan, &roster()).ends_with(wanted),
            "{text}: {plan:?}"
        );
    }
}

#[test]
fn hard_requests_go_to_the_cloud_and_say_why() {
    let policy = &*DEFAULT;
    let cloud = |rule: &str| format!("{rule}: openai/large");
    let both = |rule: &str| format!("{rule}: openai/large local/tiny");

    let task = "Implement a function that parses the log and returns a table. ".repeat(60);
    let coding = ChatRequest {
        tools: tools(),
        ..request(&task)
    };
    check(policy, &coding, &roster(), &cloud("tools"));
    check(
        policy,
        &request("Fix this Python function"),
        &roster(),
        &both("code"),
    );
    check(
        policy,
        &request("Prove the theorem"),
        &roster(),
        &both("mathematics"),
    );
    let structured = ChatRequest {
        format: OutputFormat::JsonObject,
        ..request("capital of Peru")
    };
    check(policy, &structured, &roster(), &cloud("structured-output"));
    let mut picture = request("what is this");
    picture.messages[0].content.push(Part::Image(Image {
        url: "data:,".to_owned(),
        detail: None,
    }));
    check(policy, &picture, &roster(), &cloud("images"));
    let mut pirate = request("capital of Peru");
    let instruction = Message::new(Role::System, "Speak like a pirate.");
    pirate.messages.insert(0, instruction);
    check(policy, &pirate, &roster(), &both("instructed"));
    let mut polite = request("capital of Peru");
    let instruction = Message::new(Role::Developer, "You are a helpful assistant.");
    polite.messages.insert(0, instruction);
    let wanted = "capital: local/tiny openai/large";
    check(policy, &polite, &roster(), wanted);
}

#[test]
fn a_follow_up_is_not_taken_for_a_question_of_its_own() {
    let mut talk = request("Who wrote Faust?");
    talk.messages.push(Message::new(Role::Assistant, "Goethe."));
    talk.messages
        .push(Message::new(Role::User, "capital of Peru"));
    check(
        &DEFAULT,
        &talk,
        &roster(),
        "default: openai/large local/tiny",
    );
}

#[test]
fn without_a_cloud_everything_is_answered_here() {
    let policy = &*DEFAULT;
    let alone = Roster {
        backends: vec![local()],
        ..Roster::default()
    };
    for text in ["hi", "Write a poem about hedges", ""] {
        let plan = decide(policy, &request(text), &alone).unwrap();
        assert_eq!(plan.candidates.len(), 1);
    }
    let plan = decide(policy, &request("Write a poem"), &alone).unwrap();
    assert_eq!(plan.skipped[0].to_string(), "cloud: not configured");
}

#[test]
fn the_local_only_policy_asks_no_upstream() {
    let policy = &policy(LOCAL_ONLY_ROUTES);
    let wanted = "default: local/tiny";
    check(policy, &request("Write a compiler"), &roster(), wanted);
    let with_tools = ChatRequest {
        tools: tools(),
        ..request("x")
    };
    let reasons = vec!["local/tiny: cannot do tools".to_owned()];
    let refused = decide(policy, &with_tools, &roster());
    assert_eq!(refused, Err(Fault::NoCandidate { reasons }));
}

#[test]
fn a_backend_that_is_down_is_asked_only_when_no_other_is_left() {
    let policy = &*DEFAULT;
    let hard = request("Write a poem");
    let cloud_down = with_health(roster(), 1, HealthState::Down);
    check(policy, &hard, &cloud_down, "default: local/tiny");
    let plan = decide(policy, &hard, &cloud_down).unwrap();
    assert_eq!(plan.skipped[0].to_string(), "openai/large: down");
    let all_down = with_health(cloud_down, 0, HealthState::Down);
    check(policy, &hard, &all_down, "default: openai/large local/tiny");
}

#[test]
fn a_backend_that_is_starting_comes_after_those_that_are_ready() {
    let policy = &*DEFAULT;
    let starting = with_health(roster(), 0, HealthState::Starting);
    let wanted = "greeting: openai/large local/tiny";
    check(policy, &request("hi"), &starting, wanted);
}

#[test]
fn a_prompt_that_cannot_fit_passes_the_small_context_over() {
    let policy = &*DEFAULT;
    let long = request(&"many different words here ".repeat(2_000));
    let plan = decide(policy, &long, &roster()).unwrap();
    assert_eq!(shown(&plan, &roster()), "long: openai/large");
    let reason = "local/tiny: its context holds 512 tokens and the prompt is longer";
    assert_eq!(plan.skipped[0].to_string(), reason);
}

#[test]
fn a_named_model_that_is_unable_says_which_field_to_change() {
    let policy = &*DEFAULT;
    let forced = ChatRequest {
        tool_choice: ToolChoice::Required,
        ..request("x")
    };
    let many = ChatRequest {
        choices: 2,
        ..request("x")
    };
    let mut biased = request("x");
    biased.sampling.logit_bias = vec![(1, 1.0)];
    let mut probable = request("x");
    probable.sampling.logprobs = Some(0);
    let mut heard = request("x");
    heard.messages[0].content = vec![Part::Other(json!({ "type": "input_audio" }))];
    let schema = ChatRequest {
        format: OutputFormat::JsonSchema(json!({})),
        ..request("x")
    };
    let constrained = ChatRequest {
        format: OutputFormat::Choice(vec!["a".into()]),
        ..request("x")
    };
    for (field, asked) in [
        ("tool_choice", forced),
        ("n", many),
        ("logit_bias", biased),
        ("logprobs", probable),
        ("messages", heard),
        ("response_format", schema),
        ("structured_outputs", constrained),
    ] {
        let asked = ChatRequest {
            model: "local".into(),
            ..asked
        };
        let Err(Fault::BadRequest(fault)) = decide(policy, &asked, &roster()) else {
            panic!("{field} was not refused");
        };
        assert_eq!(fault.param.as_deref(), Some(field));
        assert!(fault.message.starts_with("`local/tiny` cannot do "));
        assert!(fault.message.ends_with("or name another model"));
    }
}

#[test]
fn a_request_needs_only_what_it_asks_for() {
    assert_eq!(crate::needs(&request("x")), Abilities::NONE);
    let unused = ChatRequest {
        tools: tools(),
        tool_choice: ToolChoice::None,
        ..request("x")
    };
    assert_eq!(crate::needs(&unused), Abilities::NONE);
    let offered = ChatRequest {
        tools: tools(),
        ..request("x")
    };
    assert_eq!(crate::needs(&offered), Abilities::NONE.with(Ability::Tools));
}

#[test]
fn each_test_of_a_condition_can_hold_and_fail() {
    let long = "word ".repeat(100);
    let german = "Das ist ein ganz gewöhnlicher deutscher Satz, der von nichts Besonderem handelt.";
    for (when, holds, fails) in [
        ("tokens_min = 50", long.as_str(), "word"),
        ("tokens_max = 50", "word", long.as_str()),
        ("chars_min = 5", "words", "word"),
        ("chars_max = 4", "word", "words"),
        ("turns_max = 1, chars_min = 3", "word", "we"),
        (
            "code = true",
            "def f(x):\n  return x",
            "the definition of x",
        ),
        ("code = false", "hello", "SELECT a FROM b"),
        (
            "mathematics = true",
            "solve for x: 2x=4",
            "solve my problem",
        ),
        (
            "language = ['de', 'fr']",
            german,
            "This is an ordinary sentence in the English language.",
        ),
        ("keywords = ['poem', 'c++']", "a Poem!", "poems"),
        ("keywords = ['poem', 'c++']", "learn c++ now", "learn c"),
        ("keywords = 'schön'", "schön", "scho"),
        ("matches = '^a+$'", " AAA ", "ab"),
        ("matches = ['x{2}', '\\p{Greek}']", "xx", "x"),
        ("matches = ['x{2}', '\\p{Greek}']", "λ", "l"),
        ("all = [{ chars_min = 2 }, { chars_max = 3 }]", "abc", "a"),
        ("any = [{ chars_max = 1 }, { chars_min = 3 }]", "abc", "ab"),
        (
            "not = { any = [{ chars_max = 1 }, { chars_min = 3 }] }",
            "ab",
            "abc",
        ),
    ] {
        let policy = policy(&format!(
            "default = 'c'\n[outcomes.c]\ncandidates = 'cloud'\n[outcomes.l]\ncandidates = 'local'\n\
             [[rules]]\nname = 'r'\nthen = 'l'\nwhen = {{ {when} }}"
        ));
        check(&policy, &request(holds), &roster(), "r: local/tiny");
        check(&policy, &request(fails), &roster(), "default: openai/large");
    }
}

#[test]
fn tests_of_the_caller_can_hold_and_fail() {
    for (when, holds) in [
        ("team = ['blue', 'red']", true),
        ("team = 'blue'", false),
        ("header = { x-task = '^CHAT$' }", true),
        ("header = { x-task = 'code' }", false),
        ("header = { x-other = '.*' }", false),
        ("turns_min = 1", true),
        ("turns_min = 2", false),
        ("tools = false, images = false", true),
        ("tools = true", false),
        ("response_format = 'text'", true),
        ("response_format = ['json_object', 'json_schema']", false),
        ("system_chars_max = 0", true),
        ("system_chars_min = 1", false),
        ("system_matches = 'x'", false),
    ] {
        let policy = policy(&format!(
            "default = 'c'\n[outcomes.c]\ncandidates = 'cloud'\n[outcomes.l]\ncandidates = 'local'\n\
             [[rules]]\nname = 'r'\nthen = 'l'\nwhen = {{ {when} }}"
        ));
        let wanted = if holds {
            "r: local/tiny"
        } else {
            "default: openai/large"
        };
        check(&policy, &request("hi"), &roster(), wanted);
    }
}

prop_compose! {
    fn any_request()(
        texts in prop::collection::vec("\\PC{0,40}", 1..4),
        model in prop::sample::select(vec!["auto", "local", "openai/small", "fast", "open/x", "nobody"]),
        has_tools in any::<bool>(),
        choices in 1_u32..3,
        is_json in any::<bool>(),
    ) -> ChatRequest {
        ChatRequest {
            model: model.into(),
            messages: texts.into_iter().map(|text| Message::new(Role::User, text)).collect(),
            tools: if has_tools { tools() } else { Vec::new() },
            choices,
            format: if is_json { OutputFormat::JsonObject } else { OutputFormat::Text },
            ..request("")
        }
    }
}

prop_compose! {
    fn any_roster()(states in prop::collection::vec(0_u8..4, 3)) -> Roster {
        let mut roster = roster();
        for (entry, state) in roster.backends.iter_mut().zip(&states) {
            entry.health.state = match state {
                0 => HealthState::Down,
                1 => HealthState::Starting,
                _ => HealthState::Ready,
            };
        }
        roster
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_route_yields_a_plan_or_a_reason(request in any_request(), roster in any_roster()) {
        let policy = &*DEFAULT;
        match decide(policy, &request, &roster) {
            Ok(plan) => {
                prop_assert!(!plan.candidates.is_empty());
                prop_assert!(!plan.rule.is_empty());
                prop_assert!(plan.candidates.iter().all(|it| it.reason == plan.rule));
            }
            Err(Fault::NoCandidate { reasons }) => prop_assert!(!reasons.is_empty()),
            Err(Fault::BadRequest(fault)) => prop_assert!(fault.param.is_some()),
            Err(Fault::ModelNotFound { asked, .. }) => prop_assert_eq!(asked, "nobody"),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn the_same_request_is_always_routed_alike(request in any_request(), roster in any_roster()) {
        let policy = &*DEFAULT;
        prop_assert_eq!(decide(policy, &request, &roster), decide(policy, &request, &roster));
    }

    #[test]
    fn a_named_model_goes_nowhere_else(request in any_request(), roster in any_roster()) {
        let policy = &*DEFAULT;
        if let (Ok(Asked::Exactly(targets)), Ok(plan)) =
            (resolve(&request.model, &roster), decide(policy, &request, &roster))
        {
            for candidate in plan.candidates {
                let is_it = |target: &Target| {
                    target.backend == candidate.backend && target.model == candidate.model
                };
                prop_assert!(targets.iter().any(is_it));
            }
        }
    }
}

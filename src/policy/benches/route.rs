//! What one decision costs: `cargo bench -p policy --bench route`.

use std::sync::Arc;

use divan::{Bencher, black_box};
use domain::{
    Abilities, BackendCard, BackendName, ChatRequest, Health, Message, ModelCard, Role, TeamId,
    Tier, Trust,
};
use policy::{Ask, Asked, DEFAULT_ROUTES, Roster, RosterEntry, RoutePolicy, ScanRules, route};

fn main() {
    policy::warm_up();
    divan::main();
}

fn request(text: &str) -> ChatRequest {
    ChatRequest::new("auto", vec![Message::new(Role::User, text)])
}

/// Prose without a word that any rule looks for, so that every rule is tried.
fn prose(bytes: usize) -> String {
    "The committee met on the hill above the harbour and talked about the weather, the boats and \
     the price of bread until the lamps were lit. "
        .repeat(bytes / 120 + 1)[..bytes]
        .to_owned()
}

fn roster() -> Roster {
    let entry = |name: &str, tier, trust| RosterEntry {
        card: Arc::new(BackendCard {
            name: BackendName::new(name),
            tier,
            is_sealed: false,
            trust,
            models: vec![ModelCard {
                name: "model".to_owned(),
                context_tokens_max: None,
                abilities: Abilities::all(),
            }],
        }),
        health: Health::READY,
    };
    Roster {
        backends: vec![
            entry("local", Tier::Engine, Trust::Device),
            entry("cloud", Tier::Upstream, Trust::Public),
        ],
        ..Roster::default()
    }
}

fn bench_route(bencher: Bencher<'_, '_>, text: &str) {
    let policy = RoutePolicy::parse("default.toml", DEFAULT_ROUTES).expect("it parses");
    let (roster, request, team) = (roster(), request(text), TeamId::new("team"));
    let ask = Ask {
        request: &request,
        team: &team,
        headers: &[],
    };
    bencher.bench(|| route(&policy, &Asked::Auto, black_box(&ask), &roster));
}

#[divan::bench]
fn route_capital(bencher: Bencher<'_, '_>) {
    bench_route(bencher, "What is the capital of Portugal?");
}

#[divan::bench]
fn route_short_prose(bencher: Bencher<'_, '_>) {
    bench_route(bencher, &prose(100));
}

#[divan::bench]
fn route_prose_of_1_kb(bencher: Bencher<'_, '_>) {
    bench_route(bencher, &prose(1024));
}

#[divan::bench]
fn route_prose_of_16_kb(bencher: Bencher<'_, '_>) {
    bench_route(bencher, &prose(16 * 1024));
}

#[divan::bench]
fn count_tokens_of_1_kb(bencher: Bencher<'_, '_>) {
    let text = prose(1024);
    bencher.bench(|| policy::count_tokens(black_box(&text)));
}

#[divan::bench]
fn scan_1_kb(bencher: Bencher<'_, '_>) {
    let (rules, request) = (ScanRules::default(), request(&prose(1024)));
    bencher.bench(|| rules.scan(black_box(&request)));
}

#[divan::bench]
fn parse_default_routes() -> bool {
    RoutePolicy::parse("default.toml", black_box(DEFAULT_ROUTES)).is_ok()
}

/// What the first request pays for that its rules decide about, on a node without a model of its own.
#[divan::bench]
fn parse_and_compile_default_routes() {
    let policy = RoutePolicy::parse("default.toml", black_box(DEFAULT_ROUTES));
    policy.expect("it parses").warm();
}

//! The pools: every endpoint is asked once, as the server does it.

use std::sync::Arc;

use futures::future::join_all;
use providers::{EndpointView, EngineKind, Pool, PoolConfig, SystemResolver, Transport};

use super::{Line, State};
use crate::config::Config;

const WHAT: &str = "pool";

pub async fn look(config: &Config, transport: &Transport) -> Vec<Line> {
    let looks = config.pools.iter().map(|pool| look_at(pool, transport));
    join_all(looks).await.into_iter().flatten().collect()
}

async fn look_at(config: &PoolConfig, transport: &Transport) -> Vec<Line> {
    let resolver = Arc::new(SystemResolver);
    // What is wrong with its configuration is said with the routes.
    let Ok(pool) = Pool::new(config.clone(), transport.clone(), resolver) else {
        return Vec::new();
    };
    pool.look().await;
    let views = pool.views();
    if views.is_empty() {
        let found = format!("{}: its name leads to no address", config.asked.name);
        return vec![Line::fail(
            WHAT,
            found,
            "look at `dns` and the name servers",
        )];
    }
    let is_any_well = views.iter().any(|view| view.fault.is_none());
    views
        .iter()
        .map(|view| line(config, view, is_any_well))
        .collect()
}

fn line(config: &PoolConfig, view: &EndpointView, is_any_well: bool) -> Line {
    let kind = config.kind;
    let who = format!(
        "{}: {} ({})",
        config.asked.name,
        view.label,
        kind.as_label()
    );
    if let Some(fault) = view.fault {
        let next = format!(
            "look at the engine, its address, and `kind`: {}",
            kind.as_label()
        );
        return Line {
            // The others answer in its place.
            state: if is_any_well {
                State::Warn
            } else {
                State::Fail
            },
            ..Line::fail(WHAT, format!("{who} {fault}"), next)
        };
    }
    match (view.load_reported, kind) {
        (Some(load), _) => Line::ok(WHAT, format!("{who} is well and has {load} requests")),
        (None, EngineKind::Ollama) => Line::ok(WHAT, format!("{who} is well")),
        (None, EngineKind::Vllm | EngineKind::LlamaServer | EngineKind::Sglang) => {
            let next = match kind {
                EngineKind::LlamaServer => "start it with --metrics",
                EngineKind::Sglang => "start it with --enable-metrics",
                EngineKind::Vllm | EngineKind::Ollama => "look at its /metrics",
            };
            let found = format!("{who} is well and does not say how busy it is");
            Line::warn(WHAT, found, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::Trust;
    use providers::{Balance, EndpointState, HealthRules, Members, UpstreamConfig};

    use super::*;

    fn config(kind: EngineKind) -> PoolConfig {
        PoolConfig {
            asked: UpstreamConfig::new("gpu", "", "large", Trust::Tenant),
            kind,
            members: Members::Listed(Vec::new()),
            endpoints_max: 1,
            attempts_max: 1,
            in_flight_max: 1,
            balance: Balance {
                affinity_bytes: 0,
                spill_factor: 1.0,
            },
            health: HealthRules {
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                failures_max: 1,
                eject: Duration::ZERO,
                eject_max: Duration::ZERO,
            },
        }
    }

    #[test]
    fn each_endpoint_has_a_line_that_says_what_to_do() {
        let view = |fault, load_reported| EndpointView {
            label: "10.0.0.5:8000".to_owned(),
            state: EndpointState::In,
            in_flight: 0,
            load_reported,
            chats: 0,
            failures: 0,
            ejections: 0,
            fault,
        };
        let cases = [
            (EngineKind::Vllm, view(None, Some(3)), true, State::Ok),
            (EngineKind::Ollama, view(None, None), true, State::Ok),
            (EngineKind::LlamaServer, view(None, None), true, State::Warn),
            (EngineKind::Vllm, view(Some("x"), None), true, State::Warn),
            (EngineKind::Vllm, view(Some("x"), None), false, State::Fail),
        ];
        for (kind, view, is_any_well, wanted) in cases {
            let line = line(&config(kind), &view, is_any_well);
            assert_eq!(line.state, wanted, "{line}");
            assert_eq!(line.next.is_some(), wanted != State::Ok, "{line}");
            assert!(line.found.starts_with("gpu: 10.0.0.5:8000"), "{line}");
        }
    }
}

//! Against fake engines on real sockets. Rounds of looking are asked for one by one, and nothing is
//! asserted about how long things took.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use bytes::Bytes;
use domain::{ChatEvent, Findings, TimeoutPhase, Trust, collect};
use loadtest::{Behaviour, FakeConfig, FakeUpstream, Mishap};
use wire::openai::decode_request;

use super::*;
use crate::transport::tests::transport;
use crate::{Auth, Secret, UpstreamConfig};

const KEY: &str = "sk-very-secret";

fn fake() -> FakeUpstream {
    fake_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

fn fake_at(listen: SocketAddr) -> FakeUpstream {
    let config = FakeConfig {
        listen,
        ..FakeConfig::default()
    };
    FakeUpstream::start(config).unwrap()
}

/// One whose every reply goes wrong that way.
fn broken(mishap: Mishap) -> FakeUpstream {
    FakeUpstream::start(FakeConfig {
        behaviour: Behaviour {
            mishap: Some(mishap),
            ..Behaviour::default()
        },
        ..FakeConfig::default()
    })
    .unwrap()
}

fn config(members: Members) -> PoolConfig {
    let mut asked = UpstreamConfig::new("gpu", "", "large", Trust::Tenant);
    asked.connect_retries_max = 0;
    PoolConfig {
        asked,
        kind: EngineKind::Vllm,
        members,
        endpoints_max: 8,
        attempts_max: 3,
        in_flight_max: 64,
        balance: Balance {
            affinity_bytes: 0,
            spill_factor: 1.25,
        },
        health: HealthRules {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(60),
            failures_max: 3,
            // Its time is up as soon as it is out.
            eject: Duration::ZERO,
            eject_max: Duration::ZERO,
        },
    }
}

fn listed(fakes: &[&FakeUpstream]) -> PoolConfig {
    config(Members::Listed(
        fakes.iter().map(|fake| fake.base_url()).collect(),
    ))
}

fn pool(config: PoolConfig) -> Pool {
    Pool::new(config, transport(), Arc::new(SystemResolver)).unwrap()
}

fn call(text: &str) -> Outbound {
    let body = format!(
        r#"{{"model":"large","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
    let request = decode_request(&Bytes::from(body)).unwrap();
    let findings = Findings::default();
    Outbound::seal(
        "r".into(),
        "large".into(),
        request,
        &findings,
        Trust::Tenant,
    )
    .for_team("red".into())
}

async fn ask(pool: &Pool, text: &str) -> Result<String, BackendError> {
    let reply = collect(pool.chat(call(text)).await?).await?;
    Ok(reply.choices[0].text())
}

fn in_flight(pool: &Pool) -> Vec<u32> {
    pool.views().iter().map(|view| view.in_flight).collect()
}

fn states(pool: &Pool) -> Vec<EndpointState> {
    pool.views().iter().map(|view| view.state).collect()
}

fn asked(fakes: &[&FakeUpstream]) -> Vec<u64> {
    fakes.iter().map(|fake| fake.counts().asked).collect()
}

/// Replies that begin and stay open, each with its own seat.
async fn held(pool: &Pool, count: usize) -> Vec<ChatStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(pool.chat(call("[[fake hang-after=1]]")).await.unwrap());
    }
    streams
}

#[tokio::test]
async fn chats_go_where_the_fewest_are_and_leave_their_place_when_dropped() {
    let fakes = [fake(), fake(), fake()];
    let pool = pool(listed(&[&fakes[0], &fakes[1], &fakes[2]]));
    let streams = held(&pool, 6).await;
    assert_eq!(in_flight(&pool), [2, 2, 2]);
    drop(streams);
    assert_eq!(in_flight(&pool), [0, 0, 0]);
}

#[tokio::test]
async fn what_an_engine_reports_counts_as_its_load() {
    let (busy, idle) = (fake(), fake());
    busy.set_report("vllm:num_requests_running 3\nvllm:num_requests_waiting{a=\"b\"} 2\n");
    idle.set_report("vllm:num_requests_running 0\n");
    let pool = pool(listed(&[&busy, &idle]));
    pool.look().await;
    let reported: Vec<_> = pool.views().iter().map(|view| view.load_reported).collect();
    assert_eq!(reported, [Some(5), Some(0)]);
    let streams = held(&pool, 5).await;
    assert_eq!(in_flight(&pool), [0, 5]);
    let more = held(&pool, 2).await;
    assert_eq!(in_flight(&pool), [1, 6], "from there on they are equals");
    drop((streams, more));
}

#[tokio::test]
async fn an_engine_that_reports_nothing_is_balanced_by_our_own_count() {
    let fakes = [fake(), fake()];
    let mut config = listed(&[&fakes[0], &fakes[1]]);
    config.kind = EngineKind::Ollama;
    let pool = pool(config);
    pool.look().await;
    assert_eq!(states(&pool), [EndpointState::In, EndpointState::In]);
    assert_eq!(pool.views()[0].load_reported, None);
    let _streams = held(&pool, 4).await;
    assert_eq!(in_flight(&pool), [2, 2]);
}

#[tokio::test]
async fn a_beginning_keeps_its_endpoint_and_others_spread() {
    let fakes = [fake(), fake(), fake()];
    let refs = [&fakes[0], &fakes[1], &fakes[2]];
    let mut config = listed(&refs);
    config.balance.affinity_bytes = 1024;
    let pool = pool(config);
    for _ in 0..8 {
        ask(&pool, "tell me of Lisbon").await.unwrap();
    }
    let mut counts = asked(&refs);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 8]);
    for index in 0..60 {
        ask(&pool, &format!("question {index}")).await.unwrap();
    }
    assert!(asked(&refs).iter().all(|count| *count > 0));
}

#[tokio::test]
async fn a_beginning_that_everyone_has_spills_over() {
    let fakes = [fake(), fake()];
    let mut config = listed(&[&fakes[0], &fakes[1]]);
    config.balance.affinity_bytes = 1024;
    let pool = pool(config);
    let _streams = held(&pool, 8).await;
    let mut counts = in_flight(&pool);
    counts.sort_unstable();
    // ceil(1.25 x 8 / 2) is the most that one may have.
    assert_eq!(counts, [3, 5]);
}

#[tokio::test]
async fn a_full_pool_is_overloaded() {
    let fakes = [fake(), fake()];
    let mut config = listed(&[&fakes[0], &fakes[1]]);
    config.in_flight_max = 1;
    let pool = pool(config);
    let _streams = held(&pool, 2).await;
    let error = ask(&pool, "hi").await.unwrap_err();
    assert!(
        matches!(error, BackendError::Overloaded { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_killed_endpoint_costs_no_chat_is_left_out_and_returns() {
    let (steady, killed) = (fake(), fake());
    let addr = killed.addr();
    let mut config = listed(&[&steady, &killed]);
    config.health.eject = Duration::from_secs(3600);
    config.health.eject_max = config.health.eject;
    let lasting = pool(config.clone());
    lasting.look().await;
    killed.kill();
    for index in 0..60 {
        ask(&lasting, &format!("question {index}")).await.unwrap();
    }
    assert_eq!(states(&lasting), [EndpointState::In, EndpointState::Out]);
    let view = &lasting.views()[1];
    assert_eq!((view.failures, view.ejections), (3, 1));
    assert_eq!(lasting.health(), Health::READY);

    config.health.eject = Duration::ZERO;
    let pool = pool(config);
    pool.look().await;
    assert_eq!(states(&pool)[1], EndpointState::Out);
    assert_eq!(pool.views()[1].fault, Some("cannot be reached"));
    let killed = fake_at(addr);
    pool.look().await;
    assert_eq!(states(&pool)[1], EndpointState::Trial);
    for index in 0..60 {
        ask(&pool, &format!("question {index}")).await.unwrap();
    }
    assert_eq!(states(&pool)[1], EndpointState::In);
    assert!(killed.counts().asked > 0);
}

#[tokio::test]
async fn without_any_well_endpoint_it_is_down_and_still_tries() {
    let fake = fake();
    let addr = fake.addr();
    let pool = pool(listed(&[&fake]));
    assert_eq!(pool.health().state, HealthState::Starting);
    fake.kill();
    pool.look().await;
    let health = pool.health();
    assert_eq!(health.state, HealthState::Down);
    assert_eq!(health.reason, Some(NONE_WELL));
    let error = ask(&pool, "hi").await.unwrap_err();
    assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
    let _back = fake_at(addr);
    assert_eq!(ask(&pool, "[[fake tokens=1]]").await.unwrap(), "t0 ");
    assert_eq!(pool.health(), Health::READY);
}

#[tokio::test]
async fn a_trial_that_keeps_its_caller_waiting_has_failed() {
    let fake = fake();
    let addr = fake.addr();
    let pool = pool(listed(&[&fake]));
    fake.kill();
    pool.look().await;
    let _back = fake_at(addr);
    pool.look().await;
    assert_eq!(states(&pool), [EndpointState::Trial]);
    tokio::time::pause();
    for (waited, wanted) in [(1, EndpointState::Trial), (61, EndpointState::Out)] {
        let seat = pool.endpoints()[0].seat(1, false).unwrap();
        tokio::time::advance(Duration::from_secs(waited)).await;
        drop(seat);
        assert_eq!(states(&pool), [wanted]);
    }
}

/// It says that it is well and answers nobody: it kept its chats until each was sent elsewhere.
#[tokio::test]
async fn an_endpoint_that_answers_no_chat_in_time_is_left_out_and_one_left_by_callers_is_not() {
    let fake = fake();
    let mut config = listed(&[&fake]);
    config.health.eject = Duration::from_secs(3600);
    config.health.eject_max = config.health.eject;
    let pool = pool(config);
    pool.look().await;
    tokio::time::pause();
    let seat = || pool.endpoints()[0].seat(64, false).unwrap();
    for _ in 0..9 {
        let left = seat();
        tokio::time::advance(Duration::from_secs(61)).await;
        drop(left);
    }
    assert_eq!(states(&pool), [EndpointState::In]);
    let late = BackendError::TimedOut(TimeoutPhase::FirstEvent);
    for wanted in [EndpointState::In, EndpointState::In, EndpointState::Out] {
        seat().failed(&late);
        assert_eq!(states(&pool), [wanted]);
    }
    assert_eq!(
        (pool.views()[0].failures, pool.views()[0].ejections),
        (3, 1)
    );
}

/// It failed so quickly that it always was the idle one, and got more than its share.
#[tokio::test]
async fn an_endpoint_whose_every_answer_is_a_server_error_is_left_out_and_a_full_one_is_not() {
    let status = |status| Mishap::Status {
        status,
        retry_after_s: None,
    };
    for (mishap, wanted) in [
        (status(500), EndpointState::Out),
        (Mishap::Garbage, EndpointState::Out),
        (status(503), EndpointState::In),
        (status(429), EndpointState::In),
    ] {
        let (wrong, right) = (broken(mishap.clone()), fake());
        let mut config = listed(&[&wrong, &right]);
        config.health.eject = Duration::from_secs(3600);
        config.health.eject_max = config.health.eject;
        let pool = pool(config);
        pool.look().await;
        for _ in 0..40 {
            ask(&pool, "hi").await.unwrap();
        }
        assert_eq!(states(&pool), [wanted, EndpointState::In], "{mishap:?}");
        let is_out = wanted == EndpointState::Out;
        assert_eq!(wrong.counts().asked == 3, is_out, "{mishap:?}");
    }
}

#[tokio::test]
async fn what_fails_before_its_first_content_is_asked_elsewhere() {
    let status = |status| Mishap::Status {
        status,
        retry_after_s: None,
    };
    for mishap in [
        Mishap::CutAfter(0),
        Mishap::EndEarly(0),
        Mishap::Garbage,
        status(500),
        status(503),
        status(404),
    ] {
        let (wrong, right) = (broken(mishap.clone()), fake());
        let pool = pool(listed(&[&wrong, &right]));
        for _ in 0..40 {
            assert!(
                ask(&pool, "hi").await.unwrap().starts_with("t0 "),
                "{mishap:?}"
            );
        }
        assert!(wrong.counts().asked > 0, "{mishap:?}");
        assert_eq!(right.counts().asked, 40, "{mishap:?}");
    }
}

#[tokio::test]
async fn tries_are_bounded_and_a_rejection_ends_them() {
    let status = |status| Mishap::Status {
        status,
        retry_after_s: None,
    };
    for (mishap, wanted) in [(status(500), 2), (status(400), 1), (status(401), 1)] {
        let fakes: Vec<FakeUpstream> = (0..4).map(|_| broken(mishap.clone())).collect();
        let refs: Vec<&FakeUpstream> = fakes.iter().collect();
        let mut config = listed(&refs);
        config.attempts_max = 2;
        ask(&pool(config), "hi").await.unwrap_err();
        assert_eq!(asked(&refs).iter().sum::<u64>(), wanted, "{mishap:?}");
    }
}

#[tokio::test]
async fn after_the_first_content_no_other_endpoint_goes_on_with_the_reply() {
    let fakes = [fake(), fake()];
    let refs = [&fakes[0], &fakes[1]];
    let pool = pool(listed(&refs));
    let stream = pool.chat(call("[[fake cut-after=2]]")).await.unwrap();
    let events: Vec<_> = stream.collect().await;
    let (last, before) = events.split_last().unwrap();
    assert!(matches!(last, Err(BackendError::Interrupted)), "{last:?}");
    let is_text = |event: &&Result<ChatEvent, _>| matches!(event, Ok(ChatEvent::Text { .. }));
    assert_eq!(before.iter().filter(is_text).count(), 2);
    assert_eq!(asked(&refs).iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn the_key_goes_to_every_page_and_shows_nowhere() {
    let keyed = FakeUpstream::start(FakeConfig {
        key: Some(KEY.to_owned()),
        ..FakeConfig::default()
    })
    .unwrap();
    keyed.set_report("vllm:num_requests_running 1\n");
    let mut config = listed(&[&keyed]);
    config.asked.auth = Auth::bearer(Secret::new(KEY));
    let known = pool(config.clone());
    known.look().await;
    ask(&known, "hi").await.unwrap();
    assert_eq!(known.views()[0].load_reported, Some(1));

    config.asked.auth = Auth::bearer(Secret::new("sk-wrong"));
    let unknown = pool(config.clone());
    unknown.look().await;
    let view = unknown.views().remove(0);
    assert_eq!(view.fault, Some("refuses the key"));
    let error = ask(&unknown, "hi").await.unwrap_err();
    let shown = format!("{known:?} {unknown:?} {config:?} {view:?} {error:?} {error}");
    assert!(!shown.contains("sk-"), "{shown}");
}

/// Leads to whatever it was told last.
#[derive(Default)]
struct Names(Mutex<Vec<IpAddr>>);

impl Names {
    fn set(&self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        *self.0.lock().unwrap() = addresses;
    }
}

#[async_trait]
impl Resolve for Names {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        assert_eq!(host, "engines.internal");
        let addresses = self.0.lock().unwrap().clone();
        if addresses.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(addresses)
    }
}

#[tokio::test]
async fn each_address_of_a_name_is_an_endpoint_for_as_long_as_it_is_there() {
    let first = fake();
    let port = first.addr().port();
    let second = fake_at(SocketAddr::from(([127, 0, 0, 2], port)));
    let names = Arc::new(Names::default());
    let mut config = config(Members::Dns {
        base_url: format!("http://engines.internal:{port}/v1"),
        refresh: Duration::from_secs(1),
    });
    config.endpoints_max = 2;
    let pool = Pool::new(config, transport(), Arc::clone(&names) as _).unwrap();
    assert_eq!(pool.health().state, HealthState::Starting);
    let error = ask(&pool, "hi").await.unwrap_err();
    assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
    pool.look().await;
    assert_eq!(pool.health().reason, Some(NO_ADDRESS));

    // Out of order, twice, of both families, and more than are used.
    names.set(&["127.0.0.2", "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    pool.look().await;
    let labels =
        |pool: &Pool| -> Vec<String> { pool.views().into_iter().map(|view| view.label).collect() };
    let both = [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")];
    assert_eq!(labels(&pool), both);
    for index in 0..60 {
        ask(&pool, &format!("question {index}")).await.unwrap();
    }
    assert!(first.counts().asked > 0 && second.counts().asked > 0);

    names.set(&[]);
    pool.look().await;
    assert_eq!(
        labels(&pool),
        both,
        "a name server that fails moves no engine"
    );
    let chats = pool.views()[1].chats;
    names.set(&["127.0.0.2"]);
    pool.look().await;
    assert_eq!(labels(&pool), both[1..]);
    assert_eq!(pool.views()[0].chats, chats, "what was learnt of it stays");
}

#[test]
fn a_pool_without_a_usable_endpoint_is_refused() {
    let refused = |members| Pool::new(config(members), transport(), Arc::new(SystemResolver)).err();
    assert_eq!(
        refused(Members::Listed(vec![])),
        Some(PoolConfigError::Empty)
    );
    let urls = ["http://127.0.0.1:1/v1", "ftp://127.0.0.1/v1"];
    let urls = urls.map(str::to_owned).to_vec();
    assert_eq!(
        refused(Members::Listed(urls)),
        Some(PoolConfigError::Endpoint {
            index: 1,
            source: crate::UpstreamConfigError::UrlScheme
        })
    );
}

#[tokio::test(start_paused = true)]
async fn the_driver_goes_round_until_it_is_dropped() {
    let names = Arc::new(Names::default());
    let mut config = config(Members::Dns {
        base_url: "http://engines.internal:9/v1".to_owned(),
        refresh: Duration::from_secs(30),
    });
    config.health.interval = Duration::from_secs(2);
    let pool = Pool::new(config, transport(), Arc::clone(&names) as _).unwrap();
    let mut watch = std::pin::pin!(pool.watch());
    let mut run_for = async |seconds| {
        tokio::select! {
            () = watch.as_mut() => panic!("it ended"),
            () = sleep(Duration::from_secs(seconds)) => {}
        }
    };
    run_for(1).await;
    assert_eq!(pool.health().reason, Some(NO_ADDRESS));
    names.set(&["127.0.0.1"]);
    run_for(20).await;
    assert_eq!(pool.views().len(), 0, "the next look-up is after 30 s");
    names.set(&["127.0.0.1", "127.0.0.2"]);
    run_for(13).await;
    assert_eq!(pool.views().len(), 2);
}

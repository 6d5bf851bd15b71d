use std::collections::BTreeMap;

use domain::Link;
use tokio::task::JoinSet;

use super::*;

/// Hosts that can be reached, and how often each was asked.
#[derive(Default)]
struct World {
    up: Mutex<BTreeMap<String, bool>>,
    asked: Mutex<Vec<String>>,
}

impl World {
    fn with(hosts: &[(&str, bool)]) -> Arc<Self> {
        let world = Self::default();
        let up = hosts
            .iter()
            .map(|(host, is_up)| ((*host).to_owned(), *is_up));
        *world.up.lock().unwrap() = up.collect();
        Arc::new(world)
    }

    fn set(&self, host: &str, is_up: bool) {
        self.up.lock().unwrap().insert(host.to_owned(), is_up);
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl Knock for World {
    async fn knock(&self, host: &str, _port: u16, within: Duration) -> bool {
        self.asked.lock().unwrap().push(host.to_owned());
        let is_up = self.up.lock().unwrap()[host];
        if !is_up {
            tokio::time::sleep(within).await;
        }
        is_up
    }
}

const RULES: LinkRules = LinkRules {
    retry_every: Duration::from_secs(2),
    idle_every: None,
    connect_max: Duration::from_secs(3),
};

fn watched(link: &Arc<LinkState>, world: &Arc<World>, rules: LinkRules) -> JoinSet<()> {
    let (link, world) = (Arc::clone(link), Arc::clone(world));
    let mut running = JoinSet::new();
    running.spawn(async move { link.watch(rules, world.as_ref()).await });
    running
}

/// Lets the driver see what happened.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn one_failed_connect_is_enough_for_a_single_upstream_and_it_is_left_by_itself() {
    let link = LinkState::new();
    let world = World::with(&[("a", false)]);
    let port = link.port("a", 443);
    let _running = watched(&link, &world, RULES);
    settle().await;
    port.missed(Instant::now());
    assert!(link.is_offline(), "at once");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(link.is_offline() && world.asked() > 1);
    world.set("a", true);
    let began = Instant::now();
    link.until_online().await;
    let longest = RULES.retry_every.mul_f64(SPREAD.end) + RULES.connect_max;
    assert!(began.elapsed() <= longest, "{:?}", began.elapsed());
    let asked = world.asked();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        world.asked(),
        asked,
        "online and told not to, it does not ask"
    );
}

#[tokio::test(start_paused = true)]
async fn of_several_the_others_are_asked_before_all_count_as_out_of_reach() {
    for (others, is_offline) in [(true, false), (false, true)] {
        let link = LinkState::new();
        let world = World::with(&[("a", false), ("b", others), ("c", false)]);
        let ports = ["a", "b", "c"].map(|host| link.port(host, 443));
        let _running = watched(&link, &world, RULES);
        settle().await;
        ports[0].missed(Instant::now());
        assert!(!link.is_offline());
        tokio::time::sleep(RULES.connect_max + Duration::from_millis(2)).await;
        assert_eq!(link.is_offline(), is_offline);
        assert_eq!(
            *world.asked.lock().unwrap(),
            ["b", "c"],
            "a was asked by the chat"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_miss_long_ago_says_nothing_of_now() {
    let link = LinkState::new();
    let world = World::with(&[("a", true), ("b", false)]);
    let (a, b) = (link.port("a", 443), link.port("b", 443));
    a.missed(Instant::now());
    tokio::time::sleep(MISS_FRESH).await;
    let _running = watched(&link, &world, RULES);
    settle().await;
    b.missed(Instant::now());
    assert!(!link.is_offline(), "a is asked first");
    settle().await;
    assert!(!link.is_offline());
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_got_through_ends_it_at_once() {
    let link = LinkState::new();
    let port = link.port("a", 443);
    port.missed(Instant::now());
    assert!(link.is_offline());
    port.reached();
    assert!(!link.is_offline());
    link.until_online().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_asks_now_and_then_and_a_busy_one_does_not() {
    let rules = LinkRules {
        idle_every: Some(Duration::from_secs(60)),
        ..RULES
    };
    let link = LinkState::new();
    let world = World::with(&[("a", true)]);
    let port = link.port("a", 443);
    let _running = watched(&link, &world, rules);
    for _ in 0..600 {
        port.reached();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.asked(), 0);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = world.asked();
    assert!((6..=20).contains(&asked), "{asked}");
    world.set("a", false);
    tokio::time::sleep(Duration::from_secs(94)).await;
    assert!(link.is_offline(), "before any chat found out");
}

#[tokio::test(start_paused = true)]
async fn upstreams_that_are_gone_are_not_counted_and_none_is_online() {
    let link = LinkState::new();
    assert!(!link.is_offline());
    let (a, b) = (link.port("a", 443), link.port("b", 443));
    drop(b);
    a.missed(Instant::now());
    assert!(link.is_offline());
}

#[tokio::test]
async fn a_port_of_this_machine_answers_a_knock_and_a_closed_one_does_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let within = Duration::from_secs(5);
    assert!(TcpKnock.knock("127.0.0.1", port, within).await);
    drop(listener);
    assert!(!TcpKnock.knock("127.0.0.1", port, within).await);
}

//! Leases of one replica, one after the other.

use domain::{Measure, Period, Scope};

use super::super::super::calendar::Window;
use super::super::super::local::Counter;
use super::super::script::{Broken, Caller, Keys, Kind, Reply, Scripts, Seen, Stated, Want};
use super::server::Server;

const ALWAYS: Window = Window {
    begin: 0,
    end: None,
};

/// What a replica holds stays held while it comes back, however often it tries, and is held once after that.
#[tokio::test]
async fn what_is_held_is_nobody_elses_while_its_replica_links_anew() {
    let Some(server) = Server::start() else {
        return;
    };
    let client = redis::Client::open(server.url()).unwrap();
    let scripts = Scripts::default();
    let caller = async |replica: &str, lease: &str, last: &[&str]| {
        let connection = client.get_multiplexed_async_connection().await;
        let mut caller = Caller {
            connection: connection.unwrap(),
            keys: Keys::new("test"),
            replica: replica.into(),
            lease: lease.into(),
            last_leases: last.iter().map(|it| (*it).to_owned()).collect(),
            lease_micros: 60_000_000,
        };
        caller.hello(&scripts).await.unwrap();
        caller
    };
    let places = |counter: &str, units| {
        vec![Want {
            counter: Counter {
                scope: Scope::Team(counter.into()),
                measure: Measure::Concurrency,
                period: Period::Ever,
            },
            units,
            kind: Kind::Account {
                amount: 10,
                window: ALWAYS,
            },
        }]
    };
    let word = async |caller: &mut Caller, wants: &[Want]| {
        let reply = caller.take(&scripts, wants).await;
        reply.map(|reply| reply.word).map_err(|it| it.to_string())
    };
    let mut other = caller("b", "b#1", &[]).await;
    let mut first = caller("a", "a#1", &[]).await;
    for counter in ["stated", "let go"] {
        let taken = word(&mut first, &places(counter, 10)).await;
        assert_eq!(taken.unwrap(), "taken");
    }
    // The second is heard of no more.
    for (lease, last) in [("a#2", &["a#1"][..]), ("a#3", &["a#1", "a#2"])] {
        let mut next = caller("a", lease, last).await;
        let lost = Broken::Lost.to_string();
        assert_eq!(
            word(&mut first, &places("stated", 0)).await,
            Err(lost.clone())
        );
        assert_eq!(first.renew(&scripts).await.unwrap_err().to_string(), lost);
        let spent = word(&mut other, &places("stated", 1)).await;
        assert_eq!(spent.unwrap(), "spent", "{lease}");
        if lease == "a#2" {
            continue;
        }
        let stated = Stated {
            counter: places("stated", 0).remove(0).counter,
            window: ALWAYS,
            held: 9,
            settled: 0,
        };
        let reply = next.restate(&scripts, &[stated]).await.unwrap();
        let held = |reply: &Reply| match reply.seen([true].into_iter()).unwrap()[..] {
            [Seen::Account { held, .. }] => held,
            ref seen => panic!("{seen:?}"),
        };
        assert_eq!(held(&reply), 9);
        let spent = word(&mut other, &places("let go", 1)).await;
        assert_eq!(spent.unwrap(), "spent");
        next.renew(&scripts).await.unwrap();
        for counter in ["let go", "stated"] {
            let taken = word(&mut other, &places(counter, 1)).await;
            assert_eq!(taken.unwrap(), "taken", "{counter}");
        }
        let spent = word(&mut other, &places("stated", 1)).await;
        assert_eq!(spent.unwrap(), "spent");
    }
}

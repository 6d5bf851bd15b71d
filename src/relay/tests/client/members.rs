//! Several relays behind one name.

use std::time::Duration;

use domain::HealthState;
use tokio::net::TcpListener;

use super::gateway::{Fault, Gateway};
use super::*;
use crate::OuterRefusal;
use crate::client::{ClientFault, MEMBERS_MAX};
use crate::manifest::{IdentityKey, Pins};

async fn two() -> (Gateway, Gateway) {
    (
        Gateway::start("relay-1").await,
        Gateway::start("relay-2").await,
    )
}

fn calls(gateway: &Gateway) -> usize {
    gateway.state().calls.len()
}

#[tokio::test]
async fn members_that_are_alike_take_turns() {
    let (one, two) = two().await;
    let edge = edge(&[&one, &two], ClientRules::default());
    for number in 0..6 {
        whole(&edge, &format!("r-{number}")).await.unwrap();
    }
    // Until both have shown a key, whichever has one is asked first.
    assert_eq!(calls(&one) + calls(&two), 6);
    let with_keys = |edge: &Edge| {
        let members = edge.client.members();
        members.iter().filter(|it| it.serial.is_some()).count()
    };
    tokio::select! {
        () = edge.client.tend() => unreachable!(),
        () = async {
            while with_keys(&edge) < 2 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let before = (calls(&one), calls(&two));
    for number in 6..12 {
        whole(&edge, &format!("r-{number}")).await.unwrap();
    }
    assert_eq!((calls(&one) - before.0, calls(&two) - before.1), (3, 3));
}

#[tokio::test]
async fn the_least_loaded_member_is_asked() {
    let (one, two) = two().await;
    let edge = edge(&[&one, &two], ClientRules::default());
    // Both have keys then, whichever was asked first.
    let _ = tokio::join!(whole(&edge, "a"), whole(&edge, "b"));
    let held = edge.client.carry(parcel("held", false)).await.unwrap();
    let (idle, busy) = if edge.client.members()[0].in_flight == 1 {
        (&two, &one)
    } else {
        (&one, &two)
    };
    let before = (calls(idle), calls(busy));
    for number in 0..3 {
        whole(&edge, &format!("r-{number}")).await.unwrap();
    }
    assert_eq!((calls(idle) - before.0, calls(busy) - before.1), (3, 0));
    drop(held);
}

#[tokio::test]
async fn where_no_connection_can_be_made_the_next_member_is_asked() {
    let gateway = Gateway::start("relay-2").await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let memory = Arc::new(Memory::default());
    let mut nobody = member(&gateway, &memory);
    nobody.url = format!("http://{address}");
    nobody.pins.relay_id = "relay-9".to_owned();
    let members = vec![nobody, member(&gateway, &memory)];
    let edge = edge_with(members, memory, ClientRules::default());
    for number in 0..4 {
        whole(&edge, &format!("r-{number}")).await.unwrap();
    }
    assert_eq!(calls(&gateway), 4);
    assert_eq!(edge.client.figures().failovers, 1, "then it is left alone");
    let views = edge.client.members();
    assert_eq!(views[0].health.state, HealthState::Down);
    assert_eq!(edge.client.health().state, HealthState::Ready);
    assert_eq!(
        edge.log.entries().len(),
        4,
        "what was not sent was no exchange"
    );
}

#[tokio::test]
async fn when_no_member_is_there_the_client_is_down_and_says_so_at_once() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    drop(gateway);
    let error = whole(&edge, "r-1").await.unwrap_err();
    assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
    let health = edge.client.health();
    assert_eq!(health.state, HealthState::Down);
    assert!(health.wait.is_some());
    let error = whole(&edge, "r-2").await.unwrap_err();
    assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_member_that_says_within_that_it_did_nothing_is_passed_over_and_drained() {
    let (one, two) = two().await;
    let edge = edge(&[&one, &two], ClientRules::default());
    one.will(Fault::Undone(503));
    two.will(Fault::Undone(503));
    // The first that is asked passes, and so does the other: then the words are the answer.
    let (status, _) = whole(&edge, "r-1").await.unwrap();
    assert_eq!(status, 503);
    assert_eq!(edge.client.figures().failovers, 1);
    assert_eq!(calls(&one) + calls(&two), 0);
    assert_eq!(edge.client.health().state, HealthState::Down);
    let error = whole(&edge, "r-2").await.unwrap_err();
    assert!(matches!(error, BackendError::Unreachable(_)), "{error:?}");
    // Their manifests answer, so they are back.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    tokio::select! {
        () = edge.client.tend() => unreachable!(),
        () = async {
            while edge.client.health().state != HealthState::Ready {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    whole(&edge, "r-3").await.unwrap();
}

#[tokio::test]
async fn one_that_does_nothing_leaves_the_request_to_another() {
    let (one, two) = two().await;
    let edge = edge(&[&one, &two], ClientRules::default());
    one.will(Fault::Undone(503));
    for number in 0..4 {
        let (status, _) = whole(&edge, &format!("r-{number}")).await.unwrap();
        assert_eq!(status, 200);
    }
    assert_eq!((calls(&one), calls(&two)), (0, 4));
    assert_eq!(edge.client.figures().failovers, 1);
}

#[tokio::test]
async fn one_that_turns_requests_away_gets_no_new_ones() {
    let (one, two) = two().await;
    let edge = edge(&[&one, &two], ClientRules::default());
    one.will(Fault::Before(OuterRefusal::Busy));
    let error = whole(&edge, "r-1").await.unwrap_err();
    assert!(
        matches!(error, BackendError::Overloaded { .. }),
        "{error:?}"
    );
    for number in 2..6 {
        whole(&edge, &format!("r-{number}")).await.unwrap();
    }
    assert_eq!((calls(&one), calls(&two)), (0, 4));
    // The same request goes to the same relay: it may have been done there.
    whole(&edge, "r-1").await.unwrap();
    assert_eq!((calls(&one), calls(&two)), (1, 4));
}

#[test]
fn what_is_no_relay_is_said_when_the_client_is_made() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let gateway = runtime.block_on(Gateway::start("relay-1"));
    let memory = Arc::new(Memory::default());
    let made = |members: Vec<Member>| {
        let audit = Arc::new(Log::default()) as Arc<dyn AuditLog>;
        Client::new(members, ClientRules::default(), audit).unwrap_err()
    };
    let with = |change: &dyn Fn(&mut Member)| {
        let mut member = member(&gateway, &memory);
        change(&mut member);
        made(vec![member])
    };
    let relay = "relay-1".to_owned();
    assert_eq!(made(vec![]), ClientFault::NoMember);
    let many = (0..=MEMBERS_MAX)
        .map(|_| member(&gateway, &memory))
        .collect();
    assert_eq!(made(many), ClientFault::TooMany);
    for url in [
        "",
        "relay.example",
        "ftp://a",
        "https://u@a",
        "https://a/?q",
        "https://a/#f",
    ] {
        let fault = with(&|member| member.url = url.to_owned());
        assert_eq!(
            fault,
            ClientFault::Url {
                relay: relay.clone()
            },
            "{url}"
        );
    }
    let name = "a b".to_owned();
    let fault = with(&|member| member.edge_id = "a b".to_owned());
    assert_eq!(fault, ClientFault::Name { name });
    let fault = with(&|member| {
        member.secret = Arc::new(EdgeSecret::HmacSha256(vec![1; 31].into()));
    });
    assert_eq!(
        fault,
        ClientFault::Secret {
            edge: EDGE.to_owned()
        }
    );
}

/// Remembers nothing but whom to believe.
#[derive(Debug)]
struct Told(Pins);

impl ManifestMemory for Told {
    fn seen(&self, _: &str) -> Option<SeenManifest> {
        None
    }

    fn keep(&self, _: &str, _: SeenManifest) -> std::io::Result<()> {
        Ok(())
    }

    fn pins(&self) -> Option<Pins> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn whom_to_believe_may_be_told_while_the_client_runs() {
    let gateway = Gateway::start("relay-1").await;
    let strange = Pins {
        current: IdentityKey::from_bytes(&[9; 32]).pin(),
        ..gateway.pins()
    };
    let memory = Arc::new(Memory::default());
    for (told, is_believed) in [(gateway.pins(), true), (strange.clone(), false)] {
        let mut asked = member(&gateway, &memory);
        asked.pins = strange.clone();
        asked.memory = Arc::new(Told(told));
        let edge = edge_with(vec![asked], Arc::clone(&memory), ClientRules::default());
        assert_eq!(whole(&edge, "r-1").await.is_ok(), is_believed);
    }
}

//! Reads frames of either side to their end. What was read must be a message that can be sent.

use futures::executor::block_on;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;

use super::frame::{ASK_BYTES_MAX, FrameFault, FrameReader, TELL_BYTES_MAX};
use super::words::{Order, Word};

/// The messages as they are sent, and how the connection ended.
type Read = (Vec<Vec<u8>>, Option<String>);

/// As the engine's process reads.
pub(crate) fn orders(bytes: &mut (impl AsyncRead + Unpin)) -> Read {
    block_on(read::<Order>(bytes, ASK_BYTES_MAX))
}

/// As the server reads.
pub(crate) fn words(bytes: &mut (impl AsyncRead + Unpin)) -> Read {
    block_on(read::<Word>(bytes, TELL_BYTES_MAX))
}

async fn read<T: Serialize + DeserializeOwned>(
    bytes: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Read {
    let mut reader = FrameReader::new(bytes_max);
    let mut messages = Vec::new();
    loop {
        match reader.next::<T>(bytes).await {
            Ok(Some(message)) => messages.push(sent_again(&message)),
            Ok(None) => return (messages, None),
            Err(fault) => return (messages, Some(end(&fault))),
        }
    }
}

/// Its bytes, which must be those of the message they are read as.
fn sent_again<T: Serialize + DeserializeOwned>(message: &T) -> Vec<u8> {
    let bytes = postcard::to_allocvec(message).expect("a message that was read can be sent");
    let again: T = postcard::from_bytes(&bytes).expect("a message that was sent can be read");
    let twice = postcard::to_allocvec(&again).expect("a message that was read can be sent");
    assert_eq!(bytes, twice, "a message changes on its way");
    bytes
}

fn end(fault: &FrameFault) -> String {
    fault.to_string()
}

#[cfg(test)]
pub(crate) fn seeds(config: crate::config::EngineConfig) -> Vec<Vec<u8>> {
    use super::frame::put;
    use super::words::{Ask, Card, Failure, Job, Part, Query};

    let ask = Ask {
        id: 1,
        request_id: "r".to_owned(),
        model: "m".to_owned(),
        team: Some("t".to_owned()),
        priority: domain::Priority::default(),
        request: "{\"messages\":[]}".to_owned(),
    };
    let orders = [
        Order::Load {
            job: Job::Chat(config),
            window: 32,
        },
        Order::Ask(ask),
        Order::Query {
            id: 2,
            query: Query::Detokenize(vec![1, 70_000]),
        },
        Order::Credit { id: 1, count: 8 },
        Order::Leave { id: 1 },
        Order::Stop,
    ];
    let text = domain::ChatEvent::Text {
        choice: 0,
        text: "a".to_owned(),
    };
    let part = Part::Vector(vec![0.5, -1.0]);
    let words = [
        Word::Ready {
            card: Card::Chat(Vec::new()),
            placement: crate::offload::Placement::default(),
        },
        Word::Refused {
            words: "why".to_owned(),
        },
        Word::Taken { id: 1 },
        Word::Event { id: 1, event: text },
        Word::Part { id: 2, part },
        Word::Ended {
            id: 1,
            failure: Some(Failure::Interrupted),
        },
        Word::Alive,
    ];
    let (mut asked, mut told) = (vec![0, 7], vec![1, 3]);
    for order in &orders {
        put(&mut asked, order, ASK_BYTES_MAX).expect("an order is short");
    }
    for word in &words {
        put(&mut told, word, TELL_BYTES_MAX).expect("a word is short");
    }
    vec![asked, told]
}

//! Answers that are cut, wherever it is.

use super::exchanges::{CONSTANT, EVENTS, rules};
use super::gateway::{Fault, Gateway};
use super::*;
use crate::shape::Shape;

/// The gateway closes the connection as it does after a whole answer.
#[tokio::test]
async fn an_answer_that_is_cut_anywhere_ends_with_an_error() {
    let gateway = Gateway::start("relay-1").await;
    gateway.streams(&EVENTS);
    for shape in [Shape::Off, Shape::default()] {
        let edge = edge(&[&gateway], rules(shape, shape != Shape::Off));
        // The first one's head grants a session; those that are cut are as the second.
        for id in ["first", "second"] {
            streamed(&edge, id).await.unwrap();
        }
        let ends = gateway.state().ends.clone();
        let total = *ends.last().unwrap();
        let near = ends
            .iter()
            .flat_map(|end| [end.wrapping_sub(1), *end, end + 1]);
        let cuts: Vec<usize> = near
            .chain((0..total).step_by(37))
            .filter(|it| *it < total)
            .collect();
        assert!(cuts.len() > 20);
        let mut cut_short = 0;
        for cut in cuts {
            gateway.will(Fault::Cut(cut));
            let id = format!("{shape}-{cut}");
            let error = match edge.client.carry(parcel(&id, true)).await {
                Err(error) => error,
                Ok(delivered) => {
                    cut_short += 1;
                    let (body, error) = read(delivered).await;
                    assert!(EVENTS.concat().as_bytes().starts_with(&body));
                    error.unwrap_or_else(|| panic!("cut at {cut} of {total}: a clean end"))
                }
            };
            assert!(
                matches!(error, BackendError::Interrupted),
                "{cut}: {error:?}"
            );
        }
        assert!(cut_short > 5, "some are cut within the body");
        let results = edge.log.results();
        assert_eq!(results[..2], [SealedResult::Answered; 2]);
        assert!(results[2..].iter().all(|it| *it == SealedResult::Broken));
        assert_eq!(edge.client.figures().broken, results.len() as u64 - 2);
    }
}

#[tokio::test]
async fn of_a_constant_answer_only_what_is_beyond_its_content_may_be_missing() {
    let gateway = Gateway::start("relay-1").await;
    gateway.streams(&EVENTS);
    let edge = edge(&[&gateway], rules(CONSTANT, false));
    for id in ["first", "second"] {
        streamed(&edge, id).await.unwrap();
    }
    let ends = gateway.state().ends.clone();
    let mut is_whole = Vec::new();
    for (number, end) in ends[..ends.len() - 1].iter().enumerate() {
        gateway.will(Fault::Cut(*end));
        let answer = streamed(&edge, &format!("r-{number}")).await;
        match &answer {
            Ok(body) => assert_eq!(*body, EVENTS.concat()),
            Err(error) => assert!(matches!(error, BackendError::Interrupted), "{error:?}"),
        }
        is_whole.push(answer.is_ok());
    }
    let first = is_whole
        .iter()
        .position(|it| *it)
        .expect("the tail is long");
    assert!(
        first > 3 && is_whole[first..].iter().all(|it| *it),
        "{is_whole:?}"
    );
}

#[tokio::test]
async fn an_answer_that_was_changed_is_as_one_that_was_cut() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    gateway.will(Fault::Close);
    let error = whole(&edge, "r-1").await.unwrap_err();
    assert!(matches!(error, BackendError::Interrupted), "{error:?}");
    assert_eq!(edge.log.results(), [SealedResult::Broken]);
    assert_eq!(gateway.state().opened.len(), 0, "and it is not sent again");
}

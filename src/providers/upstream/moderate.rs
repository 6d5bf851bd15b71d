//! Moderation by an upstream, where its dialect has it.

use domain::{BackendError, Moderation, Outbound};

use super::Upstream;
use super::asking::aside;

/// The largest answer read: 2,048 results of two kilobytes each are 4 MB.
const ANSWER_BYTES_MAX: usize = 8 << 20;

impl Upstream {
    /// One result for each message of `call`.
    pub(super) async fn judged(&self, call: &Outbound) -> Result<Moderation, BackendError> {
        let Some(halves) = self.speech.dialect.moderations() else {
            let words = "what this upstream speaks has no moderation here";
            return Err(BackendError::declined("model", words));
        };
        let target = self.speech.targets.page(call.model(), &halves.target())?;
        let count = call.request().messages.len();
        let asked = call.clone();
        let body = aside(move || Ok(halves.encode(asked.model(), &asked.request().messages)));
        let body = body.await?;
        let body = self.json(call, &target, body, ANSWER_BYTES_MAX).await?;
        aside(move || halves.decode(body, count)).await
    }
}

#[cfg(test)]
mod tests {
    use domain::{Image, Message, Part, Role};

    use super::super::tests::*;
    use super::super::*;
    use crate::transport::tests::{both_ways, transport};

    const ANSWER: &str = r#"{"id":"modr-1","model":"theirs-1","results":[{"flagged":false,"categories":{"a":false},"category_scores":{"a":0.1}},{"flagged":true,"categories":{"a":true},"category_scores":{"a":0.9}}]}"#;

    async fn moderate(upstream: &Upstream) -> Result<Moderation, BackendError> {
        let texts = ["a", "b"].map(|text| Message::new(Role::User, text));
        let texts = ChatRequest::new("theirs", texts.to_vec());
        upstream.moderate(outbound(texts)).await
    }

    #[tokio::test]
    async fn texts_are_judged_beside_the_chats() {
        for transport in both_ways() {
            let server = Server::bind().await;
            let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
            let answer = json("200 OK", ANSWER);
            let ((head, body), made) =
                tokio::join!(server.answer(&answer, Ending::Close), moderate(&upstream));
            assert_eq!(made.unwrap().body, ANSWER);
            assert!(
                head.starts_with("POST /v1/moderations HTTP/1.1\r\n"),
                "{head}"
            );
            assert!(
                head.contains("authorization: Bearer sk-very-secret"),
                "{head}"
            );
            assert_eq!(body, r#"{"model":"theirs","input":["a","b"]}"#);
        }
    }

    #[tokio::test]
    async fn judging_fails_as_chats_do() {
        let error = r#"{"error":{"message":"bad","param":"input"}}"#;
        for (answer, words) in [
            (json("400 Bad", error), "Rejected"),
            (json("429 Slow", error), "RateLimited"),
            (json("200 OK", "{}"), "no moderation results"),
            (
                json("200 OK", r#"{"id":"m","model":"m","results":[]}"#),
                "another number",
            ),
            (events("data: {}\n\n"), "a stream, unasked"),
            (json("200 OK", ANSWER)[..120].to_vec(), "Interrupted"),
        ] {
            let server = Server::bind().await;
            let upstream = upstream(&server);
            let (_, made) =
                tokio::join!(server.answer(&answer, Ending::Close), moderate(&upstream));
            let seen = format!("{:?}", made.unwrap_err());
            assert!(seen.contains(words), "{words}: {seen}");
        }
        let server = Server::bind().await;
        let upstream = by_telegraph(&server, transport());
        let made = moderate(&upstream).await;
        assert!(
            matches!(made, Err(BackendError::Declined { .. })),
            "{made:?}"
        );
    }

    #[tokio::test]
    async fn an_image_goes_as_it_came() {
        let server = Server::bind().await;
        let upstream = upstream(&server);
        let mut message = Message::new(Role::User, "a");
        message.content.push(Part::Image(Image {
            url: "https://a.example/b.png".into(),
            detail: None,
        }));
        let call = outbound(ChatRequest::new("theirs", vec![message]));
        let answer = json("200 OK", r#"{"id":"m","model":"m","results":[]}"#);
        let ((_, body), _) = tokio::join!(
            server.answer(&answer, Ending::Close),
            upstream.moderate(call)
        );
        assert!(
            body.contains(r#"{"type":"image_url","image_url":{"url":"https://a.example/b.png"}}"#),
            "{body}"
        );
    }
}

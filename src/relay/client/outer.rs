//! What came back in the clear, and what sealed answers say of themselves to the edge alone.

use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use super::opening::Head;
use crate::problem::PROBLEM_MEDIA_TYPE;
use crate::sealed::Form;
use crate::time::UnixTime;

/// Read of an answer in the clear. Ours are shorter, and others say nothing that is listened to.
pub(super) const PROBLEM_BYTES_MAX: usize = 4 << 10;

/// In which an answer says, sealed, whether anything was done for the request.
pub(super) const PROCESSED_FIELD: &str = "relay-processed";

/// An answer's head in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outer {
    /// What follows is sealed.
    Sealed,
    /// It may be that the key is not known; the body says.
    MaybeKey,
    /// It takes no requests now.
    TurnedAway {
        wait: Duration,
    },
    Failed {
        status: u16,
    },
    /// It says that it is sealed, in a form that we did not ask for.
    Strange,
}

pub(super) fn outer(status: StatusCode, headers: &HeaderMap) -> Outer {
    match status.as_u16() {
        200 => {
            let kind = headers.get(CONTENT_TYPE);
            let is_ours = kind.is_some_and(|kind| kind == Form::Chunked.response_media_type());
            if is_ours && !headers.contains_key(CONTENT_ENCODING) {
                Outer::Sealed
            } else {
                Outer::Strange
            }
        }
        400 if headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind == PROBLEM_MEDIA_TYPE) =>
        {
            Outer::MaybeKey
        }
        429 | 503 => Outer::TurnedAway {
            wait: wait(headers),
        },
        status => Outer::Failed { status },
    }
}

/// In whole seconds, as ours say it. Anything else names no wait.
fn wait(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok());
    let seconds = seconds.and_then(|it| it.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// What of an opened answer is for the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed {
    /// For who asked.
    Answer,
    /// The request's date is too far from the relay's time. It may be, until the body has said so.
    OffTime { relay: UnixTime },
    /// Nothing was done, and another relay may.
    Passed { wait: Duration },
}

pub(super) fn sealed(head: &Head) -> Sealed {
    let is_undone = is_undone(head);
    match head.status {
        400 if is_undone => {
            let date = head
                .header
                .only("date")
                .and_then(|it| str::from_utf8(it).ok());
            let date = date.and_then(UnixTime::from_http_date);
            match date {
                Some(relay) if is_problem(head) => Sealed::OffTime { relay },
                Some(_) | None => Sealed::Answer,
            }
        }
        502..=504 if is_undone => {
            let seconds = head.header.only(RETRY_AFTER.as_str());
            let seconds = seconds.and_then(|it| str::from_utf8(it).ok()?.trim().parse().ok());
            Sealed::Passed {
                wait: Duration::from_secs(seconds.unwrap_or(0)),
            }
        }
        _ => Sealed::Answer,
    }
}

/// Whether the relay says that nothing was done for the request.
pub(super) fn is_undone(head: &Head) -> bool {
    head.header.only(PROCESSED_FIELD) == Some(b"no")
}

/// Whether the answer is a problem document, as only a relay's own are.
pub(super) fn is_problem(head: &Head) -> bool {
    head.header.only("content-type") == Some(PROBLEM_MEDIA_TYPE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bhttp::Fields;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_what_is_sealed_is_an_answer() {
        let ours = ("content-type", "message/ohttp-chunked-res");
        let problem = ("content-type", "application/problem+json");
        let second = Duration::from_secs(1);
        for (status, lines, seen) in [
            (200, vec![ours], Outer::Sealed),
            (
                200,
                vec![ours, ("content-encoding", "gzip")],
                Outer::Strange,
            ),
            (
                200,
                vec![("content-type", "application/json")],
                Outer::Strange,
            ),
            (200, vec![], Outer::Strange),
            (400, vec![problem], Outer::MaybeKey),
            (400, vec![], Outer::Failed { status: 400 }),
            (
                503,
                vec![("retry-after", "1")],
                Outer::TurnedAway { wait: second },
            ),
            (
                429,
                vec![("retry-after", "soon")],
                Outer::TurnedAway {
                    wait: Duration::ZERO,
                },
            ),
            (302, vec![], Outer::Failed { status: 302 }),
            (500, vec![ours], Outer::Failed { status: 500 }),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outer(status, &headers(&lines)), seen, "{status} {lines:?}");
        }
    }

    #[test]
    fn what_the_relay_says_of_the_request_is_read_where_it_says_that_nothing_was_done() {
        let date = ("date", "Fri, 15 Jan 2027 08:00:00 GMT");
        let problem = ("content-type", "application/problem+json");
        let no = (PROCESSED_FIELD, "no");
        let yes = (PROCESSED_FIELD, "yes");
        let relay = UnixTime(1_800_000_000);
        let wait = Duration::from_secs(7);
        for (status, lines, seen) in [
            (400, vec![date, problem, no], Sealed::OffTime { relay }),
            (400, vec![date, problem, yes], Sealed::Answer),
            (400, vec![date, problem], Sealed::Answer),
            (400, vec![problem, no], Sealed::Answer),
            (503, vec![no, ("retry-after", "7")], Sealed::Passed { wait }),
            (503, vec![("retry-after", "7")], Sealed::Answer),
            (502, vec![yes], Sealed::Answer),
            (429, vec![no], Sealed::Answer),
            (403, vec![no], Sealed::Answer),
            (200, vec![no], Sealed::Answer),
        ] {
            let mut header = Fields::default();
            for (name, value) in &lines {
                header.push(name, *value).unwrap();
            }
            let head = Head { status, header };
            assert_eq!(sealed(&head), seen, "{status} {lines:?}");
        }
    }
}
